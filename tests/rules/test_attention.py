"""Fused attention loses whole heads, on whichever side of it they are counted."""

from __future__ import annotations

import pytest

from tests.laws import groups, parse, reasons
from tests.rules.cases import Case, check, check_alone

LENGTH = 5


def network(
    node: str,
    widths: tuple[int, int, int],
    *,
    inputs: str = "",
    weights: str = "",
    before: str = "",
    more: str = "",
    output: int | None = None,
    groups: dict[str, int] | int = 0,
    why: str | None = None,
    opset: int = 23,
    ir: int = 10,
) -> Case:
    """Projections to queries, keys and values of these widths, one node, and a projection back.

    Groups that are given as a number are heads, which lie on every projection.
    """
    q, k, v = widths
    out = output or v
    found = {"k:1 o:0 q:1 v:1": groups} if isinstance(groups, int) and groups else groups or {}
    text = f"""g (float[2,{LENGTH},8] x{inputs}) => (float[2,{LENGTH},8] y)
    <float[8,{q}] q, float[8,{k}] k, float[8,{v}] v, float[{out},8] o{weights}> {{
        qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)
        {before}
        z{more} = {node}
        y = MatMul(z, o)
    }}"""
    return Case(text, dict(found), why, opset, ir)


HEADS = "com.microsoft.MultiHeadAttention <num_heads = 4> "
PLAIN = "Attention <q_num_heads = 4, kv_num_heads = 4> "
GROUPED = "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> "
LINEAR = "com.microsoft.LinearAttention <q_num_heads = 4, kv_num_heads = 4"
LENGTHS = ", int32[2] lengths = {4, 4}, int32[1] total = {5}"
APART = """a = Reshape(qs, apart)  b = Transpose <perm = [0,2,1,3]> (a)
    c = Reshape(ks, fewer)  d = Transpose <perm = [0,2,1,3]> (c)
    e = Reshape(vs, fewer)  f = Transpose <perm = [0,2,1,3]> (e)"""
SHAPES = ", int64[4] apart = {{2, 5, 4, {w}}}, int64[4] fewer = {{2, 5, {k}, {w}}}, int64[3] joined = {{2, 5, {o}}}"


def apart(*, keys: int = 4, attributes: str = "", more: str = "", weights: str = "", **rest: object) -> Case:
    """The same with heads on an axis of their own, four indices each."""
    return network(
        "Identity(t)",
        (16, 4 * keys, 4 * keys),
        output=16,
        weights=SHAPES.format(w=4, k=keys, o=16) + weights,
        before=f"""{APART}
        r = Attention{attributes} (b, d, f{more})  s = Transpose <perm = [0,2,1,3]> (r)  t = Reshape(s, joined)""",
        **rest,  # type: ignore[arg-type]
    )


PACKED = """g (float[2,5,8] x{inputs}) => (float[2,5,8] y) <float[8,{w}] w, float[{o},8] o{weights}> {{
    z{more} = {node}  y = MatMul(z, o)
}}"""
BY_HEAD = """g (float[2,5,8] x) => (float[2,5,8] y)
<float[8,48] w, float[16,8] o, int64[5] shape = {2, 5, 4, 3, 4}> {
    p = MatMul(x, w)  r = Reshape(p, shape)  z = com.microsoft.MultiHeadAttention <num_heads = 4> (r)
    y = MatMul(z, o)
}"""
DECODING = """g (float[2,1,8] x{inputs}) => (float[2,1,8] y)
<float[8,16] q, float[8,16] k, float[8,16] v, float[16,8] o{weights}> {{
    qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)  {node}  y = MatMul(z, o)
}}"""


