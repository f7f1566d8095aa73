"""What goes along with attention loses heads, or channels."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, check, check_alone

ROTARY = """g (float[2,5,8] x, int64[2,5] p) => (float[2,5,8] y)
<float[8,16] w, float[16,8] o, float[8,{half}] c, float[8,{half}] s> {{
    h = MatMul(x, w)  z = {node}  y = MatMul(z, o)
}}"""
TURNED = """g (float[2,5,8] x, int64[2,5] p) => (float[2,5,8] y)
<float[8,16] w, float[16,8] o, float[8,{half}] c, float[8,{half}] s,
 int64[4] apart = {{2, 5, 4, 4}}, int64[3] joined = {{2, 5, 16}}> {{
    h = MatMul(x, w)  r = Reshape(h, apart)  t = Transpose <perm = [0,2,1,3]> (r)
    u = {node}
    v = Transpose <perm = [0,2,1,3]> (u)  z = Reshape(v, joined)  y = MatMul(z, o)
}}"""
CAUSAL = """g (float[2,3,6] x) => (float[2,5,6] y)
<float[8,3,1] w, float[8,1,4] v, float[5,8,1] o{weights}> {{
    h = Conv(x, w)  {steps}  y = Conv(z, o)
}}"""


def linear(
    attributes: str,
    inputs: str,
    groups: dict[str, int],
    *,
    sizes: tuple[int, ...] = (16, 16, 24, 24, 4, 4),
    queries: int = 4,
    keys: int = 4,
    weights: str = "",
    domain: str = "com.microsoft.",
    why: str | None = None,
    opset: int = 17,
    ir: int = 8,
) -> Case:
    """Linear attention between projections of these sizes: queries, keys, values, output, decay and update rate."""
    q, k, v, o, d, b = sizes
    text = f"""g (float[2,5,8] x) => (float[2,5,8] y)
    <float[8,{q}] q, float[8,{k}] k, float[8,{v}] v, float[{o},8] o, float[8,{d}] dw, float[8,{b}] bw{weights}> {{
        qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)
        da = MatMul(x, dw)  db = Abs(da)  d = Neg(db)  bb = MatMul(x, bw)  b = Sigmoid(bb)
        z, n = {domain}LinearAttention
        <q_num_heads = {queries}, kv_num_heads = {keys}, {attributes}> (qs, ks, vs{inputs})
        y = MatMul(z, o)
    }}"""
    return Case(text, groups, why, opset, ir)


GRAPHS: dict[str, Case] = {
    "RotaryEmbedding": Case(
        ROTARY.format(half=2, node="RotaryEmbedding <num_heads = 4> (h, c, s, p)"), {"o:0 w:1": 4}, opset=23, ir=10
    ),
    "RotaryEmbedding, interleaved, of a part": Case(
        ROTARY.format(
            half=1, node="RotaryEmbedding <num_heads = 4, rotary_embedding_dim = 2, interleaved = 1> (h, c, s, p)"
        ),
        {"o:0 w:1": 4},
        opset=23,
        ir=10,
    ),
    "RotaryEmbedding, of heads apart": Case(
        TURNED.format(half=2, node="RotaryEmbedding(t, c, s, p)"), {"o:0 w:1": 4}, opset=23, ir=10
    ),
    "RotaryEmbedding, of onnxruntime": Case(
        ROTARY.format(half=2, node="com.microsoft.RotaryEmbedding(h, p, c, s)"), {"o:0 w:1": 4}
    ),
    "RotaryEmbedding, of onnxruntime, that counts its heads": Case(
        ROTARY.format(half=2, node="com.microsoft.RotaryEmbedding <num_heads = 4> (h, p, c, s)"), {"o:0 w:1": 4}
    ),
    "RotaryEmbedding, of onnxruntime, of a part": Case(
        ROTARY.format(
            half=1, node="com.microsoft.RotaryEmbedding <num_heads = 4, rotary_embedding_dim = 2> (h, p, c, s)"
        ),
        {"o:0 w:1": 4},
    ),
    "RotaryEmbedding, of onnxruntime, of a part of heads apart": Case(
        TURNED.format(
            half=1, node="com.microsoft.RotaryEmbedding <num_heads = 4, rotary_embedding_dim = 2> (t, p, c, s)"
        ),
        {"o:0 w:1": 4},
    ),
    "MRotaryEmbedding": Case(
        ROTARY.format(
            half=2, node="com.microsoft.MRotaryEmbedding <num_heads = 4, mrope_section = [1, 1, 0]> (h, p, c, s)"
        ).replace("int64[2,5] p", "int64[3,2,5] p"),
        {"o:0 w:1": 4},
    ),
    "LinearAttention": linear('update_rule = "linear", scale = 0.5', "", {"k:1 o:0 q:1 v:1": 4, "dw:1": 4, "bw:1": 4}),
    "LinearAttention, gated": linear('update_rule = "gated"', ", , d", {"dw:1 k:1 o:0 q:1 v:1": 4, "bw:1": 4}),
    "LinearAttention, with a delta": linear('update_rule = "delta"', ", , , b", {"bw:1 k:1 o:0 q:1 v:1": 4, "dw:1": 4}),
    "LinearAttention, gated with a delta": linear("chunk_size = 4", ", , d, b", {"bw:1 dw:1 k:1 o:0 q:1 v:1": 4}),
    "LinearAttention, with a state": linear(
        "chunk_size = 4",
        ", st, d, b",
        {"bw:1 dw:1 k:1 o:0 q:1 st:1 v:1": 4},
        sizes=(16, 16, 16, 16, 4, 4),
        weights=", float[2,4,4,4] st",
    ),
    "LinearAttention, with shared key heads and a decay for each index": linear(
        "chunk_size = 4", ", , d, b", {"dw:1 k:1 o:0 q:1 v:1": 2}, sizes=(16, 8, 8, 16, 8, 1), keys=2
    ),
    "LinearAttention, with one key head": linear(
        "chunk_size = 4", ", , d, b", {"o:0 q:1": 4}, sizes=(16, 4, 4, 16, 1, 1), keys=1
    ),
    "LinearAttention, with one query head for several key heads": linear(
        "chunk_size = 4",
        ", , d, b",
        {},
        sizes=(8, 16, 16, 16, 4, 4),
        queries=2,
        why="LinearAttention #8 ('z') lets several key heads serve one query head",
    ),
    "LinearAttention, in ONNX": linear(
        "chunk_size = 4",
        ", , d, b",
        {"bw:1 dw:1 k:1 o:0 q:1 v:1": 2},
        sizes=(16, 8, 8, 16, 2, 2),
        keys=2,
        domain="",
        opset=27,
        ir=13,
    ),
    "TensorScatter": Case(
        """g (float[2,3,4] x) => (float[2,6,5] y) <float[4,8] w, float[2,6,8] past, float[8,5] v> {
            h = MatMul(x, w)  z = TensorScatter(past, h)  y = MatMul(z, v)
        }""",
        {"past:2 v:0 w:1": 8},
        opset=24,
        ir=10,
    ),
    "LinearAttentionGate": Case(
        """g (float[2,3,4] x) => (float[2,3,5] y)
        <float[4,8] w, float[4,8] u, float[8] t, float[8] d, float[8,5] v, float[8,5] o> {
            h = MatMul(x, w)  i = MatMul(x, u)  z, b = com.microsoft.LinearAttentionGate(h, t, d, i)
            p = MatMul(z, v)  q = MatMul(b, o)  y = Add(p, q)
        }""",
        {"d:0 o:0 t:0 u:1 v:0 w:1": 8},
    ),
    "CausalConvWithState": Case(
        CAUSAL.format(
            weights=", float[8] b, float[2,8,3] past",
            steps="""z, n = com.microsoft.CausalConvWithState <activation = "silu"> (h, v, b, past)""",
        ),
        {"b:0 o:1 past:1 v:0 w:0": 8},
    ),
    "CausalConvWithState, whose state is read": Case(
        CAUSAL.format(
            weights=", float[3,1] t",
            steps="i, n = com.microsoft.CausalConvWithState(h, v)  m = MatMul(n, t)  z = Add(i, m)",
        ),
        {"o:1 v:0 w:0": 8},
    ),
    "CausalConvWithState, in ONNX": Case(
        CAUSAL.format(weights=", float[8] b", steps="""z, n = CausalConvWithState <activation = "silu"> (h, v, b)"""),
        {"b:0 o:1 v:0 w:0": 8},
        opset=27,
        ir=13,
    ),
    "CausalConvWithState, with channels last": Case(
        """g (float[2,6,3] x) => (float[2,6,5] y) <float[3,8] w, float[8,1,4] v, float[8,5] o> {
            h = MatMul(x, w)  z, n = com.microsoft.CausalConvWithState <channels_last = 1> (h, v)  y = MatMul(z, o)
        }""",
        {},
        "CausalConvWithState #1 ('z') does not have (batch, channels, length) for its axes",
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_heads_and_channels_stay_whole(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("title", [title for title, case in GRAPHS.items() if len(case.groups) > 1])
def test_each_group_may_go_alone(title: str) -> None:
    check_alone(GRAPHS[title])
