"""Criteria of weights against numbers worked out by hand, and the ranking of a model's units by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.budget.ranking import rank
from onnxprune.criteria import CRITERIA, Scores, Slice, Subject, indices
from onnxprune.criteria.combined import parse as read
from onnxprune.errors import UsageError
from tests.laws import analyse, parse

W = np.array([[[3.0, -4.0], [0.0, 1.0]], [[1.0, 2.0], [-2.0, 0.0]]], np.float32)  # (2, 2, 2)

TWO_LAYERS = """net (float[N,2] x) => (float[N,1] y) <float[2,3] w1, float[3] b1, float[3,1] w2>
{ a = MatMul(x, w1) s = Add(a, b1) y = MatMul(s, w2) }"""


def lying_on(*arrays: NDArray[Any], axis: int = 0, scales: Sequence[int] = (), units: Any = None) -> Subject:
    """A group whose units lie on an axis of each of these arrays."""
    size = arrays[0].shape[axis]
    own = np.arange(size) if units is None else np.asarray(units)

    def piece(number: int, array: NDArray[Any]) -> Slice:
        return Slice(f"w{number}", axis, own, number in scales, lambda: array)

    slices = [piece(number, array) for number, array in enumerate(arrays)]
    return Subject(int(own.max()) + 1, slices, np.random.default_rng(0))


def score(text: str, subject: Subject) -> Scores:
    return read(text, CRITERIA)(subject)


@pytest.mark.parametrize(
    ("name", "axis", "expected"),
    [
        ("l1", 0, [8, 5]), ("l1", 1, [10, 3]), ("l1", 2, [6, 7]),
        ("magnitude", 0, [8, 5]), ("magnitude", 1, [10, 3]), ("magnitude", 2, [6, 7]),
        ("l2", 0, [26**0.5, 9**0.5]), ("l2", 1, [30**0.5, 5**0.5]), ("l2", 2, [14**0.5, 21**0.5]),
        ("linf", 0, [4, 2]), ("linf", 1, [4, 2]), ("linf", 2, [3, 4]),
        # E w² - (E w)²: (26/4 - 0, 9/4 - 1/16), (30/4 - 1/4, 5/4 - 1/16), (14/4 - 1/4, 21/4 - 1/16)
        ("std", 0, [6.5**0.5, 2.1875**0.5]), ("std", 1, [7.25**0.5, 1.1875**0.5]), ("std", 2, [3.25**0.5, 5.1875**0.5]),
        ("threshold(2)", 0, [2 / 4, 2 / 4]), ("threshold(2)", 1, [3 / 4, 1 / 4]), ("threshold(2)", 2, [2 / 4, 2 / 4]),
        # std of all: √(35/8 - 1/64) = 2.088; |w| above it are 3 and 4, and none is above twice that
        ("threshold", 0, [2 / 4, 0]), ("threshold(1std)", 2, [1 / 4, 1 / 4]), ("threshold( 2std )", 0, [0, 0]),
        # |w| in order: 0 0 1 1 2 2 3 4; the percentile 50 is 1.5
        ("threshold(50%)", 0, [2 / 4, 2 / 4]), ("threshold(50%)", 1, [3 / 4, 1 / 4]), ("threshold(0%)", 0, [1, 1]),
        # Σw² = 26, 9; 30, 5; 14, 21: means 17.5
        ("group-norm", 0, [26 / 17.5, 9 / 17.5]), ("group-norm", 1, [30 / 17.5, 5 / 17.5]),
        ("lamp", 0, [26 / 26, 9 / 35]), ("lamp", 1, [30 / 30, 5 / 35]), ("lamp", 2, [14 / 35, 21 / 21]),
        # ‖(3 -4 0 1) - (1 2 -2 0)‖² = 4 + 36 + 4 + 1
        ("fpgm", 0, [45**0.5, 45**0.5]),
    ],
)  # fmt: skip
def test_worked_examples(name: str, axis: int, expected: list[float]) -> None:
    np.testing.assert_allclose(score(name, lying_on(W, axis=axis)), expected, rtol=1e-12)


def test_the_odd_one_out_is_farthest_from_all_others() -> None:
    rows = np.array([[0.0, 0], [3, 4], [0, 0], [6, 8]])  # distances 5, 0, 10; 5, 5, 5; as the first; 10, 5, 10
    np.testing.assert_allclose(score("fpgm", lying_on(rows)), [15, 15, 15, 25], rtol=1e-9)
    assert score("fpgm", lying_on(rows[:, 0])).tolist() == [0] * 4


def test_tensors_of_any_scale_count_alike_in_the_group_norm() -> None:
    small, large = np.array([[1.0], [3.0]]), np.array([[300.0], [100.0]])  # Σw²: 1, 9 of mean 5; 9, 1 of mean 5
    np.testing.assert_allclose(score("group-norm", lying_on(small, large)), [2, 2])


def test_lamp_counts_equal_units_in_what_is_left() -> None:
    np.testing.assert_allclose(score("lamp", lying_on(np.array([[1.0], [1.0], [2.0]]))), [1 / 6, 1 / 6, 1])
    assert score("lamp", lying_on(np.zeros((2, 3)))).tolist() == [0, 0]


def test_scales_of_normalisations() -> None:
    weight, gamma, other = np.full((2, 3), 7.0), np.array([-0.5, 0.25]), np.array([0.1, 0.3])
    subject = lying_on(weight, gamma, other, scales=(1, 2))
    np.testing.assert_allclose(score("bn-scale", subject), [0.6, 0.55])
    np.testing.assert_allclose(score("slimnet", subject), [0.3, 0.275])
    assert not subject.notes


@pytest.mark.parametrize("name", ["bn-scale", "slimnet"])
def test_without_a_scale_l1_takes_its_place_and_says_so(name: str) -> None:
    subject = lying_on(W)
    np.testing.assert_allclose(score(f"average({name},{name})", subject), [1, 0])
    np.testing.assert_allclose(score(name, subject), [8, 5])
    assert len(subject.notes) == 1
    assert "l1" in subject.notes[0]


@pytest.mark.parametrize("text", ["", "x", "-1", "2 sigma", "101%", "1e999x", "nan"])
def test_a_threshold_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="A threshold is a number"):
        read(f"threshold({text})", CRITERIA)


@pytest.mark.parametrize(
    ("function", "whole"),
    [
        (indices.magnitudes, lambda w, others: np.abs(w).sum(others)),
        (indices.norms, lambda w, others: np.sqrt(np.square(w).sum(others))),
        (indices.peaks, lambda w, others: np.abs(w).max(others)),
        (indices.deviations, lambda w, others: w.std(others)),
    ],
)
def test_blocks_add_up(function: Any, whole: Any) -> None:
    weight = np.random.default_rng(1).standard_normal((3, 700, 150)).astype(np.float32)
    for axis in range(3):
        expected = whole(weight.astype(np.float64), tuple(a for a in range(3) if a != axis))
        np.testing.assert_allclose(function(weight, axis, np.random.default_rng(0)), expected, rtol=1e-12)


def test_distances_add_up_over_blocks() -> None:
    rows = np.random.default_rng(1).standard_normal((1500, 3)) + 100
    apart = np.linalg.norm(rows[:, None] - rows, axis=2).sum(axis=1)
    np.testing.assert_allclose(score("fpgm", lying_on(rows.astype(np.float64))), apart, rtol=1e-9)


NAMES = [name for name, c in sorted(CRITERIA.items()) if c.needs == "nothing"]


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_does_not_overflow(name: str) -> None:
    weight = np.full((4, 4096), 100, np.float16)
    weight[0] = 60_000
    assert np.isfinite(score(name, lying_on(weight))).all()
    assert CRITERIA["l2"].score(lying_on(weight[1:])).tolist() == [6400.0] * 3


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores(name: str) -> None:
    weight = np.random.default_rng(3).standard_normal((9, 4))
    assert (score(name, lying_on(weight)) == score(name, lying_on(weight))).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_one_unit_has_a_score(name: str) -> None:
    assert np.isfinite(score(name, lying_on(np.ones((1, 3))))).all()


@pytest.mark.parametrize("name", ["l1", "l2", "linf", "group-norm", "lamp", "bn-scale", "slimnet", "threshold(0.1)"])
def test_a_unit_of_zeros_goes_first(name: str) -> None:
    weight = np.random.default_rng(3).standard_normal((9, 4)) + 3
    weight[5] = 0
    scores = score(name, lying_on(weight, weight[:, 0], scales=(1,)))
    assert scores[5] == 0
    assert (np.delete(scores, 5) > 0).all()


def test_indices_of_one_unit_add_up_and_others_do_not_count() -> None:
    rows = np.array([[1.0], [2], [4], [8]])
    assert score("l1", lying_on(rows, units=[1, -1, 0, 1])).tolist() == [4, 9]


def test_codes_as_integers_are_scored() -> None:
    assert score("l1", lying_on(np.array([[-128, 127], [1, 0]], np.int8))).tolist() == [255, 1]
    assert score("threshold(50%)", lying_on(np.array([[-128, 127], [1, 0]], np.int8))).tolist() == [1, 0]


# ---- the ranking of a model --------------------------------------------------------------------------------------


def test_a_unit_adds_up_its_slices() -> None:
    model = parse(TWO_LAYERS)
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    expected = np.abs(values["w1"]).sum(0) + np.abs(values["b1"]) + np.abs(values["w2"]).sum(1)
    np.testing.assert_allclose(rank(analyse(model), "l1").scores, expected, rtol=1e-12)


def test_random_is_seeded() -> None:
    analysis = analyse(parse(TWO_LAYERS))
    first, same, other = (rank(analysis, "random", seed).scores for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).all()


@pytest.mark.parametrize("name", ["l2", "lamp", "fpgm", "threshold(30%)", "group-norm", "average(l1,random)", "vote"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_group_with_values_that_are_not_finite_is_left_alone(value: float, name: str) -> None:
    model = parse(TWO_LAYERS)
    poisoned = numpy_helper.to_array(model.graph.initializer[0]).copy()
    poisoned[0, 1] = value
    model.graph.initializer[0].raw_data = poisoned.tobytes()
    assert rank(analyse(model), name).unscored == {0: "'w1' holds NaN or infinite values"}


def test_bfloat16_is_scored() -> None:
    weight = np.array([[1, 2], [3, 4]], ml_dtypes.bfloat16)
    assert score("l1", lying_on(weight.astype(np.float32))).tolist() == [3, 7]


def test_an_unknown_criterion_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'l3'\. Did you mean 'l[12]'"):
        rank(analyse(parse(TWO_LAYERS)), "l3")
