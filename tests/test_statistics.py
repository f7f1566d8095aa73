"""Moments of what layers read: those of numpy on all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.linear import Linear
from onnxprune.recovery import statistics
from onnxprune.recovery.moments import Layer, Matrix, Moments
from onnxprune.recovery.statistics import Statistics, sampled, units_on
from onnxprune.surgery.removal import zeroed
from tests.laws import analyse, parse
from tests.linears import KINDS, Kind, batches, declared, mask, outputs, weights

NET = """g (float[N,3,7,7] x) => (float[N,4] y) <float[6,3,3,3] u, float[6] c, float[8,3,3,3] w, float[5,8,1,1] k,
    float[5,4] v> {
    h = Conv(x, u, c)  r = Relu(h)  a = Conv <group = 2, pads = [1, 0, 0, 1]> (r, w)  b = Tanh(a)  d = Conv(b, k)
    p = GlobalAveragePool(d)  f = Flatten(p)  y = MatMul(f, v) }"""
READING = [name for name in KINDS if "depthwise" not in name]  # what it reads may not go while its outputs stay
SHAPES = {"x": (-1, 3, 7, 7)}


def reading(kind: Kind) -> tuple[str, list[int]]:
    """A model whose layer reads six channels, and the shape of its input."""
    others = [axis for axis in range(len(kind.h)) if axis != kind.axis]
    shape = [*(kind.h[axis] for axis in others), 7]
    perm = [(*others, kind.axis).index(axis) for axis in range(len(kind.h))]
    return (
        f"""g ({declared("x", shape)}) => ({declared("z", kind.z)}) <float[7,6] u, {weights(kind)}> {{
        q = MatMul(x, u)  h = Transpose <perm = {perm}> (q)  {kind.node} }}""",
        shape,
    )


def check_moments(layer: Layer, rows: Matrix) -> None:
    moments = layer.moments
    assert moments.rows == len(rows)
    np.testing.assert_allclose(moments.total, rows.sum(0), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(moments.products, rows.T @ rows, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(moments.positive, (rows > 0).sum(0))
    np.testing.assert_allclose(moments.magnitude, np.abs(rows).sum(0), rtol=1e-6)
    np.testing.assert_allclose(layer.mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(layer.covariance, np.cov(rows.T, bias=True).reshape(layer.covariance.shape), atol=1e-5)
    np.testing.assert_allclose(layer.spread, (rows @ layer.weight.T).var(0).sum(), rtol=1e-4)


@pytest.mark.parametrize("name", READING)
def test_moments_are_those_of_all_rows(name: str) -> None:
    text, shape = reading(KINDS[name])
    analysis, feeds = analyse(parse(text)), batches({"x": shape}, 3, 4)
    ((linear, pairs),) = Statistics(analysis, feeds).read
    (h,) = outputs(analysis.graph, feeds, ["h"])
    if KINDS[name].axis == 0:  # the rows are its last axis
        per_batch = [outputs(analysis.graph, [feed], ["h"])[0] for feed in feeds]
        h = np.concatenate(per_batch, axis=1)
    rows = linear.rows(h, None)
    weight = linear.matrix(np.asarray(analysis.graph.constant("w")).astype(np.float64))
    assert len(pairs) == linear.groups
    for group, (layer, units) in enumerate(pairs):
        check_moments(layer, rows[:, group])
        np.testing.assert_array_equal(layer.weight, weight[group])
        own = units_on(analysis, linear.x).reshape(linear.groups, -1)[group]
        np.testing.assert_array_equal(units, np.repeat(own, linear.taps))


@pytest.mark.parametrize("name", READING)
def test_wide_layers_are_taken_channel_by_channel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "WIDEST", 0)
    kind = KINDS[name]
    text, shape = reading(kind)
    analysis, feeds = analyse(parse(text)), batches({"x": shape}, 3, 4)
    ((linear, pairs),) = Statistics(analysis, feeds).read
    h = np.concatenate(
        [
            np.moveaxis(outputs(analysis.graph, [feed], ["h"])[0], kind.axis, -1).reshape(
                -1, linear.groups, 6 // linear.groups
            )
            for feed in feeds
        ]
    )
    weight = linear.matrix(np.asarray(analysis.graph.constant("w")).astype(np.float64))
    for group, (layer, units) in enumerate(pairs):
        check_moments(layer, h[:, group])
        assert len(units) == 6 // linear.groups
        by_tap = weight[group].reshape(weight.shape[1], -1, linear.taps)
        for output in range(len(by_tap)):
            for tap in range(linear.taps):
                np.testing.assert_array_equal(layer.weight[output * linear.taps + tap], by_tap[output, :, tap])


def test_the_widest_layers_go_channel_by_channel_until_the_rest_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, feeds = analyse(parse(NET)), batches(SHAPES, 2, 2)

    def columns() -> list[int]:
        return [len(units) for _, pairs in Statistics(analysis, feeds).read for _, units in pairs]

    assert columns() == [27, 27, 8, 5]
    monkeypatch.setattr(statistics, "MEMORY", 8 * 2 * 27**2)
    assert columns() == [3, 3, 8, 5]
    monkeypatch.setattr(statistics, "WIDEST", 26)
    assert columns() == [3, 3, 8, 5]


def test_values_that_changed_are_what_is_read() -> None:
    analysis, feeds = analyse(parse(NET)), batches(SHAPES, 3, 4)
    removed = mask(analysis, ("u", 0), [1, 4])
    values = zeroed(analysis, removed)
    gathered = Statistics(analysis, feeds, values=values)
    (r,) = outputs(analysis.graph, feeds, ["r"], values)
    linear, pairs = gathered.read[0]
    for group, (layer, _) in enumerate(pairs):
        check_moments(layer, linear.rows(r, None)[:, group])
        gone = np.repeat([False, True, False], 9)
        assert not layer.weight[:, gone].any()
        assert not layer.moments.magnitude[gone].any()
        assert layer.weight[:, ~gone].all()


def test_a_group_is_told_of_the_layers_that_read_it() -> None:
    analysis, feeds = analyse(parse(NET)), batches(SHAPES, 2, 2)
    gathered = Statistics(analysis, feeds)
    for axis, sizes in ((("u", 0), [27, 27]), (("w", 0), [8]), (("k", 0), [5])):
        units = analysis.unit_of[analysis.span(axis)]
        (group,) = set(analysis.group_of[units].tolist())
        members = analysis.members(group)
        parts = gathered.parts(group)
        assert [len(part.units) for part in parts] == sizes
        for part in parts:
            assert set(part.units.tolist()) == set(range(len(members)))


def test_the_first_reader_of_a_constant_is_known() -> None:
    places = Statistics(analyse(parse(NET)), batches(SHAPES, 1, 1)).places
    assert {name: places[name] for name in ("u", "c", "w", "k", "v")} == {"u": 0, "c": 0, "w": 2, "k": 4, "v": 7}


# ---- sampled rows --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    count=st.integers(1, 5000),
    columns=st.integers(1, 400),
    others=st.integers(0, 400),
    number=st.integers(1, 9),
    flops=st.sampled_from([1.0, 1e6, 1e8]),
    held=st.sampled_from([1, 1 << 15, 1 << 30]),
)
def test_as_many_rows_are_used_as_are_affordable(
    count: int, columns: int, others: int, number: int, flops: float, held: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "FLOPS", flops)
        patch.setattr(statistics, "HELD", held)
        pick, again = (sampled(count, columns, columns + others, number, (3, 1)) for _ in range(2))
    most = max(min(flops / (2 * columns * (columns + others)), held / (columns + others)), 4 * columns)
    if pick is None:
        assert count * number <= most * (1 + 1e-9)
        return
    assert again is not None
    np.testing.assert_array_equal(pick, again)
    assert most <= len(pick) * number + 1e-6
    assert (len(pick) - 1) * number < most
    assert (np.diff(pick) > 0).all()
    assert 0 <= pick[0] <= pick[-1] < count


def test_other_seeds_layers_and_batches_sample_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "FLOPS", 1.0)
    picks = [sampled(1000, 10, 10, 1, seed) for seed in ((0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert len({str(pick) for pick in picks}) == 4


@pytest.mark.parametrize("widest", [0, 2304])
def test_sampled_moments_are_those_of_the_sampled_rows(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "WIDEST", widest)
    monkeypatch.setattr(statistics, "FLOPS", 1.0)
    monkeypatch.setattr(statistics, "LEAST_ROWS", 1)
    text, shape = reading(KINDS["Conv, plain"])
    analysis, feeds = analyse(parse(text)), batches({"x": shape}, 3, 4)

    def gathered(seed: int) -> tuple[Linear, Layer]:
        ((linear, ((layer, _),)),) = Statistics(analysis, feeds, seed).read
        return linear, layer

    linear, layer = gathered(5)
    expected = []
    for number, feed in enumerate(feeds):
        (h,) = outputs(analysis.graph, [feed], ["h"])
        whole = linear.rows(h, None)[:, 0] if widest else np.moveaxis(h, 1, -1).reshape(-1, 6)
        pick = sampled(len(whole), whole.shape[1], whole.shape[1], 3, (5, linear.op.index, number))
        assert pick is not None
        expected.append(whole[pick])
    check_moments(layer, np.concatenate(expected))
    np.testing.assert_array_equal(gathered(5)[1].moments.products, layer.moments.products)
    assert np.abs(gathered(6)[1].moments.products - layer.moments.products).max() > 1e-3


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(1, 19), seed=st.integers(0, 9))
def test_moments_of_disjoint_rows_add_up(cut: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((20, 4))
    whole, parts = Moments.of(x), Moments.of(x[:cut]) + Moments.of(x[cut:])
    for name in ("rows", "total", "products", "positive", "magnitude"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)


@pytest.mark.parametrize("cpus", [1, 2])
def test_moments_do_not_depend_on_the_number_of_threads(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, feeds = analyse(parse(NET)), batches(SHAPES, 5, 3)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    first = Statistics(analysis, feeds).read
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    for (_, a), (_, b) in zip(first, Statistics(analysis, feeds).read, strict=True):
        for (one, _), (other, _) in zip(a, b, strict=True):
            assert one.moments.products.tobytes() == other.moments.products.tobytes()
