"""Numbers by codes: what is quantised on the way must be zero where it is removed, and packed blocks stay whole."""

from __future__ import annotations

import pytest

from onnxprune.algebra.cost import CostModel
from tests.laws import analyse, groups, parse
from tests.rules.cases import Case, check, multiply_accumulates

HIDDEN = 6


def lstm(
    directions: int = 1,
    *,
    per_gate: bool = False,
    signed: bool = True,
    states: bool = False,
    peepholes: bool = False,
    attributes: str = "",
    before: str = "q = MatMul(x, u)",
) -> Case:
    """A layer between two matrix products; both directions are flattened into one axis behind it."""
    d, code = directions, "int8" if signed else "uint8"
    entries = f"{d},{4 * HIDDEN}" if per_gate else f"{d}"
    weights = [f"{code}[{d},5,{4 * HIDDEN}] w", f"{code}[{d},{HIDDEN},{4 * HIDDEN}] r", f"float[{d},{8 * HIDDEN}] b"]
    zero = f" = {{{', '.join(['0'] * (d * 4 * HIDDEN))}}}" if per_gate else ""  # the runtime takes no other there
    weights += [f"float[{entries}] scalew", f"{code}[{entries}] zw{zero}"]
    weights += [f"float[{entries}] scaler", f"{code}[{entries}] zr{zero}"]
    weights += [f"float[{d},2,{HIDDEN}] h0", f"float[{d},2,{HIDDEN}] c0"] if states else []
    weights += [f"float[{d},{3 * HIDDEN}] p"] if peepholes else []
    text = f"""g (float[3,2,4] x) => (float[3,2,7] y)
    <float[4,5] u, {", ".join(weights)}, int64[3] flat = {{3, 2, {d * HIDDEN}}}, float[{d * HIDDEN},7] v> {{
        {before}
        h = com.microsoft.DynamicQuantizeLSTM <hidden_size = {HIDDEN}{attributes}> (
            q, w, r, b, , {"h0, c0" if states else ","}, {"p" if peepholes else ""}, scalew, zw, scaler, zr)
        t = Transpose <perm = [0,2,1,3]> (h)  f = Reshape(t, flat)  y = MatMul(f, v)
    }}"""
    axes = ["r:1", "r:2", "v:0", "w:2", "b:1"] + ["h0:2", "c0:2"] * states + ["p:1"] * peepholes
    axes += ["scaler:1", "scalew:1", "zr:1", "zw:1"] * per_gate
    return Case(text, {"u:1 w:1": 5, " ".join(sorted(axes)): HIDDEN})


BOTH = ', direction = "bidirectional"'


NBITS = """g (float[N,4] x) => (float[N,5] y) <float[4,{k}] u, {weights}, float[8,5] v> {{
    a = MatMul(x, u)
    h = com.microsoft.MatMulNBits <K = {k}, N = 8, bits = {bits}, block_size = {block}{more}> ({inputs})
    r = Relu(h)  y = MatMul(r, v)
}}"""


def nbits(
    weights: str,
    inputs: str,
    groups: dict[str, int],
    why: str | None = None,
    *,
    k: int = 48,
    block: int = 16,
    bits: int = 4,
    more: str = "",
) -> Case:
    """Weights of 8 columns in blocks of inputs, between two matrix products."""
    text = NBITS.format(weights=weights, inputs=inputs, k=k, block=block, bits=bits, more=more)
    return Case(text, groups, why)


TOGETHER = "MatMulNBits #1 ('h') packs the scales or zero points of its blocks of 16 together"

