"""Gradients without a training framework: of every sample's loss, at a gate of 1 behind every unit.

Samples are run one by one: then a gate needs no batch axis, whatever a model does with its first one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.autodiff.adjoint import Adjoint, gates, refusal
from onnxprune.criteria.base import Scores
from onnxprune.data.inputs import Feed
from onnxprune.data.sampling import count, rows_of
from onnxprune.model.record import Array
from onnxprune.model.tensors import FLOATS

T = TypeVar("T")
Seeds = Callable[[int, Sequence[Array]], list[Array]]  # of a sample's outputs, with a last axis of directions

DRAWS = 2  # of classes, or of signs, per sample
MOST_SAMPLES = 512
LEAST_PROBABILITY = 1e-12


class Gates:
    """Gradients at gates.

    The loss is the cross entropy of the first output; without labels, at classes that are drawn from the model's own
    answers (their squares' mean is the Fisher information), or, where that output is no row of scores, all outputs
    projected on random signs (their squares' mean is the diagonal of JᵀJ).

    Args:
        analysis: the model's units.
        feeds: the data.
        labels: the classes of each feed's rows; empty without labels.
        seed: of everything that is drawn.
        values: what some constants hold by now.
    """

    def __init__(
        self,
        analysis: Analysis,
        feeds: Sequence[Feed],
        labels: Sequence[Array] = (),
        seed: int = 0,
        values: Mapping[str, Array] | None = None,
    ) -> None:
        self.analysis, self.seed, self.values = analysis, seed, dict(values or {})
        samples = rows_of(analysis.graph, feeds)
        picked = np.sort(np.random.default_rng(seed).permutation(len(samples))[:MOST_SAMPLES])
        self.samples = [samples[number] for number in picked]
        owned = (
            np.split(np.concatenate(labels), np.cumsum([count(sample) for sample in samples])[:-1]) if labels else []
        )
        self.labels = [owned[number] for number in picked] if labels else []
        graph = analysis.graph
        made = {name for op in graph.ops if not op.home.path for name in op.outs}
        self.outputs = [v.name for v in graph.proto.output if graph.types.get(v.name) in FLOATS and v.name in made]
        self.places = gates(analysis)
        self._adjoints: dict[object, Adjoint] = {}

    @property
    def is_classifier(self) -> bool:
        """Whether the first output is a row of scores per sample."""
        shape = self.analysis.graph.shapes.get(self.outputs[0], ()) if self.outputs else ()
        return len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1

    @property
    def labelled(self) -> bool:
        """Whether the loss is taken at labels: there is one per sample, and each is one of the classes."""
        if not self.labels or not self.is_classifier:
            return False
        rows, classes = self.analysis.graph.shapes[self.outputs[0]]
        apt = all(isinstance(rows, str) or len(own) == rows for own in self.labels)
        return apt and all(((own >= 0) & (own < int(classes))).all() for own in self.labels)

    def gates(self, group: int) -> Scores:
        """The gradient of each loss at the gate of each unit, (losses, units); NaN where no gate is behind any."""
        return self._losses[:, self.analysis.members(group)] if self._is_gated(group) else self._none(group)

    def projections(self, group: int) -> Scores:
        """The same of the outputs, projected on signs and divided by their spread: squares are parts of its square."""
        return self._projections[:, self.analysis.members(group)] if self._is_gated(group) else self._none(group)

    def _is_gated(self, group: int) -> bool:
        units = self.analysis.members(group)
        return any(np.isin(gate.units, units).any() for gate in self.places)

    def _none(self, group: int) -> Scores:
        return np.full((1, len(self.analysis.members(group))), np.nan)

    @cached_property
    def _losses(self) -> Scores:
        if not self.is_classifier:
            return self._projections
        names = self.outputs[:1]
        outputs = [found[0].astype(np.float64) for found in self._forward(names)]
        likely = all((y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3) for y in outputs)
        of = _of_probabilities if likely else _of_logits

        def seeds(number: int, found: Sequence[Array]) -> list[Array]:
            scores = found[0].astype(np.float64)
            odds = scores / scores.sum(axis=1, keepdims=True) if likely else _softmax(scores)
            return [of(odds, self._classes(number, odds))]

        return self._pulled(names, seeds)

    def _classes(self, number: int, odds: Array) -> Array:
        """Which classes a sample's loss is taken at, (rows, directions)."""
        if self.labelled:
            return np.asarray(self.labels[number][:, None])
        drawn = np.random.default_rng((self.seed, number)).random((len(odds), 1, DRAWS))
        below: Array = np.cumsum(odds, axis=1)[:, :-1, None] < drawn
        return np.asarray(below.sum(axis=1))

    @cached_property
    def _projections(self) -> Scores:
        if not self.outputs:
            raise refusal("it has no output of floats")
        found = self._forward(self.outputs)
        spreads = [_spread([outputs[place] for outputs in found]) for place in range(len(self.outputs))]
        scales = [1 / np.sqrt(spread * len(spreads)) for spread in spreads]

        def seeds(number: int, outputs: Sequence[Array]) -> list[Array]:
            rng = np.random.default_rng((self.seed, number))
            return [
                scale * rng.choice([-1.0, 1.0], (*np.shape(y), DRAWS)) for scale, y in zip(scales, outputs, strict=True)
            ]

        return self._pulled(self.outputs, seeds)

    def _forward(self, names: Sequence[str]) -> list[list[Array]]:
        return list(self._each(names, lambda number, adjoint: adjoint.forward(self.samples[number])))

    def _pulled(self, names: Sequence[str], seeds: Seeds) -> Scores:
        """Jᵀ of each sample's seeds, per unit: (losses, units)."""

        def pull(number: int, adjoint: Adjoint) -> Scores:
            feed = self.samples[number]
            slopes = adjoint.pull(feed, seeds(number, adjoint.forward(feed)))
            total = np.zeros((self.analysis.units, slopes[0].shape[1]))
            for gate, slope in zip(self.places, slopes, strict=True):
                held = gate.units >= 0
                np.add.at(total, gate.units[held], slope[held])
            return total.T

        return np.concatenate(list(self._each(names, pull)))

    def _each(self, names: Sequence[str], work: Callable[[int, Adjoint], T]) -> Iterator[T]:
        """What a task makes of each sample: one thread each, results in order."""
        adjoints = [self._adjoint(names, feed) for feed in self.samples]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(work, range(len(adjoints)), adjoints)

    def _adjoint(self, names: Sequence[str], feed: Feed) -> Adjoint:
        key = (tuple(names), *(array.shape for array in feed.values()))
        if key not in self._adjoints:
            self._adjoints[key] = Adjoint(self.analysis, self.places, self.values, feed, names)
        return self._adjoints[key]


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _of_logits(odds: Array, classes: Array) -> Array:
    """The gradient of -log softmax(y)_c, (rows, K, directions): softmax(y) - onehot(c)."""
    return np.asarray(odds[:, :, None] - _one_hot(classes, odds.shape[1]))


def _of_probabilities(odds: Array, classes: Array) -> Array:
    """The gradient of -log y_c: -onehot(c) / y_c."""
    return np.asarray(-_one_hot(classes, odds.shape[1]) / np.maximum(odds, LEAST_PROBABILITY)[:, :, None])


def _one_hot(classes: Array, count: int) -> Array:
    return np.asarray(classes[:, None, :] == np.arange(count)[None, :, None]).astype(np.float64)


def _spread(outputs: Sequence[Array]) -> float:
    """The variance of all numbers of an output together, per sample; its square, where it is always the same."""
    rows = np.concatenate([y.astype(np.float64).reshape(-1, y.shape[-1] if y.ndim else 1) for y in outputs])
    total = float(np.square(rows - rows.mean(axis=0)).sum()) or float(np.square(rows).sum())
    return total / len(outputs) or 1.0
