"""Time as a budget: searched with what a table predicts, met only when a clock says so.

Multiply-accumulates do not tell how long a model takes: what a unit saves depends on the width it leaves, on what the
runtime fuses, and on the machine (He et al., AMC, 2018; Yang et al., NetAdapt, 2018). A table of measured widths makes
the search quick; every model that it proposes is cut and timed against the dense one, in turns, and the search goes on
where the table was wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import Cost, CostModel
from onnxprune.errors import PruneError
from onnxprune.latency.bench import against_dense
from onnxprune.latency.table import LatencyModel
from onnxprune.latency.timing import Limits, Timing
from onnxprune.metrics.evidence import Bench
from onnxprune.surgery import removal, saving

TRIES = 6  # proposals that are timed until one takes what it may
SLACK = 0.03  # of the time that a model may take, and need not use
INSIDE = 0.1  # of a bracket, that a proposal keeps away from its ends
CONFIRMED = 0.05  # of the time by which the final measurement may exceed what was asked for
SEARCHING, CONFIRMING = Limits(seconds=6.0), Limits(seconds=20.0)
PARTS = 4  # that a message names


@dataclass(frozen=True)
class TimedCost(Cost):
    """The cost, and the predicted nanoseconds of a run."""

    latency: int


class TimedCostModel(CostModel):
    """A cost model that also predicts latency."""

    def __init__(self, analysis: Analysis, bench: Bench, table: LatencyModel) -> None:
        super().__init__(analysis, bench.shapes)
        self.table = table

    def __call__(self, removed: Mask) -> TimedCost:
        """The cost once these units are gone."""
        cost = super().__call__(removed)
        return TimedCost(cost.params, cost.bytes, cost.macs, round(1e6 * self.table(removed)))


class _Search:
    """For which predicted share of the time the measured one is what it may be, and little less.

    Args:
        keep: the share that may be measured.
        proposed: the predicted share to begin with.
    """

    def __init__(self, keep: float, proposed: float) -> None:
        self.keep, self.proposed, self.aim = keep, min(1.0, proposed), keep * (1 - SLACK / 2)
        self.best: Mask | None = None
        self._below = self._above = (0.0, 0.0)  # predicted and measured, of what was quick enough, and of what was not

    def learn(self, share: float, removed: Mask) -> bool:
        """Take a measurement in; true if there is no need for more."""
        if share > self.keep:
            self._above = self.proposed, share
        elif share >= self._below[1]:
            self._below, self.best = (self.proposed, share), removed
        self.proposed *= self.aim / max(share, 1e-9)
        if self._below[0] and self._above[0]:
            (low, quick), (high, slow) = self._below, self._above
            part = math.log(self.aim / quick) / math.log(slow / quick)
            self.proposed = low * (high / low) ** min(max(part, INSIDE), 1 - INSIDE)
        self.proposed = min(1.0, self.proposed)
        return self.keep * (1 - SLACK) <= share <= self.keep


class Clock:
    """Predicts and measures how long a model takes once units are gone, on the first provider that was asked for.

    Args:
        bench: the dense model, its file and what it is run on.
        analysis: the units, of the model or of one with biases added.
        progress: called with the name of each stage.

    Attributes:
        cost: parameters, bytes, multiply-accumulates and predicted latency of any choice of units.

    Raises:
        PruneError: too few pruned variants of the model run.
    """

    def __init__(self, bench: Bench, analysis: Analysis, progress: Callable[[str], None]) -> None:
        self.bench, self.analysis, self.progress = bench, analysis, progress
        self.table = LatencyModel(analysis, bench.one_row(), bench.evidence.providers[0], progress=progress)
        self.cost = TimedCostModel(analysis, bench, self.table)
        self._bias = 1.0  # by which measured shares exceed predicted ones
        self._shares: dict[bytes, float] = {}

    def widths(self, group: int) -> Sequence[int]:
        """The numbers of units that a group does well to keep on this machine."""
        return self.table.steps(group)

    def met(self, spend: Callable[[float], Mask], keep: float) -> Mask:
        """The units to remove so that the model takes this share of the dense model's time.

        Args:
            spend: the units to remove for a predicted share.
            keep: the share.

        Raises:
            PruneError: no choice is quick enough.
        """
        search = _Search(keep, keep / self._bias)
        for _ in range(TRIES):
            try:
                removed = spend(search.proposed)
            except PruneError as error:
                if search.best is not None:
                    break
                raise PruneError(f"{error} {self.where()}") from error
            share = self.share(removed)
            self._bias = share / search.proposed
            if search.learn(share, removed):
                break
        if search.best is None:
            raise PruneError(f"No choice of widths was measured to take {keep:.0%} of the time. {self.where()}")
        return search.best

    def share(self, removed: Mask) -> float:
        """The measured share of the dense model's time once these units are gone."""
        known = removed.tobytes()
        if known not in self._shares:
            self._shares[known] = self._measured(removed)
        return self._shares[known]

    def _measured(self, removed: Mask) -> float:
        self.progress("timing a proposal")
        with TemporaryDirectory(prefix="onnxprune-") as folder:
            cut = saving.write(removal.remove(self.analysis, removed), Path(folder) / "cut", "cut.onnx")
            return against_dense(self.bench, cut, SEARCHING)[1].ratio

    def confirmed(self, cut: Path, keep: float, *, allow_slower: bool) -> tuple[list[Timing], str]:
        """The timings of the dense model and of the result, and what the user should know of them.

        Raises:
            PruneError: the result is not as quick as was asked for, and that is not allowed.
        """
        self.progress("timing the result")
        timings = against_dense(self.bench, cut, CONFIRMING)
        if timings[1].ratio <= keep * (1 + CONFIRMED):
            return timings, ""
        told = f"The result takes {timings[1].ratio:.1%} of the dense model's time, and not {keep:.1%}. {self.where()}"
        if not allow_slower:
            raise PruneError(f"{told} Nothing was written; --allow-slower writes it anyway.")
        return timings, told

    def where(self) -> str:
        """One sentence about where the time goes."""
        parts = ", ".join(f"{part.operator} {part.share:.0%}" for part in self.table.where()[:PARTS])
        return f"Of the dense model's {self.table.dense:.3g} ms most go to: {parts}."
