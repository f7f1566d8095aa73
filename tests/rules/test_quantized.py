"""Codes: zero is the code that stands for it, and what says how codes are read is cut with them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.surgery import removal
from tests.laws import analyse, every_other, groups, parse
from tests.rules.cases import Case, check, multiply_accumulates


def weights(codes: str, scale: str, zero: str, *, attributes: str = "axis = 1", opset: int = 21, ir: int = 10) -> Case:
    """The first of two weights is read by DequantizeLinear with these parameters, one entry per column or for all."""
    declared = ", ".join(filter(None, (f"{codes}[4,8] w", scale, zero)))
    given = ", ".join(["w", scale.split()[1], *(zero.split()[1:2] if zero else [])])
    per_column = [f"{text.split()[1]}:0" for text in (scale, zero) if "[8]" in text]
    per_column += [f"{text.split()[1]}:1" for text in (scale, zero) if ",8]" in text]
    text = f"""g (float[N,4] x) => (float[N,5] y) <{declared}, float[8,5] v> {{
        d = DequantizeLinear <{attributes}> ({given})  h = MatMul(x, d)  r = Relu(h)  y = MatMul(r, v)
    }}"""
    return Case(text.replace(" <>", ""), {" ".join(sorted(["v:0", "w:1", *per_column])): 8}, opset=opset, ir=ir)


SCORES = """g (float[N,5,4] x) => (float[N,5,5] y)
<float[4,8] q, float[4,8] k, float scale = {{0.05}}, uint8 zero = {{131}}, uint8 other = {{130}}> {{
    a = MatMul(x, q)  e = QuantizeLinear(a, scale, zero)  {steps}
    b = MatMul(x, k)  m = Sigmoid(b)  t = Transpose <perm = [0,2,1]> (m)  y = MatMul(d, t)
}}"""
"""A product of two activations, of which one must be zero: the other is not."""

SUMS_OVER = "MatMul #{} ('y') sums over it, and a zeroed unit would still contribute: neither operand is zero there"

STATIC = """g (float[N,3,6,6] x) => (float[N,5] y)
<float sx = {{0.02}}, {t} zx = {{{z}}}, float sh = {{3.5}}, {t} zh = {{{z}}},
 int8[8,3,3,3] w, float[8] scale, int8[8] zero, int32[8] b, float[8] scaleb,
 int8[5,8,4,4] v, float scalev = {{0.01}}> {{
    qx = QuantizeLinear(x, sx, zx)  dx = DequantizeLinear(qx, sx, zx)
    wd = DequantizeLinear <axis = 0> (w, scale, zero)  bd = DequantizeLinear <axis = 0> (b, scaleb)
    h = Conv(dx, wd, bd)  r = Relu(h)
    qh = QuantizeLinear(r, sh, zh)  dh = DequantizeLinear(qh, sh, zh)
    vd = DequantizeLinear(v, scalev)  o = Conv(dh, vd)  y = Flatten(o)
}}"""
STATIC_GROUPS = {"b:0 scale:0 scaleb:0 v:1 w:0 zero:0": 8}

GRAPHS: dict[str, Case] = {
    "DequantizeLinear, of one scale": weights("int8", "float scale", "", attributes=""),
    "DequantizeLinear, of one scale in a list": weights("int8", "float[1] scale", "int8[1] zero"),
    "DequantizeLinear, of one scale and zero point": weights("uint8", "float scale", "uint8 zero", attributes=""),
    "DequantizeLinear, of a scale per column": weights("int8", "float[8] scale", ""),
    "DequantizeLinear, of a scale and a zero point per column": weights("uint8", "float[8] scale", "uint8[8] zero"),
    "DequantizeLinear, counted from the end": weights(
        "int8", "float[8] scale", "int8[8] zero", attributes="axis = -1", opset=13
    ),
    "DequantizeLinear, of opset 10": weights("uint8", "float scale", "uint8 zero", attributes="", opset=10, ir=8),
    "DequantizeLinear, of opset 19": weights("int8", "float[8] scale", "int8[8] zero", opset=19, ir=9),
    "DequantizeLinear, of opset 23": weights("uint8", "float[8] scale", "uint8[8] zero", opset=23),
    "DequantizeLinear, of 16 bits": weights("uint16", "float[8] scale", "uint16[8] zero"),
    "DequantizeLinear, of 4 bits": weights("int4", "float[8] scale", "int4[8] zero"),
    "DequantizeLinear, of 4 bits without a sign": weights("uint4", "float[8] scale", "uint4[8] zero"),
    "DequantizeLinear, of 32 bits": weights("int32", "float[8] scale", ""),
    "DequantizeLinear, of 8 bits with a point": weights("float8e4m3fn", "float scale", "", attributes="", opset=19),
    "DequantizeLinear, in blocks along the other axis": weights(
        "int4", "float[2,8] scale", "int4[2,8] zero", attributes="axis = 0, block_size = 2"
    ),
    "DequantizeLinear, in blocks along the other axis, the last one short": weights(
        "uint8", "float[2,8] scale", "uint8[2,8] zero", attributes="axis = 0, block_size = 3"
    ),
    "DequantizeLinear, in blocks": Case(  # a block stays together
        """g (float[N,4] x) => (float[N,5] y) <uint8[4,9] w, float[4,3] scale, uint8[4,3] zero, float[9,5] v> {
            d = DequantizeLinear <axis = 1, block_size = 4> (w, scale, zero)
            h = MatMul(x, d)  r = Relu(h)  y = MatMul(r, v)
        }""",
        {"scale:1 v:0 w:1 zero:1": 3},
        opset=21,
        ir=10,
    ),
    "DequantizeLinear, in a single block": Case(
        """g (float[N,4] x) => (float[N,5] y) <uint8[4,8] w, float[4,1] scale, uint8[4,1] zero, float[8,5] v> {
            d = DequantizeLinear <axis = 1, block_size = 8> (w, scale, zero)
            h = MatMul(x, d)  r = Relu(h)  y = MatMul(r, v)
        }""",
        {"v:0 w:1": 8},
        opset=21,
        ir=10,
    ),
    "DequantizeLinear, of a bias": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <float[4,8] w, int32[8] b, float scale = {0.001}, int32 zero = {0}, float[8,5] v> {
            d = DequantizeLinear(b, scale, zero)  h = Gemm(x, w, d)  r = Relu(h)  y = MatMul(r, v)
        }""",
        {"b:0 v:0 w:1": 8},
    ),
    "DequantizeLinear, whose codes are picked and moved first": Case(  # an embedding
        """g (int64[N,6] x) => (float[6,N,5] y) <uint8[20,8] w, float scale, uint8 zero = {119}, float[8,5] v> {
            p = Gather(w, x)  t = Transpose <perm = [1,0,2]> (p)  d = DequantizeLinear(t, scale, zero)
            c, cs, cz = DynamicQuantizeLinear(d)  e = DequantizeLinear(c, cs, cz)  y = MatMul(e, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "DequantizeLinear, whose codes are moved first, of a zero point per column": Case(
        """g (float[N,4] x) => (float[N,5] y) <uint8[8,4] w, float[8] scale, uint8[8] zero, float[8,5] v> {
            t = Transpose(w)  d = DequantizeLinear <axis = 1> (t, scale, zero)  h = MatMul(x, d)  y = MatMul(h, v)
        }""",
        {},
        "'w' holds codes whose zero point is computed, or differs between its readers",
    ),
    "DequantizeLinear, of codes that are also read as numbers": Case(
        """g (float[N,4] x) => (float[N,5] y) <uint8[4,8] w, float scale, uint8 zero = {119}, float[8,5] v> {
            d = DequantizeLinear(w, scale, zero)  c = Cast <to = 1> (w)  s = Add(c, d)  h = MatMul(x, s)
            y = MatMul(h, v)
        }""",
        {},
        "'w' holds codes whose zero point is computed, or differs between its readers",
    ),
    "DequantizeLinear, of codes that are also read as numbers, without a zero point": Case(
        """g (float[N,4] x) => (float[N,5] y) <uint8[4,8] w, float scale, float[8,5] v> {
            d = DequantizeLinear(w, scale)  c = Cast <to = 1> (w)  s = Add(c, d)  h = MatMul(x, s)  y = MatMul(h, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "DequantizeLinear, of codes that are read with two zero points": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <uint8[4,8] w, float scale, uint8 zero = {119}, uint8 other = {118}, float[8,5] v> {
            d = DequantizeLinear(w, scale, zero)  c = DequantizeLinear(w, scale, other)  s = Add(c, d)
            h = MatMul(x, s)  y = MatMul(h, v)
        }""",
        {},
        "'w' holds codes whose zero point is computed, or differs between its readers",
    ),
    "DequantizeLinear, whose zero point comes from outside": Case(
        """g (float[N,4] x, uint8 zero) => (float[N,5] y) <uint8[4,8] w, float scale, float[8,5] v> {
            d = DequantizeLinear(w, scale, zero)  h = MatMul(x, d)  y = MatMul(h, v)
        }""",
        {},
        "'w' holds codes whose zero point is computed, or differs between its readers",
    ),
    "DequantizeLinear, of activations": Case(
        SCORES.format(steps="d = DequantizeLinear(e, scale, zero)"), {"k:1 q:1": 8}
    ),
    "DequantizeLinear, of activations that were moved": Case(
        SCORES.format(
            steps="u = Identity(e)  c = Concat <axis = 0> (u, u)  w, z = Split <axis = 0> (c)"
            "  d = DequantizeLinear(w, scale, zero)"
        ),
        {"k:1 q:1": 8},
        opset=13,
    ),
    "DequantizeLinear, with another zero point than the codes were made with": Case(
        SCORES.format(steps="d = DequantizeLinear(e, scale, other)"), {}, SUMS_OVER.format(6)
    ),
    "DequantizeLinear, without the zero point that the codes were made with": Case(
        SCORES.format(steps="d = DequantizeLinear(e, scale)"), {}, SUMS_OVER.format(6)
    ),
    "DequantizeLinear, from ONNX Runtime": Case(
        """g (float[N,4] x) => (float[N,5] y) <uint16[4,8] w, float[8] scale, uint16[8] zero, float[8,5] v> {
            d = com.microsoft.DequantizeLinear <axis = 1> (w, scale, zero)
            h = MatMul(x, d)  r = Relu(h)  y = MatMul(r, v)
        }""",
        {"scale:0 v:0 w:1 zero:0": 8},
    ),
    "QuantizeLinear": Case(STATIC.format(t="int8", z=-9), STATIC_GROUPS),
    "QuantizeLinear, without a sign": Case(STATIC.format(t="uint8", z=117), STATIC_GROUPS, opset=13),
    "QuantizeLinear, of opset 19": Case(STATIC.format(t="uint8", z=117), STATIC_GROUPS, opset=19, ir=9),
    "QuantizeLinear, of opset 21": Case(STATIC.format(t="uint16", z=117), STATIC_GROUPS, opset=21, ir=10),
    "QuantizeLinear, of opset 23": Case(STATIC.format(t="int8", z=0), STATIC_GROUPS, opset=23, ir=10),
    "QuantizeLinear, of a weight": Case(  # as training with rounded weights leaves it
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8] scale, uint8[8] zero, float[8,5] v> {
            q = QuantizeLinear <axis = 1> (w, scale, zero)  d = DequantizeLinear <axis = 1> (q, scale, zero)
            h = MatMul(x, d)  r = Relu(h)  y = MatMul(r, v)
        }""",
        {"scale:0 v:0 w:1 zero:0": 8},
    ),
    "QuantizeLinear, from ONNX Runtime": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <float[4,8] w, float scale = {0.01}, uint16 zero = {117}, float[8,5] v> {
            h = MatMul(x, w)  q = com.microsoft.QuantizeLinear(h, scale, zero)
            d = com.microsoft.DequantizeLinear(q, scale, zero)  y = MatMul(d, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "DynamicQuantizeLinear": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <float[4,8] w, float[8] b, uint8[8,5] v, uint8 zero = {130}, float scalev> {
            a = MatMul(x, w)  h = Add(a, b)  r = Relu(h)  q, s, z = DynamicQuantizeLinear(r)
            p = MatMulInteger(q, v, z, zero)  c = Cast <to = 1> (p)  m = Mul(s, scalev)  y = Mul(c, m)
        }""",
        {"b:0 v:0 w:1": 8},
        opset=11,
    ),
    "DynamicQuantizeLinear, of what is not zero": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, uint8[8,5] v, uint8 zero = {130}, float scalev> {
            a = MatMul(x, w)  r = Sigmoid(a)  q, s, z = DynamicQuantizeLinear(r)
            p = MatMulInteger(q, v, z, zero)  c = Cast <to = 1> (p)  m = Mul(s, scalev)  y = Mul(c, m)
        }""",
        {},
        "DynamicQuantizeLinear #2 ('q') sums over it, and a zeroed unit would still contribute",
    ),
    "MatMulInteger": Case(
        """g (uint8[N,4] x) => (int32[N,5] y)
        <uint8 zx = {7}, int8[4,8] w, int8 zero = {-3}, int8[8,5] v, int32 k = {5000}> {
            h = MatMulInteger(x, w, zx, zero)  d = Div(h, k)  c = Cast <to = 3> (d)  y = MatMulInteger(c, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "MatMulInteger, of a zero point per column": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <uint8[4,8] w, uint8[8] zero, float[8] scalew, float[8] b, float[8,5] v> {
            q, s, z = DynamicQuantizeLinear(x)  h = MatMulInteger(q, w, z, zero)  c = Cast <to = 1> (h)
            m = Mul(s, scalew)  d = Mul(c, m)  e = Add(d, b)  y = MatMul(e, v)
        }""",
        {"b:0 scalew:0 v:0 w:1 zero:0": 8},
    ),
    "MatMulInteger, whose weight's zero point comes from outside": Case(
        """g (uint8[N,4] x, uint8 zero) => (float[N,5] y) <uint8[4,8] w, uint8 zx = {7}, float[8,5] v> {
            h = MatMulInteger(x, w, zx, zero)  c = Cast <to = 1> (h)  y = MatMul(c, v)
        }""",
        {},
        "'w' holds codes whose zero point is computed, or differs between its readers",
    ),
    "MatMulInteger, of two activations": Case(
        """g (float[3,4] x) => (int32[3,3] y) <float[4,8] q, float[4,8] k> {
            a = MatMul(x, q)  c, s, z = DynamicQuantizeLinear(a)
            b = MatMul(x, k)  r = Relu(b)  d, u, w = DynamicQuantizeLinear(r)  t = Transpose(d)
            y = MatMulInteger(c, t, z, w)
        }""",
        {"k:1 q:1": 8},
    ),
    "ConvInteger": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <uint8[8,3,3,3] w, uint8 zw = {131}, float scalew = {0.01}, float[1,8,1,1] b,
         uint8[5,8,1,1] v, uint8 zv = {9}> {
            q, s, z = DynamicQuantizeLinear(x)  h = ConvInteger <pads = [1,1,1,1]> (q, w, z, zw)
            c = Cast <to = 1> (h)  m = Mul(s, scalew)  d = Mul(c, m)  e = Add(d, b)  r = Relu(e)
            p, t, o = DynamicQuantizeLinear(r)  i = ConvInteger(p, v, o, zv)  y = Cast <to = 1> (i)
        }""",
        {"b:1 v:1 w:0": 8},
    ),
    "ConvInteger, depthwise": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, uint8[8,1,3,3] k, uint8 zk = {131}, float[5,8,1,1] v> {
            a = Conv(x, w)  q, s, z = DynamicQuantizeLinear(a)
            h = ConvInteger <group = 8, pads = [1,1,1,1]> (q, k, z, zk)  c = Cast <to = 1> (h)  y = Conv(c, v)
        }""",
        {"k:0 v:1 w:0": 8},
    ),
    "QLinearConv": Case(
        """g (uint8[N,3,6,6] x) => (uint8[N,5,4,4] y)
        <float scalex = {0.05}, uint8 zx = {120}, int8[8,3,3,3] w, float[8] scalew, int8[8] zw = {0,0,0,0,0,0,0,0},
         float scaleh = {50.0}, uint8 zh = {128}, int32[8] b,
         uint8[5,8,1,1] v, float scalev = {0.02}, uint8 zv = {127}, float scaley = {20.0}, uint8 zy = {111}> {
            h = QLinearConv(x, scalex, zx, w, scalew, zw, scaleh, zh, b)
            y = QLinearConv(h, scaleh, zh, v, scalev, zv, scaley, zy)
        }""",
        {"b:0 scalew:0 v:1 w:0 zw:0": 8},
        opset=10,
    ),
    "QLinearConv, depthwise": Case(
        """g (uint8[N,3,6,6] x) => (uint8[N,5,4,4] y)
        <float scalex = {0.05}, uint8 zx = {120}, uint8[8,3,1,1] w, float scalew = {0.05}, uint8 zw = {93},
         float scaleh = {1.0}, uint8 zh = {128}, uint8[8,1,3,3] k, uint8[5,8,1,1] v, uint8 zv = {127},
         float scaley = {3.0}, uint8 zy = {111}> {
            h = QLinearConv(x, scalex, zx, w, scalew, zw, scaleh, zh)
            d = QLinearConv <group = 8> (h, scaleh, zh, k, scalew, zw, scaleh, zh)
            y = QLinearConv(d, scaleh, zh, v, scalew, zv, scaley, zy)
        }""",
        {"k:0 v:1 w:0": 8},
    ),
    "QLinearMatMul": Case(
        """g (uint8[N,4] x) => (uint8[N,5] y)
        <float scalex = {0.05}, uint8 zx = {120}, uint8[4,8] w, float[8] scalew, uint8[8] zw,
         float scaleh = {20.0}, uint8 zh = {128}, uint8[8,5] v, float scalev = {0.5}, uint8 zv = {130},
         float scaley = {400.0}, uint8 zy = {100}> {
            h = QLinearMatMul(x, scalex, zx, w, scalew, zw, scaleh, zh)
            y = QLinearMatMul(h, scaleh, zh, v, scalev, zv, scaley, zy)
        }""",
        {"scalew:0 v:0 w:1 zw:0": 8},
        opset=10,
    ),
    "QLinearMatMul, of two activations": Case(
        """g (float[3,4] x) => (uint8[3,3] y)
        <float[4,8] q, float[4,8] k, float scale = {0.05}, uint8 zero = {131}, float scaley = {0.4}, uint8 zy = {90}> {
            a = MatMul(x, q)  c = QuantizeLinear(a, scale, zero)
            b = MatMul(x, k)  r = Sigmoid(b)  d = QuantizeLinear(r, scale, zero)  t = Transpose(d)
            y = QLinearMatMul(c, scale, zero, t, scale, zero, scaley, zy)
        }""",
        {"k:1 q:1": 8},
    ),
    "QLinearMatMul, of two activations, of which one has another zero point": Case(
        """g (float[3,4] x) => (uint8[3,3] y)
        <float[4,8] q, float[4,8] k, float scale = {0.05}, uint8 zero = {131}, uint8 other = {130},
         float scaley = {0.4}> {
            a = MatMul(x, q)  c = QuantizeLinear(a, scale, zero)
            b = MatMul(x, k)  r = Sigmoid(b)  d = QuantizeLinear(r, scale, zero)  t = Transpose(d)
            y = QLinearMatMul(c, scale, other, t, scale, zero, scaley, zero)
        }""",
        {},
        "QLinearMatMul #6 ('y') sums over it, and a zeroed unit would still contribute",
    ),
}


@pytest.mark.parametrize("title", GRAPHS)
def test_codes_are_cut_like_numbers(title: str) -> None:
    check(GRAPHS[title])


@pytest.mark.parametrize("opset", range(13, 25))
def test_a_statically_quantised_network_is_cut_alike_at_every_opset(opset: int) -> None:
    check(Case(STATIC.format(t="uint8", z=117), STATIC_GROUPS, opset=opset, ir=10))


def test_zeroing_writes_zero_points_and_keeps_what_says_how_codes_are_read() -> None:
    case = GRAPHS["DequantizeLinear, of a scale and a zero point per column"]
    model = parse(case.text, opset=case.opset, ir=case.ir)
    analysis = analyse(model)
    removed = every_other(model)
    arrays = removal.zero(analysis, removed).arrays
    assert set(arrays) == {"w", "v"}
    zero = analysis.graph.constant("zero")
    assert zero is not None
    assert np.array_equal(arrays["w"]()[:, 1::2], np.broadcast_to(zero[1::2], (4, 4)))
    assert not arrays["v"]()[1::2].any()


WEIGHT_ONLY = """g (float[N,4] x) => (float[N,5] y) <float[4,8] u, {weights}> {{
    h = MatMul(x, u)  s = Sigmoid(h)  {steps}  y = MatMul(s, d)
}}"""


@pytest.mark.parametrize(
    ("weights", "steps", "also"),
    [
        ("float scale", "c = Cast <to = 1> (w)  d = Mul(c, scale)", ""),
        ("float[5] scale", "c = Cast <to = 1> (w)  d = Mul(scale, c)", ""),
        ("float[8,1] scale", "c = Cast <to = 1> (w)  d = Mul(c, scale)", "scale:0 "),
        ("float zero = {3.0}, float scale", "c = Cast <to = 1> (w)  e = Sub(c, zero)  d = Mul(e, scale)", ""),
        ("int8 zero = {3}", "c = Cast <to = 1> (w)  z = Cast <to = 1> (zero)  d = Sub(c, z)", ""),
        ("int8[8,1] zero", "c = Cast <to = 1> (w)  z = Cast <to = 1> (zero)  d = Sub(c, z)", "zero:0"),
        ("int8[5] zero", "c = Cast <to = 1> (w)  z = Cast <to = 1> (zero)  d = Sub(c, z)", ""),
        ("int8 zero = {3}", "t = Identity(w)  c = Cast <to = 1> (t)  z = Cast <to = 1> (zero)  d = Sub(c, z)", None),
        ("float zero = {3.5}", "c = Cast <to = 1> (w)  d = Sub(c, zero)", None),
        ("float zero = {200.0}", "c = Cast <to = 1> (w)  d = Sub(c, zero)", None),
    ],
)
def test_weights_that_are_decoded_by_arithmetic(weights: str, steps: str, also: str | None) -> None:
    """The forms that exporters write where a runtime knows no codes; behind Sigmoid only the weight can be zero."""
    text = WEIGHT_ONLY.format(weights=f"int8[8,5] w, {weights}", steps=steps)
    axes = None if also is None else " ".join(sorted(["u:1", "w:0", *also.split()]))
    check(Case(text, {} if axes is None else {axes: 8}))


def test_weights_that_are_decoded_by_arithmetic_are_scored_by_their_values() -> None:
    steps = "c = Cast <to = 1> (w)  e = Sub(c, zero)  d = Mul(e, scale)"
    declared = "int8[8,5] w, float[5] zero = {1.0, 2.0, 3.0, 4.0, 5.0}, float[5] scale"
    analysis = analyse(parse(WEIGHT_ONLY.format(weights=declared, steps=steps)))
    weight, scale = analysis.graph.constant("w"), analysis.graph.constant("scale")
    assert weight is not None
    assert scale is not None
    assert analysis.codes.decode("w", weight) == pytest.approx((weight - np.arange(1.0, 6)) * scale)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("ConvInteger(x, k)", 2 * 4 * 4 * 12 * 8 * 3 * 3),
        ("ConvInteger <group = 8> (x, d)", 2 * 4 * 4 * 8 * 3 * 3),
        ("MatMulInteger(x, m)", 2 * 8 * 6 * 6 * 5),
        ("QLinearMatMul(x, s, o, m, s, o, s, o)", 2 * 8 * 6 * 6 * 5),
        ("QLinearConv(x, s, o, k, s, o, s, o)", 2 * 4 * 4 * 12 * 8 * 3 * 3),
    ],
)
def test_a_product_of_codes_states_its_multiply_accumulates(node: str, expected: int) -> None:
    declared = "uint8[2,8,6,6] x, uint8[12,8,3,3] k, uint8[8,1,3,3] d, uint8[6,5] m, float s, uint8 o"
    assert multiply_accumulates(node, declared) == expected


def test_groups_of_half_precision_weights() -> None:
    text = """g (float[N,3,4,4] x) => (float[N,5,4,4] y) <{t}[8,3,1,1] w, {t}[8] b, {t}[5,8,1,1] v> {{
        c = Cast <to = {number}> (x)  h = Conv(c, w, b)  r = Relu(h)  o = Conv(r, v)  y = Cast <to = 1> (o)
    }}"""
    check(Case(text.format(t="float16", number=10), {"b:0 v:1 w:0": 8}))
    assert groups(parse(text.format(t="bfloat16", number=16), opset=22)) == {"b:0 v:1 w:0": 8}
