"""Metrics: each against numbers worked out by hand and against its definition; names, labels, and running a model."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from scipy.stats import spearmanr

from onnxprune.algebra import registry
from onnxprune.data import runtime
from onnxprune.errors import FileError, PruneError, UsageError
from onnxprune.metrics import catalogue, detection, scoring
from onnxprune.metrics.catalogue import METRICS, Metric, collect, find, loss, measure, read_labels, score

Array = NDArray[Any]

SCORES = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
NAN = np.array([[np.nan, 0, 0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])


def of(name: str, output: Any, labels: Any) -> float:
    """A metric of one output."""
    return score(METRICS[name], [output], labels)


def tables(rows: int = 12) -> st.SearchStrategy[tuple[Array, Array]]:
    """Scores with ties, and binary labels of both kinds."""
    numbers = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=rows)
    both = numbers.filter(lambda pairs: 0 < sum(label for _, label in pairs) < len(pairs))
    return both.map(lambda pairs: (np.array([float(x) for x, _ in pairs]), np.array([int(y) for _, y in pairs])))


# ---- classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "right"), [([1, 0, 2], 1), ([1, 0, 0], 2 / 3), ([0, 1, 1], 0)])
def test_accuracy_is_the_fraction_of_right_answers(labels: list[int], right: float) -> None:
    assert of("accuracy", SCORES, np.array(labels)) == pytest.approx(right)


def test_accuracy_takes_an_answer_per_token_and_rows_that_differ_in_length() -> None:
    assert of("accuracy", SCORES.reshape(1, 3, 3), np.array([[1, 0, 0]])) == pytest.approx(2 / 3)
    assert of("accuracy", [SCORES[:2], SCORES[2:]], np.array([1, 0, 2])) == 1


def test_whole_numbers_are_the_classes_themselves_but_bytes_are_scores() -> None:
    assert of("accuracy", np.array([1, 0, 5]), np.array([1, 0, 4])) == pytest.approx(2 / 3)
    assert of("accuracy", (SCORES * 100).astype(np.uint8), np.array([1, 0, 2])) == 1


@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_a_single_number_answers_yes_above_a_half_if_a_probability_and_above_zero_if_not(name: str) -> None:
    labels = np.array([0, 1, 1])
    assert of(name, np.array([0.4, 0.6, 0.9]), labels) == 1
    assert of(name, np.array([[-0.4], [0.4], [3.0]]), labels) == 1


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1"])
def test_an_answer_that_is_nan_is_wrong(name: str) -> None:
    labels = np.array([0, 0, 2])
    expected = {"accuracy": 2 / 3, "top5": 2 / 3, "f1": (2 / 3 + 1) / 2}
    assert of(name, NAN, labels) == pytest.approx(expected[name])


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "auc"])
@pytest.mark.parametrize("labels", [[3, 0, 0], [-1, 0, 0]])
def test_a_label_that_is_no_class_is_refused(name: str, labels: list[int]) -> None:
    with pytest.raises(UsageError, match="3 classes"):
        of(name, SCORES, np.array(labels))


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "auc"])
@pytest.mark.parametrize(
    "output", [SCORES[:2], SCORES[:1], SCORES[:, :0], np.array(["a", "b", "c"], dtype=object), np.array(["a", "b"])]
)
def test_an_output_that_gives_no_answer_per_row_is_refused(name: str, output: Any) -> None:
    with pytest.raises(PruneError, match=r"gives \d answers for 3 labels"):
        of(name, output, np.array([0, 0, 0]))


def test_top5_by_hand() -> None:
    table = np.array([[6.0, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]])
    assert of("top5", table, np.array([4, 4, 1])) == 1
    assert of("top5", table, np.array([5, 5, 0])) == 0


def test_f1_by_hand() -> None:
    two = np.array([[0.0, 1], [0, 1], [1, 0], [1, 0]])
    assert of("f1", two, np.array([1, 0, 1, 0])) == pytest.approx(0.5)  # 1 found of 2, of which 1 is right
    assert of("f1", two, np.array([1, 1, 1, 0])) == pytest.approx(0.8)
    assert of("f1", two[:2], np.array([0, 0])) == 0
    # class 0: 1 right of 1 answered and 2 labelled; 1: 1 of 1 and 1; 2: none of 1 and 0
    assert of("f1", SCORES, np.array([1, 0, 0])) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_f1_of_classes_given_as_numbers() -> None:
    assert of("f1", np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])) == pytest.approx(0.5)
    assert of("f1", np.array([2, 0, 0]), np.array([2, 0, 1])) == pytest.approx((1 + 2 / 3 + 0) / 3)


@given(tables())
def test_auc_is_the_fraction_of_pairs_in_order(table: tuple[Array, Array]) -> None:
    scores, labels = table
    pairs = [np.sign(p - n) / 2 + 0.5 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert of("auc", scores, labels) == pytest.approx(np.mean(pairs))
    assert of("auc", np.stack([-scores, scores], 1), labels) == pytest.approx(np.mean(pairs))


def test_auc_of_many_classes_is_the_mean_of_each_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((40, 4)), rng.integers(0, 3, 40)
    chances = softmax(logits, axis=1)
    each = [scoring.auc([chances[:, c]], (labels == c).astype(int)) for c in range(3)]
    assert of("auc", logits, labels) == pytest.approx(np.mean(each))
    assert of("auc", chances, labels) == pytest.approx(np.mean(each))


def test_auc_takes_the_scores_of_a_model_that_gives_classes_first() -> None:
    outputs = [np.array([1, 1, 1]), np.array([[0.4, 0.6], [0.1, 0.9], [0.3, 0.7]], np.float32)]
    assert score(METRICS["auc"], outputs, np.array([0, 1, 0])) == 1


def test_auc_of_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="every label is 1"):
        of("auc", np.zeros(3), np.array([1, 1, 1]))


# ---- against the dense model -------------------------------------------------------------------------------------


def test_agreement_is_the_fraction_of_equal_answers() -> None:
    other = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
    assert of("agreement", other, [SCORES]) == pytest.approx(2 / 3)
    assert of("agreement", NAN, [NAN]) == pytest.approx(2 / 3)
    assert of("agreement", np.array([3, 1]), [np.array([3, 2])]) == 0.5


def test_what_a_single_number_means_is_the_dense_models() -> None:
    dense = np.array([[-2.0], [2.0]])
    assert of("agreement", np.array([[-0.1], [0.2]]), [dense]) == 1
    assert of("agreement", np.array([[0.1], [0.2]]), [dense[[1, 1]] * 2]) == 1
    assert of("kl", dense, [dense]) == 0
    chances = np.array([[0.25]])
    assert of("kl", np.array([[0.5]]), [chances]) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))


@pytest.mark.parametrize("name", ["agreement", "kl"])
def test_a_dense_model_of_other_outputs_is_refused(name: str) -> None:
    with pytest.raises(PruneError, match="dense model's"):
        of(name, SCORES[:2], [SCORES])


@pytest.mark.parametrize("seed", range(3))
def test_kl_is_the_mean_relative_entropy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense, pruned = rng.standard_normal((2, 10, 5)) * 4
    p, q = softmax(dense, axis=1), softmax(pruned, axis=1)
    expected = rel_entr(p, q).sum(axis=1).mean()
    assert of("kl", pruned, [dense]) == pytest.approx(expected)
    assert of("kl", q, [p]) == pytest.approx(expected)


def test_kl_of_a_certain_mistake_is_finite() -> None:
    sure = np.array([[1.0, 0.0]])
    assert of("kl", sure[:, ::-1], [sure]) == pytest.approx(-np.log(1e-12), rel=1e-6)
    assert of("kl", sure, [sure]) == pytest.approx(0)


# ---- numbers and images ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    found, wanted = np.array(pairs, float).T
    if np.ptp(wanted) and np.ptp(found):
        expected = spearmanr(found, wanted).statistic
        assert of("spearman", found, wanted) == pytest.approx(expected)
        assert of("spearman", found[:, None].astype(np.float32), wanted) == pytest.approx(expected)
    elif np.ptp(wanted):
        assert of("spearman", found, wanted) == 0


def test_spearman_of_vectors_ranks_the_cosines_of_pairs() -> None:
    vectors = np.array([[1, 0], [5, 0], [1, 0], [0, 1], [1, 0], [2, 2], [0, 0], [1, 1]], np.float32)  # 1, 0, .7, 0
    assert of("spearman", vectors[:6], np.array([5.0, 1.0, 2.0])) == pytest.approx(1)
    assert of("spearman", vectors[:6], np.array([1.0, 5.0, 2.0])) == pytest.approx(-1)
    assert of("spearman", vectors, np.array([3, 1, 2, 1])) == pytest.approx(1)


def test_spearman_passes_over_what_has_no_vector_per_row() -> None:
    tokens, numbers = np.zeros((3, 4, 2)), np.array([[1.0], [2.0], [3.0]])
    assert score(METRICS["spearman"], [tokens, [tokens[0]], numbers], np.array([1, 2, 3])) == pytest.approx(1)
    with pytest.raises(PruneError, match="No output is one number"):
        of("spearman", tokens, np.array([1, 2, 3]))


@pytest.mark.parametrize(
    ("output", "labels", "error", "says"),
    [
        (np.zeros(3), [1, 2], PruneError, "3 numbers for 2 labels"),
        (np.zeros((3, 2)), [1, 2], PruneError, "two per label"),
        (np.zeros(2), [1, 1], UsageError, "labels that differ; all are 1"),
        (np.array([1, np.nan]), [1, 2], PruneError, "no finite number"),
    ],
)
def test_what_spearman_cannot_rank(output: Array, labels: list[int], error: type[PruneError], says: str) -> None:
    with pytest.raises(error, match=says):
        of("spearman", output, np.array(labels))


def test_psnr_by_hand() -> None:
    wanted = np.array([[[0.0, 1.0]], [[0.0, 0.5]]])
    off = wanted + np.array([0.1, 0.01])[:, None, None]
    assert of("psnr", off, wanted) == pytest.approx((20 + 40) / 2)
    assert scoring.psnr([off * 255], wanted * 255, peak=255) == pytest.approx(30)
    assert scoring.psnr([off], wanted, peak=10) == pytest.approx(50)
    assert of("psnr", wanted, wanted) == scoring.FAITHFUL
    assert of("psnr", [off[0], off[1, :, :1]], [wanted[0], wanted[1, :, :1]]) == pytest.approx(30)


def test_psnr_wants_images_like_the_targets() -> None:
    with pytest.raises(PruneError, match=r"2 arrays, the first of shape \[3\]; the targets are 2 arrays, the first"):
        of("psnr", np.zeros((2, 3)), np.ones((2, 4)))
    with pytest.raises(UsageError, match="not all of one value"):
        of("psnr", np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(PruneError, match="no finite number"):
        of("psnr", np.array([np.inf, 0]), np.array([0.0, 1.0]))


# ---- text --------------------------------------------------------------------------------------------------------


def steps(*classes: int) -> Array:
    """A CTC output that says these classes."""
    return np.eye(6, dtype=np.float32)[list(classes)]


@cache
def edits(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Levenshtein's distance, as it is defined."""
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


