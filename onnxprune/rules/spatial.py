"""Operators that trade resolution: interpolation, cropping, and blocks of channels moved into space and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.algebra.facts import Count, Fact, Pin, Slot, mapped, repeat, same, tile
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, rule_for
from onnxprune.rules.convolution import convolved
from onnxprune.rules.layout import given_at_run_time, in_place, pin_all

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


@rule_for(RULES, "Col2Im", zero=FIRST)
def col_to_im(op: Op) -> Iterator[Fact]:
    """Every output channel is put together from a run of input channels, one for each place of a block."""
    x, y = op.ins[0], op.out
    columns, channels = op.shape(x)[1], op.shape(y)[1]
    yield same(x, 0, y, 0)
    if isinstance(columns, int) and isinstance(channels, int):
        yield repeat(y, 1, x, 1, columns // channels, channels)


@rule_for(RULES, "CenterCropPad", zero=FIRST, sizes=(1,))
def center_crop_pad(op: Op) -> Iterator[Fact]:
    """Axes whose given size is their size stay, and the size follows; the others are cropped or padded."""
    x, y, rank = op.ins[0], op.out, op.rank(op.ins[0])
    axes = [axis % rank for axis in op.attr("axes") or range(rank)]
    yield from in_place(op, x, y, but=axes)
    for element, (axis, wanted) in enumerate(zip(axes, op.numbers("shape", 1) or [], strict=False)):
        if wanted == op.shape(x)[axis]:
            yield same(x, axis, y, axis)
            yield Count(Slot("shape", 1), element, (y, axis), 0, wanted)


@rule_for(RULES, "GridSample", zero=FIRST)
def grid_sample(op: Op) -> Iterator[Fact]:
    """Every channel of a picture is read at the same places; the grid has one entry per picture."""
    x, grid, y = op.ins[0], op.ins[1], op.out
    yield same(x, 0, y, 0)
    yield same(grid, 0, y, 0)
    yield same(x, 1, y, 1)


@rule_for(RULES, "AffineGrid", zero=FIRST, sizes=(1,))
def affine_grid(op: Op) -> Iterator[Fact]:
    """One grid per map; the size also names a number of channels, on which nothing depends."""
    theta, y, size = op.ins[0], op.out, Slot("size", 1)
    pictures = op.shape(theta)[0]
    if given_at_run_time(op, 1, "size"):
        yield from pin_all(op, f"{op.label} takes a size that is not known before running")
        return
    yield same(theta, 0, y, 0)
    if isinstance(pictures, int):
        yield Count(size, 0, (y, 0), 0, pictures)
    else:
        yield Pin((theta, 0), f"{op.label} takes a size that is not known before running")
    channels = op.graph.numbers[op.ins[1]].ravel()[1] if op.ins[1] in op.graph.numbers else None
    if channels is not None and channels.known and len(channels.reads) == 1:
        (axis,) = channels.reads
        if op.graph.shapes[axis[0]][axis[1]] == channels.value:
            yield Count(size, 1, axis, 0, channels.value)


@rule_for(RULES, "RoiAlign", "MaxRoiPool", zero=FIRST)
def pool_of_regions(op: Op) -> Iterator[Fact]:
    """Channels stay in place; each region names its picture."""
    x, y = op.ins[0], op.out
    for regions in op.ins[1:]:
        yield same(regions, 0, y, 0)
    yield same(x, 1, y, 1)
    yield Pin((x, 0), f"{op.label} picks pictures from it at run time")


@rule_for(RULES, "DeformConv", zero=((0, 1), (3,)))
def deform_conv(op: Op) -> Iterator[Fact]:
    """A convolution that reads at shifted places; each set of shifts keeps as many channels as the others."""
    x, y, sets, channels = op.ins[0], op.out, op.attr("offset_group", 1), op.shape(op.ins[0])[1]
    yield from convolved(op, x, op.ins[1])
    for shifts in (op.ins[2], *op.ins[4:]):
        if shifts:
            yield same(shifts, 0, y, 0)
    if op.has(3):
        yield same(op.ins[3], 0, y, 1)
    if sets > 1 and isinstance(channels, int):
        yield mapped(x, 1, np.arange(channels) % (channels // sets), x, 1)
