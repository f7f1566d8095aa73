"""Layers too wide to be solved tap by tap: every channel that went is made up for by the channels that stay.

One map B from kept channels to all serves every tap: W'[o, k, t] = Σ_c W[o, c, t] B[c, k]. Without
an intercept it holds at padded borders, too (the map of GRAIL, 2026).
"""

from __future__ import annotations

import numpy as np

from onnxprune.algebra.closure import Mask
from onnxprune.algebra.linear import Index, Linear
from onnxprune.model.record import Array
from onnxprune.recovery.moments import Matrix
from onnxprune.recovery.refit import RIDGES, Sums, ridge


def channels(linear: Linear, values: Array, pick: Index | None) -> Matrix:
    """The channels of an input at these positions, (n, G, C)."""
    axis = linear.x[1]
    flat = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    found = flat if pick is None else flat[pick]
    return found.reshape(len(found), linear.groups, -1).astype(np.float64)


def mapped(seen: Sums, held_out: Sums, kept: Mask, least_ridge: float) -> tuple[Matrix, float | None]:
    """The map of every group, (G, C, K), and its ρ; a mere selection and ``None`` if none does better on held-out rows.

    Args:
        seen: sums of kept channels now, and of all channels in the dense model.
        held_out: the same of other rows.
        kept: the channels that stay, (G, C).
        least_ridge: the least ρ that is tried.
    """
    plain = np.stack([np.eye(own.size)[:, own] for own in kept])
    if not seen.rows or not held_out.rows:
        return plain, None
    nothing = np.zeros(held_out.y.shape)
    best, chosen, found = float(held_out.error(plain, nothing).sum()), None, plain
    for rho in (value for value in RIDGES if value >= least_ridge):
        trial = ridge(seen.xx / seen.rows, seen.yx / seen.rows, plain, rho)
        error = np.inf if trial is None else float(held_out.error(trial, nothing).sum())
        if trial is not None and error < best:
            best, chosen, found = error, rho, trial
    return found, chosen


def spread(weight: Matrix, found: Matrix, taps: int) -> Matrix:
    """The weight of the kept channels' columns, (G, O, K · taps), from that of all, (G, O, C · taps)."""
    by_tap = weight.reshape(*weight.shape[:2], -1, taps)
    wide = np.einsum("goct,gck->gokt", by_tap, found, optimize=True)
    return np.asarray(wide.reshape(*weight.shape[:2], -1))
