"""A study: what goes is chosen by held-out data, a loss is kept within bounds, harm is taken back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.graph import Graph
from onnxprune.budget import study as module
from onnxprune.budget.allocation import Budget
from onnxprune.budget.study import COMPARED, Study, carried
from onnxprune.data.inputs import Feed
from onnxprune.errors import PruneError, UsageError
from onnxprune.model.record import Array, Record
from onnxprune.recovery.statistics import Statistics
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal
from tests.laws import parse
from tests.linears import batches, outputs, replaced
from tests.studied import INPUT, QUIET, redundant

SHAPES = {"x": (1, INPUT)}
DEEP = f"""g (float[N,{INPUT}] x) => (float[N,4] y) <float[{INPUT},12] u, float[12] c, float[12,10] v, float[10] d,
    float[10,4] w> {{ q = Gemm(x, u, c)  h = Relu(q)  r = Gemm(h, v, d)  k = Relu(r)  y = MatMul(k, w) }}"""
EVEN, HALF = Budget(ratio=1 / 3), Budget(macs=0.5)
ALIKE = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
TWINS = """g (float[11,2] x) => (float[11,1] y) <float[2,2] u, float[2,1] w, float[1] b> {
    h = MatMul(x, u)  y = Gemm(h, w, b) }"""


def studied(model: onnx.ModelProto, feeds: Sequence[Feed] | None = None, **more: Any) -> Study:
    made = batches(SHAPES | {"x": (-1, INPUT)}, 10, 20) if feeds is None else feeds
    return Study(Model(Record(model)), made, more.pop("shapes", SHAPES), **more)


def gone(study: Study, removed: NDArray[np.bool_]) -> list[int]:
    """The hidden units that go."""
    units = dict(study.analysis.slices())[("u", 1)]
    return np.flatnonzero(removed[units]).tolist()


def macs(study: Study, removed: NDArray[np.bool_]) -> float:
    return study.cost(removed).macs / study.cost.dense.macs


def twins() -> Study:
    """Two channels that are equal in the batches that are fitted, and opposite in the one that is held out."""
    model = parse(TWINS)
    replaced(model, "u", lambda array: array.__setitem__(..., np.eye(2)))
    replaced(model, "w", lambda array: array.fill(1))
    same, opposite = np.hstack([ALIKE, ALIKE]), np.hstack([ALIKE, -ALIKE])
    return studied(model, [*[{"x": same}] * 4, {"x": opposite * 3}], shapes={})


def test_every_fifth_batch_is_held_out() -> None:
    feeds = batches({"x": (-1, INPUT)}, 11, 4)
    study = studied(redundant(), feeds)
    assert [feed["x"].tobytes() for feed in study.held_out.feeds] == [feeds[n]["x"].tobytes() for n in (4, 9)]
    assert [feed["x"].tobytes() for feed in study.seen] == [f["x"].tobytes() for n, f in enumerate(feeds) if n % 5 < 4]


def test_of_a_few_batches_all_are_held_out_and_all_are_seen() -> None:
    study = studied(redundant(), batches({"x": (-1, INPUT)}, 4, 4))
    assert len(study.seen) == len(study.held_out.feeds) == 4


def test_what_repeats_goes_first_and_is_made_up_for() -> None:
    study = studied(redundant())
    best = study.best("obs", EVEN, "auto")
    assert len(gone(study, best.removed)) == 4
    assert {unit % 4 for unit in gone(study, best.removed)} == {0, 1, 2, 3}
    assert not set(gone(study, best.removed)) & set(QUIET)
    assert best.loss.error < 1e-6
    loud = study.best("l1", EVEN, "auto")
    assert set(gone(study, loud.removed)) == set(QUIET)
    assert loud.loss.error > 0.01


@pytest.mark.parametrize(
    ("schedule", "names"),
    [
        ("scores", ["scores"]),
        ("one-shot", ["uniform", "curves", "flattened curves"]),
        ("iterative", ["uniform", "curves", "flattened curves", "stages"]),
        ("auto", ["uniform", "curves", "flattened curves", "stages"]),
    ],
)
def test_the_best_of_a_schedules_candidates_is_kept(schedule: str, names: list[str]) -> None:
    study = studied(parse(DEEP))
    found = list(study.candidates("obs", HALF, schedule))
    assert [candidate.name for candidate in found] == names
    assert all(macs(study, candidate.removed) <= 0.5 for candidate in found)
    best = study.best("obs", HALF, schedule)
    assert best.loss.error == min(candidate.loss.error for candidate in found)
    if len(names) > 1:
        assert len({candidate.loss.error for candidate in found}) > 1


def test_a_ratio_leaves_nothing_to_allocate() -> None:
    study = studied(parse(DEEP))
    for schedule in ("auto", "iterative", "one-shot"):
        assert [candidate.name for candidate in study.candidates("obs", EVEN, schedule)] == ["scores"]


def test_where_stages_would_take_too_long_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAGED_WORK", 0)
    study = studied(parse(DEEP))
    assert "stages" not in [candidate.name for candidate in study.candidates("obs", HALF, "auto")]
    assert "stages" in [candidate.name for candidate in study.candidates("obs", HALF, "iterative")]


def test_a_loss_is_judged_on_held_out_data_alone() -> None:
    study = studied(parse(DEEP))
    best = study.best("obs", EVEN, "auto")
    feeds = study.held_out.feeds
    (dense,) = outputs(study.analysis.graph, feeds, ["y"])
    (made,) = outputs(study.analysis.graph, feeds, ["y"], best.values)
    wanted = np.square(dense - made).sum() / np.square(dense - dense.mean(0)).sum()
    assert best.loss.error == pytest.approx(wanted, rel=1e-4)
    assert wanted > 1e-3


def test_the_criterion_that_does_best_on_held_out_data_is_chosen() -> None:
    study = studied(redundant())
    budget = Budget(macs=0.68)
    losses = {name: study.best(name, budget, "one-shot").loss.error for name in COMPARED}
    chosen = study.best("auto", budget, "one-shot")
    assert chosen.criterion in COMPARED
    assert chosen.criterion != "l2"
    assert losses["l2"] > 0.01 > losses[chosen.criterion]
    assert len(study.notes) == len(set(study.notes)) == 1


ALLOWED = (0.0, 0.01, 0.05, 0.2, 1.0)


@pytest.mark.parametrize("by", ["agreement", "error", "metric"])
@pytest.mark.parametrize("net", ["redundant", "deep"])
def test_as_much_goes_as_a_loss_allows_and_never_less_where_more_is_allowed(by: str, net: str) -> None:
    study = studied(redundant() if net == "redundant" else parse(DEEP))
    if by == "error":
        study.held_out.__class__ = type("Regression", (type(study.held_out),), {"is_classifier": False})
    if by == "metric":
        study.measure = lambda values: float(np.sqrt(study.held_out.loss(values).error))
    kept = []
    for allowed in ALLOWED:
        found = study.best("obs", Budget(max_drop=allowed), "auto")
        assert study.drop(found) <= allowed
        kept.append(macs(study, found.removed))
    assert all(more <= less for less, more in itertools.pairwise(kept)), kept
    assert len(set(kept)) >= 3, kept
    assert kept[-1] < 0.5


def test_a_drop_is_the_users_metric_or_agreement_or_squared_error() -> None:
    study = studied(parse(DEEP))
    best = study.best("obs", EVEN, "auto")
    assert best.loss.agreement < 1
    assert study.drop(best) == 1 - best.loss.agreement
    study.held_out.__class__ = type("Regression", (type(study.held_out),), {"is_classifier": False})
    assert study.drop(best) == best.loss.error
    seen: list[Values] = []

    def measure(values: Values) -> float:
        seen.append(values)
        return 0.125

    study.measure = measure
    assert study.drop(best) == 0.125
    assert seen == [best.values]


def test_a_loss_of_outputs_that_are_no_floats_cannot_be_bounded() -> None:
    text = DEEP.replace("float[N,4] y", "int64[N] y").replace("y = MatMul", "m = MatMul")
    model = parse(text.replace("(k, w) }", "(k, w)  y = ArgMax <axis = 1, keepdims = 0> (m) }"))
    study = studied(model)
    with pytest.raises(UsageError, match="no output of floats"):
        study.best("obs", Budget(max_drop=0.05), "auto")
    study.measure = lambda values: 0.0
    assert macs(study, study.best("obs", Budget(max_drop=0.05), "auto").removed) < 0.2


def test_a_budget_out_of_reach_is_said() -> None:
    for schedule in ("scores", "one-shot", "iterative"):
        with pytest.raises(PruneError, match=r"cannot be brought to 0\.01"):
            studied(parse(DEEP)).best("obs", Budget(macs=0.01), schedule)


def test_recovery_that_harms_held_out_data_is_seen_to() -> None:
    study = twins()
    best = study.best("obs", Budget(ratio=0.5), "auto")
    assert [step.ridge is not None for step in best.steps] == [True]
    assert best.loss.error > study.held_out.loss(removal.zeroed(study.analysis, best.removed)).error
    assert not study.helps(best)


def test_recovery_that_does_good_is_kept() -> None:
    study = studied(redundant())
    best = study.best("obs", EVEN, "auto")
    assert study.held_out.loss(removal.zeroed(study.analysis, best.removed)).error > 0.01
    assert study.helps(best)


@pytest.mark.parametrize("method", ["none", "mean", "refit"])
def test_the_method_that_was_asked_for_is_used(method: str) -> None:
    study = studied(redundant(), recover=method)
    best = study.best("obs", Budget(ratio=0.5), "auto")
    unchanged = {
        n for n, v in removal.zeroed(study.analysis, best.removed).items() if np.array_equal(best.values[n], v)
    }
    assert {"none": {"u", "c", "w"}, "mean": {"u", "c", "w"}, "refit": {"u", "c"}}[method] == unchanged
    assert ("b" in best.values) == (method != "none")


def test_made_up_data_are_believed_less() -> None:
    study = studied(redundant(), blind=True)
    ridges = [step.ridge for step in study.best("obs", EVEN, "auto").steps]
    assert ridges
    assert all(ridge is None or ridge >= module.LEAST_BLIND for ridge in ridges)
    assert studied(redundant()).best("obs", EVEN, "auto").steps[0].ridge == 1e-7


def test_the_final_fit_uses_all_batches() -> None:
    study = studied(redundant())
    best = study.best("obs", Budget(ratio=0.5), "auto")
    record, (step,) = study.finished(best.removed)
    held = Graph(record)
    values, _ = study.refit(best.removed, study.feeds)
    np.testing.assert_array_equal(held.constant("w"), values["w"])
    assert not np.array_equal(values["w"], best.values["w"])
    assert step.ridge is not None


@pytest.mark.parametrize("net", ["no biases", "products"])
def test_a_bias_is_added_only_where_it_moves(net: str) -> None:
    study = studied(redundant(net))
    before = len(study.model.record.whole().graph.node)
    record, _ = study.finished(study.best("obs", Budget(ratio=0.5), "auto").removed)
    proto = record.whole().graph
    assert len(proto.node) == before + (net == "products")
    assert [t.name for t in proto.initializer if t.name not in ("u", "c", "w")] == ["y.bias"]
    kept, _ = study.finished(study.none)
    assert len(kept.whole().graph.node) == before
    assert len(kept.whole().graph.initializer) == 3


def test_units_are_found_again_in_another_version() -> None:
    model = redundant("products")
    study = studied(model)
    source = study.model.analysis
    removed = study.none
    units = dict(study.analysis.slices())[("u", 1)]
    removed[units[[1, 5]]] = True
    there = carried(removed, study.analysis, source)
    assert np.flatnonzero(there[dict(source.slices())[("u", 1)]]).tolist() == [1, 5]
    np.testing.assert_array_equal(carried(there, source, study.analysis), removed)


def test_labels_go_with_the_batches_that_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[Array]] = []

    class Spy(Statistics):
        def __init__(self, analysis: Analysis, feeds: Sequence[Feed], seed: int, values: Any, labels: Any) -> None:
            given.append(list(labels))
            super().__init__(analysis, feeds, seed, values, labels)

    monkeypatch.setattr(module, "Statistics", Spy)
    study = studied(redundant())
    study.labels = [np.full(20, number) for number in range(10)]
    study.statistics()
    assert [int(own[0]) for own in given[0]] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_progress_is_told() -> None:
    told: list[str] = []
    studied(redundant(), progress=told.append).best("obs", HALF, "iterative")
    assert {"statistics", "loss curves", "refitting (uniform)", "refitting (stages)"} <= set(told)
    assert any(stage.startswith("stage 2 of ") for stage in told)
