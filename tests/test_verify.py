"""The validator: what it must let pass, and what it must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.data.runtime import Session
from onnxprune.errors import PruneError, UsageError
from onnxprune.metrics.catalogue import METRICS, measure
from onnxprune.verification.comparison import (
    BY_TYPE,
    TOLERANCE,
    Comparison,
    Rules,
    compare,
    failures,
    forgive_rounding,
)

Array = NDArray[Any]


class Fake:
    """A model whose outputs are known: one list per run."""

    def __init__(self, *runs: list[Any], outputs: Sequence[str] = ("y",)) -> None:
        self.outputs = list(outputs)
        self.runs = runs

    def run(self, feed: dict[str, int]) -> list[Any]:
        """What comes out of the run of this number."""
        return self.runs[feed["run"]]


def fake(*runs: Any) -> Session:
    """A model of one output."""
    return cast(Session, Fake(*([value] for value in runs)))


def compared(reference: Any, candidate: Any, dense: Any = None, rules: Rules = BY_TYPE) -> Comparison:
    """One output of one run each."""
    third = None if dense is None else fake(dense)
    (found,) = compare(fake(reference), fake(candidate), [{"run": 0}], third, rules)  # type: ignore[dict-item]
    return found


@pytest.fixture
def numbers() -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((8, 10))


FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_equal_outputs_pass(numbers: NDArray[np.float64], dtype: Any) -> None:
    found = compared(numbers.astype(dtype), numbers.astype(dtype))
    assert found
    assert (found.max_abs, found.relative, found.agreement) == (0, 0, 1)
    assert found.cosine == pytest.approx(1)
    assert found.tolerance == TOLERANCE[str(np.dtype(dtype))]


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_planted_error_of_one_percent_of_the_range_fails(numbers: NDArray[np.float64], dtype: Any) -> None:
    """One value of eighty is off, the smallest error that a wrong channel could make."""
    wrong = numbers.copy()
    wrong[3, 4] += 0.01 * np.ptp(numbers)
    found = compared(numbers.astype(dtype), wrong.astype(dtype))
    assert not found
    assert found.relative == pytest.approx(0.01, rel=0.3)
    assert "output 'y' differs by" in failures([found])


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_tolerance_follows_from_the_type(numbers: NDArray[np.float64], dtype: Any) -> None:
    """What a few roundings explain passes, ten times as much does not."""
    tolerance = TOLERANCE[str(np.dtype(dtype))]
    span = np.ptp(numbers)
    for factor, equal in ((0.3, True), (10, False)):
        wrong = numbers.copy()
        wrong[3, 4] += factor * tolerance * span
        assert bool(compared(numbers.astype(dtype), wrong.astype(dtype))) is equal


def test_a_factor_of_101_percent_fails(numbers: NDArray[np.float64]) -> None:
    assert not compared(numbers.astype(np.float32), (1.01 * numbers).astype(np.float32))


def spoilt(numbers: NDArray[np.float64], value: float, place: tuple[int, int] = (0, 0)) -> NDArray[np.float64]:
    """The numbers with one that is not finite."""
    found = numbers.copy()
    found[place] = value
    return found


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["reference", "candidate"])
@pytest.mark.parametrize("equal_nan", [False, True])
def test_what_is_not_finite_on_one_side_only_is_a_difference(
    numbers: NDArray[np.float64], bad: float, where: str, equal_nan: bool
) -> None:
    pair = (spoilt(numbers, bad), numbers) if where == "reference" else (numbers, spoilt(numbers, bad))
    found = compared(*pair, rules=Rules(equal_nan=equal_nan))
    assert not found
    assert "1 values are" in found.problem


def test_nan_in_both_is_no_agreement_unless_the_user_says_so(numbers: NDArray[np.float64]) -> None:
    bad = spoilt(numbers, np.nan)
    found = compared(bad, bad)
    assert not found
    assert "--equal-nan" in found.problem
    found = compared(bad, bad, rules=Rules(equal_nan=True))
    assert found
    assert found.nonfinite == 1
    assert not compared(bad, spoilt(numbers, np.nan, (1, 1)), rules=Rules(equal_nan=True))


@pytest.mark.parametrize("rules", [Rules(), Rules(equal_nan=True)])
def test_infinite_values_must_be_alike_in_place_and_sign(numbers: NDArray[np.float64], rules: Rules) -> None:
    found = compared(spoilt(numbers, -np.inf), spoilt(numbers, -np.inf), rules=rules)
    assert found
    assert found.nonfinite == 1
    assert not compared(spoilt(numbers, np.inf), spoilt(numbers, -np.inf), rules=rules)
    assert not compared(spoilt(numbers, np.inf), spoilt(numbers, np.inf, (1, 1)), rules=rules)
    assert not compared(spoilt(numbers, np.inf), spoilt(numbers, np.nan), rules=rules)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_the_finite_rest_is_compared_as_ever(numbers: NDArray[np.float64], bad: float) -> None:
    found = compared(spoilt(numbers, bad), spoilt(1.01 * numbers, bad), rules=Rules(equal_nan=True))
    assert not found
    assert found.relative > TOLERANCE["float64"]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_was_never_finite_proves_nothing(bad: float) -> None:
    nothing = np.full((2, 3), bad)
    found = compared(nothing, nothing, rules=Rules(equal_nan=True))
    assert not found
    assert "finite in no run" in found.problem


def test_a_tolerance_of_the_users_own_is_of_floats_only(numbers: NDArray[np.float64]) -> None:
    assert compared(numbers, 1.01 * numbers, rules=Rules(0.02))
    assert not compared(numbers, 1.01 * numbers, rules=Rules(0.001))
    assert not compared(np.array([100, 0]), np.array([101, 0]), rules=Rules(0.5))


def test_one_bad_run_among_good_ones_fails(numbers: NDArray[np.float64]) -> None:
    nothing = numbers * np.nan
    runs = [{"run": 0}, {"run": 1}]
    (found,) = compare(fake(nothing, numbers), fake(nothing, numbers), runs)  # type: ignore[arg-type]
    assert not found


@pytest.mark.parametrize("value", [np.zeros((0, 4), np.float32), np.zeros((0,), np.int64), []])
def test_an_output_that_was_always_empty_proves_nothing(value: Any) -> None:
    found = compared(value, value)
    assert not found
    assert "empty in every run" in found.problem


def test_an_output_that_was_empty_once_is_judged_by_the_other_runs(numbers: NDArray[np.float64]) -> None:
    runs = [{"run": 0}, {"run": 1}]
    empty = numbers[:0]
    (found,) = compare(fake(empty, numbers), fake(empty, numbers), runs)  # type: ignore[arg-type]
    assert found


def test_a_constant_output_is_compared_by_its_magnitude() -> None:
    flat = np.full((4, 4), 100, np.float32)
    assert compared(flat, flat)
    assert compared(flat, flat).range == 0
    assert compared(flat, flat * np.float32(1 + 1e-7))
    assert not compared(flat, flat * np.float32(1.0001))
    zero = np.zeros((4, 4), np.float32)
    assert compared(zero, zero)
    assert not compared(zero, zero + np.float32(1e-30))


def test_rounding_is_judged_by_how_large_the_dense_values_were() -> None:
    """An output that nearly cancels carries the rounding of the values that it is a difference of."""
    near, off = np.full(4, 1e-4, np.float32), np.full(4, 1.5e-4, np.float32)
    assert not compared(near, off)
    assert compared(near, off, dense=np.full(4, 100, np.float32))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)),
        (np.ones((2, 3), np.float32), np.ones(6, np.float32)),
        (np.ones((2, 1), np.float32), np.ones((2, 3), np.float32)),
        (np.ones(3, np.float32), np.ones(3, np.float64)),
        (np.ones(3, np.float32), np.ones(3, np.int32)),
        (np.ones(3, np.float32), np.zeros(0, np.float32)),
        (np.ones(3, np.float32), np.array(["a", "b", "c"], dtype=object)),
        ([np.ones(3)], [np.ones(3), np.ones(3)]),
        ({"a": 1.0}, {"b": 1.0}),
        ({"a": 1.0}, [1.0]),
    ],
)
def test_another_shape_or_type_is_a_difference(a: Any, b: Any) -> None:
    for found in (compared(a, b), compared(b, a)):
        assert not found
        assert found.problem
        assert found.problem in failures([found])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.bool_])
def test_whole_numbers_must_be_equal(dtype: Any) -> None:
    values = np.array([[0, 1, 0, 1]]).astype(dtype)
    other = values.copy()
    other[0, 0] = 1
    assert compared(values, values)
    found = compared(values, other)
    assert not found
    assert found.problem == "1 values differ"


def test_whole_numbers_beyond_what_float_holds_are_told_apart() -> None:
    assert not compared(np.array([1 << 60]), np.array([(1 << 60) + 1]))


def test_text_must_be_equal() -> None:
    words = np.array(["a", "b"], dtype=object)
    assert compared(words, words.copy())
    assert not compared(words, np.array(["a", "c"], dtype=object))


def test_sequences_and_maps_are_compared_part_by_part(numbers: NDArray[np.float64]) -> None:
    near = numbers * (1 + 1e-12)
    assert compared([numbers, 2 * numbers], [near, 2 * near])
    assert not compared([numbers, 2 * numbers], [numbers, 2.02 * numbers])
    assert compared([{"a": 0.5, "b": 0.25}], [{"a": 0.5, "b": 0.25}])
    assert not compared([{"a": 0.5, "b": 0.25}], [{"a": 0.5, "b": 0.26}])
    assert not compared([{1: 0.5, 2: 0.25}], [{1: 0.5, 3: 0.25}])


def test_the_imaginary_part_counts() -> None:
    value = np.array([1 + 2j, 3 + 4j], np.complex64)
    assert compared(value, value.copy())
    assert not compared(value, value.conj())


def test_values_too_large_to_compare_are_no_pass() -> None:
    huge = np.array([1e308, -1e308])
    found = compared(huge, -huge)
    assert not found
    assert "too large" in found.problem


def test_agreement_counts_the_rows_whose_largest_entry_is_the_same() -> None:
    a = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    b = a.copy()
    b[0] = b[0, ::-1]
    assert compared(a, b).agreement == 0.75
    assert compared(a[:, :1], b[:, :1]).agreement is None


def test_a_difference_in_a_late_run_is_seen(numbers: NDArray[np.float64]) -> None:
    runs = [{"run": i} for i in range(3)]
    (found,) = compare(fake(numbers, numbers, numbers), fake(numbers, numbers, 1.01 * numbers), runs)  # type: ignore[arg-type]
    assert not found


def test_outputs_of_other_names_cannot_be_compared() -> None:
    with pytest.raises(PruneError, match="Outputs differ"):
        compare(fake(1), cast(Session, Fake([1], outputs=["z"])), [{"run": 0}])  # type: ignore[dict-item]


def test_no_run_is_no_proof() -> None:
    with pytest.raises(PruneError, match="nothing to compare on"):
        compare(fake(1), fake(1), [])


def test_the_worst_output_is_named() -> None:
    found = [
        Comparison("good"),
        Comparison("bad", "float32", max_abs=1, relative=0.1, equal=False),
        Comparison("worse", "float32", max_abs=0.5, relative=0.2, equal=False),
    ]
    assert failures(found[:1]) == ""
    assert "'worse'" in failures(found)
    assert (
        failures([*found, Comparison("odd", equal=False, problem="of another shape")])
        == "output 'odd': of another shape"
    )


def test_a_comparison_becomes_plain_data(numbers: NDArray[np.float64]) -> None:
    plain = compared(numbers, numbers).to_json()
    assert plain["output"] == "y"
    assert all(isinstance(value, str | float | int | bool | None) for value in plain.values())


@pytest.mark.parametrize(("noise", "equal"), [(0.0, False), (0.001, False), (0.003, True)])
def test_only_what_the_models_own_rounding_explains_is_forgiven(noise: float, equal: bool) -> None:
    found = [Comparison("y", "float32", max_abs=0.01, relative=5e-4, tolerance=1e-4, equal=False)]
    forgive_rounding(found, [Comparison("y", "float32", max_abs=noise)])
    assert bool(found[0]) is equal
    assert found[0].noise == noise


def test_no_rounding_is_large_enough_for_one_percent(numbers: NDArray[np.float64]) -> None:
    found = [compared(numbers.astype(np.float32), (numbers * 1.01).astype(np.float32))]
    forgive_rounding(found, [Comparison("y", "float32", max_abs=1.0)])
    assert not found[0]


def test_no_rounding_explains_another_shape_or_nan() -> None:
    odd = Comparison("y", max_abs=0.0, equal=False, problem="shape or type differs")
    number = Comparison("y", max_abs=0.01, equal=False)
    forgive_rounding([odd, number], [Comparison("y", max_abs=9), Comparison("y", max_abs=9, problem="it holds NaN")])
    assert not odd
    assert not number


# ---- accuracy ----------------------------------------------------------------------------------------------------

SCORES = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])


@pytest.mark.parametrize(("labels", "right"), [([1, 0, 2], 1), ([1, 0, 0], 2 / 3), ([0, 1, 1], 0)])
def test_accuracy_is_the_fraction_of_right_answers(labels: list[int], right: float) -> None:
    runs: Any = [{"run": 0}, {"run": 1}]
    assert measure(METRICS["accuracy"], fake(SCORES[:2], SCORES[2:]), runs, np.array(labels)) == pytest.approx(right)


@pytest.mark.parametrize("labels", [[3, 0, 0], [-1, 0, 0]])
def test_a_label_that_is_no_class_is_refused(labels: list[int]) -> None:
    runs: Any = [{"run": 0}]
    with pytest.raises(UsageError, match="3 classes"):
        measure(METRICS["accuracy"], fake(SCORES), runs, np.array(labels))


@pytest.mark.parametrize(
    "output", [SCORES[:2], SCORES[0], np.array(1.0), SCORES[:, :0], np.array(["a", "b", "c"], dtype=object), [SCORES]]
)
def test_an_output_that_gives_no_answer_per_row_is_refused(output: Any) -> None:
    runs: Any = [{"run": 0}]
    if isinstance(output, list):
        assert measure(METRICS["accuracy"], fake(output), runs, np.array([1, 0, 2])) == 1
        return
    with pytest.raises(PruneError, match="answers for 3 labels"):
        measure(METRICS["accuracy"], fake(output), runs, np.array([0, 0, 0]))
