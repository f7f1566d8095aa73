"""Operators of ONNX Runtime on numbers, whose weights are codes: dynamic quantisation, and packed blocks of few bits.

Where the numbers are quantised on the way, one scale serves all of them and is taken from their range, which always
includes zero: what is removed must be zero, or the others would be rounded differently.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.algebra.facts import Count, Fact, Macs, Pin, Quantized, Slot, Sum, mapped, repeat, same, tile
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.registry import RuleTable, Terms, rule_for
from onnxprune.rules.layout import broadcast, in_place, pin_all
from onnxprune.rules.matmul import multiplied
from onnxprune.rules.quantized import coded
from onnxprune.rules.quantized_linear import MICROSOFT, like

RULES: RuleTable = {}

X, W, R, B, LENGTHS, H0, C0, P = range(8)
USUAL = ["Sigmoid", "Tanh", "Tanh"]
GATES = 4
PACKED_BITS = (2, 4, 8)


def _must_be_zero(op: Op, x: str, but: int | None = None) -> Iterator[Fact]:
    yield from (Sum((x, axis)) for axis in range(op.rank(x)) if axis != but)


@rule_for(RULES, "DynamicQuantizeMatMul", zero=((0, 1), (4,)), domain=MICROSOFT, shapes=like("MatMul", 0, 1))
def dynamic_matmul(op: Op) -> Iterator[Fact]:
    """A · B + bias: A is quantised on the way, with one scale; a column of B may have its own."""
    yield from multiplied(op, op.ins[0], op.ins[1])
    yield from _must_be_zero(op, op.ins[0])
    yield from coded(op, op.ins[1], (2,), 3, op.rank(op.ins[1]) - 1)
    if op.has(4):
        yield from broadcast(op, op.ins[4], op.out)


@rule_for(RULES, "MatMulIntegerToFloat", zero=((0, 1), (6,)), domain=MICROSOFT, shapes=like("MatMul", 0, 1))
def integer_matmul(op: Op) -> Iterator[Fact]:
    """A · B + bias, of codes; a column of B may have its own scale."""
    a, b = op.ins[0], op.ins[1]
    yield from multiplied(op, a, b)
    yield from coded(op, a, (2,), 4, max(op.rank(a) - 2, 0))
    yield from coded(op, b, (3,), 5, op.rank(b) - 1)
    if op.has(6):
        yield from broadcast(op, op.ins[6], op.out)


def _stays_at_zero(op: Op) -> Terms | None:
    given = [name.decode() if isinstance(name, bytes) else name for name in op.attr("activations") or []]
    return ((W,), (B,), (H0,), (C0,), (P,)) if given in ([], USUAL, USUAL * 2) else None


def _states(op: Op) -> list[Shape]:
    time, batch, _ = op.shape(op.ins[X])
    directions, hidden, _ = op.shape(op.ins[R])
    return [(time, directions, batch, hidden), *[(directions, batch, hidden)] * 2]


@rule_for(RULES, "DynamicQuantizeLSTM", zero=_stays_at_zero, domain=MICROSOFT, shapes=_states)
def dynamic_lstm(op: Op) -> Iterator[Fact]:
    """As LSTM, but W is (directions, input, 4·hidden) and R (directions, hidden, 4·hidden)."""
    x, w, r = op.ins[X], op.ins[W], op.ins[R]
    hidden = op.shape(r)[1]
    if not isinstance(hidden, int) or _stays_at_zero(op) is None:
        yield from pin_all(op, f"{op.label} quantises hidden values that its activations move away from zero")
        return
    yield same(x, 2, w, 1, sums=True)
    yield from _must_be_zero(op, x, but=0)
    yield tile(r, 1, w, 2, GATES, hidden)
    yield tile(r, 1, r, 2, GATES, hidden, sums=True)
    yield Count(Slot("hidden_size"), None, (r, 1), 0, hidden)
    yield from (Macs(((x, 0), (x, 1), *((weight, axis) for axis in range(3)))) for weight in (w, r))
    for slot, copies in ((B, 2 * GATES), (P, 3)):
        if op.has(slot):
            yield tile(r, 1, op.ins[slot], 1, copies, hidden)
    yield from _gate_codes(op, w, 8, 9, hidden)
    yield from _gate_codes(op, r, 10, 11, hidden)
    yield from _states_of(op, x, r)


def _gate_codes(op: Op, weight: str, scale: int, zero: int, hidden: int) -> Iterator[Fact]:
    """One entry per direction, or one per gate and hidden index, too."""
    names = [op.ins[slot] for slot in (scale, zero) if op.has(slot)]
    for name in names:
        if op.rank(name) == 2:
            yield tile(op.ins[R], 1, name, 1, GATES, hidden)
    axes = (0, 2)[: max(map(op.rank, names))]
    yield Quantized(weight, (op.ins[scale],), op.ins[zero] if op.has(zero) else None, axes)


def _states_of(op: Op, x: str, r: str) -> Iterator[Fact]:
    given = [op.ins[slot] for slot in (H0, C0) if op.has(slot)]
    for state in [*given, *(y for y in op.outs[1:] if y in op.graph.shapes)]:
        yield same(state, 2, r, 1)
        yield same(state, 1, x, 1)
    for state in given:
        yield from _must_be_zero(op, state, but=0)
    if op.outs[0] in op.graph.shapes:
        yield same(op.outs[0], 3, r, 1)
        yield same(op.outs[0], 2, x, 1)
        yield same(op.outs[0], 0, x, 0)
        yield Sum((x, 0))


def _packed_shape(op: Op) -> list[Shape]:
    return [(*op.shape(op.ins[0])[:-1], op.attr("N"))]


@rule_for(RULES, "MatMulNBits", zero=((0, 1), (5,)), domain=MICROSOFT, shapes=_packed_shape)
def packed_matmul(op: Op) -> Iterator[Fact]:
    """A (…, K) · Bᵀ + bias: B is (N, blocks of K, bytes); each block has a scale, and perhaps a zero point."""
    a, b, y, bits = op.ins[0], op.ins[1], op.out, op.attr("bits", 4)
    columns, blocks = op.shape(b)[0], op.shape(b)[1]
    ordered = not op.has(4) and not op.attr("weight_prepacked", 0) and bits in PACKED_BITS
    if not (ordered and isinstance(columns, int) and isinstance(blocks, int)):
        yield from pin_all(op, f"{op.label} holds its weights in an order, or by a number of bits, that is not known")
        return
    last = op.rank(y) - 1
    yield from in_place(op, a, y, but=(last,))
    yield same(b, 0, y, last)
    yield Count(Slot("N"), None, (y, last), 0, columns)
    yield Macs((*((y, axis) for axis in range(last + 1)), (a, last)))
    zero = op.ins[3] if op.has(3) else None
    yield Quantized(b, (op.ins[2],), zero, (0, 1), bits=bits)
    if op.has(5):
        yield same(op.ins[5], 0, y, last)
    for name in (op.ins[2], zero):
        if name is not None:
            yield from _per_column(op, name, b, columns)
    yield from _blocks(op, a, b, blocks)


def _per_column(op: Op, name: str, b: str, columns: int) -> Iterator[Fact]:
    """Each column's scales or zero points, in a row of their own or one row behind the other."""
    if op.rank(name) == 2:
        yield same(name, 0, b, 0)
        return
    size = op.shape(name)[0]
    if isinstance(size, int):
        yield repeat(b, 0, name, 0, size // columns, columns)


def _blocks(op: Op, a: str, b: str, blocks: int) -> Iterator[Fact]:
    """Whole blocks of K may go, or as many together as have their zero points in one byte."""
    axis, size, width = op.rank(a) - 1, op.attr("K"), op.attr("block_size")
    parameters = [op.ins[slot] for slot in (2, 3) if op.has(slot)]
    if blocks == 1 or any(op.rank(name) != 2 or op.shape(name)[1] == 1 for name in parameters):
        why = f"{op.label} packs the scales or zero points of its blocks of {width} together"
        yield from (Pin(whole, why) for whole in ((a, axis), (b, 1)))
        return
    for name in parameters:
        held = 1 if op.shape(name)[1] == blocks else 8 // op.attr("bits", 4)
        yield mapped(name, 1, np.arange(blocks) // held, b, 1)
    yield mapped(b, 1, np.arange(size) // width, a, axis, sums=True)
    yield Count(Slot("K"), None, (a, axis), 0, size)
