"""Combinations of criteria against one-liners of numpy, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from onnxprune.criteria import CRITERIA, Criterion, Scores, Slice, Subject
from onnxprune.criteria.combined import parse, ranks
from onnxprune.errors import UsageError
from tests.test_criteria_data import read_by, reading, rows, weights


def constant(name: str, scores: Sequence[float]) -> Criterion:
    return Criterion(name, lambda subject: np.array(scores, np.float64), "given", "nothing", "Nobody, 2000")


A, B, C = [5.0, 1, 2, 9, 7], [0.1, 0.5, 0.4, 0.2, 0.3], [-3.0, -1, -2, -5, -4]
TABLE = {
    **CRITERIA,
    "a": constant("a", A),
    "b": constant("b", B),
    "c": constant("c", C),
    "flat": constant("flat", [1] * 5),
}
PLACES = np.argsort(np.argsort([A, B, C], axis=1), axis=1)


def subject(ratio: float = 0.4, **more: Any) -> Subject:
    return Subject(5, (), np.random.default_rng(0), ratio, **more)


def score(text: str, of: Subject | None = None) -> Scores:
    return parse(text, TABLE)(of or subject())


def test_ranks() -> None:
    assert ranks(np.array([3.0, 1, 2])).tolist() == [2, 0, 1]
    assert ranks(np.array([3.0, 1, 3, 1, 1])).tolist() == [3.5, 1, 3.5, 1, 1]


@pytest.mark.parametrize(("name", "reduce"), [("average", np.mean), ("min", np.min), ("max", np.max)])
def test_ranks_are_reduced(name: str, reduce: Any) -> None:
    np.testing.assert_allclose(score(f"{name}(a,b,c)"), reduce(PLACES / 4, axis=0))


@pytest.mark.parametrize("ratio", [0, 0.2, 0.4, 0.6, 1])
def test_votes_are_counted(ratio: float) -> None:
    marked = (5 * ratio >= PLACES + 1).sum(axis=0)
    expected = np.lexsort((PLACES.mean(axis=0), -marked))
    assert score("vote(a,b,c)", subject(ratio)).argsort(kind="stable").tolist() == expected.tolist()


def test_votes_worked_by_hand() -> None:
    # two of five go: a marks 1, 2; b marks 0, 3; c marks 3, 4. Ranks of a 2 0 1 4 3, b 0 4 3 1 2, c 2 4 3 0 1
    expected = [2 + 4 / 15, 2 + 8 / 15, 2 + 7 / 15, 1 + 5 / 15, 2 + 6 / 15]
    np.testing.assert_allclose(score("vote(a,b,c)"), expected)


def test_one_criterion_combined_keeps_its_order() -> None:
    for name in ("vote", "average", "min", "max", "complexity"):
        assert score(f"{name}(a)").argsort().tolist() == np.argsort(A).tolist()


def test_combinations_nest_and_may_be_spaced() -> None:
    nested = score(" average( a , max(b,c) ) ")
    inner = np.max(PLACES[1:] / 4, axis=0)
    _, place, count = np.unique(inner, return_inverse=True, return_counts=True)
    np.testing.assert_allclose(nested, (PLACES[0] + (np.cumsum(count) - (count + 1) / 2)[place]) / 8)


def test_equal_scores_share_their_rank() -> None:
    assert score("average(flat)").tolist() == [0.5] * 5


def test_parameters_stand_inside_combinations() -> None:
    piece = Slice("w", 0, np.arange(2), False, lambda: np.array([[1.0], [3.0]]))
    of = Subject(2, [piece], np.random.default_rng(0))
    assert score("average(threshold(2),l2)", of).tolist() == [0, 1]


def test_values_that_are_not_finite_show() -> None:
    table = {**TABLE, "bad": constant("bad", [np.nan, 1, 2, 3, 4])}
    assert np.isnan(parse("min(a,bad)", table)(subject())).all()


# ---- complexity ----------------------------------------------------------------------------------------------------


def test_complexity_is_loss_per_cost() -> None:
    price = np.array([1.0, 2, 4, 0, 5])
    scores = score("complexity(a)", subject(price=lambda: price))
    np.testing.assert_allclose(scores[[0, 1, 2, 4]], [5, 0.5, 0.5, 1.4])
    assert scores.argmax() == 3
    assert np.isfinite(scores).all()


def test_complexity_without_costs_says_so() -> None:
    of = subject()
    assert score("complexity(a)", of).tolist() == A
    assert len(of.notes) == 1


def test_complexity_takes_what_fits_the_data() -> None:
    part = reading(rows(40, 4), weights(2, 4))
    assert score("complexity", read_by(part)).tolist() == score("obs", read_by(part)).tolist()
    piece = Slice("w", 0, np.arange(2), False, lambda: np.array([[3.0, 4.0], [0, 1]]))
    assert score("complexity", Subject(2, [piece], np.random.default_rng(0))).tolist() == [5, 1]


@pytest.mark.parametrize("name", ["vote", "average", "min", "max"])
def test_without_names_the_usual_ones_are_combined(name: str) -> None:
    part = reading(rows(40, 4), weights(2, 4))
    piece = Slice("w", 0, np.arange(4), False, lambda: weights(4, 3))
    plain, informed = (
        Subject(4, [piece], np.random.default_rng(0)),
        Subject(4, [piece], np.random.default_rng(0), read=lambda: [part]),
    )
    assert (score(name, plain) == score(f"{name}(l2,bn-scale,fpgm)", plain)).all()
    assert (score(name, informed) == score(f"{name}(l2,bn-scale,fpgm,wifv,obs)", informed)).all()


# ---- how they are written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", " ", "vote(", "vote(a", "vote(a))", "vote(a),b", "a,b", "(a)", "vote()", "vote(a,)", "vote(,a)", "vote(a b)",
     "vote(a)(b)", "vote(" * 5000 + "a" + ")" * 5000],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^The criterion .* is not a name, or a name with a list") as caught:
        parse(text, TABLE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["l9", "vote(a,l9)", "average(a,vote(l9))", "l9(a)"])
def test_unknown_names_are_told_with_those_that_are_known(text: str) -> None:
    with pytest.raises(UsageError, match=r"No criterion is called 'l9'.*Known: .*fpgm.*obs"):
        parse(text, TABLE)


def test_what_takes_no_parentheses_says_so() -> None:
    with pytest.raises(UsageError, match="'l1' takes nothing in parentheses, but 'l2' was given"):
        parse("l1(l2)", TABLE)


def test_complexity_takes_one() -> None:
    with pytest.raises(UsageError, match="complexity takes one criterion"):
        parse("complexity(a,b)", TABLE)
