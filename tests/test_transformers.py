"""Transformers as onnxruntime's optimiser leaves them: heads and neurons go, whatever is fused."""

from __future__ import annotations

from onnxprune.algebra.cost import CostModel
from tests.laws import analyse, difference, every_other, groups, parse
from tests.rules.cases import LIMIT
from tests.rules.test_attention import GRAPHS


def encoder(layers: int) -> str:
    """An encoder as onnxruntime's optimiser leaves BERT: batch and length are open, the mask comes from outside."""
    weights, steps, stream = [], [], "e"
    for i in range(layers):
        weights += [f"float[16,48] qkv{i}, float[48] qb{i}, float[16,16] o{i}, float[16] ob{i}, float[16,24] u{i}"]
        weights += [f"float[24] ub{i}, float[24,16] d{i}, float[16] db{i}"]
        weights += [f"float[16] {name}{i}" for name in ("g", "s", "h", "t")]
        steps += [
            f"""a{i} = com.microsoft.Attention <num_heads = 4> ({stream}, qkv{i}, qb{i}, mask)
            p{i} = MatMul(a{i}, o{i})
            n{i} = com.microsoft.SkipLayerNormalization(p{i}, {stream}, g{i}, s{i}, ob{i})
            f{i} = MatMul(n{i}, u{i})  z{i} = com.microsoft.BiasGelu(f{i}, ub{i})  w{i} = MatMul(z{i}, d{i})
            l{i} = com.microsoft.SkipLayerNormalization(w{i}, n{i}, h{i}, t{i}, db{i})"""
        ]
        stream = f"l{i}"
    return f"""g (int32[B,S] ids, int32[B,S] segments, int32[B,S] mask) => (float[B,S,5] y)
    <float[2,16] words, float[16,16] places, float[2,16] kinds, float[16] eg, float[16] eb, {", ".join(weights)},
     float[16,5] out> {{
        e, m = com.microsoft.EmbedLayerNormalization(ids, segments, words, places, kinds, eg, eb)
        {" ".join(steps)}
        y = MatMul({stream}, out)
    }}"""


def test_an_optimised_encoder_loses_heads_and_neurons() -> None:
    model = parse(encoder(2))
    expected = {f"o{i}:0 qb{i}:0 qkv{i}:1": 4 for i in range(2)} | {f"d{i}:0 u{i}:1 ub{i}:0": 24 for i in range(2)}
    assert groups(model) == expected
    for length in (1, 7):
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("ids", "segments", "mask"), (2, length))
        assert difference(model, every_other(model), shapes) <= LIMIT


DECODER = """g (float[1,S,16] x, int64[1,S] p) => (float[1,S,16] y)
<float[16] g1, float[16] g2, float[16,64] q, float[16,32] k, float[16,32] v, float[64,16] o, float[16,24] gate,
 float[16,24] up, float[24,16] down, float[16,8] c, float[16,8] s,
 int32[1] last = {2}, int32[1] total = {3}> {
    n = SimplifiedLayerNormalization <epsilon = 0.00001> (x, g1)
    qs = MatMul(n, q)  ks = MatMul(n, k)  vs = MatMul(n, v)
    qr = com.microsoft.RotaryEmbedding(qs, p, c, s)  kr = com.microsoft.RotaryEmbedding(ks, p, c, s)
    a = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (qr, kr, vs, , , last, total)
    h = MatMul(a, o)
    m, , , r = com.microsoft.SkipSimplifiedLayerNormalization(x, h, g2)
    b = MatMul(m, gate)  t = Sigmoid(b)  w = Mul(b, t)  u = MatMul(m, up)  z = Mul(w, u)  f = MatMul(z, down)
    y = Add(r, f)
}"""


def test_a_decoder_with_shared_key_heads_loses_heads_and_neurons() -> None:
    model = parse(DECODER)
    assert groups(model) == {"k:1 o:0 q:1 v:1": 2, "down:0 gate:1 up:1": 24}
    assert difference(model, every_other(model), {"x": (1, 3, 16), "p": (1, 3)}) <= LIMIT


def test_multiply_accumulates_count_projection_and_both_products() -> None:
    analysis = analyse(parse(GRAPHS["Attention, packed"].text))
    projections, scores = 2 * 5 * 8 * (48 + 16), 2 * 5 * 5 * 16
    assert CostModel(analysis).dense.macs == projections + 2 * scores


def test_multiply_accumulates_of_shared_key_heads_count_the_query_heads() -> None:
    case = GRAPHS["Attention, with two query heads for each key head"]
    analysis = analyse(parse(case.text, opset=case.opset, ir=case.ir))
    projections, scores = 2 * 5 * 8 * (16 + 8 + 8 + 16), 2 * 5 * 5 * 16
    assert CostModel(analysis).dense.macs == projections + 2 * scores
