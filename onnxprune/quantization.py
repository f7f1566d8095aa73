"""What the codes of a quantised tensor stand for: which of them is zero, and what every other is worth.

Rules state a `Quantized` fact for every tensor of codes that their node reads or writes. Zeroing writes the code that
stands for zero into constants, and leaves the scales and zero points alone: they say how codes are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from onnxprune.facts import Fact, Quantized
from onnxprune.graph import Graph
from onnxprune.record import Array

MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
"""Operators that leave every code as it is."""

SIZES = ("Shape", "Size")
NUMBERS = frozenset(
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT64", "BOOL", "STRING")
)
"""Types that hold no codes."""

Rest = int | str
"""The code that stands for zero: a number, or the tensor that holds it."""


class Codes:
    """How the quantised tensors of a model are read.

    Attributes:
        readings: for every constant tensor of codes, what its readers take them for, without repetition.
        parameters: the scales and zero points.
    """

    def __init__(self, graph: Graph, facts: Sequence[Sequence[Fact]]) -> None:
        self.graph = graph
        self._stated = [tuple(f for f in stated if isinstance(f, Quantized)) for stated in facts]
        every = [fact for stated in self._stated for fact in stated]
        self.parameters = frozenset(name for fact in every for name in (*fact.scales, fact.zero) if name)
        self.readings: dict[str, list[Quantized]] = {}
        for name in graph.constants() if every else ():
            if graph.constant_tensor(name).data_type not in NUMBERS:
                found = list(dict.fromkeys(self._read(name, name)))
                if any(fact.scales or fact.zero for fact in found):
                    self.readings[name] = found

    def undecided(self) -> Iterator[str]:
        """Constants of which nobody knows which code stands for zero: it is computed, or differs between readers."""
        for name, readings in self.readings.items():
            shape = self.graph.constant_tensor(name).dims
            zeros = [self._zero(reading) for reading in readings]
            known = [np.broadcast_to(zero, shape) for zero in zeros if zero is not None]
            if len(known) < len(zeros) or any(not np.array_equal(known[0], other) for other in known[1:]):
                yield name

    def blank(self, name: str) -> Array:
        """For every element of a constant tensor what zeroing writes."""
        shape = self.graph.constant_tensor(name).dims
        zero = self._zero(self.readings[name][0]) if name in self.readings else None
        return np.broadcast_to(0 if zero is None else zero, shape)

    def decode(self, name: str, codes: Array) -> Array:
        """The values that a constant's codes stand for, as float32; as far as their scale is known."""
        reading = next((r for r in self.readings[name] if r.scales), self.readings[name][0])
        zero = self._zero(reading)
        values: Array = codes.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
        for scale in reading.scales:
            factor = self._spread(reading, scale)
            values = values if factor is None else values * factor.astype(np.float32)
        return values

    def rest(self, name: str) -> Rest:
        """The value at which the zeroed indices of a constant tensor rest."""
        return self.code_of_zero(self.readings[name][0].zero) if name in self.readings else 0

    def code_of_zero(self, zero: str | None) -> Rest:
        """What a zero point holds, if that is known and the same everywhere; else its name."""
        values = self.graph.constant(zero) if zero else None
        if not zero or values is None:
            return zero or 0
        return int(values.flat[0]) if values.size and (values == values.flat[0]).all() else zero

    def _read(self, name: str, constant: str) -> Iterator[Quantized]:
        """What the readers of a tensor take it for, those behind operators that only move it included."""
        for op, slot in self.graph.consumers.get(name, ()):
            stated = [fact for fact in self._stated[op.index] if fact.codes == name]
            if stated:
                yield from stated if name == constant else (f._replace(codes=constant, axes=()) for f in stated)
            elif op.kind in MOVES and op.domain == "" and (slot == 0 or op.kind == "Concat"):
                for moved in op.outs:
                    yield from self._read(moved, constant)
            elif op.kind not in SIZES and not self._is_parameter(name, op.index):
                yield Quantized(constant)

    def _is_parameter(self, name: str, index: int) -> bool:
        return any(name in (*fact.scales, fact.zero) for fact in self._stated[index])

    def _zero(self, reading: Quantized) -> Array | None:
        return self._spread(reading, reading.zero) if reading.zero else np.zeros((), dtype=np.int8)

    def _spread(self, reading: Quantized, name: str) -> Array | None:
        """A parameter, one for all codes, one per index of some axes or one per block, as an array of their rank."""
        values, rank = self.graph.constant(name), len(self.graph.constant_tensor(reading.codes).dims)
        if values is None or values.size == 1:
            return None if values is None else values.reshape(())
        if len(reading.axes) < values.ndim:  # the codes were moved, and nobody says whereto
            return values.ravel()[0] if (values == values.flat[0]).all() else None
        shape = [1] * rank
        for axis, size in zip(reading.axes, values.shape, strict=False):
            shape[axis] = size
        return _unblocked(values.reshape(shape), self.graph.constant_tensor(reading.codes).dims, reading.block)


def _unblocked(values: Array, shape: Sequence[int], block: int) -> Array:
    for axis, (have, want) in enumerate(zip(values.shape, shape, strict=True)):
        if have not in (1, want):
            values = np.repeat(values, block, axis=axis)[(slice(None),) * axis + (slice(want),)]
    return values
