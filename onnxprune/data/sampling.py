"""Which rows of the user's data calibrate, and which evaluate; never the same ones, unless that is asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import BATCH, Feed, Shapes
from onnxprune.errors import UsageError
from onnxprune.model.record import Array

ROWS = 16  # of a calibration batch, at most
ACTIVATIONS = 128 << 20  # bytes that all tensors of one calibration batch may take


class Split(NamedTuple):
    """The user's data in two parts.

    Attributes:
        calibration: small batches; empty without data.
        evaluation: batches.
        rows: for each row of the evaluation data its place in the data that labels belong to.
        seen: whether the evaluation data are the calibration data, for want of others.
        chosen: for each row of the calibration data its place in the data that labels belong to.
    """

    calibration: list[Feed]
    evaluation: list[Feed]
    rows: Array
    seen: bool
    chosen: Array


def split(graph: Graph, feeds: Sequence[Feed], shapes: Shapes, samples: int, seed: int, *, labelled: bool) -> Split:
    """Draw calibration samples at random; what is left evaluates.

    Args:
        graph: the model.
        feeds: the user's data.
        shapes: of one row.
        samples: how many rows calibrate; of labelled data half of the rows at most.
        seed: of the draw.
        labelled: whether the rows have labels, so that they are wanted for evaluation.
    """
    units = rows_of(graph, feeds)
    most = max(1, len(units) // 2) if labelled else len(units)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(units))[: min(samples, most)])
    rest = np.setdiff1d(np.arange(len(units)), chosen)
    calibration = batched(graph, [units[i] for i in chosen], batch_rows(graph, shapes))
    counts = [count(unit) for unit in units]
    places = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])  # of the rows of each unit
    own = np.concatenate([places[i] for i in chosen] or places)
    if not len(rest):
        return Split(calibration, list(feeds), np.concatenate(places), True, own)
    rows = np.concatenate([places[i] for i in rest])
    return Split(calibration, batched(graph, [units[i] for i in rest], BATCH), rows, False, own)


def count(unit: Feed) -> int:
    """The rows of a feed."""
    first = next(iter(unit.values()), None)
    return 0 if first is None or first.ndim == 0 else len(first)


def classes(labels: object, chosen: Array, feeds: Sequence[Feed]) -> list[Array]:
    """The labels of each feed's rows, if they are whole numbers, one per row; none otherwise."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return []
    return np.split(labels[chosen], np.cumsum([count(feed) for feed in feeds])[:-1])


def is_open(graph: Graph) -> bool:
    """Whether any number of rows can be run at once: the first axis of every input is the batch, of open size."""
    firsts = {graph.shapes.get(value.name, (0,))[:1] for value in graph.inputs}
    return len(firsts) == 1 and all(first and isinstance(first[0], str) for first in firsts)


def rows_of(graph: Graph, feeds: Sequence[Feed]) -> list[Feed]:
    """The smallest feeds that the data can be taken apart into: rows, or the feeds as they are."""
    if not is_open(graph):
        return list(feeds)
    return [
        {name: array[row : row + 1] for name, array in feed.items()}
        for feed in feeds
        for row in range(next(iter(feed.values())).shape[0])
    ]


def batched(graph: Graph, units: Sequence[Feed], size: int) -> list[Feed]:
    """Rows of one shape put together again, in batches of this size at most."""
    if not is_open(graph):
        return list(units)
    runs: list[list[Feed]] = []
    for unit in units:
        if not runs or len(runs[-1]) == size or _shape(runs[-1][0]) != _shape(unit):
            runs.append([])
        runs[-1].append(unit)
    return [{name: np.concatenate([unit[name] for unit in run]) for name in run[0]} for run in runs]


def _shape(feed: Feed) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in feed.values()]


def batch_rows(graph: Graph, shapes: Shapes) -> int:
    """How many rows a calibration batch may have, so that everything a model computes for it fits into memory."""
    bound = Graph(graph.record, shapes) if shapes else graph
    one = sum(
        4 * math.prod(size for size in shape if isinstance(size, int))
        for name, shape in bound.shapes.items()
        if not graph.is_constant(name)
    )
    return int(np.clip(ACTIVATIONS // max(one, 1), 1, ROWS))


def refuse_overlap(calibration: Sequence[Feed], evaluation: Sequence[Feed]) -> None:
    """Refuse to evaluate on what calibrates.

    Raises:
        UsageError: a row is in both.
    """
    both = _digests(calibration) & _digests(evaluation)
    if both:
        raise UsageError(
            f"{len(both)} rows of the evaluation data are in the calibration data, too, which flatters the result."
            " Take them out, or pass --allow-overlap."
        )


def _digests(feeds: Sequence[Feed]) -> set[bytes]:
    found = set()
    for feed in feeds:
        arrays = list(feed.values())
        rows = arrays[0].shape[0] if arrays and arrays[0].ndim else 1
        alike = all(array.ndim and array.shape[0] == rows for array in arrays)
        places: Iterable[Any] = range(rows) if alike else (...,)
        for row in places:
            digest = hashlib.sha256()
            for array in arrays:
                digest.update(
                    np.ascontiguousarray(array[row]).tobytes() if array.dtype != object else repr(array[row]).encode()
                )
            found.add(digest.digest())
    return found
