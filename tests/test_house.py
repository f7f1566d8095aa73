"""The house rules: doors, layers, names, sizes, links, and what the wheel holds."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from onnxprune_passes import PASSES

import onnxprune
from onnxprune.criteria import CRITERIA
from onnxprune.rules import RULES

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "onnxprune").rglob("*.py"))
SOURCES = [*CORE, *sorted((ROOT / "passes").rglob("*.py"))]
TEMPLATES = sorted((ROOT / "onnxprune" / "report" / "templates").iterdir())
DOORS = {"onnx_graphsurgeon": "rewire.py", "onnxruntime": "runtime.py"}


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_core_imports_no_pass() -> None:
    assert not [path for path in CORE if "onnxprune_passes" in imports(path)]


@pytest.mark.parametrize("package", DOORS)
def test_foreign_runtimes_have_one_door(package: str) -> None:
    assert [path.name for path in SOURCES if package in imports(path)] == [DOORS[package]]


def test_only_the_command_line_prints() -> None:
    printing = {
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert not printing


def test_public_names_are_sorted_and_exist() -> None:
    assert onnxprune.__all__ == sorted(onnxprune.__all__)
    assert all(hasattr(onnxprune, name) for name in onnxprune.__all__)


def test_everything_registered_says_what_it_is() -> None:
    for rule in RULES.values():
        assert rule.facts.__doc__
    for criterion in CRITERIA.values():
        assert criterion.score.__doc__
        assert criterion.formula
        assert re.search(r"\w+.*, (1[789]|20)\d\d$", criterion.source), "the source of a criterion, with its year"
    for kind in PASSES.values():
        assert kind.__doc__


def test_no_source_file_is_long() -> None:
    assert not {p.name: n for p in SOURCES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 420}


def test_links_of_the_readme_resolve() -> None:
    for page in (ROOT / "README.md", ROOT / "models" / "README.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), link


def test_models_are_what_their_manifest_says() -> None:
    manifest = json.loads((ROOT / "models" / "manifest.json").read_text(encoding="utf-8"))
    listed = {name: entry for table in manifest.values() if isinstance(table, dict) for name, entry in table.items()}
    files = [p for p in (ROOT / "models").rglob("*") if p.suffix in (".onnx", ".npz", ".npy")]
    assert files
    for path in files:
        entry = listed[str(path.relative_to(ROOT / "models"))]
        assert entry["sha256"] == sha256(path.read_bytes()).hexdigest()
        assert entry["licence"]
        assert entry["origin"]


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed; the wheel is built in CI by pip")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    templates = {f"onnxprune/report/templates/{path.name}" for path in TEMPLATES}
    assert templates
    assert templates <= set(names)
    assert tops == {"onnxprune", "onnxprune_passes", f"onnxprune-{_version()}.dist-info"}


def _version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]
