"""Operators that move axes, split and join them, stretch them, or talk about their sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnxprune.algebra.facts import Count, Fact, Free, Pin, Product, Slot, Tie, same, tile
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import ALWAYS, FIRST, RuleTable, Terms, rule_for
from onnxprune.algebra.symbols import split
from onnxprune.rules.layout import (
    axes_of,
    broadcast,
    given_at_run_time,
    normalized_axis,
    pin_all,
    reshape,
    unknown_axes,
)

RULES: RuleTable = {}

SHAPE = Slot("shape", 1)


@rule_for(RULES, "Constant")
def constant(op: Op) -> Iterator[Fact]:
    """A weight, or a number; who uses it says which."""
    for axis in range(op.rank(op.out)):
        if op.graph.is_constant(op.out):
            yield Free((op.out, axis))
        else:
            yield Pin((op.out, axis), f"{op.label} does not keep its values in a plain tensor")


@rule_for(RULES, "Shape", "Size")
def sizes(op: Op) -> Iterator[Fact]:
    """Reads every width; what becomes of the numbers decides whether an axis may shrink."""
    for axis in range(op.rank(op.ins[0])):
        yield Free((op.ins[0], axis))


def sizes_of(op: Op, slot: Slot, follow_by_themselves: Collection[int] = ()) -> Iterator[Fact]:
    """Element i of the node's shape number is the size of the output's axis i (counted from the last)."""
    wanted, rank = op.sizes(slot.name, slot.slot) or [], op.rank(op.out)
    for element, value in enumerate(wanted):
        axis = element + rank - len(wanted)
        size = op.shape(op.out)[axis]
        if element in follow_by_themselves or split(size).factor < 2:
            continue
        if isinstance(size, str) and value != size:
            yield Pin((op.out, axis), f"{op.label} takes a size on it that is not known before running")
        yield Count(slot, element, (op.out, axis), 0, split(size).factor)


@rule_for(RULES, "Reshape", zero=FIRST, sizes=(1,))
def reshaped(op: Op) -> Iterator[Fact]:
    """Runs of axes of equal size; the target's sizes follow the output's axes, -1 and a copying 0 by themselves."""
    if given_at_run_time(op, 1, "shape"):
        yield from pin_all(op, f"{op.label} takes a shape that is not known before running")
        return
    stated = list(reshape(op, op.ins[0], op.out))
    yield from stated
    wanted = op.numbers("shape", 1) or []
    in_place = {fact.y[1] for fact in stated if isinstance(fact, Tie) and fact.x[1] == fact.y[1]}
    yield from sizes_of(op, SHAPE, {a for a, n in enumerate(wanted) if n == -1 or (n == 0 and a in in_place)})


@rule_for(RULES, "Flatten", zero=FIRST)
def flatten(op: Op) -> Iterator[Fact]:
    """The axes before ``axis`` become the first, the others the second."""
    x, axis = op.ins[0], normalized_axis(op, 1, op.rank(op.ins[0]))
    for place, run in enumerate((range(axis), range(axis, op.rank(x)))):
        factors = tuple((x, a) for a in run if op.shape(x)[a] != 1)
        if factors:
            yield Product((op.out, place), factors)


@rule_for(RULES, "Squeeze", zero=FIRST, sizes=(1,))
def squeeze(op: Op) -> Iterator[Fact]:
    """Axes of size 1 vanish."""
    x, y = op.ins[0], op.out
    axes = axes_of(op, 1, op.rank(x))
    if unknown_axes(op, 1):
        yield from pin_all(op, f"{op.label} drops axes that are not known before running")
        return
    dropped = axes if axes is not None else [a for a, size in enumerate(op.shape(x)) if size == 1]
    if axes is None:
        why = f"{op.label} drops every axis of size 1, so that two indices stay; give it axes to free them"
        yield from (Pin((x, axis), why, [0, 1]) for axis in range(op.rank(x)) if split(op.shape(x)[axis]).factor > 1)
    for place, axis in enumerate(a for a in range(op.rank(x)) if a not in dropped):
        yield same(x, axis, y, place)


@rule_for(RULES, "Unsqueeze", zero=FIRST, sizes=(1,))
def unsqueeze(op: Op) -> Iterator[Fact]:
    """Axes of size 1 appear."""
    x, y = op.ins[0], op.out
    axes = axes_of(op, 1, op.rank(y))
    if axes is None:
        yield from pin_all(op, f"{op.label} adds axes that are not known before running")
        return
    for place, axis in enumerate(a for a in range(op.rank(y)) if a not in axes):
        yield same(x, place, y, axis)


@rule_for(RULES, "Transpose", zero=FIRST)
def transpose(op: Op) -> Iterator[Fact]:
    """Axis i of y is axis ``perm[i]`` of x."""
    rank = op.rank(op.ins[0])
    for axis, source in enumerate(op.attr("perm") or range(rank)[::-1]):
        yield same(op.ins[0], source, op.out, axis)


@rule_for(RULES, "Expand", zero=FIRST, sizes=(1,))
def expand(op: Op) -> Iterator[Fact]:
    """The input is stretched to a shape; a stretched axis belongs to y alone."""
    x, y = op.ins[0], op.out
    if given_at_run_time(op, 1, "shape"):
        yield from pin_all(op, f"{op.label} takes a shape that is not known before running")
        return
    yield from broadcast(op, x, y)
    wanted = op.numbers("shape", 1) or []
    added = op.rank(y) - op.rank(x)
    for axis in range(op.rank(y)):
        if axis < added or op.shape(x)[axis - added] == 1:
            yield Free((y, axis))
    yield from sizes_of(op, SHAPE, {element for element, value in enumerate(wanted) if value == 1})


@rule_for(RULES, "Tile", zero=FIRST, sizes=(1,))
def tiled(op: Op) -> Iterator[Fact]:
    """The input stands ``repeats[i]`` times in a row along axis i."""
    x, repeats = op.ins[0], op.numbers("repeats", 1)
    for axis, (size, times) in enumerate(zip(op.shape(x), repeats or [], strict=False)):
        if times == 1:
            yield same(x, axis, op.out, axis)
        elif size == 1:
            yield Free((op.out, axis))
        elif isinstance(size, int) and times is not None:
            yield tile(x, axis, op.out, axis, int(times), size)


def _filled_with_zero(op: Op) -> Terms | None:
    value = op.attr("value")
    return ALWAYS if value is None or not value.any() else None


@rule_for(RULES, "ConstantOfShape", zero=_filled_with_zero, sizes=(0,))
def constant_of_shape(op: Op) -> Iterator[Fact]:
    """The output has the given shape."""
    if given_at_run_time(op, 0, "shape"):
        yield from pin_all(op, f"{op.label} takes a shape that is not known before running")
        return
    for axis in range(op.rank(op.out)):
        yield Free((op.out, axis))
    yield from sizes_of(op, Slot("shape", 0))
