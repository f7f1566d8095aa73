"""Operators that join, cut and pick along one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxprune.algebra.facts import Count, Fact, Pin, Positions, Slot, Strided, mapped, same, window
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.rules.layout import axes_of, given_at_run_time, in_place, normalized_axis, pin_all, unknown_axes

RULES: RuleTable = {}


@rule_for(RULES, "Concat", zero=lambda op: tuple((slot,) for slot in range(len(op.ins))))
def concat(op: Op) -> Iterator[Fact]:
    """All inputs."""
    yield from joined(op, op.ins)


def joined(op: Op, parts: Sequence[str]) -> Iterator[Fact]:
    """Each input owns a window of the output."""
    axis, start = normalized_axis(op, 0, op.rank(op.out)), 0
    for x in parts:
        yield from in_place(op, x, op.out, but=(axis,))
    for x in parts:
        size = op.shape(x)[axis]
        if not isinstance(size, int):
            yield Pin((op.out, axis), f"{op.label} joins an input whose size is known only at run time")
            return
        yield window(x, axis, op.out, axis, start, size)
        start += size


@rule_for(RULES, "Split", zero=FIRST, sizes=(1,))
def split(op: Op) -> Iterator[Fact]:
    """Each output owns a window of the input; the sizes follow."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    axis, start = normalized_axis(op, 0, rank), 0
    pieces = Slot("split", 1 if op.version >= 13 else None, instead_of="num_outputs")
    if given_at_run_time(op, 1, "split"):
        yield from pin_all(op, f"{op.label} cuts pieces whose size is known only at run time")
        return
    if any(y not in op.graph.shapes for y in op.outs):
        yield Pin((x, axis), f"{op.label} has an output of unknown size")
        return
    for y in op.outs:
        yield from in_place(op, x, y, but=(axis,))
    for number, y in enumerate(op.outs):
        size = op.shape(y)[axis]
        if not isinstance(size, int):
            yield Pin((x, axis), f"{op.label} cuts pieces whose size is known only at run time")
            return
        yield window(y, axis, x, axis, start, size)
        yield Count(pieces, number, (x, axis), start, start + size)
        start += size


@rule_for(RULES, "Slice", zero=FIRST, sizes=(1, 2, 3, 4))
def sliced(op: Op) -> Iterator[Fact]:
    """The output owns a window of x along each sliced axis; the bounds follow."""
    x, y, rank = op.ins[0], op.out, op.rank(op.ins[0])
    starts, ends = op.numbers("starts", 1), op.numbers("ends", 2)
    axes = axes_of(op, 3, rank) or list(range(len(starts or [])))
    if starts is None or ends is None or unknown_axes(op, 3) or unknown_axes(op, 4, "steps"):
        yield from pin_all(op, f"{op.label} has bounds that are not known before running")
        return
    steps = op.ints("steps", 4) or [1] * len(axes)
    yield from in_place(op, x, y, but=axes)
    for element, (axis, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        size = op.shape(x)[axis]
        if not isinstance(size, int):
            continue
        if start is None or end is None:
            yield Pin((x, axis), f"{op.label} has bounds on it that are not known before running")
            continue
        stop = None if step < 0 and end < -size else end
        index = np.arange(size)[slice(start, stop, step)]
        yield mapped(x, axis, index, y, axis)
        if step != 1:
            yield Strided((x, axis), (y, axis), index, element)
        elif index.size and index.size < size:
            yield Count(Slot("starts", 1), element, (x, axis), 0, int(index[0]))
            yield Count(Slot("ends", 2), element, (x, axis), 0, int(index[-1]) + 1)


@rule_for(RULES, "Gather", zero=FIRST)
def gather(op: Op) -> Iterator[Fact]:
    """The output takes x's slices at the indices, whose axes stand in the gathered axis' place."""
    x, indices, y = op.ins[0], op.ins[1], op.out
    axis, width = normalized_axis(op, 0, op.rank(x)), op.rank(indices)
    for a in range(op.rank(x)):
        if a != axis:
            yield same(x, a, y, a if a < axis else a + width - 1)
    picked, size = op.graph.constant(indices), op.shape(x)[axis]
    if picked is None or not isinstance(size, int) or width > 1:
        yield Pin((x, axis), f"{op.label} picks from it at run time")
        for a in range(width):
            yield same(indices, a, y, axis + a)
        return
    index = np.where(picked < 0, picked + size, picked).astype(np.int64)
    if width == 0:
        yield Pin((x, axis), f"{op.label} takes this one index", [int(index)])
        yield Positions(Slot("indices", 1), (x, axis), index, None)
        return
    yield mapped(x, axis, index, y, axis)
    yield Positions(Slot("indices", 1), (x, axis), index, (y, axis))


def _pads_with_zero(op: Op) -> Terms | None:
    value = op.numbers("value", 2)
    given = op.has(2) or op.attr("value") is not None
    return FIRST if (value in ([0], [False]) or not given) and op.attr("mode", "constant") == "constant" else None


@rule_for(RULES, "Pad", zero=_pads_with_zero, sizes=(1,))
def pad(op: Op) -> Iterator[Fact]:
    """The input owns a window of the output; the pads follow."""
    x, y, rank = op.ins[0], op.out, op.rank(op.ins[0])
    pads = op.numbers("pads", 1)
    axes = axes_of(op, 3, rank) or list(range(rank))
    if pads is None or unknown_axes(op, 3):
        yield from pin_all(op, f"{op.label} pads by amounts that are not known before running")
        return
    yield from in_place(op, x, y, but=axes)
    for element, axis in enumerate(axes):
        before, after = pads[element], pads[element + len(axes)]
        size = op.shape(x)[axis]
        if before == 0 == after:
            yield same(x, axis, y, axis)
        elif isinstance(size, int) and before is not None and after is not None:
            yield from _padded(op, axis, size, (before, after), (element, element + len(axes)))


def _padded(op: Op, axis: int, size: int, pads: tuple[int, int], elements: tuple[int, int]) -> Iterator[Fact]:
    if min(pads) < 0 or op.attr("mode", "constant") != "constant":
        yield Pin((op.ins[0], axis), f"{op.label} crops it, or fills it from its own values")
        yield Pin((op.out, axis), f"{op.label} crops it, or fills it from its own values")
        return
    low, high = pads[0], pads[0] + size
    yield window(op.ins[0], axis, op.out, axis, low, size)
    yield Count(Slot("pads", 1), elements[0], (op.out, axis), 0, low)
    yield Count(Slot("pads", 1), elements[1], (op.out, axis), high, high + pads[1])