@pytest.mark.parametrize(
    ("said", "read"), [((0, 1, 1, 0, 1, 2, 0), [1, 1, 2]), ((0, 0), []), ((), []), ((3,), [3]), ((3, 3, 3), [3])]
)
def test_greedy_decoding_merges_repeats_and_drops_blanks(said: tuple[int, ...], read: list[int]) -> None:
    assert scoring.greedy(steps(*said)).tolist() == read
    assert scoring.greedy(np.array(said, np.int64)).tolist() == read
    assert scoring.greedy(steps(*said)[:, None]).tolist() == read


def test_the_character_error_rate_by_hand() -> None:
    output = np.stack([steps(1, 0, 2), steps(3, 3, 0)])
    labels = np.array([[1, 2, -1], [3, 4, 5]])
    assert of("cer", output, labels) == pytest.approx(2 / 5)
    assert of("exact", output, labels) == 0.5
    assert of("cer", [steps(1, 0, 2), steps(3, 4, 5, 5)], labels) == 0
    assert of("cer", output[:1], [[4]]) == 2


@given(st.lists(st.integers(1, 3), max_size=7), st.lists(st.integers(1, 3), min_size=1, max_size=7))
def test_the_character_error_rate_counts_edits(said: list[int], wanted: list[int]) -> None:
    output = [np.array([x for symbol in said for x in (symbol, 0)], np.int64)]
    expected = edits(tuple(said), tuple(wanted)) / len(wanted)
    assert of("cer", output, [np.array([*wanted, -1])]) == pytest.approx(expected)
    assert of("exact", output, [np.array(wanted)]) == (said == wanted)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(PruneError, match="1 sequences for 2 labels"):
        of("cer", steps(1)[None], np.array([[1], [2]]))
    with pytest.raises(UsageError, match="0, the blank"):
        of("exact", steps(1)[None], np.array([[0]]))
    with pytest.raises(UsageError, match="not all empty"):
        of("cer", steps(1)[None], np.array([[-1]]))


