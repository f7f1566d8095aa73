"""Cuts whose numbers are hard to follow."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.surgery import removal
from tests.generated import mask
from tests.laws import analyse, difference, parse, reasons

HARD = {
    "two strided axes of one Slice": """g (float[N,4] x) => (float[N,5] y)
    <int64[2] s = {0,1}, int64[2] e = {16,16}, int64[2] a = {0,1}, int64[2] p = {2,2}, float[4,8] v, float[16,16] w,
     float[8,5] u>
    { k = Slice(w, s, e, a, p) h = MatMul(x, v) r = Relu(h) q = MatMul(r, k) y = MatMul(q, u) }""",
    "a target with a size divided out of a width": """g (float[N,4] x) => (float[N,5] y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, float[4,8] w, float[8,5] v>
    { h = MatMul(x, w) s = Shape(h) n = Gather(s, zero) c = Gather(s, one) d = Div(c, two)
      t = Concat<axis=0>(n, two, d) a = Reshape(h, t) r = Relu(a) z = Reshape(r, s) y = MatMul(z, v) }""",
    "a target with a constant width beside a batch that is read": """g (float[N,4] x) => (float[N,5] y)
    <int64[1] zero = {0}, int64[1] heads = {4}, int64[1] size = {3}, int64[1] flat = {12}, float[4,12] w, float[12,5] v>
    { h = MatMul(x, w) s = Shape(h) n = Gather(s, zero) t = Concat<axis=0>(n, heads, size) a = Reshape(h, t)
      r = Tanh(a) b = Concat<axis=0>(n, flat) z = Reshape(r, b) y = MatMul(z, v) }""",
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("seed", range(4))
def test_hard_numbers_follow(case: str, seed: int) -> None:
    model = parse(HARD[case])
    analysis = analyse(model)
    assert analysis.units
    assert difference(model, mask(analysis, seed)) < 1e-5


def test_a_constant_with_two_readers_is_rewritten_for_each() -> None:
    model = parse("""g (float[N,4] x) => (float[N,5] y)
    <int64[3] to = {0,4,2}, int64[2] flat = {0,8}, float[4,8] w, float[8,8] v, float[8,5] u>
    { h = MatMul(x, w) a = Reshape(h, to) b = Relu(a) c = Reshape(b, flat) d = MatMul(c, v) e = Reshape(d, to)
      f = Relu(e) g = Reshape(f, flat) y = MatMul(g, u) }""")
    analysis = analyse(model)
    assert analysis.groups == 2
    removed = np.zeros(analysis.units, dtype=bool)
    removed[analysis.members(0)[:1]] = True
    removed[analysis.members(1)[:3]] = True
    assert difference(model, removed) < 1e-5
    names = {tensor.name for tensor in removal.remove(analysis, removed).proto.graph.initializer}
    assert "to" not in names, "what nothing reads any more goes"


def test_a_size_that_ends_in_a_sum_is_left_alone() -> None:
    model = parse("""g (float[N,3] x) => (float[N,3] y)
    { s = Constant<value = int64[2] {2, 3}>() b = ConstantOfShape(s) r = ReduceSum<keepdims=0>(b) y = Add(x, r) }""")
    assert analyse(model).units == 0


@pytest.mark.parametrize("node", ["Softmax<axis=5>(h)", "Transpose<perm=[0,7]>(h)", "Concat<axis=9>(h, h)"])
def test_an_axis_that_is_not_there_is_refused_with_a_reason(node: str) -> None:
    model = parse(f"g (float[N,4] x) => (float[N,8] y) <float[4,8] v, float[N,8] s> {{ h = MatMul(x, v) y = {node} }}")
    assert "malformed" in reasons(model)
    assert analyse(model).units == 0
