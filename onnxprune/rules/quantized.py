"""Codes made, read, convolved and multiplied: the quantised operators of ONNX itself.

Every tensor of codes gets a `Quantized` fact, so that zero means the code that stands for it. Scales and zero points
have one entry for all codes, one per index of an axis, or one per block of indices, which then stay together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.algebra.facts import Fact, Quantized, Sum, mapped, same
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.quantization import NUMBERS
from onnxprune.algebra.registry import FIRST, RuleTable, rule_for
from onnxprune.algebra.symbols import Dim
from onnxprune.rules.convolution import convolved
from onnxprune.rules.layout import in_place, normalized_axis
from onnxprune.rules.matmul import multiplied

RULES: RuleTable = {}

STEPS = 4  # that may lie between an integer product and the scale that it is multiplied by


def coded(
    op: Op, codes: str, scales: tuple[int, ...], zero: int | None = None, axis: int = 0, block: int = 0
) -> Iterator[Fact]:
    """A tensor of codes, and the input slots of what says how to read them; an entry per index lies along ``axis``."""
    parameters = [op.ins[slot] for slot in (*scales, *(() if zero is None else (zero,))) if op.has(slot)]
    axes: tuple[int, ...] = ()
    for name in parameters:
        along = _axes(op, name, codes, axis)
        axes = max(axes, along, key=len)
        for own, theirs in enumerate(along):
            yield from _entries(op, name, own, codes, theirs, block)
    given = tuple(op.ins[slot] for slot in scales if op.has(slot))
    yield Quantized(codes, given, op.ins[zero] if zero is not None and op.has(zero) else None, axes, block)


def _axes(op: Op, name: str, codes: str, axis: int) -> tuple[int, ...]:
    """The axes of the codes that a parameter's axes run along."""
    rank = op.rank(name)
    if all(size == 1 for size in op.shape(name)):
        return ()  # one entry for all, whatever its rank
    if rank > 1 and rank != op.rank(codes):
        raise ValueError(f"{name!r} has neither one entry, nor one per index or block of {codes!r}")
    return tuple(range(rank)) if rank > 1 else (axis,) * rank