# ---- detection ---------------------------------------------------------------------------------------------------

BOX = [0.0, 0, 10, 10]
HALF = [0.0, 0, 10, 5]  # of the box: overlap 0.5
FAR = [50.0, 50, 60, 60]
TRUTH = np.array([[[*BOX, 1], [*FAR, 1]], [[*BOX, 2], [0, 0, 0, 0, -1]]])


def found(boxes: Any, scores: Any, classes: Any) -> list[Array]:
    return [np.array(boxes, np.float32), np.array(scores, np.float32), np.array(classes, np.int64)]


PERFECT = found([[BOX, FAR], [BOX, BOX]], [[0.9, 0.8], [0.7, 0]], [[1, 1], [2, 2]])


def test_overlap_by_hand() -> None:
    boxes = np.array([BOX, HALF, FAR, [5, 5, 15, 15], [3, 3, 3, 3]])
    assert detection.overlap(boxes[:1], boxes)[0] == pytest.approx([1, 0.5, 0, 25 / 175, 0])
    assert detection.overlap(boxes[4:], boxes[4:]) == 0


def test_perfect_detections_score_one_in_every_layout() -> None:
    boxes, scores, classes = PERFECT
    every = np.zeros((2, 2, 3), np.float32)
    np.put_along_axis(every, classes[..., None], scores[..., None], axis=2)
    table = np.concatenate([boxes, scores[..., None], classes[..., None].astype(np.float32)], axis=2)
    for outputs in ([boxes, scores, classes], [boxes, classes, scores], [boxes, every], [table]):
        assert score(METRICS["map"], outputs, TRUTH) == 1, len(outputs)
    ragged = [table[0], table[1, :1]]
    assert of("map", ragged, [TRUTH[0], TRUTH[1][:1]]) == 1


