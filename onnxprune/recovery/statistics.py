"""What the linear layers of a model read on calibration data: moments of their rows, group by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.linear import Index, Linear, layers
from onnxprune.autodiff.gradients import Gates
from onnxprune.criteria.base import Numbers, Part, Scores
from onnxprune.data.inputs import Feed
from onnxprune.model.record import Array
from onnxprune.recovery.channelwise import channels
from onnxprune.recovery.moments import Layer, Moments
from onnxprune.recovery.walk import Walk

WIDEST = 2304  # columns whose moments are taken tap by tap; wider layers' are taken channel by channel
FLOPS = 2e10  # that the products of one layer's rows may take; more rows are sampled
HELD = 1 << 23  # numbers of all rows that are used of one layer
LEAST_ROWS = 4  # times the columns
MEMORY = 256 << 20  # bytes of all moments together


def sampled(count: int, columns: int, numbers: int, batches: int, seed: Sequence[int]) -> Index | None:
    """Which of a batch's rows are used: all, or as many as are affordable.

    Args:
        count: the rows.
        columns: how wide the matrix is that they are multiplied up to; rows are at least four times as many in all.
        numbers: how many are held for each row.
        batches: how many batches share what is affordable.
        seed: of the choice.
    """
    affordable = min(FLOPS / (2 * columns * numbers), HELD / numbers)
    most = max(affordable, LEAST_ROWS * columns) / batches
    if count <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, int(np.ceil(most)), replace=False))


class Statistics:
    """The moments that criteria ask for.

    Args:
        analysis: the model's units.
        feeds: the calibration data, in batches.
        seed: of the rows that are sampled where there are too many.
        values: what some constants hold by now.
        labels: the classes of each feed's rows, for gradients; empty without labels.
    """

    def __init__(
        self,
        analysis: Analysis,
        feeds: Sequence[Feed],
        seed: int = 0,
        values: Mapping[str, Array] | None = None,
        labels: Sequence[Array] = (),
    ) -> None:
        self.analysis, self.feeds, self.seed, self.values = analysis, feeds, seed, dict(values or {})
        self.labels = labels
        self.linears = list(layers(analysis.graph, analysis.rule))

    def value(self, name: str) -> Array:
        """What a constant holds by now."""
        found = self.values.get(name)
        return np.asarray(self.analysis.graph.constant(name)) if found is None else found

    @cached_property
    def places(self) -> dict[str, int]:
        """For each constant the first node of the main graph that reads it, counted there."""
        main = [op for op in self.analysis.graph.ops if not op.home.path]
        found: dict[str, int] = {}
        for place, op in enumerate(main):
            for name in op.ins:
                found.setdefault(name, place)
        return found

    def columns(self, linear: Linear) -> Numbers:
        """The unit of each index of a layer's input axis, or -1."""
        return units_on(self.analysis, linear.x)

    def parts(self, group: int) -> list[Part]:
        """The linear layers that read a group's units."""
        local = np.full(self.analysis.units + 1, -1)
        members = self.analysis.members(group)
        local[members] = np.arange(len(members))
        found = []
        for layer, units in (pair for _, pairs in self.read for pair in pairs):
            own = local[units]
            if (own >= 0).any():
                found.append(Part(layer, own))
        return found

    @cached_property
    def gradients(self) -> Gates:
        """Gradients at gates.

        Raises:
            UsageError: the model has none here, or the extra is not installed; so do those that ask for them.
        """
        return Gates(self.analysis, self.feeds, self.labels, self.seed, self.values)

    def gates(self, group: int) -> Scores:
        """The gradients of losses at the gates of a group's units, (losses, units)."""
        return self.gradients.gates(group)

    def projections(self, group: int) -> Scores:
        """The gradients of random projections of the outputs at the gates of a group's units, (projections, units)."""
        return self.gradients.projections(group)

    def labelled(self) -> bool:
        """Whether losses are taken at labels."""
        return self.gradients.labelled

    @cached_property
    def read(self) -> list[tuple[Linear, list[tuple[Layer, Numbers]]]]:
        """Each layer that reads units, and each of its matrices with the unit of each of its columns."""
        wanted = [linear for linear in self.linears if self._mixes(linear) and (self.columns(linear) >= 0).any()]
        taps = {linear.op.index: linear.taps for linear in wanted}
        wide = sorted(wanted, key=lambda linear: -self._width(linear, taps))
        for linear in wide:
            total = sum(8 * other.groups * self._width(other, taps) ** 2 for other in wanted)
            if self._width(linear, taps) > WIDEST or total > MEMORY:
                taps[linear.op.index] = 1
        moments = self._gather(wanted, taps)
        return [(linear, list(self._made(linear, taps[linear.op.index], moments))) for linear in wanted]

    def _mixes(self, linear: Linear) -> bool:
        """Whether an output is made of several channels; of one alone, it goes with it, and nothing makes up for it."""
        return int(self.analysis.graph.shapes[linear.x[0]][linear.x[1]]) > linear.groups

    def _width(self, linear: Linear, taps: Mapping[int, int]) -> int:
        channels = int(self.analysis.graph.shapes[linear.x[0]][linear.x[1]]) // linear.groups
        return channels * taps[linear.op.index]

    def _made(self, linear: Linear, taps: int, moments: Mapping[int, list[Moments]]) -> Iterable[tuple[Layer, Numbers]]:
        weight = linear.matrix(self.value(linear.w).astype(np.float64))
        units = self.columns(linear).reshape(linear.groups, -1)
        for number, (matrix, own) in enumerate(zip(weight, units, strict=True)):
            if taps < linear.taps:  # every tap is a row of outputs that reads the same channels
                matrix = matrix.reshape(len(matrix), -1, linear.taps).transpose(0, 2, 1).reshape(-1, len(own))
            layer = Layer(linear.op.label, matrix, moments[linear.op.index][number])
            yield layer, np.repeat(own, taps)

    def _gather(self, wanted: Sequence[Linear], taps: Mapping[int, int]) -> dict[int, list[Moments]]:
        walk = Walk(self.analysis.graph, self.feeds, self.values)
        total: dict[int, list[Moments]] = {}

        def look(number: int, values: Mapping[str, Array]) -> list[list[Moments]]:
            return [self._look(linear, taps[linear.op.index], number, values) for linear in wanted]

        for found in walk.map([name for linear in wanted for name in (linear.x[0], linear.y[0])], look):
            for linear, new in zip(wanted, found, strict=True):
                old = total.get(linear.op.index)
                total[linear.op.index] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
        return total

    def _look(self, linear: Linear, taps: int, number: int, values: Mapping[str, Array]) -> list[Moments]:
        x, seed = values[linear.x[0]], (self.seed, linear.op.index, number)
        if taps == linear.taps:
            width = self._width(linear, {linear.op.index: taps})
            count = linear.count(values[linear.y[0]])
            pick = sampled(count, width, width * linear.groups, len(self.feeds), seed)
            rows = linear.rows(x, pick)
        else:
            width = x.shape[linear.x[1]]
            pick = sampled(x.size // width, width // linear.groups, width, len(self.feeds), seed)
            rows = channels(linear, x, pick)
        return [Moments.of(rows[:, group].astype(np.float64)) for group in range(linear.groups)]


def units_on(analysis: Analysis, axis: tuple[str, int]) -> Numbers:
    """The unit of each index of an axis, or -1 where it stays."""
    number = analysis.closure.ids.get(axis)
    size = analysis.graph.shapes[axis[0]][axis[1]]
    if number is None or not analysis.closure.sizes[number] or not isinstance(size, int):
        return np.full(size if isinstance(size, int) else 0, -1)
    found: Numbers = analysis.unit_of[analysis.closure.span(number)]
    return found
