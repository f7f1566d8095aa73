"""Residual streams: where a layer's output is added to one, the layer can make up for what the stream has lost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from onnxprune.algebra.graph import Graph
from onnxprune.algebra.linear import Linear
from onnxprune.model.record import Array
from onnxprune.recovery.rectifier import behind

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
    for op, slot, factor, _ in behind(graph, linear):
        others = [other for other in op.ins if other and other != op.ins[slot]]
        if len(op.outs) != 1:
            return None
        if op.kind == "Add" and len(others) == 1 and not graph.is_constant(others[0]):
            late = _depends(graph, others[0], linear.op.index, linears)
            alike = op.rank(others[0]) == op.rank(linear.y[0])
            return Stream(others[0], factor, linear.y[1]) if alike and not late else None
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