def test_an_overlap_of_half_counts_at_half_only() -> None:
    outputs = found([[HALF]], [[0.5]], [[1]])
    truth = np.array([[[*BOX, 1]]])
    assert score(METRICS["map50"], outputs, truth) == 1
    assert score(METRICS["map"], outputs, truth) == pytest.approx(0.1)


def test_average_precision_by_hand() -> None:
    # by score: wrong, right, right again (a double), right: 3 boxes, of which the last is missed
    outputs = found([[FAR, BOX, BOX], [BOX, BOX, BOX]], [[0.9, 0.8, 0.7], [0.6, 0, 0]], [[1, 1, 1], [1, 1, 1]])
    truth = np.array([[[*BOX, 1], [80, 80, 90, 90, 1]], [[*BOX, 1], [0, 0, 0, 0, -1]]])
    # recall 1/3 at precision 1/2, 2/3 at 2/4: half up to recall 2/3 (67 of 101 points), then none
    assert score(METRICS["map50"], outputs, truth) == pytest.approx(0.5 * 67 / 101)


def test_a_better_score_of_a_wrong_box_costs_and_a_worse_one_does_not() -> None:
    def scored(wrong: float) -> float:
        return score(METRICS["map50"], found([[BOX, FAR]], [[0.5, wrong]], [[1, 1]]), np.array([[[*BOX, 1]]]))

    assert (scored(0.4), scored(0.6)) == (1, 0.5)


