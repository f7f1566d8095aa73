"""From a closed set of ties to units, the smallest things that can be removed, and groups of units of one kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.closure import Closure, Mask

Numbers = NDArray[np.int64]


class Units(NamedTuple):
    """Units and groups, as arrays.

    Attributes:
        of: for each index of the closure's space its unit, or -1 if it may not go.
        number: how many units there are; they are numbered by their first index.
        group: for each unit its group; groups are numbered by their first unit.
        groups: how many groups there are.
        width: for each group, how many channels of an activation one of its units takes.
    """

    of: Numbers
    number: int
    group: Numbers
    groups: int
    width: Numbers


def find(closure: Closure, weights: Mask, batches: Iterable[int] = ()) -> Units:
    """The units of a closure: components without a pinned index that touch a weight.

    Args:
        closure: closed.
        weights: for each axis, whether it is a constant tensor's.
        batches: axes along which matrices are multiplied one by one (heads), whose size is no width of any.
    """
    free = _free(closure, weights)
    of, count = _ranked(closure.labels, free)
    axis_of = _classes(closure)[free]
    touched, times = np.unique(of[free] * max(len(closure.axes), 1) + axis_of, return_counts=True)
    unit, root = np.divmod(touched, max(len(closure.axes), 1))
    group, groups = _alike(unit, root, count, len(closure.axes))
    moving = np.zeros(len(closure.axes), dtype=bool)
    moving[closure.root_of[~weights]] = True
    moving[[closure.root(number) for number in batches]] = False
    wide = moving[root]
    width = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(width, group[unit[wide]], times[wide])
    width[width == np.iinfo(np.int64).max] = 1
    return Units(of, count, group, groups, width)


def _free(closure: Closure, weights: Mask) -> Mask:
    weighty = np.zeros(closure.space, dtype=bool)
    for number in np.flatnonzero(weights):
        weighty[closure.span(int(number))] = True
    touched = np.zeros(closure.space, dtype=bool)
    touched[closure.labels[weighty]] = True
    free: Mask = ~closure.pinned & touched[closure.labels]
    return free


def _classes(closure: Closure) -> Numbers:
    """For each index of the space, the root of the axes that it lies on."""
    sizes = np.array(closure.sizes, dtype=np.int64)
    roots = np.flatnonzero((closure.root_of == np.arange(len(sizes))) & (sizes > 0))
    return np.repeat(roots, sizes[roots])


def _ranked(labels: Numbers, free: Mask) -> tuple[Numbers, int]:
    """Number the free labels 0, 1, … in the order of their first index; -1 elsewhere."""
    of = np.full(labels.size, -1, dtype=np.int64)
    found, first, inverse = np.unique(labels[free], return_index=True, return_inverse=True)
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(found))
    of[free] = rank[inverse]
    return of, len(found)


def _alike(unit: Numbers, root: Numbers, count: int, axes: int) -> tuple[Numbers, int]:
    """Units that touch the same axes get one number. Sets of axes are compared by the sum of random words."""
    words = np.random.default_rng(0).integers(1, 1 << 62, size=(axes, 2), dtype=np.uint64)
    signature = np.zeros((count, 2), dtype=np.uint64)
    np.add.at(signature, unit, words[root])
    _, first, inverse = np.unique(signature, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return (order[inverse.ravel()] if count else np.zeros(0, dtype=np.int64)), len(first)
