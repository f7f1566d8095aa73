"""Attention in the ways of exporters: however heads are laid out, packed, merged or shared, they go as one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.cost import CostModel
from onnxprune.algebra.graph import Graph
from onnxprune.model.record import Record
from tests.rules.wiring import (
    APART,
    ATTENDED,
    FLAT_END,
    JOINED,
    MERGED_END,
    MERGED_SCORES,
    PACKED,
    PACKED_GROUPS,
    PACKED_SUM,
    PLAIN,
    PROJECTED,
    SCORES,
    SIZES,
    WHOLE,
    Wiring,
    check,
    length_first,
    merged,
    scored,
    split_heads,
)

COMPUTED = "apart = Concat <axis = 0> (bv, {length}, hv, v6)  back = Concat <axis = 0> (bv, {length}, v24)"
BESIDE = f"""{SIZES} apart = Concat <axis = 0> (bv, any, hv, v6)  bh = Mul(bv, hv)
side = Concat <axis = 0> (bh, any, v6)  {PROJECTED} {split_heads()}
qm = Reshape(qh, side)  km = Reshape(kh, side)  vm = Reshape(vh, side)  kt = Transpose <perm = [0,2,1]> (km)"""
"""Batch first, as BART and T5: (batch, heads, …) becomes (batch times heads, …)."""
BESIDE_END = f"""pr = Softmax(sc)  z = MatMul(pr, vm)  out = Concat <axis = 0> ({{out}}, sv, v6)  zo = Reshape(z, out)
zt = Transpose <perm = {{perm}}> (zo)  back = Concat <axis = 0> (bv, sv, v24) {JOINED}"""
FIVE = f"""{SIZES} five = Concat <axis = 0> (bv, sv, v3, hv, v6)  {PACKED_SUM}  p5 = Reshape(ps, five)
pt = Transpose <perm = [2,0,3,1,4]> (p5)  qh = Gather <axis = 0> (pt, c0)  kh = Gather <axis = 0> (pt, c1)
vh = Gather <axis = 0> (pt, c2) {SCORES} {ATTENDED} {JOINED}"""
"""As timm's vision transformers."""


def packed(steps: str, weights: str = "int64[3] back = {0, 0, 24}", units: int = 4, attention: str = "heads") -> Wiring:
    """One projection to queries, keys and values, `ps`."""
    groups = dict.fromkeys(PACKED_GROUPS, units)
    return Wiring(f"{PACKED_SUM} {steps}", groups, weights, PACKED, attention=attention)


GROUPED = "float[10,24] q, float[10,12] k, float[10,12] v, float[24,10] o"
FEWER = "int64[4] apart = {0, 0, 4, 6}, int64[4] fewer = {0, 0, 2, 6}, int64[3] back = {0, 0, 24}"
PAIRS = {"k:1 o:0 q:1 v:1": 2}


def grouped(repeat: str, weights: str = "float[1] unused") -> Wiring:
    """Two key heads, each repeated for two query heads, by these steps from `@k` to `@h`."""
    repeated = "  ".join(
        f"{n}a = Reshape({n}s, fewer)  {n}k = Transpose <perm = [0,2,1,3]> ({n}a)  {repeat.replace('@', n)}"
        for n in "kv"
    )
    steps = f"{PROJECTED} {split_heads('q')} {repeated} {SCORES} {ATTENDED} {JOINED}"
    return Wiring(steps, PAIRS, f"{FEWER}, {weights}", GROUPED)


def single(steps: str) -> Wiring:
    """One key head for all queries, which go one by one."""
    return Wiring(steps, {"o:0 q:1": 4}, APART, "float[10,24] q, float[10,6] k, float[10,6] v, float[24,10] o")


INSIDE = {"k:1 q:1": 6, "o:0 v:1": 6}

