"""The laws are tested, too: each classic mistake of a pruner, planted, must be caught by remove ≡ zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxprune.algebra import absorb, analysis, facts, pins, quantization
from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Closure
from onnxprune.algebra.facts import Fact
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.registry import RuleTable
from onnxprune.rules import RULES
from onnxprune.surgery import removal, renumber
from tests.generated import mask
from tests.laws import analyse, difference, every_other, parse

CAUGHT = 1e-3  # an error this large, or a model that does not run

Change = Callable[[Fact], Fact | None]
Plant = Callable[[pytest.MonkeyPatch], None]


def changed(kind: str, change: Change) -> Plant:
    """Plant a mistake in one operator's rule: change or drop its facts."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        rule, domain = next((RULES[d, kind], d) for d in ("", "com.microsoft") if (d, kind) in RULES)

        def wrong(op: Op) -> Iterator[Fact]:
            for fact in rule.facts(op):
                found = change(fact)
                if found is not None:
                    yield found

        table: RuleTable = {**RULES, (domain, kind): replace(rule, facts=wrong)}
        patch.setattr(analysis, "load", lambda group: table)

    return plant


def lost_offset(fact: Fact) -> Fact:
    if isinstance(fact, facts.Tie) and fact.picks is not None:
        return fact._replace(picks=fact.picks - fact.picks.min())
    return fact


def tile_for_repeat(fact: Fact) -> Fact:
    if isinstance(fact, facts.Tie) and fact.picks is not None:
        return fact._replace(picks=(fact.picks.reshape(-1, 2).T).ravel().copy())
    return fact


def interleaved_gates(fact: Fact) -> Fact:
    if isinstance(fact, facts.Tie) and fact.picks is not None:
        return fact._replace(picks=np.sort(fact.picks))
    return fact


def without(*kinds: type) -> Change:
    return lambda fact: None if isinstance(fact, kinds) else fact


def mean_is_a_sum(fact: Fact) -> Fact:
    return facts.Sum(fact.axis) if isinstance(fact, facts.Normalized) else fact


def forgotten_bias(patch: pytest.MonkeyPatch) -> None:
    keeps = removal._keeps
    patch.setattr(removal, "_keeps", lambda a, r: {n: k for n, k in keeps(a, r).items() if not n.startswith("b")})


def no_default_deny(patch: pytest.MonkeyPatch) -> None:
    pin = Closure.pin

    def careless(self: Closure, number: int, why: str, indices: facts.Index | None = None) -> None:
        if "needs it whole" not in why:
            pin(self, number, why, indices)

    patch.setattr(Closure, "pin", careless)


def no_absorption(patch: pytest.MonkeyPatch) -> None:
    def nothing(stated: Iterable[Fact], zeros: absorb.Zeros) -> Iterable[tuple[tuple[str, int], str]]:
        return ()

    patch.setattr(absorb, "breaches", nothing)


def widths_read_freely(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pins, "read_widths", lambda *args: ())


def stale_shapes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(removal, "_refresh_shapes", lambda *args: None)


def zero_is_code_0(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quantization.Codes, "blank", lambda self, name: np.broadcast_to(0, self.graph.constant(name).shape))


def every_zero_point_is_alike(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quantization.Codes, "code_of_zero", lambda self, zero: 0)


def forgotten_scale(patch: pytest.MonkeyPatch) -> None:
    keeps = removal._keeps
    patch.setattr(removal, "_keeps", lambda a, r: {n: k for n, k in keeps(a, r).items() if not n.startswith("scale")})


def zeroed_parameters(patch: pytest.MonkeyPatch) -> None:
    init = quantization.Codes.__init__

    def without_parameters(self: quantization.Codes, graph: Graph, stated: Sequence[Sequence[Fact]]) -> None:
        init(self, graph, stated)
        self.parameters = frozenset()

    patch.setattr(quantization.Codes, "__init__", without_parameters)


def unscaled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(renumber, "_factors", lambda before, after: (1, 1))


def scaled_by_what_is_gone(patch: pytest.MonkeyPatch) -> None:
    factors = renumber._factors
    patch.setattr(renumber, "_factors", lambda before, after: factors(after, before))


