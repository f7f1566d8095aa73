"""A pruning's result as JSON: read from a file, and checked, so that whatever draws it can rely on its structure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxprune.errors import FileError, RefusedError
from onnxprune.model import files
from onnxprune.report.results import FORMAT, VERSION

Document = Mapping[str, Any]
LARGEST = 256 << 20  # bytes


class _Maybe:
    """What may be ``null``, or missing."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema


class _Each:
    """An object with any names, whose values are alike."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema


NUMBER = object()
"""A number; infinite ones are written as text."""
ANY = object()
WORDS = {str: "text", bool: "true or false", int: "a whole number"}

COST = {"params": int, "bytes": int, "macs": int}
COMPARISON = {
    "output": str,
    "max_abs": NUMBER,
    "mean_abs": NUMBER,
    "relative": NUMBER,
    "tolerance": NUMBER,
    "cosine": NUMBER,
    "agreement": _Maybe(NUMBER),
    "noise": _Maybe(NUMBER),
    "equal": bool,
    "problem": str,
}
GROUP = {"id": int, "kind": str, "units": int, "kept": int, "axes": [str], "stays": _Maybe(str)}
STEP = {"layer": str, "ridge": _Maybe(NUMBER), "before": NUMBER, "after": NUMBER, "note": str}
RECOVERY = {
    "recover": _Maybe(str),
    "data": _Maybe(str),
    "samples": _Maybe(int),
    "criterion": _Maybe(str),
    "allocation": _Maybe(str),
    "held_out": _Maybe({"error": NUMBER, "agreement": NUMBER}),
    "layers": _Maybe([STEP]),
}
FIDELITY = {
    "outputs": [COMPARISON],
    "rows": int,
    "real": bool,
    "metric": str,
    "scores": _Maybe([NUMBER]),
    "latency_ms": [NUMBER],
    "latency_quartiles_ms": _Maybe([[NUMBER]]),
    "seen": bool,
}
DETAILS = {
    "layers": [{"layer": str, "group": _Maybe(int), "before": int, "after": int}],
    "staying": [{"why": str, "weights": int, "params": int}],
    "tried": [{"name": str, "criterion": str, **COST, "error": NUMBER, "agreement": NUMBER}],
    "losses": [{"removed": [int], "error": [NUMBER]}],
}
RESULT = {
    "source": {"name": str, "sha256": str, "bytes": int},
    "recipe": _Each(ANY),
    "request": _Maybe(_Each(ANY)),
    "cost": {"before": COST, "after": COST},
    "groups": [GROUP],
    "recovery": RECOVERY,
    "out": str,
    "verified": bool,
    "removed_vs_zeroed": {"max_relative_error": NUMBER, "providers": _Each([COMPARISON])},
    "bytes": _Each(int),
    "note": str,
    "fidelity": _Maybe(FIDELITY),
    "details": DETAILS,
    "environment": _Each(str),
}


def check(document: Any, name: str = "the document") -> Document:
    """The result of a pruning, if it is one.

    Raises:
        RefusedError: something is missing, or of another type; the first such thing is named.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise RefusedError(f"{name!r} is not a result of `onnxprune prune` (format {FORMAT!r}, version {VERSION}).")
    problem = _problem(document, RESULT, "") or _pairs(document)
    if problem:
        raise RefusedError(f"{name!r} is not a result of `onnxprune prune`: {problem}.")
    return document


def read(path: Path) -> Document:
    """Read and check the JSON that ``prune --report`` or ``--json`` wrote.

    Raises:
        FileError: it cannot be read.
        RefusedError: it is something else.
    """
    files.check_readable(path)
    try:
        if path.stat().st_size > LARGEST:
            raise RefusedError(f"{str(path)!r} is not a result of `onnxprune prune`: it exceeds {LARGEST >> 20} MiB.")
        return check(json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise FileError(f"Cannot read {str(path)!r}: {files.reason(error)}.") from error
    except RecursionError as error:
        raise RefusedError(f"{str(path)!r} is no JSON that can be read: it is nested too deeply.") from error
    except ValueError as error:
        raise RefusedError(f"{str(path)!r} is no JSON: {error}.") from error


def _problem(value: Any, schema: Any, where: str) -> str:
    """The first thing that does not fit; empty if all does."""
    if isinstance(schema, _Maybe):
        return "" if value is None else _problem(value, schema.schema, where)
    if isinstance(schema, dict | _Each):
        return _in_object(value, schema, where)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"{where!r} must be a list"
        return next((p for i, each in enumerate(value) if (p := _problem(each, schema[0], f"{where}[{i}]"))), "")
    if schema is ANY:
        return ""
    if schema is NUMBER:
        return "" if _is_number(value) else f"{where!r} must be a number"
    return "" if type(value) is schema else f"{where!r} must be {WORDS[schema]}"


def _in_object(value: Any, schema: Any, where: str) -> str:
    if not isinstance(value, dict):
        return f"{where!r} must be an object"
    inside = dict.fromkeys(value, schema.schema) if isinstance(schema, _Each) else schema
    for key, kind in inside.items():
        place = f"{where}.{key}".lstrip(".")
        if key not in value and not isinstance(kind, _Maybe):
            return f"it has no {place!r}"
        problem = _problem(value.get(key), kind, place)
        if problem:
            return problem
    return ""


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value == "inf"


def _pairs(document: Document) -> str:
    """What must have as many entries as something else."""
    fidelity = document.get("fidelity") or {}
    for key in ("scores", "latency_ms"):
        if fidelity.get(key) and len(fidelity[key]) != 2:
            return f"'fidelity.{key}' must be of two, dense and pruned"
    spread = fidelity.get("latency_quartiles_ms")
    if spread and [len(each) for each in spread] != [2, 2]:
        return "'fidelity.latency_quartiles_ms' must be two pairs"
    for number, curve in enumerate(document["details"]["losses"]):
        if len(curve["removed"]) != len(curve["error"]):
            return f"'details.losses[{number}]' must have an error for each count"
    sizes = document["bytes"]
    return "" if not sizes or {"before", "after"} <= set(sizes) else "'bytes' must have 'before' and 'after'"
