"""The command line as tests use it: in this process, and in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from onnxprune.cli import main


def run(*words: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="onnxprune")


def done(*words: object) -> str:
    """Run a command that must succeed; what it prints."""
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def done_json(*words: object) -> Any:
    """Run a command that must succeed and print JSON."""
    return json.loads(done(*words, "--json"))


def refused(code: int, *words: object) -> str:
    """Run a command that must fail with this exit code, one clear line, and nothing else; the line."""
    result = run(*words)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert lines
    assert lines[-1].startswith("Error: "), result.stderr
    assert len(lines) == 1 or lines[0].startswith("Usage: "), result.stderr
    assert "Traceback" not in result.stderr
    assert "Internal error" not in result.stderr
    assert all(character.isprintable() for line in lines for character in line)
    return lines[-1]


def process(*words: object, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, what follows it in the shell included."""
    command = [sys.executable, "-c", "from onnxprune.cli import main; main(prog_name='onnxprune')", *map(str, words)]
    if shell:
        command = ["bash", "-o", "pipefail", "-c", f'"$@" {shell}', "bash", *command]
    given = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=given, check=False)
