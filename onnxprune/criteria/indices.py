"""Scores of the indices of one axis of a constant tensor, in float64, a block at a time so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.criteria.base import Scores
from onnxprune.model.record import Array
from onnxprune.recovery.moments import Matrix

BLOCK = 1 << 16  # elements that are scored at a time
FEWEST = 16  # indices that are scored at a time, so that whole cache lines are read where the axis is the last one


def each(weight: Array, axis: int, function: Callable[[Matrix], Scores]) -> Scores:
    """A function of rows (n, m), where every index of the axis is a row of all its elements."""
    moved = np.moveaxis(weight, axis, 0)
    others = max(1, weight.size // max(1, len(moved)))
    step = max(FEWEST, BLOCK // others)
    blocks = (moved[start : start + step] for start in range(0, len(moved), step))
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite shows in the scores
        return np.concatenate([function(b.reshape(len(b), -1).astype(np.float64)) for b in blocks] or [np.zeros(0)])


def magnitudes(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Σ|w|."""
    return each(weight, axis, lambda rows: np.abs(rows).sum(axis=1))


def squares(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Σw²."""
    return each(weight, axis, lambda rows: np.square(rows).sum(axis=1))


def norms(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """√Σw²."""
    return np.sqrt(squares(weight, axis, rng))


def peaks(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """max|w|."""
    return each(weight, axis, lambda rows: np.abs(rows).max(axis=1, initial=0.0))


def deviations(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """The standard deviation of w."""
    return each(weight, axis, lambda rows: rows.std(axis=1) if rows.shape[1] else np.zeros(len(rows)))


def counts(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """How many elements there are."""
    return np.full(weight.shape[axis], weight.size / max(1, weight.shape[axis]))


def relative_squares(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Σw², divided by its mean over the axis, so that every tensor counts alike."""
    found = squares(weight, axis, rng)
    mean = found.mean()
    return found / mean if np.isfinite(mean) and mean > 0 else found


def distances(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Σ_q ‖W_p - W_q‖₂, from products; one vector has no directions to differ in and scores nothing."""
    size = weight.shape[axis]
    if weight.ndim < 2:
        return np.zeros(size)
    rows = np.moveaxis(weight, axis, 0).reshape(size, -1).astype(np.float64)
    if not np.isfinite(rows).all():
        return np.full(size, np.nan)
    rows = rows - rows.mean(axis=0)  # distances stay, and less cancels
    lengths = np.square(rows).sum(axis=1)
    step = max(1, 16 * BLOCK // size)
    total = np.zeros(size)
    for start in range(0, size, step):
        part = slice(start, start + step)
        apart = lengths[part, None] + lengths - 2 * rows[part] @ rows.T
        total[part] = np.sqrt(np.maximum(apart, 0)).sum(axis=1)
    return total
