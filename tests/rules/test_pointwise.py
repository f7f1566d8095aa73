"""Operators that work element by element: every axis keeps its place, and zero may or may not stay zero."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, check

PER_CHANNEL = """g (float[N,4] x) => (float[N,5] y)
<float[4,8] w, float[8] b, float[8,5] v, float[8] s, float[1,8] r, float[1] one = {{1.0}}> {{
    m = MatMul(x, w)
    i = Add(m, b)
    {steps}
    y = MatMul(z, v)
}}"""

SUMMED = """g (float[N,4] x) => (float[N] y)
<float[4,8] w, float[8] b, float[8] s, float[8] var, float[1,8] r, float[1] one = {{1.0}}, int64[1] axes = {{1}}> {{
    m = MatMul(x, w)
    i = Add(m, b)
    {steps}
    y = ReduceSum <keepdims = 0> (z, axes)
}}"""

HIDDEN = {"b:0 v:0 w:1": 8}

# what the operator is applied to, and from which opset on it exists
KEEPS_ZERO = {
    "Tanh": ("z = Tanh(i)", 7),
    "Sin": ("z = Sin(i)", 7),
    "Tan": ("z = Tan(i)", 7),
    "Asin": ("t = Tanh(i)  z = Asin(t)", 7),
    "Atan": ("z = Atan(i)", 7),
    "Sinh": ("z = Sinh(i)", 9),
    "Asinh": ("z = Asinh(i)", 9),
    "Atanh": ("t = Sin(i)  z = Atanh(t)", 9),
    "Softsign": ("z = Softsign(i)", 7),
    "Erf": ("z = Erf(i)", 9),
    "Neg": ("z = Neg(i)", 7),
    "Sign": ("z = Sign(i)", 9),
    "Identity": ("z = Identity(i)", 7),
    "Cast": ("t = Cast <to = 11> (i)  z = Cast <to = 1> (t)", 7),
    "Relu": ("z = Relu(i)", 7),
    "LeakyRelu": ("z = LeakyRelu(i)", 7),
    "Elu": ("z = Elu(i)", 7),
    "Selu": ("z = Selu(i)", 7),
    "Celu": ("z = Celu(i)", 12),
    "Gelu": ("z = Gelu(i)", 20),
    "HardSwish": ("z = HardSwish(i)", 14),
    "Swish": ("z = Swish(i)", 24),
    "Mish": ("z = Mish(i)", 18),
    "Abs": ("z = Abs(i)", 7),
    "Sqrt": ("t = Abs(i)  z = Sqrt(t)", 7),
    "Ceil": ("z = Ceil(i)", 7),
    "Floor": ("z = Floor(i)", 7),
    "Round": ("z = Round(i)", 11),
    "CastLike": ("z = CastLike(i, one)", 15),
}
MOVES_ZERO = {
    "Sigmoid": ("z = Sigmoid(i)", 7),
    "Exp": ("z = Exp(i)", 7),
    "Softplus": ("z = Softplus(i)", 7),
    "HardSigmoid": ("z = HardSigmoid(i)", 7),
    "Cos": ("z = Cos(i)", 7),
    "Cosh": ("z = Cosh(i)", 9),
    "Acos": ("t = Tanh(i)  z = Acos(t)", 7),
    "Not": ("t = Greater(i, one)  n = Not(t)  z = Cast <to = 1> (n)", 9),
    "BitwiseNot": ("t = Cast <to = 6> (i)  n = BitwiseNot(t)  z = Cast <to = 1> (n)", 18),
    "Log": ("t = Sigmoid(i)  z = Log(t)", 7),
    "Reciprocal": ("t = Sigmoid(i)  z = Reciprocal(t)", 7),
    "BitCast": ("t = BitCast <to = 6> (i)  z = Cast <to = 1> (t)", 26),  # a zero may be negative
}
NOTHING_CLAIMED = {
    "IsNaN": ("t = IsNaN(i)  n = Cast <to = 1> (t)  z = Add(n, i)", 9),
    "IsInf": ("t = IsInf(i)  n = Cast <to = 1> (t)  z = Add(n, i)", 10),
    "Shrink": ("z = Shrink <lambd = 0.5> (i)", 9),
    "ThresholdedRelu": ("z = ThresholdedRelu(i)", 10),
    "Acosh": ("t = Cosh(i)  z = Acosh(t)", 9),
}
UNARY = {**KEEPS_ZERO, **MOVES_ZERO, **NOTHING_CLAIMED}


def hidden(steps: str, groups: dict[str, int] | None = None, why: str | None = None, opset: int = 17) -> Case:
    return Case(PER_CHANNEL.format(steps=steps), HIDDEN if groups is None else groups, why, opset)


GRAPHS: dict[str, Case] = {op: hidden(steps, opset=max(opset, 11)) for op, (steps, opset) in UNARY.items()}
GRAPHS |= {
    # the axis that is cut may also be no last axis, and several ranks meet
    "Relu, of a picture": Case(
        """g (float[N,3,5,5] x) => (float[N,5,5,5] y) <float[8,3,1,1] w, float[8] b, float[5,8,1,1] v> {
            h = Conv(x, w, b)  r = Relu(h)  y = Conv(r, v)
        }""",
        {"b:0 v:1 w:0": 8},
    ),
    "Cast, behind which a weight lies": Case(
        """g (float[N,4] x) => (float[N,5] y) <float16[4,8] w, float16[8,5] v> {
            a = Cast <to = 1> (w)  b = Cast <to = 1> (v)  h = MatMul(x, a)  y = MatMul(h, b)
        }""",
        {"v:0 w:1": 8},
    ),
    "Identity, behind which a weight lies": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
            a = Identity(w)  b = Identity(v)  h = MatMul(x, a)  y = MatMul(h, b)
        }""",
        {"v:0 w:1": 8},
    ),
    "Clip, of opset 7 with attributes": hidden("z = Clip <min = -1.0, max = 1.0> (i)", opset=7),
    "Clip, of opset 10 with one attribute": hidden("z = Clip <min = 0.0> (i)", opset=10),
    "Clip, with inputs": hidden("lo = Constant <value = float {-1.0}> ()  z = Clip(i, lo)", opset=11),
    "Clip, of opset 13": hidden("hi = Constant <value = float {6.0}> ()  z = Clip(i, , hi)", opset=13),
    "Dropout, of opset 7": hidden("z = Dropout <ratio = 0.5> (i)", opset=7),
    "Dropout, of opset 10 with its mask": hidden("z, mask = Dropout <ratio = 0.5> (i)", opset=10),
    "Dropout, of opset 12": hidden("ratio = Constant <value = float {0.5}> ()  z = Dropout(i, ratio)", opset=12),
    "Dropout, of opset 13 with training switched off": hidden(
        "ratio = Constant <value = float {0.5}> ()  off = Constant <value = bool {0}> ()  z = Dropout(i, ratio, off)",
        opset=13,
    ),
    "Dropout, whose mask is read": hidden("d, mask = Dropout(i)  t = Cast <to = 1> (mask)  z = Add(d, t)", opset=13),
    "Dropout, in training mode": hidden(
        "ratio = Constant <value = float {0.5}> ()  on = Constant <value = bool {1}> ()  z = Dropout(i, ratio, on)",
        {},
        "Dropout #4 ('z') may be in training mode",
    ),
    "BitCast, and back": hidden("t = BitCast <to = 6> (i)  z = BitCast <to = 1> (t)", opset=26),
    "CastLike, of a tensor whose width is not what it is about": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[4,6] k, float[6,5] v, float[8,5] u> {
            h = MatMul(x, w)  i = MatMul(x, k)  c = CastLike(i, h)
            a = MatMul(h, u)  b = MatMul(c, v)  y = Add(a, b)
        }""",
        {"u:0 w:1": 8, "k:1 v:0": 6},
        opset=15,
    ),
    "Add, one entry per channel": hidden("z = Add(i, s)", {"b:0 s:0 v:0 w:1": 8}),
    "Add, a row": hidden("z = Add(i, r)", {"b:0 r:1 v:0 w:1": 8}),
    "Add, one entry for all": hidden("z = Add(one, i)"),
    "Add, to itself": hidden("z = Add(i, i)"),
    "Sub": hidden("z = Sub(s, i)", {"b:0 s:0 v:0 w:1": 8}),
    "Mul": hidden("z = Mul(i, s)", {"b:0 s:0 v:0 w:1": 8}),
    "Mul, by a gate of size one": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[4,1] k, float[8,5] v> {
            h = MatMul(x, w)  a = MatMul(x, k)  q = Sigmoid(a)  z = Mul(h, q)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Mul, of a picture by a tensor of lower rank": Case(
        """g (float[N,3,2,2] x) => (float[N,5,2,2] y) <float[8,3,1,1] w, float[8,1,1] s, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Mul(h, s)  y = Conv(z, v)
        }""",
        {"s:0 v:1 w:0": 8},
    ),
    "Mul, of two branches": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[4,8] k, float[8,5] v> {
            h = MatMul(x, w)  a = MatMul(x, k)  q = Sigmoid(a)  z = Mul(h, q)  y = MatMul(z, v)
        }""",
        {"k:1 v:0 w:1": 8},
    ),
    "Max": hidden("z = Max(i, s)", {"b:0 s:0 v:0 w:1": 8}, opset=8),
    "Min": hidden("z = Min(i, s, one)", {"b:0 s:0 v:0 w:1": 8}, opset=8),
    "Sum": hidden("z = Sum(i, s, r)", {"b:0 r:1 s:0 v:0 w:1": 8}, opset=8),
    "Mean": hidden("z = Mean(i, s)", {"b:0 s:0 v:0 w:1": 8}, opset=8),
    "And": hidden("t = Greater(i, one)  a = And(t, t)  z = Cast <to = 1> (a)", opset=9),
    "Or": hidden("t = Greater(i, one)  n = Not(t)  a = Or(t, n)  z = Cast <to = 1> (a)", opset=9),
    "Xor": hidden("t = Greater(i, one)  n = Not(t)  a = Xor(t, n)  z = Cast <to = 1> (a)", opset=9),
    "Equal": hidden("t = Floor(i)  e = Equal(t, one)  z = Cast <to = 1> (e)", opset=11),
    "Greater": hidden("e = Greater(i, s)  z = Cast <to = 1> (e)", {"b:0 s:0 v:0 w:1": 8}, opset=9),
    "GreaterOrEqual": hidden("e = GreaterOrEqual(i, s)  z = Cast <to = 1> (e)", {"b:0 s:0 v:0 w:1": 8}, opset=12),
    "Less": hidden("e = Less(r, i)  z = Cast <to = 1> (e)", {"b:0 r:1 v:0 w:1": 8}, opset=9),
    "LessOrEqual": hidden("e = LessOrEqual(i, one)  z = Cast <to = 1> (e)", opset=12),
    "Where": hidden("e = Greater(i, s)  z = Where(e, i, r)", {"b:0 r:1 s:0 v:0 w:1": 8}, opset=9),
    "BitShift": hidden(
        "a = Abs(i)  t = Cast <to = 12> (a)  two = Constant <value = uint32[1] {2}> ()"
        '  q = BitShift <direction = "LEFT"> (t, two)  z = Cast <to = 1> (q)',
        opset=11,
    ),
    "BitwiseAnd": hidden("t = Cast <to = 6> (i)  q = BitwiseAnd(t, t)  z = Cast <to = 1> (q)", opset=18),
    "BitwiseOr": hidden("t = Cast <to = 6> (i)  q = BitwiseOr(t, t)  z = Cast <to = 1> (q)", opset=18),
    "BitwiseXor": hidden(
        "t = Cast <to = 6> (i)  n = BitwiseNot(t)  q = BitwiseXor(t, n)  z = Cast <to = 1> (q)", opset=18
    ),
    "PRelu, one slope per channel": hidden("z = PRelu(i, s)", {"b:0 s:0 v:0 w:1": 8}),
    "PRelu, one slope for all": hidden("z = PRelu(i, one)", opset=7),
    "PRelu, of a picture": Case(
        """g (float[N,3,2,2] x) => (float[N,5,2,2] y) <float[8,3,1,1] w, float[8,1,1] s, float[5,8,1,1] v> {
            h = Conv(x, w)  z = PRelu(h, s)  y = Conv(z, v)
        }""",
        {"s:0 v:1 w:0": 8},
        opset=9,
    ),
    "Div": hidden("q = Sigmoid(i)  z = Div(i, q)"),
    "Div, by a number": hidden("z = Div(i, one)"),
    "Div, by what is zero once its unit is": hidden(
        "a = Abs(i)  z = Div(i, a)", {}, "Div #3 ('z') is not finite where a zeroed unit makes it zero"
    ),
    "Div, by a weight that would be zeroed": hidden(
        "z = Div(i, s)", {}, "Div #2 ('z') is not finite where a zeroed unit makes it zero"
    ),
    "Mod": hidden("q = Sigmoid(i)  z = Mod <fmod = 1> (i, q)", opset=10),
    "Mod, by a weight that would be zeroed": hidden("z = Mod <fmod = 1> (i, s)", {}, "Mod #2 ('z') is not finite"),
    "Pow, to a positive power": hidden("two = Constant <value = float {2.0}> ()  z = Pow(i, two)", opset=12),
    "Pow, of a number": hidden("two = Constant <value = float {2.0}> ()  z = Pow(two, i)", opset=13),
    "Pow, to a negative power": hidden(
        "less = Constant <value = float {-1.0}> ()  z = Pow(i, less)", {}, "Pow #3 ('z') is not finite", opset=13
    ),
    "Pow, to a power that differs by channel": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8] var, float[8,5] v> {
            h = MatMul(x, w)  a = Abs(h)  z = Pow(a, var)  y = MatMul(z, v)
        }""",
        {"v:0 var:0 w:1": 8},
    ),
    "Log, of what is zero once its unit is": hidden("a = Abs(i)  z = Log(a)", {}, "Log #3 ('z') is not finite"),
    "Reciprocal, of what is zero once its unit is": hidden(
        "z = Reciprocal(i)", {}, "Reciprocal #2 ('z') is not finite"
    ),
    "Acosh, which has no value at zero": hidden("z = Acosh(i)", {}, "Acosh #2 ('z') is not finite"),
    "Softmax, over the axis": hidden(
        "z = Softmax(i)", {}, "Softmax #2 ('z') normalises over it: removing an index changes all others", 13
    ),
    "Softmax, over all axes from the second on": Case(
        """g (float[N,3,4] x) => (float[N,3,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Softmax <axis = 1> (h)  y = MatMul(z, v)
        }""",
        {},
        "Softmax #1 ('z') normalises over it",
        11,
    ),
    "Softmax, over the second axis alone": Case(
        """g (float[N,3,4] x) => (float[N,3,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Softmax <axis = 1> (h)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=13,
    ),
    "Softmax, over pixels": Case(
        """g (float[N,3,2,6] x) => (float[N,5,2,6] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Softmax <axis = 3> (h)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=9,
    ),
    "LogSoftmax, over pixels": Case(
        """g (float[N,3,2,6] x) => (float[N,5,2,6] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = LogSoftmax <axis = -1> (h)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
    ),
    "LogSoftmax, over the axis": hidden("z = LogSoftmax(i)", {}, "LogSoftmax #2 ('z') normalises over it", 12),
    "Hardmax, over pixels": Case(
        """g (float[N,3,2,6] x) => (float[N,5,2,6] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Hardmax <axis = 3> (h)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=11,
    ),
    "Hardmax, over the axis": hidden("z = Hardmax <axis = 1> (i)", {}, "Hardmax #2 ('z') normalises over it", 11),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_every_axis_keeps_its_place(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("steps", "opset"), KEEPS_ZERO.values(), ids=list(KEEPS_ZERO))
def test_what_is_zero_at_zero_may_be_summed_over(steps: str, opset: int) -> None:
    check(Case(SUMMED.format(steps=steps), {"b:0 w:1": 8}, opset=max(opset, 13)))


@pytest.mark.parametrize(("steps", "opset"), MOVES_ZERO.values(), ids=list(MOVES_ZERO))
def test_what_is_not_zero_at_zero_may_not_be_summed_over(steps: str, opset: int) -> None:
    why = "('y') sums over it, and a zeroed unit would still contribute"
    check(Case(SUMMED.format(steps=steps), {}, why, max(opset, 13)))


@pytest.mark.parametrize(
    ("steps", "groups"),
    [
        ("z = Mul(i, s)", {"b:0 s:0 w:1": 8}),
        ("e = Exp(i)  z = CastLike(e, i)", {}),
        ("e = Exp(i)  z = Mul(e, i)", {"b:0 w:1": 8}),
        ("e = Exp(i)  z = Mul(e, s)", {"b:0 s:0 w:1": 8}),
        ("e = Exp(i)  z = Mul(e, one)", {}),
        ("z = Add(i, s)", {"b:0 s:0 w:1": 8}),
        ("z = Add(i, one)", {}),
        ("z = Sub(i, r)", {"b:0 r:1 w:1": 8}),
        ("e = Exp(i)  z = Sub(i, e)", {}),
        ("z = Max(i, s, r)", {"b:0 r:1 s:0 w:1": 8}),
        ("z = Min(i, one)", {}),
        ("z = Mean(i, s)", {"b:0 s:0 w:1": 8}),
        ("z = Sum(i, s, one)", {}),
        ("e = Sigmoid(i)  z = Div(i, e)", {"b:0 w:1": 8}),
        ("e = Sigmoid(i)  z = Div(one, e)", {}),
        ("z = PRelu(i, s)", {"b:0 s:0 w:1": 8}),
        ("e = Exp(i)  z = PRelu(e, s)", {}),
        ("two = Constant <value = float {2.0}> ()  z = Pow(i, two)", {"b:0 w:1": 8}),
        ("a = Abs(i)  half = Constant <value = float {0.5}> ()  z = Pow(a, half)", {"b:0 w:1": 8}),
        ("a = Abs(i)  p = Abs(s)  z = Pow(a, p)", {}),
        ("a = Abs(i)  z = Pow(a, var)", {}),
        ("z = Clip(i)", {"b:0 w:1": 8}),
        ("lo = Constant <value = float {-0.5}> ()  z = Clip(i, lo)", {"b:0 w:1": 8}),
        ("lo = Constant <value = float {0.5}> ()  z = Clip(i, lo)", {}),
        ("hi = Constant <value = float {-0.5}> ()  z = Clip(i, , hi)", {}),
        ("c = Greater(i, one)  z = Where(c, i, s)", {"b:0 s:0 w:1": 8}),
        ("c = Greater(i, one)  z = Where(c, i, one)", {}),
        ("z, mask = Dropout(i)", {"b:0 w:1": 8}),
        ("d, mask = Dropout(i)  z = Cast <to = 1> (mask)", {}),
        (
            "c = Cast <to = 9> (i)  e = Exp(i)  f = Cast <to = 9> (e)  a = And(c, f)  z = Cast <to = 1> (a)",
            {"b:0 w:1": 8},
        ),
        ("c = Cast <to = 9> (i)  e = Exp(i)  f = Cast <to = 9> (e)  a = Or(c, f)  z = Cast <to = 1> (a)", {}),
    ],
)
def test_a_sum_over_several_operands_needs_the_zeros_that_its_operator_needs(
    steps: str, groups: dict[str, int]
) -> None:
    why = None if groups else "('y') sums over it, and a zeroed unit would still contribute"
    check(Case(SUMMED.format(steps=steps), groups, why))


@pytest.mark.parametrize("opset", [7, 9, 10, 12, 13, 14, 16, 18, 20, 22, 24])
def test_common_activations_say_the_same_at_every_opset(opset: int) -> None:
    steps = "a = Relu(i)  c = Elu(a)  d = LeakyRelu(c)  e = Sigmoid(d)  f = PRelu(e, s)  z = Mul(f, i)"
    check(hidden(steps, {"b:0 s:0 v:0 w:1": 8}, opset=opset))