GRAPHS: dict[str, Case] = {
    "Attention": network(f"{PLAIN} (qs, ks, vs)", (16, 16, 16), groups=4),
    "Attention, causal, at opset 24": network(
        "Attention <q_num_heads = 4, kv_num_heads = 4, is_causal = 1> (qs, ks, vs)", (16, 16, 16), groups=4, opset=24
    ),
    "Attention, with other widths for values": network(f"{PLAIN} (qs, ks, vs)", (16, 16, 24), groups=4),
    "Attention, with two query heads for each key head": network(
        "Attention <q_num_heads = 4, kv_num_heads = 2> (qs, ks, vs)", (16, 8, 8), output=16, groups=2
    ),
    "Attention, with one key head": network(
        "Attention <q_num_heads = 4, kv_num_heads = 1> (qs, ks, vs)",
        (16, 4, 4),
        output=16,
        groups={"o:0 q:1": 4},
        why="Attention #3 ('z') lets one key head serve all query heads",
    ),
    "Attention, with one head": network(
        "Attention <q_num_heads = 1, kv_num_heads = 1> (qs, ks, vs)",
        (4, 4, 4),
        why="Attention #3 ('z') has a single head, which stays",
    ),
    "GroupQueryAttention, with key heads that do not divide the query heads": network(
        "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 3> (qs, ks, vs, , , lengths, total)",
        (32, 24, 24),
        output=32,
        weights=LENGTHS,
        why="GroupQueryAttention #3 ('z') is malformed (3 key heads for 4 query heads)",
    ),
    "Attention, with a mask for each head": network(
        f"{PLAIN} (qs, ks, vs, m)", (16, 16, 16), weights=", float[1,4,5,5] m", groups={"k:1 m:1 o:0 q:1 v:1": 4}
    ),
    "Attention, with a mask for each head and no batch": network(
        f"{PLAIN} (qs, ks, vs, m)", (16, 16, 16), weights=", float[4,5,5] m", groups={"k:1 m:0 o:0 q:1 v:1": 4}
    ),
    "Attention, with one mask for all heads": network(
        f"{PLAIN} (qs, ks, vs, m)", (16, 16, 16), inputs=", float[2,1,5,5] m", groups=4
    ),
    "Attention, with one mask for all": network(
        f"{PLAIN} (qs, ks, vs, m)", (16, 16, 16), inputs=", bool[5,5] m", groups=4
    ),
    "Attention, with a mask that may have heads": network(
        f"{PLAIN} (qs, ks, vs, m)",
        (16, 16, 16),
        inputs=", float[2,H,5,5] m",
        why="Attention #3 ('z') adds 'm', of which it is open whether it has heads",
    ),
    "Attention, with a mask for each head from outside": network(
        f"{PLAIN} (qs, ks, vs, m)", (16, 16, 16), inputs=", float[2,4,5,5] m", why="'m' is an input of the model"
    ),
    "Attention, with a cache": network(
        f"{PLAIN} (qs, ks, vs, , pk, pv)",
        (16, 16, 16),
        more=", nk, nv",
        weights=", float[2,4,3,4] pk, float[2,4,3,4] pv",
        groups={"k:1 o:0 pk:1 pv:1 q:1 v:1": 4},
    ),
    "Attention, with a cache of fewer heads": network(
        "Attention <q_num_heads = 4, kv_num_heads = 2> (qs, ks, vs, , pk, pv)",
        (16, 8, 8),
        more=", nk, nv",
        output=16,
        weights=", float[2,2,3,4] pk, float[2,2,3,4] pv",
        groups={"k:1 o:0 pk:1 pv:1 q:1 v:1": 2},
    ),
    "Attention, with a cache from outside": network(
        f"{PLAIN} (qs, ks, vs, , pk, pv)",
        (16, 16, 16),
        inputs=", float[2,4,3,4] pk, float[2,4,3,4] pv",
        why="'pk' is an input of the model",
    ),
    "Attention, with heads apart": apart(groups=4),
    "Attention, with heads apart that share keys": apart(keys=2, groups=2),
    "Attention, with heads apart and one key head": apart(keys=1, groups={"o:0 q:1": 4}),
    "Attention, with heads apart and a mask": apart(
        more=", m", weights=", float[2,4,5,5] m", groups={"k:1 m:1 o:0 q:1 v:1": 4}
    ),
    "Attention, of weights for each head, with a scale": Case(
        """g (float[2,1,5,8] x) => (float[2,4,5,3] y)
        <float[4,8,6] q, float[4,8,6] k, float[4,8,6] v, float[4,6,3] o> {
            qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)
            z = Attention <scale = 0.5> (qs, ks, vs)  y = MatMul(z, o)
        }""",
        {"k:2 q:2": 6, "o:1 v:2": 6},
        opset=23,
        ir=10,
    ),
    "Attention, of weights for each head, with a scale and a cache": Case(
        """g (float[2,1,5,8] x) => (float[2,4,5,3] y)
        <float[4,8,6] q, float[4,8,6] k, float[4,8,6] v, float[4,6,3] o, float[2,4,2,6] pk, float[2,4,2,6] pv> {
            qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)
            z, nk, nv = Attention <scale = 0.5> (qs, ks, vs, , pk, pv)  y = MatMul(z, o)
        }""",
        {"k:2 pk:3 q:2": 6, "o:1 pv:3 v:2": 6},
        opset=23,
        ir=10,
    ),
    "Attention, of weights for each head": Case(
        """g (float[2,1,5,8] x) => (float[2,4,5,3] y)
        <float[4,8,6] q, float[4,8,6] k, float[4,8,6] v, float[4,6,3] o> {
            qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)
            z = Attention(qs, ks, vs)  y = MatMul(z, o)
        }""",
        {"o:1 v:2": 6},
        "Attention #3 ('z') scales by the square root of its size",
        opset=23,
        ir=10,
    ),
    "Attention, packed": Case(
        PACKED.format(
            more="",
            inputs="",
            w=48,
            o=16,
            weights=", float[48] b",
            node="com.microsoft.Attention <num_heads = 4> (x, w, b)",
        ),
        {"b:0 o:0 w:1": 4},
    ),
    "Attention, packed, with a mask": Case(
        PACKED.format(
            more="",
            inputs=", int32[2,5] m",
            w=48,
            o=16,
            weights=", float[48] b",
            node="com.microsoft.Attention <num_heads = 4> (x, w, b, m)",
        ),
        {"b:0 o:0 w:1": 4},
    ),
    "Attention, packed, with widths": Case(
        PACKED.format(
            more="",
            inputs="",
            w=56,
            o=24,
            weights=", float[56] b",
            node="com.microsoft.Attention <num_heads = 4, qkv_hidden_sizes = [16, 16, 24]> (x, w, b)",
        ),
        {"b:0 o:0 w:1": 4},
    ),
    "Attention, packed, with a cache": Case(
        PACKED.format(
            more=", n",
            inputs="",
            w=48,
            o=16,
            weights=", float[48] b, float[2,2,4,3,4] p",
            node="com.microsoft.Attention <num_heads = 4> (x, w, b, , p)",
        ),
        {"b:0 o:0 p:2 w:1": 4},
    ),
    "Attention, packed, with a bias for each head": Case(
        PACKED.format(
            more="",
            inputs="",
            w=48,
            o=16,
            weights=", float[48] b, float[1,4,5,5] r",
            node="com.microsoft.Attention <num_heads = 4> (x, w, b, , , r)",
        ),
        {"b:0 o:0 r:1 w:1": 4},
    ),
    "Attention, packed, behind a projection": Case(
        """g (float[2,5,4] x) => (float[2,5,3] y) <float[4,8] u, float[8,48] w, float[48] b, float[16,3] o> {
            h = MatMul(x, u)  z = com.microsoft.Attention <num_heads = 4> (h, w, b)  y = MatMul(z, o)
        }""",
        {"u:1 w:0": 8, "b:0 o:0 w:1": 4},
    ),
    "Attention, packed, whose output is summed over": Case(
        """g (float[2,5,8] x) => (float[2,5,1] y) <float[8,48] w, float[48] b, int64[1] last = {2}> {
            z = com.microsoft.Attention <num_heads = 4> (x, w, b)  y = ReduceSum(z, last)
        }""",
        {"b:0 w:1": 4},
    ),
    "MultiHeadAttention": network(f"{HEADS} (qs, ks, vs)", (16, 16, 16), groups=4),
    "MultiHeadAttention, with other widths for values": network(f"{HEADS} (qs, ks, vs)", (16, 16, 24), groups=4),
    "MultiHeadAttention, with a bias": network(
        f"{HEADS} (qs, ks, vs, b)", (16, 16, 24), weights=", float[56] b", groups={"b:0 k:1 o:0 q:1 v:1": 4}
    ),
    "MultiHeadAttention, with a mask": network(
        f"{HEADS} (qs, ks, vs, , m)", (16, 16, 16), inputs=", int32[2,5] m", groups=4
    ),
    "MultiHeadAttention, with a bias for each head": network(
        f"{HEADS} (qs, ks, vs, , , r)", (16, 16, 16), weights=", float[2,4,5,5] r", groups={"k:1 o:0 q:1 r:1 v:1": 4}
    ),
    "MultiHeadAttention, with one bias for all heads": network(
        f"{HEADS} (qs, ks, vs, , , r)", (16, 16, 16), inputs=", float[1,1,5,5] r", groups=4
    ),
    "MultiHeadAttention, with a cache": network(
        f"{HEADS} (qs, ks, vs, , , , pk, pv)",
        (16, 16, 16),
        more=", nk, nv",
        weights=", float[2,4,3,4] pk, float[2,4,3,4] pv",
        groups={"k:1 o:0 pk:1 pv:1 q:1 v:1": 4},
    ),
    "MultiHeadAttention, across, with keys apart": network(
        f"{HEADS} (qs, d, f)",
        (16, 16, 16),
        weights=", int64[4] apart = {2, 5, 4, 4}",
        before="""c = Reshape(ks, apart)  d = Transpose <perm = [0,2,1,3]> (c)
        e = Reshape(vs, apart)  f = Transpose <perm = [0,2,1,3]> (e)""",
        groups=4,
    ),
    "MultiHeadAttention, with one head": network(
        "com.microsoft.MultiHeadAttention <num_heads = 1> (qs, ks, vs)",
        (4, 4, 4),
        why="MultiHeadAttention #3 ('z') has a single head, which stays",
    ),
    "MultiHeadAttention, whose heads do not fit": network(
        "com.microsoft.MultiHeadAttention <num_heads = 3> (qs, ks, vs)",
        (16, 16, 16),
        why="the shape of 'z' at MultiHeadAttention #3 ('z') is not known",
    ),
    "GroupQueryAttention": network(
        f"{GROUPED} (qs, ks, vs, , , lengths, total)", (32, 16, 16), output=32, weights=LENGTHS, groups=2
    ),
    "GroupQueryAttention, with one key head": network(
        "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 1> (qs, ks, vs, , , lengths, total)",
        (32, 8, 8),
        output=32,
        weights=LENGTHS,
        groups={"o:0 q:1": 4},
        why="GroupQueryAttention #3 ('z') lets one key head serve all query heads",
    ),
    "GroupQueryAttention, with four query heads for each key head": network(
        "com.microsoft.GroupQueryAttention <num_heads = 8, kv_num_heads = 2> (qs, ks, vs, , , lengths, total)",
        (64, 16, 16),
        output=64,
        weights=LENGTHS,
        groups=2,
    ),
    "GroupQueryAttention, that turns and has a cache": Case(
        """g (float[1,5,8] x) => (float[1,5,8] y)
        <float[8,64] q, float[8,32] k, float[8,32] v, float[64,8] o, float[1,2,2,16] pk, float[1,2,2,16] pv,
         float[8,8] c, float[8,8] s, int32[1] lengths = {6}, int32[1] total = {7}> {
            qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)
            z, nk, nv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1>
            (qs, ks, vs, pk, pv, lengths, total, c, s)
            y = MatMul(z, o)
        }""",
        {"k:1 o:0 pk:1 pv:1 q:1 v:1": 2},
    ),
    "GroupQueryAttention, with a bias and a sink for each head": network(
        f"{GROUPED} (qs, ks, vs, , , lengths, total, , , , r, sink)",
        (32, 16, 16),
        output=32,
        weights=LENGTHS + ", float[1,4,5,5] r, float[4] sink",
        groups={"k:1 o:0 q:1 r:1 sink:0 v:1": 2},
    ),
    "GroupQueryAttention, packed": Case(
        PACKED.format(
            more="", inputs="", w=64, o=32, weights=LENGTHS, node=f"{GROUPED} (p, , , , , lengths, total)"
        ).replace("z =", "p = MatMul(x, w)  z ="),
        {"o:0 w:1": 2},
    ),
    "GroupQueryAttention, packed, with one key head": Case(
        PACKED.format(
            more="",
            inputs="",
            w=48,
            o=32,
            weights=LENGTHS,
            node="""com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 1>
            (p, , , , , lengths, total)""",
        ).replace("z =", "p = MatMul(x, w)  z ="),
        {"o:0 w:1": 4},
        "GroupQueryAttention #1 ('z') lets one key head serve all query heads",
    ),
    "GroupQueryAttention, packed, with one key head, summed over": Case(
        """g (float[2,5,8] x) => (float[2,5,1] y)
        <float[8,48] w, int64[1] last = {2}, int32[2] lengths = {4, 4}, int32[1] total = {5}> {
            p = MatMul(x, w)
            z = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 1> (p, , , , , lengths, total)
            y = ReduceSum(z, last)
        }""",
        {},
        "ReduceSum #2 ('y') sums over it, and a zeroed unit would still contribute",
    ),
    "DecoderMaskedMultiHeadAttention": Case(
        DECODING.format(
            inputs="",
            weights=", float[48] b, float[2,4,6,4] pk, float[2,4,6,4] pv, int32[1] n = {3}",
            node="""z, nk, nv = com.microsoft.DecoderMaskedMultiHeadAttention
            <num_heads = 4, past_present_share_buffer = 1> (qs, ks, vs, , , pk, pv, n, , , b)""",
        ),
        {"b:0 k:1 o:0 pk:1 pv:1 q:1 v:1": 4},
    ),
}


