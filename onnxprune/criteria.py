"""Criteria: how much an index of a weight matters. The engine adds the scores of all slices of a unit.

A criterion is a function of a weight and an axis that gives one score per index of that axis. It knows neither
operators nor groups. Scores are float64 whatever the weight's type, so that half precision does not overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis import Analysis
from onnxprune.errors import unknown
from onnxprune.record import Array
from onnxprune.registry import add, load

BLOCK = 1 << 18  # elements that are scored at a time
Scores = NDArray[np.float64]
Criterion = Callable[[Array, int, np.random.Generator], Scores]
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Enter a function into the table of criteria."""

    def enter(function: Criterion) -> Criterion:
        add(CRITERIA, name, function, "criterion")
        return function

    return enter


def summed(weight: Array, axis: int, function: Callable[[Array], Array]) -> Scores:
    """Σ function(w) over all other axes, in float64, a block at a time so that memory stays small."""
    size = weight.shape[axis]
    outer = math.prod(weight.shape[:axis])
    view = weight.reshape(outer, size, -1)
    total = np.zeros(size)
    rows = max(1, BLOCK // max(1, view.shape[2]))  # of `size` if there is one outer block, else of `outer`
    if outer == 1:
        for start in range(0, size, rows):
            block = view[0, start : start + rows].astype(np.float64)
            total[start : start + rows] = function(block).sum(axis=1)
        return total
    rows = max(1, rows // size)
    for start in range(0, outer, rows):
        block = view[start : start + rows].astype(np.float64)
        total += function(block).sum(axis=(0, 2))
    return total


@criterion("l1")
def l1(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Sum of magnitudes, Σ|w| (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""
    return summed(weight, axis, np.abs)


@criterion("l2")
def l2(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Euclidean norm, √Σw² (He et al., Soft Filter Pruning, 2018)."""
    return np.sqrt(summed(weight, axis, np.square))


@criterion("random")
def random(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Uniform noise, the baseline that any criterion must beat (Mittal et al., 2018)."""
    return rng.random(size=(weight.shape[axis],))


@dataclass(frozen=True)
class Ranking:
    """The score of every unit, and the groups that have none, with the reason."""

    scores: Scores
    unscored: dict[int, str]


def rank(analysis: Analysis, name: str = "l2", seed: int = 0) -> Ranking:
    """Score every unit: the sum of a criterion over all slices that the unit owns.

    Raises:
        UsageError: no criterion has this name.
    """
    table: dict[str, Criterion] = load("criteria")
    if name not in table:
        raise unknown("criterion", name, table)
    rng = np.random.default_rng(seed)
    scores = np.zeros(analysis.units)
    unscored: dict[int, str] = {}
    for (tensor, axis), units in analysis.slices():
        hit = units >= 0
        weight = _real(analysis.graph.constant(tensor))
        values = table[name](weight, axis, rng)
        scores += np.bincount(units[hit], weights=values[hit], minlength=analysis.units)
        for group in np.unique(analysis.group_of[units[hit][~np.isfinite(values[hit])]]):
            unscored[int(group)] = f"{tensor!r} holds NaN or infinite values"
    return Ranking(scores, unscored)


def _real(weight: Any) -> Array:
    """A weight as a type that numpy computes with."""
    array: Array = weight
    return array if array.dtype.kind in "fiu" else array.astype(np.float32)
