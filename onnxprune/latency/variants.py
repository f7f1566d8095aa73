"""Which widths to measure: every group at every level once, in combinations that tell layers apart; then odd widths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask

LEVELS = 8  # of width that every group is measured at
ALIGNED = 16  # channels: what vector units take at once, or a multiple of it
MISALIGNED = (8, 8, 4, 2, 1)  # of variants whose widths are multiples of this and of no higher power of two
MIDDLE = (0.3, 0.95)  # of the full width: where odd widths are measured


def masks(analysis: Analysis, seed: int) -> list[Mask]:
    """The units removed in each variant; the model as it is comes first, and again later, for all else is to that.

    Levels are drawn as a Latin hypercube (McKay, Beckman and Conover, 1979).
    """
    dense = np.zeros(analysis.units, dtype=bool)
    if not analysis.groups:
        return [dense]
    rng = np.random.default_rng(seed)
    levels = np.stack([rng.permutation(LEVELS) for _ in range(analysis.groups)], axis=1) + 0.5
    aligned = [_mask(analysis, row / LEVELS, ALIGNED, odd=False) for row in levels]
    others = [_mask(analysis, rng.uniform(*MIDDLE, analysis.groups), step, odd=True) for step in MISALIGNED]
    return [dense, *aligned, dense, *others, dense]


def _mask(analysis: Analysis, fractions: NDArray[np.float64], step: int, *, odd: bool) -> Mask:
    removed = np.zeros(analysis.units, dtype=bool)
    for group, fraction in enumerate(fractions.tolist()):
        members = analysis.members(group)
        units = max(1, step // analysis.width_per_unit(group))
        count = max(1, round(fraction * len(members) / units))
        count = max(1, (count - 1) | 1) if odd else count
        removed[members[min(count * units, len(members)) :]] = True
    return removed
