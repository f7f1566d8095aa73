"""Operators that ONNX Runtime fuses from several, and newer ones of ONNX of the same kind; attention has its own file.

Each states what its parts state: a bias is tied to what it is added to, an activation keeps every axis in place.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Batch, Fact, Macs, Normalized, Pin, repeat, same, tile
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.algebra.symbols import Dim
from onnxprune.rules.convolution import convolved
from onnxprune.rules.heads import MICROSOFT, like_first
from onnxprune.rules.joining import _pads_with_zero, pad
from onnxprune.rules.layout import broadcast, in_place
from onnxprune.rules.matmul import gemm
from onnxprune.rules.normalization import layer_normalization, normalized_shapes
from onnxprune.rules.picking import trilu
from onnxprune.rules.pointwise import broadcasting, unary
from onnxprune.rules.quantized_linear import like
from onnxprune.rules.spatial import grid_sample

RULES: RuleTable = {}

A, B, C = 0, 1, 2
KEEP_ZERO = ("", "Relu", "LeakyRelu", "Tanh", "Elu", "Selu", "Softsign")


def _unmoved(op: Op, terms: Terms) -> Terms | None:
    """What a fused activation makes of zero: ``activation_params`` are the bounds of a Clip."""
    activation = op.attr("activation", "")
    if activation == "Clip":
        low, high = op.attr("activation_params") or (0, 0)
        return terms if low <= 0 <= high else None
    return terms if activation in KEEP_ZERO else None


# ---- what works element by element ---------------------------------------------------------------------------------

rule_for(RULES, "Gelu", "QuickGelu", "ScaledSiLU", domain=MICROSOFT, zero=FIRST, shapes=like_first)(unary)
rule_for(RULES, "BiasGelu", "FastGelu", domain=MICROSOFT, zero=((0,), (1,)), shapes=like_first)(broadcasting)
rule_for(RULES, "GatedAdd", domain=MICROSOFT, zero=((0,), (1, 2)), shapes=like_first)(broadcasting)
rule_for(RULES, "SwiGLU", zero=((0, 1),))(broadcasting)
rule_for(RULES, "Trilu", domain=MICROSOFT, zero=FIRST, shapes=like_first)(trilu)
rule_for(RULES, "GridSample", domain=MICROSOFT, zero=FIRST, shapes=like("GridSample", 0, 1, version=16))(grid_sample)


def _padded(op: Op) -> list[Shape]:
    shape, pads = op.shape(op.ins[0]), op.ints("pads", 1) or []
    ends = zip(pads[: len(shape)], pads[len(shape) :], strict=True)
    return [tuple(_grown(size, sum(both)) for size, both in zip(shape, ends, strict=True))]


def _grown(size: Dim, by: int) -> Dim:
    """A size that grows by so much.

    Raises:
        ValueError: a size that is known only at run time grows.
    """
    if by and not isinstance(size, int):
        raise ValueError(f"{size} grows by {by}")
    return size + by if isinstance(size, int) else size


rule_for(RULES, "Pad", domain=MICROSOFT, zero=_pads_with_zero, sizes=(1,), shapes=_padded)(pad)


# ---- normalisation -------------------------------------------------------------------------------------------------


def _normalised(op: Op, x: str, y: str, *parameters: str) -> Iterator[Fact]:
    """All indices of the last axis share their statistics; whatever is added to it or scales it has the same axis."""
    yield from in_place(op, x, y)
    for parameter in parameters:
        if parameter:
            yield from broadcast(op, parameter, y)
    why = f"{op.label} normalises over it: removing an index changes all others"
    yield Normalized((y, op.rank(y) - 1), why)


def _skip_shapes(op: Op) -> Iterator[Shape]:
    shape = op.shape(op.ins[0])
    yield shape
    yield from ((*shape[:-1], 1),) * 2
    yield shape


@rule_for(RULES, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT, shapes=_skip_shapes)
def skip_layer_normalization(op: Op) -> Iterator[Fact]:
    """A residual stream, which may be returned as well, is added up and normalised over its last axis."""
    x = op.ins[0]
    yield from _normalised(op, x, op.out, *op.ins[1:])
    last = op.rank(x) - 1
    for y in op.outs[1:]:
        if y in op.graph.shapes:
            yield from in_place(op, x, y, but=(last,) if op.shape(y)[last] == 1 else ())


rule_for(RULES, "SimplifiedLayerNormalization", shapes=normalized_shapes)(layer_normalization)

IDS, SEGMENTS, WORDS, POSITIONS, SEGMENT_TABLE, GAMMA, BETA = range(7)


def _embedded(op: Op) -> Iterator[Shape]:
    batch, length = op.shape(op.ins[IDS])
    shape = (batch, length, op.shape(op.ins[WORDS])[1])
    yield from (shape, (batch,), shape)


@rule_for(RULES, "EmbedLayerNormalization", domain=MICROSOFT, shapes=_embedded)
def embed_layer_normalization(op: Op) -> Iterator[Fact]:
    """Rows of up to three tables are added up and normalised over their last axis."""
    y, parameters = op.out, [op.ins[slot] for slot in (GAMMA, BETA)]
    for slot in (WORDS, POSITIONS, SEGMENT_TABLE):
        if op.has(slot):
            parameters.append(op.ins[slot])
            yield same(op.ins[slot], 1, y, 2)
            yield Pin((op.ins[slot], 0), f"{op.label} picks from it at run time")
    for parameter in parameters[:2]:
        yield same(parameter, 0, y, 2)
    yield Normalized((y, 2), f"{op.label} normalises over it: removing an index changes all others")
    if len(op.outs) > 2 and op.outs[2] in op.graph.shapes:
        yield same(op.outs[2], 2, y, 2)


# ---- products and convolutions -------------------------------------------------------------------------------------

rule_for(RULES, "FusedGemm", domain=MICROSOFT, zero=lambda op: _unmoved(op, ((A, B), (C,))), shapes=like("Gemm", A, B))(
    gemm
)

W, BIAS, ADDED = 1, 2, 3


@rule_for(
    RULES,
    "FusedConv",
    domain=MICROSOFT,
    zero=lambda op: _unmoved(op, ((0, W), (BIAS,), (ADDED,))),
    shapes=like("Conv", 0, W, version=11),
)
def fused_conv(op: Op) -> Iterator[Fact]:
    """A convolution, to which something of the output's shape may be added before an activation."""
    yield from convolved(op, op.ins[0], op.ins[W])
    if op.has(BIAS):
        yield same(op.ins[BIAS], 0, op.out, 1)
    if op.has(ADDED):
        yield from in_place(op, op.ins[ADDED], op.out)


