"""Linear layers with what is folded into them, or could be: y = s ⊙ (W x + b) + t, channel by channel.

A batch normalisation behind a convolution is such an s and t. One exporter folds it and another does not, so a layer
reaches from its product to the last node behind it that scales or shifts its channels by constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.linear import Linear, layers
from onnxprune.algebra.registry import Rule, load

Matrix = NDArray[np.floating]

CARRIERS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Transpose")
"""What may lie between a product and what scales it: it keeps the channels apart."""
EPSILON = 1e-5  # of BatchNormalization, if it says nothing


class Step(NamedTuple):
    """What scales and shifts the channels of what a layer makes.

    Attributes:
        ops: the node, behind those that only hand values on to it.
        axis: the channels behind it.
        scale: of each.
        shift: the same.
    """

    ops: list[Op]
    axis: Axis
    scale: Matrix
    shift: Matrix


@dataclass
class Layer:
    """A linear layer, its tail included.

    Attributes:
        linear: the node that multiplies.
        raw: its weight as (O, D), groups below each other.
        raw_bias: what it adds itself, (O,).
        steps: what follows it and scales or shifts its channels.
        tail: the nodes of these steps, those between them included.
        end: the axis of the layer's last tensor that W's rows make.
        scale: of each row, by the tail.
        shift: the same.
    """

    linear: Linear
    raw: Matrix
    raw_bias: Matrix
    steps: list[Step]

    def __post_init__(self) -> None:
        self.cut(len(self.steps))

    def cut(self, length: int) -> None:
        """Let the layer end behind so many of its steps."""
        kept = self.steps[:length]
        self.tail = [op for step in kept for op in step.ops]
        self.end = kept[-1].axis if kept else self.linear.y
        self.scale, self.shift = np.ones(len(self.raw)), np.zeros(len(self.raw))
        for step in kept:
            self.scale, self.shift = self.scale * step.scale, self.shift * step.scale + step.shift

    @property
    def op(self) -> Op:
        """The node that multiplies."""
        return self.linear.op

    @property
    def ops(self) -> list[Op]:
        """All its nodes."""
        return [self.op, *self.tail]

    @property
    def weight(self) -> Matrix:
        """(O, D) with the tail's scale in it."""
        return self.raw * self.scale[:, None] if self.tail else self.raw

    @property
    def bias(self) -> Matrix:
        """(O,), the tail's included."""
        return self.raw_bias * self.scale + self.shift

    @cached_property
    def directions(self) -> Matrix:
        """The rows of the weight at length 1, as no normalisation behind it changes them."""
        lengths = np.linalg.norm(self.raw, axis=1, keepdims=True)
        return np.asarray(self.raw / np.where(lengths, lengths, 1.0).astype(self.raw.dtype))

    @property
    def taps(self) -> tuple[int, ...]:
        """The sizes of its kernel, if it has one."""
        weight = self.op.graph.shapes[self.linear.w]
        return tuple(int(size) for size in weight[2:]) if self.linear.taps > 1 else ()

    @property
    def key(self) -> tuple[int, ...]:
        """What two layers must have in common: rows, columns, groups."""
        return (*self.raw.shape, self.linear.groups)


def found(graph: Graph) -> list[Layer]:
    """The linear layers of a graph, in the order in which they run."""
    rules = load("rules")

    def rule(op: Op) -> Rule | None:
        known = all(name in graph.shapes for name in op.tensors)
        return rules.get((op.domain, op.kind)) if known else None

    return [_layer(graph, linear) for linear in layers(graph, rule)]


def _layer(graph: Graph, linear: Linear) -> Layer:
    weight = np.asarray(graph.constant(linear.w))
    matrix = linear.matrix(weight.astype(np.promote_types(weight.dtype, np.float32)))
    raw = np.ascontiguousarray(matrix.reshape(-1, matrix.shape[-1]))
    rows = len(raw)
    bias = np.zeros(rows)
    if linear.bias is not None and linear.bias.inside:
        value = np.asarray(graph.constant(linear.bias.name)).astype(np.float64)
        bias = np.broadcast_to(linear.bias.factor * value.ravel(), (rows,))
    return Layer(linear, raw, bias, list(_behind(graph, linear.y, rows)))


def _behind(graph: Graph, axis: Axis, rows: int) -> Iterator[Step]:
    """The nodes behind a layer, one reader after the other, each with those that only move axes before it."""
    moves: list[Op] = []
    while True:
        readers = graph.consumers.get(axis[0], [])
        if len(readers) != 1 or axis[0] in graph.handed_out or readers[0][0].home.path:
            return
        op, slot = readers[0]
        if op.kind in CARRIERS and not op.domain and slot == 0:
            axis = (op.out, _moved(graph, op, axis))
            moves.append(op)
            continue
        affine = _affine(graph, op, slot, axis, rows)
        if affine is None:
            return
        axis = (op.out, axis[1])
        yield Step([*moves, op], axis, *affine)
        moves = []


def _moved(graph: Graph, op: Op, axis: Axis) -> int:
    """Where a node that carries values lays an axis."""
    if op.kind != "Transpose":
        return axis[1]
    return list(op.attr("perm") or reversed(range(len(graph.shapes[axis[0]])))).index(axis[1])


def _affine(graph: Graph, op: Op, slot: int, axis: Axis, rows: int) -> tuple[Matrix, Matrix] | None:
    """The scale and the shift that a node gives to each channel, if that is all that it does."""
    if op.domain:
        return None
    if op.kind == "BatchNormalization":
        return _normalization(graph, op) if slot == 0 and axis[1] == 1 and not op.attr("training_mode", 0) else None
    if op.kind not in ("Add", "Sub", "Mul", "Div") or len(op.ins) != 2 or (op.kind in ("Sub", "Div") and slot):
        return None
    value = _vector(graph, op.ins[1 - slot], axis, rows)
    if value is None or (op.kind == "Div" and not value.all()):
        return None
    if op.kind in ("Mul", "Div"):
        return (value if op.kind == "Mul" else 1 / value), np.zeros(rows)
    return np.ones(rows), value if op.kind == "Add" else -value


def _normalization(graph: Graph, op: Op) -> tuple[Matrix, Matrix] | None:
    values = [graph.constant(name) for name in op.ins[1:5]]
    if any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value).astype(np.float64) for value in values)
    scale = gamma / np.sqrt(variance + float(op.attr("epsilon", EPSILON)))
    return scale, beta - mean * scale


def _vector(graph: Graph, name: str, axis: Axis, rows: int) -> Matrix | None:
    """A constant with one entry for all channels, or one for each of them."""
    value = graph.constant(name) if graph.is_constant(name) else None
    rank = len(graph.shapes.get(axis[0], ()))
    if value is None or value.dtype.kind not in "fV" or value.ndim > rank:
        return None
    sizes = [1] * (rank - value.ndim) + list(value.shape)
    if any(size != 1 for place, size in enumerate(sizes) if place != axis[1]) or sizes[axis[1]] not in (1, rows):
        return None
    return np.broadcast_to(value.astype(np.float64).ravel(), (rows,))
