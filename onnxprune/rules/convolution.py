"""Convolutions: x (N, C, *spatial), W (M, C/group, *kernel), y (N, M, *spatial)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.algebra.facts import Count, Fact, Macs, Slot, mapped, repeat, same, tile
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import RuleTable, Terms, rule_for
from onnxprune.rules import matrices

RULES: RuleTable = {}

X, W, B = 0, 1, 2
LINEAR: Terms = ((X, W), (B,))


def _bias(op: Op, y: str) -> Iterator[Fact]:
    if op.has(B):
        yield same(op.ins[B], 0, y, 1)


def _depthwise(op: Op, x: str, channels: int, outputs: int) -> Iterator[Fact]:
    """Input channel c makes output channels c·m … c·m + m - 1 and nothing else; ``group`` counts the inputs."""
    yield repeat(x, 1, op.out, 1, outputs // channels, channels)
    yield Count(Slot("group"), None, (x, 1), 0, channels)


@rule_for(RULES, "Conv", zero=LINEAR, linear=matrices.convolution)
def conv(op: Op) -> Iterator[Fact]:
    """Input, weight and bias."""
    yield from convolved(op, op.ins[X], op.ins[W])
    yield from _bias(op, op.out)


def convolved(op: Op, x: str, w: str) -> Iterator[Fact]:
    """The same position in every group lives or dies together; depthwise, in and out do."""
    y, group = op.out, op.attr("group", 1)
    outputs, per_group = op.shape(w)[0], op.shape(w)[1]
    if not isinstance(outputs, int) or not isinstance(per_group, int):
        return
    yield same(x, 0, y, 0)
    yield same(w, 0, y, 1)
    yield Macs(((y, 0), *((y, a) for a in range(2, op.rank(y))), *((w, a) for a in range(op.rank(w)))))
    if group == 1:
        yield same(x, 1, w, 1, sums=True)
    elif per_group == 1:
        yield from _depthwise(op, x, group, outputs)
    else:
        yield tile(w, 1, x, 1, group, per_group, sums=True)
        yield mapped(y, 1, np.arange(outputs) % (outputs // group), y, 1)


@rule_for(RULES, "ConvTranspose", zero=LINEAR, linear=matrices.transposed_convolution)
def conv_transpose(op: Op) -> Iterator[Fact]:
    """W is (C, M/group, *kernel) here."""
    x, w, y, group = op.ins[X], op.ins[W], op.out, op.attr("group", 1)
    channels, per_group = op.shape(w)[0], op.shape(w)[1]
    if not isinstance(channels, int) or not isinstance(per_group, int):
        return
    yield same(x, 0, y, 0)
    yield from _bias(op, y)
    yield Macs(((x, 0), *((x, a) for a in range(2, op.rank(x))), *((w, a) for a in range(op.rank(w)))))
    if group == channels and group > 1:
        yield same(x, 1, w, 0)
        yield from _depthwise(op, x, group, group * per_group)
        return
    yield same(x, 1, w, 0, sums=True)
    yield tile(w, 1, y, 1, group, per_group)
    if group > 1:
        yield mapped(x, 1, np.arange(channels) % (channels // group), x, 1)
