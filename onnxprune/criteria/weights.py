"""Criteria of weights alone.

A unit lies on several tensors: the rows of the layers that make it, the columns of those that read it, and the
vectors in between. A criterion scores each of these slices, and adds up.
"""

from __future__ import annotations

import re

import numpy as np

from onnxprune.criteria import indices
from onnxprune.criteria.base import Score, Scores, Subject, criterion
from onnxprune.errors import UsageError
from onnxprune.model.record import Array


@criterion(
    "magnitude",
    "Σ|w| over all slices of a unit, as l1",
    "nothing",
    "Han et al., Learning both Weights and Connections, 2015",
)
@criterion("l1", "Σ|w| over all slices of a unit", "nothing", "Li et al., Pruning Filters for Efficient ConvNets, 2017")
def l1(subject: Subject) -> Scores:
    """Sum of magnitudes."""
    return subject.summed(indices.magnitudes)


@criterion("l2", "Σ over the slices of a unit of √Σw²", "nothing", "He et al., Soft Filter Pruning, 2018")
def l2(subject: Subject) -> Scores:
    """Euclidean norm."""
    return subject.summed(indices.norms)


@criterion("linf", "Σ over the slices of a unit of max|w|", "nothing", "Paganini & Forde, Pruning in PyTorch, 2020")
def linf(subject: Subject) -> Scores:
    """Largest magnitude."""
    return subject.summed(indices.peaks)


@criterion(
    "std",
    "Σ over the slices of a unit of std(w)",
    "nothing",
    "Sun et al., Pruning Filters with L1-norm and Standard Deviation, 2019",
)
def std(subject: Subject) -> Scores:
    """Standard deviation: a slice whose weights are all alike tells nothing apart."""
    return subject.summed(indices.deviations)


@criterion("random", "uniform in [0, 1), seeded", "nothing", "Mittal et al., Recovering from Random Pruning, 2018")
def random(subject: Subject) -> Scores:
    """The baseline that any criterion must beat."""
    return subject.rng.random(subject.size)


@criterion(
    "group-norm",
    "Σ over the slices of a unit of Σw², each divided by its mean over the axis",
    "nothing",
    "Fang et al., DepGraph, 2023",
)
def group_norm(subject: Subject) -> Scores:
    """Squared norm over all coupled tensors, each counting alike."""
    return subject.summed(indices.relative_squares)


@criterion(
    "fpgm",
    "Σ_q ‖W_p - W_q‖₂, added over the matrices of a unit",
    "nothing",
    "He et al., Filter Pruning via Geometric Median, 2019",
)
def fpgm(subject: Subject) -> Scores:
    """How far a unit is from all others: what is near the geometric median can be replaced by others."""
    return subject.summed(indices.distances)


@criterion(
    "lamp",
    "w² / Σ of all w² of the group that are not smaller, with w² = Σw² of a unit",
    "nothing",
    "Lee et al., Layer-adaptive Sparsity for Magnitude-based Pruning, 2021",
)
def lamp(subject: Subject) -> Scores:
    """Squared norm relative to what is left when all lesser units are gone; compares across groups."""
    energy = subject.summed(indices.squares)
    ascending = np.sort(energy)
    left = np.cumsum(ascending[::-1])[::-1]
    rest = left[np.searchsorted(ascending, energy)] if np.isfinite(energy).all() else np.full(subject.size, np.nan)
    return np.divide(energy, rest, out=np.zeros(subject.size), where=rest != 0)


@criterion(
    "bn-scale",
    "Σ|gamma| over the scales of a unit's normalisations; l1 where there is none",
    "nothing",
    "Liu et al., Network Slimming, 2017",
)
def bn_scale(subject: Subject) -> Scores:
    """The scale of batch normalisation."""
    scales = [piece for piece in subject.slices if piece.scale]
    if not scales:
        subject.note("no normalisation scales these units (was it folded away?): scored by l1")
        return l1(subject)
    return subject.summed(indices.magnitudes, scales)


@criterion(
    "slimnet",
    "mean |gamma| over the scales of a unit's normalisations; l1 where there is none",
    "nothing",
    "Liu et al., Network Slimming, 2017",
)
def slimnet(subject: Subject) -> Scores:
    """The scale of batch normalisation, averaged so that groups with several of them compare with the others."""
    count = sum(piece.scale for piece in subject.slices)
    return bn_scale(subject) / max(1, count)


def threshold_at(text: str) -> Score:
    """The criterion ``threshold(text)``, with ``0.01`` a bound of |w|, ``2std`` k·std(w), ``30%`` a percentile of |w|.

    Raises:
        UsageError: the text is none of these.
    """
    found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*(std|%)?", text)
    if not found or (found[2] == "%" and float(found[1]) > 100):
        raise UsageError(f"A threshold is a number, a multiple like 2std or a percentile like 30%, not {text!r}.")
    value, unit = float(found[1]), found[2]

    def reached(weight: Array, axis: int, rng: np.random.Generator) -> Scores:
        if not np.isfinite(weight).all():
            return np.full(weight.shape[axis], np.nan)
        bound = value if unit is None else value * _deviation(weight) if unit == "std" else _percentile(weight, value)
        return indices.each(weight, axis, lambda rows: (np.abs(rows) >= bound).sum(axis=1).astype(np.float64))

    def score(subject: Subject) -> Scores:
        return subject.summed(reached) / np.maximum(subject.summed(indices.counts), 1)

    return score


def _deviation(weight: Array) -> float:
    return float(indices.deviations(weight.reshape(1, -1), 0, np.random.default_rng(0))[0])


def _percentile(weight: Array, percent: float) -> float:
    return float(np.percentile(np.abs(weight.astype(np.float64)), percent))


DEFAULT_THRESHOLD = threshold_at("1std")


@criterion(
    "threshold",
    "fraction of a unit's |w| ≥ t; threshold(0.01), threshold(2std), threshold(30%); default 1std",
    "nothing",
    "Han et al., Learning both Weights and Connections, 2015",
    tune=threshold_at,
)
def threshold(subject: Subject) -> Scores:
    """How many of a unit's weights are large."""
    return DEFAULT_THRESHOLD(subject)
