"""Criteria that search for the units of a layer that give its output best: ½‖y - Xw‖² and a price for what is kept.

X has a block of columns for every unit, y is what the dense layer gives. Nothing is computed from samples: the second
moments of X say it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxprune.criteria.base import Part, Scores, Subject, criterion
from onnxprune.criteria.obs import Reader, elimination
from onnxprune.criteria.readers import DIGITS, along, joint_energies, of_readers
from onnxprune.recovery.moments import Matrix

DAMPING = 1e-6
"""Just enough for the covariances to have inverses."""
MASKS = 64
"""How many masks a random search tries."""
PENALTIES = np.geomspace(1, 1e-4, 40)
"""Of the lasso, relative to the one that removes every unit."""
ITERATIONS = 300
"""Of the lasso at each penalty, at most."""
STEPS = 16
"""In how many batches ``sparsenet`` removes units."""


@criterion(
    "l0-greedy",
    "½‖y - Xw‖² + λ‖w‖₀, w refitted after every unit removed; score: the error when it goes",
    "data",
    "Couvreur & Bresler, Optimality of the Backward Greedy Algorithm, 2000",
)
@of_readers
def l0_greedy(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Backward elimination one by one, exactly; λ only says where to stop."""
    return along(*elimination(parts, subject.size, damping=DAMPING, steps=subject.size))


@criterion(
    "l0-random",
    "½‖y - Xw‖² at fixed ‖w‖₀ over 64 random masks; score: kept by the best + error without it",
    "data",
    "Li et al., Revisiting Random Channel Pruning, 2022",
)
@of_readers
def l0_random(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Random search: units that the best mask keeps come before others, each sorted by the mean error without it."""
    size = subject.size
    count = min(max(1, round(subject.ratio * size)), size - 1)
    if count < 1 or not parts:
        return np.zeros(size)
    readers = [Reader(part, DAMPING) for part in parts]
    masks = [subject.rng.permutation(size)[:count] for _ in range(MASKS)]
    errors = np.round([sum(reader.joint_price(mask) for reader in readers) for mask in masks], DIGITS)
    total, tries = np.zeros(size), np.zeros(size)
    for mask, error in zip(masks, errors, strict=True):
        total[mask] += error
        tries[mask] += 1
    without = np.where(tries > 0, total / np.maximum(tries, 1), errors.mean())
    kept = np.ones(size)
    kept[masks[int(errors.argmin())]] = 0
    return np.asarray(kept + without / (1 + without.max()))


@criterion(
    "lasso",
    "½‖y - Σβ_p U_p x_p‖² + λ‖β‖₁, by FISTA; score: the λ at which β_p leaves 0",
    "data",
    "He et al., Channel Pruning for Accelerating Very Deep Networks, 2017",
)
@of_readers
def lasso(subject: Subject, parts: Sequence[Part]) -> Scores:
    """One factor for every unit, under a penalty that falls until the unit is needed."""
    energy = joint_energies(parts, subject.size, centred=True)
    scores: Scores = np.abs(energy.sum(axis=1))  # the pull of ½‖y‖² on every β at 0
    top = float(scores.max(initial=0.0))
    if not top > 0:
        return scores
    active = np.zeros(subject.size, dtype=bool)
    for penalty, beta in _path(energy, top):
        entered = ~active & (beta != 0)
        scores[entered] = np.maximum(scores[entered], penalty)  # it was needed between this penalty and the last
        active |= entered
        pull = np.abs(energy @ (1 - beta))
        scores[~active] = np.minimum(pull[~active], penalty)
    return np.round(scores, DIGITS)


def _path(energy: Matrix, top: float) -> Iterator[tuple[float, Scores]]:
    """The minimiser of ½(1 - β)ᵀE(1 - β) + λ‖β‖₁ for falling λ, each from the last."""
    step = 1 / float(np.linalg.eigvalsh(energy)[-1])
    beta = np.zeros(len(energy))
    for penalty in top * PENALTIES:
        beta = _fista(energy, float(penalty), step, beta)
        yield float(penalty), beta


def _fista(energy: Matrix, penalty: float, step: float, beta: Scores) -> Scores:
    ahead, momentum = beta, 1.0
    for _ in range(ITERATIONS):
        moved = ahead + step * (energy @ (1 - ahead))
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0)
        change = new - beta
        if np.abs(change).max() < 1e-9:
            return new
        if (ahead - new) @ change > 0:  # momentum leads uphill: start it again
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead, beta, momentum = new + (momentum - 1) / following * change, new, following
    return beta


@criterion(
    "sparsenet",
    "greedy by Var(x_p)·‖U_p‖², U refitted and scored again after every 1/16; score: when it goes",
    "data",
    "Zhu & Gupta, To Prune or Not to Prune (gradual schedule), 2017; An et al., FLAP, 2024",
)
@of_readers
def sparsenet(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Greedy by contribution, with scores taken again after each batch."""
    size = subject.size
    readers = [Reader(part) for part in parts]
    order = np.zeros(0, dtype=np.int64)
    batch = max(1, size // STEPS)
    while len(order) < size:
        contribution = sum((reader.contributions(size) for reader in readers), np.zeros(size))
        contribution[order] = np.inf
        doomed = np.argsort(np.round(contribution, DIGITS), kind="stable")[: min(batch, size - len(order))]
        for reader in readers:
            reader.remove(doomed)
        order = np.concatenate([order, doomed])
    return along(order, np.arange(1, size + 1) / size)
