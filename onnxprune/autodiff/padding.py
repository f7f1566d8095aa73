"""Pads written out where onnx-ad needs them: it knows no ``auto_pad``, and it splits a convolution's pads by itself.

The gradient of a window's input is a transposed convolution whose pads onnx-ad leaves to the runtime, which knows their
sum t alone and puts t - ⌊t/2⌋ of it in front. Where a node has other pads, a Slice and a Pad before it take them over.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.algebra.graph import Graph, Op, Shape
from onnxprune.model.record import Array

WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
SPREAD = ("Conv", "AveragePool", "LpPool")  # whose gradient is a transposed convolution


class Window(NamedTuple):
    """How a node's window moves along one axis.

    Attributes:
        size: of the input.
        places: of the window, the size of the output.
        kernel: taps.
        stride: between two places.
        dilation: between two taps.
        before: what is padded in front.
        total: what must be padded in all, so that the last place just fits; negative where the end is never read.
    """

    size: int
    places: int
    kernel: int
    stride: int
    dilation: int
    before: int
    total: int

    @property
    def guessed(self) -> bool:
        """Whether the runtime splits the pads just so."""
        return self.before == self.total - self.total // 2

    def held(self) -> Array:
        """For each place, how many taps lie within the input."""
        at = np.arange(self.places)[:, None] * self.stride - self.before + np.arange(self.kernel) * self.dilation
        return np.asarray(((at >= 0) & (at < self.size)).sum(axis=1))


def written_out(graph: Graph) -> onnx.ModelProto:
    """A model of known shapes, the pads of its convolutions and pools as onnx-ad gets them right."""
    model = graph.record.whole()
    before: dict[int, list[onnx.NodeProto]] = {}
    behind: dict[int, onnx.NodeProto] = {}
    for op in (op for op in graph.ops if op.kind in WINDOWS and not op.domain and not op.home.path):
        windows = _windows(op)
        if not windows:
            continue
        node = model.graph.node[op.place]
        if str(op.attr("auto_pad", "NOTSET")).startswith("SAME"):
            _set(node, "auto_pad", None)
            _set(node, "pads", [w.before for w in windows] + [max(0, w.total - w.before) for w in windows])
        if op.kind in SPREAD and not all(w.guessed for w in windows) and not op.attr("ceil_mode", 0):
            before[op.place] = _padded(model.graph, node, windows)
            if op.kind == "AveragePool" and not op.attr("count_include_pad", 0):
                behind[op.place] = _rescaled(model.graph, node, windows, graph.types[op.ins[0]])
    for place in sorted(before, reverse=True):
        if place in behind:
            model.graph.node.insert(place + 1, behind[place])
        for made in reversed(before[place]):
            model.graph.node.insert(place, made)
    return model


def _windows(op: Op) -> list[Window]:
    """The window along each axis; none where sizes are not known."""
    shapes = op.graph.shapes
    sizes, counts = _known(shapes.get(op.ins[0], ())), _known(shapes.get(op.out, ()))
    kernel = op.attr("kernel_shape") or (_known(shapes.get(op.ins[1], ())) if len(op.ins) > 1 else [])
    if not sizes or not len(sizes) == len(counts) == len(kernel):
        return []
    ones = [1] * len(kernel)
    steps, dilations = op.attr("strides", ones), op.attr("dilations", ones)
    extra = op.attr("output_padding", [0] * len(kernel))
    pads, mode = op.attr("pads", [0] * len(kernel)), op.attr("auto_pad", "NOTSET")
    found = []
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        small, large, more = (size, count, extra[axis]) if op.kind == "ConvTranspose" else (count, size, 0)
        total = (small - 1) * steps[axis] + more + (kernel[axis] - 1) * dilations[axis] + 1 - large
        given = {"NOTSET": pads[axis], "VALID": 0, "SAME_UPPER": max(0, total) // 2}
        first = given.get(mode, max(0, total) - max(0, total) // 2)
        found.append(Window(size, count, kernel[axis], steps[axis], dilations[axis], first, total))
    return found


def _known(shape: Shape) -> list[int]:
    """The sizes behind the first two axes; none, if one is not known."""
    found = [size for size in shape[2:] if isinstance(size, int)]
    return found if len(found) == len(shape) - 2 else []


def _padded(graph: onnx.GraphProto, node: onnx.NodeProto, windows: list[Window]) -> list[onnx.NodeProto]:
    """Nodes that pad another one's input in its stead, and take away what it never reads at the ends."""
    stem, made, axes = f"{node.output[0]}:onnxprune", [], np.arange(2, 2 + len(windows))
    behind = [w.total - w.before for w in windows]
    ends = [w.size + min(0, more) for w, more in zip(windows, behind, strict=True)]
    pads = [0, 0, *(w.before for w in windows), 0, 0, *(max(0, more) for more in behind)]
    for kind, numbers in (("Slice", (np.zeros_like(axes), ends, axes)), ("Pad", (pads,))):
        names = [f"{stem}:{kind}:{place}" for place in range(len(numbers))]
        for name, values in zip(names, numbers, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        made.append(helper.make_node(kind, [node.input[0], *names], [f"{stem}:{kind}"]))
        node.input[0] = f"{stem}:{kind}"
    _set(node, "auto_pad", None)
    _set(node, "pads", [0] * 2 * len(windows))
    return made


def _rescaled(graph: onnx.GraphProto, node: onnx.NodeProto, windows: list[Window], kind: int) -> onnx.NodeProto:
    """A node that makes a mean over a window with its pads one over what was there."""
    parts = [w.kernel / w.held() for w in windows]
    factor = reduce(np.multiply.outer, parts).astype(helper.tensor_dtype_to_np_dtype(kind))
    name, final = f"{node.output[0]}:onnxprune:factor", node.output[0]
    graph.initializer.append(numpy_helper.from_array(factor[None, None], name))
    node.output[0] = f"{name}:mean"
    return helper.make_node("Mul", [node.output[0], name], [final])


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give an attribute a value, or take it away."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))
