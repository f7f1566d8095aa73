"""Criteria of data against numbers worked out by hand, brute force, and planted redundancy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from onnxprune.criteria import CRITERIA, Part, Scores, Slice, Subject
from onnxprune.criteria.base import Numbers
from onnxprune.criteria.combined import parse as read
from onnxprune.criteria.obs import Reader, elimination
from onnxprune.errors import UsageError
from onnxprune.recovery.moments import Layer, Matrix, Moments

DATA = [name for name, c in sorted(CRITERIA.items()) if c.needs == "data"]
SEARCHED = ["obs", "l0-greedy"]


def reading(x: Matrix, weight: Matrix, units: Sequence[int] | None = None) -> Part:
    """A layer that reads rows x, each column a unit where nothing else is said."""
    own = range(x.shape[1]) if units is None else units
    return Part(Layer("layer", np.asarray(weight, np.float64), Moments.of(x)), np.array(own, dtype=np.int64))


def read_by(*parts: Part, size: int | None = None, seed: int = 0, ratio: float = 0.5) -> Subject:
    count = 1 + max(int(part.units.max()) for part in parts) if size is None else size
    return Subject(count, (), np.random.default_rng(seed), ratio, read=lambda: parts)


def score(text: str, subject: Subject) -> Scores:
    return read(text, CRITERIA)(subject)


def rows(count: int, width: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) @ rng.standard_normal((width, width)) + rng.standard_normal(width)


def weights(outputs: int, width: int, seed: int = 9) -> Matrix:
    return np.random.default_rng(seed).standard_normal((outputs, width))


def refitted(part: Part, x: Matrix, gone: Sequence[int]) -> float:
    """½ the part of the output's variance that no weights of the columns that stay can give."""
    centred = x - x.mean(axis=0)
    target = centred @ part.layer.weight.T
    kept = centred[:, ~np.isin(part.units, gone)]
    left = target - kept @ np.linalg.lstsq(kept, target, rcond=None)[0]
    return 0.5 * float(np.square(left).sum() / np.square(target).sum())


