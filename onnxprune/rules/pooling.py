"""Pools: batch and channels stay in place, spatial axes are nobody's channel."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, same
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, rule_for
from onnxprune.rules.layout import pin_all

RULES: RuleTable = {}

WINDOWED = ("MaxPool", "AveragePool", "LpPool")
GLOBAL = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


@rule_for(RULES, *WINDOWED, *GLOBAL, zero=FIRST)
def pool(op: Op) -> Iterator[Fact]:
    """Axes 0 and 1 are the same."""
    if any(op.outs[1:]):
        yield from pin_all(op, f"{op.label} also returns positions counted over all channels")
        return
    yield same(op.ins[0], 0, op.out, 0)
    yield same(op.ins[0], 1, op.out, 1)
