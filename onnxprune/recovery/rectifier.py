"""Rectifiers: where a layer's output is cut off at a bound, what lies beyond the bound need not be met.

A target beyond the bound is met by anything beyond it. The least-squares problem with such targets has no closed form;
it is solved by rounds, in each of which a target beyond the bound is where the last solution lies, if that is beyond
it, too, and the bound itself otherwise (Zhang et al., Accelerating Very Deep Convolutional Networks, 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.linear import Linear
from onnxprune.recovery.moments import Matrix

SMALLEST = 1e-9  # factor that can be undone


@dataclass(frozen=True)
class Rectifier:
    """What happens to a layer's output: scaled and shifted per channel, then cut off at two bounds.

    Attributes:
        factor: per channel, (G, O).
        shift: per channel, (G, O).
        low: the lower bound.
        high: the upper bound.
    """

    factor: Matrix
    shift: Matrix
    low: float
    high: float

    def forward(self, y: Matrix) -> Matrix:
        """What comes out for outputs (n, G, O)."""
        return np.clip(self.factor * y + self.shift, self.low, self.high)

    def targets(self, y: Matrix, now: Matrix) -> Matrix:
        """What a round aims at, given what should come out of the layer, and what does by now."""
        wanted, found = self.factor * y + self.shift, self.factor * now + self.shift
        beyond = np.where(wanted <= self.low, np.minimum(found, self.low), wanted)
        beyond = np.where(wanted >= self.high, np.maximum(found, self.high), beyond)
        return np.asarray((beyond - self.shift) / self.factor)

    def of(self, groups: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Rectifier:
        """The same for some of the groups."""
        return Rectifier(self.factor[groups], self.shift[groups], self.low, self.high)


def rectifier(graph: Graph, linear: Linear) -> Rectifier | None:
    """What cuts a layer's output off, if nothing but a scale and a shift per channel is in between."""
    for op, _, factor, shift in behind(graph, linear):
        bounds = _bounds(graph, op)
        if bounds is not None:
            usable = np.where(np.abs(factor) > SMALLEST, factor, SMALLEST).reshape(linear.groups, -1)
            return Rectifier(usable, shift.reshape(linear.groups, -1), *bounds)
    return None


def behind(graph: Graph, linear: Linear) -> Iterator[tuple[Op, int, Matrix, Matrix]]:
    """The nodes behind a layer, as long as each is the only reader of the last and scales and shifts per channel.

    With each the input that it reads the layer's output by, and the scale and the shift so far.
    """
    name, axis = linear.y
    size = int(graph.shapes[name][axis])
    factor, shift = np.ones(size), np.zeros(size)
    while True:
        readers = graph.consumers.get(name, [])
        if len(readers) != 1 or name in graph.handed_out or readers[0][0].domain or readers[0][0].home.path:
            return
        op, slot = readers[0]
        yield op, slot, factor, shift
        step = affine(graph, op, slot, size, axis)
        if step is None:
            return
        factor, shift = factor * step[0], shift * step[0] + step[1]
        name = op.out


def _bounds(graph: Graph, op: Op) -> tuple[float, float] | None:
    """Where a node cuts off, if that is what it does."""
    if op.kind == "Relu":
        return 0.0, np.inf
    if op.kind != "Clip":
        return None
    found = []
    for slot, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = op.attr(name)
        if value is None and op.has(slot):
            array = graph.constant(op.ins[slot]) if graph.is_constant(op.ins[slot]) else None
            if array is None:
                return None
            value = float(np.asarray(array).ravel()[0])
        found.append(default if value is None else float(value))
    return found[0], found[1]


def affine(graph: Graph, op: Op, slot: int, size: int, axis: int) -> tuple[Matrix, Matrix] | None:
    """What a node multiplies each channel by, and what it adds then; ``None`` if it does anything else.

    Args:
        graph: the model.
        op: the node.
        slot: its input that carries the channels.
        size: how many there are.
        axis: where they lie.
    """
    if op.kind in ("Identity", "Dropout"):
        return np.ones(size), np.zeros(size)
    others = [name for place, name in enumerate(op.ins) if name and place != slot]
    if not others or not all(map(graph.is_constant, others)):
        return None
    if op.kind == "BatchNormalization" and slot == 0 and axis == 1:
        scale, bias, mean, variance = (np.asarray(graph.constant(name)).astype(np.float64) for name in op.ins[1:5])
        factor = scale / np.sqrt(variance + op.attr("epsilon", 1e-5))
        return factor, bias - mean * factor
    if op.kind in ("Add", "Mul") and len(others) == 1:
        vector = _per_channel(np.asarray(graph.constant(others[0])), len(graph.shapes[op.ins[slot]]), size, axis)
        if vector is not None:
            return (np.ones(size), vector) if op.kind == "Add" else (vector, np.zeros(size))
    return None


def _per_channel(array: Matrix, rank: int, size: int, axis: int) -> Matrix | None:
    """A constant as one number per channel, if it is one."""
    channel = array.ndim - rank + axis
    if array.size != 1 and not (array.size == size and channel >= 0 and array.shape[channel] == size):
        return None
    return np.broadcast_to(array.astype(np.float64).ravel(), size)
