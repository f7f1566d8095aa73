"""Operators of ONNX Runtime from codes to codes (QLinear…): what their plain namesakes do, on quantised values.

A Softmax or Sigmoid on codes moves zero as it does on numbers; all others send zero to the output's zero point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx

from onnxprune.algebra.facts import Fact, Pin
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.rules.joining import joined
from onnxprune.rules.layout import broadcast, in_place, normalized_axis, pin_all
from onnxprune.rules.matmul import transposed_product
from onnxprune.rules.quantized import coded

RULES: RuleTable = {}

MICROSOFT = "com.microsoft"


def like(kind: str, *slots: int, version: int = 13) -> Callable[[Op], Iterable[Shape]]:
    """The output's shape is that of a standard operator on the inputs in these slots."""
    schema = onnx.defs.get_schema(kind, version)

    def shapes(op: Op) -> Iterable[Shape]:
        given = [op.ins[slot] for slot in slots] or [op.ins[slot] for slot in range(2, len(op.ins), 3)]
        node = onnx.helper.make_node(kind, given, ["y"])
        node.attribute.extend(a for a in op.node.attribute if a.name in schema.attributes)
        types = {x: onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, op.shape(x)) for x in given}
        opset = [onnx.helper.make_opsetid("", version)]
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, opset_imports=opset)
        except Exception as error:
            raise ValueError(f"{op.label} does not fit its inputs") from error
        dims = found["y"].tensor_type.shape.dim
        return [tuple(_dim(op, i, d) for i, d in enumerate(dims))]

    return shapes


def _dim(op: Op, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"?{op.out}.{axis}"


def _codes(op: Op, *slots: int, y: tuple[int, int]) -> Iterator[Fact]:
    """Inputs in these slots, each with its scale and zero point behind it; the output's scale and zero point."""
    for slot in slots:
        yield from coded(op, op.ins[slot], (slot + 1,), slot + 2)
    yield from coded(op, op.out, (y[0],), y[1])


def _pooled(op: Op) -> list[Shape]:
    if op.attr("channels_last", 0):
        return []  # what no shape inference tells is pinned
    return list(like(op.kind.removeprefix("QLinear"), 0, version=11 if op.kind == "QLinearAveragePool" else 1)(op))


@rule_for(RULES, "QLinearAdd", zero=((0,), (3,)), domain=MICROSOFT, shapes=like("Add", 0, 3), typed_by=0)
@rule_for(RULES, "QLinearMul", zero=((0, 3),), domain=MICROSOFT, shapes=like("Mul", 0, 3), typed_by=0)
def pairwise(op: Op) -> Iterator[Fact]:
    """Both inputs are stretched to the output."""
    yield from broadcast(op, op.ins[0], op.out)
    yield from broadcast(op, op.ins[3], op.out)
    yield from _codes(op, 0, 3, y=(6, 7))


@rule_for(RULES, "QLinearWhere", zero=((1,), (4,)), domain=MICROSOFT, shapes=like("Sum", 0, 1, 4), typed_by=1)
def where(op: Op) -> Iterator[Fact]:
    """Condition and both inputs are stretched to the output."""
    for slot in (0, 1, 4):
        yield from broadcast(op, op.ins[slot], op.out)
    yield from _codes(op, 1, 4, y=(7, 8))


@rule_for(RULES, "QLinearLeakyRelu", zero=FIRST, domain=MICROSOFT, shapes=like("LeakyRelu", 0, version=6), typed_by=0)
@rule_for(RULES, "QLinearSigmoid", domain=MICROSOFT, shapes=like("Sigmoid", 0), typed_by=0)
def unary(op: Op) -> Iterator[Fact]:
    """Every axis of x is the same axis of y."""
    yield from in_place(op, op.ins[0], op.out)
    yield from _codes(op, 0, y=(3, 4))


@rule_for(RULES, "QLinearSoftmax", domain=MICROSOFT, shapes=like("Softmax", 0), typed_by=0)
def softmax(op: Op) -> Iterator[Fact]:
    """One axis is normalised; with the meaning of opsets before 13 all axes from it on."""
    x, rank, new = op.ins[0], op.rank(op.ins[0]), op.attr("opset", 1) >= 13
    axis = normalized_axis(op, -1 if new else 1, rank)
    normalised = [axis] if new else list(range(axis, rank))
    yield from in_place(op, x, op.out, but=normalised)
    yield from _codes(op, 0, y=(3, 4))
    for name in (x, op.out):
        yield from (Pin((name, a), f"{op.label} normalises over it: removing an index changes all") for a in normalised)


@rule_for(
    RULES, "QLinearAveragePool", "QLinearGlobalAveragePool", zero=FIRST, domain=MICROSOFT, shapes=_pooled, typed_by=0
)
def pool(op: Op) -> Iterator[Fact]:
    """Axes 0 and 1 are the same."""
    if op.attr("channels_last", 0):
        yield from pin_all(op, f"{op.label} has its channels last")
        return
    yield from in_place(op, op.ins[0], op.out, but=range(2, op.rank(op.out)))
    yield from _codes(op, 0, y=(3, 4))


def _joined_zero(op: Op) -> Terms:
    return tuple((slot,) for slot in range(2, len(op.ins), 3))


@rule_for(RULES, "QLinearConcat", zero=_joined_zero, domain=MICROSOFT, shapes=like("Concat"), typed_by=2)
def concat(op: Op) -> Iterator[Fact]:
    """Each input owns a window of the output."""
    yield from joined(op, op.ins[2::3])
    yield from _codes(op, *range(2, len(op.ins), 3), y=(0, 1))


@rule_for(RULES, "QGemm", zero=((0, 3), (6,)), domain=MICROSOFT, shapes=like("Gemm", 0, 3), typed_by=8)
def gemm(op: Op) -> Iterator[Fact]:
    """A (M, K) · B (K, N) + C; C is in units of both scales; without a scale the output is no codes."""
    a, b, y = op.ins[0], op.ins[3], op.out
    yield from transposed_product(op, a, b)
    yield from coded(op, a, (1,), 2)
    yield from coded(op, b, (4,), 5, 0 if op.attr("transB", 0) else 1)
    if op.has(6):
        yield from broadcast(op, op.ins[6], y)
        yield from coded(op, op.ins[6], (1, 4), axis=op.rank(op.ins[6]) - 1)
    if op.has(7):
        yield from coded(op, y, (7,), 8)