def _order(op: Op, slot: int) -> list[int]:
    """An operand's axes as numpy's matmul wants them: batches, rows, columns."""
    side = "AB"[slot]
    axes = list(range(op.rank(op.ins[slot])))
    if len(axes) > 1 and op.attr(f"transBatch{side}", 0):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if len(axes) > 1 and op.attr(f"trans{side}", 0):
        axes = [*axes[:-2], axes[-1], axes[-2]]
    return axes


def _product_shape(op: Op) -> Iterator[Shape]:
    left, right = ([op.shape(op.ins[slot])[axis] for axis in _order(op, slot)] for slot in (A, B))
    short, long = sorted((left[:-2], right[:-2]), key=len)
    ones: list[Dim] = [1] * (len(long) - len(short))
    batches = [_stretched(op, i, *both) for i, both in enumerate(zip(ones + short, long, strict=True))]
    yield (*batches, *left[-2:-1], *(right[-1:] if len(right) > 1 else []))


def _stretched(op: Op, axis: int, a: Dim, b: Dim) -> Dim:
    if a == b or b == 1:
        return a
    return b if a == 1 else next((size for size in (a, b) if isinstance(size, int)), f"?{op.out}.{axis}")


@rule_for(RULES, "FusedMatMul", "TransposeMatMul", domain=MICROSOFT, zero=((A, B),), shapes=_product_shape)
def fused_matmul(op: Op) -> Iterator[Fact]:
    """A product of two stacks of matrices, each transposed at will; a 1-D operand is a row or a column."""
    a, b, y = op.ins[A], op.ins[B], op.out
    left, right = _order(op, A), _order(op, B)
    rows, columns = int(len(left) > 1), int(len(right) > 1)
    yield same(a, left[-1], b, right[-1 - columns], sums=True)
    yield Macs((*((y, axis) for axis in range(op.rank(y))), (a, left[-1])))
    if rows:
        yield same(a, left[-2], y, op.rank(y) - 1 - columns)
    if columns:
        yield same(b, right[-1], y, op.rank(y) - 1)
    both_move = not (op.graph.is_constant(a) or op.graph.is_constant(b))
    for x, axes in ((a, left), (b, right)):
        shift = op.rank(y) - rows - columns - (len(axes) - 2)
        for place, axis in enumerate(axes[:-2]):
            if op.shape(x)[axis] != 1:
                yield same(x, axis, y, place + shift)
                if both_move:
                    yield Batch((x, axis))


