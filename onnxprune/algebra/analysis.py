"""What of a model may be removed: rules → facts → closure → units → groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra import absorb, facts, folding, pins, quantization, units
from onnxprune.algebra.closure import Closure, Mask
from onnxprune.algebra.facts import Fact
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.knots import Knot, untie
from onnxprune.algebra.pins import Protection
from onnxprune.algebra.registry import Rule, load
from onnxprune.model.record import Record

OLDEST_OPSET = 7  # broadcasting was explicit before


class Analysis:
    """The units and groups of a model.

    Attributes:
        graph: the model's graph.
        facts: for each node, what its rule stated.
        closure: axes, ties and pins, closed.
        unit_of: for each index of the closure's space its unit, or -1 if it may not go.
        group_of: for each unit its group.
        codes: how the quantised tensors are read.
    """

    def __init__(self, graph: Graph, protection: Protection | None = None) -> None:
        self.graph = graph
        self.closure = Closure()
        self.heads: set[int] = set()
        self.normalized: list[int] = []  # axes that are cut although removing is not zeroing there
        self.protection = protection or Protection()
        self.rules: dict[tuple[str, str], Rule] = load("rules")
        self.facts: list[tuple[Fact, ...]] = [self._state(op) for op in graph.ops]
        self._learn_sizes()
        knots: list[Knot] = []
        for op in graph.ops:
            try:
                knots += list(self._ingest(op))
            except (KeyError, IndexError):  # a fact about an axis that does not exist
                self.facts[op.index] = self._refused(
                    op, f"{op.label} is malformed (it names an axis that is not there)"
                )
                knots += self._ingest(op)
        self.codes = quantization.Codes(graph, self.facts)
        self._pin(pins.ends(graph))
        self._pin(pins.undecided(graph, self.codes.undecided()))
        self._pin(pins.read_widths(graph, self.facts, self.rule))
        self._pin(pins.protected(graph, self.facts, self.protection))
        heads = {self.closure.root(number) for number in self.heads}
        whole_heads = self.protection.attention == "heads"
        untie(self.closure, knots, lambda number: self.closure.root(number) in heads, whole_heads=whole_heads)
        self._pin_what_does_not_vanish()
        self._make_units()

    # ---- facts -------------------------------------------------------------------------------------------------

    def rule(self, op: Op) -> Rule | None:
        """The rule of a node's operator, if there is one for its opset."""
        old = op.domain == "" and op.version < OLDEST_OPSET
        return None if old else self.rules.get((op.domain, op.kind))

    def _state(self, op: Op) -> tuple[Fact, ...]:
        rule = self.rule(op)
        names = [n for n in op.ins if n] + [n for n in op.outs if self._matters(n)]
        unknown = next((n for n in names if n not in self.graph.shapes), None)
        if rule is None:
            return self._refused(op, f"{op.label} has no rule ({op.domain or 'ai.onnx'}, opset {op.version})")
        if unknown is not None and rule.pins is None:
            return self._refused(op, f"the shape of {unknown!r} at {op.label} is not known")
        try:
            return tuple(rule.facts(op))
        except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            return self._refused(op, f"{op.label} is malformed ({error})")

    def _learn_sizes(self) -> None:
        """Two axes that an operator sums over together are of one size: where one is a weight's, both are known."""
        learnt: set[str] = set()
        summed = (f for stated in self.facts for f in stated if isinstance(f, facts.Tie) and f.sums)
        for fact in (tie for tie in summed if tie.picks is None):
            for (name, axis), (weight, other) in ((fact.x, fact.y), (fact.y, fact.x)):
                sizes = list(self.graph.shapes.get(name, ()))
                if self.graph.is_constant(weight) and axis < len(sizes) and isinstance(sizes[axis], str):
                    sizes[axis] = self.graph.constant_tensor(weight).dims[other]
                    self.graph.shapes[name] = tuple(sizes)
                    learnt.add(name)
        for op in self.graph.ops if learnt else ():
            if not learnt.isdisjoint(op.tensors):
                self.facts[op.index] = self._state(op)

    def _matters(self, output: str) -> bool:
        return bool(output) and (output in self.graph.consumers or output in self._outputs)

    @cached_property
    def _outputs(self) -> frozenset[str]:
        return frozenset(o.name for o in self.graph.proto.output)

    def _refused(self, op: Op, why: str) -> tuple[Fact, ...]:
        return tuple(facts.Pin(axis, why) for name in op.tensors for axis in self._axes(name))

    def _axes(self, name: str) -> Iterator[Axis]:
        return ((name, a) for a in range(len(self.graph.shapes.get(name, ()))))

    def number(self, axis: Axis) -> int:
        """The closure's number of an axis."""
        known = self.closure.ids.get(axis)
        return self.closure.add(axis, self.graph.shapes[axis[0]][axis[1]]) if known is None else known

    def _ingest(self, op: Op) -> Iterator[Knot]:
        mentioned: set[Axis] = set()
        for fact in self.facts[op.index]:
            if isinstance(fact, facts.Product):
                yield self._knot(op, fact)
            mentioned.update(self._take(op, fact))
        why = f"{op.label} needs it whole"
        for name in op.tensors:
            for axis in self._axes(name):
                if axis not in mentioned:
                    self.closure.pin(self.number(axis), why)

    def _take(self, op: Op, fact: Fact) -> tuple[Axis, ...]:
        """Hand a fact to the closure; returns the axes that it speaks of."""
        closure, number = self.closure, self.number
        if isinstance(fact, facts.Tie):
            closure.tie(number(fact.x), number(fact.y), fact.picks, op.label)
            return fact.x, fact.y
        if isinstance(fact, facts.Product):
            return fact.flat, *fact.factors
        if isinstance(fact, facts.Batch):
            self.heads.add(number(fact.axis))
        elif isinstance(fact, facts.Pin):
            indices = None if fact.indices is None else np.asarray(fact.indices, dtype=np.int64)
            closure.pin(number(fact.axis), fact.why, indices)
            return (fact.axis,)
        elif isinstance(fact, facts.Normalized):
            self._take_normalized(fact)
            return (fact.axis,)
        elif isinstance(fact, facts.Free | facts.Sum):
            number(fact.axis)
            return (fact.axis,)
        return ()

    def _take_normalized(self, fact: facts.Normalized) -> None:
        if self.protection.normalized:
            self.normalized.append(self.number(fact.axis))
        else:
            self.closure.pin(self.number(fact.axis), fact.why)

    def _knot(self, op: Op, product: facts.Product) -> Knot:
        factors = tuple(self.number(f) for f in product.factors)
        if product.flat[0] in self.graph.shapes:
            return Knot(self.number(product.flat), factors, op.label)
        sizes = [self.closure.sizes[f] for f in factors]
        return Knot(self.closure.add(product.flat, int(np.prod(sizes))), factors, op.label)

    # ---- pins that no rule states ------------------------------------------------------------------------------

    def _pin(self, reasons: Iterable[pins.Reason]) -> None:
        for axis, why in reasons:
            self.closure.pin(self.number(axis), why)

    def _pin_what_does_not_vanish(self) -> None:
        graph, closure = self.graph, self.closure
        vanishes = set(graph.constants()) - self.codes.parameters
        ops = [op for op in graph.ops if absorb.summing(self.facts[op.index], vanishes.__contains__)]
        if not any(closure.free(self.number(a)) for op in ops for a in _summed(self.facts[op.index])):
            return
        zeros = absorb.Zeros(graph, self.facts, self._zero_terms, self._fixed, self.codes)
        for op in ops:
            for axis, why in absorb.breaches(self.facts[op.index], zeros):
                closure.pin(self.number(axis), f"{op.label} {why}")
        closure.spread()

    def _zero_terms(self, op: Op) -> tuple[tuple[int, ...], ...] | None:
        rule = self.rule(op)
        return rule.zero_terms(op) if rule else None

    def _fixed(self, axis: Axis) -> bool:
        number = self.closure.ids.get(axis)
        return number is None or not self.closure.free(number)

    # ---- units and groups --------------------------------------------------------------------------------------

    def _make_units(self) -> None:
        weights = set(self.graph.constants())
        is_weight = np.array([axis[0] in weights for axis in self.closure.axes], dtype=bool)
        self.unit_of, self.units, self.group_of, self.groups, self._width = units.find(
            self.closure, is_weight, self.heads
        )
        self.weight_axes = [
            (int(n), self.closure.axes[n]) for n in np.flatnonzero(is_weight) if self.closure.free(int(n))
        ]

    def kind(self, group: int) -> str:
        """What a group's units are: ``"heads"``, along which matrices are multiplied one by one, or ``"channels"``."""
        return "heads" if group in self._head_groups else "channels"

    @cached_property
    def _head_groups(self) -> frozenset[int]:
        return frozenset(group for number in self.heads for group in self._groups_on(number))

    @cached_property
    def approximate(self) -> Mask:
        """For each unit, whether a normalisation runs over it, so that removing it is not zeroing it."""
        found = np.zeros(self.units, dtype=bool)
        for number in self.normalized:
            found[self._units_on(number)] = True
        return found

    def _units_on(self, number: int) -> NDArray[np.int64]:
        """The unit of each index of an axis that may go; none, if the axis cannot be cut."""
        units: NDArray[np.int64] = self.unit_of[self.closure.span(number)]
        return units[units >= 0]

    def _groups_on(self, number: int) -> list[int]:
        found: list[int] = np.unique(self.group_of[self._units_on(number)]).tolist()
        return found

    def slices(self) -> Iterator[tuple[Axis, NDArray[np.int64]]]:
        """Every cuttable axis of a constant tensor, with the unit of each of its indices (-1: stays)."""
        for number, axis in self.weight_axes:
            yield axis, self.unit_of[self.closure.span(number)]

    def span(self, axis: Axis) -> slice:
        """Where a cuttable axis' indices lie in the closure's space; axes that are the same share their place."""
        return self.closure.span(self.closure.ids[axis])

    def members(self, group: int) -> NDArray[np.int64]:
        """The units of a group."""
        return np.flatnonzero(self.group_of == group)

    @cached_property
    def scales(self) -> frozenset[Axis]:
        """The axes of constants that a normalisation multiplies its result by."""
        return frozenset(fact.axis for stated in self.facts for fact in stated if isinstance(fact, facts.Scale))

    def least(self) -> Mask:
        """The mask that leaves every group one unit."""
        removed = np.ones(self.units, dtype=bool)
        removed[np.unique(self.group_of, return_index=True)[1]] = False
        return removed

    def weight_axes_of(self, group: int) -> list[Axis]:
        """The constant tensors' axes that the units of a group lie on; copies of a vector that does are left out."""
        found = self._group_axes.get(group, [])
        copies = self.graph.copies
        return [(name, a) for name, a in found if name not in copies or (copies[name], a) not in found]

    @cached_property
    def _group_axes(self) -> dict[int, list[Axis]]:
        found: dict[int, list[Axis]] = {}
        groups_at: dict[int, list[int]] = {}
        for number, axis in self.weight_axes:
            root = int(self.closure.root_of[number])
            if root not in groups_at:
                groups_at[root] = self._groups_on(number)
            for group in groups_at[root]:
                found.setdefault(group, []).append(axis)
        return found

    def width_per_unit(self, group: int) -> int:
        """How many channels of an activation one unit takes: 1, or the number of convolution groups, say."""
        return int(self._width[group])

    def widths(self, removed: Mask) -> NDArray[np.int64]:
        """The size of every axis once these units are gone (0 for axes that are never cut)."""
        gone = np.zeros(self.closure.space + 1, dtype=np.int64)
        hit = self.unit_of >= 0
        gone[1:][hit] = removed[self.unit_of[hit]]
        total = np.cumsum(gone)
        sizes = np.array(self.closure.sizes, dtype=np.int64)
        widths: NDArray[np.int64] = sizes - (total[self.closure.offset + sizes] - total[self.closure.offset])
        return widths

    def cut_axes(self, removed: Mask) -> dict[Axis, int]:
        """Every axis that loses indices, with its new size."""
        widths = self.widths(removed)
        cut = np.flatnonzero(widths < np.array(self.closure.sizes, dtype=np.int64))
        return {self.closure.axes[number]: int(widths[number]) for number in cut}

    def kept(self, axis: Axis, removed: Mask) -> Mask:
        """For each index of an axis, whether it stays."""
        number = self.closure.ids.get(axis)
        if number is None or not self.closure.sizes[number]:
            size = self.graph.shapes[axis[0]][axis[1]]
            return np.ones(size if isinstance(size, int) else 0, dtype=bool)
        units = self.unit_of[self.closure.span(number)]
        gone = np.zeros(units.size, dtype=bool)
        gone[units >= 0] = removed[units[units >= 0]]
        return ~gone


@dataclass
class Model:
    """A model with its graph and analysis, each made when first asked for."""

    record: Record
    protection: Protection = field(default_factory=Protection)

    @cached_property
    def graph(self) -> Graph:
        """The graph, with shapes; weights that it computes in a way that would keep them whole are computed."""
        graph = Graph(self.record)
        record = folding.folded(graph)
        return graph if record is None else Graph(record)

    @cached_property
    def analysis(self) -> Analysis:
        """Units and groups."""
        return Analysis(self.graph, self.protection)


def _summed(stated: Sequence[Fact]) -> Iterator[Axis]:
    for fact in stated:
        if isinstance(fact, facts.Tie) and fact.sums:
            yield fact.x
        elif isinstance(fact, facts.Sum | facts.Pole):
            yield fact.axis
