"""Linear layers of several operators as matrices: what `onnxprune.algebra.linear` asks of a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnxprune.algebra.graph import Op
from onnxprune.algebra.linear import Index, Linear, added, bias_at, flat, is_free
from onnxprune.model.record import Array

X, W, B = 0, 1, 2


def product(op: Op) -> Linear | None:
    """MatMul of an activation and a constant matrix; a bias is what the next node adds."""
    graph, x, w = op.graph, op.ins[X], op.ins[W]
    if graph.is_constant(x) or not is_free(graph, w) or op.rank(w) != 2 or op.rank(x) < 2:
        return None
    size = graph.shapes[w][1]
    found = _plain(op, x, w, op.rank(x) - 1, transposed=False, factor=1.0)
    return replace(found, bias=added(op, int(size)))


def gemm(op: Op) -> Linear | None:
    """A (M, K), transposed or not, times a constant B; C is its bias if it is a vector."""
    graph, x, w = op.graph, op.ins[X], op.ins[W]
    alpha, beta = float(op.attr("alpha", 1.0)), float(op.attr("beta", 1.0))
    if graph.is_constant(x) or not is_free(graph, w) or not alpha:
        return None
    transposed = bool(op.attr("transB", 0))
    found = _plain(op, x, w, 0 if op.attr("transA", 0) else 1, transposed=transposed, factor=alpha)
    size = int(graph.shapes[w][0 if transposed else 1])
    bias = bias_at(op, B, size, beta) if op.has(B) and beta else added(op, size)
    return replace(found, bias=bias, slot=None if op.has(B) or beta != 1.0 else B)


def _plain(op: Op, x: str, w: str, axis: int, *, transposed: bool, factor: float) -> Linear:
    rows, _ = flat(op.rank(x), axis)
    targets, count = flat(op.rank(op.out), op.rank(op.out) - 1)

    def matrix(weight: Array) -> Array:
        return np.asarray(factor * (weight if transposed else weight.T)[None])

    def tensor(found: Array) -> Array:
        return np.asarray((found[0] if transposed else found[0].T) / factor)

    y = (op.out, op.rank(op.out) - 1)
    return Linear(op, (x, axis), w, y, 1, 1, rows, targets, count, matrix, tensor)


def convolution(op: Op) -> Linear | None:
    """Conv: a row is the patch under the kernel, channel by channel; padding is in it as zeros."""
    graph, w = op.graph, op.ins[W]
    if graph.is_constant(op.ins[X]) or not is_free(graph, w):
        return None
    shape, groups = [int(size) for size in graph.shapes[w]], int(op.attr("group", 1))
    kernel, outputs = shape[2:], shape[0]
    ones = [1] * len(kernel)
    strides, dilations = list(op.attr("strides") or ones), list(op.attr("dilations") or ones)

    def rows(values: Array, pick: Index | None) -> Array:
        padded = np.pad(values, [(0, 0), (0, 0), *_pads(op, values.shape[2:], kernel, strides, dilations)])
        return _patches(padded, kernel, strides, dilations, groups, pick)

    def matrix(weight: Array) -> Array:
        return weight.reshape(groups, outputs // groups, -1)

    def tensor(found: Array) -> Array:
        return found.reshape(shape)

    return _conv(op, groups, math.prod(kernel), rows, matrix, tensor)


def transposed_convolution(op: Op) -> Linear | None:
    """ConvTranspose: a convolution of the input with zeros between its pixels, by the kernel turned around."""
    graph, w = op.graph, op.ins[W]
    if graph.is_constant(op.ins[X]) or not is_free(graph, w) or op.attr("auto_pad", "NOTSET") != "NOTSET":
        return None
    channels, per_group, *kernel = (int(size) for size in graph.shapes[w])
    groups, ones = int(op.attr("group", 1)), [1] * len(kernel)
    strides, dilations = list(op.attr("strides") or ones), list(op.attr("dilations") or ones)
    pads, more = list(op.attr("pads") or [0] * 2 * len(kernel)), list(op.attr("output_padding") or [0] * len(kernel))
    if op.attr("output_shape") is not None:
        return None
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    ends = [(r - pads[i], r - pads[i + len(kernel)] + more[i]) for i, r in enumerate(reach)]
    if min(min(pair) for pair in ends) < 0:
        return None
    turned = tuple(range(-len(kernel), 0))

    def rows(values: Array, pick: Index | None) -> Array:
        sizes = [(size - 1) * stride + 1 for size, stride in zip(values.shape[2:], strides, strict=True)]
        spread = np.zeros((*values.shape[:2], *sizes), values.dtype)
        every: Any = (..., *(slice(None, None, stride) for stride in strides))
        spread[every] = values
        return _patches(np.pad(spread, [(0, 0), (0, 0), *ends]), kernel, ones, dilations, groups, pick)

    def matrix(weight: Array) -> Array:
        split = np.flip(weight, turned).reshape(groups, channels // groups, per_group, -1)
        return split.transpose(0, 2, 1, 3).reshape(groups, per_group, -1)

    def tensor(found: Array) -> Array:
        split = found.reshape(groups, per_group, channels // groups, -1).transpose(0, 2, 1, 3)
        return np.flip(split.reshape(channels, per_group, *kernel), turned)

    return _conv(op, groups, math.prod(kernel), rows, matrix, tensor)


def _conv(
    op: Op,
    groups: int,
    taps: int,
    rows: Callable[[Array, Index | None], Array],
    matrix: Callable[[Array], Array],
    tensor: Callable[[Array], Array],
) -> Linear:
    def targets(values: Array, pick: Index | None) -> Array:
        found = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
        return (found if pick is None else found[pick]).reshape(-1, groups, values.shape[1] // groups)

    def count(values: Array) -> int:
        return int(values.size // max(1, values.shape[1]))

    outputs = op.graph.shapes[op.out][1]
    bias = bias_at(op, B, int(outputs)) if op.has(B) else None
    slot = None if op.has(B) else B
    return Linear(
        op, (op.ins[X], 1), op.ins[W], (op.out, 1), groups, taps, rows, targets, count, matrix, tensor, bias, slot
    )


def _patches(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], groups: int, pick: Index | None
) -> Array:
    """(N, C, *spatial) → (n, groups, C/groups · taps), one row per position of the kernel."""
    dims = len(kernel)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    windows = sliding_window_view(x, reach, axis=tuple(range(2, 2 + dims)))
    steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    windows = windows[(slice(None), slice(None), *steps)]
    by_position = np.moveaxis(windows, 1, 1 + dims)  # (N, *positions, C, *kernel)
    places = by_position.shape[: 1 + dims]
    if pick is None:
        found = by_position.reshape(math.prod(places), *by_position.shape[1 + dims :])
    else:
        found = by_position[np.unravel_index(pick, places)]
    return found.reshape(len(found), groups, -1)


def _pads(
    op: Op, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """What is padded before and behind each spatial axis."""
    auto, dims = op.attr("auto_pad", "NOTSET"), len(kernel)
    if auto in ("NOTSET", "VALID"):
        pads = list(op.attr("pads") or [0] * 2 * dims) if auto == "NOTSET" else [0] * 2 * dims
        return list(zip(pads[:dims], pads[dims:], strict=True))
    return same_pads(auto, sizes, kernel, strides, dilations)


def same_pads(
    auto: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """What ``SAME_UPPER`` or ``SAME_LOWER`` pads before and behind each spatial axis."""
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        need = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        less, more = need // 2, need - need // 2
        found.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return found
