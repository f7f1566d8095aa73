"""Which units go: a ratio of every group, or a budget for the whole model met by one ranking across groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import CostModel
from onnxprune.budget.ranking import Ranking
from onnxprune.errors import PruneError, UsageError

Measure = Literal["params", "macs", "bytes", "latency"]
MEASURES: tuple[Measure, ...] = ("params", "macs", "bytes", "latency")


@dataclass(frozen=True)
class Budget:
    """How much to remove. Exactly one of ``ratio``, the `MEASURES` and ``max_drop`` is given.

    Attributes:
        ratio: the fraction of each group's units to remove, in [0, 1].
        params: the fraction of the model's parameters to keep, in (0, 1].
        macs: the fraction of the model's multiply-accumulates to keep, in (0, 1].
        bytes: the fraction of the model's file to keep, in (0, 1].
        latency: the fraction of the model's time to keep, in (0, 1], as measured on this machine.
        max_drop: how much worse the model may become, in [0, 1]; as much goes as that allows.
        align: kept widths are multiples of this where a group is wide enough; 1 for any width.
        min_keep: the units that every group keeps at least.
    """

    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None
    max_drop: float | None = None
    align: int = 1
    min_keep: int = 1

    def __post_init__(self) -> None:
        given = {n: v for n in ("ratio", *MEASURES, "max_drop") if (v := getattr(self, n)) is not None}
        if len(given) != 1:
            names = "ratio, params, macs, bytes, latency, speedup and max_drop"
            raise UsageError(f"Give one of {names}; got {', '.join(given) or 'none'}.")
        name, value = next(iter(given.items()))
        if not 0 <= value <= 1:  # NaN fails too
            raise UsageError(f"{name} must lie in [0, 1], not {value!r}.")
        for name in ("align", "min_keep"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)!r}.")

    def part(self, step: int, steps: int) -> Budget:
        """What of it has gone after so many of so many steps, each of which takes the same fraction of what is left.

        Raises:
            UsageError: the budget is a loss, which cannot be divided.
        """
        if self.max_drop is not None:
            raise UsageError("A loss cannot be divided into steps; give a ratio, params, macs or bytes.")
        if self.ratio is not None:
            return replace(self, ratio=1 - (1 - self.ratio) ** (step / steps))
        return self.keeping((self.keep or 0.0) ** (step / steps))

    def keeping(self, keep: float) -> Budget:
        """The same budget with another fraction to keep."""
        changed: dict[str, float] = {self.measure: keep}
        return replace(self, **changed)  # type: ignore[arg-type]

    @property
    def measure(self) -> Measure:
        """What is counted: MACs, where the budget is no measure itself."""
        return next((name for name in MEASURES if getattr(self, name) is not None), "macs")

    @property
    def keep(self) -> float | None:
        """The fraction of it to keep."""
        found: float | None = getattr(self, self.measure)
        return found


def allocate(analysis: Analysis, ranking: Ranking, budget: Budget, cost: CostModel) -> Mask:
    """The units to remove, lowest score first, ties by lowest index.

    Raises:
        PruneError: the budget is out of reach under the alignment.
    """
    groups = [_Group(analysis, ranking, budget, g) for g in range(analysis.groups)]
    if budget.ratio is not None:
        ratio = budget.ratio
        return _chosen(analysis, groups, [g.removable(math.floor(ratio * len(g.order))) for g in groups])
    return _to_budget(analysis, groups, cost, budget.measure, budget.keep or 0.0)


def auto_align() -> int:
    """What kept widths should be a multiple of on this machine: 16 with AVX-512, else 8."""
    config = np.show_config(mode="dicts") or {}
    found = config.get("SIMD Extensions", {}).get("found", [])
    return 16 if any("AVX512" in name or name == "X86_V4" for name in found) else 8


def out_of_reach(measure: str, keep: float, reached: float) -> PruneError:
    """What to say of a budget that cannot be met."""
    return PruneError(
        f"{measure} cannot be brought to {keep:g} of the model: {reached:.3f} is the least that the alignment,"
        " --min-keep and what is pinned allow. Try --align 1, or a larger budget."
    )


class _Group:
    """One group's units in the order in which they go, and the widths it may have."""

    def __init__(self, analysis: Analysis, ranking: Ranking, budget: Budget, number: int) -> None:
        units = analysis.members(number)
        scores = ranking.scores[units]
        order = np.argsort(scores, kind="stable")
        self.order = units[order]
        unscored = number in ranking.unscored
        mean = 1.0 if unscored else scores.mean()
        self.relative: NDArray[np.float64] = scores[order] / mean if mean > 0 else scores[order]
        self.step = aligned_step(len(units), budget.align, analysis.width_per_unit(number))
        self.least = len(units) if unscored else min(len(units), budget.min_keep)

    def removable(self, wanted: int) -> int:
        """How many units go if this many are to go: what is kept is rounded up to an aligned width."""
        kept = max(len(self.order) - wanted, self.least)
        return max(0, len(self.order) - math.ceil(kept / self.step) * self.step)

    def one_step_less(self, count: int) -> int:
        """The next smaller number of removed units that leaves an aligned width, or the whole group."""
        return max(0, count - self.step)


