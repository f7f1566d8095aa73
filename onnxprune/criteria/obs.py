"""Structured OBS: the order in which units can go when what is left makes up for them, jointly over all their readers.

A linear layer y = U x + b whose inputs have covariance H loses least when its remaining weights are refitted:

    cost of unit p      ½ tr(U_p (P_pp)⁻¹ U_pᵀ)             with P = H⁻¹
    refit               U ← U - U_p (P_pp)⁻¹ P_p:            P ← P - P_:p (P_pp)⁻¹ P_p:

Both are exact, so that the sum of the costs of units that went one by one is the error of the best refit without them.
Units go a batch at a time, since updating P is what costs: within a batch they are still chosen one by one, among the
cheapest, on their own block of P. A column that belongs to no unit of the group stays, and helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri

from onnxprune.criteria.base import Numbers, Part, Scores, Subject, criterion
from onnxprune.criteria.readers import DIGITS, along, of_readers
from onnxprune.recovery.moments import Matrix

DAMPING = 1e-3
"""What is added to H's diagonal, relative to itself, so that nothing depends on the scale of a column."""
MOST_DAMPING = 1e3
"""Where a matrix that has no Cholesky factor is given up."""
BLOCK = 256
"""How many rows of a matrix are transposed at a time."""
STEPS = 32
"""Into how many batches the units are divided."""
CANDIDATES = 4
"""How many times as many units are looked at as go."""
GONE = -2
"""The unit of a column that was removed."""
CONSTANT = 1e-12
"""A column of less variance than this part of its mean square is constant, and the bias's business."""


class Reader:
    """A layer while units go: its remaining weight, and the inverse of the covariance of its remaining inputs.

    Attributes:
        units: (d), for each column the unit, counted within the group, -1 for none, `GONE` if it went.
        weight: (o, d), refitted, by which columns of variance 1 are read, relative to the layer's spread.
        inverse: (d, d), of the columns' correlations.
    """

    def __init__(self, part: Part, damping: float = DAMPING) -> None:
        layer = part.layer
        self.units = part.units.astype(np.int64)
        variance = layer.covariance.diagonal()
        varies = variance > CONSTANT * layer.gram.diagonal()
        scale = np.sqrt(np.where(varies, variance, 1.0))
        weight = layer.weight * (varies * scale / np.sqrt(layer.spread))
        tall = len(weight) > weight.shape[1]  # only UᵀU counts: R of U = QR does as well, and is smaller
        self.weight: Matrix = np.asarray(np.linalg.qr(weight, mode="r")) if tall else weight
        self.inverse = _inverse(layer.covariance * np.outer(varies / scale, varies / scale), damping)

    def prices(self, size: int) -> Scores:
        """What removing each unit alone costs after the best refit."""
        prices = np.zeros(size)
        for ids, columns in _blocks(self.units):
            read = self.weight[:, columns].transpose(1, 2, 0)
            prices[ids] = _price(self.inverse, columns, read @ read.transpose(0, 2, 1))
        return prices

    def contributions(self, size: int) -> Scores:
        """Var(x_p)·‖U_p‖² of each unit, as its weights are now."""
        held = self.units >= 0
        found = np.square(self.weight).sum(axis=0)
        return np.bincount(self.units[held], found[held], minlength=size).astype(np.float64)

    def joint_price(self, doomed: Numbers) -> float:
        """What removing these units together costs after the best refit."""
        out = np.flatnonzero(np.isin(self.units, doomed))
        lower = _cholesky(self.inverse[np.ix_(out, out)])
        return 0.5 * float(np.square(solve_triangular(lower, self.weight[:, out].T, lower=True)).sum())

    def remove(self, doomed: Numbers) -> None:
        """Remove units, and refit."""
        out = np.flatnonzero(np.isin(self.units, doomed))
        if not len(out):
            return
        lower = _cholesky(self.inverse[np.ix_(out, out)])
        root = solve_triangular(lower, self.inverse[out], lower=True, overwrite_b=True, check_finite=False)
        self.weight = self.weight - solve_triangular(lower, self.weight[:, out].T, lower=True).T @ root
        self.inverse -= root.T @ root
        self.units[out] = GONE
        if (self.units == GONE).sum() > len(self.units) // 8:  # not every time: copying costs, too
            self._shrink()

    def _shrink(self) -> None:
        left = np.flatnonzero(self.units != GONE)
        self.units, self.weight = self.units[left], self.weight[:, left]
        self.inverse = self.inverse[left][:, left]


class _Excerpt:
    """What a `Reader` knows of some units: enough to remove any of them one by one, exactly."""

    def __init__(self, reader: Reader, among: Numbers, size: int) -> None:
        place = np.full(size + 1, -1)  # the last entry is of columns without a unit
        place[among] = np.arange(len(among))
        local = place[np.where(reader.units >= 0, reader.units, size)]
        columns = np.flatnonzero(local >= 0)
        self.blocks = list(_blocks(local[columns]))
        self.inverse = reader.inverse[np.ix_(columns, columns)]
        self.products = reader.weight[:, columns].T @ reader.weight[:, columns]

    def prices(self, alive: Numbers) -> Scores:
        prices = np.zeros(len(alive))
        for ids, columns in self.blocks:
            left = alive[ids]
            own = columns[left]
            prices[ids[left]] = _price(self.inverse, own, self.products[own[:, :, None], own[:, None, :]])
        return prices

    def remove(self, unit: int) -> None:
        for ids, columns in self.blocks:
            for out in columns[ids == unit]:
                own = self.inverse[np.ix_(out, out)]
                change = self.inverse[out] / own if len(out) == 1 else np.linalg.solve(own, self.inverse[out])
                cross = self.products[:, out] @ change
                own = change.T @ self.products[np.ix_(out, out)] @ change
                self.products += own - cross - cross.T
                self.inverse -= self.inverse[:, out] @ change


