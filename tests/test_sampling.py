"""Which rows calibrate and which evaluate: never the same, always drawn alike, each with its own label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.graph import Graph
from onnxprune.data import inputs, sampling
from onnxprune.data.inputs import Feed
from onnxprune.data.sampling import Split, batch_rows, is_open, refuse_overlap, rows_of, split
from onnxprune.errors import UsageError
from tests.laws import analyse, parse

OPEN = analyse(parse("g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }")).graph
FIXED = analyse(parse("g (float[4,2] x) => (float[4,2] y) { y = Neg(x) }")).graph
PAIR = analyse(parse("g (float[N,2] x, float[N,T] z) => (float[N,2] y) { y = Neg(x) }")).graph
APART = analyse(parse("g (float[N,2] x, float[M,2] z) => (float[N,2] y) { y = Neg(x) }")).graph


def data(*sizes: int, start: int = 0) -> list[Feed]:
    """Feeds of so many rows; each row holds its number."""
    feeds: list[Feed] = []
    for size in sizes:
        feeds.append({"x": np.repeat(np.arange(start, start + size, dtype=np.float32)[:, None], 2, axis=1)})
        start += size
    return feeds


def numbers(feeds: list[Feed]) -> list[int]:
    return [int(row[0]) for feed in feeds for row in feed["x"]]


def drawn(graph: Graph, feeds: list[Feed], samples: int, seed: int = 0, *, labelled: bool = False) -> Split:
    return split(graph, feeds, {}, samples, seed, labelled=labelled)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    samples=st.integers(1, 120),
    seed=st.integers(0, 5),
    labelled=st.booleans(),
)
def test_every_row_calibrates_or_evaluates_and_labels_follow(
    sizes: list[int], samples: int, seed: int, labelled: bool
) -> None:
    feeds, rows = data(*sizes), sum(sizes)
    found = drawn(OPEN, feeds, samples, seed, labelled=labelled)
    calibrating, evaluating = numbers(found.calibration), numbers(found.evaluation)
    assert evaluating == found.rows.tolist()
    assert calibrating == found.chosen.tolist()
    assert len(calibrating) == min(samples, max(1, rows // 2) if labelled else rows)
    assert calibrating == sorted(set(calibrating))
    assert max(feed["x"].shape[0] for feed in found.calibration) <= sampling.ROWS
    if found.seen:
        assert calibrating == evaluating == list(range(rows))
    else:
        assert sorted(calibrating + evaluating) == list(range(rows))
        assert max(feed["x"].shape[0] for feed in found.evaluation) <= inputs.BATCH


def test_the_seed_draws_the_rows() -> None:
    found = [numbers(drawn(OPEN, data(100), 20, seed).calibration) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_the_draw_does_not_depend_on_how_rows_are_batched() -> None:
    assert numbers(drawn(OPEN, data(100), 20).calibration) == numbers(drawn(OPEN, data(7, 50, 43), 20).calibration)


def test_rows_are_drawn_from_all_data() -> None:
    found = numbers(drawn(OPEN, data(1000), 200).calibration)
    assert 400 < np.mean(found) < 600
    assert max(found) - min(found) > 900


def test_labelled_rows_are_kept_for_evaluation() -> None:
    assert len(numbers(drawn(OPEN, data(100), 256, labelled=True).evaluation)) == 50
    assert len(numbers(drawn(OPEN, data(100), 90).evaluation)) == 10


def test_where_all_rows_calibrate_they_are_what_there_is_to_evaluate() -> None:
    found = drawn(OPEN, data(30), 256)
    assert found.seen
    assert numbers(found.evaluation) == numbers(found.calibration) == list(range(30))
    assert not drawn(OPEN, data(30), 29).seen


@pytest.mark.parametrize("labelled", [False, True])
def test_a_model_of_a_fixed_batch_keeps_its_feeds_whole(labelled: bool) -> None:
    feeds = data(*[4] * 6)
    found = drawn(FIXED, feeds, 2, labelled=labelled)
    assert [feed["x"].shape for feed in (*found.calibration, *found.evaluation)] == [(4, 2)] * 6
    assert numbers(found.evaluation) == found.rows.tolist()
    assert numbers(found.calibration) == found.chosen.tolist()
    assert sorted(numbers(found.calibration) + numbers(found.evaluation)) == list(range(24))
    every = drawn(FIXED, feeds, 99)
    assert every.seen
    assert numbers(every.evaluation) == every.rows.tolist() == list(range(24))


def test_rows_of_another_shape_are_batched_apart() -> None:
    feeds: list[Feed] = [
        {"x": np.zeros((3, 2), dtype=np.float32), "z": np.zeros((3, width), dtype=np.float32)} for width in (5, 7)
    ]
    found = drawn(PAIR, feeds, 99)
    assert [feed["z"].shape for feed in found.calibration] == [(3, 5), (3, 7)]
    assert [feed["x"].shape for feed in found.calibration] == [(3, 2), (3, 2)]
    assert len(rows_of(PAIR, feeds)) == 6


def test_a_batch_is_open_where_every_input_has_the_same_one() -> None:
    assert is_open(OPEN)
    assert is_open(PAIR)
    assert not is_open(FIXED)
    assert not is_open(APART)
    scalar = analyse(parse("g (float[N,2] x, float s) => (float[N,2] y) { y = Mul(x, s) }")).graph
    assert not is_open(scalar)


def test_batches_shrink_with_what_a_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = analyse(parse("""g (float[N,3,S,S] x) => (float[N,8,S,S] y) <float[8,3,1,1] w> { y = Conv(x, w) }""")).graph
    shapes: dict[str, tuple[int, ...]] = {"x": (1, 3, 10, 10)}
    assert batch_rows(graph, shapes) == sampling.ROWS
    monkeypatch.setattr(sampling, "ACTIVATIONS", 5 * 4 * (3 + 8) * 100)
    assert batch_rows(graph, shapes) == 5
    monkeypatch.setattr(sampling, "ACTIVATIONS", 1)
    assert batch_rows(graph, shapes) == 1
    assert split(graph, [{"x": np.zeros((4, 3, 10, 10), dtype=np.float32)}], shapes, 99, 0, labelled=False).calibration[
        3
    ]["x"].shape == (1, 3, 10, 10)


def test_a_row_that_calibrates_may_not_evaluate() -> None:
    refuse_overlap(data(10), data(10, start=10))
    with pytest.raises(UsageError, match=r"2 rows.*--allow-overlap"):
        refuse_overlap(data(3, 7), data(5, start=8))


def test_rows_are_compared_input_by_input() -> None:
    def feeds(x: int, z: int) -> list[Feed]:
        return [{"x": np.full((1, 2), x, dtype=np.float32), "z": np.full((1, 3), z, dtype=np.float32)}]

    refuse_overlap(feeds(1, 2), feeds(1, 3))
    with pytest.raises(UsageError, match="1 rows"):
        refuse_overlap(feeds(1, 2), feeds(1, 2))


def test_feeds_whose_inputs_have_no_rows_in_common_are_compared_whole() -> None:
    def feeds(s: float) -> list[Feed]:
        return [{"x": np.ones((3, 2), dtype=np.float32), "s": np.array(s, dtype=np.float32)}]

    refuse_overlap(feeds(1), feeds(2))
    with pytest.raises(UsageError):
        refuse_overlap(feeds(1), feeds(1))


def test_rows_of_text_are_compared_too() -> None:
    def feeds(*words: str) -> list[Feed]:
        return [{"x": np.array([[word] for word in words], dtype=object)}]

    refuse_overlap(feeds("a", "b"), feeds("c"))
    with pytest.raises(UsageError):
        refuse_overlap(feeds("a", "b"), feeds("b"))


def test_without_data_nothing_calibrates() -> None:
    found = drawn(OPEN, [], 99)
    assert found.calibration == found.evaluation == []
    assert found.rows.size == found.chosen.size == 0


@pytest.mark.parametrize(("graph", "sizes"), [(OPEN, (50, 30)), (FIXED, (4,) * 20)])
def test_classes_go_with_the_rows_that_calibrate(graph: Graph, sizes: tuple[int, ...]) -> None:
    found = drawn(graph, data(*sizes), 7, labelled=True)
    labels = np.arange(80) * 3
    given_ = sampling.classes(labels, found.chosen, found.calibration)
    assert [(3 * feed["x"][:, 0]).tolist() for feed in found.calibration] == [part.tolist() for part in given_]


@pytest.mark.parametrize("labels", [None, [1, 2], np.zeros(80), np.zeros((80, 2), dtype=np.int64)])
def test_labels_that_are_no_classes_are_left_out(labels: object) -> None:
    found = drawn(OPEN, data(80), 7)
    assert sampling.classes(labels, found.chosen, found.calibration) == []
