"""From a few measured variants to any widths: what each segment takes, as a function of the widths around it.

A segment takes a constant, and something per multiply-accumulate, per element read and per element written, none of
them negative (Lawson and Hanson, 1974). Widths count in whole blocks, the size of which is found per kind of operator;
widths that are no multiple of a power of two cost extra, which is measured per kind, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from onnxprune.latency.segments import Blocks, Segments, Widths

SIZES = ((32, 32), (32, 4), (16, 16), (16, 8), (16, 4), (8, 8), (8, 4), (4, 4), (1, 1))
BLOCKS = tuple(Blocks(*sizes) for sizes in SIZES)
CLASSES = (1, 2, 4, 8, 16)  # powers of two that a width may be a multiple of
WELL = 8  # widths of this class and higher give the smooth part
BETTER = 0.9  # of the error: smaller blocks must explain the times that much better, or noise would choose them
TINY = 1e-4  # milliseconds: no time is told apart from less
EXACT = 1e-6  # squared error, of the time: nothing is better than that
Times = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """What each segment takes.

    Attributes:
        block: of each segment, what widths are rounded up to: a place in `BLOCKS`.
        coefficients: of each segment, for its features.
        penalty: of each segment, the factor for each of `CLASSES`.
        dense: the milliseconds of each segment in the model as it is: by this fit, and as measured.
    """

    block: NDArray[np.int64]
    coefficients: NDArray[np.float64]
    penalty: NDArray[np.float64]
    dense: tuple[Times, Times] | None = None

    def __call__(self, segments: Segments, widths: Widths) -> Times:
        """The milliseconds of each segment; what was measured at full width, and less and less of that below."""
        smooth = np.zeros(len(self.block))
        for place in np.unique(self.block).tolist():
            here = self.block == place
            smooth[here] = (segments.features(widths, BLOCKS[place])[here] * self.coefficients[here]).sum(axis=1)
        found: Times = smooth * self.penalty[np.arange(len(smooth)), classes(segments, widths)]
        if self.dense is not None:
            fitted, measured = self.dense
            share = found / np.maximum(fitted, TINY)
            found = found + (measured - fitted) * np.minimum(share, 1) ** 3
        return found


def classes(segments: Segments, widths: Widths) -> NDArray[np.int64]:
    """For each segment the place in `CLASSES` of the least aligned width around it."""
    low = np.minimum(np.log2(np.maximum(widths & -widths, 1)).astype(np.int64), len(CLASSES) - 1)
    return np.array([low[axes].min() if len(axes) else len(CLASSES) - 1 for axes in segments.axes])


class Candidate(NamedTuple):
    """An explanation with widths in blocks of one size: per segment, and the error of each segment."""

    coefficients: NDArray[np.float64]
    penalty: NDArray[np.float64]
    errors: Times


def fit(segments: Segments, widths: Sequence[Widths], times: Sequence[Times]) -> Fit:
    """Explain the times of variants, one array of segments each; the first variant is the model as it is."""
    taken, kinds = np.stack(times), np.array(segments.kinds)
    place = np.stack([classes(segments, each) for each in widths])
    tried = []
    for blocks in BLOCKS:
        features = np.stack([segments.features(each, blocks) for each in widths])
        tried.append(_candidate(features, place, taken, kinds))
    chosen = np.zeros(len(kinds), dtype=np.int64)
    for kind in np.unique(kinds):
        here = kinds == kind
        total = max(float(taken[:, here].sum()), TINY)
        chosen[here] = _largest([float(each.errors[here].sum()) / total for each in tried])
    coefficients = np.stack([tried[block].coefficients[segment] for segment, block in enumerate(chosen.tolist())])
    penalty = np.stack([tried[block].penalty[segment] for segment, block in enumerate(chosen.tolist())])
    found = Fit(chosen, coefficients, penalty)
    return replace(found, dense=(found(segments, widths[0]), taken[0]))


def _candidate(
    features: NDArray[np.float64], place: NDArray[np.int64], taken: Times, kinds: NDArray[np.str_]
) -> Candidate:
    coefficients = _solve(features, taken, place >= CLASSES.index(WELL))
    smooth = (features * coefficients).sum(axis=2)
    penalty = np.ones((len(kinds), len(CLASSES)))
    for kind in np.unique(kinds):
        here = kinds == kind
        penalty[here] = _penalties(place[:, here], taken[:, here], smooth[:, here])
    residual = smooth * penalty[np.arange(len(kinds)), place] - taken
    return Candidate(coefficients, penalty, (residual**2 / np.maximum(taken, TINY)).sum(axis=0))


def _largest(errors: Sequence[float]) -> int:
    """The largest blocks that none of the smaller ones explains the times much better than."""
    found = 0
    for place, error in enumerate(errors):
        if max(error, EXACT) < BETTER * errors[found]:
            found = place
    return found


def _solve(features: NDArray[np.float64], taken: Times, well: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The coefficients of each segment, fitted to relative errors where widths are well aligned."""
    found = np.zeros(features.shape[1:])
    for segment in range(features.shape[1]):
        rows = well[:, segment] if well[:, segment].sum() >= features.shape[2] else np.ones(len(taken), dtype=bool)
        weight = 1 / np.maximum(taken[rows, segment], TINY)
        matrix = features[rows, segment] * weight[:, None]
        scale = np.maximum(np.abs(matrix).max(axis=0), 1e-30)
        found[segment] = nnls(matrix / scale, taken[rows, segment] * weight)[0] / scale
    return found


def _penalties(found: NDArray[np.int64], taken: Times, smooth: Times) -> NDArray[np.float64]:
    """How much more each class costs than its smooth part says; a class never costs less than a better aligned one."""
    factors = np.ones(len(CLASSES))
    for place in range(CLASSES.index(WELL)):
        here = (found == place) & (smooth > 0)
        if here.any():
            factors[place] = taken[here].sum() / smooth[here].sum()
    worst: NDArray[np.float64] = np.maximum.accumulate(np.maximum(factors, 1.0)[::-1])[::-1]
    return worst