# ---- worked examples: two samples of two units ---------------------------------------------------------------------
# x: means 0 and 1, covariance [[1, 0], [0, 4]], second moments [[1, 0], [0, 5]], and x_0 ⟂ x_1
X = np.array([[1.0, 3], [1, -1], [-1, 3], [-1, -1]])
U = np.array([[2.0, 0], [1, -1]])  # ‖U_0‖² = 5, ‖U_1‖² = 1; ⟨U_0, U_1⟩ = -1
SPREAD = 5 * 1 + 1 * 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("apoz", [1 / 2, 1 / 2]),
        ("act-mean", [1, 2]),
        ("wanda", [1.5 * 1 / 3, 0.5 * 5**0.5 / 3]),
        ("wifv", [5 * 1 / SPREAD, 1 * 4 / SPREAD]),
        ("mse", [5 * 1 / SPREAD, 1 * 5 / SPREAD]),
        ("thinet", [5 / SPREAD, (5 + 5) / SPREAD]),  # E x_0 x_1 = 0: nothing cancels
        ("cssp", [5 * 1 / SPREAD, 1 * 4 / SPREAD]),  # uncorrelated: each explains itself
        ("lasso", [5 * 1 / SPREAD, 1 * 4 / SPREAD]),  # β_p = 1 - λ / energy_p
        ("l0-greedy", [(2 + 2.5) / SPREAD, 2 / SPREAD]),
        ("sparsenet", [2 / 2, 1 / 2]),
    ],
)
def test_worked_examples(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(score(name, read_by(reading(X, U))), expected, rtol=1e-5)


def test_obs_worked_by_hand() -> None:
    # H = diag(1, 4) · 1.001: costs ½ · 5 · 1.001 and ½ · 1 · 4.004
    first, second = 0.5 * 4.004 / SPREAD, 0.5 * 5 * 1.001 / SPREAD
    np.testing.assert_allclose(score("obs", read_by(reading(X, U))), [first + second, first], rtol=1e-8)


def test_random_masks_keep_what_matters() -> None:
    scores = score("l0-random", read_by(reading(X, U)))  # unit 1 costs 2/9, unit 0 costs 2.5/9
    np.testing.assert_allclose(scores, [1 + 2.5 / 11.5, 0 + 2 / 11.5], rtol=1e-5)


def test_thinet_sees_what_cancels() -> None:
    x = np.array([[1.0, -1, 1], [-1, 1, 1], [2, -2, -1], [-2, 2, -1]])  # x_1 = -x_0: together they give nothing
    scores = score("thinet", read_by(reading(x, np.array([[1.0, 1, 1.1]]))))
    assert scores.argsort().tolist() == [2, 0, 1]
    # the third is cheapest; then each of the others costs as much, and taking both costs nothing more
    y = np.array([[1.0, -1, 1, 3], [-1, 1, 1, 3], [2, -2, -1, -3], [-2, 2, -1, -3]])
    assert score("thinet", read_by(reading(y, np.ones((1, 4))))).argsort().tolist() == [2, 0, 1, 3]


def test_lasso_gives_equal_units_equal_scores_and_weak_ones_less() -> None:
    x = rows(50, 3)
    twice = np.concatenate([x, x[:, :1]], axis=1)
    scores = score("lasso", read_by(reading(twice, np.concatenate([weights(2, 3), weights(2, 3)[:, :1]], axis=1))))
    assert scores[0] == pytest.approx(scores[3], rel=1e-6)
    assert score("lasso", read_by(reading(x, weights(2, 3) * [1, 0, 1])))[1] == 0


def test_units_of_several_columns_add_them_up() -> None:
    part = reading(X, U, [0, 0])
    assert score("wifv", read_by(part)).tolist() == [1]
    assert score("apoz", read_by(part)).tolist() == [0.5]
    np.testing.assert_allclose(score("mse", read_by(part)), [(5 + 5) / SPREAD])


# ---- OBS and greedy L0 against brute force -------------------------------------------------------------------------

BLOCKS = {
    "single columns": [0, 1, 2, 3, 4],
    "taps": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "interleaved": [2, 0, 1, 2, 0, 1],
    "unequal": [0, 1, 1, 2, 2, 2, 3],
    "strangers between": [-1, 0, 0, -1, 1, 2, 2, -1],
}


@pytest.mark.parametrize("outputs", [1, 3, 20])
@pytest.mark.parametrize("layout", BLOCKS)
def test_the_first_cost_is_the_true_error_of_the_best_refit(layout: str, outputs: int) -> None:
    units = BLOCKS[layout]
    x = rows(60, len(units))
    part = reading(x, weights(outputs, len(units)), units)
    truth = [refitted(part, x, [unit]) for unit in range(max(units) + 1)]
    np.testing.assert_allclose(Reader(part, 1e-12).prices(len(truth)), truth, rtol=1e-6)


@pytest.mark.parametrize("layout", BLOCKS)
def test_the_sum_of_costs_is_the_true_error_of_the_best_refit(layout: str) -> None:
    units = BLOCKS[layout]
    x = rows(60, len(units))
    part = reading(x, weights(3, len(units)), units)
    order, errors = elimination([part], max(units) + 1, damping=1e-12)
    for count, error in enumerate(errors, 1):
        assert error == pytest.approx(refitted(part, x, order[:count].tolist()), rel=1e-6)
        assert Reader(part, 1e-12).joint_price(order[:count]) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("name", SEARCHED)
def test_each_removal_is_the_best_there_is(name: str) -> None:
    x, y = rows(80, 7), rows(80, 7, seed=1)
    parts = [reading(x, weights(3, 7)), reading(y, 100 * weights(2, 7), [0, 0, 1, 2, 6, 6, 4])]
    order = score(name, read_by(*parts)).argsort()

    def error(gone: Sequence[int]) -> float:
        return refitted(parts[0], x, gone) + refitted(parts[1], y, gone)

    gone: list[int] = []
    for unit in order:
        assert unit == min(set(range(7)) - set(gone), key=lambda u: error([*gone, u]))
        gone.append(int(unit))


def test_random_masks_find_the_best_of_few() -> None:
    x = rows(60, 5)
    part = reading(x, weights(2, 5))
    scores = score("l0-random", read_by(part, ratio=0.4))
    best = min(combinations(range(5), 2), key=lambda gone: refitted(part, x, gone))
    assert set(scores.argsort()[:2]) == set(best)


# ---- batches, redundancy, robustness -------------------------------------------------------------------------------


def redundant(seed: int, size: int = 96, columns: int = 2) -> Part:
    """Units of which a third are copies or sums of others."""
    rng = np.random.default_rng(seed)
    own = np.maximum(rng.standard_normal((600, size * 2 // 3, columns)), 0)
    mixed = np.einsum("nuc,uv->nvc", own[:, :6], rng.standard_normal((6, size // 6)))
    x = np.concatenate([own, own[:, : size - size * 2 // 3 - size // 6], mixed], axis=1).reshape(600, -1)
    return reading(x, rng.standard_normal((24, size * columns)), np.repeat(np.arange(size), columns).tolist())


def test_batches_lose_nothing_against_one_by_one() -> None:
    part = redundant(0)
    one_by_one, in_batches = (elimination([part], 96, steps=steps)[1] for steps in (96, 8))
    assert (in_batches[[23, 47, 71]] <= 1.05 * one_by_one[[23, 47, 71]] + 1e-4).all()


@pytest.mark.parametrize(("name", "cost"), [("obs", 3e-4), ("l0-greedy", 1e-7)])  # each by its damping
def test_what_others_explain_goes_first_at_no_cost(name: str, cost: float) -> None:
    x = rows(100, 6)
    x = np.concatenate([x, x[:, :2] @ np.array([[1.0], [-2]])], axis=1)  # unit 6 = unit 0 - 2 unit 1
    for scale in (1, 1e4):
        part = reading(x * scale, weights(4, 7))
        scores = score(name, read_by(part))
        assert scores.argmin() in (0, 1, 6)
        assert scores.min() < cost
        assert np.partition(scores, 1)[1] > 2 * cost


def test_cssp_puts_what_others_explain_first() -> None:
    x = rows(100, 4)
    x = np.concatenate([x, x.sum(axis=1, keepdims=True)], axis=1)
    scores = score("cssp", read_by(reading(x, weights(3, 5))))
    assert scores.min() == pytest.approx(0, abs=1e-9)
    assert np.partition(scores, 1)[1] > 1e-3


@pytest.mark.parametrize("name", SEARCHED)
def test_the_scale_of_a_column_makes_no_difference(name: str) -> None:
    x, factor = rows(60, 8), np.geomspace(1e-6, 1e6, 8)
    plain, scaled = reading(x, weights(3, 8)), reading(x * factor, weights(3, 8) / factor)
    np.testing.assert_allclose(score(name, read_by(scaled)), score(name, read_by(plain)), rtol=1e-6, atol=1e-9)


def test_columns_of_no_unit_help() -> None:
    x = rows(100, 3)
    alone = reading(x[:, :2], weights(3, 2))
    copied = reading(
        np.concatenate([x[:, :2], x[:, :1]], axis=1),
        np.concatenate([weights(3, 2), np.zeros((3, 1))], axis=1),
        [0, 1, -1],
    )
    assert elimination([alone], 2)[1][-1] == pytest.approx(0.5, rel=0.01)
    order, errors = elimination([copied], 2)
    assert order[0] == 0
    assert errors[0] < 0.01


@pytest.mark.parametrize("name", sorted({*DATA} - {"act-mean", "apoz", "mse", "thinet", "wanda"}))
def test_dead_and_constant_inputs_cost_nothing(name: str) -> None:
    x = rows(50, 5)
    x[:, 1], x[:, 3] = 0, 7
    scores = score(name, read_by(reading(x, weights(2, 5)), ratio=0.4))
    assert set(scores.argsort()[:2]) == {1, 3}
    if name in {"wifv", "lasso", "cssp", *SEARCHED}:
        np.testing.assert_allclose(scores[[1, 3]], 0, atol=1e-12)


def test_fewer_rows_than_columns_are_no_obstacle() -> None:
    part = reading(rows(10, 40), weights(3, 40), np.repeat(np.arange(20), 2).tolist())
    for name in DATA:
        assert np.isfinite(score(name, read_by(part))).all()


@pytest.mark.parametrize("name", DATA)
def test_layers_count_relative_to_what_they_give(name: str) -> None:
    x, y = rows(70, 6), rows(70, 6, seed=2)
    plain = [reading(x, weights(3, 6)), reading(y, weights(4, 6, seed=3))]
    loud = [plain[0], reading(y, 1000 * weights(4, 6, seed=3))]
    np.testing.assert_allclose(score(name, read_by(*plain)), score(name, read_by(*loud)), rtol=1e-6)


@pytest.mark.parametrize("name", DATA)
def test_a_layer_that_gives_a_constant_counts_nothing(name: str) -> None:
    alive, dead = reading(rows(70, 6), weights(3, 6)), reading(np.zeros((70, 6)), weights(3, 6))
    np.testing.assert_allclose(score(name, read_by(alive, dead)), score(name, read_by(alive)), rtol=1e-12)
    assert np.isfinite(score(name, read_by(dead))).all()


@pytest.mark.parametrize("name", DATA)
def test_every_unit_gets_a_place_and_the_same_one_again(name: str) -> None:
    part = redundant(1, size=24)
    first, again = score(name, read_by(part, seed=5)), score(name, read_by(part, seed=5))
    assert (first == again).all()
    assert first.shape == (24,)
    assert (first >= 0).all()
    if name in {"obs", "l0-greedy", "thinet", "cssp", "sparsenet"}:
        assert len(np.unique(first)) == 24


@pytest.mark.parametrize("name", DATA)
def test_one_unit_has_a_score(name: str) -> None:
    assert np.isfinite(score(name, read_by(reading(X, U, [0, 0])))).all()


@pytest.mark.parametrize("name", DATA)
def test_nan_in_the_data_shows_in_the_scores(name: str) -> None:
    x = X.copy()
    x[0, 0] = np.nan
    assert np.isnan(score(name, read_by(reading(x, U)))).any()


def test_scores_ascend_in_the_order_of_elimination() -> None:
    part = redundant(2, size=48)
    order, errors = elimination([part], 48)
    assert score("obs", read_by(part)).argsort(kind="stable").tolist() == order.tolist()
    assert (np.diff(errors) >= 0).all()
    assert sorted(order) == list(range(48))


# ---- what is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA)
def test_without_readers_the_group_norm_takes_its_place_and_says_so(name: str) -> None:
    weight = np.array([[1.0], [3.0]])
    piece = Slice("w", 0, np.arange(2), False, lambda: weight)
    subject = Subject(2, [piece], np.random.default_rng(0), read=list)
    np.testing.assert_allclose(score(name, subject), [1 / 5, 9 / 5])
    assert subject.notes == ["no linear layer reads these units: scored by group-norm"]


def test_units_that_nothing_reads_are_told() -> None:
    subject = read_by(reading(X, U, [0, 2]), size=3)
    assert score("obs", subject)[1] == 0
    assert subject.notes == ["1 of 3 units are read by no linear layer: they score 0"]


@pytest.mark.parametrize("name", DATA)
def test_data_is_asked_for(name: str) -> None:
    with pytest.raises(UsageError, match="needs data: give --data"):
        score(name, Subject(2, (), np.random.default_rng(0)))


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("taylor", [1, 1]), ("fisher", [2.5, 0.5]), ("gradient", [2, 1])])
def test_gradients_worked_by_hand(name: str, expected: list[float]) -> None:
    gates = np.array([[3.0, -1], [-1, -1]])
    subject = Subject(2, (), np.random.default_rng(0), sense=lambda: gates)
    assert score(name, subject).tolist() == expected


def test_gradients_of_half_precision_do_not_overflow() -> None:
    gates = np.full((8, 1), 60_000, np.float16)
    subject = Subject(1, (), np.random.default_rng(0), sense=lambda: gates)  # type: ignore[arg-type, return-value]
    assert [float(score(name, subject)[0]) for name in ("taylor", "fisher", "gradient")] == [6e4, 1.8e9, 6e4]


@pytest.mark.parametrize("name", ["taylor", "fisher", "gradient"])
def test_gradients_are_asked_for(name: str) -> None:
    with pytest.raises(UsageError, match="needs gradients"):
        score(name, Subject(2, (), np.random.default_rng(0)))


def test_numbers_of_units_may_be_of_any_integer_type() -> None:
    part = reading(X, U)
    narrow: Numbers = part.units.astype(np.int32)
    np.testing.assert_allclose(score("obs", read_by(part._replace(units=narrow))), score("obs", read_by(part)))


def test_inverses_of_many_columns() -> None:
    x = rows(700, 300)
    part = reading(x, weights(2, 300), np.repeat(np.arange(150), 2).tolist())
    deviation = x.std(axis=0)
    expected = np.linalg.inv(np.cov(x.T, bias=True) / np.outer(deviation, deviation) + 1e-3 * np.eye(300))
    np.testing.assert_allclose(Reader(part).inverse, expected, rtol=1e-6, atol=1e-6)
