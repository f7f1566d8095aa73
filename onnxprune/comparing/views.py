"""How an array of one model lies in the other: axes moved, axes of size 1 dropped or added; NCHW and NHWC, say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.algebra.symbols import Dim
from onnxprune.model.record import Array

MOST_AXES = 5  # of an array whose axes are tried in every order


@dataclass(frozen=True)
class View:
    """Where each axis of the second model's array comes from: an axis of the first's, or ``None``, a new one of size 1.

    Axes of the first's array that are not named are of size 1, and dropped.
    """

    axes: tuple[int | None, ...]

    @property
    def plain(self) -> bool:
        """Whether nothing moves."""
        return self.axes == tuple(range(len(self.axes)))

    def to(self, array: Array) -> Array:
        """The first model's array as the second has it."""
        named = [axis for axis in self.axes if axis is not None]
        dropped = [axis for axis in range(array.ndim) if axis not in named]
        moved = array.transpose([*named, *dropped])
        return moved.reshape([1 if axis is None else array.shape[axis] for axis in self.axes])

    def back(self, array: Array, rank: int) -> Array:
        """The second model's array as the first, of so many axes, has it."""
        places = [self.axes.index(axis) if axis in self.axes else None for axis in range(rank)]
        return View(tuple(places)).to(array)

    def __str__(self) -> str:
        axes = ", ".join("new" if axis is None else str(axis) for axis in self.axes)
        return "as it is" if self.plain else f"its axes are {axes} of the first's"


def fitting(first: Sequence[Dim], second: Sequence[Dim]) -> list[View]:
    """The views from one shape to another, the likeliest first; an open size fits any.

    Those come first under which most sizes are known to be equal; of these the one that moves nothing, then those that
    move the channels from or to the end, then others.
    """
    found: dict[View, int] = {}
    for view in _candidates(first, second):
        pairs = [(first[axis], size) for axis, size in zip(view.axes, second, strict=True) if axis is not None]
        if all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs):
            found.setdefault(view, sum(isinstance(a, int) and a == b for a, b in pairs))
    return sorted(found, key=lambda view: -found[view])


def _candidates(first: Sequence[Dim], second: Sequence[Dim]) -> Iterator[View]:
    kept: Sequence[int] = range(len(first))
    places: Sequence[int] = range(len(second))
    if len(first) != len(second):
        kept, places = _long(first), _long(second)
    if len(kept) != len(places):
        return
    for order in orders(len(kept)):
        axes: list[int | None] = [None] * len(second)
        for place, number in zip(places, order, strict=True):
            axes[place] = kept[number]
        yield View(tuple(axes))


def _long(shape: Sequence[Dim]) -> Sequence[int]:
    return [axis for axis, size in enumerate(shape) if size != 1]


def orders(rank: int) -> Iterator[tuple[int, ...]]:
    """Orders of so many axes, the likeliest first; of many axes only the likely ones."""
    same = tuple(range(rank))
    likely = [same]
    if rank > 2:
        likely += [(0, *same[2:], 1), (0, rank - 1, *same[1:-1])]
    yield from dict.fromkeys(likely)
    if rank <= MOST_AXES:
        yield from (order for order in itertools.permutations(same) if order not in likely)


def as_floats(array: Array) -> Array:
    """Numbers as float64, what is not finite as 0."""
    values = array.astype(np.float64)
    return values if np.isfinite(values).all() else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
