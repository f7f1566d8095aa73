"""Errors: one tree, one exit code each, and names that are nearly right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import onnxprune
from onnxprune import errors
from onnxprune.data.runtime import ExecutionError
from onnxprune.errors import FileError, ProviderError, PruneError, RefusedError, UsageError, unknown

SOURCES = sorted((Path(__file__).parents[1] / "onnxprune").rglob("*.py"))


@pytest.mark.parametrize(
    ("kind", "code"),
    [(PruneError, 1), (ExecutionError, 1), (UsageError, 2), (RefusedError, 3), (ProviderError, 4), (FileError, 5)],
)
def test_every_error_has_its_exit_code(kind: type[PruneError], code: int) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, PruneError)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    for kind in (PruneError, UsageError, RefusedError, ProviderError, FileError):
        assert errors.__doc__
        assert f"{kind.__name__:<13} " in errors.__doc__.replace("Error ", "Error  ")
        assert getattr(onnxprune, kind.__name__) is kind


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    error = unknown("criterion", "l22", {"l1", "l2", "random"})
    assert isinstance(error, UsageError)
    assert str(error) == "No criterion is called 'l22'. Did you mean 'l2'? Known: l1, l2, random."


def test_a_name_like_no_other_is_answered_with_all_of_them() -> None:
    assert str(unknown("pass", "zzz", ["b", "a"])) == "No pass is called 'zzz'. Known: a, b."
    assert str(unknown("pass", "zzz", [])) == "No pass is called 'zzz'. Known: none."


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_asserts_or_warns_or_raises_a_bare_exception(path: Path) -> None:
    """What the user should know is raised as one of ours; an `assert` vanishes under `-O`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            assert node.exc.func.id not in {"Exception", "RuntimeError"}
        if isinstance(node, ast.Attribute):
            assert node.attr != "warn"
