"""What a report shows beside the result: how wide every layer is, what was tried, and what could not be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.explain import Explainer
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.linear import layers
from onnxprune.budget.curves import Curve
from onnxprune.budget.study import Trial


@dataclass(frozen=True)
class Width:
    """How many channels one layer makes.

    Attributes:
        layer: its label.
        group: the group that its channels belong to, ``None`` if none may go.
        before, after: how many there are.
    """

    layer: str
    group: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Details:
    """Everything about a decision that neither the plan nor the proof says.

    Attributes:
        layers: the width of every linear layer, in the order in which they run.
        staying: ``(reason, weights, parameters)`` of what no unit touches.
        tried: the candidates that held-out data judged.
        losses: the loss curve of each group, by group; empty if none was measured.
    """

    layers: Sequence[Width] = ()
    staying: Sequence[tuple[str, int, int]] = ()
    tried: Sequence[Trial] = ()
    losses: Sequence[Curve] = field(default=(), repr=False)

    @classmethod
    def of(cls, model: Model, removed: Mask, tried: Sequence[Trial] = (), losses: Sequence[Curve] = ()) -> Details:
        """Gather what there is to say about a model that loses these units."""
        staying = Explainer(model.analysis).staying()
        return cls(_widths(model.analysis, removed), staying, tuple(tried), tuple(losses))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "layers": [{"layer": w.layer, "group": w.group, "before": w.before, "after": w.after} for w in self.layers],
            "staying": [{"why": why, "weights": n, "params": p} for why, n, p in self.staying],
            "tried": [trial.to_json() for trial in self.tried],
            "losses": [{"removed": c.counts.tolist(), "error": c.losses.tolist()} for c in self.losses],
        }


def _widths(analysis: Analysis, removed: Mask) -> list[Width]:
    found = []
    for layer in layers(analysis.graph, analysis.rule):
        kept = analysis.kept(layer.y, removed)
        if kept.size:
            found.append(Width(layer.op.label, _group(analysis, layer.y), int(kept.size), int(kept.sum())))
    return found


def _group(analysis: Analysis, axis: Axis) -> int | None:
    """The group that an axis' indices belong to; the first one, if a layer's output is split between several."""
    if axis not in analysis.closure.ids:
        return None
    units = analysis.unit_of[analysis.span(axis)]
    groups = np.unique(analysis.group_of[units[units >= 0]])
    return int(groups[0]) if groups.size else None
