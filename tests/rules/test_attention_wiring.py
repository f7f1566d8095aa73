"""Attention that is wired from plain operators, in the ways of exporters: heads go, whatever carries them.

Batch and length are open, and every cut is tried at several of each: nothing of them may be written into a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from onnxprune import saving, surgery
from onnxprune.analysis import Analysis
from onnxprune.closure import Mask
from onnxprune.graph import Graph
from onnxprune.inputs import synthesise
from onnxprune.pins import Protection
from onnxprune.record import Record
from tests.laws import parse, run
from tests.rules.cases import LIMIT

Shapes = dict[str, tuple[int, ...]]

ROWS: tuple[Shapes, ...] = ({"x": (1, 5, 10)}, {"x": (3, 2, 10)}, {"x": (2, 7, 10)})
NUMBERS = """int64 c0 = {0}, int64 c1 = {1}, int64 c2 = {2}, int64 heads = {4}, int64[1] v0 = {0}, int64[1] v1 = {1},
int64[1] v2 = {2}, int64[1] v3 = {3}, int64[1] v4 = {4}, int64[1] v6 = {6}, int64[1] v24 = {24}, int64[1] any = {-1},
int64[1] end = {9223372036854775807}, float scale = {0.4}"""


class Wiring(NamedTuple):
    """One attention with four heads of six, and what its meaning allows to remove.

    Attributes:
        steps: from `x` to `y`.
        groups: for each group the weight axes that it cuts, and its units.
        weights: besides the projections.
        inputs, output: as declared.
        projections: the weights between `x` and the heads, and behind them.
        shapes: of the inputs, on which cuts are tried.
        why: what one of the reasons for keeping something must say.
        attention: what is cut, heads or what is inside of them.
    """

    steps: str
    groups: dict[str, int]
    weights: str = "float[1] unused"
    inputs: str = "float[B,S,10] x"
    output: str = "float[B,S,10] y"
    projections: str = "float[10,24] q, float[10,24] k, float[10,24] v, float[24,10] o"
    shapes: tuple[Shapes, ...] = ROWS
    why: str | None = None
    attention: str = "heads"
    opset: int = 17

    @property
    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        text = f"g ({self.inputs}) => ({self.output}) <{NUMBERS}, {self.projections}, {self.weights}> {{ {self.steps} }}"
        return parse(text, opset=self.opset)


PROJECTED = "qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)"
SIZES = """sh = Shape(x)  b = Gather(sh, c0)  s = Gather(sh, c1)  bv = Unsqueeze(b, v0)  sv = Unsqueeze(s, v0)
hv = Unsqueeze(heads, v0)  bs = Mul(bv, sv)"""
SCORES = "kt = Transpose <perm = [0,1,3,2]> (kh)  qk = MatMul(qh, kt)  sc = Mul(qk, scale)"
ATTENDED = "pr = Softmax(sc)  z = MatMul(pr, vh)  zt = Transpose <perm = [0,2,1,3]> (z)"
JOINED = "zj = Reshape(zt, back)  y = MatMul(zj, o)"
APART = ", int64[4] apart = {0, 0, 4, 6}, int64[3] back = {0, 0, 24}"
WHOLE = {"k:1 o:0 q:1 v:1": 4}


def split_heads(apart: str = "apart", names: Sequence[str] = "qkv") -> str:
    """From (batch, length, heads times width) to (batch, heads, length, width)."""
    moved = "{n}a = Reshape({n}s, {apart})  {n}h = Transpose <perm = [0,2,1,3]> ({n}a)"
    return "  ".join(moved.format(n=name, apart=apart) for name in names)


PLAIN = f"{PROJECTED} {split_heads()} {SCORES} {ATTENDED} {JOINED}"
"""The textbook's, with shapes that are written out."""


def merged(projections: str, after: str) -> str:
    """Heads side by side with the batch, as PyTorch's MultiheadAttention has them: (length, batch times heads, …)."""
    moved = "  ".join(
        f"{n}m = Reshape({n}s, merged)  {n}h = Transpose <perm = {perm}> ({n}m)"
        for n, perm in (("q", "[1,0,2]"), ("k", "[1,2,0]"), ("v", "[1,0,2]"))
    )
    return f"""sh = Shape(x)  s = Gather(sh, c0)  b = Gather(sh, c1)  bh = Mul(b, heads)
    sv = Unsqueeze(s, v0)  bv = Unsqueeze(b, v0)  bhv = Unsqueeze(bh, v0)  sb = Mul(sv, bv)
    merged = Concat <axis = 0> (sv, bhv, v6)  {projections}  {moved}  {after}"""


