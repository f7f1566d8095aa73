"""Attention by what is said of its queries, keys and scores: masks, biases, turns, norms, caches, windows."""

from __future__ import annotations

import pytest

from tests.rules.wiring import (
    APART,
    ATTENDED,
    JOINED,
    MERGED_END,
    PACKED,
    PLAIN,
    PROJECTED,
    SCORES,
    SIZES,
    WHOLE,
    Shapes,
    Wiring,
    check,
    merged,
    scored,
    split_heads,
)

ACROSS = "float[10,24] q, float[8,24] k, float[8,24] v, float[24,10] o"
FROM_BOTH: tuple[Shapes, ...] = ({"x": (1, 5, 10), "m": (1, 3, 8)}, {"x": (3, 2, 10), "m": (3, 6, 8)})
COUNTED = "sh = Shape(x)  s = Gather(sh, c1)  sr = Range(c0, s, c1)  sf = Cast <to = 1> (sr)"


def fixed(wiring: Wiring, length: int) -> Wiring:
    """Only the batch is open."""
    shapes: tuple[Shapes, ...] = ({"x": (1, length, 10)}, {"x": (3, length, 10)})
    return wiring._replace(inputs=f"float[B,{length},10] x", output=f"float[B,{length},10] y", shapes=shapes)


def masked(wiring: Wiring, kind: str, dims: str) -> Wiring:
    """A mask comes from outside."""
    shapes: list[Shapes] = []
    for batch, length in ((1, 5), (3, 2)):
        sizes = {"B": batch, "S": length, "H": 4 * batch}
        mask = tuple(sizes[d] if d in sizes else int(d) for d in dims.split(","))
        x = (batch, length, 10) if wiring.inputs.startswith("float[B") else (length, batch, 10)
        shapes.append({"x": x, "mask": mask})
    return wiring._replace(inputs=f"{wiring.inputs}, {kind}[{dims}] mask", shapes=tuple(shapes))


def turned(steps: str, weights: str = "float[1,6] rate") -> Wiring:
    """Queries and keys are turned by their place, by these steps from `@h` to `@r`."""
    turn = "  ".join(steps.replace("@", n) for n in "qk")
    return Wiring(
        f"""{PROJECTED} {split_heads()} {COUNTED} su = Unsqueeze(sf, v1)  ang = Mul(su, rate)  cs = Cos(ang)
        sn = Sin(ang)  {turn} rt = Transpose <perm = [0,1,3,2]> (kr)  qk = MatMul(qr, rt)  sc = Mul(qk, scale)
        {ATTENDED} {JOINED}""",
        WHOLE,
        f"{APART}, {weights}",
    )


BY_HALVES = """@x = Slice(@h, v0, v3, v3)  @y = Slice(@h, v3, end, v3)  @n = Neg(@y)  @t = Concat <axis = 3> (@n, @x)
@c = Mul(@h, cs)  @d = Mul(@t, sn)  @r = Add(@c, @d)"""

BY_WIDTH = "qz = Shape(qh)  wi = Gather(qz, v3)  wf = Cast <to = 1> (wi)  wr = Sqrt(wf)  sc = Div(su, wr)"
BESIDE_INSIDE = f"""{PROJECTED.replace("(x,", "({x},")} {split_heads()} side = Concat <axis = 0> (bh, sv, v6)
qm = Reshape(qh, side)  km = Reshape(kh, side)  vm = Reshape(vh, side)  kt = Transpose <perm = [0,2,1]> (km)
sc = MatMul(qm, kt)  pr = Softmax(sc)  z = MatMul(pr, vm)  out = Concat <axis = 0> (bv, hv, sv, v6)
zo = Reshape(z, out)  zt = Transpose <perm = [0,2,1,3]> (zo)  zj = Reshape(zt, back)"""

