"""Gradients at gates against central differences in double precision, and the criteria that ask for them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.algebra.analysis import Analysis
from onnxprune.autodiff.gradients import Gates
from onnxprune.budget.ranking import rank
from onnxprune.criteria import CRITERIA, Scores, Slice, Subject
from onnxprune.data import sampling
from onnxprune.errors import UsageError
from onnxprune.model.record import Array
from onnxprune.recovery.statistics import Statistics
from tests.gated import Net, batches, cross_entropy, differences, plain
from tests.laws import analyse, parse
from tests.material import MLP
from tests.terminal import done_json

MODELS = Path(__file__).parents[1] / "models"


NETS = {
    "mlp": Net(
        """(float[N,5] x) => (float[N,4] y) <float[5,6] u, float[6] b, float[6,3] v, float[3,4] w> {
        h = Gemm(x, u, b)  r = Tanh(h)  k = MatMul([r], v)  s = Sigmoid(k)  y = MatMul([s], w) }""",
        {"r": ((1, 6), 1), "s": ((1, 3), 1)},
        (5,),
    ),
    "convolutions, batch norm, pools": Net(
        """(float[N,2,9,8] x) => (float[N,3] y)
        <float[5,2,3,3] u, float[5] scale, float[5] b, float[5] m, float[5] var, float[4,5,3,3] v, float[4] c,
        float[4,3] w> {
        h = Conv(x, u)  n = BatchNormalization(h, scale, b, m, var)  r = Relu(n)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (r)
        k = Conv <pads = [0, 0, 1, 1], strides = [2, 1]> ([p], v, c)  s = Tanh(k)
        q = AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_LOWER"> (s)  g = GlobalAveragePool(q)
        f = Flatten(g)  y = MatMul([f], w) }""",
        {"p": ((1, 5, 1, 1), 1), "f": ((1, 4), 1)},
        (2, 9, 8),
    ),
    "depthwise and a residual stream": Net(
        """(float[N,3,6,6] x) => (float[N,4] y)
        <float[4,3,1,1] u, float[4,1,3,3] d, float[4] c, float[5,4,1,1] v, float[4,5,1,1] k, float[4,4] w> {
        h = Conv(x, u)  e = Conv <group = 4, auto_pad = "SAME_UPPER"> (h, d, c)  t = Add(h, e)
        a = HardSwish(t)  j = Conv([a], v)  i = Sigmoid(j)  l = Conv([i], k)  s = Add(t, l)
        p = ReduceMean <axes = [2, 3], keepdims = 0> (s)  y = Gemm([p], w) }""",
        {"a": ((1, 4, 1, 1), 1), "i": ((1, 5, 1, 1), 1), "p": ((1, 4), 1)},
        (3, 6, 6),
    ),
    "attention": Net(
        """(float[N,4,6] x) => (float[N,3] y)
        <float[6,5] k, float[6,5] q, float[6,4] v, float[4,6] o, float[6] scale, float[6] b, float[6,8] u, float[8,6] d,
        float[6,3] w> {
        keys = MatMul(x, k)  queries = MatMul(x, q)  values = MatMul(x, v)  turned = Transpose <perm = [0, 2, 1]> (keys)
        scores = MatMul([queries], turned)  a = Softmax <axis = -1> (scores)  c = MatMul(a, values)
        p = MatMul([c], o)  t = Add(x, p)  n = LayerNormalization(t, scale, b)
        h = MatMul(n, u)  g = Tanh(h)  m = MatMul([g], d)  e = Add(t, m)
        z = ReduceMean <axes = [1], keepdims = 0> (e)  y = MatMul(z, w) }""",
        {"queries": ((1, 1, 5), 2), "c": ((1, 1, 4), 2), "g": ((1, 1, 8), 2)},
        (4, 6),
    ),
}


def found(gates: Gates, analysis: Analysis) -> Scores:
    """Of all groups."""
    total = np.full((len(gates.samples), analysis.units), np.nan)
    for group in range(analysis.groups):
        total[:, analysis.members(group)] = gates.gates(group)
    return total


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_differences(name: str) -> None:
    net = NETS[name]
    analysis, feeds = analyse(plain(net)), batches(net)
    labels = np.array([0, 1, 2, 1, 0])
    gates = Gates(analysis, feeds, [labels[:3], labels[3:]])
    assert gates.labelled
    x = np.concatenate([feed["x"] for feed in feeds])
    expected = differences(net, analysis, x, partial(cross_entropy, labels))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found(gates, analysis), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_probabilities_are_taken_for_what_they_are() -> None:
    net = NETS["mlp"]
    last = net._replace(text=net.text.replace("y = MatMul([s], w)", "z = MatMul([s], w)  y = Softmax(z)"))
    feeds, labels = batches(net), [np.array([0, 1, 2]), np.array([3, 0])]
    scores, odds = (found(Gates(analyse(plain(one)), feeds, labels), analyse(plain(one))) for one in (net, last))
    np.testing.assert_allclose(odds, scores, rtol=1e-4, atol=1e-6)


def test_values_may_have_changed() -> None:
    net = NETS["mlp"]
    analysis, labels = analyse(plain(net)), [np.array([0, 1, 2]), np.array([3, 0])]
    values = {"w": np.zeros((3, 4), np.float32)}
    assert not found(Gates(analysis, batches(net), labels, values=values), analysis).any()


# ---- without labels --------------------------------------------------------------------------------------------------

# y = x W, two units in between: y_j = g_j x_j
TWO = "g (float[N,2] x) => (float[N,2] y) <float[2,2] u, float[2,2] w> { h = MatMul(x, u)  y = MatMul(h, w) }"
LOG3 = float(np.log(3))


def two() -> Analysis:
    model = parse(TWO)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.eye(2, dtype=np.float32), tensor.name))
    return analyse(model)


# odds (3/4, 1/4) and (1/4, 3/4), both of class 0: g = (-1/4, 0) log 3 and (0, 3/4) log 3
FEED: dict[str, Array] = {"x": np.array([[LOG3, 0], [0, LOG3]], np.float32)}
ZEROS = [np.array([0, 0])]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("taylor", [LOG3 / 8, LOG3 * 3 / 8]),
        ("gradient", [LOG3 / 8, LOG3 * 3 / 8]),
        ("fisher", [LOG3**2 / 64, LOG3**2 * 9 / 64]),
        ("mse-output", [1, 1]),  # ∂y/∂g: log²3 in one sample of two; the variance of y: log²3 / 2
    ],
)
def test_criteria_worked_by_hand(name: str, expected: list[float]) -> None:
    ranking = rank(two(), name, evidence=Statistics(two(), [FEED], labels=ZEROS))
    np.testing.assert_allclose(ranking.scores, expected, rtol=1e-5)
    assert not ranking.notes


def test_without_labels_classes_are_drawn_and_the_user_is_told() -> None:
    many: dict[str, Array] = {"x": np.repeat(FEED["x"][:1], 400, axis=0)}
    statistics = Statistics(two(), [many])
    fisher, taylor = (rank(two(), name, evidence=statistics) for name in ("fisher", "taylor"))
    # odds (3/4, 1/4): g_0 is -1/4 or 3/4 of log 3, E g_0² = (9/16 · 1/4 + 1/16 · 3/4) log²3, and E |g_0| = 3/8 log 3
    np.testing.assert_allclose(fisher.scores, [LOG3**2 * 3 / 32, 0], rtol=0.1)
    np.testing.assert_allclose(taylor.scores, [LOG3 * 3 / 8, 0], rtol=0.1)
    assert any("have no labels" in note for note in fisher.notes)
    assert any("mean of magnitudes" in note for note in taylor.notes)


def test_what_is_no_row_of_scores_is_projected_on_signs() -> None:
    text = "g (float[N,3,2] x) => (float[N,3,2] y) <float[2,4] u, float[4,2] w> { h = MatMul(x, u)  y = MatMul(h, w) }"
    analysis = analyse(parse(text))
    x = np.random.default_rng(0).standard_normal((300, 3, 2)).astype(np.float32)
    statistics = Statistics(analysis, [{"x": x}], labels=[np.zeros(300, np.int64)])
    u, w = (np.asarray(analysis.graph.constant(name)).astype(np.float64) for name in "uw")
    y = (x @ u @ w).reshape(-1, 2)
    energy = np.square(x @ u).sum(axis=1).mean(axis=0) * np.square(w).sum(axis=1)  # E ‖∂y/∂g‖²
    expected = energy / (np.square(y - y.mean(axis=0)).sum() / 300)
    ranking = rank(analysis, "mse-output", evidence=statistics)
    np.testing.assert_allclose(ranking.scores, expected, rtol=0.1)
    assert not ranking.notes
    blind = rank(analysis, "fisher", evidence=statistics)
    np.testing.assert_allclose(blind.scores, ranking.scores / 2)
    assert any("have no labels" in note for note in blind.notes)


def test_labels_that_are_no_classes_are_left_alone() -> None:
    assert not Gates(two(), [FEED], [np.array([0, 2])]).labelled
    assert not Gates(two(), [FEED], [np.array([-1, 0])]).labelled
    assert not Gates(two(), [FEED]).labelled


@pytest.mark.parametrize("name", ["taylor", "fisher", "gradient", "mse-output"])
def test_units_that_nothing_sums_over_are_scored_by_their_weights(name: str) -> None:
    weight = np.array([[3.0, 4], [1, 0]])
    piece = Slice("w", 0, np.arange(2), False, lambda: weight)
    none = partial(np.full, (5, 2), np.nan)
    subject = Subject(2, (piece,), np.random.default_rng(0), sense=none, project=none)
    assert CRITERIA[name].score(subject).tolist() == CRITERIA["group-norm"].score(subject).tolist()
    assert any("scored by group-norm" in note for note in subject.notes)


def test_two_runs_draw_the_same() -> None:
    first, second, other = (Gates(two(), [FEED], seed=seed).projections(0) for seed in (0, 0, 3))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


# ---- labels of the calibration data ----------------------------------------------------------------------------------


def test_labels_follow_their_rows() -> None:
    graph = analyse(parse("g " + MLP.strip().removeprefix("mlp"))).graph
    x = np.arange(40, dtype=np.float32)[:, None].repeat(8, axis=1)
    parts = sampling.split(graph, [{"x": x[:25]}, {"x": x[25:]}], {}, 10, 0, labelled=True)
    labels = sampling.classes(np.arange(40), parts.chosen, parts.calibration)
    assert [own.tolist() for own in labels] == [feed["x"][:, 0].astype(int).tolist() for feed in parts.calibration]
    assert not set(parts.chosen) & set(parts.rows)
    assert sampling.classes([1, 2], parts.chosen, parts.calibration) == []
    assert sampling.classes(np.ones((40, 2), int), parts.chosen, parts.calibration) == []


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(("criterion", "labelled"), [("taylor", True), ("taylor", False), ("mse-output", False)])
def test_prune_by_gradients(tmp_path: Path, criterion: str, labelled: bool) -> None:
    data = ("--data", MODELS / "data" / "test.npz", "--samples", "64")
    labels = ("--labels", MODELS / "data" / "test-labels.npy") if labelled else ()
    given = ("--criterion", criterion, "--ratio", "0.5", "--recover", "none", *data, *labels)
    report: dict[str, Any] = done_json("prune", MODELS / "mlp.onnx", "-o", tmp_path / "x.onnx", *given)
    assert report["verified"]
    assert ("no labels" in str(report)) == (criterion == "taylor" and not labelled)


# ---- refusals --------------------------------------------------------------------------------------------------------

HEAD = "(float[N,4,6,6] x) => (float[N,3] y) <float[5,4,1,1] u, float[3,5,1,1] v> { h = Conv(x, u)  k = Conv(h, v)"
TAIL = "f = ReduceMean <axes = [2, 3], keepdims = 0> (o)  y = Identity(f) }"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("o = AveragePool <kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1> (k)", "AveragePool with ceil_mode"),
        ("o = com.microsoft.QuickGelu <alpha = 1.0> (k)", "'com.microsoft', such as QuickGelu"),
        (
            "s = Constant <value = float {0.1}> ()  z = Constant <value = uint8 {128}> ()"
            "  q = QuantizeLinear(k, s, z)  o = DequantizeLinear(q, s, z)",
            "QuantizeLinear .* rounds",
        ),
    ],
)
def test_what_cannot_be_differentiated_is_named(node: str, words: str) -> None:
    analysis = analyse(parse(f"g {HEAD}  {node}  {TAIL}"))
    assert analysis.groups
    with pytest.raises(UsageError, match=f"No gradients of this model: .*{words}.* Choose a criterion"):
        Gates(analysis, [{"x": np.ones((2, 4, 6, 6), np.float32)}]).projections(0)


def test_the_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ad", None)
    with pytest.raises(UsageError, match=r"needs? the extra: pip install onnxprune\[grad\]"):
        rank(two(), "taylor", evidence=Statistics(two(), [FEED]))
    assert rank(two(), "l2", evidence=Statistics(two(), [FEED])).scores.any()
