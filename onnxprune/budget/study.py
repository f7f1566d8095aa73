"""What goes, and what the rest becomes, decided on data: score, allocate, refit, compare on held-out batches.

The best is kept. Nothing is cut here: the pruned model is the dense one with zeros and new values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import Cost, CostModel
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.linear import layers
from onnxprune.budget import curves as curve
from onnxprune.budget.allocation import Budget, allocate
from onnxprune.budget.clock import Clock
from onnxprune.budget.curves import Curve
from onnxprune.budget.heldout import HeldOut, Loss
from onnxprune.budget.ranking import Ranking, rank
from onnxprune.data.inputs import Feed, Shapes
from onnxprune.data.sampling import count
from onnxprune.errors import PruneError, UsageError
from onnxprune.model.edits import with_biases, with_values
from onnxprune.model.record import Array, Record
from onnxprune.recovery.compensation import compensated
from onnxprune.recovery.methods import recovered
from onnxprune.recovery.recalibration import attuned
from onnxprune.recovery.sequence import Step, apart
from onnxprune.recovery.statistics import Statistics
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal

COMPARED = ("obs", "wifv", "cssp", "l2", "bn-scale")  # by the criterion "auto"
FIRST_STEP, LAST_STEP = 0.25, 0.02  # of the dense cost, by which a loss limit is approached
LEAST_BLIND = 0.001  # the least ρ of a refit on inputs that were made up
STAGES = "stages"
MARGIN = 1.1  # stages have looked at the held-out data again and again: they must be better by this
STAGE = 0.8  # of what is left, that a stage keeps
MOST_STAGES = 5
WORK = 3e12  # multiply-accumulates that measuring one model's loss curves may take; fewer points beyond
STAGED_WORK = 6e11  # where curves take more, they are measured once


@dataclass(frozen=True)
class Candidate:
    """A way to spend the budget, and how the refitted model does on held-out data."""

    name: str
    criterion: str
    removed: Mask
    loss: Loss
    values: Values
    steps: list[Step] = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """What is remembered of a candidate: what it costs, and how its refitted model did on held-out data."""

    name: str
    criterion: str
    cost: Cost
    loss: Loss

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, "criterion": self.criterion, **self.cost.to_json(), **self.loss.to_json()}


class Study:
    """A model, its units, and calibration data.

    Args:
        model: the model.
        feeds: the calibration data in small batches; every fifth is held out.
        shapes: of open inputs, for MACs.
        seed: of everything random.
        recover: how what is left makes up for what went (see `onnxprune.recovery.methods.METHODS`).
        progress: called with the name of each stage.
        blind: whether the data are made up, so that little should be believed of them; until all is decided,
            normalisations have the statistics of these data.

    Attributes:
        clock: what measures a budget of time, where there is one.
        widths: of a group, the numbers of units that may stay, if they are not to be multiples of the alignment.
        measure: how much worse a model with these values is by the user's metric, where there is one.
        known: the loss curves of the dense model, where they were measured before.
        labels: the classes of each feed's rows, where they are known.
        tried: every candidate that was refitted and judged, in order.
        losses: the loss curves of the dense model, group by group, once they are measured.
    """

    def __init__(
        self,
        model: Model,
        feeds: Sequence[Feed],
        shapes: Shapes,
        seed: int = 0,
        recover: str = "auto",
        progress: Callable[[str], None] = lambda stage: None,
        *,
        blind: bool = False,
    ) -> None:
        self.model, self.feeds, self.seed, self.recover, self.progress = model, list(feeds), seed, recover, progress
        self.measure: Callable[[Values], float] | None = None
        self.clock: Clock | None = None
        self.widths: Callable[[int], Sequence[int]] | None = None
        self.known: Callable[[Sequence[Curve]], list[Curve]] | None = None
        self.labels: list[Array] = []
        self.least_ridge = LEAST_BLIND if blind else 0.0
        self.unscored: dict[int, str] = {}
        self.notes: list[str] = []
        self.tried: list[Trial] = []
        self.losses: list[Curve] = []
        biased = Graph(with_biases(model.graph, layers(model.graph, model.analysis.rule)))
        self.attuned: Values = attuned(biased, self.feeds) if blind and recover != "bn" else {}
        self.analysis = Analysis(Graph(with_values(biased, self.attuned)) if self.attuned else biased, model.protection)
        self.cost: CostModel = CostModel(self.analysis, shapes)
        self.seen, held_out = apart(self.feeds)
        self.held_out = HeldOut(self.analysis.graph, held_out or self.feeds)

    def statistics(self, values: Values | None = None) -> Statistics:
        """What criteria ask for, of the model as it is by now."""
        return Statistics(self.analysis, self.seen, self.seed, values, apart(self.labels)[0])

    @property
    def none(self) -> Mask:
        """Nothing is removed."""
        return np.zeros(self.analysis.units, dtype=bool)

    def rank(self, statistics: Statistics, criterion: str, budget: Budget) -> Ranking:
        """Score every unit."""
        with threadpool_limits(1):  # so that results do not depend on how many threads there are
            found = rank(self.analysis, criterion, self.seed, evidence=statistics, ratio=budget.ratio, cost=self.cost)
        self.unscored = found.unscored
        self.notes += [note for note in found.notes if note not in self.notes]
        return found

    def best(self, criterion: str, budget: Budget, schedule: str) -> Candidate:
        """The way to spend a budget after which held-out outputs are closest to the dense model's.

        Raises:
            UsageError: a loss is allowed, and there is nothing to measure it by.
            PruneError: the budget is out of reach.
        """
        if budget.max_drop is not None and self.measure is None and not self.held_out.outputs:
            raise UsageError("The model has no output of floats to measure --max-drop by: give --data and --labels.")
        chosen = self._best_criterion(budget) if criterion == "auto" else criterion
        if budget.max_drop is not None:
            return self._within(chosen, budget, budget.max_drop)
        found = list(self.candidates(chosen, budget, schedule))
        return min(found, key=lambda candidate: candidate.loss.error * (MARGIN if candidate.name == STAGES else 1.0))

    def candidates(self, criterion: str, budget: Budget, schedule: str = "auto") -> Iterator[Candidate]:
        """Ways to spend a budget, each refitted and judged.

        Raises:
            PruneError: the budget is out of reach.
        """
        self.progress("statistics")
        statistics = self.statistics()
        ranking = self.rank(statistics, criterion, budget)
        keep = budget.keep or 0.0
        if budget.ratio is not None or schedule == "scores":
            yield self.judged("scores", self.met(partial(self._by_scores, ranking, budget), keep), criterion)
            return
        plain = self.shapeless(ranking, budget, self.none)
        even = self.met(lambda share: curve.evenly(plain, self.none, self.cost, budget, share), keep)
        yield self.judged("uniform", even, criterion)
        curves = self.curves(statistics, plain, self.none)
        for name, power in (("curves", 1.0), ("flattened curves", 0.5)):
            spend = partial(curve.spend, [c.flattened(power) for c in curves], self.none, self.cost, budget)
            yield self.judged(name, self.met(spend, keep), criterion)
        if schedule in ("iterative", "dynamic") or (schedule == "auto" and self.work <= STAGED_WORK):
            yield self.staged(criterion, budget, keep, curves, dynamic=schedule == "dynamic")

    def _by_scores(self, ranking: Ranking, budget: Budget, keep: float) -> Mask:
        """The units with the least scores."""
        wanted = budget if budget.keep is None else budget.keeping(keep)
        return allocate(self.analysis, ranking, wanted, self.cost)

    def shapeless(self, ranking: Ranking, budget: Budget, removed: Mask) -> list[Curve]:
        """Every group's units in order, and how many of them may go."""
        return curve.shapeless(self.analysis, ranking, budget, removed, self.widths)

    def met(self, spend: Callable[[float], Mask], keep: float) -> Mask:
        """The units to remove for a budget; where it is one of time, as the clock says."""
        return spend(keep) if self.clock is None else self.clock.met(spend, keep)

    def _best_criterion(self, budget: Budget) -> str:
        """The criterion whose choice does best on held-out data, the same fraction of every group gone."""
        statistics = self.statistics()
        losses = {}
        for name in COMPARED:
            ranking = self.rank(statistics, name, budget)
            even = replace(budget, ratio=None, max_drop=None, macs=0.5) if budget.keep is None else budget
            plain = self.shapeless(ranking, even, self.none)
            removed = curve.evenly(plain, self.none, self.cost, even, even.keep or 0.5)
            losses[name] = self.judged(name, removed, name).loss.error
        return min(losses, key=lambda name: losses[name])

    def _within(self, criterion: str, budget: Budget, allowed: float) -> Candidate:
        """As much as a loss allows: propose, refit, evaluate, accept or roll back and try a smaller step."""
        self.progress("statistics")
        statistics = self.statistics()
        plain = self.shapeless(self.rank(statistics, criterion, budget), budget, self.none)
        curves = self.curves(statistics, plain, self.none)
        accepted = self.judged("nothing", self.none, criterion)
        keep, step = 1.0, FIRST_STEP
        while step >= LAST_STEP:
            target = keep - step
            try:
                removed = curve.spend(curves, self.none, self.cost, budget, target)
            except PruneError:
                step /= 2
                continue
            proposed = self.judged(f"{target:.3f} of the {budget.measure}", removed, criterion)
            if self.drop(proposed) <= allowed:
                accepted, keep = proposed, target
                step = min(step, target / 2)
            else:
                step /= 2
        return accepted

    def drop(self, candidate: Candidate) -> float:
        """How much worse a candidate is: by the metric, else by squared error and, of classifiers, agreement."""
        if self.measure is not None:
            return self.measure(candidate.values)
        disagreement = 1 - candidate.loss.agreement if self.held_out.is_classifier else 0.0
        return max(disagreement, candidate.loss.error)

    def staged(
        self, criterion: str, budget: Budget, keep: float, curves: Sequence[Curve], *, dynamic: bool = False
    ) -> Candidate:
        """Spend the budget bit by bit; scores and curves are taken anew from the refitted model in between.

        Args:
            criterion: what units are scored by.
            budget: how much goes.
            keep: the fraction of the cost to keep.
            curves: of the dense model.
            dynamic: propose several ways to take each bit, and roll all back but the best.
        """
        stages = min(MOST_STAGES, max(1, round(np.log(max(keep, 1e-3)) / np.log(STAGE))))
        removed = self.none
        for number in range(stages):
            if number:
                self.progress(f"stage {number + 1} of {stages}")
                statistics = self.statistics(self.refit(removed, self.seen)[0])
                plain = self.shapeless(self.rank(statistics, criterion, budget), budget, removed)
                curves = self.curves(statistics, plain, removed)
            target = keep ** ((number + 1) / stages)
            proposed = [curves, [c.flattened(0.5) for c in curves]] if dynamic else [curves]
            spends = [partial(curve.spend, found, removed, self.cost, budget) for found in proposed]
            last = number == stages - 1
            masks = [self.met(spend, target) if last else spend(target) for spend in spends]
            removed = self._accepted(masks, criterion)
        return self.judged("dynamic" if dynamic else STAGES, removed, criterion)

    def _accepted(self, masks: Sequence[Mask], criterion: str) -> Mask:
        """Of several proposals the one that does best on held-out data."""
        if len(masks) == 1:
            return masks[0]
        found = [self.judged("proposal", mask, criterion) for mask in masks]
        return min(found, key=lambda candidate: candidate.loss.error).removed

    @property
    def work(self) -> float:
        """Multiply-accumulates that measuring all loss curves takes."""
        rows = sum(map(count, self.held_out.feeds))
        return float(self.cost.dense.macs * rows * self.analysis.groups * len(curve.POINTS) / 2)

    def curves(self, statistics: Statistics, plain: Sequence[Curve], removed: Mask) -> list[Curve]:
        """Measure the loss curves."""
        self.progress("loss curves")
        points = curve.POINTS if self.work <= WORK else curve.FEW_POINTS
        if self.known is not None and not removed.any():
            found = self.known(plain)
        else:
            with threadpool_limits(1):
                found = curve.measured(statistics, self.held_out, plain, removed, points, self._repaired)
        if not removed.any():
            self.losses = found
        return found

    def _repaired(self, statistics: Statistics, removed: Mask) -> Values:
        """What constants hold when a curve is measured: made up for only where that is what will be done."""
        if self.recover == "none":
            return removal.zeroed(self.analysis, removed, statistics.values)
        return compensated(statistics, removed)

    def judged(self, name: str, removed: Mask, criterion: str) -> Candidate:
        """Refit and compare on held-out data."""
        self.progress(f"refitting ({name})")
        values, steps = self.refit(removed, self.seen)
        self.held_out.start()
        loss = self.held_out.loss(values)
        self.tried.append(Trial(name, criterion, self.cost(removed), loss))
        return Candidate(name, criterion, removed, loss, values, steps)

    def refit(self, removed: Mask, feeds: Sequence[Feed], *, thorough: bool = False) -> tuple[Values, list[Step]]:
        """The values of what is left, fitted to these batches."""
        return recovered(
            self.analysis, removed, feeds, self.recover, self.seed, self.progress, self.least_ridge, thorough=thorough
        )

    def helps(self, candidate: Candidate) -> bool:
        """Whether the recovery does any good on held-out data; it is taken back otherwise."""
        self.held_out.start()
        return candidate.loss.error < self.held_out.loss(removal.zeroed(self.analysis, candidate.removed)).error

    def finished(self, removed: Mask) -> tuple[Record, list[Step]]:
        """The model without these units, fitted to all batches but not cut yet, and what was done."""
        self.progress("refitting on all data")
        values, steps = self.refit(removed, self.feeds, thorough=True)
        graph = self.analysis.graph
        changed = {
            name: value
            for name, value in values.items()
            if name not in self.attuned and not np.array_equal(value, np.asarray(graph.constant(name)))
        }
        wanted = layers(self.model.graph, self.model.analysis.rule)
        used = [
            a
            for a, b in zip(wanted, layers(graph, self.analysis.rule), strict=True)
            if a.bias is None and b.bias is not None and np.any(changed.get(b.bias.name, 0))
        ]
        biased = Graph(with_biases(self.model.graph, used)) if used else self.model.graph
        kept = {name: value for name, value in changed.items() if biased.is_constant(name)}
        return with_values(biased, kept), steps


def carried(removed: Mask, source: Analysis, target: Analysis) -> Mask:
    """The units of another version of a model, with the same constants and a few more, that are these."""
    units = dict(source.slices())
    found = np.zeros(target.units, dtype=bool)
    for axis, own in target.slices():
        if axis in units:
            gone = (units[axis] >= 0) & removed[units[axis]]
            found[own[gone & (own >= 0)]] = True
    return found
