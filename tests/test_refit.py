"""The solver against numpy's: plain least squares, its ridge and its gate."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.recovery import refit
from onnxprune.recovery.moments import Matrix
from onnxprune.recovery.refit import RIDGES, Solution, Sums, fit, solve


def rows(count: int, groups: int = 1, width: int = 5, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, groups, width)) @ rng.standard_normal((width, width)) + rng.standard_normal(
        width
    )


def matrices(groups: int = 1, made: int = 3, width: int = 5, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).standard_normal((groups, made, width))


def applied(weight: Matrix, x: Matrix) -> Matrix:
    return np.asarray(np.einsum("god,ngd->ngo", weight, x))


def solved(
    x: Matrix, y: Matrix, weight: Matrix, bias: Matrix, held_out: int = 20, *, only_bias: bool = False
) -> Solution:
    seen, rest = Sums.of(x[held_out:], y[held_out:]), Sums.of(x[:held_out], y[:held_out])
    return solve(seen, rest, weight, bias, () if only_bias else RIDGES)


def least_squares(x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
    """Weights and bias of every group, by numpy."""
    found = [
        np.linalg.lstsq(np.hstack([x[:, group], np.ones((len(x), 1))]), y[:, group], rcond=None)[0]
        for group in range(x.shape[1])
    ]
    return np.stack([one[:-1].T for one in found]), np.stack([one[-1] for one in found])


@pytest.mark.parametrize("groups", [1, 3])
def test_with_enough_rows_it_is_least_squares_with_an_intercept(groups: int) -> None:
    x, start = rows(400, groups), matrices(groups)
    y = applied(matrices(groups, seed=2), x) + 7 + 0.01 * np.random.default_rng(3).standard_normal((400, groups, 3))
    found = solved(x, y, start, np.zeros((groups, 3)))
    weight, bias = least_squares(x, y)
    assert found.ridge in RIDGES[:3]
    np.testing.assert_allclose(found.weight, weight, atol=1e-3)
    np.testing.assert_allclose(found.bias, bias, atol=1e-3)
    assert found.after < 1e-3 < 0.1 < found.before


@pytest.mark.parametrize("groups", [1, 2])
def test_the_ridge_pulls_towards_the_weights_as_they_are(groups: int) -> None:
    x, start = rows(50, groups), matrices(groups)
    sums = Sums.of(x, applied(matrices(groups, seed=2), x))
    far, near = fit(sums, start, 1e9), fit(sums, start, 1e-7)
    assert far is not None
    assert near is not None
    np.testing.assert_allclose(far, start, atol=1e-6)
    np.testing.assert_allclose(near, matrices(groups, seed=2), atol=1e-3)
    assert fit(sums, start, np.inf) is start


@settings(deadline=None, max_examples=30)
@given(
    groups=st.integers(1, 3),
    width=st.integers(1, 6),
    made=st.integers(1, 4),
    rho=st.sampled_from(RIDGES),
    seed=st.integers(0, 99),
)
def test_a_ridge_solution_minimises_error_and_distance(
    groups: int, width: int, made: int, rho: float, seed: int
) -> None:
    """Ridge regression is least squares on more rows: those of the square root of what it adds."""
    x, y = rows(40, groups, width, seed), rows(40, groups, made, seed + 1)
    start = matrices(groups, made, width, seed)
    found = fit(Sums.of(x, y), start, rho)
    assert found is not None
    for group in range(groups):
        own, target = x[:, group] - x[:, group].mean(0), y[:, group] - y[:, group].mean(0)
        more = np.sqrt(40 * rho * np.trace(own.T @ own / 40) / width) * np.eye(width)
        wanted = np.linalg.lstsq(np.vstack([own, more]), np.vstack([target, more @ start[group].T]), rcond=None)[0]
        np.testing.assert_allclose(found[group], wanted.T, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(groups=st.integers(1, 3), cut=st.integers(1, 39), seed=st.integers(0, 99))
def test_sums_of_disjoint_rows_add_up_and_know_the_error(groups: int, cut: int, seed: int) -> None:
    x, y = rows(40, groups, 4, seed), rows(40, groups, 3, seed + 1)
    whole, parts = Sums.of(x, y), Sums.of(x[:cut], y[:cut]) + Sums.of(x[cut:], y[cut:])
    for name in ("rows", "x", "y", "xx", "yx", "yy"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    weight, bias = matrices(groups, 3, 4, seed), rows(1, groups, 3, seed)[0]
    wrong = y - applied(weight, x) - bias
    np.testing.assert_allclose(whole.error(weight, bias), np.square(wrong).mean(0), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(whole.intercept(weight), (y - applied(weight, x)).mean(0), rtol=1e-8, atol=1e-9)
    h, c = whole.centred()
    for group in range(groups):
        both = np.cov(np.hstack([x[:, group], y[:, group]]).T, bias=True)
        np.testing.assert_allclose(h[group], both[:4, :4], atol=1e-8)
        np.testing.assert_allclose(c[group], both[4:, :4], atol=1e-8)


def test_targets_of_noise_leave_the_weights_alone() -> None:
    """Weights that are right for the held-out rows are not given up for what rows of noise say."""
    x, weight = rows(60), matrices()
    y = applied(weight, x)
    noise = y[20:] + 20 * np.random.default_rng(5).standard_normal((40, 1, 3))
    found = solve(Sums.of(x[20:], noise), Sums.of(x[:20], y[:20]), weight, np.zeros((1, 3)))
    assert found.ridge is None
    assert found.weight is weight
    assert found.before == found.after == pytest.approx(0, abs=1e-12)


def test_held_out_rows_of_another_distribution_leave_the_weights_alone() -> None:
    x, weight = rows(60), matrices()
    y = applied(weight, x)
    found = solve(Sums.of(x[20:], 9 - y[20:]), Sums.of(x[:20], y[:20] + 0.1), weight, np.zeros((1, 3)))
    assert found.ridge is None
    np.testing.assert_array_equal(found.weight, weight)
    np.testing.assert_array_equal(found.bias, 0)


def test_a_shift_alone_moves_only_the_bias() -> None:
    """Where the weights are right and few rows are noisy, nothing but the mean is worth taking."""
    rng = np.random.default_rng(0)
    x, weight = rows(30, width=12), matrices(width=12)
    y = applied(weight, x) + 5 + 3 * rng.standard_normal((30, 1, 3))
    y[:14] = applied(weight, x[:14]) + 5
    found = solved(x, y, weight, np.zeros((1, 3)), 14)
    assert found.ridge == np.inf
    assert found.weight is weight
    np.testing.assert_allclose(found.bias, (y - applied(weight, x)).mean(0))


def test_only_the_bias_moves_where_that_is_asked_for() -> None:
    x, weight = rows(100), matrices()
    y = applied(matrices(seed=2), x) + 50
    found = solved(x, y, weight, np.zeros((1, 3)), only_bias=True)
    assert found.ridge == np.inf
    np.testing.assert_array_equal(found.weight, weight)
    np.testing.assert_allclose((applied(found.weight, x) + found.bias).mean(0), y.mean(0))
    assert found.after < found.before


def test_errors_are_fractions_of_the_variance_of_what_is_held_out() -> None:
    x, weight, bias = rows(100), matrices(), np.ones((1, 3))
    y = applied(matrices(seed=2), x)
    found = solved(x, y, weight, bias)
    wrong = np.square(y[:20] - applied(weight, x[:20]) - bias).sum((1, 2)).mean()
    assert found.before == pytest.approx(wrong / y[:20].var(0).sum())


def test_the_final_weights_are_fitted_to_all_rows() -> None:
    x, start = rows(200), matrices()
    y = applied(matrices(seed=2), x) + np.random.default_rng(3).standard_normal((200, 1, 3))
    found = solved(x, y, start, np.zeros((1, 3)), 60)
    assert found.ridge is not None
    every = fit(Sums.of(x, y), start, found.ridge)
    assert every is not None
    np.testing.assert_allclose(found.weight, every)
    seen = fit(Sums.of(x[60:], y[60:]), start, found.ridge)
    assert seen is not None
    assert np.abs(found.weight - seen).max() > 1e-3


@pytest.mark.parametrize(("seen", "held_out"), [(0, 20), (20, 0), (0, 0)])
def test_without_rows_to_fit_or_to_judge_nothing_moves(seen: int, held_out: int) -> None:
    weight, bias = matrices(), np.ones((1, 3))
    y = applied(matrices(seed=2), rows(40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = solve(Sums.of(rows(40)[:seen], y[:seen]), Sums.of(rows(40)[:held_out], y[:held_out]), weight, bias)
    assert found == Solution(weight, bias, None, 0.0, 0.0)


@pytest.mark.parametrize("groups", [1, 2])
def test_fewer_rows_than_columns_stay_finite(groups: int) -> None:
    x = rows(9, groups, 40)
    y = applied(matrices(groups, width=40, seed=2), x)
    found = solved(x, y, matrices(groups, width=40), np.zeros((groups, 3)), 3)
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.bias).all()
    assert found.after <= found.before


@pytest.mark.parametrize("groups", [1, 2])
def test_columns_that_never_change_keep_their_weights(groups: int) -> None:
    x = rows(80, groups)
    x[:, :, 2] = 3.0
    y = applied(matrices(groups, seed=2), x)
    found = solved(x, y, matrices(groups), np.zeros((groups, 3)))
    np.testing.assert_allclose(found.weight[:, :, 2], matrices(groups)[:, :, 2], atol=1e-4)
    np.testing.assert_allclose(applied(found.weight, x) + found.bias, y, atol=1e-3)


def test_a_layer_that_reads_constants_only_moves_its_bias() -> None:
    x = np.ones((40, 1, 5))
    y = np.full((40, 1, 3), 4.0) + np.random.default_rng(0).standard_normal((40, 1, 3))
    found = solved(x, y, matrices(), np.zeros((1, 3)))
    np.testing.assert_allclose(found.weight, matrices(), atol=1e-9)
    np.testing.assert_allclose((applied(found.weight, x) + found.bias)[0], y.mean(0))


def test_a_system_that_cannot_be_solved_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsolvable(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr(refit, "cho_factor", unsolvable)
    x = rows(100)
    found = solved(x, applied(matrices(seed=2), x) + 9, matrices(), np.zeros((1, 3)))
    assert found.ridge == np.inf
