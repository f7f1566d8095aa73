"""Where two models part: the first tensor, in the order in which they run, that differs.

Intermediate tensors of the same name are compared, a few at a time, from the inputs on. Where one model is the other
with channels cut, only those that were kept are compared: all else about a tensor must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import Session
from onnxprune.errors import PruneError
from onnxprune.model.record import Array
from onnxprune.model.tensors import FLOATS
from onnxprune.recovery.walk import Walk
from onnxprune.verification.comparison import Comparison, Rules, tallied

PORTION = 32  # tensors that are looked at together
Load = Callable[[bytes], Session]
Run = tuple[Sequence[Any], ...]
Kept = Callable[[str, Array], Array | None]


@dataclass(frozen=True)
class Divergence:
    """The first tensor that differs.

    Attributes:
        tensor: its name.
        node: the name of the node that makes it; of a node without one, what it makes.
        op: the node's operator.
        comparison: how the tensor differs.
    """

    tensor: str
    node: str
    op: str
    comparison: Comparison

    def __str__(self) -> str:
        found = self.comparison
        how = found.problem or f"{found.relative:.2g} of its range"
        return f"first at tensor {self.tensor!r} of {self.op} node {self.node!r} ({how})"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Side:
    """A model, and how its parts are loaded."""

    graph: Graph
    load: Load


def first_difference(
    reference: Side, candidate: Side, feeds: Sequence[Feed], kept: Kept | None = None, rules: Rules | None = None
) -> Divergence | None:
    """The first tensor of two models that differs.

    Whole numbers are passed over: those that carry a width differ rightly, and others follow from what differs before.

    Args:
        reference: the model that is right.
        candidate: the other one.
        feeds: what both are run on.
        kept: what of a tensor of the reference, given its name, the candidate should have; ``None`` if unknown.
        rules: what may differ; NaN in both is not what is looked for here.

    Returns:
        The tensor; ``None`` if no tensor of the same name differs, or the models cannot be run part by part.
    """
    allowed = Rules(rules.tolerance if rules else None, equal_nan=True)
    walks = [Walk(side.graph, feeds, load=side.load) for side in (reference, candidate)]
    names = _shared(*walks)
    try:
        for start in range(0, len(names), PORTION):
            portion = names[start : start + PORTION]
            worst = _earliest(portion, _pairs(walks, portion, kept), allowed)
            if worst is not None:
                op = walks[0].ops[walks[0].maker[worst.output]]
                return Divergence(worst.output, op.node.name or op.out, op.kind, worst)
            rest = names[start + PORTION :]
            for walk in walks:
                walk.advance(min((walk.maker[name] for name in rest), default=0))
    except PruneError:  # a part that does not run by itself
        return None
    return None


def _earliest(names: Sequence[str], runs: Iterable[Run], rules: Rules) -> Comparison | None:
    """The first name whose values differ in a run; each run is judged by its own range, not by the largest one."""
    wrong = [
        comparison
        for run in runs
        for comparison in tallied(names, [run], rules) or ()
        if not (comparison or comparison.void)
    ]
    return min(wrong, key=lambda comparison: names.index(comparison.output), default=None)


def _shared(first: Walk, second: Walk) -> list[str]:
    """The tensors of floats that nodes of both models make of their inputs, in the first one's order."""
    types = first.graph.types
    fed = {value.name for value in first.graph.inputs}
    for op in first.ops:
        if not fed.isdisjoint(first.reads(op)):
            fed.update(name for name in op.outs if name)
    made = (name for op in first.ops for name in op.outs if name in fed)
    return [name for name in made if types.get(name) in FLOATS and name in second.maker]


def _pairs(walks: Sequence[Walk], names: Sequence[str], kept: Kept | None) -> Iterator[Run]:
    def listed(_: int, values: Mapping[str, Array]) -> list[Array]:
        return [values[name] for name in names]

    first, second = (walk.map(names, listed) for walk in walks)
    for wholes, others in zip(first, second, strict=True):
        parts = [kept(name, whole) if kept else whole for name, whole in zip(names, wholes, strict=True)]
        yield [o if p is None else p for p, o in zip(parts, others, strict=True)], others, wholes


def survivors(analysis: Analysis, removed: Mask) -> Kept:
    """What of a tensor stays once these units are gone."""

    def kept(name: str, whole: Array) -> Array | None:
        for axis in range(whole.ndim):
            number = analysis.closure.ids.get((name, axis))
            if number is None or not analysis.closure.sizes[number]:
                continue
            mask = analysis.kept((name, axis), removed)
            if mask.all():
                continue
            if mask.size != whole.shape[axis]:
                return None
            whole = whole.take(np.flatnonzero(mask), axis=axis)
        return whole

    return kept
