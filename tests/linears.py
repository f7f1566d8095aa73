"""Linear layers of every kind as ONNX text, and what a test does with one: run it, and look at what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.linear import Linear, layers
from onnxprune.data.inputs import Feed
from onnxprune.model.edits import with_biases
from onnxprune.model.record import Array
from onnxprune.recovery.walk import Walk
from tests.laws import analyse, parse


class Kind(NamedTuple):
    """A layer that reads ``h`` and makes ``z``.

    Attributes:
        node: its node, or nodes.
        h: the shape of what it reads; -1 stands for the rows, which are open.
        z: of what it makes.
        w: of its weight.
        axis: of ``h``, the channels.
        b: of its bias.
    """

    node: str
    h: tuple[int, ...]
    z: tuple[int, ...]
    w: tuple[int, ...]
    axis: int = 1
    b: tuple[int, ...] | None = None


PICTURE, WIDE = (-1, 6, 7, 8), (-1, 6, 4, 3)

CONVOLUTIONS: dict[str, Kind] = {
    "plain": Kind("z = Conv <pads = [1, 1, 1, 1]> (h, w, b)", PICTURE, (-1, 4, 7, 8), (4, 6, 3, 3), b=(4,)),
    "without a bias": Kind("z = Conv(h, w)", PICTURE, (-1, 4, 5, 6), (4, 6, 3, 3)),
    "pointwise": Kind("z = Conv(h, w, b)", PICTURE, (-1, 4, 7, 8), (4, 6, 1, 1), b=(4,)),
    "strided": Kind("z = Conv <strides = [2, 3]> (h, w, b)", PICTURE, (-1, 4, 3, 2), (4, 6, 3, 3), b=(4,)),
    "asymmetric pads": Kind("z = Conv <pads = [0, 2, 1, 0]> (h, w, b)", PICTURE, (-1, 4, 7, 7), (4, 6, 2, 4), b=(4,)),
    "asymmetric pads and strides": Kind(
        "z = Conv <pads = [1, 0, 2, 3], strides = [2, 2]> (h, w, b)", PICTURE, (-1, 4, 4, 5), (4, 6, 3, 3), b=(4,)
    ),
    "same, upper": Kind(
        'z = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (h, w, b)', PICTURE, (-1, 4, 4, 4), (4, 6, 3, 4), b=(4,)
    ),
    "same, lower": Kind(
        'z = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (h, w, b)', PICTURE, (-1, 4, 4, 4), (4, 6, 3, 4), b=(4,)
    ),
    "same, even kernel": Kind(
        'z = Conv <auto_pad = "SAME_UPPER"> (h, w, b)', PICTURE, (-1, 4, 7, 8), (4, 6, 2, 4), b=(4,)
    ),
    "valid": Kind(
        'z = Conv <auto_pad = "VALID", strides = [2, 1]> (h, w, b)', PICTURE, (-1, 4, 3, 6), (4, 6, 3, 3), b=(4,)
    ),
    "dilated": Kind(
        "z = Conv <dilations = [2, 3], pads = [2, 1, 0, 1]> (h, w, b)", PICTURE, (-1, 4, 5, 4), (4, 6, 3, 3), b=(4,)
    ),
    "grouped": Kind(
        "z = Conv <group = 2, pads = [1, 0, 0, 1]> (h, w, b)", PICTURE, (-1, 4, 6, 7), (4, 3, 3, 3), b=(4,)
    ),
    "depthwise": Kind(
        "z = Conv <group = 6, strides = [2, 1]> (h, w, b)", PICTURE, (-1, 12, 3, 6), (12, 1, 3, 3), b=(12,)
    ),
    "of one axis": Kind(
        "z = Conv <pads = [2, 0], strides = [2], dilations = [2]> (h, w, b)", (-1, 6, 9), (-1, 4, 4), (4, 6, 3), b=(4,)
    ),
    "of three axes": Kind(
        "z = Conv <pads = [1, 0, 0, 0, 1, 0]> (h, w, b)", (-1, 6, 4, 3, 5), (-1, 4, 4, 3, 3), (4, 6, 2, 2, 3), b=(4,)
    ),
}

TRANSPOSED: dict[str, Kind] = {
    "plain": Kind("z = ConvTranspose(h, w, b)", WIDE, (-1, 4, 6, 6), (6, 4, 3, 4), b=(4,)),
    "without a bias": Kind("z = ConvTranspose(h, w)", WIDE, (-1, 4, 6, 6), (6, 4, 3, 4)),
    "strided": Kind("z = ConvTranspose <strides = [2, 3]> (h, w, b)", WIDE, (-1, 4, 9, 10), (6, 4, 3, 4), b=(4,)),
    "gaps": Kind("z = ConvTranspose <strides = [3, 3]> (h, w, b)", WIDE, (-1, 4, 11, 8), (6, 4, 2, 2), b=(4,)),
    "asymmetric pads": Kind(
        "z = ConvTranspose <strides = [2, 2], pads = [0, 2, 1, 0]> (h, w, b)", WIDE, (-1, 4, 8, 6), (6, 4, 3, 4), b=(4,)
    ),
    "output padding": Kind(
        "z = ConvTranspose <strides = [2, 3], pads = [1, 1, 1, 1], output_padding = [1, 2]> (h, w, b)",
        WIDE,
        (-1, 4, 8, 10),
        (6, 4, 3, 4),
        b=(4,),
    ),
    "dilated": Kind(
        "z = ConvTranspose <dilations = [2, 3], strides = [1, 2], pads = [1, 0, 0, 2]> (h, w, b)",
        WIDE,
        (-1, 4, 7, 6),
        (6, 4, 3, 2),
        b=(4,),
    ),
    "grouped": Kind(
        "z = ConvTranspose <group = 2, strides = [2, 1]> (h, w, b)", WIDE, (-1, 8, 9, 6), (6, 4, 3, 4), b=(8,)
    ),
    "of one axis": Kind(
        "z = ConvTranspose <strides = [2], pads = [1, 0]> (h, w, b)", (-1, 6, 5), (-1, 4, 10), (6, 4, 3), b=(4,)
    ),
}

PRODUCTS: dict[str, Kind] = {
    "Gemm": Kind("z = Gemm(h, w, b)", (-1, 6), (-1, 4), (6, 4), b=(4,)),
    "Gemm, transB": Kind("z = Gemm <transB = 1> (h, w, b)", (-1, 6), (-1, 4), (4, 6), b=(4,)),
    "Gemm, transA": Kind("z = Gemm <transA = 1> (h, w, b)", (6, -1), (-1, 4), (6, 4), axis=0, b=(4,)),
    "Gemm, both": Kind("z = Gemm <transA = 1, transB = 1> (h, w, b)", (6, -1), (-1, 4), (4, 6), axis=0, b=(4,)),
    "Gemm, alpha and beta": Kind(
        "z = Gemm <alpha = 0.3, beta = -1.7, transB = 1> (h, w, b)", (-1, 6), (-1, 4), (4, 6), b=(1, 4)
    ),
    "Gemm, alpha alone": Kind("z = Gemm <alpha = -2.5> (h, w)", (-1, 6), (-1, 4), (6, 4)),
    "Gemm, without a bias": Kind("z = Gemm(h, w)", (-1, 6), (-1, 4), (6, 4)),
    "Gemm, beta of 0": Kind("z = Gemm <beta = 0.0> (h, w)", (-1, 6), (-1, 4), (6, 4)),
    "Gemm, a bias behind": Kind("m = Gemm <beta = 0.5> (h, w)  z = Add(m, b)", (-1, 6), (-1, 4), (6, 4), b=(4,)),
    "MatMul": Kind("z = MatMul(h, w)", (-1, 6), (-1, 4), (6, 4)),
    "MatMul, leading axes": Kind("z = MatMul(h, w)", (-1, 3, 2, 6), (-1, 3, 2, 4), (6, 4), axis=3),
    "MatMul, a bias first": Kind(
        "m = MatMul(h, w)  z = Add(b, m)", (-1, 3, 6), (-1, 3, 4), (6, 4), axis=2, b=(1, 1, 4)
    ),
    "MatMul, a bias second": Kind("m = MatMul(h, w)  z = Add(m, b)", (-1, 3, 6), (-1, 3, 4), (6, 4), axis=2, b=(4,)),
}

KINDS: dict[str, Kind] = {
    **{f"Conv, {name}": kind for name, kind in CONVOLUTIONS.items()},
    **{f"ConvTranspose, {name}": kind for name, kind in TRANSPOSED.items()},
    **PRODUCTS,
}
"""Every kind of layer."""


def declared(name: str, shape: Sequence[int]) -> str:
    """A tensor's declaration; -1 is an open size."""
    return f"float[{','.join('N' if size < 0 else str(size) for size in shape)}] {name}"


