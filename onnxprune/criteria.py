"""Criteria: how much an index of a weight matters. The engine adds the scores of all slices of a unit.

A criterion is a function of a weight and an axis that gives one score per index of that axis. It knows neither
operators nor groups. Scores are float64 whatever the weight's type, so that half precision does not overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis import Analysis
from onnxprune.errors import unknown
from onnxprune.record import Array
from onnxprune.registry import add, load

Scores = NDArray[np.float64]
Criterion = Callable[[Array, int, np.random.Generator], Scores]
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Enter a function into the table of criteria."""

    def enter(function: Criterion) -> Criterion:
        add(CRITERIA, name, function, "criterion")
        return function

    return enter


def _others(weight: Array, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(weight.ndim) if a != axis)


@criterion("l1")
def l1(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Sum of magnitudes, Σ|w| (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""
    scores: Scores = np.abs(weight).sum(axis=_others(weight, axis), dtype=np.float64)
    return scores


@criterion("l2")
def l2(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
    """Euclidean norm, √Σw² (He et al., Soft Filter Pruning, 2018)."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    squares: Scores = np.einsum("ij,ij->i", rows, rows)
    return np.sqrt(squares)


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
