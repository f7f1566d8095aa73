"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, Free, Pin, Pole
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.rules.layout import broadcast, in_place, normalized_axis, pin_all
from onnxprune.rules.quantized import as_numbers

RULES: RuleTable = {}

EITHER: Terms = ((0, 1),)
ODD = (
    "Tanh",
    "Sin",
    "Tan",
    "Asin",
    "Atan",
    "Sinh",
    "Asinh",
    "Atanh",
    "Softsign",
    "Erf",
    "Neg",
    "Sign",
    "Identity",
    "Cast",
)
RECTIFIED = (
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "HardSwish",
    "Swish",
    "Mish",
    "Abs",
    "Sqrt",
    "Ceil",
    "Floor",
    "Round",
)
MOVES_ZERO = (
    "Sigmoid",
    "Exp",
    "Softplus",
    "HardSigmoid",
    "Cos",
    "Cosh",
    "Acos",
    "Not",
    "IsNaN",
    "IsInf",
    "BitwiseNot",
    "Shrink",
    "ThresholdedRelu",
    "BitCast",  # of a negative zero
)


def _every(op: Op) -> Terms:
    """Zero only where all inputs are."""
    return tuple((slot,) for slot in range(len(op.ins)))


@rule_for(RULES, *ODD, *RECTIFIED, zero=FIRST)
@rule_for(RULES, *MOVES_ZERO)
def unary(op: Op) -> Iterator[Fact]:
    """Every axis of x is the same axis of y."""
    yield from in_place(op, op.ins[0], op.out)


@rule_for(RULES, "Log", "Reciprocal", "Acosh")
def singular(op: Op) -> Iterator[Fact]:
    """As any unary operator, but not finite at zero."""
    yield from in_place(op, op.ins[0], op.out)
    for axis in range(op.rank(op.ins[0])):
        yield Pole((op.ins[0], axis))


@rule_for(RULES, "CastLike", zero=FIRST)
def cast_like(op: Op) -> Iterator[Fact]:
    """Every axis of x is the same axis of y; of the other input, only the type is read."""
    yield from in_place(op, op.ins[0], op.out)
    for axis in range(op.rank(op.ins[1])):
        yield Free((op.ins[1], axis))


def _clip_zero(op: Op) -> Terms | None:
    low, high = op.numbers("min", 1), op.numbers("max", 2)
    known = [bound for bound in (low, high) if bound is not None]
    if any(None in bound for bound in known) or (op.has(1) and low is None) or (op.has(2) and high is None):
        return None
    return FIRST if (low is None or low[0] <= 0) and (high is None or high[0] >= 0) else None


@rule_for(RULES, "Clip", zero=_clip_zero)
def clip(op: Op) -> Iterator[Fact]:
    """Bounds are scalars."""
    yield from in_place(op, op.ins[0], op.out)


def _dropout_zero(op: Op) -> Terms | None:
    mask_is_read = any(y in op.graph.consumers for y in op.outs[1:])  # it is one where the data is zero
    return None if mask_is_read else FIRST


@rule_for(RULES, "Dropout", zero=_dropout_zero)
def dropout(op: Op) -> Iterator[Fact]:
    """At inference, the identity; its mask has the same axes."""
    training = op.numbers("training_mode", 2)
    if op.has(2) and training not in ([0], [False]):
        yield from pin_all(op, f"{op.label} may be in training mode")
        return
    for y in op.outs:
        if y in op.graph.shapes:
            yield from in_place(op, op.ins[0], y)


@rule_for(RULES, "Add", "Max", "Min", "Sum", "Mean", zero=_every)
@rule_for(RULES, "And", zero=EITHER)
@rule_for(RULES, "BitShift", "BitwiseAnd", "PRelu", zero=FIRST)
@rule_for(RULES, "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor", "BitwiseOr", "BitwiseXor")
@rule_for(RULES, "Where", zero=((1,), (2,)))
def broadcasting(op: Op) -> Iterator[Fact]:
    """Every input is stretched to y."""
    for x in op.ins:
        yield from broadcast(op, x, op.out)


def _difference_zero(op: Op) -> Terms:
    """What is taken off codes is their zero point."""
    return FIRST if any(as_numbers(op)) else _every(op)


@rule_for(RULES, "Sub", zero=_difference_zero)
@rule_for(RULES, "Mul", zero=EITHER)
def decoding(op: Op) -> Iterator[Fact]:
    """As any broadcasting operator; but it may decode a weight that is kept as codes."""
    yield from broadcasting(op)
    yield from as_numbers(op)


@rule_for(RULES, "Div", "Mod", zero=FIRST)
def quotient(op: Op) -> Iterator[Fact]:
    """As any broadcasting operator, but the divisor must not be zero."""
    yield from broadcasting(op)
    for axis in range(op.rank(op.ins[1])):
        yield Pole((op.ins[1], axis))


def _positive_exponent(op: Op) -> bool:
    exponent = op.graph.constant(op.ins[1])
    return exponent is not None and bool((exponent > 0).all())


def _power_zero(op: Op) -> Terms | None:
    """An exponent with axes of its own may be cut, hence zero; and zero to the power of zero is one."""
    return FIRST if _positive_exponent(op) and op.graph.elements(op.ins[1]) == 1 else None


@rule_for(RULES, "Pow", zero=_power_zero)
def power(op: Op) -> Iterator[Fact]:
    """Zero to a positive power is zero; to any other it is not, or is not finite."""
    yield from broadcasting(op)
    if not _positive_exponent(op):
        for axis in range(op.rank(op.ins[0])):
            yield Pole((op.ins[0], axis))


@rule_for(RULES, "Softmax", "LogSoftmax", "Hardmax")
def softmax(op: Op) -> Iterator[Fact]:
    """All indices of the normalised axis share one sum (before opset 13: of all axes from it on)."""
    x, rank = op.ins[0], op.rank(op.ins[0])
    axis = normalized_axis(op, -1 if op.version >= 13 else 1, rank)
    normalised = [axis] if op.version >= 13 else list(range(axis, rank))
    yield from in_place(op, x, op.out, but=normalised)
    for a in normalised:
        yield Pin((x, a), f"{op.label} normalises over it: removing an index changes all others")
        yield Pin((op.out, a), f"{op.label} normalises over it")