def test_a_score_of_zero_and_a_negative_class_are_padding() -> None:
    truth = np.array([[[*BOX, 1], [*FAR, 1]]])
    assert score(METRICS["map50"], found([[BOX, FAR]], [[0.5, 0]], [[1, 1]]), truth) == pytest.approx(51 / 101)
    assert score(METRICS["map50"], found([[BOX, FAR]], [[0.5, 0.4]], [[1, -1]]), truth) == pytest.approx(51 / 101)


def test_classes_are_averaged_and_those_not_labelled_left_out() -> None:
    boxes, scores, classes = PERFECT
    assert score(METRICS["map"], [boxes, scores, np.where(classes == 2, 3, classes)], TRUTH) == 0.5
    assert score(METRICS["map"], found(np.zeros((2, 0, 4)), np.zeros((2, 0)), np.zeros((2, 0))), TRUTH) == 0


def test_only_the_best_hundred_of_an_image_count() -> None:
    boxes = np.array([[FAR] * 100 + [BOX]])
    scores = np.array([[0.5] * 100 + [0.4]])
    assert score(METRICS["map50"], found(boxes, scores, np.ones((1, 101))), np.array([[[*BOX, 1]]])) == 0
    assert score(METRICS["map50"], found(boxes, 1 - scores, np.ones((1, 101))), np.array([[[*BOX, 1]]])) == 1


def test_what_is_no_detection_is_refused() -> None:
    with pytest.raises(PruneError, match=r"of shapes \[2, 5\]; detections are boxes"):
        of("map", np.zeros((2, 2, 5)), TRUTH)
    with pytest.raises(PruneError, match="of 1 images; there are labels of 2"):
        of("map", np.zeros((1, 2, 6)), TRUTH)
    with pytest.raises(PruneError, match="1, 2 rows"):
        score(METRICS["map"], [np.zeros((1, 2, 4)), np.zeros((2, 2))], TRUTH)
    with pytest.raises(UsageError, match="needs a labelled box"):
        of("map", np.zeros((2, 2, 6)), np.full((2, 1, 5), -1))


# ---- labels ------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "accuracy": [0, 1],
    "top5": [0, 1],
    "f1": [[0, 1], [1, 1]],
    "auc": [0, 1],
    "spearman": [0.5, 1],
    "psnr": np.zeros((2, 1, 3)),
    "cer": [[1, 2], [3, -1]],
    "exact": [[1, 2], [3]],
    "map": TRUTH,
    "map50": [TRUTH[0], TRUTH[1][:1]],
}
BAD: dict[str, list[Any]] = {
    "accuracy": [[0.0, 1], [0], 3, [True, False], [[1], [2, 3]]],
    "spearman": [[1.0, 2, 3], [1, np.nan], ["a", "b"], [[1, 2], [3, 4]]],
    "psnr": [np.zeros((3, 3)), 1, ["a", "b"], [[1, 2]]],
    "cer": [[1, 2], [[1.0], [2.0]], [[1, -2], [1, 1]], [[1]], [[1], [1, 2], [3]]],
    "map": [TRUTH[:1], TRUTH[..., :4], [[0.0, 1], [2.0]], TRUTH[0]],
}


@pytest.mark.parametrize("name", GOOD)
def test_labels_of_every_metric_are_read(name: str, tmp_path: Path) -> None:
    labels = read_labels(GOOD[name], 2 if name != "spearman" else 4, METRICS[name])
    assert len(labels) == 2
    path = tmp_path / "labels.npz"
    np.savez(path, *([labels] if isinstance(labels, np.ndarray) else labels))
    again = read_labels(path, 2, METRICS[name])
    assert all(np.array_equal(a, b) for a, b in zip(labels, again, strict=True))