GRAPHS: dict[str, Wiring] = {
    "shapes written out": Wiring(PLAIN, WHOLE, APART),
    "the heads counted from the rest": Wiring(
        PLAIN, WHOLE, "int64[4] apart = {0, 0, -1, 6}, int64[3] back = {0, 0, -1}"
    ),
    "the width counted from the rest": Wiring(
        PLAIN, WHOLE, "int64[4] apart = {0, 0, 4, -1}, int64[3] back = {0, 0, -1}"
    ),
    "the length counted from the rest": Wiring(
        PLAIN, WHOLE, "int64[4] apart = {0, -1, 4, 6}, int64[3] back = {0, -1, 24}"
    ),
    "shapes computed": Wiring(f"{SIZES} {COMPUTED.format(length='sv')} {PLAIN}", WHOLE),
    "shapes computed, the length counted from the rest": Wiring(
        f"{SIZES} {COMPUTED.format(length='any')} {PLAIN}", WHOLE
    ),
    "shapes computed from the widths": Wiring(  # (*shape[:-1], -1, 6), and the heads' sizes multiplied
        f"""{PROJECTED} qsh = Shape(qs)  lead = Slice(qsh, v0, v2)  apart = Concat <axis = 0> (lead, any, v6)
        {split_heads()} {SCORES} {ATTENDED}  zsh = Shape(zt)  zl = Slice(zsh, v0, v2)  zr = Slice(zsh, v2, v4)
        wd = ReduceProd(zr)  back = Concat <axis = 0> (zl, wd) {JOINED}""",
        WHOLE,
    ),
    "with biases": Wiring(
        PLAIN.replace(PROJECTED, "  ".join(f"{n}m = MatMul(x, {n})  {n}s = Add({n}m, b{n})" for n in "qkv")),
        {"bk:0 bq:0 bv:0 k:1 o:0 q:1 v:1": 4},
        f"float[24] bq, float[24] bk, float[24] bv, {APART}",
    ),
    "beside the batch": length_first(merged(PROJECTED, f"{MERGED_SCORES} {MERGED_END}"), WHOLE),
    "beside the batch, the end flat": length_first(merged(PROJECTED, f"{MERGED_SCORES} {FLAT_END}"), WHOLE),
    "beside the batch, then apart from it": length_first(
        merged(
            PROJECTED,
            """hv = Unsqueeze(heads, v0)  four = Concat <axis = 0> (bv, hv, sv, v6)
            kt = Transpose <perm = [0,2,1]> (kh)  qf = Reshape(qh, four)  kf = Reshape(kt, four)  vf = Reshape(vh, four)
            kx = Transpose <perm = [0,1,3,2]> (kf)  sc = MatMul(qf, kx)  pr = Softmax(sc)  z = MatMul(pr, vf)
            zt = Transpose <perm = [2,0,1,3]> (z)  flat = Concat <axis = 0> (sb, v24)  zf = Reshape(zt, flat)
            yf = MatMul(zf, o)  back = Concat <axis = 0> (sv, bv, any)  y = Reshape(yf, back)""",
        ),
        WHOLE,
    ),
    "beside the batch, packed, moved to the front": length_first(
        merged(
            f"""{PACKED_SUM} five = Concat <axis = 0> (sv, bv, v3, v24)  p5 = Reshape(ps, five)  pu = Unsqueeze(p5, v0)
            pt = Transpose <perm = [3,1,2,0,4]> (pu)  pq = Squeeze(pt, v3)
            qs = Gather <axis = 0> (pq, c0)  ks = Gather <axis = 0> (pq, c1)  vs = Gather <axis = 0> (pq, c2)""",
            f"{MERGED_SCORES} {MERGED_END}",
        ),
        PACKED_GROUPS,
    )._replace(projections=PACKED),
    "beside the batch, batch first": Wiring(
        f"{BESIDE} sc = MatMul(qm, kt) {BESIDE_END.format(out='bv, hv', perm='[0,2,1,3]')}", WHOLE
    ),
    "beside the batch, with a bias apart from it": Wiring(
        f"""{BESIDE} s3 = MatMul(qm, kt)  own = Concat <axis = 0> (bv, hv, sv, sv)  s4 = Reshape(s3, own)
        s5 = Add(s4, bias)  three = Concat <axis = 0> (bh, sv, sv)  sc = Reshape(s5, three)
        {BESIDE_END.format(out="bv, hv", perm="[0,2,1,3]")}""",
        {"bias:1 k:1 o:0 q:1 v:1": 4},
        "float[1,4,1,1] bias",
    ),
    "beside the batch, mistaken for it": Wiring(  # in, heads are the fast part; out, they are read as the slow one
        f"{BESIDE} sc = MatMul(qm, kt) {BESIDE_END.format(out='hv, bv', perm='[1,2,0,3]')}", INSIDE
    ),
    "before the batch": Wiring(  # flat index h * batch + b: what is known comes first, and is not followed
        f"""{SIZES} apart = Concat <axis = 0> (bv, sv, hv, v6)  hb = Mul(hv, bv)  side = Concat <axis = 0> (hb, sv, v6)
        {PROJECTED} {split_heads().replace("[0,2,1,3]", "[2,0,1,3]")}
        qm = Reshape(qh, side)  km = Reshape(kh, side)  vm = Reshape(vh, side)  kt = Transpose <perm = [0,2,1]> (km)
        sc = MatMul(qm, kt) {BESIDE_END.format(out="hv, bv", perm="[1,2,0,3]")}""",
        INSIDE,
    ),
    "before the batch, split and joined": Wiring(  # as TensorFlow's first transformers
        f"""{PROJECTED} q0, q1, q2, q3 = Split <axis = 2> (qs)  qm = Concat <axis = 0> (q0, q1, q2, q3)
        k0, k1, k2, k3 = Split <axis = 2> (ks)  km = Concat <axis = 0> (k0, k1, k2, k3)
        w0, w1, w2, w3 = Split <axis = 2> (vs)  vm = Concat <axis = 0> (w0, w1, w2, w3)
        kt = Transpose <perm = [0,2,1]> (km)  sc = MatMul(qm, kt)  pr = Softmax(sc)  z = MatMul(pr, vm)
        z0, z1, z2, z3 = Split <axis = 0> (z)  zj = Concat <axis = 2> (z0, z1, z2, z3)  y = MatMul(zj, o)""",
        INSIDE,
    ),
    "packed, split": packed(
        f"qs, ks, vs = Split <axis = 2> (ps, thirds) {split_heads()} {SCORES} {ATTENDED} {JOINED}",
        "int64[3] thirds = {24, 24, 24}, " + APART,
    ),
    "packed, sliced": packed(
        f"""qs = Slice(ps, v0, v24, v2)  ks = Slice(ps, v24, v48, v2)  vs = Slice(ps, v48, end, v2)
        {split_heads()} {SCORES} {ATTENDED} {JOINED}""",
        "int64[1] v48 = {48}, " + APART,
    ),
    "packed, gathered": packed(FIVE.replace(PACKED_SUM, "")),
    "packed, split along an axis of its own": packed(
        f"""p5 = Reshape(ps, five)  pt = Transpose <perm = [2,0,3,1,4]> (p5)  q5, k5, v5 = Split <axis = 0> (pt)
        qh = Squeeze(q5, v0)  kh = Squeeze(k5, v0)  vh = Squeeze(v5, v0) {SCORES} {ATTENDED} {JOINED}""",
        "int64[5] five = {0, 0, 3, 4, 6}, int64[3] back = {0, 0, -1}",
    ),
    "packed head by head, split": packed(  # as GPT-NeoX
        f"""p4 = Reshape(ps, apart)  pt = Transpose <perm = [0,2,1,3]> (p4)  qh, kh, vh = Split <axis = 3> (pt, sixes)
        {SCORES} {ATTENDED} {JOINED}""",
        "int64[4] apart = {0, 0, 4, 18}, int64[3] sixes = {6, 6, 6}, int64[3] back = {0, 0, 24}",
    ),
    "packed head by head, gathered": packed(
        f"""p5 = Reshape(ps, five)  pt = Transpose <perm = [3,0,2,1,4]> (p5)  qh = Gather <axis = 0> (pt, c0)
        kh = Gather <axis = 0> (pt, c1)  vh = Gather <axis = 0> (pt, c2) {SCORES} {ATTENDED} {JOINED}""",
        "int64[5] five = {0, 0, 4, 3, 6}, int64[3] back = {0, 0, 24}",
    ),
    "fewer key heads, expanded": grouped(
        """@u = Unsqueeze(@k, v2)  @e = Expand(@u, twice)  @sh = Shape(@k)  @b = Slice(@sh, v0, v1)
        @l = Slice(@sh, v2, v3)  @to = Concat <axis = 0> (@b, v4, @l, v6)  @h = Reshape(@e, @to)""",
        "int64[5] twice = {1, 1, 2, 1, 1}",
    ),
    "fewer key heads, expanded to a computed shape": grouped(
        """@u = Unsqueeze(@k, v2)  @sh = Shape(@k)  @b = Gather(@sh, v0)  @g = Gather(@sh, v1)
        @l = Gather(@sh, v2)  @w = Gather(@sh, v3)  @t5 = Concat <axis = 0> (@b, @g, v2, @l, @w)  @e = Expand(@u, @t5)
        @hh = Mul(@g, v2)  @t4 = Concat <axis = 0> (@b, @hh, @l, @w)  @h = Reshape(@e, @t4)""",
    ),
    "fewer key heads, expanded as PyTorch does": grouped(
        """@u = Unsqueeze(@k, v2)  @sh = Shape(@k)  @b = Gather(@sh, v0)  @l = Gather(@sh, v2)
        @t5 = Concat <axis = 0> (@b, v2, v2, @l, v6)  @rk = Shape(@t5)
        @on = ConstantOfShape <value = int64[1] {1}> (@rk)  @ne = Mul(@on, any)  @eq = Equal(@t5, @ne)
        @wh = Where(@eq, @on, @t5)  @e = Expand(@u, @wh)  @t4 = Concat <axis = 0> (@b, v4, @l, v6)
        @h = Reshape(@e, @t4)""",
    ),
    "fewer key heads, the queries apart": Wiring(
        f"""{PROJECTED} qa = Reshape(qs, five)  qh = Transpose <perm = [0,2,3,1,4]> (qa)
        ka = Reshape(ks, four)  kh = Transpose <perm = [0,2,3,1,4]> (ka)
        va = Reshape(vs, four)  vh = Transpose <perm = [0,2,3,1,4]> (va)  kt = Transpose <perm = [0,1,2,4,3]> (kh)
        qk = MatMul(qh, kt)  pr = Softmax(qk)  z = MatMul(pr, vh)  zt = Transpose <perm = [0,3,1,2,4]> (z) {JOINED}""",
        PAIRS,
        "int64[5] five = {0, 0, 2, 2, 6}, int64[5] four = {0, 0, 2, 1, 6}, int64[3] back = {0, 0, 24}",
        GROUPED,
    ),
    "a single key head": single(
        f"""{PROJECTED} {split_heads("q")} kh = Unsqueeze(ks, v1)  vh = Unsqueeze(vs, v1)
        {SCORES} {ATTENDED} {JOINED}"""
    ),
    "a single key head, expanded": single(
        f"""{PROJECTED} {split_heads("q")} ku = Unsqueeze(ks, v1)  vu = Unsqueeze(vs, v1)  wide = Shape(qh)
        kh = Expand(ku, wide)  vh = Expand(vu, wide)  {SCORES} {ATTENDED} {JOINED}"""
    ),
    "a single key head, lengths and heads in a row": single(  # as GPT-BigCode
        f"""{SIZES} {PROJECTED} hs = Mul(sv, hv)  rows = Concat <axis = 0> (bv, hs, v6)  qr = Reshape(qs, rows)
        kt = Transpose <perm = [0,2,1]> (ks)  s3 = MatMul(qr, kt)  own = Concat <axis = 0> (bv, sv, hv, sv)
        s4 = Reshape(s3, own)  p4 = Softmax(s4)  wide = Shape(s3)  pr = Reshape(p4, wide)  z = MatMul(pr, vs)
        full = Concat <axis = 0> (bv, sv, v24)  zj = Reshape(z, full)  y = MatMul(zj, o)"""
    ),
    "dims instead of heads": Wiring(PLAIN, INSIDE, APART, attention="dims"),
    "dims instead of heads, beside the batch": length_first(
        merged(PROJECTED, f"{MERGED_SCORES} {FLAT_END}"), INSIDE, "dims"
    ),
    "dims instead of heads, packed": packed(FIVE.replace(PACKED_SUM, ""), units=6, attention="dims"),
    "dims instead of heads, fewer key heads": grouped(
        "@u = Unsqueeze(@k, v2)  @e = Tile(@u, twice)  @h = Reshape(@e, to)",
        "int64[5] twice = {1, 1, 2, 1, 1}, int64[4] to = {0, 4, -1, 6}",
    )._replace(groups=INSIDE, attention="dims"),
    "dims instead of heads, normalised": scored(
        """qn = LayerNormalization(qh, qg)  kn = LayerNormalization(kh, kg)  kt = Transpose <perm = [0,1,3,2]> (kn)
        sc = MatMul(qn, kt)""",
        {"o:0 v:1": 6},
        "float[6] qg, float[6] kg",
    )._replace(attention="dims"),
}


@pytest.mark.parametrize("wiring", GRAPHS.values(), ids=GRAPHS)
def test_what_belongs_to_a_head_goes_with_it_at_every_size(wiring: Wiring) -> None:
    check(wiring)


@pytest.mark.parametrize("name", ["shapes computed", "beside the batch", "beside the batch, batch first"])
def test_multiply_accumulates_are_counted_wherever_the_heads_lie(name: str) -> None:
    """Four projections, and two products of all places with all places."""
    wiring = GRAPHS[name]
    analysis = Analysis(Graph(Record(wiring.model)))
    first = name == "beside the batch"
    cost = CostModel(analysis, {"x": (5, 3, 10) if first else (3, 5, 10)})
    half = np.arange(analysis.units) % 2 == 1
    assert cost.dense.macs == 3 * 5 * 4 * 10 * 24 + 3 * 5 * 5 * 2 * 24
    assert cost(half).macs == cost.dense.macs / 2