GRAPHS: dict[str, Case] = {
    "DynamicQuantizeLSTM": lstm(),
    "DynamicQuantizeLSTM, without a sign": lstm(signed=False),
    "DynamicQuantizeLSTM, both directions": lstm(2, attributes=BOTH),
    "DynamicQuantizeLSTM, a scale per gate and index": lstm(per_gate=True),
    "DynamicQuantizeLSTM, with everything": lstm(2, states=True, peepholes=True, per_gate=True, attributes=BOTH),
    "DynamicQuantizeLSTM, with other activations": lstm(
        attributes=', activations = ["Sigmoid", "Sigmoid", "Tanh"]'
    )._replace(groups={}, why="DynamicQuantizeLSTM #1 ('h') quantises hidden values"),
    "DynamicQuantizeLSTM, of what is not zero": lstm(before="m = MatMul(x, u)  q = Sigmoid(m)")._replace(
        groups={"b:1 r:1 r:2 v:0 w:2": HIDDEN},
        why="DynamicQuantizeLSTM #2 ('h') sums over it, and a zeroed unit would still contribute",
    ),
    "DynamicQuantizeLSTM, stacked": Case(
        """g (float[3,2,4] x) => (float[3,1,2,5] y)
        <int8[1,4,24] w, int8[1,6,24] r, float[1] scale, int8[1] zero,
         int8[1,6,20] v, int8[1,5,20] s, int64[1] one = {1}> {
            h = com.microsoft.DynamicQuantizeLSTM <hidden_size = 6> (x, w, r, , , , , , scale, zero, scale, zero)
            q = Squeeze(h, one)
            y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 5> (q, v, s, , , , , , scale, zero, scale, zero)
        }""",
        {"r:1 r:2 v:1 w:2": 6},
    ),
    "DynamicQuantizeMatMul": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <uint8[4,8] w, float[8] scale, uint8[8] zero, float[8] b, uint8[8,5] v, float scalev, uint8 zv> {
            h = com.microsoft.DynamicQuantizeMatMul(x, w, scale, zero, b)  r = Relu(h)
            y = com.microsoft.DynamicQuantizeMatMul(r, v, scalev, zv)
        }""",
        {"b:0 scale:0 v:0 w:1 zero:0": 8},
    ),
    "DynamicQuantizeMatMul, of what is not zero": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, uint8[8,5] v, float scalev, uint8 zv> {
            h = MatMul(x, w)  r = Sigmoid(h)  y = com.microsoft.DynamicQuantizeMatMul(r, v, scalev, zv)
        }""",
        {},
        "DynamicQuantizeMatMul #2 ('y') sums over it, and a zeroed unit would still contribute",
    ),
    "MatMulIntegerToFloat": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <uint8[4,8] w, float[8] scale, uint8[8] zero, float[8] b, int8[8,5] v, float scalev> {
            q, s, z = DynamicQuantizeLinear(x)
            h = com.microsoft.MatMulIntegerToFloat(q, w, s, scale, z, zero, b)  r = Relu(h)
            p, t, o = DynamicQuantizeLinear(r)  y = com.microsoft.MatMulIntegerToFloat(p, v, t, scalev, o)
        }""",
        {"b:0 scale:0 v:0 w:1 zero:0": 8},
    ),
    "MatMulNBits": nbits("uint8[8,3,8] w, float[24] scale", "a, w, scale", {"scale:0 v:0 w:0": 8}, TOGETHER),
    "MatMulNBits, with a bias": nbits(
        "uint8[8,3,8] w, float[24] scale, float[8] b", "a, w, scale, , , b", {"b:0 scale:0 v:0 w:0": 8}
    ),
    "MatMulNBits, with packed zero points": nbits(
        "uint8[8,3,8] w, float[24] scale, uint8[16] zero", "a, w, scale, zero", {"scale:0 v:0 w:0 zero:0": 8}, TOGETHER
    ),
    "MatMulNBits, with whole blocks": nbits(
        "uint8[8,3,8] w, float[8,3] scale", "a, w, scale", {"scale:0 v:0 w:0": 8, "scale:1 u:1 w:1": 3}
    ),
    "MatMulNBits, with whole blocks, the last one short": nbits(
        "uint8[8,3,8] w, float[8,3] scale", "a, w, scale", {"scale:0 v:0 w:0": 8, "scale:1 u:1 w:1": 3}, k=41
    ),
    "MatMulNBits, with pairs of blocks, whose zero points share a byte": nbits(
        "uint8[8,5,8] w, float[8,5] scale, uint8[8,3] zero",
        "a, w, scale, zero",
        {"scale:0 v:0 w:0 zero:0": 8, "scale:1 u:1 w:1 zero:1": 3},
        k=80,
    ),
    "MatMulNBits, with blocks whose zero points share a single byte": nbits(
        "uint8[8,2,8] w, float[8,2] scale, uint8[8,1] zero",
        "a, w, scale, zero",
        {"scale:0 v:0 w:0 zero:0": 8},
        TOGETHER,
        k=32,
    ),
    "MatMulNBits, quantising its input block by block": nbits(
        "uint8[8,3,8] w, float[8,3] scale",
        "a, w, scale",
        {"scale:0 v:0 w:0": 8, "scale:1 u:1 w:1": 3},
        more=", accuracy_level = 4",
    ),
    "MatMulNBits, of 8 bits": nbits(
        "uint8[8,3,16] w, float[8,3] scale, uint8[8,3] zero",
        "a, w, scale, zero",
        {"scale:0 v:0 w:0 zero:0": 8, "scale:1 u:1 w:1 zero:1": 3},
        bits=8,
    ),
    "MatMulNBits, in a single block": nbits(
        "uint8[8,1,8] w, float[8] scale", "a, w, scale", {"scale:0 v:0 w:0": 8}, TOGETHER, k=16
    ),
    "MatMulNBits, in an order of its own": nbits(
        "uint8[8,3,8] w, float[24] scale, int32[48] g",
        "a, w, scale, , g",
        {},
        "MatMulNBits #1 ('h') holds its weights in an order, or by a number of bits, that is not known",
    ),
}


@pytest.mark.parametrize("title", GRAPHS)
def test_codes_are_cut_like_numbers(title: str) -> None:
    check(GRAPHS[title])


def test_zero_points_that_are_numbers_must_be_codes() -> None:
    middle = "float[8,3] zero = {" + ", ".join(["8.0"] * 24) + "}"
    between = "float[8,3] zero = {" + ", ".join(["7.5"] * 24) + "}"
    found = [
        groups(parse(nbits(f"uint8[8,3,8] w, float[8,3] scale, {zero}", "a, w, scale, zero", {}).text))
        for zero in (middle, between)
    ]
    assert found == [{"scale:0 v:0 w:0 zero:0": 8, "scale:1 u:1 w:1 zero:1": 3}, {}]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("com.microsoft.DynamicQuantizeMatMul(x, m, s, o)", 2 * 6 * 4 * 5),
        ("com.microsoft.MatMulIntegerToFloat(c, m, s, s, o, o)", 2 * 6 * 4 * 5),
        ("com.microsoft.MatMulNBits <K = 32, N = 7, block_size = 16> (l, n, t)", 2 * 6 * 32 * 7),
    ],
)
def test_a_product_states_its_multiply_accumulates(node: str, expected: int) -> None:
    declared = (
        "float[2,6,4] x, uint8[2,6,4] c, uint8[4,5] m, float s, uint8 o, float[2,6,32] l, uint8[7,2,8] n, float[14] t"
    )
    assert multiply_accumulates(node, declared) == expected


def test_the_multiply_accumulates_of_a_layer_count_both_products() -> None:
    assert CostModel(analyse(parse(lstm().text))).dense.macs == 3 * 2 * (4 * 5 + 24 * 5 + 24 * 6 + 6 * 7)
