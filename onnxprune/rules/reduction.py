"""Reductions: the reduced axis is summed (zeros vanish) or not (then it stays whole)."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, Normalized, Pin, Pole, Sum, same
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, rule_for
from onnxprune.rules.layout import axes_of, in_place, normalized_axis, pin_all, unknown_axes

RULES: RuleTable = {}

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
OF_ZEROS_IS_ZERO = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


@rule_for(RULES, *SUMS, *OF_ZEROS_IS_ZERO, zero=FIRST)
@rule_for(RULES, "ReduceLogSum", "ReduceLogSumExp")
def reduce(op: Op) -> Iterator[Fact]:
    """Kept axes stay in order; reduced ones vanish, or shrink to 1."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    if unknown_axes(op, 1):
        yield from pin_all(op, f"{op.label} reduces over axes that are not known before running")
        return
    reduced = axes_of(op, 1, rank)
    if not reduced:
        reduced = [] if op.attr("noop_with_empty_axes", 0) else list(range(rank))
    yield from _kept(op, x, rank, reduced)
    if op.kind == "ReduceLogSum":
        yield from (Pole((x, axis)) for axis in range(rank) if axis not in reduced)
    for axis in reduced:
        if op.kind in SUMS:
            yield Sum((x, axis))
        else:
            kept = Normalized if op.kind == "ReduceMean" else Pin
            yield kept((x, axis), f"{op.label} reduces over it by something other than a plain sum")


@rule_for(RULES, "ArgMax", "ArgMin")
def arg_reduce(op: Op) -> Iterator[Fact]:
    """The answer is a position on the reduced axis."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    axis = normalized_axis(op, 0, rank)
    yield from _kept(op, x, rank, [axis])
    yield Pin((x, axis), f"{op.label} returns positions on it")


@rule_for(RULES, "Det", zero=FIRST)
def determinant(op: Op) -> Iterator[Fact]:
    """The last two axes are a matrix; those before it stay."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    for axis in range(rank - 2):
        yield same(x, axis, op.out, axis)
    for axis in (rank - 2, rank - 1):
        yield Pin((x, axis), f"{op.label} needs the whole matrix")


def _kept(op: Op, x: str, rank: int, reduced: list[int]) -> Iterator[Fact]:
    if op.attr("keepdims", 1):
        yield from in_place(op, x, op.out, but=reduced)
        return
    for place, axis in enumerate(a for a in range(rank) if a not in reduced):
        yield same(x, axis, op.out, place)
