"""Least squares for one layer: the weights that give the dense layer's outputs from what the pruned network feeds it.

With x what the layer reads now (kept columns only) and y* what it should give,

    W' = W + (C - W H) (H + λI)⁻¹,   b' = E[y*] - W' E[x],   H = cov(x),  C = cov(y*, x),   λ = ρ tr(H) / D,

ridge towards the sliced weights W, not towards 0 (He et al., Channel Pruning, 2017; Kwon et al., 2022). ρ is chosen on
rows that the solution has not seen, and the layer is left as it is where none of them helps there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from onnxprune.recovery.moments import Matrix

RIDGES = (1e-7, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Sums:
    """Sums over rows of x (n, G, D) and y (n, G, O), float64; those of disjoint rows add up."""

    rows: int
    x: Matrix  # (G, D)
    y: Matrix  # (G, O)
    xx: Matrix  # (G, D, D)
    yx: Matrix  # (G, O, D)
    yy: Matrix  # (G, O)

    @classmethod
    def of(cls, x: Matrix, y: Matrix) -> Sums:
        """The sums of these rows."""
        by_group, to_group = x.transpose(1, 2, 0), y.transpose(1, 2, 0)
        rows = by_group.transpose(0, 2, 1)
        return cls(len(x), x.sum(0), y.sum(0), by_group @ rows, to_group @ rows, np.square(y).sum(0))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.rows + other.rows,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.yx + other.yx,
            self.yy + other.yy,
        )

    def centred(self) -> tuple[Matrix, Matrix]:
        """cov(x), (G, D, D), and cov(y, x), (G, O, D)."""
        n = self.rows
        h = self.xx / n - self.x[:, :, None] * self.x[:, None, :] / n**2
        c = self.yx / n - self.y[:, :, None] * self.x[:, None, :] / n**2
        return h, c

    def intercept(self, weight: Matrix) -> Matrix:
        """The bias that makes the mean of W x + b that of y, (G, O)."""
        return (self.y - (weight @ self.x[:, :, None])[:, :, 0]) / self.rows

    def error(self, weight: Matrix, bias: Matrix) -> Matrix:
        """E(y - W x - b)² of every output, (G, O)."""
        wx = (weight @ self.x[:, :, None])[:, :, 0]
        squares = ((weight @ self.xx) * weight).sum(2) - 2 * (weight * self.yx).sum(2) + self.yy
        return np.asarray((squares + 2 * bias * (wx - self.y) + self.rows * bias**2) / self.rows)

    def relative(self, weight: Matrix, bias: Matrix) -> float:
        """The error of all outputs together, as a fraction of their variance."""
        variance = float((self.yy / self.rows - np.square(self.y / self.rows)).sum()) or 1.0
        return float(self.error(weight, bias).sum()) / variance


@dataclass(frozen=True)
class Solution:
    """What came out.

    Attributes:
        weight, bias: (G, O, D) and (G, O).
        ridge: the ρ that was chosen; infinite where only the bias moved, ``None`` where nothing did.
        before, after: the error on held-out rows, as a fraction of the outputs' variance.
    """

    weight: Matrix
    bias: Matrix
    ridge: float | None
    before: float
    after: float


def solve(seen: Sums, held_out: Sums, weight: Matrix, bias: Matrix, ridges: Sequence[float] = RIDGES) -> Solution:
    """The best solution by its error on held-out rows; fitted on all rows once ρ is chosen.

    Args:
        seen: the rows to fit.
        held_out: the rows to choose by.
        weight: as it is, (G, O, D).
        bias: as it is, (G, O).
        ridges: the ρ to try; with none, the weights are left alone (mean compensation).
    """
    if not seen.rows or not held_out.rows:
        return Solution(weight, bias, None, 0.0, 0.0)
    best, ridge = held_out.relative(weight, bias), None
    before = best
    for rho in (np.inf, *sorted(ridges, reverse=True)):
        fitted = fit(seen, weight, rho)
        found = held_out.relative(fitted, seen.intercept(fitted)) if fitted is not None else np.inf
        if found < best:
            best, ridge = found, rho
    every = seen + held_out
    final = None if ridge is None else fit(every, weight, ridge)
    if final is None:
        return Solution(weight, bias, None, before, before)
    return Solution(final, every.intercept(final), ridge, before, best)


def fit(sums: Sums, weight: Matrix, rho: float) -> Matrix | None:
    """The weights for one ρ, (G, O, D); ``None`` if the system cannot be solved."""
    if np.isinf(rho):
        return weight
    h, c = sums.centred()
    return ridge(h, c, weight, rho)


def ridge(h: Matrix, c: Matrix, weight: Matrix, rho: float) -> Matrix | None:
    """W + (C - W H) (H + λI)⁻¹ of every group."""
    size = h.shape[-1]
    level = rho * np.trace(h, axis1=1, axis2=2) / max(size, 1)
    lam = np.where(level > 0, level, 1.0)[:, None, None] * np.eye(size)
    gap = c - weight @ h
    if len(h) > 1:
        return np.asarray(weight + np.linalg.solve(h + lam, gap.transpose(0, 2, 1)).transpose(0, 2, 1))
    try:
        factor = cho_factor(h[0] + lam[0], lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    return weight + cho_solve(factor, gap[0].T, check_finite=False).T[None]
