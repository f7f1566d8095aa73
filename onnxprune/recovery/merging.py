"""Neuron merging: a channel that goes is taken over by the kept one most like it, without looking at any data.

Behind a rectifier, a channel whose producer's row is s times another's is s times that channel. What read it reads the
other one instead, s times as strongly (Kim et al., Neuron Merging: Compensating for Pruned Neurons, 2020). Inputs only
decide how much alike two rows have to be, and whether merging helps at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.linear import Linear
from onnxprune.data.inputs import Feed
from onnxprune.recovery.moments import Matrix
from onnxprune.recovery.rectifier import rectifier
from onnxprune.recovery.refit import Solution
from onnxprune.recovery.sequence import Parts, Refit, sliced, summed
from onnxprune.recovery.statistics import units_on

LIKENESSES = (0.3, 0.45, 0.6, 0.75, 0.9)
"""The cosines between rows from which they may count as alike; the paper has 0.45."""


class _Row(NamedTuple):
    """What makes a unit: by which node, in which direction, how long."""

    producer: int
    direction: Matrix
    length: float


_Sides = tuple[list[tuple[int, _Row]], list[tuple[int, _Row]]]
"""Channels with their rows: those that go, and those that stay."""


class _Pair(NamedTuple):
    """A channel that goes, the one that takes over, and how many times that one it is."""

    group: int
    gone: int
    kept: int
    scale: float
    cosine: float


class Merge(Refit):
    """Every layer reads, for what is gone, the kept channel most like it."""

    only_bias = True

    def __init__(self, analysis: Analysis, removed: Mask, feeds: Sequence[Feed], seed: int = 0) -> None:
        super().__init__(analysis, removed, feeds, seed)
        self.rows = _rows(self.linears.values(), analysis)

    def _solve(self, parts: Parts, linear: Linear, live: Mask, columns: Mask) -> Solution:
        every, bias = summed(parts[0]) + summed(parts[1]), self._bias(linear)[live]
        as_it_is = sliced(linear.matrix(self.now(linear.w).astype(np.float64)), live, columns)
        before = every.relative(as_it_is, bias)
        best, pairs = Solution(as_it_is, bias, None, before, before), list(self._alike(linear))
        for likeness in LIKENESSES:
            merged = self._merged(linear, [pair for pair in pairs if pair.cosine >= likeness])
            weight = sliced(merged, live, columns)
            after = every.relative(weight, bias)
            if after < best.after:
                best = Solution(weight, bias, 0.0, before, after)
        return best

    def _alike(self, linear: Linear) -> Iterator[_Pair]:
        """For every channel that goes and that a layer reads, the one most like it of those that stay."""
        for group, units in enumerate(units_on(self.analysis, linear.x).reshape(linear.groups, -1).tolist()):
            made: dict[int, _Sides] = {}
            for channel, unit in enumerate(units):
                if unit in self.rows:
                    row = self.rows[unit]
                    made.setdefault(row.producer, ([], []))[0 if self.removed[unit] else 1].append((channel, row))
            for gone, kept in made.values():
                if gone and kept:
                    cosines = np.stack([row.direction for _, row in gone]) @ np.stack([r.direction for _, r in kept]).T
                    for (channel, row), likeness in zip(gone, cosines, strict=True):
                        other, its = kept[int(likeness.argmax())]
                        yield _Pair(group, channel, other, row.length / its.length, float(likeness.max()))

    def _merged(self, linear: Linear, pairs: Sequence[_Pair]) -> Matrix:
        """The weight, (G, O, D), with the columns of what is gone added to those of what is most like it."""
        dense = linear.matrix(np.asarray(self.graph.constant(linear.w)).astype(np.float64))
        merged = linear.matrix(self.now(linear.w).astype(np.float64))
        shape = (*merged.shape[:2], -1, linear.taps)
        read, columns = merged.reshape(shape), dense.reshape(shape)
        alive = np.logical_or.reduce(merged != 0, axis=2, keepdims=True)
        for group, gone, kept, scale, _ in pairs:
            read[group, :, kept] += alive[group] * scale * columns[group, :, gone]
        return read.reshape(dense.shape)


def _rows(linears: Iterable[Linear], analysis: Analysis) -> dict[int, _Row]:
    """The row that makes each unit, as the rectifier behind it sees it; of units that one row alone makes."""
    rows: dict[int, _Row] = {}
    twice: set[int] = set()
    for linear in linears:
        units = units_on(analysis, linear.y)
        seen = _seen(linear, analysis.graph)
        twice.update(rows.keys() & set(units.tolist()))
        if seen is not None:
            lengths = np.linalg.norm(seen, axis=1)
            made = zip(units.tolist(), seen, lengths.tolist(), strict=True)
            rows |= {
                unit: _Row(linear.op.index, row / size, size) for unit, row, size in made if unit >= 0 and size > 0
            }
        else:
            twice.update(units.tolist())
    return {unit: row for unit, row in rows.items() if unit not in twice}


def _seen(linear: Linear, graph: Graph) -> Matrix | None:
    """A layer's rows and biases, (G · O, D + 1), scaled and shifted on their way to a rectifier at zero."""
    cut = rectifier(graph, linear)
    if cut is None or cut.low != 0:
        return None
    weight = linear.matrix(np.asarray(graph.constant(linear.w)).astype(np.float64))
    bias = np.zeros(weight.shape[:2])
    if linear.bias is not None and linear.bias.inside:
        bias = linear.bias.factor * np.asarray(graph.constant(linear.bias.name)).astype(np.float64).reshape(bias.shape)
    rows = np.concatenate([weight * cut.factor[..., None], (bias * cut.factor + cut.shift)[..., None]], axis=2)
    return np.asarray(rows.reshape(-1, rows.shape[-1]))
