"""Loss curves: what removing more and more of a group costs at the model's outputs, and how a budget is spent by them.

A curve is measured with recovery in the loop: its units go in the order of their scores, their readers make up for
them in closed form, and the outputs are compared with the dense model's on held-out data. A few points are measured,
the rest lies on straight lines between them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import CostModel
from onnxprune.budget.allocation import Budget, aligned_step, first, out_of_reach
from onnxprune.budget.heldout import HeldOut
from onnxprune.budget.ranking import Ranking
from onnxprune.criteria.base import Numbers, Scores
from onnxprune.recovery.compensation import compensated
from onnxprune.recovery.statistics import Statistics
from onnxprune.recovery.walk import Values

POINTS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)  # of what may go, where a curve is measured
FEW_POINTS = (1 / 4, 1 / 2, 3 / 4, 1.0)
CHUNKS = 24  # into how many portions a group is divided when a budget is spent
FLOOR = 1e-6  # a loss below this is noise


@dataclass(frozen=True)
class Curve:
    """One group.

    Attributes:
        order: its units that are left, the one that matters least first.
        counts: how many of them may go, ascending, from 0.
        losses: what that costs at the outputs, one number for each of ``counts``; it never falls.
    """

    order: Numbers
    counts: Numbers
    losses: Scores

    def flattened(self, power: float) -> Curve:
        """The same curve with its losses raised to a power: below 1, what a group loses last counts for less."""
        return Curve(self.order, self.counts, self.losses**power)


def shapeless(
    analysis: Analysis,
    ranking: Ranking,
    budget: Budget,
    removed: Mask,
    widths: Callable[[int], Sequence[int]] | None = None,
) -> list[Curve]:
    """Curves of which only the counts are known; losses are the fraction of the group's units that went.

    Args:
        analysis: the model's units.
        ranking: the order in which they go.
        budget: its alignment, and the units that every group keeps at least.
        removed: what is gone by now.
        widths: of a group, the numbers of units that may stay, in the place of the alignment.
    """
    return [_shapeless(analysis, ranking, budget, removed, group, widths) for group in range(analysis.groups)]


def _shapeless(
    analysis: Analysis,
    ranking: Ranking,
    budget: Budget,
    removed: Mask,
    group: int,
    allowed: Callable[[int], Sequence[int]] | None,
) -> Curve:
    units = analysis.members(group)
    left = units[~removed[units]]
    order = left[np.argsort(ranking.scores[left], kind="stable")]
    least = len(units) if group in ranking.unscored else min(len(units), budget.min_keep)
    if allowed is not None:
        widths = np.array([width for width in allowed(group) if width >= least], dtype=np.int64)
    else:
        step = aligned_step(len(units), budget.align, analysis.width_per_unit(group))
        widths = np.arange(-(-least // step) * step, len(left) + 1, step)
    counts = np.unique([0, *(len(left) - widths[widths <= len(left)])])
    return Curve(order, counts, (counts + len(units) - len(left)) / len(units))


def measured(
    statistics: Statistics,
    held_out: HeldOut,
    plain: Sequence[Curve],
    removed: Mask,
    points: Sequence[float],
    repaired: Callable[[Statistics, Mask], Values] = compensated,
) -> list[Curve]:
    """The curves of a model, group by group in the order in which it runs.

    Args:
        statistics: of the model as it is by now, on data other than the held-out.
        held_out: what losses are measured on.
        plain: the curves without their losses.
        removed: the units that are gone by now.
        points: where each curve is measured, as fractions of what may go.
        repaired: what constants hold once units are gone, and what is done about it.
    """
    held_out.start(statistics.values)
    base = held_out.loss(statistics.values).error
    starts = [place_of(statistics, curve) for curve in plain]
    found: dict[int, Curve] = {}
    for group in np.argsort(starts, kind="stable"):
        curve, start = plain[group], starts[group]
        picks = np.unique(np.round(np.array([0.0, *points]) * (len(curve.counts) - 1)).astype(int))
        losses = [0.0]
        for pick in picks[1:]:
            mask = removed.copy()
            mask[curve.order[: curve.counts[pick]]] = True
            losses.append(max(0.0, held_out.loss(repaired(statistics, mask), start).error - base))
        losses = list(np.maximum.accumulate(np.nan_to_num(losses, posinf=1e6)))
        every = np.interp(curve.counts, curve.counts[picks], losses)
        found[int(group)] = Curve(curve.order, curve.counts, every + FLOOR * curve.counts / max(1, curve.counts[-1]))
    return [found[group] for group in range(len(plain))]


def place_of(statistics: Statistics, curve: Curve) -> int:
    """The first node of the main graph that reads a constant which these units lie on."""
    mask = np.zeros(statistics.analysis.units, dtype=bool)
    mask[curve.order] = True
    names = {axis[0] for axis, units in statistics.analysis.slices() if mask[units[units >= 0]].any()}
    places = statistics.places
    return min((places[name] for name in names if name in places), default=0)


def spend(curves: Sequence[Curve], removed: Mask, cost: CostModel, budget: Budget, keep: float) -> Mask:
    """The units to remove so that a budget is met at the least loss: greedily, by loss per cost at the widths by now.

    Raises:
        PruneError: the budget is out of reach.
    """
    measure, dense = budget.measure, int(getattr(cost.dense, budget.measure))

    def price(counts: Sequence[int]) -> int:
        return int(getattr(cost(_mask(removed, curves, counts)), measure))

    steps = _Steps(curves, price)
    while steps.now > keep * dense:
        if not steps.take():
            raise out_of_reach(measure, keep, steps.now / max(dense, 1))
    return _mask(removed, curves, _given_back(curves, steps.counts(), lambda counts: price(counts) <= keep * dense))


def evenly(curves: Sequence[Curve], removed: Mask, cost: CostModel, budget: Budget, keep: float) -> Mask:
    """The same fraction of every group, as much as a budget asks for.

    Raises:
        PruneError: the budget is out of reach.
    """
    measure, dense = budget.measure, int(getattr(cost.dense, budget.measure))

    def at(ratio: float) -> list[int]:
        return [int(c.counts[min(len(c.counts) - 1, round(ratio * (len(c.counts) - 1)))]) for c in curves]

    def price(counts: Sequence[int]) -> int:
        return int(getattr(cost(_mask(removed, curves, counts)), measure))

    if price(at(1.0)) > keep * dense:
        raise out_of_reach(measure, keep, price(at(1.0)) / max(dense, 1))
    least = first(1000, lambda run: price(at(run / 1000)) <= keep * dense)
    return _mask(removed, curves, _given_back(curves, at(least / 1000), lambda counts: price(counts) <= keep * dense))


class _Steps:
    """Portions of groups, the one that costs least at the outputs for what it saves taken first."""

    def __init__(self, curves: Sequence[Curve], price: Callable[[Sequence[int]], int]) -> None:
        self.curves, self.price = curves, price
        self.at = [0] * len(curves)
        self.now = price(self.counts())
        self.queue = [(0.0, group) for group in range(len(curves))]

    def counts(self) -> list[int]:
        """How many units of each group go by now."""
        return [int(curve.counts[at]) for curve, at in zip(self.curves, self.at, strict=True)]

    def take(self) -> bool:
        """Take the best portion; false if there is none. What a group saves only falls as others shrink."""
        while self.queue:
            _, group = heapq.heappop(self.queue)
            rate = self._rate(group)
            if rate is None:
                continue
            if self.queue and rate > self.queue[0][0]:
                heapq.heappush(self.queue, (rate, group))
                continue
            self.at[group] = min(len(self.curves[group].counts) - 1, self.at[group] + self._portion(group))
            self.now = self.price(self.counts())
            heapq.heappush(self.queue, (rate, group))
            return True
        return False

    def _portion(self, group: int) -> int:
        return max(1, (len(self.curves[group].counts) - 1) // CHUNKS)

    def _rate(self, group: int) -> float | None:
        """The least loss per cost of any further step of a group."""
        curve, at = self.curves[group], self.at[group]
        if at + 1 >= len(curve.counts):
            return None
        counts = self.counts()
        counts[group] = int(curve.counts[-1])
        saved = self.now - self.price(counts)
        if saved <= 0:
            return None
        per_unit = saved / (curve.counts[-1] - curve.counts[at])
        further = np.arange(at + 1, len(curve.counts))
        rates = (curve.losses[further] - curve.losses[at]) / (per_unit * (curve.counts[further] - curve.counts[at]))
        return float(rates.min())


def _mask(removed: Mask, curves: Sequence[Curve], counts: Sequence[int]) -> Mask:
    mask = removed.copy()
    for curve, count in zip(curves, counts, strict=True):
        mask[curve.order[:count]] = True
    return mask


def _given_back(curves: Sequence[Curve], counts: list[int], fits: Callable[[list[int]], bool]) -> list[int]:
    """Where the last portion overshot, give back what costs most and still fits, a step at a time."""
    at = [int(np.searchsorted(curve.counts, count)) for curve, count in zip(curves, counts, strict=True)]
    open_groups = {group for group, place in enumerate(at) if place}
    while open_groups:
        group = max(sorted(open_groups), key=lambda g: curves[g].losses[at[g]] - curves[g].losses[at[g] - 1])
        trial = [*counts[:group], int(curves[group].counts[at[group] - 1]), *counts[group + 1 :]]
        if fits(trial):
            counts, at[group] = trial, at[group] - 1
        if not fits(trial) or not at[group]:
            open_groups.discard(group)
    return counts
