"""How far two tensors are apart, whatever their layout: as the signal's power over the difference's, in decibels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.comparing.views import as_floats, orders
from onnxprune.model.record import Array

EXACT = 300.0  # decibels, for no difference at all
LEAST = 8  # values that a tensor must have to tell anything
SAMPLE = 512  # values by which an order of axes is chosen

CEILING = {"float64": 220.0, "float32": 110.0, "float16": 55.0, "bfloat16": 38.0, "int8": 35.0}
"""Decibels that rounding leaves of a number type, after many layers: what is above counts as agreement."""
MANY = 4096  # values by which it is judged what is usual
HUGE = 100.0  # times what is usual
NEARLY = 1e-3
MARGIN = 15.0  # decibels below the ceiling at which two tensors still agree
ABRUPT = {"int8": 8.0}  # decibels that one node may not lose at once, where it is not the margin


class Likeness(NamedTuple):
    """How far two tensors agree.

    Attributes:
        level: in decibels.
        moved: whether only the multiset of the values agrees so far: channels lie in another order, say.
    """

    level: float
    moved: bool = False


def level(reference: Array, other: Array) -> float:
    """The reference's variance over the mean squared difference, in decibels (`EXACT` at most).

    A constant reference is measured by its square. What masks put out of all range is left out where both have it, or
    it would drown the rest.
    """
    reference, other = _unmasked(reference, other)
    signal, noise = float(np.var(reference)), float(np.mean((reference - other) ** 2))
    signal = signal or float(np.mean(reference**2))
    if not noise:
        return EXACT
    return min(EXACT, 10 * math.log10(signal / noise)) if signal else -EXACT


def _unmasked(reference: Array, other: Array) -> tuple[Array, Array]:
    """Both without the values that are huge beside the others, and nearly the same."""
    sizes = np.abs(reference)
    sample = sizes.ravel()[:: max(1, sizes.size // MANY)]
    usual = float(np.quantile(sample[sample > 0], 0.25)) if sample.any() else 0.0
    if not usual or float(reference.std()) <= HUGE * usual:
        return reference, other
    huge = (sizes > HUGE * usual) & (np.abs(reference - other) <= NEARLY * sizes)
    return (reference, other) if huge.all() else (reference[~huge], other[~huge])


def likeness(first: Array, second: Array, ceiling: float, *, in_place: bool = False) -> Likeness | None:
    """How far two tensors agree, axes in whatever order; ``None`` if they do not hold as many values.

    Args:
        first: a tensor.
        second: the other model's.
        ceiling: decibels that rounding leaves; values may only move where they are the same up to that.
        in_place: only axes may lie in another order, nothing else.
    """
    if first.size != second.size:
        return None
    x, y = as_floats(first), as_floats(second).ravel()
    plain = level(_laid_out(x, y), y)
    if plain >= ceiling - MARGIN or in_place:
        return Likeness(plain)
    anyhow = level(np.sort(x, axis=None), np.sort(y))
    return Likeness(anyhow, moved=True) if anyhow >= ceiling - MARGIN else Likeness(plain)


def _laid_out(x: Array, y: Array) -> Array:
    """The values of ``x`` in the order of its axes that comes nearest to ``y``."""
    x = x.reshape([size for size in x.shape if size != 1])
    places = np.unique(np.linspace(0, y.size - 1, SAMPLE).astype(np.int64)) if y.size else np.zeros(0, np.int64)
    best, least = x, math.inf
    for order in orders(x.ndim):
        turned = x.transpose(order)
        values = turned[np.unravel_index(places, turned.shape)] if turned.ndim else turned
        apart = float(np.sum((values - y[places]) ** 2))
        if apart < least:
            best, least = turned, apart
        if not least:
            break
    return best.ravel()


def tells(array: Array) -> bool:
    """Whether a tensor holds enough different numbers to be told from others."""
    if array.dtype.kind not in "fV" or array.size < LEAST:
        return False
    values = array.astype(np.float64)
    return bool(np.nanstd(values[np.isfinite(values)]) > 0) if np.isfinite(values).any() else False


def moments(array: Array) -> NDArray[np.float64]:
    """What does not depend on the order of a tensor's values, and hardly on rounding; scaled, but for the first two."""
    values = as_floats(array).ravel()
    mean, spread = values.mean(), values.std() or 1.0
    z = ((values - mean) / spread).astype(np.float32)
    size, bent = np.abs(z), np.tanh(z)
    rest = [size.mean(), (z * size).mean() / 2, bent.mean(), (bent * size).mean(), np.minimum(size, 1).mean()]
    return np.array([mean, spread, *rest])


def apart(first: NDArray[np.float64], second: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """How far the moments of a tensor are from those of others: 0 for the same, about 1 for any other."""
    others = np.asarray(second)
    scale = np.maximum(first[1], others[:, 1])
    place = np.abs(others[:, 0] - first[0]) / scale
    width = np.abs(np.log(others[:, 1] / first[1]))
    return np.asarray(place + width + np.abs(others[:, 2:] - first[2:]).sum(axis=1))