@pytest.mark.parametrize(("name", "labels"), [(name, bad) for name, all_ in BAD.items() for bad in all_])
def test_other_labels_are_refused(name: str, labels: Any) -> None:
    with pytest.raises(UsageError, match=f"Labels for '{name}' must be .*; got .*rows: 2"):
        read_labels(labels, 2, METRICS[name])


def test_labels_that_are_no_file_of_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        read_labels(tmp_path / "none.npy", 2, METRICS["accuracy"])
    (tmp_path / "text.npy").write_text("0 1", encoding="utf-8")
    with pytest.raises(UsageError, match="plain arrays"):
        read_labels(str(tmp_path / "text.npy"), 2, METRICS["accuracy"])
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(UsageError, match="got 0 arrays"):
        read_labels(tmp_path / "empty.npz", 2, METRICS["accuracy"])


def test_a_metric_without_labels_takes_none() -> None:
    with pytest.raises(UsageError, match="'kl' takes no labels"):
        read_labels([0, 1], 2, METRICS["kl"])


# ---- by name -----------------------------------------------------------------------------------------------------


def test_the_table_is_whole() -> None:
    assert set(GOOD) | {"agreement", "kl"} == set(METRICS)
    for name, metric in METRICS.items():
        assert find(name) is metric
        assert metric.name == name
        assert metric.meaning
        assert metric.labels
        assert metric.score.__doc__
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {"cer", "kl"}
    assert {name for name, metric in METRICS.items() if not metric.needs_labels} == {"agreement", "kl"}


def test_loss_is_how_much_worse() -> None:
    assert loss(METRICS["accuracy"], 0.9, 0.8) == pytest.approx(0.1)
    assert loss(METRICS["cer"], 0.1, 0.3) == pytest.approx(0.2)
    assert loss(METRICS["psnr"], 30, 31) == -1