MERGED_SCORES = "qk = MatMul(qh, kh)  sc = Mul(qk, scale)"
MERGED_END = """pr = Softmax(sc)  z = MatMul(pr, vh)  zt = Transpose <perm = [1,0,2]> (z)
back = Concat <axis = 0> (sv, bv, v24)  zj = Reshape(zt, back)  y = MatMul(zj, o)"""
FLAT_END = """pr = Softmax(sc)  z = MatMul(pr, vh)  zt = Transpose <perm = [1,0,2]> (z)
flat = Concat <axis = 0> (sb, v24)  zf = Reshape(zt, flat)  yf = MatMul(zf, o)  fh = Shape(yf)  w = Gather(fh, v1)
back = Concat <axis = 0> (sv, bv, w)  y = Reshape(yf, back)"""
FOUR_AXES = """four = Concat <axis = 0> (bv, hv, sv, v6)  hv = Unsqueeze(heads, v0)"""
LENGTH_FIRST: dict[str, object] = {
    "inputs": "float[S,B,10] x",
    "output": "float[S,B,10] y",
    "shapes": ({"x": (5, 1, 10)}, {"x": (5, 3, 10)}, {"x": (2, 2, 10)}),
}
PACKED = "float[10,72] p, float[72] c, float[24,10] o"
PACKED_GROUPS = {"c:0 o:0 p:1": 4}
PACKED_SUM = "pm = MatMul(x, p)  ps = Add(pm, c)"


