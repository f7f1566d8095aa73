"""Recovery without training: layer by layer, in the order in which they run, each refitted to what it should give.

The dense model and the pruned one walk side by side. A layer that reads something else than it used to is solved for
the weights that bring its output closest to the dense one's (see `onnxprune.recovery.refit`), from what the pruned
network feeds it by now; errors of earlier layers are corrected on the way instead of adding up. Where a layer's output
is added to a stream, it also makes up for what the stream has lost.

Nothing changes shape here: the pruned model is the dense one with zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Op
from onnxprune.algebra.linear import Bias, Index, Linear, layers
from onnxprune.data.inputs import Feed
from onnxprune.model.record import Array
from onnxprune.recovery import channelwise
from onnxprune.recovery.moments import Matrix
from onnxprune.recovery.rectifier import Rectifier, rectifier
from onnxprune.recovery.refit import RIDGES, Solution, Sums, solve
from onnxprune.recovery.residual import Stream, stream
from onnxprune.recovery.statistics import sampled, units_on
from onnxprune.recovery.walk import Values, Walk, in_order
from onnxprune.surgery import removal

HELD_OUT = 5  # one batch of so many is held out
PIECES = 8  # that rows are multiplied in
ROUNDS = 4  # of a fit behind a rectifier …
ENOUGH = 0.995  # … as long as each leaves less than this of the error of the last
LARGEST = 4608  # columns that are solved for


T = TypeVar("T")
Rows = list[tuple[Matrix, Matrix]]
"""Batch by batch, inputs (n, G, D) and what should come out, (n, G, O)."""
Parts = tuple[Rows, Rows]
"""What is fitted, and what is held out."""


def apart(batches: Sequence[T]) -> tuple[list[T], list[T]]:
    """The batches that are fitted, and those that are held out."""
    held_out = list(batches[HELD_OUT - 1 :: HELD_OUT])
    return [batch for number, batch in enumerate(batches) if number % HELD_OUT != HELD_OUT - 1], held_out


@dataclass(frozen=True)
class Step:
    """What was done to one layer.

    Attributes:
        layer: its label.
        ridge: the ρ that was chosen, infinite if only the bias moved, ``None`` if the layer was left as it is.
        before, after: its error on held-out rows as a fraction of its outputs' variance.
        note: why it was left alone, if it was.
    """

    layer: str
    ridge: float | None = None
    before: float = 0.0
    after: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data; an infinite ρ is written as text."""
        found = asdict(self)
        return {**found, "ridge": "inf"} if self.ridge == np.inf else found


class Pass:
    """One pass through a model, the dense one and the pruned one side by side.

    Args:
        analysis: of the model, its layers with biases.
        removed: the units that go.
        feeds: the calibration data, in batches.
        seed: of the rows that are sampled.

    Attributes:
        least_ridge: the least ρ that is tried.
        rounds: how often a fit behind a rectifier is repeated, at most.
    """

    least_ridge = 0.0
    rounds = ROUNDS

    def __init__(self, analysis: Analysis, removed: Mask, feeds: Sequence[Feed], seed: int = 0) -> None:
        self.analysis, self.graph, self.removed, self.feeds, self.seed = analysis, analysis.graph, removed, feeds, seed
        self.values: Values = removal.zeroed(analysis, removed)
        self.dense = Walk(self.graph, feeds)
        self.pruned = Walk(self.graph, feeds, self.values)
        self.linears = {linear.op.index: linear for linear in layers(self.graph, analysis.rule)}

    def run(self) -> Iterator[Step]:
        """Visit every node that reads something else than it used to."""
        changed: set[str] = set(self.values)
        for place, op in enumerate(self.pruned.ops):
            if not changed.isdisjoint(self.pruned.reads(op)):
                step = self.visit(op, place, changed)
                changed.update(op.outs)
                if step is not None:
                    yield step

    def visit(self, op: Op, place: int, changed: Collection[str]) -> Step | None:
        """Act on a node, if there is something to do.

        Args:
            op: the node.
            place: where it stands in the main graph.
            changed: all tensors that differ from the dense model's.
        """
        raise NotImplementedError

    def now(self, name: str) -> Array:
        """What a constant holds by now."""
        found = self.values.get(name)
        return np.asarray(self.graph.constant(name)) if found is None else found

    def put(self, name: str, value: Array) -> None:
        """Give a constant a new value."""
        self.values[name] = self.pruned.values[name] = value


