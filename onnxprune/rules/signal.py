"""Fourier transforms: every index of the result depends on all of the transformed axis."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, Pin, same
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, rule_for
from onnxprune.rules.layout import in_place, normalized_axis, pin_all, unknown_axes

RULES: RuleTable = {}

AXIS_IS_AN_INPUT = 20  # since this opset


@rule_for(RULES, "DFT", zero=FIRST)
def dft(op: Op) -> Iterator[Fact]:
    """One axis is transformed, the last holds real and imaginary parts, the others stay."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    if op.version >= AXIS_IS_AN_INPUT and unknown_axes(op, 2, "axis"):
        yield from pin_all(op, f"{op.label} transforms an axis that is not known before running")
        return
    given = op.ints("axis", 2) or [-2]
    axis = given[0] % rank if op.version >= AXIS_IS_AN_INPUT else normalized_axis(op, 1, rank)
    yield from in_place(op, x, op.out, but=(axis, rank - 1))
    for name in (x, op.out):
        yield Pin((name, axis), f"{op.label} transforms it as a whole")
        yield Pin((name, rank - 1), f"{op.label} takes it for real and imaginary parts")


@rule_for(RULES, "STFT", zero=FIRST)
def stft(op: Op) -> Iterator[Fact]:
    """Signals of a batch stay apart; each is cut into frames as a whole."""
    x = op.ins[0]
    yield same(x, 0, op.out, 0)
    yield Pin((x, 1), f"{op.label} transforms it as a whole")