GRAPHS: dict[str, Wiring] = {
    "shapes written out": Wiring(PLAIN, WHOLE, APART[2:]),
    "the heads counted from the rest": Wiring(
        PLAIN, WHOLE, "int64[4] apart = {0, 0, -1, 6}, int64[3] back = {0, 0, -1}"
    ),
    "the width counted from the rest": Wiring(
        PLAIN, WHOLE, "int64[4] apart = {0, 0, 4, -1}, int64[3] back = {0, 0, -1}"
    ),
    "the length counted from the rest": Wiring(
        PLAIN, WHOLE, "int64[4] apart = {0, -1, 4, 6}, int64[3] back = {0, -1, 24}"
    ),
    "shapes computed": Wiring(
        f"""{SIZES} apart = Concat <axis = 0> (bv, sv, hv, v6)  back = Concat <axis = 0> (bv, sv, v24)
        {PROJECTED} {split_heads()} {SCORES} {ATTENDED} {JOINED}""",
        WHOLE,
    ),
    "shapes computed, the length counted from the rest": Wiring(
        f"""{SIZES} apart = Concat <axis = 0> (bv, any, hv, v6)  back = Concat <axis = 0> (bv, any, v24)
        {PROJECTED} {split_heads()} {SCORES} {ATTENDED} {JOINED}""",
        WHOLE,
    ),
    "shapes computed from the width": Wiring(  # as Hugging Face writes it: (*shape[:-1], heads, width)
        f"""{PROJECTED} qsh = Shape(qs)  lead = Slice(qsh, v0, v2)  apart = Concat <axis = 0> (lead, any, v6)
        {split_heads()} {SCORES} {ATTENDED}
        zsh = Shape(zt)  zl = Slice(zsh, v0, v2)  zr = Slice(zsh, v2, v4)  wd = ReduceProd(zr)
        back = Concat <axis = 0> (zl, wd) {JOINED}""",
        WHOLE,
    ),
    "with biases": Wiring(
        PLAIN.replace(PROJECTED, "  ".join(f"{n}m = MatMul(x, {n})  {n}s = Add({n}m, b{n})" for n in "qkv")),
        {"bk:0 bq:0 bv:0 k:1 o:0 q:1 v:1": 4},
        "float[24] bq, float[24] bk, float[24] bv" + APART,
    ),
    "heads beside the batch": Wiring(
        merged(PROJECTED, f"{MERGED_SCORES} {MERGED_END}"), WHOLE, **LENGTH_FIRST  # type: ignore[arg-type]
    ),
    "heads beside the batch, and the end flat": Wiring(
        merged(PROJECTED, f"{MERGED_SCORES} {FLAT_END}"), WHOLE, **LENGTH_FIRST  # type: ignore[arg-type]
    ),
    "heads beside the batch, then apart from it": Wiring(
        merged(
            PROJECTED,
            """hv = Unsqueeze(heads, v0)  four = Concat <axis = 0> (bv, hv, sv, v6)  kt = Transpose <perm = [0,2,1]> (kh)
            qf = Reshape(qh, four)  kf = Reshape(kt, four)  vf = Reshape(vh, four)
            kx = Transpose <perm = [0,1,3,2]> (kf)  sc = MatMul(qf, kx)  pr = Softmax(sc)  z = MatMul(pr, vf)
            zt = Transpose <perm = [2,0,1,3]> (z)  flat = Concat <axis = 0> (sb, v24)  zf = Reshape(zt, flat)
            yf = MatMul(zf, o)  back = Concat <axis = 0> (sv, bv, any)  y = Reshape(yf, back)""",
        ),
        WHOLE,
        **LENGTH_FIRST,  # type: ignore[arg-type]
    ),
    "heads beside the batch, packed, moved to the front": Wiring(
        merged(
            f"""{PACKED_SUM} five = Concat <axis = 0> (sv, bv, v3, v24)  p5 = Reshape(ps, five)  pu = Unsqueeze(p5, v0)
            pt = Transpose <perm = [3,1,2,0,4]> (pu)  pq = Squeeze(pt, v3)
            qs = Gather <axis = 0> (pq, c0)  ks = Gather <axis = 0> (pq, c1)  vs = Gather <axis = 0> (pq, c2)""",
            f"{MERGED_SCORES} {MERGED_END}",
        ),
        PACKED_GROUPS,
        projections=PACKED,
        **LENGTH_FIRST,  # type: ignore[arg-type]
    ),
    "heads beside the batch, batch first": Wiring(  # BART, T5 and the like: (batch, heads, …) to (batch times heads, …)
        f"""{SIZES} apart = Concat <axis = 0> (bv, any, hv, v6)  bh = Mul(bv, hv)
        side = Concat <axis = 0> (bh, any, v6)  {PROJECTED} {split_heads()}
        qm = Reshape(qh, side)  km = Reshape(kh, side)  vm = Reshape(vh, side)
        kt = Transpose <perm = [0,2,1]> (km)  sc = MatMul(qm, kt)  pr = Softmax(sc)  z = MatMul(pr, vm)
        out = Concat <axis = 0> (bv, hv, sv, v6)  zo = Reshape(z, out)  zt = Transpose <perm = [0,2,1,3]> (zo)
        back = Concat <axis = 0> (bv, sv, v24) {JOINED}""",
        WHOLE,
    ),
    "heads beside the batch, and a bias apart for each": Wiring(  # the scores go apart, and together again
        f"""{SIZES} apart = Concat <axis = 0> (bv, any, hv, v6)  bh = Mul(bv, hv)
        side = Concat <axis = 0> (bh, any, v6)  {PROJECTED} {split_heads()}
        qm = Reshape(qh, side)  km = Reshape(kh, side)  vm = Reshape(vh, side)
        kt = Transpose <perm = [0,2,1]> (km)  s3 = MatMul(qm, kt)  own = Concat <axis = 0> (bv, hv, sv, sv)
        s4 = Reshape(s3, own)  s5 = Add(s4, bias)  three = Concat <axis = 0> (bh, sv, sv)  sc = Reshape(s5, three)
        pr = Softmax(sc)  z = MatMul(pr, vm)
        out = Concat <axis = 0> (bv, hv, sv, v6)  zo = Reshape(z, out)  zt = Transpose <perm = [0,2,1,3]> (zo)
        back = Concat <axis = 0> (bv, sv, v24) {JOINED}""",
        {"bias:1 k:1 o:0 q:1 v:1": 4},
        "float[1,4,1,1] bias",
    ),
    "packed, split": Wiring(
        f"{PACKED_SUM} qs, ks, vs = Split <axis = 2> (ps, thirds) {split_heads()} {SCORES} {ATTENDED} {JOINED}",
        PACKED_GROUPS,
        "int64[3] thirds = {24, 24, 24}" + APART,
        projections=PACKED,
    ),
    "packed, sliced": Wiring(
        f"""{PACKED_SUM} qs = Slice(ps, v0, v24, v2)  ks = Slice(ps, v24, v48, v2)  vs = Slice(ps, v48, end, v2)
        {split_heads()} {SCORES} {ATTENDED} {JOINED}""",
        PACKED_GROUPS,
        "int64[1] v48 = {48}" + APART,
        projections=PACKED,
    ),
    "packed, gathered": Wiring(  # as timm's vision transformers
        f"""{SIZES} five = Concat <axis = 0> (bv, sv, v3, hv, v6)  {PACKED_SUM}  p5 = Reshape(ps, five)
        pt = Transpose <perm = [2,0,3,1,4]> (p5)
        qh = Gather <axis = 0> (pt, c0)  kh = Gather <axis = 0> (pt, c1)  vh = Gather <axis = 0> (pt, c2)
        {SCORES} {ATTENDED} {JOINED}""",
        PACKED_GROUPS,
        "int64[3] back = {0, 0, 24}",
        projections=PACKED,
    ),
    "packed, split along an axis of its own": Wiring(
        f"""{PACKED_SUM} p5 = Reshape(ps, five)  pt = Transpose <perm = [2,0,3,1,4]> (p5)
        q5, k5, v5 = Split <axis = 0> (pt)  qh = Squeeze(q5, v0)  kh = Squeeze(k5, v0)  vh = Squeeze(v5, v0)
        {SCORES} {ATTENDED} {JOINED}""",
        PACKED_GROUPS,
        "int64[5] five = {0, 0, 3, 4, 6}, int64[3] back = {0, 0, -1}",
        projections=PACKED,
        opset=12 + 1,
    ),
    "packed head by head, split": Wiring(  # as GPT-NeoX
        f"""{PACKED_SUM} p4 = Reshape(ps, apart)  pt = Transpose <perm = [0,2,1,3]> (p4)
        qh, kh, vh = Split <axis = 3> (pt, sixes)  {SCORES} {ATTENDED} {JOINED}""",
        PACKED_GROUPS,
        "int64[4] apart = {0, 0, 4, 18}, int64[3] sixes = {6, 6, 6}, int64[3] back = {0, 0, 24}",
        projections=PACKED,
    ),
    "packed head by head, gathered": Wiring(
        f"""{PACKED_SUM} p5 = Reshape(ps, five)  pt = Transpose <perm = [3,0,2,1,4]> (p5)
        qh = Gather <axis = 0> (pt, c0)  kh = Gather <axis = 0> (pt, c1)  vh = Gather <axis = 0> (pt, c2)
        {SCORES} {ATTENDED} {JOINED}""",
        PACKED_GROUPS,
        "int64[5] five = {0, 0, 4, 3, 6}, int64[3] back = {0, 0, 24}",
        projections=PACKED,
    ),
}


