"""Statistics that are repaired: those of normalisations, those of layers without one, and the means alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.model.edits import with_values
from onnxprune.recovery.methods import recovered
from onnxprune.recovery.recalibration import BOUNDS, FAINTEST, Recalibration, attuned
from onnxprune.recovery.sequence import Means, Step
from onnxprune.recovery.walk import Values
from tests.laws import difference, parse
from tests.linears import KINDS, alone, batches, declared, found, mask, outputs, prepared, weights

SHAPES = {"x": (-1, 5, 6, 6)}
NORMALISED = parse("""g (float[N,5,6,6] x) => (float[N,3,6,6] y) <float[6,5,3,3] u, float[4,6,1,1] w, float[3,4,1,1] v,
    float[6] scale1, float[6] b1, float[6] m1, float[6] var1, float[4] scale2, float[4] b2, float[4] m2,
    float[4] var2> {
    h = Conv <pads = [1, 1, 1, 1]> (x, u)  n = BatchNormalization(h, scale1, b1, m1, var1)  r = Relu(n)
    k = Conv(r, w)  o = BatchNormalization <epsilon = 0.001> (k, scale2, b2, m2, var2)  s = Relu(o)
    y = Conv(s, v) }""")
FOLDED = parse("""g (float[N,5,6,6] x) => (float[N,3,6,6] y) <float[6,5,3,3] u, float[6] c, float[4,6,3,3] w,
    float[4] b, float[3,4,1,1] v, float[3] e> {
    h = Conv <pads = [1, 1, 1, 1]> (x, u, c)  r = Relu(h)  k = Conv <pads = [1, 1, 1, 1]> (r, w, b)  s = Relu(k)
    y = Conv(s, v, e) }""")


def moments(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flat = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return flat.mean(0), flat.var(0)


def test_a_normalisation_gets_the_statistics_of_what_it_reads_by_now() -> None:
    """Each in turn: the second one's are those behind the first one's new ones."""
    analysis, feeds = prepared(NORMALISED), batches(SHAPES)
    removed = mask(analysis, ("u", 0), [1, 4])
    values, steps = recovered(analysis, removed, feeds, "bn", 0, lambda _: None)
    h, k = outputs(analysis.graph, feeds, ["h", "k"], values)
    mean, variance = moments(h)
    kept = [0, 2, 3, 5]
    np.testing.assert_allclose(values["m1"][kept], mean[kept], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values["var1"][kept], variance[kept], rtol=1e-4)
    assert not values["m1"][[1, 4]].any()
    mean, variance = moments(k)
    np.testing.assert_allclose(values["m2"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values["var2"], variance, rtol=1e-4)
    assert np.abs(np.asarray(analysis.graph.constant("var2")) / values["var2"] - 1).max() > 0.1
    assert [step.layer.split()[0] for step in steps] == ["BatchNormalization", "BatchNormalization", "Conv"]
    assert difference(with_values(analysis.graph, values).whole(), removed) <= 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_scaled_at_random_are_undone_by_a_normalisation(seed: int) -> None:
    """What is scaled and shifted before a normalisation is the same behind it once its statistics are taken anew."""
    analysis, feeds = prepared(NORMALISED), batches(SHAPES, seed=seed)
    start = Recalibration(analysis, np.zeros(analysis.units, dtype=bool), feeds)
    list(_each(start, 1))
    factor = np.random.default_rng(seed).uniform(0.3, 4, (6, 1, 1, 1)).astype(np.float32)
    before = outputs(analysis.graph, feeds, ["n"], start.values)[0]
    again = Recalibration(analysis, np.zeros(analysis.units, dtype=bool), feeds)
    again.put("u", np.asarray(analysis.graph.constant("u")) * factor)
    list(_each(again, 1))
    mean, variance = moments(outputs(analysis.graph, feeds, ["h"], again.values)[0])
    np.testing.assert_allclose(again.values["m1"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again.values["var1"], variance, rtol=1e-4)
    np.testing.assert_allclose(outputs(analysis.graph, feeds, ["n"], again.values)[0], before, atol=1e-3)


def _each(run: Recalibration, place: int) -> list[Step | None]:
    return [run.visit(run.pruned.ops[place], place, set())]


def test_a_normalisation_whose_statistics_are_computed_is_left_alone() -> None:
    model = parse("""g (float[N,5,6,6] x, float[6] m) => (float[N,6,6,6] y) <float[6,5,1,1] u, float[6] scale,
        float[6] b,        float[6] var> { h = Conv(x, u)  y = BatchNormalization(h, scale, b, m, var) }""")
    analysis = prepared(model)
    feeds = [{"m": np.zeros(6, dtype=np.float32), **feed} for feed in batches(SHAPES, 1)]
    run = Recalibration(analysis, np.zeros(analysis.units, dtype=bool), feeds)
    assert _each(run, 1) == [None]
    assert run.values == {}


def repaired(removed: list[int]) -> tuple[Values, NDArray[np.float64], NDArray[np.float64]]:
    analysis, feeds = prepared(FOLDED), batches(SHAPES)
    mask_ = mask(analysis, ("u", 0), removed)
    values, _ = recovered(analysis, mask_, feeds, "bn", 0, lambda _: None)
    (now,), (was,) = (outputs(analysis.graph, feeds, ["k"], given) for given in (values, None))
    assert difference(with_values(analysis.graph, values).whole(), mask_) <= 1e-5
    return values, now, was


def test_a_layer_without_a_normalisation_keeps_mean_and_deviation() -> None:
    values, now, was = repaired([1, 4])
    np.testing.assert_allclose(moments(now)[0], moments(was)[0], atol=1e-4)
    np.testing.assert_allclose(moments(now)[1], moments(was)[1], rtol=1e-4)
    analysis = prepared(FOLDED)
    plain = outputs(analysis.graph, batches(SHAPES), ["k"], {**values, "w": np.asarray(analysis.graph.constant("w"))})[
        0
    ]
    assert np.abs(moments(plain)[1] / moments(was)[1] - 1).max() > 0.02


def test_a_deviation_is_repaired_within_bounds() -> None:
    _, now, was = repaired([0, 1, 2, 3, 4])
    ratio = moments(now)[1] / moments(was)[1]
    np.testing.assert_allclose(moments(now)[0], moments(was)[0], atol=1e-4)
    assert (ratio <= 1 + 1e-3).all()
    values = repaired([0, 1, 2, 3, 4])[0]
    factor = values["w"][:, 5] / np.asarray(prepared(FOLDED).graph.constant("w"))[:, 5]
    assert factor.max() == pytest.approx(BOUNDS[1])


@pytest.mark.parametrize("name", [name for name in KINDS if "depthwise" not in name])
@pytest.mark.parametrize("method", ["mean", "bn"])
def test_every_output_of_any_layer_keeps_its_mean(name: str, method: str) -> None:
    kind = KINDS[name]
    others = [axis for axis in range(len(kind.h)) if axis != kind.axis]
    shape = [*(kind.h[axis] for axis in others), 7]
    perm = [(*others, kind.axis).index(axis) for axis in range(len(kind.h))]
    model = parse(f"""g ({declared("x", shape)}) => ({declared("z", kind.z)}) <float[7,6] u, float[6] c,
        {weights(kind)}> {{
        q = MatMul(x, u)  k = Add(q, c)  f = Relu(k)  h = Transpose <perm = {perm}> (f)  {kind.node} }}""")
    analysis, feeds = prepared(model), batches({"x": shape}, 5, 30)
    removed = mask(analysis, ("u", 1), [1, 4])
    values, steps = recovered(analysis, removed, feeds, method, 0, lambda _: None)
    axis = found(alone(kind))[0].y[1]
    now, was = (
        np.moveaxis(outputs(analysis.graph, feeds, ["z"], given)[0], axis, -1).reshape(-1, kind.z[axis])
        for given in (values, None)
    )
    np.testing.assert_allclose(now.mean(0), was.mean(0), atol=1e-4)
    if method == "mean":
        assert [step.ridge for step in steps] == [np.inf]
        kept = np.asarray(analysis.graph.constant("w"))[values["w"] != 0]
        np.testing.assert_array_equal(values["w"][values["w"] != 0], kept)


def test_means_are_the_dense_ones_layer_after_layer() -> None:
    analysis, feeds = prepared(FOLDED), batches(SHAPES)
    removed = mask(analysis, ("u", 0), [0, 3])
    run = Means(analysis, removed, feeds)
    steps = list(run.run())
    assert [step.ridge for step in steps] == [np.inf, np.inf]
    for name in ("k", "y"):
        now, was = (outputs(analysis.graph, feeds, [name], given)[0] for given in (run.values, None))
        np.testing.assert_allclose(moments(now)[0], moments(was)[0], atol=1e-4)


def test_attuned_normalisations_give_on_made_up_inputs_what_they_give_on_real_ones() -> None:
    """Behind each, one after the other, every channel has the mean and the deviation that its shift and scale say."""
    analysis, feeds = prepared(NORMALISED), batches(SHAPES)
    values = attuned(analysis.graph, feeds)
    assert set(values) == {"m1", "var1", "m2", "var2"}
    for name, scale, shift, variance, epsilon in (
        ("n", "scale1", "b1", "var1", 1e-5),
        ("o", "scale2", "b2", "var2", 1e-3),
    ):
        (found,) = outputs(analysis.graph, feeds, [name], values)
        mean, spread = moments(found)
        np.testing.assert_allclose(mean, np.asarray(analysis.graph.constant(shift)), atol=1e-4)
        squared = np.square(np.asarray(analysis.graph.constant(scale), dtype=np.float64))
        np.testing.assert_allclose(spread, squared * values[variance] / (values[variance] + epsilon), rtol=1e-3)


def test_what_hardly_varies_is_not_blown_up() -> None:
    analysis = prepared(NORMALISED)
    old = np.asarray(analysis.graph.constant("var1"))
    values = attuned(analysis.graph, [{"x": np.zeros((8, 5, 6, 6), np.float32)}])
    np.testing.assert_allclose(values["var1"], FAINTEST * old, rtol=1e-6)
