"""Operators that pick, place and order by positions that only running the model tells."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, Pin, same, window
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.rules.layout import in_place, normalized_axis, pin_all

RULES: RuleTable = {}

DATA_AND_UPDATES: Terms = ((0,), (2,))


def _first_of(op: Op, part: str, whole: str, *, but: int) -> Iterator[Fact]:
    """Along every other axis the part stands at the whole's first indices."""
    for axis, (size, of) in enumerate(zip(op.shape(part), op.shape(whole), strict=True)):
        if axis == but:
            continue
        if isinstance(size, int) and isinstance(of, int) and size < of:
            yield window(part, axis, whole, axis, 0, size)
        else:
            yield same(part, axis, whole, axis)


@rule_for(RULES, "GatherElements", zero=FIRST)
def gather_elements(op: Op) -> Iterator[Fact]:
    """Positions on one axis are looked up; along the others everything stays where it stands."""
    x, indices, y = op.ins[0], op.ins[1], op.out
    axis = normalized_axis(op, 0, op.rank(x))
    yield Pin((x, axis), f"{op.label} picks from it at run time")
    yield from in_place(op, indices, y)
    yield from _first_of(op, y, x, but=axis)


@rule_for(RULES, "GatherND", zero=FIRST)
def gather_nd(op: Op) -> Iterator[Fact]:
    """The last axis of the indices holds positions on leading axes of x; the axes behind these come along."""
    x, indices, y, batch = op.ins[0], op.ins[1], op.out, op.attr("batch_dims", 0)
    last = op.rank(indices) - 1
    looked_up = op.shape(indices)[last]
    if not isinstance(looked_up, int):
        yield from pin_all(op, f"{op.label} picks along axes that are not known before running")
        return
    for axis in range(batch):
        yield same(x, axis, y, axis)
    for axis in range(last):
        yield same(indices, axis, y, axis)
    yield Pin((indices, last), f"{op.label} reads positions along it")
    for axis in range(batch, batch + looked_up):
        yield Pin((x, axis), f"{op.label} picks from it at run time")
    for place, axis in enumerate(range(batch + looked_up, op.rank(x))):
        yield same(x, axis, y, last + place)


@rule_for(RULES, "ScatterElements", "Scatter", zero=DATA_AND_UPDATES)
def scatter_elements(op: Op) -> Iterator[Fact]:
    """The updates go to positions on one axis; along the others everything stays where it stands."""
    x, indices, updates, y = op.ins[0], op.ins[1], op.ins[2], op.out
    axis = normalized_axis(op, 0, op.rank(x))
    yield from in_place(op, x, y)
    yield from in_place(op, indices, updates, but=(axis,))
    yield from _first_of(op, updates, x, but=axis)
    for name in (x, indices, updates):
        yield Pin((name, axis), f"{op.label} writes to positions on it")


@rule_for(RULES, "ScatterND", zero=DATA_AND_UPDATES)
def scatter_nd(op: Op) -> Iterator[Fact]:
    """The last axis of the indices holds positions on x's leading axes; the axes behind these come along."""
    x, indices, updates, y = op.ins[0], op.ins[1], op.ins[2], op.out
    last = op.rank(indices) - 1
    looked_up = op.shape(indices)[last]
    if not isinstance(looked_up, int):
        yield from pin_all(op, f"{op.label} writes along axes that are not known before running")
        return
    yield from in_place(op, x, y)
    for axis in range(looked_up):
        yield Pin((x, axis), f"{op.label} writes to positions on it")
    for axis in range(last):
        yield Pin((updates, axis), f"{op.label} writes each of its slices somewhere")
    for place, axis in enumerate(range(looked_up, op.rank(x))):
        yield same(x, axis, updates, last + place)


def _unless_positions_are_read(op: Op) -> Terms | None:
    return None if any(y in op.graph.consumers for y in op.outs[1:]) else FIRST  # of equal values, each has another


@rule_for(RULES, "TopK", zero=_unless_positions_are_read)
def top_k(op: Op) -> Iterator[Fact]:
    """One axis is ordered by value; the others stay."""
    x = op.ins[0]
    axis = normalized_axis(op, -1, op.rank(x))
    yield Pin((x, axis), f"{op.label} orders it by value")
    for y in op.outs:
        if y in op.graph.shapes:
            yield from in_place(op, x, y, but=(axis,))
            yield Pin((y, axis), f"{op.label} orders it by value")


@rule_for(RULES, "OneHot")
def one_hot(op: Op) -> Iterator[Fact]:
    """Every index becomes an axis of its own, whose places mean the indices' values."""
    indices, y = op.ins[0], op.out
    axis = normalized_axis(op, -1, op.rank(y))
    for a in range(op.rank(indices)):
        yield same(indices, a, y, a if a < axis else a + 1)
    yield Pin((y, axis), f"{op.label} has one place for each value of an index")


def _starts_at_zero(op: Op) -> Terms | None:
    return None if op.kind == "CumProd" and op.attr("exclusive", 0) else FIRST  # the empty product is one


@rule_for(RULES, "CumSum", "CumProd", zero=_starts_at_zero)
def cumulative(op: Op) -> Iterator[Fact]:
    """Along one axis every index takes in those before it; the others stay."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    axes = op.ints("axis", 1)
    if axes is None:
        yield from pin_all(op, f"{op.label} runs along an axis that is not known before running")
        return
    axis = axes[0] % rank
    yield from in_place(op, x, op.out, but=(axis,))
    for name in (x, op.out):
        yield Pin((name, axis), f"{op.label} carries every index of it on to those that follow")


@rule_for(RULES, "Compress", zero=FIRST)
def compress(op: Op) -> Iterator[Fact]:
    """A condition keeps some indices of one axis; the others stay."""
    x = op.ins[0]
    if op.attr("axis") is None:
        yield from pin_all(op, f"{op.label} picks single values at run time")
        return
    axis = normalized_axis(op, 0, op.rank(x))
    yield from in_place(op, x, op.out, but=(axis,))
    for place in ((x, axis), (op.out, axis), (op.ins[1], 0)):
        yield Pin(place, f"{op.label} keeps what a condition picks at run time")


@rule_for(RULES, "ReverseSequence", zero=FIRST)
def reverse_sequence(op: Op) -> Iterator[Fact]:
    """Each batch entry turns its first steps around; the lengths have one entry per batch entry."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    time, batch = op.attr("time_axis", 0) % rank, op.attr("batch_axis", 1) % rank
    yield from in_place(op, x, op.out, but=(time,))
    yield same(x, batch, op.ins[1], 0)
    for name in (x, op.out):
        yield Pin((name, time), f"{op.label} turns its order around")


@rule_for(RULES, "Trilu", zero=FIRST)
def trilu(op: Op) -> Iterator[Fact]:
    """Rows and columns have their place in a triangle; the axes before them stay."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    triangle = (rank - 2, rank - 1)
    yield from in_place(op, x, op.out, but=triangle)
    for axis in triangle:
        for name in (x, op.out):
            yield Pin((name, axis), f"{op.label} cuts a triangle out of it")