NOT_HERE = {
    "queries, keys and values packed by head": (BY_HEAD, {"o:0 w:1": 4}),
    "keys and values packed by head": (
        """g (float[2,5,8] x) => (float[2,5,8] y)
        <float[8,16] q, float[8,32] w, float[16,8] o, int64[5] shape = {2, 5, 4, 2, 4}> {
            qs = MatMul(x, q)  p = MatMul(x, w)  r = Reshape(p, shape)
            z = com.microsoft.MultiHeadAttention <num_heads = 4> (qs, r)  y = MatMul(z, o)
        }""",
        {"o:0 q:1 w:1": 4},
    ),
    "a packed projection without a bias": (
        PACKED.format(
            more="", inputs="", w=48, o=16, weights="", node="com.microsoft.Attention <num_heads = 4> (x, w)"
        ),
        {"o:0 w:1": 4},
    ),
}
"""What the schemas allow and onnxruntime's CPU kernels of today do not run, or crash on."""


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_a_head_is_one_unit(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("title", [title for title, case in GRAPHS.items() if len(case.groups) > 1])
def test_each_group_may_go_alone(title: str) -> None:
    check_alone(GRAPHS[title])


@pytest.mark.parametrize(("text", "expected"), NOT_HERE.values(), ids=list(NOT_HERE))
def test_a_head_is_one_unit_where_it_cannot_be_run(text: str, expected: dict[str, int]) -> None:
    assert groups(parse(text)) == expected


def test_a_returned_cache_keeps_every_head() -> None:
    text = PACKED.format(
        more=", n",
        inputs="",
        w=48,
        o=16,
        weights=", float[48] b",
        node="com.microsoft.Attention <num_heads = 4> (x, w, b)",
    ).replace("=> (float[2,5,8] y)", "=> (float[2,5,8] y, float[2,2,4,5,4] n)")
    model = parse(text)
    assert groups(model) == {}
    assert "'n' is an output of the model" in reasons(model)
