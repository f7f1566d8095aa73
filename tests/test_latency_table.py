"""Predicted latency: laws of the fit on times that are made up, and the whole on a small model; asserts no seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import Feed, synthesise
from onnxprune.errors import ProviderError, PruneError
from onnxprune.latency import apart, cache, table, variants
from onnxprune.latency.fit import Times, fit
from onnxprune.latency.profile import Node, nodes
from onnxprune.latency.segments import Blocks, Segments
from onnxprune.latency.table import LatencyModel
from onnxprune.model.record import Record
from tests.laws import parse

NET = """
net (float[1, 4, 16, 16] x) => (float[1, 10] y)
<float[96, 4, 3, 3] w1, float[128, 96, 3, 3] w2, float[64, 128, 1, 1] w3, float[10, 64] w4>
{
  a = Conv<pads=[1,1,1,1]>(x, w1) ar = Relu(a)
  b = Conv<pads=[1,1,1,1]>(ar, w2) br = Relu(b)
  c = Conv(br, w3) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB=1>(f, w4)
}
"""
FIXED = "fixed (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return Analysis(Graph(Record(parse(NET))))


@pytest.fixture(scope="module")
def segments(analysis: Analysis) -> Segments:
    return Segments(analysis, analysis.graph)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def feed(analysis: Analysis) -> Feed:
    return synthesise(analysis.graph, {}, 0)


def some(analysis: Analysis, seed: int, step: int = 16) -> Mask:
    """A random mask whose widths are multiples of a step."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(analysis.units, dtype=bool)
    for group in range(analysis.groups):
        members = analysis.members(group)
        removed[members[step * int(rng.integers(1, len(members) // step + 1)) :]] = True
    return removed


def made_up(segments: Segments, widths: np.ndarray, blocks: Blocks, odd: float = 1.0) -> Times:
    """Times that follow the law exactly: so much per multiply-accumulate and element in blocks, odd widths dearer."""
    prices = np.array([1e-3, 1e-8, 2e-7, 3e-7])
    times: Times = (segments.features(widths, blocks) * prices).sum(axis=1)
    is_odd = np.array([bool(len(axes)) and bool((widths[axes] % 2).any()) for axes in segments.axes])
    return np.where(is_odd, odd * times, times)


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """No clock, no process: every variant takes what the law says; how many were asked for."""
    asked: list[int] = []

    def measure(self: LatencyModel, masks: Sequence[Mask], feed: Feed, progress: table.Progress) -> Iterator[Times]:
        for mask in masks:
            asked.append(int(mask.sum()))
            yield made_up(self._segments, self.analysis.widths(mask), Blocks(16, 4), odd=1.5)

    monkeypatch.setattr(LatencyModel, "_measure", measure)
    return asked


# ---- segments and variants ---------------------------------------------------------------------------------------


def test_every_operator_follows_the_one_that_multiplies_before_it(segments: Segments) -> None:
    kinds = [op.kind for op in segments.graph.ops]
    leaders = [kinds[leader] for leader in segments.anchor]
    assert leaders == ["Conv", "Conv", "Conv", "Conv", "Conv", "Conv", "Conv", "Gemm"]
    assert segments.anchor == [0, 0, 2, 2, 4, 4, 4, 7]


def test_features_are_macs_and_elements_counted_in_blocks(analysis: Analysis, segments: Segments) -> None:
    full = analysis.widths(np.zeros(analysis.units, dtype=bool))
    first = segments.features(full, Blocks(1, 1))[segments.leaders.index(0)]
    assert first.tolist() == [1, 96 * 4 * 9 * 256, (4 + 96) * 256, (96 + 96) * 256]
    removed = np.zeros(analysis.units, dtype=bool)
    removed[[analysis.members(group)[0] for group in range(analysis.groups)]] = True
    second = segments.leaders.index(2)
    assert segments.features(analysis.widths(removed), Blocks(1, 1))[second, 1] == 127 * 95 * 9 * 256
    assert segments.features(analysis.widths(removed), Blocks(16, 4))[second, 1] == 128 * 96 * 9 * 256


def test_times_of_fused_and_inserted_nodes_go_to_the_right_segment(segments: Segments) -> None:
    found = segments.times(
        [
            Node("fused @1@", 1.0),  # the first Relu
            Node("ReorderOutput_token_3", 2.0),
            Node("br_nchwc", 4.0),  # the layout's node, named after the second Relu's output
            Node("@2@/Pad/", 8.0),
            Node("br_nchwc_token_9", 16.0),
            Node("nobody_nchwc", 32.0),
            Node("@7@", 64.0),
        ]
    )
    assert dict(zip(segments.leaders, found.tolist(), strict=True)) == {-1: 0, 0: 3, 2: 60, 4: 0, 7: 64}


def test_variants_try_every_level_of_every_group_and_odd_widths(analysis: Analysis) -> None:
    masks = variants.masks(analysis, 0)
    kept = np.array([[(~mask[analysis.members(g)]).sum() for g in range(analysis.groups)] for mask in masks])
    sizes = np.array([len(analysis.members(g)) for g in range(analysis.groups)])
    assert (kept[0] == sizes).all()
    assert (kept >= 1).all()
    aligned = kept[1 : 1 + variants.LEVELS]
    assert not (aligned % 16).any()
    assert all(len(set(column.tolist())) >= 3 for column in aligned.T)
    for step, row in zip(variants.MISALIGNED, kept[2 + variants.LEVELS :], strict=False):
        assert (row % (2 * step) == step).all()
    assert all((a == b).all() for a, b in zip(masks, variants.masks(analysis, 0), strict=True))


def test_the_profile_counts_quiet_runs_and_adds_up_what_repeats() -> None:
    def kernel(name: str, taken: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": taken}

    def run(*taken: int) -> list[dict[str, object]]:
        return [*(kernel("a", each) for each in taken), kernel("b", 7), {"name": "model_run", "dur": 1}]

    events = [{"name": "session_initialization", "dur": 9}, *run(5000, 1), *run(10, 20), *run(900, 1), *run(11, 21)]
    assert nodes(events, warmup=1) == [Node("a", (30 + 32) / 2 / 1e3), Node("b", 0.007)]


# ---- the fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [Blocks(1, 1), Blocks(16, 4), Blocks(16, 16)])
def test_a_law_that_the_times_follow_is_found(analysis: Analysis, segments: Segments, blocks: Blocks) -> None:
    widths = [analysis.widths(mask) for mask in variants.masks(analysis, 0)]
    found = fit(segments, widths, [made_up(segments, each, blocks) for each in widths])
    for seed in range(20):
        each = analysis.widths(some(analysis, seed, step=8))
        assert found(segments, each).sum() == pytest.approx(made_up(segments, each, blocks).sum(), rel=0.01)


def test_what_odd_widths_cost_is_found(analysis: Analysis, segments: Segments) -> None:
    widths = [analysis.widths(mask) for mask in variants.masks(analysis, 0)]
    found = fit(segments, widths, [made_up(segments, each, Blocks(1, 1), odd=3.0) for each in widths])
    removed = np.zeros(analysis.units, dtype=bool)
    removed[[analysis.members(group)[0] for group in range(analysis.groups)]] = True
    even, odd = analysis.widths(np.zeros(analysis.units, dtype=bool)), analysis.widths(removed)
    assert found(segments, odd).sum() / found(segments, even).sum() == pytest.approx(3.0, rel=0.05)


# ---- the whole ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_predictions_follow_the_law(analysis: Analysis, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LatencyModel,
            "_measure",
            lambda self, masks, *rest: [made_up(self._segments, analysis.widths(m), Blocks(16, 4)) for m in masks],
        )
        model = LatencyModel(analysis, feed(analysis), cached=False)
    removed = some(analysis, seed)
    truth = made_up(model._segments, analysis.widths(removed), Blocks(16, 4)).sum()
    assert model(removed) == pytest.approx(truth, rel=0.01)


@pytest.mark.usefixtures("invented")
def test_nothing_removed_takes_what_was_measured(analysis: Analysis) -> None:
    model = LatencyModel(analysis, feed(analysis))
    assert model(np.zeros(analysis.units, dtype=bool)) == pytest.approx(model.dense, rel=1e-9)
    parts = model.where()
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.time for part in parts) == pytest.approx(model.dense)
    assert [part.time for part in parts] == sorted((part.time for part in parts), reverse=True)
    assert parts[0].operator.startswith("Conv")


@pytest.mark.parametrize(("blocks", "odd", "step"), [((16, 16), 1, 16), ((8, 8), 1, 8), ((1, 1), 2, 2), ((1, 1), 1, 1)])
def test_steps_are_the_widths_that_are_fast_here(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int], odd: float, step: int
) -> None:
    def measure(self: LatencyModel, masks: Sequence[Mask], *rest: object) -> list[Times]:
        return [made_up(self._segments, analysis.widths(mask), Blocks(*blocks), odd=odd) for mask in masks]

    monkeypatch.setattr(LatencyModel, "_measure", measure)
    model = LatencyModel(analysis, feed(analysis), cached=False)
    for group in range(analysis.groups):
        assert model.steps(group) == list(range(step, len(analysis.members(group)) + 1, step))


def test_what_was_measured_is_kept_and_what_is_broken_measured_again(
    analysis: Analysis, invented: list[int], elsewhere: Path
) -> None:
    first = LatencyModel(analysis, feed(analysis))
    count = len(invented)
    removed = some(analysis, 3)
    assert LatencyModel(analysis, feed(analysis))(removed) == first(removed)
    assert len(invented) == count
    (kept,) = elsewhere.iterdir()
    good = json.loads(kept.read_text())
    for broken in (
        "",
        "[",
        "{}",
        "[[1]]",
        json.dumps([[float("nan")] * 5] * len(good)),
        json.dumps(good[1:]),
        "[" * 9999,
    ):
        kept.write_text(broken)
        assert LatencyModel(analysis, feed(analysis))(removed) == first(removed)
        assert len(invented) == (count := count + len(good))
        assert json.loads(kept.read_text()) == good


def test_other_threads_shapes_and_no_cache_measure_anew(analysis: Analysis, invented: list[int]) -> None:
    LatencyModel(analysis, feed(analysis))
    count = len(invented)
    LatencyModel(analysis, feed(analysis), threads=1)
    LatencyModel(analysis, feed(analysis), cached=False)
    assert len(invented) == 3 * count


def test_a_cache_that_cannot_be_written_is_no_error(analysis: Analysis, invented: list[int], elsewhere: Path) -> None:
    elsewhere.write_text("a file where the folder would be")
    LatencyModel(analysis, feed(analysis))
    assert invented


@pytest.mark.parametrize(
    ("system", "environment", "end"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/onnxprune"),
        ("linux", {}, "/home/u/.cache/onnxprune"),
        ("darwin", {}, "/home/u/Library/Caches/onnxprune"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/onnxprune/Cache"),
    ],
)
def test_every_platform_has_its_place_for_caches(
    monkeypatch: pytest.MonkeyPatch, system: str, environment: dict[str, str], end: str
) -> None:
    for name in ("ONNXPRUNE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert cache.folder().as_posix() == end


def test_variants_that_do_not_run_are_left_out_but_not_the_model_itself(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every third variant broken the rest does; with all broken there is an error."""
    calls = iter(range(1000))
    broken_from = 3

    def call(function: object, paths: Sequence[Path], *rest: object) -> list[list[Node]]:
        number = next(calls)
        if len(paths) > 1 or number % 3 >= broken_from:
            raise PruneError("broken")
        return [[Node("@0@", 1.0), Node("@2@", 2.0)]]

    monkeypatch.setattr(apart, "call", call)
    assert LatencyModel(analysis, feed(analysis), cached=False).dense == 3.0
    broken_from = 2
    assert LatencyModel(analysis, feed(analysis), cached=False).dense == 3.0
    broken_from = 0
    with pytest.raises(PruneError, match="broken"):
        LatencyModel(analysis, feed(analysis), cached=False)


def test_a_missing_provider_is_an_error(analysis: Analysis) -> None:
    with pytest.raises(ProviderError):
        LatencyModel(analysis, feed(analysis), "warp")


def test_a_model_without_units_has_a_latency() -> None:
    analysis = Analysis(Graph(Record(parse(FIXED))))
    model = LatencyModel(analysis, feed(analysis), threads=1)
    assert model.dense > 0
    assert model(np.zeros(0, dtype=bool)) == pytest.approx(model.dense)
    assert model.where()[0].operator == "before the first layer"


def test_a_real_measurement_ranks_widths(analysis: Analysis) -> None:
    stages: list[str] = []
    model = LatencyModel(analysis, feed(analysis), threads=1, progress=stages.append)
    assert stages
    small = np.zeros(analysis.units, dtype=bool)
    for group in range(analysis.groups):
        small[analysis.members(group)[16:]] = True
    assert 0 < model(small) < 0.7 * model.dense
    assert model.where()[0].operator.startswith("Conv")