def weights(kind: Kind) -> str:
    """The declarations of a layer's weights."""
    return ", ".join(declared(name, shape) for name, shape in (("w", kind.w), ("b", kind.b)) if shape is not None)


def alone(kind: Kind, seed: int = 0) -> onnx.ModelProto:
    """A model of one layer."""
    text = f"g ({declared('h', kind.h)}) => ({declared('z', kind.z)}) <{weights(kind)}> {{ {kind.node} }}"
    return parse(text, seed=seed)


def normal(shape: Sequence[int], rows: int = 3, seed: int = 0) -> Array:
    """Random values; -1 stands for the rows."""
    sizes = [rows if size < 0 else size for size in shape]
    return np.random.default_rng(seed).standard_normal(sizes).astype(np.float32)


def batches(shapes: Mapping[str, Sequence[int]], count: int = 5, rows: int = 8, seed: int = 0) -> list[Feed]:
    """Feeds of random values."""
    return [
        {
            name: normal(shape, rows, 1000 * seed + 10 * number + slot)
            for slot, (name, shape) in enumerate(shapes.items())
        }
        for number in range(count)
    ]


def found(model: onnx.ModelProto) -> list[Linear]:
    """The linear layers of a model."""
    analysis = analyse(model)
    return list(layers(analysis.graph, analysis.rule))


def prepared(model: onnx.ModelProto) -> Analysis:
    """A model's units, once every layer has a bias."""
    analysis = analyse(model)
    return Analysis(Graph(with_biases(analysis.graph, layers(analysis.graph, analysis.rule))))


def outputs(
    graph: Graph, feeds: Sequence[Feed], names: Sequence[str], values: Mapping[str, Array] | None = None
) -> list[Array]:
    """Tensors of a model, the batches put together."""
    found = list(Walk(graph, feeds, values).map(names, lambda _, given: dict(given)))
    return [np.concatenate([given[name].astype(np.float64) for given in found]) for name in names]


def relative(found: Array, wanted: Array) -> float:
    """The largest difference, as a fraction of what is wanted's range."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.ptp(wanted))


def mask(analysis: Analysis, axis: tuple[str, int], indices: Sequence[int]) -> Mask:
    """The units that lie on these indices of an axis."""
    units = analysis.unit_of[analysis.span(axis)][list(indices)]
    assert (units >= 0).all(), "these may not go"
    removed = np.zeros(analysis.units, dtype=bool)
    removed[units] = True
    return removed


def replaced(model: onnx.ModelProto, name: str, change: Callable[[NDArray[np.float32]], object]) -> None:
    """Change an initializer's values in place."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = np.array(numpy_helper.to_array(tensor))
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
