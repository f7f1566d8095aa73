"""How far outputs are from the dense ones: numpy's formula, from wherever models are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.budget import heldout
from onnxprune.budget.heldout import HeldOut
from onnxprune.data.inputs import Feed
from onnxprune.model.record import Array
from onnxprune.recovery.walk import Walk
from onnxprune.surgery.removal import zeroed
from tests.laws import analyse, parse
from tests.linears import batches, mask, normal, outputs

NET = """g (float[N,3,7,7] x) => (float[N,4] y, float[N,6,5,5] r, int64[N] c) <float[6,3,3,3] u, float[6] b,
    float[8,6,3,3] w, float[8,4] v> {
    h = Conv(x, u, b)  r = Relu(h)  k = Conv(r, w)  s = Tanh(k)  p = GlobalAveragePool(s)  f = Flatten(p)
    y = MatMul(f, v)  c = ArgMax <axis = 1, keepdims = 0> (y) }"""
SHAPES = {"x": (-1, 3, 7, 7)}


def changed(*names: str, seed: int = 0) -> dict[str, Array]:
    """New values for some weights."""
    graph = analyse(parse(NET)).graph
    made = {}
    for slot, name in enumerate(names):
        old = np.asarray(graph.constant(name))
        made[name] = old + 0.3 * normal(old.shape, seed=seed + slot)
    return made


def held_out(count: int = 3, rows: int = 4) -> HeldOut:
    return HeldOut(analyse(parse(NET)).graph, batches(SHAPES, count, rows))


def test_the_dense_model_has_no_loss() -> None:
    judge = held_out()
    assert judge.outputs == ["y", "r"]
    for place in (0, 2, 7):
        loss = judge.loss({}, place)
        assert loss.error == 0
        assert loss.agreement == 1


def test_the_loss_is_the_squared_error_by_the_variance() -> None:
    values = changed("w", "u")
    graph, feeds = analyse(parse(NET)).graph, batches(SHAPES, 3, 4)
    found = held_out().loss(values)
    errors, same = [], np.array(1.0)
    for was, now in zip(outputs(graph, feeds, ["y", "r"]), outputs(graph, feeds, ["y", "r"], values), strict=True):
        rows = was.reshape(-1, was.shape[-1])
        errors.append(np.square(was - now).sum() / np.square(rows - rows.mean(0)).sum())
        if was.ndim == 2:
            same = (was.argmax(-1) == now.argmax(-1)).mean()
    assert found.error == pytest.approx(np.mean(errors), rel=1e-6)
    assert found.agreement == same
    assert found.error > 0.01
    assert found.agreement < 1


@pytest.mark.parametrize(("names", "first"), [(["u", "w"], 0), (["w"], 2), (["w", "v"], 2), (["v"], 6)])
def test_a_later_start_gives_the_same_loss(names: list[str], first: int) -> None:
    """Outputs that were made before it are remembered."""
    values = changed(*names)
    wanted = held_out().loss(values)
    for place in range(first + 1):
        found = held_out().loss(values, place)
        assert found.error == pytest.approx(wanted.error, rel=1e-5)
        assert found.agreement == wanted.agreement


def test_losses_do_not_depend_on_what_was_asked_before() -> None:
    judge = held_out()
    asked = [(["u"], 0), (["w"], 2), (["v"], 6), (["w", "v"], 1), (["u"], 0), (["v"], 6)]
    for names, place in asked:
        assert judge.loss(changed(*names), place).error == pytest.approx(
            held_out().loss(changed(*names)).error, rel=1e-5
        )


def test_models_that_are_compared_share_what_they_are_told_to_start_from() -> None:
    judge, start = held_out(), changed("u")
    judge.start(start)
    both = {**start, **changed("v", seed=5)}
    assert judge.loss(both, 6).error == pytest.approx(held_out().loss(both).error, rel=1e-5)
    assert judge.loss(both, 0).error == pytest.approx(held_out().loss(both).error, rel=1e-5)
    assert judge.loss(start, 6).error == pytest.approx(held_out().loss(start).error, rel=1e-5)
    judge.start()
    assert judge.loss(both, 0).error == pytest.approx(held_out().loss(both).error, rel=1e-5)
    assert judge.loss({}, 6).error == 0


def test_removing_more_costs_more() -> None:
    analysis = analyse(parse(NET))
    judge = held_out()
    losses = [judge.loss(zeroed(analysis, mask(analysis, ("w", 0), range(count)))).error for count in (1, 4, 8)]
    assert losses == sorted(losses)
    assert losses[0] > 0


def test_a_model_that_fails_is_lost_entirely() -> None:
    judge = held_out()
    found = judge.loss({"v": np.zeros((9, 4), dtype=np.float32)})
    assert (found.error, found.agreement) == (np.inf, 0.0)
    assert judge.loss({}).error == 0


def test_outputs_that_are_not_finite_are_lost_entirely() -> None:
    found = held_out().loss({"v": np.full((8, 4), np.nan, dtype=np.float32)})
    assert found.error == np.inf


def test_no_more_batches_are_used_than_their_outputs_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    per_batch = 4 * (4 + 6 * 5 * 5)
    monkeypatch.setattr(heldout, "MOST_ELEMENTS", 2 * per_batch)
    judge = held_out(5)
    assert len(judge.feeds) == len(judge.dense) == 2
    assert judge.loss(changed("v")).error == pytest.approx(held_out(2).loss(changed("v")).error)
    monkeypatch.setattr(heldout, "MOST_ELEMENTS", 1)
    assert len(held_out(5).feeds) == 1


SINGLE = "g (float[N,3] x) => (float[N,1] y) <float[3,1] u, float[1] b> { h = MatMul(x, u)  y = Add(h, b) }"


def test_single_numbers_agree_always() -> None:
    analysis = analyse(parse(SINGLE))
    feeds = batches({"x": (-1, 3)}, 2, 5)
    found = HeldOut(analysis.graph, feeds).loss({"b": np.full(1, 99, dtype=np.float32)})
    assert found.agreement == 1
    (y,) = outputs(analysis.graph, feeds, ["y"])
    moved = 99 - float(np.asarray(analysis.graph.constant("b"))[0])
    assert found.error == pytest.approx(10 * moved**2 / np.square(y - y.mean()).sum(), rel=1e-4)


@pytest.mark.parametrize("dense", [0.0, 2.0])
def test_outputs_that_never_change_are_measured_by_their_size(dense: float) -> None:
    analysis = analyse(parse(SINGLE))
    constant = {"u": np.zeros((3, 1), dtype=np.float32), "b": np.full(1, dense, dtype=np.float32)}
    model = parse(SINGLE)
    for tensor in model.graph.initializer:
        tensor.raw_data = constant[tensor.name].tobytes()
    judge = HeldOut(analyse(model).graph, batches({"x": (-1, 3)}, 2, 5))
    found = judge.loss({"b": np.full(1, dense + 1, dtype=np.float32)})
    assert found.error == pytest.approx(10 / (10 * dense**2) if dense else 10)
    assert analysis.units == 0


def test_outputs_of_several_widths_are_measured_as_numbers() -> None:
    model = parse("g (float[1,N] x) => (float[1,N] y) <float[1] b> { y = Add(x, b) }")
    feeds: list[Feed] = [{"x": normal((1, size), seed=size)} for size in (3, 5)]
    judge = HeldOut(analyse(model).graph, feeds)
    numbers = np.concatenate([values["y"][0] for values in Walk(judge.graph, feeds).map(["y"], lambda _, v: dict(v))])
    old = np.asarray(judge.graph.constant("b"))
    found = judge.loss({"b": old + 2})
    assert found.error == pytest.approx(8 * 4 / np.square(numbers - numbers.mean()).sum(), rel=1e-5)


def test_without_outputs_of_floats_nothing_is_lost() -> None:
    model = parse("""g (float[N,3] x) => (int64[N,1] y) <float[3,4] u> {
        h = MatMul(x, u)  y = ArgMax <axis = 1> (h) }""")
    judge = HeldOut(analyse(model).graph, batches({"x": (-1, 3)}))
    assert judge.outputs == []
    assert (judge.loss({}).error, judge.loss({}).agreement) == (0.0, 1.0)


def test_rows_of_scores_are_a_classifier() -> None:
    assert held_out().is_classifier
    assert not HeldOut(analyse(parse(SINGLE)).graph, batches({"x": (-1, 3)})).is_classifier
