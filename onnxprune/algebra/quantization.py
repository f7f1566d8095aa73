"""What the codes of a quantised tensor stand for: which of them is zero, and what every other is worth.

Rules state a `Quantized` fact for every tensor of codes that their node reads or writes. Zeroing writes the code that
stands for zero into constants, and leaves the scales and zero points alone: they say how codes are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from onnxprune.algebra.facts import Fact, Quantized
from onnxprune.algebra.graph import Graph, Op
from onnxprune.model.record import Array
from onnxprune.model.tensors import FLOATS

MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
"""Operators that leave every code as it is."""

SIZES = ("Shape", "Size")
NUMBERS = frozenset({*FLOATS, onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING})
"""Types that hold no codes."""

Rest = int | str
"""The code that stands for zero: a number, or the tensor that holds it."""


def moves(op: Op) -> bool:
    """Whether an operator leaves every code as it is; as a number of another type, at most."""
    return op.domain == "" and (op.kind in MOVES or _is_cast(op))


def _is_cast(op: Op) -> bool:
    return op.kind == "Cast" and op.attr("to") in FLOATS


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
            zeros = [self._exact(reading) for reading in readings]
            known = [np.broadcast_to(zero, shape) for zero in zeros if zero is not None]
            if len(known) < len(zeros) or any(not np.array_equal(known[0], other) for other in known[1:]):
                yield name

    def blank(self, name: str) -> Array:
        """For every element of a constant tensor what zeroing writes."""
        shape = self.graph.constant_tensor(name).dims
        reading = self.readings[name][0] if name in self.readings else Quantized(name)
        zero = self._zero(reading)
        code: Array = np.zeros((), dtype=np.int8) if zero is None else zero  # what is undecided is never blanked
        return np.broadcast_to(_in_every_place(code, reading.bits) if reading.bits else code, shape)

    def decode(self, name: str, codes: Array) -> Array:
        """The values that a constant's codes stand for, as float32; as far as their scale is known."""
        reading = next((r for r in self.readings[name] if r.scales), self.readings[name][0])
        zero = self._zero(reading)
        values: Array = (_unpacked(codes, reading.bits) if reading.bits else codes).astype(np.float32)
        values = values if zero is None else values - zero.astype(np.float32)
        for scale in reading.scales:
            factor = self._spread(reading, scale)
            values = values if factor is None else values * factor.astype(np.float32)
        return values

    def in_one_element(self, name: str) -> int:
        """How many codes an element of a constant tensor holds."""
        packed = next((r.bits for r in self.readings.get(name, ()) if r.bits), 8)
        return 8 // packed

    def rest(self, name: str) -> Rest:
        """The value at which the zeroed indices of a constant tensor rest."""
        return self.code_of_zero(self.readings[name][0].zero) if name in self.readings else 0

    def code_of_zero(self, zero: str | None) -> Rest:
        """What a zero point holds, if that is known and the same everywhere; else its name."""
        values = self.graph.constant(zero) if zero else None
        if not zero or values is None:
            return zero or 0
        alike = values.size and (values == values.flat[0]).all() and float(values.flat[0]).is_integer()
        return int(values.flat[0]) if alike else zero

    def _read(self, name: str, constant: str, *, in_place: bool = True) -> Iterator[Quantized]:
        """What the readers of a tensor take it for, those behind operators that only move it included."""
        for op, slot in self.graph.consumers.get(name, ()):
            stated = [fact for fact in self._stated[op.index] if fact.codes == name]
            if stated:
                yield from (f._replace(codes=constant, axes=f.axes if in_place else ()) for f in stated)
            elif moves(op) and (slot == 0 or op.kind == "Concat"):
                for moved in op.outs:
                    yield from self._read(moved, constant, in_place=in_place and _is_cast(op))
            elif op.kind not in SIZES and not self._is_parameter(name, op.index):
                yield Quantized(constant)

    def _is_parameter(self, name: str, index: int) -> bool:
        return any(name in (*fact.scales, fact.zero) for fact in self._stated[index])

    def _exact(self, reading: Quantized) -> Array | None:
        """The same, if codes can express it."""
        zero, codes = self._zero(reading), self.graph.constant_tensor(reading.codes)
        if zero is None or not np.isfinite(zero.astype(np.float64)).all():
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(codes.data_type)
        return zero if (zero.astype(dtype).astype(np.float64) == zero.astype(np.float64)).all() else None

    def _zero(self, reading: Quantized) -> Array | None:
        """The codes that stand for zero; ``None`` if they are not known, or there are none."""
        if reading.bits:
            return self._packed_zero(reading)
        return self._spread(reading, reading.zero) if reading.zero else np.zeros((), dtype=np.int8)

    def _spread(self, reading: Quantized, name: str) -> Array | None:
        """A parameter, one for all codes, one per index of some axes or one per block, as an array of their rank."""
        values, rank = self.graph.constant(name), len(self.graph.constant_tensor(reading.codes).dims)
        if values is None or values.size == 1:
            return None if values is None else values.reshape(())
        if reading.bits:
            return values.reshape(*self.graph.constant_tensor(reading.codes).dims[:2], 1)
        if len(reading.axes) < values.ndim:  # the codes were moved, and nobody says whereto
            return values.ravel()[0] if (values == values.flat[0]).all() else None
        shape = [1] * rank
        for axis, size in zip(reading.axes, values.shape, strict=False):
            shape[axis] = size
        return _unblocked(values.reshape(shape), self.graph.constant_tensor(reading.codes).dims, reading.block)

    def _packed_zero(self, reading: Quantized) -> Array | None:
        """Of each column and block; in the middle of the range if none is given, packed like the codes, or numbers."""
        if not reading.zero:
            return np.array(1 << (reading.bits - 1), dtype=np.uint8)
        columns, blocks = self.graph.constant_tensor(reading.codes).dims[:2]
        given = self.graph.constant(reading.zero)
        if given is None:
            return None
        if given.dtype == np.uint8:
            given = _unpacked(given.reshape(columns, -1), reading.bits)[:, :blocks]
        zero = given.reshape(columns, blocks, 1)
        return zero.astype(np.uint8) if (zero == zero.astype(np.uint8)).all() else None


def _unpacked(packed: Array, bits: int) -> Array:
    """Codes of a few bits, of which each byte holds several, the first in its lowest bits."""
    places = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[..., None] >> places & ((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)


def _in_every_place(code: Array, bits: int) -> Array:
    """The byte that holds a code in all its places."""
    return (code * sum(1 << place for place in range(0, 8, bits))).astype(np.uint8)


def _unblocked(values: Array, shape: Sequence[int], block: int) -> Array:
    for axis, (have, want) in enumerate(zip(values.shape, shape, strict=True)):
        if have not in (1, want):
            values = np.repeat(values, block, axis=axis)[(slice(None),) * axis + (slice(want),)]
    return values
