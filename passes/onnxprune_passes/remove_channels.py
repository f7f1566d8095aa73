"""Remove the units that matter least, and rewire every node that depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.algebra.analysis import Model
from onnxprune.passes import PassResult
from onnxprune.plan import decide
from onnxprune.surgery import removal
from onnxprune.wishes import Recipe


@dataclass(frozen=True)
class RemoveChannels(Recipe):
    """Remove the lowest-scored units (channels, neurons, heads) from the model."""

    name: ClassVar[str] = "remove-channels"

    def run(self, model: Model) -> PassResult:
        """Plan, then cut."""
        decision = decide(model, self)
        draft = None if decision.plan.empty else removal.remove(model.analysis, decision.removed)
        return PassResult(draft, {"removed units": int(decision.removed.sum()), "units": model.analysis.units})