GRAPHS: dict[str, Wiring] = {
    "across": Wiring(
        PLAIN.replace("MatMul(x, k)", "MatMul(m, k)").replace("MatMul(x, v)", "MatMul(m, v)"),
        WHOLE,
        APART,
        ACROSS,
        "float[B,S,10] x, float[B,T,8] m",
        shapes=FROM_BOTH,
    ),
    "across, heads beside the batch": Wiring(
        f"""{SIZES} mh = Shape(m)  t = Gather(mh, c1)  tv = Unsqueeze(t, v0)  bh = Mul(bv, hv)
        qs = MatMul(x, q)  ks = MatMul(m, k)  vs = MatMul(m, v)
        qx = Concat <axis = 0> (bv, sv, hv, v6)  kx = Concat <axis = 0> (bv, tv, hv, v6)
        q3 = Concat <axis = 0> (bh, sv, v6)  k3 = Concat <axis = 0> (bh, tv, v6)
        qa = Reshape(qs, qx)  qb = Transpose <perm = [0,2,1,3]> (qa)  qh = Reshape(qb, q3)
        ka = Reshape(ks, kx)  kb = Transpose <perm = [0,2,1,3]> (ka)  kh = Reshape(kb, k3)
        va = Reshape(vs, kx)  vb = Transpose <perm = [0,2,1,3]> (va)  vh = Reshape(vb, k3)
        kt = Transpose <perm = [0,2,1]> (kh)  sc = MatMul(qh, kt)  pr = Softmax(sc)  z = MatMul(pr, vh)
        out = Concat <axis = 0> (bv, hv, sv, v6)  zo = Reshape(z, out)  zt = Transpose <perm = [0,2,1,3]> (zo)
        back = Concat <axis = 0> (bv, sv, v24) {JOINED}""",
        WHOLE,
        projections=ACROSS,
        inputs="float[B,S,10] x, float[B,T,8] m",
        shapes=FROM_BOTH,
    ),
    "a bias for each head and place": fixed(
        scored("RAW sc = Add(su, bias)", {"bias:1 k:1 o:0 q:1 v:1": 4}, "float[1,4,5,5] bias"), 5
    ),
    "a bias that is looked up for each head": fixed(  # a table of distances and heads, as in T5
        scored(
            """RAW bt = Gather <axis = 0> (table, places)  bp = Transpose <perm = [2,0,1]> (bt)
            bu = Unsqueeze(bp, v0)  sc = Add(su, bu)""",
            {"k:1 o:0 q:1 table:1 v:1": 4},
            "float[9,4] table, int64[2,2] places = {0, 1, 2, 0}",
        ),
        2,
    ),
    "slopes for each head": scored(  # ALiBi
        f"RAW {COUNTED} sp = Unsqueeze(sf, v0)  al = Mul(slopes, sp)  sc = Add(su, al)",
        {"k:1 o:0 q:1 slopes:0 v:1": 4},
        "float[4,1,1] slopes",
    ),
    "a sink for each head": Wiring(  # one more score, which is dropped behind the softmax
        PLAIN.replace(
            SCORES,
            SCORES.replace("sc =", "su =")
            + """ sh = Shape(qh)  b = Gather(sh, v0)  s = Gather(sh, v2)  to = Concat <axis = 0> (b, v4, s, v1)
            se = Expand(sinks, to)  sc = Concat <axis = 3> (su, se)""",
        ).replace("pr = Softmax(sc)", "pa = Softmax(sc)  pr = Slice(pa, v0, any, v3)"),
        {"k:1 o:0 q:1 sinks:1 v:1": 4},
        f"{APART}, float[1,4,1,1] sinks",
    ),
    "a mask for all heads": masked(scored("RAW sc = Add(su, mask)"), "float", "B,1,1,S"),
    "a mask for all heads, that decides": masked(
        scored("RAW sc = Where(mask, su, low)", weights="float low = {-10000}"), "bool", "B,1,S,S"
    ),
    "a mask for all heads, expanded to them": masked(
        scored("RAW ss = Shape(su)  me = Expand(mask, ss)  sc = Where(me, su, low)", weights="float low = {-10000}"),
        "bool",
        "B,1,S,S",
    ),
    "a mask for each head": masked(
        scored("RAW sc = Add(su, mask)", {"k:1 q:1": 6, "o:0 v:1": 6}), "float", "B,4,S,S"
    )._replace(why="'mask' is an input of the model"),
    "a mask of the batch, repeated beside the heads": masked(
        Wiring(
            merged(
                PROJECTED,
                f"""mu = Unsqueeze(mask, v1)  wide = Concat <axis = 0> (bv, v4, v1, sv)  me = Expand(mu, wide)
                to = Concat <axis = 0> (bhv, v1, sv)  mr = Reshape(me, to)  qk = MatMul(qh, kh)  sc = Add(qk, mr)
                {MERGED_END}""",
            ),
            WHOLE,
            inputs="float[S,B,10] x",
            output="float[S,B,10] y",
        ),
        "float",
        "B,1,S",
    ),
    "a mask beside the heads, from outside": masked(  # of what size its first axis is, nobody says
        Wiring(
            merged(PROJECTED, f"qk = MatMul(qh, kh)  sc = Add(qk, mask) {MERGED_END}"),
            {"k:1 q:1": 6},
            inputs="float[S,B,10] x",
            output="float[S,B,10] y",
            why="'mask' is an input of the model",
        ),
        "float",
        "H,S,S",
    ),
    "turned by halves": turned(BY_HALVES),
    "turned by halves, dims instead of heads": turned(BY_HALVES)._replace(
        groups={"k:1 q:1 rate:1": 3, "o:0 v:1": 6}, attention="dims"
    ),
    "turned by pairs": turned(
        """@x = Slice(@h, v0, end, v3, v2)  @y = Slice(@h, v1, end, v3, v2)  @n = Neg(@y)  @nu = Unsqueeze(@n, v4)
        @xu = Unsqueeze(@x, v4)  @p = Concat <axis = 4> (@nu, @xu)  @s5 = Shape(@h)  @t = Reshape(@p, @s5)
        @c = Mul(@h, cs)  @d = Mul(@t, sn)  @r = Add(@c, @d)"""
    ),
    "turned in part": turned(
        """@x = Slice(@h, v0, v2, v3)  @p = Slice(@h, v2, end, v3)  @a0 = Slice(@x, v0, v1, v3)
        @a1 = Slice(@x, v1, v2, v3)  @n = Neg(@a1)  @t = Concat <axis = 3> (@n, @a0)  @c = Mul(@x, cs)
        @d = Mul(@t, sn)  @e = Add(@c, @d)  @r = Concat <axis = -1> (@e, @p)""",
        "float[1,2] rate",
    ),
    "queries and keys normalised": scored(
        """qn = LayerNormalization(qh, qg, qb)  kn = LayerNormalization(kh, kg, kb)
        kt = Transpose <perm = [0,1,3,2]> (kn)  sc = MatMul(qn, kt)""",
        weights="float[6] qg, float[6] qb, float[6] kg, float[6] kb",
    ),
    "queries and keys normalised by their root mean square": scored(
        "  ".join(
            f"""{n}2 = Mul({n}h, {n}h)  {n}m = ReduceMean <axes = [-1]> ({n}2)  {n}e = Add({n}m, eps)
            {n}q = Sqrt({n}e)  {n}i = Reciprocal({n}q)  {n}n = Mul({n}h, {n}i)  {n}g = Mul({n}n, {n}w)"""
            for n in "qk"
        )
        + " kt = Transpose <perm = [0,1,3,2]> (kg)  sc = MatMul(qg, kt)",
        weights="float[6] qw, float[6] kw, float eps = {0.001}",
    ),
    "queries and keys of unit length": scored(  # as Swin V2, with a temperature for each head
        """ql = ReduceL2 <axes = [-1]> (qh)  qe = Add(ql, eps)  qn = Div(qh, qe)
        kl = ReduceL2 <axes = [-1]> (kh)  ke = Add(kl, eps)  kn = Div(kh, ke)
        kt = Transpose <perm = [0,1,3,2]> (kn)  qk = MatMul(qn, kt)  tx = Exp(temperature)  sc = Mul(qk, tx)""",
        {"k:1 o:0 q:1 temperature:0 v:1": 4},
        "float[4,1,1] temperature, float eps = {0.001}",
    ),
    "heads that hear each other": scored(  # queries and keys on one side of the mixture, values on the other
        """RAW st = Transpose <perm = [0,2,3,1]> (su)  sm = MatMul(st, mix)  sc = Transpose <perm = [0,3,1,2]> (sm)""",
        {"k:1 mix:0 q:1": 4, "mix:1 o:0 v:1": 4},
        "float[4,4] mix",
    ),
    "scores that are scaled by the width": scored(f"RAW {BY_WIDTH}"),
    "scores that are scaled by the width, dims instead of heads": scored(f"RAW {BY_WIDTH}", {"o:0 v:1": 6})._replace(
        attention="dims", why="reads its width as a number"
    ),
    "scores of channels": Wiring(  # as XCiT: the sum runs over places, the softmax over what is inside of heads
        f"""{PROJECTED} qa = Reshape(qs, apart)  ka = Reshape(ks, apart)  va = Reshape(vs, apart)
        qh = Transpose <perm = [0,2,3,1]> (qa)  kh = Transpose <perm = [0,2,1,3]> (ka)
        vh = Transpose <perm = [0,2,3,1]> (va)  sc = MatMul(qh, kh)  pr = Softmax(sc)  z = MatMul(pr, vh)
        zt = Transpose <perm = [0,3,1,2]> (z) {JOINED}""",
        WHOLE,
        APART,
    ),
    "no softmax": Wiring(
        f"""{PROJECTED} {split_heads()} kt = Transpose <perm = [0,1,3,2]> (kh)  kv = MatMul(kt, vh)  z = MatMul(qh, kv)
        zt = Transpose <perm = [0,2,1,3]> (z) {JOINED}""",
        WHOLE,
        APART,
    ),
    "sums by name": Wiring(
        f"""{PROJECTED} qa = Reshape(qs, apart)  ka = Reshape(ks, apart)  va = Reshape(vs, apart)
        sc = Einsum <equation = "bshd,bthd->bhst"> (qa, ka)  pr = Softmax(sc)
        zt = Einsum <equation = "bhst,bthd->bshd"> (pr, va) {JOINED}""",
        WHOLE,
        APART,
    ),
    "in a branch, heads beside the batch": Wiring(
        f"""{SIZES} bh = Mul(bv, hv)  y = If (c) <then_branch = yes () => (float[B,S,10] r) {{
            {BESIDE_INSIDE.format(x="x")}  r = MatMul(zj, o)
        }}, else_branch = no () => (float[B,S,10] r) {{ r = Neg(x) }}>""",
        WHOLE,
        APART,
        inputs="float[B,S,10] x, bool c",
    ),
    "in a loop, heads beside the batch": Wiring(
        f"""{SIZES} bh = Mul(bv, hv)
        y = Loop (twice, go, x) <body = one (int64 i, bool on, float[B,S,10] t) => (bool on2, float[B,S,10] r) {{
            on2 = Identity(on)  {BESIDE_INSIDE.format(x="t")}  m = MatMul(zj, o)  r = Tanh(m)
        }}>""",
        WHOLE,
        f"{APART}, int64 twice = {{2}}, bool go = {{1}}",
    ),
    "a cache from outside": Wiring(
        f"""{PROJECTED} {split_heads("q")} ka = Reshape(ks, apart)  kb = Transpose <perm = [0,2,1,3]> (ka)
        va = Reshape(vs, apart)  vb = Transpose <perm = [0,2,1,3]> (va)  kh = Concat <axis = 2> (pk, kb)
        vh = Concat <axis = 2> (pv, vb) {SCORES} {ATTENDED} {JOINED}""",
        {},
        APART,
        inputs="float[B,S,10] x, float[B,4,P,6] pk, float[B,4,P,6] pv",
        output="float[B,S,10] y, float[B,4,T,6] kh, float[B,4,T,6] vh",
        why="'pk' is an input of the model",
    ),
    "a window of a picture": Wiring(  # as Swin, where the scores are apart for each window while they are masked
        f"""sh = Shape(x)  b = Gather(sh, v0)  six = Concat <axis = 0> (b, v2, v2, v3, v2, v10)  w6 = Reshape(x, six)
        wt = Transpose <perm = [0,1,3,2,4,5]> (w6)  xw = Reshape(wt, windows)  ws = Shape(xw)  n = Gather(ws, v0)
        pm = MatMul(xw, p)  ps = Add(pm, c)  five = Concat <axis = 0> (n, v4, v3, v4, v6)  p5 = Reshape(ps, five)
        pt = Transpose <perm = [2,0,3,1,4]> (p5)  qh = Gather <axis = 0> (pt, c0)  kh = Gather <axis = 0> (pt, c1)
        vh = Gather <axis = 0> (pt, c2)  kt = Transpose <perm = [0,1,3,2]> (kh)  qk = MatMul(qh, kt)
        sb = Add(qk, bias)  own = Concat <axis = 0> (b, v6, v4, v4, v4)  s5 = Reshape(sb, own)  sm = Add(s5, mask)
        sc = Reshape(sm, four) {ATTENDED}  flat = Concat <axis = 0> (n, v4, v24)  zj = Reshape(zt, flat)
        yw = MatMul(zj, o)  y6 = Reshape(yw, around)  yt = Transpose <perm = [0,1,3,2,4,5]> (y6)
        y = Reshape(yt, all)""",
        {"bias:1 c:0 o:0 p:1": 4},
        """float[1,4,4,4] bias, float[1,6,1,4,4] mask, int64[1] v10 = {10}, int64[3] windows = {-1, 4, 10},
        int64[4] four = {-1, 4, 4, 4}, int64[6] around = {-1, 2, 3, 2, 2, 10}, int64[3] all = {-1, 24, 10}""",
        PACKED,
        "float[B,24,10] x",
        "float[B,24,10] y",
        ({"x": (1, 24, 10)}, {"x": (3, 24, 10)}),
    ),
}


@pytest.mark.parametrize("wiring", GRAPHS.values(), ids=GRAPHS)
def test_what_is_said_of_scores_follows_the_heads_at_every_size(wiring: Wiring) -> None:
    check(wiring)