def elimination(
    parts: Sequence[Part], size: int, *, damping: float = DAMPING, steps: int = STEPS
) -> tuple[Numbers, Scores]:
    """The order in which units go, and the error that is predicted after each.

    The error is half the part of the readers' output variance that a refit of the readers cannot restore, added up
    over the readers; it never falls.

    Args:
        parts: the layers that read the units; those whose output does not vary are left out.
        size: how many units there are.
        damping: what is added to the covariances' diagonals, relative to themselves.
        steps: into how many batches the units are divided.

    Returns:
        The units in the order in which they go, and the error after 1, 2, … all of them went.
    """
    readers = [Reader(part, damping) for part in parts if part.layer.spread > 0]
    alive = np.ones(size, dtype=bool)
    order: list[int] = []
    costs: list[float] = []
    batch = max(1, size // steps)
    while alive.any():
        prices = np.where(alive, sum((r.prices(size) for r in readers), np.zeros(size)), np.inf)
        ranked = np.argsort(np.round(prices, DIGITS), kind="stable")[: alive.sum()]
        near = ranked[: CANDIDATES * batch]
        gone, cost = _cheapest([_Excerpt(r, near, size) for r in readers], len(near), batch)
        for reader in readers:
            reader.remove(near[gone])
        alive[near[gone]] = False
        order.extend(near[gone])
        costs.extend(cost)
    return np.array(order, dtype=np.int64), np.cumsum(np.round(costs, DIGITS))


def _cheapest(excerpts: Sequence[_Excerpt], size: int, count: int) -> tuple[list[int], list[float]]:
    """Units that go one by one, each the cheapest when it goes, and what each costs."""
    alive = np.ones(size, dtype=bool)
    gone: list[int] = []
    costs: list[float] = []
    while alive.any() and len(gone) < count:
        prices = np.where(alive, sum((e.prices(alive) for e in excerpts), np.zeros(size)), np.inf)
        unit = int(np.argmin(np.round(prices, DIGITS)))
        for excerpt in excerpts:
            excerpt.remove(unit)
        alive[unit] = False
        gone.append(unit)
        costs.append(max(0.0, float(prices[unit])))
    return gone, costs


def _blocks(units: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """The units (n) that have g columns each, and these (n, g), for every g."""
    held = np.flatnonzero(units >= 0)
    held = held[np.argsort(units[held], kind="stable")]
    ids, starts, counts = np.unique(units[held], return_index=True, return_counts=True)
    for count in np.unique(counts):
        alike = counts == count
        yield ids[alike], held[starts[alike][:, None] + np.arange(count)]


def _price(inverse: Matrix, columns: Numbers, products: Matrix) -> Scores:
    """½ tr(U_p P_pp⁻¹ U_pᵀ) for every row of columns, from products U_pᵀ U_p (n, g, g)."""
    blocks = inverse[columns[:, :, None], columns[:, None, :]]
    if columns.shape[1] == 1:
        return np.asarray(0.5 * products[:, 0, 0] / blocks[:, 0, 0])
    prices: Scores = 0.5 * np.linalg.solve(blocks, products).trace(axis1=1, axis2=2)
    return prices


def _inverse(correlation: Matrix, damping: float) -> Matrix:
    """(H + δI)⁻¹, with 10 times the damping until it exists."""
    while damping < MOST_DAMPING:
        damped = correlation.copy()
        damped[np.diag_indices(len(damped))] += damping
        factor, failed = dpotrf(damped.T, lower=1, overwrite_a=1)
        if not failed:
            return _mirrored(dpotri(factor, lower=1, overwrite_c=1)[0].T)
        damping *= 10
    raise np.linalg.LinAlgError("a correlation is not finite, or far from positive")


def _mirrored(matrix: Matrix) -> Matrix:
    """The matrix, with its lower triangle made the upper one's mirror image in place, block by block."""
    for start in range(0, len(matrix), BLOCK):
        own = slice(start, start + BLOCK)
        matrix[own, :start] = matrix[:start, own].T
        matrix[own, own] = np.triu(matrix[own, own]) + np.triu(matrix[own, own], 1).T
    return matrix


def _cholesky(matrix: Matrix) -> Matrix:
    """The lower factor of a positive matrix, or of one that rounding left slightly short of it."""
    jitter, mean = 0.0, float(matrix.diagonal().mean())
    while jitter < MOST_DAMPING:
        factor, failed = dpotrf(matrix + jitter * mean * np.eye(len(matrix)), lower=1, clean=1)
        if not failed:
            return np.asarray(factor)
        jitter = max(1e-12, 10 * jitter)
    raise np.linalg.LinAlgError("an inverse is not finite, or far from positive")


@criterion(
    "obs",
    "½ tr(U_p [(H⁻¹)_pp]⁻¹ U_pᵀ), the error left after a refit, greedily; score: the sum when it goes",
    "data",
    "Kurtic et al., ZipLM, 2023; Hassibi & Stork, 1993",
)
@of_readers
def obs(subject: Subject, parts: Sequence[Part]) -> Scores:
    """Structured optimal brain surgeon: the error of the readers' outputs after the best refit."""
    return along(*elimination(parts, subject.size))