def lost_in_a_body(patch: pytest.MonkeyPatch) -> None:
    inside = removal._inside

    def elsewhere(analysed: Analysis, draft: removal.Draft, name: str) -> onnx.TensorProto | None:
        found = inside(analysed, draft, name)
        return found and onnx.TensorProto.FromString(found.SerializeToString())

    patch.setattr(removal, "_inside", elsewhere)


def stale_in_a_body(patch: pytest.MonkeyPatch) -> None:
    refresh = removal._refresh_shapes
    patch.setattr(
        removal, "_refresh_shapes", lambda d, homes, cut: refresh(d, [home for home in homes if not home.path], cut)
    )


def one_vector_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(removal, "_apart", lambda analysed, keeps: {})


def copies_are_never_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(removal, "_same", lambda a, b: False)


MERGED = """net (float[N,3,5] x) => (float[N,3,2] y)
<float[5,12] w1, float[12,2] w2, int64[1] first = {0}, int64[1] heads = {4}, int64[2] rest = {3,3},
 int64[4] apart = {0,3,4,3}, int64[3] back = {0,3,-1}>
{ a = MatMul(x, w1) b = Reshape(a, apart) c = Transpose<perm=[0,2,1,3]>(b) s = Shape(x) n = Gather(s, first)
  m = Mul(n, heads) t = Concat<axis=0>(m, rest) d = Reshape(c, t) k = Transpose<perm=[0,2,1]>(d) q = MatMul(d, k)
  v = MatMul(q, d) o = Concat<axis=0>(n, heads, rest) e = Reshape(v, o) f = Transpose<perm=[0,2,1,3]>(e)
  z = Reshape(f, back) y = MatMul(z, w2) }"""
SHARED = """net (float[N,4] x) => (float[N,2] y)
<float[4,6] w1, float[4,6] w2, float[6] b, float[6,2] v1, float[6,2] v2>
{ m = MatMul(x, w1) a = Add(m, b) r = Relu(a) p = MatMul(r, v1) n = MatMul(x, w2) c = Add(n, b) s = Relu(c)
  q = MatMul(s, v2) y = Add(p, q) }"""
BRANCHES = """net (float[3,4] x, bool c) => (float[3,2] y) <float[4,6] w1, float[6,2] w2>
{ h = MatMul(x, w1)
  t = If(c)<then_branch = yes() => (float[3,6] r) { k = Constant<value = float[6] {1,2,3,4,5,6}>() r = Mul(h, k) },
            else_branch = no() => (float[3,6] r) { k = Constant<value = float[6] {6,5,4,3,2,1}>() r = Mul(h, k) }>
  y = MatMul(t, w2) }"""
CODED = """net (float[N,4] x) => (float[N,2] y)
<uint8[4,6] w1, float[6] scale, uint8[6] zero, float s = {0.5}, uint8 z = {120}, float[6,2] w2>
{ d = DequantizeLinear<axis=1>(w1, scale, zero) a = MatMul(x, d) q = QuantizeLinear(a, s, z)
  e = DequantizeLinear(q, s, z) y = MatMul(e, w2) }"""

