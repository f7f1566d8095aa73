"""What every command does around its verb: check the files, show progress, show the result."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from onnxprune.data.inputs import parse_shape
from onnxprune.model import files


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command group."""
        raise BrokenPipeError


def shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """What ``--input-shape`` gave, by input."""
    parsed = [parse_shape(each) for each in given]
    names = [name for name, _ in parsed]
    if len(set(names)) < len(names):
        raise click.UsageError("--input-shape is given twice for one input.")
    return dict(parsed)


def check_files(reads: Iterable[str | None], writes: Iterable[str | None]) -> None:
    """Every file that a command writes is another one, and can be written; found out before any work."""
    taken = [Path(path) for path in reads if path]
    for target in (Path(path) for path in writes if path and path != "-"):
        if any(files.same_file(target, other) for other in taken):
            raise click.UsageError(f"{str(target)!r} is named twice. Write to a file of its own.")
        files.check_place(target)
        taken.append(target)


def text(document: Any) -> str:
    """A document as JSON."""
    return json.dumps(document, indent=1, default=float) + "\n"


def write(path: str, content: str) -> None:
    """Write a file at once, or not at all."""
    files.write_bytes(Path(path), content.encode("utf-8", "replace"))


def show(document: Any, json_to: str | None, draw: Callable[[Console], None]) -> None:
    """Draw a result in the terminal, and write it as JSON where ``--json`` says."""
    if json_to == "-":
        click.echo(text(document), nl=False)
        return
    if json_to:
        write(json_to, text(document))
    if sys.stdout is None:  # it was closed before we began
        return
    console = _Console(width=None if sys.stdout.isatty() else 80, safe_box=True, highlight=False)
    draw(console)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A spinner with the current stage, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("") as status:
        yield lambda stage: status.update(f"{stage} …")