class Refit(Pass):
    """Least squares for every linear layer."""

    only_bias = False

    def visit(self, op: Op, place: int, changed: Collection[str]) -> Step | None:
        """Refit a layer whose input has changed."""
        linear = self.linears.get(op.index)
        if linear is None or linear.bias is None or not (linear.x[0] in changed or not self._kept(linear.x).all()):
            return None
        return self._refit(linear, linear.bias, place)

    def _kept(self, axis: tuple[str, int]) -> Mask:
        units = units_on(self.analysis, axis)
        return ~((units >= 0) & self.removed[units])

    def _refit(self, linear: Linear, bias: Bias, place: int) -> Step:
        channels = self._kept(linear.x).reshape(linear.groups, -1)
        outputs = self._kept(linear.y).reshape(linear.groups, -1)
        live: Mask = np.asarray(outputs.any(1) & channels.any(1))
        columns = np.repeat(channels[live], linear.taps, axis=1)
        if not live.any() or len(set(columns.sum(1).tolist())) > 1:
            return Step(linear.op.label, note="nothing of it is left, or not as much of every group")
        if columns[0].sum() > LARGEST:
            return self._refit_by_channel(linear, bias, place, channels, outputs)
        self.pruned.advance(place)
        targets = [(pick, found * outputs) for pick, found in self._targets(linear, place)]  # what goes is not judged
        parts = self._parted(self._rows(linear, live, columns, targets))
        solution = self._solve(parts, linear, live, columns)
        if solution.ridge is not None:
            self._write(linear, bias, live, columns, outputs, solution)
        return Step(linear.op.label, solution.ridge, solution.before, solution.after)

    def _refit_by_channel(self, linear: Linear, bias: Bias, place: int, kept: Mask, outputs: Mask) -> Step:
        """The same with one map for all taps."""
        if self.only_bias or not kept.any(1).all():
            return Step(linear.op.label, note="too wide")
        self.pruned.advance(place)
        self.dense.advance(place)
        width = int(kept[0].sum())

        def look(number: int, values: Mapping[str, Array]) -> tuple[Index | None, Matrix]:
            x = values[linear.x[0]]
            count = x.size // x.shape[linear.x[1]]
            pick = sampled(count, width, 2 * kept.size, len(self.feeds), (self.seed, linear.op.index, number))
            return pick, channelwise.channels(linear, x, pick)

        wanted = list(self.dense.map([linear.x[0]], look))

        def now(number: int, values: Mapping[str, Array]) -> tuple[Matrix, Matrix]:
            pick, target = wanted[number]
            found = channelwise.channels(linear, values[linear.x[0]], pick)
            return np.stack([found[:, group, own] for group, own in enumerate(kept)], axis=1), target

        parts = self._parted(list(self.pruned.map([linear.x[0]], now)))
        found, rho = channelwise.mapped(summed(parts[0]), summed(parts[1]), kept, self.least_ridge)
        if rho is not None:
            weight = linear.matrix(np.asarray(self.graph.constant(linear.w)).astype(np.float64))
            columns, live = np.repeat(kept, linear.taps, axis=1), np.ones(len(kept), dtype=bool)
            solution = Solution(channelwise.spread(weight, found, linear.taps), self._bias(linear), rho, 0.0, 0.0)
            self._write(linear, bias, live, columns, outputs, solution)
        return Step(linear.op.label, rho, note="channel by channel")

    def _solve(self, parts: Parts, linear: Linear, live: Mask, columns: Mask) -> Solution:
        """The plain solution, or the best of the rounds that a rectifier allows."""
        weight = sliced(linear.matrix(self.now(linear.w).astype(np.float64)), live, columns)
        bias, cut = self._bias(linear)[live], rectifier(self.graph, linear)
        ridges = () if self.only_bias else [rho for rho in RIDGES if rho >= self.least_ridge]
        seen, held_out = map(summed, parts)
        best = solve(seen, held_out, weight, bias, ridges)
        if cut is None or best.ridge is None or self.only_bias:
            return best
        cut, ridge = cut.of(live), best.ridge
        found, least = best, _beyond(parts[1], best, cut)
        for _ in range(self.rounds):
            aims = _aimed(parts[0], seen, found, cut), _aimed(parts[1], held_out, found, cut)
            found = solve(*aims, weight, bias, (ridge,))
            error = _beyond(parts[1], found, cut)
            if found.ridge is None or error >= least * ENOUGH:
                break
            best, least = replace(found, before=best.before, after=best.after), error
        return best

    def _bias(self, linear: Linear) -> Matrix:
        """What is added inside of the node, (G, O)."""
        size = int(self.graph.shapes[linear.y[0]][linear.y[1]])
        if linear.bias is None or not linear.bias.inside:
            return np.zeros((linear.groups, size // linear.groups))
        return linear.bias.factor * self.now(linear.bias.name).astype(np.float64).reshape(linear.groups, -1)

    def _targets(self, linear: Linear, place: int) -> list[tuple[Index | None, Matrix]]:
        """For every batch the rows that are used, and what the layer should give there, (n, G, O)."""
        self.dense.advance(place)
        kept = self._kept(linear.x).reshape(linear.groups, -1).sum(1)
        width, numbers = (
            linear.taps * int(kept.max()),
            linear.taps * int(kept.sum()) + int(self.graph.shapes[linear.y[0]][linear.y[1]]),
        )
        other = stream(self.graph, linear, self.linears)
        corrections = self._corrections(other) if other else None

        def look(number: int, values: Mapping[str, Array]) -> tuple[Index | None, Matrix]:
            y = values[linear.y[0]]
            pick = sampled(linear.count(y), width, numbers, len(self.feeds), (self.seed, linear.op.index, number))
            found = linear.targets(y, pick).astype(np.float64)
            if corrections is not None and corrections[number].shape == y.shape:
                found = found + linear.targets(corrections[number], pick)
            return pick, found

        return list(self.dense.map([linear.y[0]], look))

    def _corrections(self, other: Stream) -> list[Array]:
        """What the stream has lost, in terms of the layer's own output."""
        dense = list(self.dense.map([other.tensor], lambda _, values: values[other.tensor]))
        pruned = self.pruned.map([other.tensor], lambda _, values: values[other.tensor])
        return [other.undo(was.astype(np.float64) - now) for was, now in zip(dense, pruned, strict=True)]

    def _rows(self, linear: Linear, live: Mask, columns: Mask, targets: Sequence[tuple[Index | None, Matrix]]) -> Rows:
        """For every batch what the layer reads by now, kept columns only, (n, G, D), and what it should give."""

        def look(number: int, values: Mapping[str, Array]) -> tuple[Matrix, Matrix]:
            pick, target = targets[number]
            rows = linear.rows(values[linear.x[0]], pick)[:, live]
            kept = rows if columns.all() else rows.reshape(len(rows), -1).take(np.flatnonzero(columns), axis=1)
            return kept.reshape(len(rows), len(columns), -1).astype(np.float64), target[:, live]

        return list(self.pruned.map([linear.x[0]], look))

    def _parted(self, rows: Rows) -> Parts:
        """What is fitted and what is held out, each in a few large pieces: whole batches, or the last rows of each."""
        if len(rows) < HELD_OUT:
            cuts = [len(x) - len(x) // HELD_OUT for x, _ in rows]
            seen = [(x[:cut], y[:cut]) for (x, y), cut in zip(rows, cuts, strict=True)]
            held_out = [(x[cut:], y[cut:]) for (x, y), cut in zip(rows, cuts, strict=True)]
            return _joined(seen), _joined(held_out)
        seen, held_out = apart(rows)
        return _joined(seen), _joined(held_out)

    def _write(self, linear: Linear, added: Bias, live: Mask, columns: Mask, outputs: Mask, solution: Solution) -> None:
        weight, old = self.now(linear.w), self.now(added.name)
        whole = np.zeros_like(linear.matrix(weight.astype(np.float64)))
        for row, number in enumerate(np.flatnonzero(live)):
            whole[number][:, columns[row]] = solution.weight[row]
        whole[~outputs] = 0
        self.put(linear.w, linear.tensor(whole).astype(weight.dtype))
        bias = np.zeros(outputs.shape)
        bias[live] = solution.bias
        bias = np.where(outputs, bias, 0).reshape(old.shape) / added.factor
        self.put(added.name, ((0 if added.inside else old.astype(np.float64)) + bias).astype(old.dtype))


def sliced(weight: Matrix, live: Mask, columns: Mask) -> Matrix:
    """The kept columns of the groups that have any."""
    return np.stack([matrix[:, kept] for matrix, kept in zip(weight[live], columns, strict=True)])


def _joined(rows: Rows) -> Rows:
    """The same rows in a few pieces, always as many."""
    pieces = [piece for piece in np.array_split(np.arange(len(rows)), PIECES) if len(piece)]
    return [tuple(np.concatenate([rows[n][side] for n in piece]) for side in (0, 1)) for piece in pieces]  # type: ignore[misc]


def summed(part: Rows) -> Sums:
    """The sums of all rows."""
    found = in_order(lambda number: Sums.of(*part[number]), len(part))
    return reduce(add, found)


def _aimed(part: Rows, sums: Sums, last: Solution, cut: Rectifier) -> Sums:
    """The sums with the targets of a round in the place of the targets."""

    def look(number: int) -> tuple[Matrix, Matrix, Matrix]:
        x, y = part[number]
        aims = cut.targets(y, _outputs(x, last))
        return aims.sum(0), aims.transpose(1, 2, 0) @ x.transpose(1, 0, 2), np.square(aims).sum(0)

    y, yx, yy = (sum(found[1:], found[0]) for found in zip(*in_order(look, len(part)), strict=True))
    return replace(sums, y=y, yx=yx, yy=yy)


def _beyond(part: Rows, solution: Solution, cut: Rectifier) -> float:
    """The squared error behind the rectifier."""

    def look(number: int) -> float:
        x, y = part[number]
        return float(np.square(cut.forward(y) - cut.forward(_outputs(x, solution))).sum())

    return sum(in_order(look, len(part)))


def _outputs(x: Matrix, solution: Solution) -> Matrix:
    """What a solution gives for rows (n, G, D): (n, G, O)."""
    return np.asarray((x.transpose(1, 0, 2) @ solution.weight.transpose(0, 2, 1)).transpose(1, 0, 2) + solution.bias)


class Means(Refit):
    """Only the biases move, so that every output keeps its mean (Nagel et al., Data-Free Quantization, 2019)."""

    only_bias = True
