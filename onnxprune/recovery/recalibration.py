"""Statistics repaired: a channel's mean and deviation are made what they were, or what they are by now is written down.

Where a batch normalisation follows, its mean and variance become those of what it reads by now (BN re-calibration;
Sun et al., Hybrid Re-calibration, 2019). A layer without one has its outputs scaled and shifted to the mean and the
deviation that they had in the dense model (REPAIR; Jordan et al., 2023).

The other way round, a normalisation's statistics become those of inputs that were made up (`attuned`): what comes out
then has the mean and the deviation that it has on real inputs, and what lies behind it reads what it was made for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np

from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.linear import Bias, Linear, is_free
from onnxprune.data.inputs import Feed
from onnxprune.model.record import Array
from onnxprune.recovery.moments import Matrix
from onnxprune.recovery.sequence import Pass, Step
from onnxprune.recovery.walk import Values, Walk

MEAN, VARIANCE = 3, 4
BOUNDS = 0.5, 2.0  # of the factor by which a deviation is repaired
FAINTEST = 1e-3  # of the remembered variance, below which nothing is amplified


class Recalibration(Pass):
    """One pass that repairs statistics."""

    @cached_property
    def normalisations(self) -> set[int]:
        """The places of those whose statistics can be written."""
        return {op.index for op in normalisations(self.graph)}

    def visit(self, op: Op, place: int, changed: Collection[str]) -> Step | None:
        """Re-calibrate a normalisation, or repair a layer that has none."""
        if op.index in self.normalisations:
            return self._recalibrate(op, place)
        linear = self.linears.get(op.index)
        if linear is None or linear.bias is None or self._is_normalized(linear):
            return None
        return self._repair(linear, linear.bias, place)

    def _is_normalized(self, linear: Linear) -> bool:
        readers = self.graph.consumers.get(linear.y[0], [])
        return any(reader.kind == "BatchNormalization" for reader, _ in readers)

    def _recalibrate(self, op: Op, place: int) -> Step:
        self.pruned.advance(place)
        mean, variance = _moments(self.pruned, op.ins[0], 1)
        for slot, found in ((MEAN, mean), (VARIANCE, variance)):
            old = self.now(op.ins[slot])
            gone = (old == 0) & (np.asarray(self.graph.constant(op.ins[slot])) != 0)  # zeroed with its channel
            self.put(op.ins[slot], np.where(gone, 0, found).astype(old.dtype))
        return Step(op.label, ridge=np.inf)

    def _repair(self, linear: Linear, added: Bias, place: int) -> Step:
        self.pruned.advance(place)
        self.dense.advance(place)
        was, now = (_moments(walk, *linear.y) for walk in (self.dense, self.pruned))
        scale = np.clip(np.sqrt(was[1] / np.where(now[1] > 0, now[1], np.inf)), *BOUNDS)
        scale = np.where(now[1] > 0, scale, 1.0)
        weight = linear.matrix(self.now(linear.w).astype(np.float64))
        by_group = scale.reshape(linear.groups, -1)
        self.put(linear.w, linear.tensor(weight * by_group[:, :, None]).astype(self.now(linear.w).dtype))
        old = self.now(added.name)
        moved = was[0] - scale * now[0]  # of y' = scale · y + moved
        inside = scale * added.factor * old.astype(np.float64).ravel() + moved
        bias = inside / added.factor if added.inside else old.astype(np.float64).ravel() + moved
        alive = weight.any(2).ravel() | (old.ravel() != 0)
        self.put(added.name, np.where(alive, bias, 0).reshape(old.shape).astype(old.dtype))
        return Step(linear.op.label, ridge=np.inf)


def normalisations(graph: Graph) -> list[Op]:
    """The normalisations of the main graph whose scale, shift and statistics are constants."""
    found = [op for op in graph.ops if op.kind == "BatchNormalization" and not (op.domain or op.home.path)]
    return [op for op in found if all(map(graph.is_constant, op.ins[1:5]))]


def attuned(graph: Graph, feeds: Sequence[Feed]) -> Values:
    """The statistics of every normalisation, as they are on these inputs, each behind the ones before it."""
    walk = Walk(graph, feeds, {})
    wanted = {
        op.index for op in normalisations(graph) if all(is_free(graph, op.ins[slot]) for slot in (MEAN, VARIANCE))
    }
    for place, op in enumerate(walk.ops):
        if op.index in wanted:
            walk.advance(place)
            old = [np.asarray(graph.constant(op.ins[slot])) for slot in (MEAN, VARIANCE)]
            mean, variance = _moments(walk, op.ins[0], 1)
            walk.values[op.ins[MEAN]] = mean.astype(old[0].dtype)
            walk.values[op.ins[VARIANCE]] = np.maximum(variance, FAINTEST * old[1]).astype(old[1].dtype)
    return walk.values


def _moments(walk: Walk, tensor: str, axis: int) -> tuple[Matrix, Matrix]:
    """The mean and the variance of every index of an axis."""

    def look(number: int, values: Mapping[str, Array]) -> tuple[int, Matrix, Matrix]:
        rows = np.moveaxis(values[tensor], axis, -1).reshape(-1, values[tensor].shape[axis]).astype(np.float64)
        return len(rows), rows.sum(0), np.square(rows).sum(0)

    found = list(walk.map([tensor], look))
    count = sum(rows for rows, _, _ in found)
    mean = np.sum([total for _, total, _ in found], axis=0) / count
    squares = np.sum([total for _, _, total in found], axis=0) / count
    return mean, np.maximum(squares - np.square(mean), 0)
