"""Criteria against numbers worked out by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.criteria import CRITERIA, rank
from onnxprune.errors import UsageError
from tests.laws import analyse, parse

RNG = np.random.default_rng(0)
W = np.array([[[3.0, -4.0], [0.0, 1.0]], [[1.0, 2.0], [-2.0, 0.0]]], np.float32)  # (2, 2, 2)

TWO_LAYERS = """net (float[N,2] x) => (float[N,1] y) <float[2,3] w1, float[3] b1, float[3,1] w2>
{ a = MatMul(x, w1) s = Add(a, b1) y = MatMul(s, w2) }"""


@pytest.mark.parametrize(
    ("name", "axis", "expected"),
    [
        ("l1", 0, [8, 5]), ("l1", 1, [10, 3]), ("l1", 2, [6, 7]),
        ("l2", 0, [26**0.5, 9**0.5]), ("l2", 1, [30**0.5, 5**0.5]), ("l2", 2, [14**0.5, 21**0.5]),
    ],
)  # fmt: skip
def test_worked_examples(name: str, axis: int, expected: list[float]) -> None:
    np.testing.assert_allclose(CRITERIA[name](W, axis, RNG), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_blocks_add_up(name: str) -> None:
    weight = np.random.default_rng(1).standard_normal((3, 700, 150)).astype(np.float32)
    wide = weight.astype(np.float64)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        whole = np.abs(wide).sum(others) if name == "l1" else np.sqrt(np.square(wide).sum(others))
        np.testing.assert_allclose(CRITERIA[name](weight, axis, RNG), whole, rtol=1e-12)


def test_half_precision_does_not_overflow() -> None:
    assert CRITERIA["l2"](np.full((4, 4096), 100, np.float16), 0, RNG).tolist() == [6400.0] * 4


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_group_with_values_that_are_not_finite_is_left_alone(value: float) -> None:
    model = parse(TWO_LAYERS)
    poisoned = numpy_helper.to_array(model.graph.initializer[0]).copy()
    poisoned[0, 1] = value
    model.graph.initializer[0].raw_data = poisoned.tobytes()
    assert rank(analyse(model), "l2").unscored == {0: "'w1' holds NaN or infinite values"}


def test_bfloat16_is_scored() -> None:
    weight = np.array([[1, 2], [3, 4]], ml_dtypes.bfloat16)
    assert CRITERIA["l1"](weight.astype(np.float32), 0, RNG).tolist() == [3, 7]


def test_an_unknown_criterion_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'l3'\. Did you mean 'l[12]'"):
        rank(analyse(parse(TWO_LAYERS)), "l3")
