"""Residual streams: where a layer's output is added to one, the layer can make up for what the stream has lost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from onnxprune.graph import Graph, Op
from onnxprune.linear import Linear
from onnxprune.record import Array

SMALLEST = 1e-3  # of the largest factor; what is scaled by less cannot be made up for


@dataclass(frozen=True)
class Stream:
    """What a layer's output is added to.

    Attributes:
        tensor: the other operand.
        factor: what the layer's output is multiplied by before, per channel.
        axis: the channels.
    """

    tensor: str
    factor: Array
    axis: int

    def undo(self, values: Array) -> Array:
        """Values of the stream as values of the layer's output."""
        shape = [1] * values.ndim
        shape[self.axis] = -1
        usable = np.abs(self.factor) > SMALLEST * np.abs(self.factor).max()
        inverse = np.where(usable, 1 / np.where(usable, self.factor, 1.0), 0.0)
        return values * inverse.reshape(shape)


def stream(graph: Graph, linear: Linear, linears: Collection[int]) -> Stream | None:
    """The stream that a layer's output is added to, if nothing but a scale and a shift per channel is in between.

    Only the last of the two operands' layers can make up for the other.
    """
    name, axis = linear.y
    size = int(graph.shapes[name][axis])
    factor = np.ones(size)
    while True:
        readers = graph.consumers.get(name, [])
        if len(readers) != 1 or name in graph.handed_out:
            return None
        op, slot = readers[0]
        others = [other for other in op.ins if other and other != name]
        if op.domain or op.home.path or len(op.outs) != 1:
            return None
        if op.kind == "Add" and len(others) == 1 and not graph.is_constant(others[0]):
            ready = op.rank(others[0]) == op.rank(linear.y[0]) and not _depends(
                graph, others[0], linear.op.index, linears
            )
            return Stream(others[0], factor, axis) if ready else None
        step = _scaled(graph, op, slot, others, size, axis)
        if step is None:
            return None
        factor = factor * step
        name = op.out


def _scaled(graph: Graph, op: Op, slot: int, others: list[str], size: int, axis: int) -> Array | None:
    """What a node multiplies each channel by; ``None`` if it does anything else."""
    if op.kind in ("Identity", "Dropout"):
        return np.ones(size)
    if op.kind == "BatchNormalization" and slot == 0 and axis == 1 and all(map(graph.is_constant, others)):
        scale, _, _, variance = (np.asarray(graph.constant(other)).astype(np.float64) for other in op.ins[1:5])
        return np.asarray(scale / np.sqrt(variance + op.attr("epsilon", 1e-5)))
    if op.kind in ("Add", "Mul") and len(others) == 1 and graph.is_constant(others[0]):
        array = np.asarray(graph.constant(others[0])).astype(np.float64)
        rank = len(graph.shapes[op.ins[slot]])
        channel = array.ndim - rank + axis
        fits = array.size == size and channel >= 0 and array.shape[channel] == size
        if array.ndim <= rank and (array.size == 1 or fits):
            return np.broadcast_to(array.ravel(), size) if op.kind == "Mul" else np.ones(size)
    return None


def _depends(graph: Graph, tensor: str, index: int, linears: Collection[int]) -> bool:
    """Whether a tensor depends on a layer that comes at this place or later."""
    todo, seen = [tensor], {tensor}
    while todo:
        op = graph.producer.get(todo.pop())
        if op is None:
            continue
        if op.index >= index and (op.index in linears or op.bodies):
            return True
        new = [name for name in op.ins if name and name not in seen]
        seen.update(new)
        todo += new
    return False
