"""Loss curves and how a budget is spent on them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import CostModel
from onnxprune.budget import curves as curve
from onnxprune.budget.allocation import Budget
from onnxprune.budget.curves import FEW_POINTS, FLOOR, Curve, evenly, measured, shapeless, spend
from onnxprune.budget.heldout import HeldOut
from onnxprune.budget.ranking import Ranking, rank
from onnxprune.errors import PruneError
from onnxprune.recovery.compensation import compensated
from onnxprune.recovery.statistics import Statistics
from tests.laws import analyse, parse
from tests.linears import batches, prepared, replaced

NET = parse("""g (float[N,3,9,9] x) => (float[N,4] y) <float[16,3,3,3] u, float[16] c, float[24,16,3,3] w, float[24] b,
    float[12,24,1,1] k, float[12,4] v> {
    h = Conv <pads = [1, 1, 1, 1]> (x, u, c)  r = Relu(h)  m = Conv(r, w, b)  s = Relu(m)  d = Conv(s, k)  q = Relu(d)
    p = GlobalAveragePool(q)  f = Flatten(p)  y = MatMul(f, v) }""")
ANALYSIS = prepared(NET)
COST = CostModel(ANALYSIS, {"x": (1, 3, 9, 9)})
NONE = np.zeros(ANALYSIS.units, dtype=bool)
RANKING = rank(ANALYSIS, "l2")
SHAPES = {"x": (-1, 3, 9, 9)}
GROUPS = range(ANALYSIS.groups)


def shaped(
    slopes: Sequence[float], power: float = 2.0, budget: Budget | None = None, removed: Mask = NONE
) -> list[Curve]:
    """Curves that rise as a power of how much is gone."""
    plain = shapeless(ANALYSIS, RANKING, budget or Budget(macs=0.5), removed)
    return [Curve(c.order, c.counts, slope * c.losses**power) for c, slope in zip(plain, slopes, strict=True)]


def gone(removed: Mask) -> list[int]:
    return [int(removed[ANALYSIS.members(group)].sum()) for group in GROUPS]


def cost(removed: Mask, measure: str) -> float:
    return float(getattr(COST(removed), measure) / getattr(COST.dense, measure))


def loss(curves: Sequence[Curve], removed: Mask) -> float:
    return sum(float(c.losses[c.counts == count][0]) for c, count in zip(curves, gone(removed), strict=True))


@pytest.mark.parametrize("group", GROUPS)
def test_a_curve_orders_units_by_score_and_knows_how_many_may_go(group: int) -> None:
    found = shapeless(ANALYSIS, RANKING, Budget(macs=0.5), NONE)[group]
    units = ANALYSIS.members(group)
    assert sorted(found.order) == units.tolist()
    assert (np.diff(RANKING.scores[found.order]) >= 0).all()
    assert found.counts.tolist() == list(range(len(units)))
    np.testing.assert_allclose(found.losses, found.counts / len(units))


def test_widths_are_aligned_and_no_smaller_than_asked_for() -> None:
    found = shapeless(ANALYSIS, RANKING, Budget(macs=0.5, align=8, min_keep=9), NONE)
    by_size = {len(c.order): c.counts.tolist() for c in found}
    assert by_size == {16: [0], 24: [0, 8], 12: [0]}
    found = shapeless(ANALYSIS, RANKING, Budget(macs=0.5, min_keep=10), NONE)
    assert {len(c.order): int(c.counts[-1]) for c in found} == {16: 6, 24: 14, 12: 2}


def test_a_group_without_scores_stays_whole() -> None:
    ranking = Ranking(RANKING.scores, {1: "why not"})
    assert shapeless(ANALYSIS, ranking, Budget(macs=0.5), NONE)[1].counts.tolist() == [0]


def test_units_that_are_gone_are_not_offered_again() -> None:
    removed = NONE.copy()
    removed[ANALYSIS.members(0)[:5]] = True
    found = shapeless(ANALYSIS, RANKING, Budget(macs=0.5, min_keep=2), removed)[0]
    size = len(ANALYSIS.members(0))
    assert not set(found.order.tolist()) & set(np.flatnonzero(removed).tolist())
    assert int(found.counts[-1]) == size - 5 - 2
    assert found.losses[0] == pytest.approx(5 / size)


@settings(deadline=None, max_examples=40)
@given(
    slopes=st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    power=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    measure=st.sampled_from(["macs", "params", "bytes"]),
    keep=st.floats(0.3, 1.0),
    align=st.sampled_from([1, 2, 4]),
    least=st.integers(1, 4),
)
def test_a_budget_is_met_within_what_may_go(
    slopes: list[float], power: float, measure: str, keep: float, align: int, least: int
) -> None:
    budget = Budget(**{measure: keep}, align=align, min_keep=least)
    curves = shaped(slopes, power, budget)
    for removed in (spend(curves, NONE, COST, budget, keep), evenly(curves, NONE, COST, budget, keep)):
        assert cost(removed, measure) <= keep
        for group, count in enumerate(gone(removed)):
            kept = len(ANALYSIS.members(group)) - count
            assert kept >= least
            assert kept % align == 0
            assert count in curves[group].counts
            assert removed[curves[group].order[:count]].all(), "the lowest scores go first"


@pytest.mark.parametrize("method", [spend, evenly])
@pytest.mark.parametrize("measure", ["macs", "params", "bytes"])
def test_a_smaller_budget_removes_more(method: object, measure: str) -> None:
    assert callable(method)
    curves, found = shaped([1.0, 3.0, 0.2]), []
    for keep in (1.0, 0.8, 0.6, 0.4, 0.35):
        found.append(method(curves, NONE, COST, Budget(**{measure: keep}), keep))  # type: ignore[arg-type]
    costs = [cost(removed, measure) for removed in found]
    assert not found[0].any()
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
    assert all(found[i].sum() <= found[i + 1].sum() for i in range(4))


@pytest.mark.parametrize("keep", [0.85, 0.6, 0.35])
@pytest.mark.parametrize("align", [1, 4])
def test_what_a_portion_overshot_is_given_back(keep: float, align: int) -> None:
    """No group could do with one step less."""
    analysis = analyse(
        parse("""g (float[N,9] x) => (float[N,4] y) <float[9,150] u, float[150,200] w, float[200,4] v> {
        h = MatMul(x, u)  r = Relu(h)  k = MatMul(r, w)  s = Relu(k)  y = MatMul(s, v) }""")
    )
    none, cost_of = np.zeros(analysis.units, dtype=bool), CostModel(analysis)
    budget = Budget(params=keep, align=align)
    plain = shapeless(analysis, rank(analysis, "l2"), budget, none)
    curves = [Curve(c.order, c.counts, slope * c.losses**2) for c, slope in zip(plain, (1, 3), strict=True)]
    removed = spend(curves, none, cost_of, budget, keep)
    most = keep * cost_of.dense.params
    assert cost_of(removed).params <= most
    for c in curves:
        count = int(removed[c.order].sum())
        assert count in c.counts
        if count:
            trial = removed.copy()
            trial[c.order[c.counts[c.counts < count][-1] :]] = False
            assert cost_of(trial).params > most


@pytest.mark.parametrize("flat", GROUPS)
def test_a_group_that_costs_nothing_goes_first(flat: int) -> None:
    slopes = [1.0, 1.0, 1.0]
    slopes[flat] = 0.0
    curves = shaped(slopes)
    only = NONE.copy()
    only[curves[flat].order[:-1]] = True
    keep = cost(only, "params")
    found = gone(spend(curves, NONE, COST, Budget(params=keep), keep))
    assert found[flat] == len(curves[flat].order) - 1
    assert sum(found) == found[flat]


def test_a_wall_is_not_climbed_while_there_is_another_way() -> None:
    """The middle group is free up to a wall; the others cost at once."""
    plain = shapeless(ANALYSIS, RANKING, Budget(macs=0.5), NONE)
    free = Curve(plain[1].order, plain[1].counts, (plain[1].counts > 12) * np.float64(10))
    high = [Curve(c.order, c.counts, (c.counts > 0) * np.float64(1)) for c in plain]
    curves = [high[0], free, high[2]]
    keep = 0.6
    assert gone(spend(curves, NONE, COST, Budget(params=keep), keep))[1] <= 12


@pytest.mark.parametrize("keep", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("slopes", [(1.0, 1.0, 1.0), (1.0, 3.0, 0.2), (0.3, 1.0, 2.0)])
def test_spending_is_close_to_the_best_of_all_ways(keep: float, slopes: tuple[float, ...]) -> None:
    curves = shaped(slopes)
    ways = product(*(range(0, len(c.counts), 1 + len(c.counts) // 12) for c in curves))
    best = np.inf
    for counts in ways:
        total = sum(float(c.losses[count]) for c, count in zip(curves, counts, strict=True))
        if total < best:
            trial = NONE.copy()
            for c, count in zip(curves, counts, strict=True):
                trial[c.order[:count]] = True
            best = total if cost(trial, "macs") <= keep else best
    assert loss(curves, spend(curves, NONE, COST, Budget(macs=keep), keep)) <= 1.1 * best


def test_what_is_lost_already_does_not_count() -> None:
    curves = shaped([1.0, 3.0, 0.2])
    lifted = [Curve(c.order, c.counts, c.losses + lost) for c, lost in zip(curves, (9.0, 0.0, 5.0), strict=True)]
    budget = Budget(macs=0.5)
    np.testing.assert_array_equal(spend(lifted, NONE, COST, budget, 0.5), spend(curves, NONE, COST, budget, 0.5))


def test_spending_by_loss_beats_spending_evenly() -> None:
    curves = shaped([0.01, 5.0, 0.1])
    for keep in (0.7, 0.5):
        budget = Budget(macs=keep)
        by_loss, even = (f(curves, NONE, COST, budget, keep) for f in (spend, evenly))
        assert loss(curves, by_loss) < loss(curves, even)


def test_a_flattened_curve_is_its_root() -> None:
    found = shaped([0.3, 1.0, 2.0])[1]
    half = found.flattened(0.5)
    np.testing.assert_allclose(half.losses, np.sqrt(found.losses))
    assert (half.order is found.order, half.counts is found.counts) == (True, True)


def test_evenly_takes_the_same_fraction_of_every_group() -> None:
    removed = evenly(shaped([1.0, 1.0, 1.0]), NONE, COST, Budget(params=0.4), 0.4)
    fractions = [count / (len(ANALYSIS.members(group)) - 1) for group, count in enumerate(gone(removed))]
    assert max(fractions) - min(fractions) < 0.1
    assert min(fractions) > 0.2


@pytest.mark.parametrize("method", [spend, evenly])
def test_what_is_out_of_reach_is_said(method: object) -> None:
    assert callable(method)
    budget = Budget(params=0.01, min_keep=8)
    curves = shaped([1.0, 1.0, 1.0], budget=budget)
    with pytest.raises(PruneError, match=r"params cannot be brought to 0\.01"):
        method(curves, NONE, COST, budget, 0.01)


@pytest.mark.parametrize("method", [spend, evenly])
def test_what_is_gone_stays_gone(method: object) -> None:
    assert callable(method)
    removed = NONE.copy()
    removed[ANALYSIS.members(1)[::3]] = True
    budget = Budget(macs=0.4)
    found = method(shaped([1.0, 1.0, 1.0], removed=removed), removed, COST, budget, 0.4)
    assert found[removed].all()
    assert found.sum() > removed.sum()
    assert cost(found, "macs") <= 0.4


def test_without_groups_nothing_can_be_spent() -> None:
    analysis = analyse(parse("g (float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul(x, w) }"))
    for method in (spend, evenly):
        with pytest.raises(PruneError):
            method([], np.zeros(0, dtype=bool), CostModel(analysis), Budget(params=0.5), 0.5)


# ---- measured curves -----------------------------------------------------------------------------------------------


def studied(analysis: Analysis) -> tuple[Statistics, HeldOut, list[Curve]]:
    statistics = Statistics(analysis, batches(SHAPES, 4, 8))
    held_out = HeldOut(analysis.graph, batches(SHAPES, 1, 8, seed=3))
    none = np.zeros(analysis.units, dtype=bool)
    return statistics, held_out, shapeless(analysis, rank(analysis, "l2"), Budget(macs=0.5), none)


def test_a_measured_curve_is_the_held_out_loss_of_the_compensated_model() -> None:
    statistics, held_out, plain = studied(ANALYSIS)
    found = list(measured(statistics, held_out, plain, NONE, FEW_POINTS))
    for before, after in zip(plain, found, strict=True):
        np.testing.assert_array_equal(after.order, before.order)
        np.testing.assert_array_equal(after.counts, before.counts)
        assert (np.diff(after.losses) > 0).all()
        assert after.losses[0] == 0
        highest = 0.0
        for point in FEW_POINTS:
            index = round(point * (len(after.counts) - 1))
            mask = NONE.copy()
            mask[after.order[: after.counts[index]]] = True
            fresh = HeldOut(ANALYSIS.graph, batches(SHAPES, 1, 8, seed=3))
            highest = max(highest, fresh.loss(compensated(statistics, mask)).error)
            floor = FLOOR * after.counts[index] / after.counts[-1]
            assert after.losses[index] == pytest.approx(highest + floor, rel=1e-4)


def test_between_two_points_a_curve_is_straight() -> None:
    statistics, held_out, plain = studied(ANALYSIS)
    for found in measured(statistics, held_out, plain, NONE, (1.0,)):
        np.testing.assert_allclose(found.losses, found.losses[-1] * found.counts / found.counts[-1])


def test_a_group_that_repeats_itself_is_free_and_goes_first() -> None:
    """The middle layer's channels are there three times; one of each is enough."""
    model = parse("""g (float[N,3,9,9] x) => (float[N,4] y) <float[16,3,3,3] u, float[24,16,3,3] w, float[24] b,
        float[12,24,1,1] k, float[12,4] v> {
        h = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu(h)  m = Conv(r, w, b)  s = Relu(m)  d = Conv(s, k)  q = Relu(d)
        p = GlobalAveragePool(q)  f = Flatten(p)  y = MatMul(f, v) }""")
    for name in ("w", "b"):
        replaced(model, name, lambda array: array.__setitem__(slice(8, None), np.concatenate([array[:8]] * 2)))
    analysis = prepared(model)
    none = np.zeros(analysis.units, dtype=bool)
    statistics, held_out, _ = studied(analysis)
    scores = rank(analysis, "l2").scores
    units = analysis.unit_of[analysis.span(("w", 0))]
    scores[units] = np.arange(24, 0, -1)
    plain = shapeless(analysis, Ranking(scores, {}), Budget(macs=0.5), none)
    curves = list(measured(statistics, held_out, plain, none, FEW_POINTS))
    flat = int(analysis.group_of[units[0]])
    at_half = [float(c.losses[len(c.losses) // 2]) for c in curves]
    assert at_half[flat] < 0.02 * min(at_half[:flat] + at_half[flat + 1 :])
    removed = spend(curves, none, CostModel(analysis, {"x": (1, 3, 9, 9)}), Budget(macs=0.5), 0.5)
    assert removed[analysis.members(flat)].mean() > max(
        removed[analysis.members(group)].mean() for group in GROUPS if group != flat
    )


def test_curves_start_from_the_model_as_it_is_by_now() -> None:
    removed = NONE.copy()
    removed[ANALYSIS.members(0)[:4]] = True
    values = compensated(Statistics(ANALYSIS, batches(SHAPES, 4, 8)), removed)
    statistics = Statistics(ANALYSIS, batches(SHAPES, 4, 8), values=values)
    held_out = HeldOut(ANALYSIS.graph, batches(SHAPES, 1, 8, seed=3))
    plain = shapeless(ANALYSIS, RANKING, Budget(macs=0.5), removed)
    found = list(curve.measured(statistics, held_out, plain, removed, (1.0,)))
    fresh = HeldOut(ANALYSIS.graph, batches(SHAPES, 1, 8, seed=3))
    for c in found:
        mask = removed.copy()
        mask[c.order[: c.counts[-1]]] = True
        wanted = fresh.loss(compensated(statistics, mask)).error - fresh.loss(values).error
        assert c.losses[0] == 0
        assert c.losses[-1] == pytest.approx(max(0.0, wanted) + FLOOR, rel=1e-3)