def law(model: onnx.ModelProto, protection: Protection, shapes: Sequence[Shapes]) -> Iterator[float]:
    """For half of all, for all but one, and for each group alone: how far removing is from zeroing at each size."""
    analysis = Analysis(Graph(Record(model)), protection)
    for removed in _masks(analysis):
        yield from differences(analysis, removed, shapes)


def _masks(analysis: Analysis) -> Iterator[Mask]:
    half = np.zeros(analysis.units, dtype=bool)
    for group in range(analysis.groups):
        half[analysis.members(group)[1::2]] = True
        alone = np.zeros(analysis.units, dtype=bool)
        alone[analysis.members(group)[:-1]] = True
        yield alone
    yield from (half, analysis.least())


def differences(analysis: Analysis, removed: Mask, shapes: Sequence[Shapes]) -> Iterator[float]:
    """The largest difference of any output, by its largest magnitude, for inputs of each of these shapes.

    Both models are written once, and run on all of them.
    """
    with TemporaryDirectory() as name:
        cut = saving.write(surgery.remove(analysis, removed), Path(name), "cut.onnx")
        zeroed = saving.write(surgery.zero(analysis, removed), Path(name), "zeroed.onnx")
        onnx.checker.check_model(str(cut), full_check=True)
        for seed, given in enumerate(shapes):
            feed = dict(synthesise(analysis.graph, given, seed))
            for a, b in zip(run(zeroed, feed), run(cut, feed), strict=True):
                assert a.shape == b.shape
                assert np.abs(a).max() > 0, "all outputs are zero: this proves nothing"
                yield float(np.abs(a - b).max() / np.abs(a).max())


def parts(analysis: Analysis) -> dict[str, int]:
    """For each group the weight axes that it cuts, and its units."""
    return {
        " ".join(sorted(f"{name}:{axis}" for name, axis in analysis.weight_axes_of(g))): len(analysis.members(g))
        for g in range(analysis.groups)
    }


@pytest.mark.parametrize("wiring", GRAPHS.values(), ids=GRAPHS)
def test_what_belongs_to_a_head_goes_with_it_at_every_size(wiring: Wiring) -> None:
    protection = Protection(attention=wiring.attention)
    analysis = Analysis(Graph(Record(wiring.model)), protection)
    assert parts(analysis) == wiring.groups
    assert max(law(wiring.model, protection, wiring.shapes), default=0.0) <= LIMIT
