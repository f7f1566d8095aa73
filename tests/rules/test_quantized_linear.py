"""Operators of ONNX Runtime from codes to codes, between a first layer that loses units and a last one."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, check, multiply_accumulates

NETWORK = """g (uint8[N,3,6,6] x) => (uint8[N,5,{size}] y)
<float sx = {{0.05}}, uint8 zx = {{120}}, uint8[8,3,3,3] w, float[8] scalew, uint8 zw = {{131}}, int32[8] b,
 float s = {{90.0}}, uint8 z = {{121}}, float t = {{100.0}}, uint8 o = {{130}}, {weights}
 uint8[5,{width},1,1] v, float scalev = {{0.02}}, uint8 zv = {{127}}, float sy = {{20.0}}, uint8 zy = {{111}}> {{
    h = QLinearConv(x, sx, zx, w, scalew, zw, s, z, b)
    {step}
    y = QLinearConv(i, t, o, v, scalev, zv, sy, zy)
}}"""
UNITS = {"b:0 scalew:0 v:1 w:0": 8}


def between(
    step: str, groups: dict[str, int] | None = None, weights: str = "", size: str = "4,4", width: int = 8
) -> Case:
    """What stands between two convolutions of codes; h is read with (s, z), i with (t, o)."""
    text = NETWORK.format(step=step, weights=weights, size=size, width=width)
    return Case(text, UNITS if groups is None else groups)


def summed(step: str, groups: dict[str, int], why: str | None = None) -> Case:
    """The output is quantised dynamically: what is removed must be zero, with whatever zero point."""
    text = f"""g (float[N,4] x) => (float[N,5] y)
    <float[4,8] w, float s = {{{{0.05}}}}, uint8 z = {{{{121}}}}, float t = {{{{0.04}}}}, uint8 o = {{{{130}}}},
     uint8[8] c, float scale = {{{{0.01}}}}, float[8,5] v> {{{{
        h = MatMul(x, w)  q = QuantizeLinear(h, s, z)  {step}  d = DequantizeLinear(r, t, o)
        e, u, a = DynamicQuantizeLinear(d)  f = DequantizeLinear(e, u, a)  y = MatMul(f, v)
    }}}}"""
    return Case(text.replace("{{", "{").replace("}}", "}"), groups, why)


LOSES = {"v:0 w:1": 8}
SECOND = "uint8[6,3,3,3] k, int32[6] c,"
OTHER = "k2 = com.microsoft.QLinearLeakyRelu <alpha = 0.5> (h, s, z, t, o)"

GRAPHS: dict[str, Case] = {
    "QLinearAdd": between("i = com.microsoft.QLinearAdd(h, s, z, h, s, z, t, o)"),
    "QLinearAdd, of one entry per channel": between(
        "i = com.microsoft.QLinearAdd(h, s, z, k, t, z, t, o)", {"b:0 k:0 scalew:0 v:1 w:0": 8}, "uint8[8,1,1] k,"
    ),
    "QLinearAdd, of zeros": summed("r = com.microsoft.QLinearAdd(q, s, z, c, s, z, t, o)", {"c:0 v:0 w:1": 8}),
    "QLinearAdd, read with another zero point": summed(
        "r = com.microsoft.QLinearAdd(q, s, z, c, s, z, t, z)",
        {},
        "DynamicQuantizeLinear #4 ('e') sums over it, and a zeroed unit would still contribute",
    ),
    "QLinearMul": between("i = com.microsoft.QLinearMul(h, s, z, h, s, z, t, o)"),
    "QLinearMul, of a zero and another": summed(
        "r = com.microsoft.QLinearMul(q, s, z, c, s, z, t, o)", {"c:0 v:0 w:1": 8}
    ),
    "QLinearMul, by one entry per channel": between(
        "i = com.microsoft.QLinearMul(h, s, z, k, scalev, z, t, o)", {"b:0 k:0 scalew:0 v:1 w:0": 8}, "uint8[8,1,1] k,"
    ),
    "QLinearWhere": between(
        f"c = Cast <to = 9> (h)  {OTHER}  i = com.microsoft.QLinearWhere(c, h, s, z, k2, t, o, t, o)"
    ),
    "QLinearLeakyRelu": between("i = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (h, s, z, t, o)"),
    "QLinearLeakyRelu, of zeros": summed("r = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (q, s, z, t, o)", LOSES),
    "QLinearSigmoid": between("i = com.microsoft.QLinearSigmoid(h, s, z, t, o)"),
    "QLinearSigmoid, of zeros": summed(
        "r = com.microsoft.QLinearSigmoid(q, s, z, t, o)",
        {},
        "DynamicQuantizeLinear #4 ('e') sums over it, and a zeroed unit would still contribute",
    ),
    "QLinearSoftmax": between("i = com.microsoft.QLinearSoftmax <axis = -1, opset = 13> (h, s, z, t, o)"),
    "QLinearSoftmax, over channels": between(
        "i = com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (h, s, z, t, o)", {}
    )._replace(why="QLinearSoftmax #1 ('i') normalises over it"),
    "QLinearSoftmax, of old": between(
        "i = com.microsoft.QLinearSoftmax <axis = 1, opset = 12> (h, s, z, t, o)", {}
    )._replace(why="QLinearSoftmax #1 ('i') normalises over it"),
    "QLinearAveragePool": between(
        "i = com.microsoft.QLinearAveragePool <kernel_shape = [2,2], pads = [0,0,1,1]> (h, s, z, t, o)"
    ),
    "QLinearAveragePool, of several": between(
        "i = com.microsoft.QLinearAveragePool <kernel_shape = [2,2], strides = [2,2]> (h, s, z, t, o)", size="2,2"
    ),
    "QLinearGlobalAveragePool": between("i = com.microsoft.QLinearGlobalAveragePool(h, s, z, t, o)", size="1,1"),
    "QLinearConcat": between(
        "k2 = QLinearConv(x, sx, zx, k, sx, zw, t, o, c)"
        "  i = com.microsoft.QLinearConcat <axis = 1> (t, o, h, s, z, k2, t, o)",
        UNITS | {"c:0 k:0 v:1": 6},
        SECOND,
        width=14,
    ),
    "QLinearConcat, of zeros": summed("r = com.microsoft.QLinearConcat <axis = 0> (t, o, q, s, z, q, s, z)", LOSES),
    "QGemm": Case(
        """g (uint8[N,4] x) => (uint8[N,5] y)
        <float sx = {0.05}, uint8 zx = {120}, uint8[8,4] w, float[8] scalew, uint8[8] zw, int32[8] b,
         float s = {20.0}, uint8 z = {121}, uint8[8,5] v, float scalev = {0.5}, uint8 zv = {99}, int32[5] c,
         float sy = {400.0}, uint8 zy = {111}> {
            h = com.microsoft.QGemm <transB = 1> (x, sx, zx, w, scalew, zw, b, s, z)
            y = com.microsoft.QGemm(h, s, z, v, scalev, zv, c, sy, zy)
        }""",
        {"b:0 scalew:0 v:0 w:0 zw:0": 8},
    ),
    "QGemm, into numbers": Case(
        """g (uint8[N,4] x) => (float[N,5] y)
        <float sx = {0.05}, uint8 zx = {120}, uint8[4,8] w, float scalew, uint8 zw, float[8,5] v> {
            h = com.microsoft.QGemm(x, sx, zx, w, scalew, zw)  r = Relu(h)  y = MatMul(r, v)
        }""",
        {"v:0 w:1": 8},
    ),
}


@pytest.mark.parametrize("title", GRAPHS)
def test_codes_are_cut_like_numbers(title: str) -> None:
    check(GRAPHS[title])


def test_a_product_of_codes_states_its_multiply_accumulates() -> None:
    declared = "uint8[6,4] x, uint8[7,4] w, float s, uint8 o"
    assert multiply_accumulates("com.microsoft.QGemm <transB = 1> (x, s, o, w, s, o)", declared) == 6 * 4 * 7