CASES: dict[str, tuple[str, Plant]] = {
    "zero taken for code 0": (
        """net (float[N,4] x) => (float[N,2] y) <float[4,6] w1, uint8[6,2] w2, float scale, uint8 zero = {120}>
        { a = MatMul(x, w1) s = Sigmoid(a) d = DequantizeLinear(w2, scale, zero) y = MatMul(s, d) }""",
        zero_is_code_0,
    ),
    "a scale not cut": (CODED, forgotten_scale),
    "a zero point zeroed": (
        """net (uint8[N,4] x) => (float[N,2] y) <uint8[4,6] w1, uint8 zx = {120}, uint8[6] zero, float[6,2] w2>
        { a = MatMulInteger(x, w1, zx, zero) c = Cast<to=1>(a) q, s, z = DynamicQuantizeLinear(c)
          d = DequantizeLinear(q, s, z) y = MatMul(d, w2) }""",
        zeroed_parameters,
    ),
    "zero points mixed up": (
        """net (float[N,4,3] x) => (float[N,4,4] y)
        <float[3,6] w1, float[3,6] w2, float s = {0.05}, uint8 z = {120}, uint8 o = {90}>
        { a = MatMul(x, w1) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, o) b = MatMul(x, w2) k = Sigmoid(b)
          t = Transpose<perm=[0,2,1]>(k) y = MatMul(d, t) }""",
        every_zero_point_is_alike,
    ),
    "a range that what is removed took part in": (
        """net (float[N,4] x) => (float[N,2] y) <float[4,6] w1, float five = {5.0}, float[6,2] w2>
        { a = MatMul(x, w1) n = Abs(a) b = Sub(five, n) q, s, z = DynamicQuantizeLinear(b) d = DequantizeLinear(q, s, z)
          y = MatMul(d, w2) }""",
        changed("DynamicQuantizeLinear", without(facts.Sum)),
    ),
    "a hidden size of quantised gates left stale": (
        """net (float[3,2,4] x) => (float[3,1,2,5] y)
        <int8[1,4,24] w, int8[1,6,24] r, float[1] scale, int8[1] zero, float[6,5] v>
        { h = com.microsoft.DynamicQuantizeLSTM<hidden_size = 6>(x, w, r, , , , , , scale, zero, scale, zero)
          y = MatMul(h, v) }""",
        changed("DynamicQuantizeLSTM", without(facts.Count)),
    ),
    "a lost offset in Concat": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[4,3,3,3] w1, float[6,3,3,3] w2, float[6] scale, float[2,10,1,1] w3>
        { a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1]>(x, w2)
          c = Concat<axis=1>(a, b) y = Conv(c, w3) }""",
        changed("Concat", lost_offset),
    ),
    "tile for repeat in a depthwise multiplier": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[4,3,3,3] w1, float[8,1,3,3] w2, float[2,8,1,1] w3>
        { a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1], group=4>(a, w2) y = Conv(b, w3) }""",
        changed("Conv", tile_for_repeat),
    ),
    "a forgotten bias": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) <float[4,3,3,3] w1, float[4] b1, float[2,4,1,1] w2>
        { a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) y = Conv(r, w2) }""",
        forgotten_bias,
    ),
    "a stale group": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[4,3,3,3] w1, float[4,1,3,3] w2, float[2,4,1,1] w3>
        { a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1], group=4>(a, w2) y = Conv(b, w3) }""",
        changed("Conv", without(facts.Count)),
    ),
    "no default deny": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) <float[4,3,3,3] w1, float[1,1,4,4] m, float[2,4,1,1] w2>
        { a = Conv<pads=[1,1,1,1]>(x, w1) g = Mul(a, m) r = Relu(g) y = Conv<pads=[0,0,0,0]>(r, w2) }""",
        no_default_deny,
    ),
    "a mean taken for a sum": (
        """net (float[N,3,4,4] x) => (float[N,1,4,4] y) <float[4,3,3,3] w1, float[4] b1>
        { a = Conv<pads=[1,1,1,1]>(x, w1, b1) y = ReduceMean<axes=[1]>(a) }""",
        changed("ReduceMean", mean_is_a_sum),
    ),
    "a product of two activations that does not vanish": (
        """net (float[N,4,3] x) => (float[N,4,4] y) <float[3,6] w1, float[3,6] w2>
        { a = MatMul(x, w1) q = Sigmoid(a) b = MatMul(x, w2) k = Sigmoid(b)
          t = Transpose<perm=[0,2,1]>(k) y = MatMul(q, t) }""",
        no_absorption,
    ),
    "a width read as a number": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) <float[4,3,3,3] w1, float[2,4,1,1] w2, int64 one = {1}>
        { a = Conv<pads=[1,1,1,1]>(x, w1) s = Shape(a) n = Gather(s, one) f = Cast<to=1>(n) q = Sqrt(f)
          d = Div(a, q) y = Conv(d, w2) }""",
        widths_read_freely,
    ),
    "a declared shape left stale": (
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[4,3,3,3] w1, float[2,4,1,1] w2, float[N,4,4,4] a>
        { a = Conv<pads=[1,1,1,1]>(x, w1) y = Conv(a, w2) }""",
        stale_shapes,
    ),
    "a Reshape target left stale": (
        """net (float[N,4] x) => (float[N,2] y)
        <float[4,12] w1, float[12,2] w2, int64[3] to = {0,4,3}, int64[2] back = {0,12}>
        { a = MatMul(x, w1) b = Reshape(a, to) r = Relu(b) c = Reshape(r, back) y = MatMul(c, w2) }""",
        changed("Reshape", without(facts.Count)),
    ),
    "Slice bounds left stale": (
        """net (float[N,4] x) => (float[N,2] y)
        <float[4,12] w1, float[6,2] w2, int64[1] from = {4}, int64[1] to = {10}, int64[1] along = {1}>
        { a = MatMul(x, w1) b = Slice(a, from, to, along) y = MatMul(b, w2) }""",
        changed("Slice", without(facts.Count)),
    ),
    "a strided Slice left as it is": (
        """net (float[N,4] x) => (float[N,2] y)
        <float[4,12] w1, float[6,2] w2, float[12,2] w3, int64[1] from = {0}, int64[1] to = {12}, int64[1] along = {1},
         int64[1] by = {2}>
        { a = MatMul(x, w1) b = Slice(a, from, to, along, by) c = MatMul(b, w2) d = MatMul(a, w3) y = Add(c, d) }""",
        changed("Slice", without(facts.Strided)),
    ),
    "Gather positions left stale": (
        """net (float[N,4] x) => (float[N,2] y)
        <float[4,6] w1, float[6,2] w2, int64[6] order = {5,3,1,0,2,4}>
        { a = MatMul(x, w1) b = Gather<axis=1>(a, order) y = MatMul(b, w2) }""",
        changed("Gather", without(facts.Positions)),
    ),
    "gates taken for neighbours": (
        """net (float[3,2,4] x) => (float[3,1,2,5] y) <float[1,24,4] w, float[1,24,6] r, float[1,48] b, float[6,5] v>
        { h = LSTM<hidden_size = 6>(x, w, r, b) y = MatMul(h, v) }""",
        changed("LSTM", interleaved_gates),
    ),
    "a hidden size left stale": (
        """net (float[3,2,4] x) => (float[3,1,2,5] y) <float[1,18,4] w, float[1,18,6] r, float[6,5] v>
        { h = GRU<hidden_size = 6>(x, w, r) y = MatMul(h, v) }""",
        changed("GRU", without(facts.Count)),
    ),
    "a head count beside the batch left stale": (MERGED, unscaled),
    "a head count beside the batch scaled the wrong way": (MERGED, scaled_by_what_is_gone),
    "a constant of a body not cut": (BRANCHES, lost_in_a_body),
    "a shape that a body declares left stale": (BRANCHES, stale_in_a_body),
    "a vector cut for one of its readers only": (SHARED, one_vector_for_all),
    "a permutation not followed": (
        """net (float[N,4] x) => (float[N,2] y)
        <float[4,6] w1, float[6,2] w2, int64[6] order = {5,3,1,0,2,4}>
        { a = MatMul(x, w1) b = Gather<axis=1>(a, order) y = MatMul(b, w2) }""",
        changed("Gather", lambda f: f._replace(picks=None) if isinstance(f, facts.Tie) and f.picks is not None else f),
    ),
}


def error(model: onnx.ModelProto) -> float:
    """How wrong the worst of some cuts is; infinite if a result does not even run."""
    try:
        found = analyse(model)
        return max(difference(model, mask(found, seed)) for seed in range(4))
    except Exception:
        return float("inf")


@pytest.mark.parametrize("mistake", CASES)
def test_the_law_holds_and_catches(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, plant = CASES[mistake]
    model = parse(text)
    assert error(model) < 1e-5
    plant(monkeypatch)
    assert error(model) > CAUGHT


def test_a_copy_that_is_written_for_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error, so that no law of values catches it: only the number of tensors tells."""
    model = parse(SHARED)
    found = analyse(model)

    def written() -> int:
        return len(removal.remove(found, every_other(model)).proto.graph.initializer)

    assert written() == len(model.graph.initializer)
    copies_are_never_the_same(monkeypatch)
    assert written() > len(model.graph.initializer)