def test_others_may_add_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Metric("mine", scoring.accuracy, True, True, "", "")
    monkeypatch.setattr(registry, "load", lambda group: {"metrics": {"mine": mine}}[group])
    assert find("mine") is mine
    with pytest.raises(UsageError, match="Did you mean 'accuracy'"):
        find("acuracy")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module into the current directory."""
    count = itertools.count()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    def write(text: str) -> str:
        name = f"own_metric_{tmp_path.name.replace('-', '_')}_{next(count)}"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    return write


def test_a_function_of_the_users_is_a_metric(module: Callable[[str], str]) -> None:
    name = module('def off(outputs, labels):\n    """Mean error."""\n    return abs(outputs[0] - labels).mean()\n')
    metric = find(f"{name}:off")
    assert (metric.name, metric.meaning) == (f"{name}:off", "Mean error.")
    assert metric.higher_is_better
    assert metric.needs_labels
    assert score(metric, [np.array([1.0, 2.0])], np.array([1, 1])) == 0.5
    assert np.array_equal(read_labels([[1], [2, 3]], 7, metric)[1], [2, 3])


def test_a_users_function_says_what_it_is(module: Callable[[str], str]) -> None:
    name = module(
        "from onnxprune.metrics.catalogue import METRICS\n"
        "def off(outputs, dense): return 1\n"
        "off.higher_is_better = off.needs_labels = False\n"
        "ready = METRICS['kl']\n"
    )
    metric = find(f"{name}:off")
    assert not metric.higher_is_better
    assert not metric.needs_labels
    assert metric.meaning == ""
    assert score(metric, [], []) == 1
    assert find(f"{name}:ready") is METRICS["kl"]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("None", "must return a number; it returned object"),
        ("'0.5'", "must return a number"),
        ("[0.5]", "must return a number; it returned float64"),
        ("float('nan')", "gives nan, no finite number"),
        ("float('inf')", "gives inf, no finite number"),
        ("1 / 0", r"failed \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_users_function_that_gives_no_number_is_refused(
    module: Callable[[str], str], returned: str, says: str
) -> None:
    metric = find(module(f"def bad(outputs, labels): return {returned}\n") + ":bad")
    with pytest.raises(UsageError, match=says):
        score(metric, [np.zeros(1)], [])


def test_a_function_that_is_not_there_is_refused(module: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match=r"'no\.such\.module' cannot be imported \(ModuleNotFoundError"):
        find("no.such.module:f")
    with pytest.raises(UsageError, match=r"cannot be imported \(SyntaxError"):
        find(module("def") + ":f")
    with pytest.raises(UsageError, match=r"cannot be imported \(ValueError"):
        find(":f")
    name = module("number = 1\n")
    for attribute in ("other", "number", ""):
        with pytest.raises(UsageError, match=f"has no function '{attribute}'"):
            find(f"{name}:{attribute}")


# ---- running a model ---------------------------------------------------------------------------------------------


class Fake:
    """A model that gives back what it is fed."""

    def run(self, feed: Mapping[str, Array], /) -> list[Any]:
        """The inputs after the first, as they are."""
        return list(feed.values())[1:]


def joined(*runs: Any, rows: Sequence[int]) -> Any:
    """What becomes of an output that was these values over runs of so many rows."""
    feeds = [{"x": np.zeros((size, 1)), "y": value} for value, size in zip(runs, rows, strict=True)]
    (output,) = collect(Fake(), feeds)
    return output


def test_rows_are_joined() -> None:
    assert np.array_equal(joined(SCORES[:2], SCORES[2:], rows=(2, 1)), SCORES)


def test_rows_that_differ_in_size_are_a_list() -> None:
    output = joined(np.zeros((2, 3, 4)), np.zeros((1, 5, 4)), rows=(2, 1))
    assert [row.shape for row in output] == [(3, 4), (3, 4), (5, 4)]


def test_an_output_without_rows_is_a_row_of_its_feed() -> None:
    assert joined(np.zeros(3), np.zeros(3), rows=(1, 1)).shape == (2, 3)
    assert joined(np.float32(1), np.float32(2), rows=(1, 1)).tolist() == [1, 2]
    assert [row.shape for row in joined(np.zeros((1, 6)), np.zeros((3, 6)), rows=(1, 1))] == [(1, 6), (3, 6)]


def test_an_output_of_other_rows_is_joined_as_it_is() -> None:
    assert joined(np.zeros((6, 3)), np.zeros((3, 3)), rows=(2, 1)).shape == (9, 3)
    assert [part.shape for part in joined(np.zeros((3, 2)), np.zeros((3, 1)), rows=(2, 1))] == [(3, 2), (3, 1)]


def test_maps_of_probabilities_are_columns_and_sequences_are_arrays() -> None:
    maps = [{1: 0.1, 0: 0.9}, {0: 0.2, 1: 0.8}]
    assert joined(maps, rows=(2,)).tolist() == [[0.9, 0.1], [0.2, 0.8]]
    assert joined(maps[0], rows=(1,)).tolist() == [[0.9, 0.1]]
    assert joined([SCORES[0], SCORES[1]], rows=(2,)).shape == (2, 3)
    for shapes in ([(2,), (3,)], [(2, 3), (2, 4)]):
        assert [part.shape for part in joined([np.zeros(shape) for shape in shapes], rows=(2,))] == shapes


def test_nothing_to_measure_on_is_refused() -> None:
    with pytest.raises(PruneError, match="nothing to measure on"):
        collect(Fake(), [])


def test_a_model_is_measured(mlp: Path) -> None:
    session = runtime.Session(mlp)
    feeds = [{"x": np.random.default_rng(i).standard_normal((4, 8)).astype(np.float32)} for i in range(3)]
    dense = collect(session, feeds)
    labels = np.asarray(dense[0]).argmax(axis=1)
    assert measure(METRICS["accuracy"], session, feeds, labels) == 1
    assert measure(METRICS["agreement"], session, feeds, dense) == 1
    assert measure(catalogue.find("kl"), session, feeds, dense) == pytest.approx(0, abs=1e-9)
