"""Normalisations: what is normalised per channel may lose channels, what is normalised over an axis may not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.algebra.facts import Count, Fact, Normalized, Pin, Pole, Scale, Slot, mapped, same
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.rules.layout import broadcast, in_place, normalized_axis, pin_all

RULES: RuleTable = {}

SCALE_AND_BIAS: Terms = ((1,), (2,))


@rule_for(RULES, "BatchNormalization", zero=SCALE_AND_BIAS)
def batch_normalization(op: Op) -> Iterator[Fact]:
    """Scale, bias, mean and variance have one entry per channel (axis 1)."""
    extra_outputs = [y for y in op.outs[1:] if y]
    if op.attr("training_mode", 0) or extra_outputs or not op.attr("spatial", 1):
        yield from pin_all(op, f"{op.label} is in training mode, or normalises every position")
        return
    yield from in_place(op, op.ins[0], op.out)
    for parameter in op.ins[1:5] if op.rank(op.out) > 1 else ():  # a single axis is the batch, of one channel
        yield same(parameter, 0, op.out, 1)
    yield Scale((op.ins[1], 0))
    if op.attr("epsilon", 1e-5) <= 0:
        yield Pole((op.ins[4], 0))


@rule_for(RULES, "InstanceNormalization", zero=SCALE_AND_BIAS)
def instance_normalization(op: Op) -> Iterator[Fact]:
    """Statistics are taken over the spatial axes of each channel."""
    x, y = op.ins[0], op.out
    spatial = range(2, op.rank(x))
    yield from in_place(op, x, y, but=spatial)
    for parameter in op.ins[1:3]:
        yield same(parameter, 0, y, 1)
    yield Scale((op.ins[1], 0))
    for axis in spatial:
        yield Pin((x, axis), f"{op.label} normalises over it")


def _like_x(op: Op) -> Iterator[Shape]:
    yield op.shape(op.ins[0])


@rule_for(RULES, "GroupNormalization", zero=SCALE_AND_BIAS, shapes=_like_x)
def group_normalization(op: Op) -> Iterator[Fact]:
    """Statistics are taken over a group of neighbouring channels, which stays or goes as a whole."""
    x, y, groups, channels = op.ins[0], op.out, op.attr("num_groups"), op.shape(op.ins[0])[1]
    if groups == 1 or op.attr("epsilon", 1e-5) <= 0 or not isinstance(channels, int):
        yield from pin_all(op, f"{op.label} normalises over all channels, or has no epsilon")
        return
    spatial, per = range(2, op.rank(x)), channels // groups
    yield from in_place(op, x, y, but=spatial)
    for axis in spatial:
        yield Pin((x, axis), f"{op.label} normalises over it")
    for parameter in op.ins[1:3]:
        yield same(parameter, 0, y, 1)
    yield Scale((op.ins[1], 0))
    yield mapped(y, 1, np.arange(channels) // per * per, y, 1)
    yield Count(Slot("num_groups"), None, (y, 1), 0, channels, per)


@rule_for(RULES, "LpNormalization", zero=FIRST)
def lp_normalization(op: Op) -> Iterator[Fact]:
    """All indices of one axis are divided by one norm (by which nothing is divided where it is zero); others stay."""
    x, axis = op.ins[0], normalized_axis(op, -1, op.rank(op.ins[0]))
    yield from in_place(op, x, op.out, but=(axis,))
    for name in (x, op.out):
        yield Pin((name, axis), f"{op.label} normalises over it: removing an index changes all others")


def normalized_shapes(op: Op) -> Iterator[Shape]:
    """The output, and for each position the mean and the deviation; onnxruntime has these operators in older opsets."""
    shape = op.shape(op.ins[0])
    axis = normalized_axis(op, -1, len(shape))
    yield shape
    yield from ((*shape[:axis], *[1] * (len(shape) - axis)),) * 2


@rule_for(RULES, "LayerNormalization", "RMSNormalization", shapes=normalized_shapes)
def layer_normalization(op: Op) -> Iterator[Fact]:
    """Statistics are taken over all axes from ``axis`` on; the others keep their place."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    normalised = range(normalized_axis(op, -1, rank), rank)
    for y in op.outs:
        if y in op.graph.shapes:
            yield from in_place(op, x, y, but=() if y == op.out else normalised)
    for axis in normalised:
        yield Normalized((x, axis), f"{op.label} normalises over it: removing an index changes all others")
    for parameter in op.ins[1:]:
        if parameter:
            yield from broadcast(op, parameter, x)


@rule_for(RULES, "LRN", zero=FIRST)
def lrn(op: Op) -> Iterator[Fact]:
    """Each channel is divided by a sum over its neighbours, so a channel has a place among them."""
    yield from in_place(op, op.ins[0], op.out)
    yield Pin((op.ins[0], 1), f"{op.label} mixes neighbouring channels")
