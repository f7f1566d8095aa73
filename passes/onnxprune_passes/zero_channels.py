"""Zero the units that matter least; shapes stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.algebra.analysis import Model
from onnxprune.passes import PassResult
from onnxprune.plan import decide
from onnxprune.surgery import removal
from onnxprune.wishes import Recipe


@dataclass(frozen=True)
class ZeroChannels(Recipe):
    """Write zeros into the lowest-scored units (channels, neurons, heads) of the model."""

    name: ClassVar[str] = "zero-channels"

    def run(self, model: Model) -> PassResult:
        """Plan, then erase."""
        decision = decide(model, self)
        draft = None if decision.plan.empty else removal.zero(model.analysis, decision.removed)
        return PassResult(draft, {"zeroed units": int(decision.removed.sum()), "units": model.analysis.units})