def aligned_step(units: int, align: int, per_unit: int) -> int:
    """Of what kept widths are multiples in a group of so many units."""
    step = align // math.gcd(align, per_unit)
    while step > units:  # a narrow group cannot reach the alignment; halves of it are the next best
        step //= 2
    return max(1, step)


def _chosen(analysis: Analysis, groups: list[_Group], counts: list[int]) -> Mask:
    """The mask of so many units of each group, the lowest-scored ones."""
    removed = np.zeros(analysis.units, dtype=bool)
    for group, count in zip(groups, counts, strict=True):
        removed[group.order[:count]] = True
    return removed


def _to_budget(analysis: Analysis, groups: list[_Group], cost: CostModel, measure: Measure, keep: float) -> Mask:
    """The shortest run of the global ranking whose removal meets the budget.

    Scores are divided by their group's mean, so that layers of different scale compete fairly. Cost falls with every
    unit, so bisection finds the run.
    """
    owner = np.concatenate([np.full(len(g.order), i) for i, g in enumerate(groups)] or [np.zeros(0, dtype=int)])
    relative = np.concatenate([g.relative for g in groups] or [np.zeros(0)])
    owner = owner[np.argsort(relative, kind="stable")]

    def wanted(run: int) -> list[int]:
        counts = np.bincount(owner[:run], minlength=len(groups)).tolist()
        return [group.removable(count) for group, count in zip(groups, counts, strict=True)]

    def fits(counts: list[int]) -> bool:
        return int(getattr(cost(_chosen(analysis, groups, counts)), measure)) <= keep * dense

    dense = int(getattr(cost.dense, measure))
    least = wanted(len(owner))
    if not fits(least):
        raise out_of_reach(measure, keep, int(getattr(cost(_chosen(analysis, groups, least)), measure)) / max(dense, 1))
    counts = wanted(first(len(owner), lambda run: fits(wanted(run))))
    return _chosen(analysis, groups, _given_back(groups, counts, fits))


def _given_back(groups: list[_Group], counts: list[int], fits: Callable[[list[int]], bool]) -> list[int]:
    """Where whole aligned steps overshot the budget, give back the steps that matter most and still fit."""
    while True:
        open_groups = [i for i, count in enumerate(counts) if count]
        open_groups.sort(key=lambda i: (-groups[i].relative[counts[i] - 1], i))
        for i in open_groups:
            trial = [*counts[:i], groups[i].one_step_less(counts[i]), *counts[i + 1 :]]
            if fits(trial):
                counts = trial
                break
        else:
            return counts


def first(end: int, holds: Callable[[int], bool]) -> int:
    """The smallest number in [0, end] for which a monotone condition holds."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
