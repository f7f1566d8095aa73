"""Nets with gates where a test says that they belong, and slopes by central differences in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxprune.algebra.analysis import Analysis
from onnxprune.criteria import Scores
from onnxprune.model.record import Array
from tests.laws import parse

STEP = 1e-5


class Net(NamedTuple):
    """A net, and what must be gated in it.

    Attributes:
        text: the net; where ``[h]`` is read, gates belong.
        gates: the shape of the gate of each of these tensors, and the axis of its units.
        shape: of the input's rows.
    """

    text: str
    gates: dict[str, tuple[tuple[int, ...], int]]
    shape: tuple[int, ...]


def plain(net: Net) -> onnx.ModelProto:
    """The net without gates."""
    text = net.text
    for name in net.gates:
        text = text.replace(f"[{name}]", name)
    return parse("g " + text)


def gated(net: Net) -> ReferenceEvaluator:
    """The net in double precision, with gates where the test says that they belong."""
    text = net.text
    for name in net.gates:
        text = text.replace(f"[{name}]", f"{name}_gated")
    model = parse("g " + text)
    for name, (shape, _) in net.gates.items():
        place = next(i for i, node in enumerate(model.graph.node) if name in node.output)
        node = onnx.helper.make_node("Mul", [name, f"{name}_gate"], [f"{name}_gated"])
        model.graph.node.insert(place + 1, node)
        model.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}_gate", onnx.TensorProto.DOUBLE, shape))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return ReferenceEvaluator(model)


def differences(net: Net, analysis: Analysis, x: Array, loss: Callable[[Array], Array]) -> Scores:
    """By central differences the slope of each sample's loss at the gates of each unit, (samples, units)."""
    model = gated(net)
    columns = []
    for unit in range(analysis.units):
        ends = []
        for step in (STEP, -STEP):
            feed = {"x": x.astype(np.float64)}
            for name, (shape, axis) in net.gates.items():
                moved = 1.0 + step * (analysis.unit_of[analysis.span((name, axis))] == unit)
                feed[f"{name}_gate"] = moved.reshape(shape)
            (y,) = model.run(["y"], feed)
            ends.append(loss(np.asarray(y)))
        columns.append((ends[0] - ends[1]) / (2 * STEP))
    return np.stack(columns, axis=1)


def cross_entropy(labels: Array, y: Array) -> Array:
    top = y.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(y - top).sum(axis=1)) + top[:, 0] - y[np.arange(len(y)), labels])


def batches(net: Net, count: int = 5) -> list[dict[str, Array]]:
    x = np.random.default_rng(1).standard_normal((count, *net.shape)).astype(np.float32)
    return [{"x": x[:3]}, {"x": x[3:]}]