def _entries(op: Op, name: str, own: int, codes: str, theirs: int, block: int) -> Iterator[Fact]:
    entries, size = op.shape(name)[own], op.shape(codes)[theirs]
    if entries == size:
        yield same(name, own, codes, theirs)
    elif entries != 1 and block and isinstance(size, int):
        yield mapped(name, own, np.arange(size) // block, codes, theirs)
    elif entries != 1:
        raise ValueError(f"{name!r} has {entries} entries for {size} indices of {codes!r}")


def _as_input(op: Op) -> list[tuple[Dim, ...]]:
    return [op.shape(op.ins[0])]


@rule_for(RULES, "QuantizeLinear", zero=FIRST)
@rule_for(RULES, "QuantizeLinear", zero=FIRST, domain="com.microsoft", shapes=_as_input, typed_by=2)
def quantize(op: Op) -> Iterator[Fact]:
    """The output's codes: zero becomes the zero point."""
    yield from in_place(op, op.ins[0], op.out)
    axis = normalized_axis(op, 1, op.rank(op.out))
    yield from coded(op, op.out, (1,), 2, axis, op.attr("block_size", 0))


@rule_for(RULES, "DequantizeLinear", zero=FIRST)
@rule_for(RULES, "DequantizeLinear", zero=FIRST, domain="com.microsoft", shapes=_as_input, typed_by=1)
def dequantize(op: Op) -> Iterator[Fact]:
    """The input's codes: the zero point becomes zero."""
    yield from in_place(op, op.ins[0], op.out)
    axis = normalized_axis(op, 1, op.rank(op.out))
    yield from coded(op, op.ins[0], (1,), 2, axis, op.attr("block_size", 0))


@rule_for(RULES, "DynamicQuantizeLinear", zero=FIRST)
def dynamic_quantize(op: Op) -> Iterator[Fact]:
    """One scale for all, from the least and the largest value and 0: only what is zero leaves it as it is."""
    x, y = op.ins[0], op.out
    yield from in_place(op, x, y)
    yield from (Sum((x, axis)) for axis in range(op.rank(x)))
    yield Quantized(y, (op.outs[1],), op.outs[2])


@rule_for(RULES, "ConvInteger", zero=((0, 1),))
def conv_integer(op: Op) -> Iterator[Fact]:
    """A convolution of codes; what scales the outcome stands behind it."""
    yield from convolved(op, op.ins[0], op.ins[1])
    yield from coded(op, op.ins[0], (), 2)
    yield from _scaled_later(op, op.ins[1], 3, axis=0)


@rule_for(RULES, "MatMulInteger", zero=((0, 1),))
def matmul_integer(op: Op) -> Iterator[Fact]:
    """A matrix product of codes; what scales the outcome stands behind it."""
    yield from multiplied(op, op.ins[0], op.ins[1])
    yield from coded(op, op.ins[0], (), 2, max(op.rank(op.ins[0]) - 2, 0))
    yield from _scaled_later(op, op.ins[1], 3, axis=op.rank(op.ins[1]) - 1)


@rule_for(RULES, "QLinearConv", zero=((0, 3), (8,)))
def qlinear_conv(op: Op) -> Iterator[Fact]:
    """A convolution of codes into codes; its bias is in units of both scales."""
    x, w = op.ins[0], op.ins[3]
    yield from convolved(op, x, w)
    yield from coded(op, x, (1,), 2)
    yield from coded(op, w, (4,), 5)
    yield from coded(op, op.out, (6,), 7)
    if op.has(8):
        yield same(op.ins[8], 0, op.out, 1)
        yield from coded(op, op.ins[8], (1, 4))


@rule_for(RULES, "QLinearMatMul", zero=((0, 3),))
def qlinear_matmul(op: Op) -> Iterator[Fact]:
    """A matrix product of codes into codes; rows, or columns, may have a scale each."""
    a, b, y = op.ins[0], op.ins[3], op.out
    yield from multiplied(op, a, b)
    yield from coded(op, a, (1,), 2, max(op.rank(a) - 2, 0))
    yield from coded(op, b, (4,), 5, op.rank(b) - 1)
    yield from coded(op, y, (6,), 7, max(op.rank(y) - 2, 0))


def _scaled_later(op: Op, weight: str, zero: int, axis: int) -> Iterator[Fact]:
    """A weight's codes, with their scale if it is found behind the product: criteria then compare like with like."""
    scale = _scale_behind(op, op.out)
    entries = () if scale is None else _dims(op.graph, scale)
    per_column = op.kind == "MatMulInteger" and entries == op.shape(weight)[axis:]
    for fact in coded(op, weight, (), zero, axis):
        if isinstance(fact, Quantized) and scale is not None and (per_column or set(entries) <= {1}):
            yield fact._replace(scales=(scale,), axes=(axis,) if per_column else fact.axes)
        else:
            yield fact


def _scale_behind(op: Op, product: str) -> str | None:
    graph, name = op.graph, product
    for _ in range(STEPS):
        readers = graph.consumers.get(name, [])
        if len(readers) != 1:
            return None
        reader, slot = readers[0]
        if reader.kind == "Mul":
            return _constant_factor(reader.graph, reader.ins[1 - slot])
        if reader.kind not in ("Cast", "Add", "Reshape"):
            return None
        name = reader.out
    return None


def _constant_factor(graph: Graph, name: str) -> str | None:
    """A tensor if it is constant; of a product, the factor that is."""
    maker = graph.producer.get(name)
    if maker is not None and maker.kind == "Mul":
        return next((factor for factor in maker.ins if graph.is_constant(factor)), None)
    return name if graph.is_constant(name) else None


def as_numbers(op: Op) -> Iterator[Quantized]:
    """What Sub and Mul say of a constant's codes that were cast to numbers: their zero point, and their scale."""
    for slot in (0,) if op.kind == "Sub" else (0, 1):
        codes, other = op.ins[slot], _behind_cast(op.graph, op.ins[1 - slot])
        source = _behind_cast(op.graph, codes)
        if source is None or source == codes or other is None or op.graph.types.get(source) in NUMBERS:
            continue
        rank, entries = len(_dims(op.graph, source)), len(_dims(op.graph, other))
        axes = tuple(range(rank - entries, rank)) if entries <= rank else ()
        scaled = op.kind == "Mul"
        yield Quantized(codes, (other,) if scaled else _scales_of(op, other), None if scaled else other, axes)


def _behind_cast(graph: Graph, name: str) -> str | None:
    """A tensor if it is constant, or the constant that was cast to it."""
    maker = graph.producer.get(name)
    source = maker.ins[0] if maker is not None and maker.kind == "Cast" else name
    return source if graph.is_constant(source) else None


def _dims(graph: Graph, name: str) -> tuple[int, ...]:
    return tuple(graph.constant_tensor(name).dims)


def _scales_of(op: Op, zero: str) -> tuple[str, ...]:
    """The scale behind a difference, if it has the shape of the zero point, or is one for all."""
    scale = _scale_behind(op, op.out)
    alike = scale is not None and _dims(op.graph, scale) in (_dims(op.graph, zero), (), (1,))
    return (scale,) if scale is not None and alike else ()
