"""A plan that is carried out again: read from its file, and laid on a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxprune.algebra.analysis import Model
from onnxprune.data import inputs
from onnxprune.errors import FileError, RefusedError, UsageError
from onnxprune.model import files
from onnxprune.plan import Plan


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file.

    Raises:
        FileError: it cannot be read.
        RefusedError: it is not a plan.
    """
    files.check_readable(Path(path))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"Cannot read plan {str(path)!r}: {files.reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise RefusedError(f"{str(path)!r} is not a plan: it is no text.") from error
    return Plan.loads(text, str(path))


@contextmanager
def blaming_plan() -> Iterator[None]:
    """What is wrong with a name or a number that a plan gave is wrong with the plan."""
    try:
        yield
    except UsageError as error:
        raise RefusedError(f"The plan does not fit the model: {error}") from error


def planned_shapes(plan: Plan, model: Model) -> Mapping[str, Sequence[int]]:
    """The shapes of open inputs that a plan was made with.

    Raises:
        UsageError: they do not fit the model.
    """
    shapes: dict[str, list[int]] = plan.recipe.get("input_shapes", {})
    inputs.check_given(model.graph, shapes)
    return shapes
