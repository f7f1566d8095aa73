"""Fused operators say what their parts say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.laws import analyse, groups, parse
from tests.rules.cases import Case, check, check_alone, multiply_accumulates

DENSE = """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v{weights}> {{
    h = MatMul(x, w)  {steps}  y = MatMul(z, v)
}}"""
WIDTH = {"v:0 w:1": 8}
# a MatMul from the left makes the second of three axes the one that is cut, a MatMul from the right the third
SECOND = """g (float[2,4,6] x) => (float[2,5,6] y)
<float[8,4] w, float[5,8] v, float[6] s, float[6] b, float[2,8,6] r{weights}> {{
    h = MatMul(w, x)  {steps}  y = MatMul(v, z)
}}"""
THIRD = """g (float[2,3,4] x) => (float[2,3,5] y)
<float[4,8] w, float[8,5] v, float[8] s, float[8] b, float[2,3,8] r> {{
    h = MatMul(x, w)  {steps}  y = MatMul(z, v)
}}"""
CONV = """g (float[2,3,6,6] x) => (float[2,5,S,S] y)
<float[8,3,1,1] w, float[{m},{c},3,3] v, float[{m}] b, float[5,{m},1,1] o{weights}> {{
    h = Conv(x, w)  {steps}  y = Conv(z, o)
}}"""
CHANNELS = {"v:1 w:0": 8, "b:0 o:1 v:0": 6}
EXPERTS = """g (float[3,4] x) => (float[3,4] y)
<float[4,6] u, float[4,5] r, float[5,{f},6] a, float[5,6,8] c, float[6,4] o{weights}> {{
    h = MatMul(x, u)  p = MatMul(x, r)  z = com.microsoft.MoE <k = 2{attributes}> (h, p, a{bias})  y = MatMul(z, o)
}}"""


def ms(steps: str) -> str:
    return f"z = com.microsoft.{steps}"


def dense(steps: str, groups: dict[str, int], weights: str = "", **rest: Any) -> Case:
    """Between two matrix products."""
    return Case(DENSE.format(steps=steps, weights=weights), groups, **rest)


def experts(attributes: str, bias: str, groups: dict[str, int], fused: int = 8, weights: str = "", **rest: Any) -> Case:
    """Five experts of eight inner indices, between projections."""
    text = EXPERTS.format(attributes=attributes, bias=bias, f=fused, weights=weights)
    return Case(text, groups, **rest)


GRAPHS: dict[str, Case] = {
    "Gelu": dense(ms("Gelu(h)"), WIDTH),
    "QuickGelu": dense(ms("QuickGelu <alpha = 1.5> (h)"), WIDTH),
    "ScaledSiLU": dense(ms("ScaledSiLU(h)"), WIDTH),
    "BiasGelu": dense(ms("BiasGelu(h, b)"), {"b:0 v:0 w:1": 8}, ", float[8] b"),
    "BiasGelu, summed over": Case(
        """g (float[N,4] x) => (float[N,1] y) <float[4,8] w, float[8] b, int64[1] last = {1}> {
            h = MatMul(x, w)  z = com.microsoft.BiasGelu(h, b)  y = ReduceSum(z, last)
        }""",
        {"b:0 w:1": 8},
    ),
    "FastGelu": dense(ms("FastGelu(h)"), WIDTH),
    "FastGelu, with a bias": dense(ms("FastGelu(h, b)"), {"b:0 v:0 w:1": 8}, ", float[8] b"),
    "GatedAdd": dense(
        "i = MatMul(x, u)  k = MatMul(x, g)  " + ms("GatedAdd(h, i, k)"),
        {"u:1 v:0 w:1": 8},
        ", float[4,8] u, float[4,1] g",
    ),
    "SwiGLU": dense("i = MatMul(x, u)  z = SwiGLU(h, i)", {"u:1 v:0 w:1": 8}, ", float[4,8] u", opset=28, ir=13),
    "SwiGLU, summed over": Case(
        """g (float[N,4] x) => (float[N,1] y) <float[4,8] w, float[4,8] u, int64[1] last = {1}> {
            h = MatMul(x, w)  i = MatMul(x, u)  e = Exp(i)  z = SwiGLU(h, e)  y = ReduceSum(z, last)
        }""",
        {"u:1 w:1": 8},
        opset=28,
        ir=13,
    ),
    "Trilu": Case(
        """g (float[2,1,3,4] x) => (float[2,3,5] y)
        <float[6,4,3] w, float[6,3,5] v, int64 k = {1}, int64[1] one = {1}> {
            h = MatMul(x, w)  t = com.microsoft.Trilu(h, k)  s = MatMul(t, v)  y = ReduceSum <keepdims = 0> (s, one)
        }""",
        {"v:0 w:0": 6},
        "Trilu #1 ('t') cuts a triangle out of it",
    ),
    "GridSample": Case(
        """g (float[2,3,4,4] x, float[2,5,5,2] g) => (float[2,5,5,5] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = com.microsoft.GridSample(h, g)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
    ),
    "Pad": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[11,5] v, int64[4] p = {0,2,0,1}> {
            h = MatMul(x, w)  z = com.microsoft.Pad(h, p)  y = MatMul(z, v)
        }""",
        {"v:0": 3, "v:0 w:1": 8},
    ),
    "SkipLayerNormalization": Case(
        SECOND.format(steps=ms("SkipLayerNormalization(h, r, s, b)"), weights=""), {"r:1 v:1 w:0": 8}
    ),
    "SkipLayerNormalization, with a bias and its sum": Case(
        SECOND.format(
            steps="n, , , t = com.microsoft.SkipLayerNormalization(h, r, s, b, c)  z = Add(n, t)",
            weights=", float[6] c",
        ),
        {"r:1 v:1 w:0": 8},
    ),
    "SkipLayerNormalization, over the axis": Case(
        THIRD.format(steps=ms("SkipLayerNormalization(h, r, s, b)")),
        {},
        "SkipLayerNormalization #1 ('z') normalises over it: removing an index changes all others",
    ),
    "SkipSimplifiedLayerNormalization": Case(
        SECOND.format(steps=ms("SkipSimplifiedLayerNormalization(h, r, s)"), weights=""),
        {"r:1 v:1 w:0": 8},
    ),
    "SkipSimplifiedLayerNormalization, over the axis": Case(
        THIRD.format(steps="n, , , t = com.microsoft.SkipSimplifiedLayerNormalization(h, r, s, b)  z = Add(n, t)"),
        {},
        "SkipSimplifiedLayerNormalization #1 ('n') normalises over it",
    ),
    "SimplifiedLayerNormalization": Case(
        SECOND.format(steps="z = SimplifiedLayerNormalization(h, s)", weights=""), {"v:1 w:0": 8}
    ),
    "SimplifiedLayerNormalization, over the axis": Case(
        THIRD.format(steps="z = SimplifiedLayerNormalization(h, s)"),
        {},
        "SimplifiedLayerNormalization #1 ('z') normalises over it",
    ),
    "SimplifiedLayerNormalization, over the axis, and neurons behind it": Case(
        """g (float[2,3,4] x) => (float[2,3,4] y) <float[4] s, float[4,8] w, float[8,4] v> {
            n = SimplifiedLayerNormalization(x, s)  h = MatMul(n, w)  z = Relu(h)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "EmbedLayerNormalization": Case(
        """g (int32[2,3] ids) => (float[2,3,5] y)
        <int32[2,3] segments = {0,1,1,0,0,1}, float[2,4] words, float[6,4] places, float[2,4] kinds,
         float[4] s, float[4] b, float[4,8] w, float[8,5] v> {
            e, m = com.microsoft.EmbedLayerNormalization(ids, segments, words, places, kinds, s, b)
            h = MatMul(e, w)  z = Relu(h)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        "EmbedLayerNormalization #0 ('e') normalises over it",
    ),
    "FusedGemm": dense(
        """z = com.microsoft.FusedGemm <activation = "Relu"> (h, u, b)""",
        {"u:0 w:1": 8, "b:0 u:1 v:0": 8},
        ", float[8,8] u, float[8] b",
    ),
    "FusedGemm, transposed, that moves zero": dense(
        """z = com.microsoft.FusedGemm <activation = "Sigmoid", transB = 1> (h, u, b)""",
        {"u:1 w:1": 8, "b:0 u:0 v:0": 8},
        ", float[8,8] u, float[8] b",
    ),
    "FusedGemm, that moves zero, summed over": Case(
        """g (float[N,4] x) => (float[N,1] y) <float[4,8] w, int64[1] last = {1}> {
            z = com.microsoft.FusedGemm <activation = "Sigmoid"> (x, w)  y = ReduceSum(z, last)
        }""",
        {},
        "ReduceSum #1 ('y') sums over it, and a zeroed unit would still contribute",
    ),
    "FusedConv": Case(
        CONV.format(m=6, c=8, weights="", steps="""z = com.microsoft.FusedConv <activation = "Relu"> (h, v, b)"""),
        CHANNELS,
    ),
    "FusedConv, with an addend": Case(
        CONV.format(
            m=6,
            c=8,
            weights=", float[6,3,3,3] u",
            steps="""r = Conv(x, u)  z = com.microsoft.FusedConv <activation = "Relu"> (h, v, b, r)""",
        ),
        {"v:1 w:0": 8, "b:0 o:1 u:0 v:0": 6},
    ),
    "FusedConv, that clips, strides and pads": Case(
        CONV.format(
            m=6,
            c=8,
            weights="",
            steps="""z = com.microsoft.FusedConv
            <activation = "Clip", activation_params = [0.0, 6.0], strides = [2, 2], pads = [1, 1, 1, 1]> (h, v, b)""",
        ),
        CHANNELS,
    ),
    "FusedConv, in groups": Case(
        CONV.format(
            m=6, c=4, weights="", steps="""z = com.microsoft.FusedConv <activation = "Tanh", group = 2> (h, v, b)"""
        ),
        {"v:1 w:0": 4, "b:0 o:1 v:0": 3},
    ),
    "FusedConv, depthwise": Case(
        CONV.format(
            m=8, c=1, weights="", steps="""z = com.microsoft.FusedConv <activation = "Sigmoid", group = 8> (h, v, b)"""
        ),
        {"b:0 o:1 v:0 w:0": 8},
    ),
    "FusedMatMul": dense(ms("FusedMatMul <alpha = 0.5> (h, u)"), {"u:0 w:1": 8, "u:1 v:0": 8}, ", float[8,8] u"),
    "FusedMatMul, transposed": Case(
        """g (float[4,3] x) => (float[3,5] y) <float[8,4] w, float[5,8] v> {
            h = com.microsoft.FusedMatMul <transA = 1, transB = 1> (x, w)
            y = com.microsoft.FusedMatMul <transB = 1> (h, v)
        }""",
        {"v:1 w:0": 8},
    ),
    "FusedMatMul, of a row": Case(
        """g (float[4] x) => (float y) <float[4,8] w, float[8] v> {
            h = com.microsoft.FusedMatMul(x, w)  y = com.microsoft.FusedMatMul(h, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "FusedMatMul, in attention": Case(
        """g (float[2,5,8] x) => (float[2,5,8] y)
        <int64[4] apart = {0,5,3,4}, int64[3] joined = {0,5,12},
         float[8,12] q, float[8,12] k, float[8,12] p, float[12,8] o> {
            qa = MatMul(x, q)  qr = Reshape(qa, apart)  qt = Transpose <perm = [0,2,1,3]> (qr)
            ka = MatMul(x, k)  kr = Reshape(ka, apart)  kt = Transpose <perm = [0,2,1,3]> (kr)
            pa = MatMul(x, p)  pr = Reshape(pa, apart)  pt = Transpose <perm = [0,2,1,3]> (pr)
            s = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (qt, kt)  a = Softmax <axis = 3> (s)
            c = MatMul(a, pt)  ct = Transpose <perm = [0,2,1,3]> (c)  cr = Reshape(ct, joined)  y = MatMul(cr, o)
        }""",
        {"k:1 o:0 p:1 q:1": 3},
    ),
    "FusedMatMul, of a stack behind its rows": Case(
        """g (float[3,1,4] x) => (float[3,5] y)
        <float[1,6,4] one, float[6,4,8] w, float[6,8,5] v, int64[1] axis = {0}> {
            h = Add(x, one)  i = com.microsoft.FusedMatMul <transBatchA = 1> (h, w)  j = MatMul(i, v)
            y = ReduceSum <keepdims = 0> (j, axis)
        }""",
        {"v:1 w:2": 8, "one:1 v:0 w:0": 6},
    ),
    "FusedMatMul, of stacks behind columns": Case(
        """g (float[4,1,3] x) => (float[3,5] y)
        <float[1,6,1] one, float[8,6,4] w, float[6,8,5] v, int64[1] axis = {0}> {
            h = Mul(x, one)
            i = com.microsoft.FusedMatMul <transA = 1, transBatchA = 1, transB = 1, transBatchB = 1> (h, w)
            j = MatMul(i, v)  y = ReduceSum <keepdims = 0> (j, axis)
        }""",
        {"v:1 w:0": 8, "one:1 v:0 w:1": 6},
    ),
    "TransposeMatMul": Case(
        """g (float[4,3] x) => (float[3,5] y) <float[8,4] w, float[8,5] v> {
            h = com.microsoft.TransposeMatMul <transA = 1, transB = 1> (x, w)  y = MatMul(h, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "MoE": experts(  # without a bias onnxruntime's CPU kernel gives nothing but zeros
        """, activation_type = "silu" """,
        ", d, c",
        {"a:2 c:1 o:0 u:1": 6, "a:1 c:2 d:1": 8},
        weights=", float[5,8] d",
    ),
    "MoE, with biases": experts(
        """, activation_type = "gelu" """,
        ", d, c, e",
        {"a:2 c:1 e:1 o:0 u:1": 6, "a:1 c:2 d:1": 8},
        weights=", float[5,8] d, float[5,6] e",
        why="sends each token to its best experts: without one, others are chosen",
    ),
    "MoE, with interleaved gates": experts(
        """, activation_type = "swiglu", swiglu_fusion = 1""",
        ", d, c",
        {"a:2 c:1 o:0 u:1": 6, "a:1 c:2 d:1": 8},
        fused=16,
        weights=", float[5,16] d",
    ),
    "MoE, with sizes that do not fit": experts(
        "", ", , c", {}, fused=16, why="MoE #2 ('z') is malformed ('a' does not have the inner size 8)"
    ),
}

NOT_HERE = {
    "gates behind what they gate": experts(
        """, activation_type = "swiglu", swiglu_fusion = 2""",
        ", , c",
        {"a:2 c:1 o:0 u:1": 6, "a:1 c:2": 8},
        fused=16,
    ),
    "gates in a weight of their own": experts(
        """, activation_type = "silu" """,
        ", , c, , g",
        {"a:2 c:1 g:2 o:0 u:1": 6, "a:1 c:2 g:1": 8},
        weights=", float[5,8,6] g",
    ),
}
"""Experts as only onnxruntime's CUDA kernels run them."""


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_a_fused_operator_says_what_its_parts_say(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("title", [title for title, case in GRAPHS.items() if len(case.groups) > 1])
def test_each_group_may_go_alone(title: str) -> None:
    check_alone(GRAPHS[title])


@pytest.mark.parametrize("case", NOT_HERE.values(), ids=list(NOT_HERE))
def test_experts_lose_inner_indices_where_it_cannot_be_run(case: Case) -> None:
    assert groups(parse(case.text)) == case.groups


def test_a_layer_normalization_that_the_optimiser_put_into_an_older_opset_is_known() -> None:
    text = """g (float[2,3,4] x) => (float[2,3,4] y) <float[4] s, float[4] b, float[4,8] w, float[8,4] v> {
        n = LayerNormalization(x, s, b)  h = MatMul(n, w)  z = com.microsoft.Gelu(h)  y = MatMul(z, v)
    }"""
    check(Case(text, {"v:0 w:1": 8}, opset=14))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("com.microsoft.FusedMatMul <transB = 1> (x, m)", 2 * 8 * 6 * 6 * 5),
        ("com.microsoft.FusedMatMul <transA = 1> (m, q)", 6 * 5 * 7),
        ("com.microsoft.FusedGemm <transB = 1> (p, r)", 5 * 3 * 4),
        ("com.microsoft.FusedConv(x, k)", 2 * 3 * 4 * 4 * 8 * 3 * 3),
    ],
)
def test_a_fused_product_states_its_multiply_accumulates(node: str, expected: int) -> None:
    weights = "float[2,8,6,6] x, float[5,6] m, float[5,3] p, float[5,7] q, float[4,3] r, float[3,8,3,3] k"
    assert multiply_accumulates(node, weights) == expected


def test_a_product_of_open_sizes_has_a_shape() -> None:
    text = """g (float[B,1,S,4] x) => (float[B,6,S,5] y) <float[6,8,4] w, float[8,5] v> {
        h = com.microsoft.FusedMatMul <transB = 1> (x, w)  y = MatMul(h, v)
    }"""
    model = parse(text)
    assert analyse(model).graph.shapes["h"] == ("B", 6, "S", 8)
    assert groups(model) == {"v:0 w:1": 8}
