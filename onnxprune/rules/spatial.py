"""Operators that trade resolution: interpolation, and blocks of channels moved into space and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.facts import Count, Fact, Slot, mapped, same, tile
from onnxprune.graph import Op
from onnxprune.registry import FIRST, RuleTable, rule_for
from onnxprune.rules.layout import given_at_run_time, pin_all

RULES: RuleTable = {}


@rule_for(RULES, "Upsample", zero=FIRST)
def upsample(op: Op) -> Iterator[Fact]:
    """Axes with scale 1 stay."""
    yield from _unscaled(op, op.numbers("scales", 1) or [], list(range(op.rank(op.ins[0]))))


@rule_for(RULES, "Resize", zero=FIRST, sizes=(3,))
def resize(op: Op) -> Iterator[Fact]:
    """Axes with scale 1, or whose given size is their size, stay; the sizes follow."""
    x, y, rank = op.ins[0], op.out, op.rank(op.ins[0])
    if op.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        yield from pin_all(op, f"{op.label} crops by a region given at run time")
        return
    if given_at_run_time(op, 3, "sizes"):
        yield from pin_all(op, f"{op.label} takes sizes that are not known before running")
        return
    axes = [axis % rank for axis in op.attr("axes") or range(rank)]
    for axis in set(range(rank)) - set(axes):
        yield same(x, axis, y, axis)
    if not op.has(3):
        yield from _unscaled(op, op.numbers("scales", 2 if op.version >= 11 else 1) or [], axes)
        return
    if op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return
    for element, axis in enumerate(axes):
        before, after = op.shape(x)[axis], op.shape(y)[axis]
        if isinstance(before, int) and before == after:
            yield same(x, axis, y, axis)
            yield Count(Slot("sizes", 3), element, (y, axis), 0, before)


def _unscaled(op: Op, scales: list[float], axes: list[int]) -> Iterator[Fact]:
    for axis, scale in zip(axes, scales, strict=False):
        if scale == 1:
            yield same(op.ins[0], axis, op.out, axis)


@rule_for(RULES, "DepthToSpace", zero=FIRST)
def depth_to_space(op: Op) -> Iterator[Fact]:
    """DCR: input channel (b, b, c) feeds output channel c; CRD: (c, b, b)."""
    x, y, blocks = op.ins[0], op.out, op.attr("blocksize") ** 2
    channels = op.shape(x)[1]
    if not isinstance(channels, int):
        return
    across = channels // blocks
    index = np.arange(channels) // blocks if op.attr("mode", "DCR") == "CRD" else np.arange(channels) % across
    yield same(x, 0, y, 0)
    yield mapped(y, 1, index, x, 1)


@rule_for(RULES, "SpaceToDepth", zero=FIRST)
def space_to_depth(op: Op) -> Iterator[Fact]:
    """Output channel (b, b, c) comes from input channel c."""
    x, y = op.ins[0], op.out
    channels = op.shape(x)[1]
    yield same(x, 0, y, 0)
    if isinstance(channels, int):
        yield tile(x, 1, y, 1, op.attr("blocksize") ** 2, channels)
