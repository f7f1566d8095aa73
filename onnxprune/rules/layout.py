"""Facts that several families share: axes kept in place, broadcasting, and reshaping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from onnxprune.algebra.facts import Fact, Pin, Product, Tie, same
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.symbols import Dim, split

Run = tuple[str, list[int]]  # some axes of a tensor


def in_place(op: Op, x: str, y: str, *, but: Collection[int] = ()) -> Iterator[Fact]:
    """Every axis of x is the same axis of y, except those in ``but``."""
    for axis in range(min(op.rank(x), op.rank(y))):
        if axis not in but:
            yield same(x, axis, y, axis)


def broadcast(op: Op, x: str, y: str) -> Iterator[Fact]:
    """The input is stretched to y as numpy does: axes align at the right, and size-1 axes tie nothing."""
    shift = op.rank(y) - op.rank(x)
    for axis, size in enumerate(op.shape(x)):
        if size != 1:
            yield same(x, axis, y, axis + shift)


def pin_all(op: Op, why: str) -> Iterator[Fact]:
    """No axis of this node may be cut."""
    for name in op.tensors:
        for axis in range(len(op.graph.shapes.get(name, ()))):
            yield Pin((name, axis), why)


def normalized_axis(op: Op, default: int, rank: int) -> int:
    """The ``axis`` attribute, counted from the front."""
    axis = int(op.attr("axis", default))
    return axis + rank if axis < 0 else axis


def axes_of(op: Op, slot: int, rank: int, name: str = "axes") -> list[int] | None:
    """The ``axes`` attribute or input, counted from the front; ``None`` if absent or unknown."""
    axes = op.ints(name, slot)
    return None if axes is None else [a + rank if a < 0 else a for a in axes]


def unknown_axes(op: Op, slot: int, name: str = "axes") -> bool:
    """Whether axes are given, but by a value that only running the model tells."""
    return (op.attr(name) is not None or op.has(slot)) and op.ints(name, slot) is None


def given_at_run_time(op: Op, slot: int, name: str) -> bool:
    """Whether sizes are given of which nothing is known, so that they cannot follow a cut."""
    return op.has(slot) and op.numbers(name, slot) is None


def reshape(op: Op, x: str, y: str) -> Iterator[Fact]:
    """Both shapes split into the smallest runs of equal size; within a run, flat indices agree."""
    both = [((x, a), (y, b)) for a, b in runs(op.shape(x), op.shape(y))]
    pieces = [piece for run, other in both for piece in _pieces(op, run, other)]
    for run, other in both:
        yield from _fronts(op, run, other)
    for number, (xs, ys) in enumerate(pieces):
        if len(xs) == 1 and len(ys) == 1:
            yield same(*xs[0], *ys[0])
        elif len(xs) == 1 and ys:
            yield Product(xs[0], tuple(ys))
        elif len(ys) == 1 and xs:
            yield Product(ys[0], tuple(xs))
        elif xs and ys:
            flat = (f"{y}\0{number}", 0)  # no tensor has this name: the run, flattened
            yield Product(flat, tuple(xs))
            yield Product(flat, tuple(ys))


def _pieces(op: Op, x: Run, y: Run) -> Iterator[tuple[list[Axis], list[Axis]]]:
    """The axes of a run between two places where a symbolic size stands, which must be the same places in x and y.

    Of an axis of size ``"12*batch"``, what lies behind the batch is the part of size 12.
    """
    (names, xs), (others, ys) = _cut_at_names(op, x), _cut_at_names(op, y)
    if names == others and list(map(_product, xs)) == list(map(_product, ys)):
        for a, b in zip(xs, ys, strict=True):
            yield [axis for axis, _ in a], [axis for axis, _ in b]


def _fronts(op: Op, x: Run, y: Run) -> Iterator[Fact]:
    """Where channels become groups, and what is in a group goes with pixels of which nobody knows how many there are.

    Of ``(32, height, width)`` and ``(4, "8*height*width")``, 8 channels in a row make a group, however large they are.
    """
    (_, xs), (_, ys) = _cut_at_names(op, x), _cut_at_names(op, y)
    if len(xs[0]) != 1 or len(ys[0]) != 1 or len(xs) < 2:
        return
    (a, many), (b, few) = sorted((xs[0][0], ys[0][0]), key=lambda part: -part[1])
    if many > few and many % few == 0:
        yield Tie(b, a, np.repeat(np.arange(few), many // few))


def _product(part: list[tuple[Axis, int]]) -> int:
    return math.prod(size for _, size in part)


def _cut_at_names(op: Op, run: Run) -> tuple[list[Counter[str]], list[list[tuple[Axis, int]]]]:
    tensor, axes = run
    names: list[Counter[str]] = []
    parts: list[list[tuple[Axis, int]]] = [[]]
    for axis in axes:
        factor, symbols = split(op.shape(tensor)[axis])
        if symbols and (parts[-1] or not names):
            names.append(Counter(symbols))
            parts.append([])
        elif symbols:
            names[-1].update(symbols)
        if factor != 1:
            parts[-1].append(((tensor, axis), factor))
    return names, parts


def runs(x: Shape, y: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Cut two shapes of one size into the shortest runs of axes whose sizes multiply to the same."""
    front = list(_runs(list(enumerate(x)), list(enumerate(y))))
    used_x = {i for a, _ in front for i in a}
    used_y = {i for _, b in front for i in b}
    rest_x = [(i, d) for i, d in enumerate(x) if i not in used_x]
    rest_y = [(i, d) for i, d in enumerate(y) if i not in used_y]
    back = [(a[::-1], b[::-1]) for a, b in _runs(rest_x[::-1], rest_y[::-1])]
    used_x |= {i for a, _ in back for i in a}
    used_y |= {i for _, b in back for i in b}
    yield from front
    middle = [i for i, _ in rest_x if i not in used_x], [i for i, _ in rest_y if i not in used_y]
    if all(isinstance(d, int) for d in (*(x[i] for i in middle[0]), *(y[i] for i in middle[1]))) and all(middle):
        yield middle
    yield from reversed(back)


def _runs(x: Sequence[tuple[int, Dim]], y: Sequence[tuple[int, Dim]]) -> Iterator[tuple[list[int], list[int]]]:
    i = j = 0
    while i < len(x) and j < len(y):
        a, b = [x[i]], [y[j]]
        i, j = i + 1, j + 1
        while _size(a) != _size(b):
            (na, ca), (nb, cb) = _size(a), _size(b)
            grow_x = na < nb if na != nb else bool(cb - ca)
            if grow_x and i < len(x):
                a.append(x[i])
                i += 1
            elif not grow_x and j < len(y):
                b.append(y[j])
                j += 1
            else:
                return
        yield [k for k, _ in a], [k for k, _ in b]


def _size(run: Sequence[tuple[int, Dim]]) -> tuple[int, Counter[str]]:
    parts = [split(dim) for _, dim in run]
    return math.prod(part.factor for part in parts), Counter(name for part in parts for name in part.names)