# ---- mixtures of experts -------------------------------------------------------------------------------------------

ROUTER, UP, UP_BIAS, DOWN, DOWN_BIAS, GATE, GATE_BIAS = range(1, 8)
INTERLEAVED, HALVES = 1, 2  # how a gate and what it gates are fused into one weight


@rule_for(RULES, "MoE", domain=MICROSOFT, zero=((DOWN,), (DOWN_BIAS,)), shapes=like_first)
def mixture_of_experts(op: Op) -> Iterator[Fact]:
    """All experts share their inner indices: up (experts, inner, hidden), down (experts, hidden, inner)."""
    x, up, down, y = op.ins[0], op.ins[UP], op.ins[DOWN], op.out
    last = op.rank(x) - 1
    yield same(x, last, y, last)  # nothing of the one goes into the other, but the output is as wide as the input
    yield same(x, last, up, 2, sums=True)
    yield same(down, 1, y, last)
    if op.has(DOWN_BIAS):
        yield same(op.ins[DOWN_BIAS], 1, y, last)
    yield from _inner(op, up, sums=True)
    if op.has(UP_BIAS):
        yield from _inner(op, op.ins[UP_BIAS])
    if op.has(GATE):
        yield same(x, last, op.ins[GATE], 2, sums=True)
        yield same(op.ins[GATE], 1, down, 2)
    if op.has(GATE_BIAS):
        yield same(op.ins[GATE_BIAS], 1, down, 2)
    for name, axis in ((op.ins[ROUTER], op.rank(op.ins[ROUTER]) - 1), (up, 0), (down, 0)):
        yield Pin((name, axis), f"{op.label} sends each token to its best experts: without one, others are chosen")
    for weight in (up, down, *([op.ins[GATE]] if op.has(GATE) else [])):
        for _ in range(op.attr("k", 1)):
            yield Macs((*((x, axis) for axis in range(last)), (weight, 1), (weight, 2)))


def _inner(op: Op, tensor: str, *, sums: bool = False) -> Iterator[Fact]:
    """Axis 1 of a weight or bias that makes the inner indices: each stands once, or with its gate.

    Raises:
        ValueError: the sizes do not fit.
    """
    down, inner, fused = op.ins[DOWN], op.shape(op.ins[DOWN])[2], op.attr("swiglu_fusion", 0)
    if op.shape(tensor)[1] == inner:
        yield same(tensor, 1, down, 2, sums=sums)
    elif isinstance(inner, int) and op.shape(tensor)[1] == 2 * inner and fused == INTERLEAVED:
        yield repeat(down, 2, tensor, 1, 2, inner)
    elif isinstance(inner, int) and op.shape(tensor)[1] == 2 * inner and fused == HALVES:
        yield tile(down, 2, tensor, 1, 2, inner)
    else:
        raise ValueError(f"{tensor!r} does not have the inner size {inner}")
