"""Attention that is wired from plain operators, and the law for it: every cut is tried at several sizes.

Batch and length are open, and nothing of them may be written into a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.pins import Protection
from onnxprune.data.inputs import synthesise
from onnxprune.model.record import Record
from onnxprune.surgery import removal, saving
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
        projections: the weights between `x` and the heads, and behind them.
        inputs, output: as declared.
        shapes: of the inputs, on which cuts are tried.
        why: what one of the reasons for keeping something must say.
        attention: what is cut, heads or what is inside of them.
    """

    steps: str
    groups: dict[str, int]
    weights: str = "float[1] unused"
    projections: str = "float[10,24] q, float[10,24] k, float[10,24] v, float[24,10] o"
    inputs: str = "float[B,S,10] x"
    output: str = "float[B,S,10] y"
    shapes: tuple[Shapes, ...] = ROWS
    why: str | None = None
    attention: str = "heads"

    @property
    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        weights = f"{NUMBERS}, {self.projections}, {self.weights}"
        return parse(f"g ({self.inputs}) => ({self.output}) <{weights}> {{ {self.steps} }}")


# ---- parts of which attention is made ----------------------------------------------------------------------------

PROJECTED = "qs = MatMul(x, q)  ks = MatMul(x, k)  vs = MatMul(x, v)"
SIZES = """sh = Shape(x)  b = Gather(sh, c0)  s = Gather(sh, c1)  bv = Unsqueeze(b, v0)  sv = Unsqueeze(s, v0)
hv = Unsqueeze(heads, v0)  bs = Mul(bv, sv)"""
SCORES = "kt = Transpose <perm = [0,1,3,2]> (kh)  qk = MatMul(qh, kt)  sc = Mul(qk, scale)"
ATTENDED = "pr = Softmax(sc)  z = MatMul(pr, vh)  zt = Transpose <perm = [0,2,1,3]> (z)"
JOINED = "zj = Reshape(zt, back)  y = MatMul(zj, o)"
APART = "int64[4] apart = {0, 0, 4, 6}, int64[3] back = {0, 0, 24}"
WHOLE = {"k:1 o:0 q:1 v:1": 4}


def split_heads(names: Sequence[str] = "qkv") -> str:
    """From (batch, length, heads times width) to (batch, heads, length, width)."""
    return "  ".join(f"{n}a = Reshape({n}s, apart)  {n}h = Transpose <perm = [0,2,1,3]> ({n}a)" for n in names)


PLAIN = f"{PROJECTED} {split_heads()} {SCORES} {ATTENDED} {JOINED}"
"""The textbook's, with shapes that are written out."""


def scored(how: str, groups: dict[str, int] | None = None, weights: str = "float[1] unused") -> Wiring:
    """The textbook's, but for how heads `qh` and `kh` become scores `sc`; `RAW` is the usual way, to `su`."""
    steps = PLAIN.replace(SCORES, how.replace("RAW", SCORES.replace("sc =", "su =")))
    return Wiring(steps, WHOLE if groups is None else groups, f"{APART}, {weights}")


def merged(projections: str, after: str) -> str:
    """Heads side by side with the batch, as PyTorch's MultiheadAttention has them: (length, batch times heads, …)."""
    moved = "  ".join(
        f"{n}m = Reshape({n}s, merged)  {n}h = Transpose <perm = {perm}> ({n}m)"
        for n, perm in (("q", "[1,0,2]"), ("k", "[1,2,0]"), ("v", "[1,0,2]"))
    )
    return f"""sh = Shape(x)  s = Gather(sh, c0)  b = Gather(sh, c1)  bh = Mul(b, heads)
    sv = Unsqueeze(s, v0)  bv = Unsqueeze(b, v0)  bhv = Unsqueeze(bh, v0)  sb = Mul(sv, bv)
    merged = Concat <axis = 0> (sv, bhv, v6)  {projections}  {moved}  {after}"""


def length_first(steps: str, groups: dict[str, int], attention: str = "heads") -> Wiring:
    """The batch is the second axis."""
    wiring = Wiring(steps, groups, inputs="float[S,B,10] x", output="float[S,B,10] y", attention=attention)
    return wiring._replace(shapes=({"x": (5, 1, 10)}, {"x": (5, 3, 10)}, {"x": (2, 2, 10)}))


MERGED_SCORES = "qk = MatMul(qh, kh)  sc = Mul(qk, scale)"
MERGED_END = """pr = Softmax(sc)  z = MatMul(pr, vh)  zt = Transpose <perm = [1,0,2]> (z)
back = Concat <axis = 0> (sv, bv, v24)  zj = Reshape(zt, back)  y = MatMul(zj, o)"""
FLAT_END = """pr = Softmax(sc)  z = MatMul(pr, vh)  zt = Transpose <perm = [1,0,2]> (z)
flat = Concat <axis = 0> (sb, v24)  zf = Reshape(zt, flat)  yf = MatMul(zf, o)  fh = Shape(yf)  w = Gather(fh, v1)
back = Concat <axis = 0> (sv, bv, w)  y = Reshape(yf, back)"""

PACKED = "float[10,72] p, float[72] c, float[24,10] o"
PACKED_GROUPS = {"c:0 o:0 p:1": 4}
PACKED_SUM = "pm = MatMul(x, p)  ps = Add(pm, c)"


# ---- the law -----------------------------------------------------------------------------------------------------


def check(wiring: Wiring) -> None:
    """The partition is as written, the reason is given, and removing equals zeroing at every size."""
    analysis = Analysis(Graph(Record(wiring.model)), Protection(attention=wiring.attention))
    assert parts(analysis) == wiring.groups
    if wiring.why is not None:
        assert wiring.why in "\n".join(why for found in analysis.closure.reasons.values() for why, _ in found)
    for removed in _masks(analysis) if analysis.units else ():
        assert max(differences(analysis, removed, wiring.shapes)) <= LIMIT


def _masks(analysis: Analysis) -> Iterator[Mask]:
    """Each group but for one unit, half of all, and all but one of each."""
    half = np.zeros(analysis.units, dtype=bool)
    for group in range(analysis.groups):
        half[analysis.members(group)[1::2]] = True
        alone = np.zeros(analysis.units, dtype=bool)
        alone[analysis.members(group)[:-1]] = True
        yield alone
    yield from (half, analysis.least())


def parts(analysis: Analysis) -> dict[str, int]:
    """For each group the weight axes that it cuts, and its units."""
    return {
        " ".join(sorted(f"{name}:{axis}" for name, axis in analysis.weight_axes_of(g))): len(analysis.members(g))
        for g in range(analysis.groups)
    }


def differences(analysis: Analysis, removed: Mask, shapes: Sequence[Shapes]) -> Iterator[float]:
    """How far removing is from zeroing, by the outputs' largest magnitude, for inputs of each of these shapes.

    Both models are written once, and run on all of them.
    """
    with TemporaryDirectory() as name:
        cut = saving.write(removal.remove(analysis, removed), Path(name), "cut.onnx")
        zeroed = saving.write(removal.zero(analysis, removed), Path(name), "zeroed.onnx")
        onnx.checker.check_model(str(cut), full_check=True)
        for seed, given in enumerate(shapes):
            feed = dict(synthesise(analysis.graph, given, seed))
            for a, b in zip(run(zeroed, feed), run(cut, feed), strict=True):
                assert a.shape == b.shape
                assert np.abs(a).max() > 0, "all outputs are zero: this proves nothing"
                yield float(np.abs(a - b).max() / np.abs(a).max())
