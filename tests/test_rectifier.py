"""Behind a rectifier, what lies beyond its bound need not be met: which chains are seen, and what a round aims at."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.algebra.graph import Graph
from onnxprune.model.record import Array
from onnxprune.recovery import sequence
from onnxprune.recovery.methods import recovered
from onnxprune.recovery.moments import Matrix
from onnxprune.recovery.rectifier import Rectifier, rectifier
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal
from tests.laws import analyse, parse
from tests.linears import batches, found, mask, outputs, prepared

HEAD = """g (float[N,3,5,5] x) => (float[N,4,4,4] y) <float[4,3,2,2] w, float[4] b, float[4] s, float[4] t, float[4] m,
    float[4] var, float[4,1,1] k, float[1,4,1,1] l, float[1] o, float[4,4,4] q, float low = {-0.25}, float high = {0.5}>
    { z = Conv(x, w, b) """
CHAINS = {
    "nothing between": (17, "y = Relu(z)", 0.0, np.inf),
    "a normalisation": (17, "n = BatchNormalization <epsilon = 0.5> (z, s, t, m, var) y = Relu(n)", 0.0, np.inf),
    "a scale and a shift": (17, "n = Mul(k, z) p = Add(n, l) y = Relu(p)", 0.0, np.inf),
    "one number for all channels": (17, "n = Mul(z, o) p = Add(o, n) y = Relu(p)", 0.0, np.inf),
    "what does nothing": (17, "n = Identity(z) p = Dropout(n) y = Relu(p)", 0.0, np.inf),
    "all of them": (
        17,
        "n = BatchNormalization(z, s, t, m, var) i = Identity(n) p = Mul(i, k) r = Add(p, l) y = Relu(r)",
        0.0,
        np.inf,
    ),
    "both bounds": (17, "n = Mul(z, k) y = Clip(n, low, high)", -0.25, 0.5),
    "the lower bound": (17, "y = Clip(z, low)", -0.25, np.inf),
    "the upper bound": (17, "y = Clip(z, , high)", -np.inf, 0.5),
    "no bound": (17, "y = Clip(z)", -np.inf, np.inf),
    "bounds as attributes": (8, "n = Add(z, l) y = Clip <min = -0.25, max = 0.5> (n)", -0.25, 0.5),
    "one bound as an attribute": (8, "y = Clip <max = 0.5> (z)", -np.inf, 0.5),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_up_to_a_bound_is_what_the_network_computes(name: str) -> None:
    opset, chain, low, high = CHAINS[name]
    model = parse(f"{HEAD}{chain} }}", opset=opset)
    (linear,) = found(model)
    graph = analyse(model).graph
    cut = rectifier(graph, linear)
    assert cut is not None
    assert cut.low == pytest.approx(low)
    assert cut.high == pytest.approx(high)
    z, y = outputs(graph, batches({"x": (-1, 3, 5, 5)}, 2), ["z", "y"])
    np.testing.assert_allclose(cut.forward(_rows(z)), _rows(y), rtol=1e-4, atol=1e-5)
    assert name == "no bound" or (cut.forward(_rows(z)) != cut.factor * _rows(z) + cut.shift).any()


def _rows(array: Array) -> Matrix:
    return np.asarray(np.moveaxis(array, 1, -1).reshape(-1, 1, 4))


@pytest.mark.parametrize(
    "chain",
    [
        "y = Sigmoid(z)",
        "y = LeakyRelu(z)",
        "n = Sigmoid(z) y = Relu(n)",
        "n = Add(z, z) y = Relu(n)",
        "n = Mul(z, q) y = Relu(n)",
        "c = ReduceMax(x) y = Clip(z, low, c)",
        "r = Relu(z) p = Tanh(z) y = Add(r, p)",
        "n = Sub(z, k) y = Relu(n)",
        "y = Identity(z)",
    ],
)
def test_anything_else_is_no_rectifier(chain: str) -> None:
    model = parse(f"{HEAD}{chain} }}")
    (linear,) = found(model)
    assert rectifier(analyse(model).graph, linear) is None


def test_what_the_user_sees_must_be_met() -> None:
    """The layer's own output is an output of the model, too."""
    text = "g (float[N,5] x) => (float[N,4] z, float[N,4] y) <float[5,4] w> { z = MatMul(x, w)  y = Relu(z) }"
    model = parse(text)
    (linear,) = found(model)
    assert rectifier(analyse(model).graph, linear) is None
    alone = parse(text.replace("float[N,4] z, ", ""))
    (linear,) = found(alone)
    assert rectifier(analyse(alone).graph, linear) is not None


def test_groups_keep_their_own_factors() -> None:
    model = parse("""g (float[N,4,5,5] x) => (float[N,6,4,4] y) <float[6,2,2,2] w, float[6,1,1] k> {
        z = Conv <group = 2> (x, w)  n = Mul(z, k)  y = Relu(n) }""")
    (linear,) = found(model)
    graph = analyse(model).graph
    cut = rectifier(graph, linear)
    assert cut is not None
    np.testing.assert_allclose(cut.factor, np.asarray(graph.constant("k")).reshape(2, 3))
    some = cut.of(np.array([False, True]))
    np.testing.assert_array_equal(some.factor, cut.factor[1:])
    np.testing.assert_array_equal(some.shift, cut.shift[1:])
    assert (some.low, some.high) == (cut.low, cut.high)


@pytest.mark.parametrize(
    ("wanted", "now", "aim"),
    [
        (1.0, -9.0, 1.0),  # 2·1 - 1 = 1 lies between the bounds: it is met, wherever it is now
        (0.0, -2.0, -2.0),  # -1 is cut off, and so is -5: all is well
        (0.0, 2.0, 0.5),  # -1 is cut off, 3 is not: the bound will do, (0 + 1) / 2
        (4.0, 9.0, 9.0),  # 7 is cut off, and so is 17
        (4.0, 1.0, 3.5),  # 7 is cut off, 1 is not: (6 + 1) / 2
        (0.5, 2.0, 0.5),  # 0 is the bound itself
    ],
)
def test_a_target_beyond_a_bound_is_anything_beyond_it(wanted: float, now: float, aim: float) -> None:
    cut = Rectifier(np.array([[2.0]]), np.array([[-1.0]]), 0.0, 6.0)
    assert cut.targets(np.array([[[wanted]]]), np.array([[[now]]])) == pytest.approx(aim)


def test_a_negative_factor_turns_the_bounds_around() -> None:
    cut = Rectifier(np.array([[-2.0]]), np.array([[-1.0]]), 0.0, 6.0)
    assert cut.targets(np.array([[[0.0]]]), np.array([[[5.0]]])) == pytest.approx(5.0)
    assert cut.targets(np.array([[[0.0]]]), np.array([[[-2.0]]])) == pytest.approx(-0.5)


NET = """g (float[N,6] x) => (float[N,5] y) <float[6,8] u, float[8] c, float[8,5] w, float[5] b> {
    q = Gemm(x, u, c)  h = Tanh(q)  z = Gemm(h, w, b)  y = Relu(z) }"""


def squared(plain: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, bytes]]:
    """The error behind the rectifier on other data, and the values, after three units have gone."""
    if plain:
        monkeypatch.setattr(sequence, "rectifier", lambda graph, linear: None)
    analysis = prepared(parse(NET, seed=3))
    removed = mask(analysis, ("u", 1), [0, 3, 6])
    values, (step,) = recovered(analysis, removed, batches({"x": (-1, 6)}, 5, 200), "refit")
    assert step.ridge is not None
    return _error(analysis.graph, values), {name: value.tobytes() for name, value in values.items()}


def _error(graph: Graph, values: Values) -> float:
    other = batches({"x": (-1, 6)}, 2, 500, seed=7)
    (dense,), (made,) = (outputs(graph, other, ["y"], given) for given in (None, values))
    return float(np.square(dense - made).sum())


def test_behind_a_rectifier_the_rounds_do_better_than_the_plain_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, values = squared(False, monkeypatch)
    plain, others = squared(True, monkeypatch)
    assert rounds < 0.97 * plain
    assert values != others


def test_a_round_that_does_worse_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rectifier, "targets", lambda self, y, now: y + 100)
    _, values = squared(False, monkeypatch)
    _, others = squared(True, monkeypatch)
    assert values == others


def test_means_alone_are_met_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round changes a fit of nothing but biases."""
    analysis = prepared(parse(NET))
    removed = mask(analysis, ("u", 1), [0, 3])
    monkeypatch.setattr(Rectifier, "targets", lambda self, y, now: pytest.fail("a round was made"))
    values, (step,) = recovered(analysis, removed, batches({"x": (-1, 6)}, 5), "mean")
    assert step.ridge == np.inf
    np.testing.assert_array_equal(values["w"], removal.zeroed(analysis, removed)["w"])
