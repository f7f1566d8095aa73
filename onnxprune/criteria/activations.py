"""Criteria of what the readers of a unit see of it: its activations x_p, and the columns U_p that they meet.

Where a criterion measures an output's error, each layer's is divided by the variance of its output, so that layers of
any scale add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg.lapack import dpstrf

from onnxprune.criteria.base import Part, Scores, Subject, criterion
from onnxprune.criteria.readers import DIGITS, along, joint_energies, of_readers, per_unit
from onnxprune.recovery.moments import Matrix


def _share(parts: Sequence[Part], size: int, sums: Sequence[Matrix]) -> Scores:
    """Sums over rows, per entry of the columns of a unit."""
    total, entries = np.zeros(size), np.zeros(size)
    for part, values in zip(parts, sums, strict=True):
        total += per_unit(values, part, size)
        entries += part.layer.moments.rows * per_unit(np.ones(len(values)), part, size)
    return total / np.maximum(entries, 1)


@criterion("apoz", "fraction of x_p > 0 (1 - APoZ)", "data", "Hu et al., Network Trimming, 2016")
@of_readers
def apoz(subject: Subject, parts: Sequence[Part]) -> Scores:
    """How often a unit is on."""
    return _share(parts, subject.size, [part.layer.moments.positive for part in parts])


@criterion("act-mean", "E|x_p|", "data", "Molchanov et al., Resource Efficient Inference, 2017")
@of_readers
def act_mean(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Mean magnitude of a unit's activation."""
    return _share(parts, subject.size, [part.layer.moments.magnitude for part in parts])


@criterion(
    "wanda",
    "Σ over columns of mean_o|U_op|·√E[x_p²], each layer relative to its output's std",
    "data",
    "Sun et al., Wanda, 2023",
)
@of_readers
def wanda(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Weight times norm of the activation."""
    scores = np.zeros(subject.size)
    for part in parts:
        layer = part.layer
        column = np.abs(layer.weight).mean(axis=0) * np.sqrt(layer.gram.diagonal())
        scores += per_unit(column, part, subject.size) / np.sqrt(layer.spread)
    return np.round(scores, DIGITS)


@criterion(
    "wifv",
    "Σ over columns of Var(x_p)·‖U_p‖², each layer relative to its output's variance",
    "data",
    "An et al., FLAP, 2024",
)
@of_readers
def wifv(subject: Subject, parts: Sequence[Part]) -> Scores:
    """What a unit's fluctuation gives the output: its mean can go into the bias."""
    scores = np.zeros(subject.size)
    for part in parts:
        layer = part.layer
        column = np.square(layer.weight).sum(axis=0) * layer.covariance.diagonal()
        scores += per_unit(column, part, subject.size) / layer.spread
    return np.round(scores, DIGITS)


@criterion(
    "mse",
    "E‖U_p x_p‖²: the error of the readers' outputs without the unit, relative to their variance",
    "data",
    "Molchanov et al., Resource Efficient Inference (the oracle), 2017",
)
@of_readers
def mse(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Error that removing a unit alone causes, with nothing to make up for it."""
    return np.round(joint_energies(parts, subject.size, centred=False).diagonal(), DIGITS)


@criterion(
    "thinet",
    "greedily remove the unit of least ‖Σ_removed U_p x_p‖²; score: the sum when it goes",
    "data",
    "Luo et al., ThiNet, 2017",
)
@of_readers
def thinet(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Error that removing units together causes, with nothing to make up for it."""
    energy = joint_energies(parts, subject.size, centred=False)
    step = energy.diagonal().copy()  # what removing a unit adds to the sum: ‖u‖² + 2⟨u, removed⟩
    order, sums = np.zeros(subject.size, dtype=np.int64), np.zeros(subject.size)
    alive = np.ones(subject.size, dtype=bool)
    for position in range(subject.size):
        unit = int(np.argmin(np.where(alive, np.round(step, DIGITS), np.inf)))
        order[position], sums[position] = unit, step[unit]
        alive[unit] = False
        step += 2 * energy[:, unit]
    return along(order, np.cumsum(sums))


@criterion(
    "cssp",
    "pivoted Cholesky of Cov(x_p, x_q)·‖U_p‖‖U_q‖; score: variance not explained by earlier pivots",
    "data",
    "Boutsidis et al., Column Subset Selection, 2009",
)
@of_readers
def cssp(subject: Subject, parts: Sequence[Part]) -> Scores:
    """How much of a unit the more important units do not explain."""
    kernel = np.zeros((subject.size, subject.size))
    for part in parts:
        kernel += _weighed_covariance(part, subject.size)
    factor, pivots, rank, _ = dpstrf(kernel, tol=1e-12 * kernel.diagonal().max(), lower=1)
    residuals = np.square(factor.diagonal())
    residuals[rank:] = 0
    return along(pivots[::-1].astype(np.int64) - 1, residuals[::-1])


def _weighed_covariance(part: Part, size: int) -> Matrix:
    """Covariances of units, their columns paired by position, times the norms of the weights that read them."""
    layer = part.layer
    norms = np.sqrt(per_unit(np.square(layer.weight).sum(axis=0), part, size) / layer.spread)
    held = np.flatnonzero(part.units >= 0)
    held = held[np.argsort(part.units[held], kind="stable")]
    units = part.units[held]
    position = np.arange(len(units)) - np.searchsorted(units, units)
    total = np.zeros((size, size))
    for number in range(position.max(initial=-1) + 1):
        at = position == number
        total[np.ix_(units[at], units[at])] += layer.covariance[np.ix_(held[at], held[at])]
    return np.asarray(total * np.outer(norms, norms))
