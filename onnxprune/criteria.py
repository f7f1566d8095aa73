"""Criteria: how much an index of a weight matters. The engine adds the scores of all slices of a unit.

A criterion is a function of a weight and an axis that gives one score per index of that axis. It knows neither
operators nor groups. Scores are float64 whatever the weight's type, so that half precision does not overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis import Analysis
from onnxprune.errors import unknown
from onnxprune.record import Array
from onnxprune.registry import add, load

BLOCK = 1 << 16  # elements that are scored at a time
Scores = NDArray[np.float64]
Criterion = Callable[[Array, int, np.random.Generator], Scores]
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Enter a function into the table of criteria."""

    def enter(function: Criterion) -> Criterion:
        add(CRITERIA, name, function, "criterion")
        return function

    return enter


def summed(weight: Array, axis: int, function: np.ufunc) -> Scores:
    """Σ function(w) over all other axes, in float64, a block at a time so that memory stays small."""
    size, outer = weight.shape[axis], math.prod(weight.shape[:axis])
    if outer == 1:
        rows = weight.reshape(size, -1)
        return np.concatenate([function(b, dtype=np.float64).sum(axis=1) for b in _blocks(rows)])
    rows = weight.reshape(outer, -1)
    total = np.zeros(rows.shape[1])
    for block in _blocks(rows):
        total += function(block, dtype=np.float64).sum(axis=0)
    scores: Scores = total.reshape(size, -1).sum(axis=1)
    return scores


def _blocks(rows: Array) -> Iterator[Array]:
    step = max(1, BLOCK // max(1, rows.shape[1]))
    return (rows[start : start + step] for start in range(0, len(rows), step))


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
    by_index = np.zeros(analysis.closure.space)
    unscored: dict[int, str] = {}
    for tensor, slices in groupby(analysis.slices(), key=lambda found: found[0][0]):
        if tensor in analysis.codes.parameters:
            continue  # they say how codes are read, and count in the values of the codes
        weight = _real(analysis, tensor)
        for axis, units in slices:
            values = table[name](weight, axis[1], rng)
            by_index[analysis.span(axis)] += values
            bad = (units >= 0) & ~np.isfinite(values)
            for group in np.unique(analysis.group_of[units[bad]]) if bad.any() else ():
                unscored[int(group)] = f"{tensor!r} holds NaN or infinite values"
    owned = analysis.unit_of >= 0
    scores = np.zeros(analysis.units)
    np.add.at(scores, analysis.unit_of[owned], by_index[owned])
    return Ranking(scores, unscored)


def _real(analysis: Analysis, tensor: str) -> Array:
    """A weight's values as a type that numpy computes with."""
    array = np.asarray(analysis.graph.constant(tensor))
    if tensor in analysis.codes.readings:
        return analysis.codes.decode(tensor, array)
    return array if array.dtype.kind in "fiu" else array.astype(np.float32)
