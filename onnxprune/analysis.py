"""What of a model may be removed: rules → facts → closure → units → groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune import absorb, facts
from onnxprune.closure import Closure, Mask
from onnxprune.errors import UsageError
from onnxprune.facts import Count, Fact
from onnxprune.graph import Graph, Op
from onnxprune.integers import Axis
from onnxprune.knots import Knot, untie
from onnxprune.record import Record
from onnxprune.registry import Rule, load

OLDEST_OPSET = 7  # broadcasting was explicit before
WHOLE_TYPES = {getattr(onnx.TensorProto, name): name for name in ("INT64", "BOOL", "STRING", "COMPLEX64", "COMPLEX128")}


@dataclass(frozen=True)
class Protection:
    """What the user wants left alone: names or globs of nodes and tensors; the first, the last layers."""

    names: tuple[str, ...] = ()
    first: bool = False
    last: bool = False


class Analysis:
    """The units and groups of a model.

    Attributes:
        graph: the model's graph.
        facts: for each node, what its rule stated.
        closure: axes, ties and pins, closed.
        unit_of: for each index of the closure's space its unit, or -1 if it may not go.
        group_of: for each unit its group.
    """

    def __init__(self, graph: Graph, protection: Protection | None = None) -> None:
        self.graph = graph
        self.closure = Closure()
        self.heads: set[int] = set()
        self.rules: dict[tuple[str, str], Rule] = load("rules")
        self.facts: list[tuple[Fact, ...]] = [self._state(op) for op in graph.ops]
        knots: list[Knot] = []
        for op in graph.ops:
            knots += self._ingest(op)
        self._pin_ends()
        self._pin_read_widths()
        if protection:
            self._protect(protection)
        untie(
            self.closure, knots, lambda number: self.closure.root(number) in {self.closure.root(h) for h in self.heads}
        )
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
            return self._refused(op, f"{op.label} has no rule for domain {op.domain!r}, opset {op.version}")
        if unknown is not None:
            return self._refused(op, f"the shape of {unknown!r} at {op.label} is not known")
        try:
            return tuple(rule.facts(op))
        except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            return self._refused(op, f"{op.label} is malformed ({error})")

    def _matters(self, output: str) -> bool:
        return bool(output) and (output in self.graph.consumers or output in self._outputs)

    @cached_property
    def _outputs(self) -> frozenset[str]:
        return frozenset(o.name for o in self.graph.proto.output)

    def _refused(self, op: Op, why: str) -> tuple[Fact, ...]:
        return tuple(facts.Pin(axis, why) for name in {*op.ins, *op.outs} for axis in self._axes(name))

    def _axes(self, name: str) -> Iterator[Axis]:
        return ((name, a) for a in range(len(self.graph.shapes.get(name, ()))))

    def number(self, axis: Axis) -> int:
        """The closure's number of an axis."""
        return self.closure.add(axis, self.graph.shapes[axis[0]][axis[1]])

    def _ingest(self, op: Op) -> Iterator[Knot]:
        closure, number = self.closure, self.number
        mentioned: set[Axis] = set()
        for fact in self.facts[op.index]:
            if isinstance(fact, facts.Tie):
                closure.tie(number(fact.x), number(fact.y), fact.picks, op.label)
                mentioned.update((fact.x, fact.y))
            elif isinstance(fact, facts.Pin):
                indices = None if fact.indices is None else np.asarray(fact.indices, dtype=np.int64)
                closure.pin(number(fact.axis), fact.why, indices)
                mentioned.add(fact.axis)
            elif isinstance(fact, facts.Product):
                yield self._knot(op, fact)
                mentioned.update((fact.flat, *fact.factors))
            elif isinstance(fact, facts.Batch):
                self.heads.add(number(fact.axis))
            elif isinstance(fact, facts.Free | facts.Sum):
                mentioned.add(fact.axis)
        for name in {*op.ins, *op.outs}:
            for axis in self._axes(name):
                if axis not in mentioned:
                    closure.pin(number(axis), f"{op.label} needs it whole")

    def _knot(self, op: Op, product: facts.Product) -> Knot:
        factors = tuple(self.number(f) for f in product.factors)
        if product.flat[0] in self.graph.shapes:
            return Knot(self.number(product.flat), factors, op.label)
        sizes = [self.closure.sizes[f] for f in factors]
        return Knot(self.closure.add(product.flat, int(np.prod(sizes))), factors, op.label)

    # ---- pins that no rule states ------------------------------------------------------------------------------

    def _pin(self, name: str, why: str) -> None:
        for axis in self._axes(name):
            self.closure.pin(self.number(axis), why)

    def _pin_ends(self) -> None:
        graph = self.graph
        for value in graph.inputs:
            self._pin(value.name, f"{value.name!r} is an input of the model")
        for value in graph.proto.output:
            self._pin(value.name, f"{value.name!r} is an output of the model")
        for name in graph.overridable:
            self._pin(name, f"{name!r} is an initializer that a caller may override")
        for name in graph.captured:
            self._pin(name, f"{name!r} is read by the body of a control flow node")
        for sparse in graph.proto.sparse_initializer:
            self._pin(sparse.values.name, f"{sparse.values.name!r} is stored sparse")
        for name in graph.constants():
            kind = WHOLE_TYPES.get(graph.constant_tensor(name).data_type)
            if kind:
                self._pin(name, f"{name!r} holds {kind} values, which are no weights")

    def _pin_read_widths(self) -> None:
        """A width that is read as a number may only end where a size is expected and can be rewritten."""
        graph = self.graph
        reads = {
            name: [number.reads for number in values.ravel()]
            for name, values in graph.numbers.items()
            if not graph.is_constant(name)
        }
        for name, elements in reads.items():
            for op, slot in graph.consumers.get(name, ()):
                why = f"{op.label} reads its width as a number"
                self._pin_axes((e for i, e in enumerate(elements) if not self._follows(op, slot, i)), why)
            if name in graph.captured or name in self._outputs:
                self._pin_axes(elements, f"{name!r} carries its width out of the graph")

    def _follows(self, op: Op, slot: int, element: int) -> bool:
        """Whether an element of this input is a number that surgery rewrites, or is evaluated further on."""
        if op.out in self.graph.numbers and op.kind != "ConstantOfShape":
            return True
        rule = self.rule(op)
        return bool(rule and slot in rule.sizes) and (slot, element) in self._counted(op)

    def _counted(self, op: Op) -> set[tuple[int | None, int | None]]:
        return {(f.slot.slot, f.element) for f in self.facts[op.index] if isinstance(f, Count)}

    def _pin_axes(self, groups: Iterable[frozenset[Axis]], why: str) -> None:
        for axis in sorted(frozenset[Axis]().union(*groups)):
            self.closure.pin(self.number(axis), why)

    def _protect(self, protection: Protection) -> None:
        for pattern in protection.names:
            found = [n for op in self.graph.ops if fnmatch.fnmatchcase(op.node.name, pattern) for n in self._of(op)]
            found += [n for n in self.graph.shapes if fnmatch.fnmatchcase(n, pattern)]
            if not found:
                raise UsageError(f"Nothing to protect is called {pattern!r}; `onnxprune inspect` lists the names.")
            for name in found:
                self._pin(name, f"protected by {pattern!r}")
        if protection.first:
            self._protect_layers(self.graph.ops, [i.name for i in self.graph.inputs], "first", forward=True)
        if protection.last:
            self._protect_layers(self.graph.ops[::-1], self._outputs, "last", forward=False)

    def _of(self, op: Op) -> list[str]:
        return [*(n for n in op.ins if self.graph.is_constant(n)), *(n for n in op.outs if n)]

    def _protect_layers(self, ops: Sequence[Op], ends: Iterable[str], which: str, *, forward: bool) -> None:
        """Pin the weights of the first layers met on every path from the model's ends."""
        reached = set(ends)
        for op in ops:
            entering, leaving = (op.ins, op.outs) if forward else (op.outs, op.ins)
            if not reached.intersection(n for n in entering if n):
                continue
            if any(isinstance(f, facts.Macs) for f in self.facts[op.index]):
                for name in self._of(op):
                    self._pin(name, f"protected: one of the {which} layers")
            else:
                reached.update(n for n in leaving if n)

    def _pin_what_does_not_vanish(self) -> None:
        graph, closure = self.graph, self.closure
        ops = [op for op in graph.ops if absorb.summing(self.facts[op.index], graph)]
        if not any(closure.free(self.number(a)) for op in ops for a in _summed(self.facts[op.index])):
            return
        zeros = absorb.Zeros(graph, self.facts, self._zero_terms, self._fixed)
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
        closure = self.closure
        weights = set(self.graph.constants())
        self.weight_axes = [
            (number, axis) for number, axis in enumerate(closure.axes) if axis[0] in weights and closure.free(number)
        ]
        weighty = np.zeros(closure.space, dtype=bool)
        for number, _ in self.weight_axes:
            weighty[closure.span(number)] = True
        candidates = ~closure.pinned
        has_weight = np.bincount(closure.labels, weights=weighty & candidates, minlength=1) > 0
        free = candidates & has_weight[closure.labels] if closure.space else candidates
        self.unit_of, self.units = _ranked(closure.labels, free)
        self._make_groups(free)

    def _make_groups(self, free: Mask) -> None:
        """Units that touch the same axes form a group; groups are numbered by their first unit."""
        closure = self.closure
        space_class = np.repeat(*_classes(closure))
        words = np.random.default_rng(0).integers(1, 1 << 62, size=(len(closure.axes) or 1, 2), dtype=np.uint64)
        classes = max(len(closure.axes), 1)
        touched, counts = np.unique(self.unit_of[free] * classes + space_class[free], return_counts=True)
        pairs = np.stack(np.divmod(touched, classes), axis=1)
        signature = np.zeros((self.units, 2), dtype=np.uint64)
        np.add.at(signature, pairs[:, 0], words[pairs[:, 1]])
        _, first, inverse = np.unique(signature, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))
        self.group_of = order[inverse.ravel()] if self.units else np.zeros(0, dtype=np.int64)
        self.groups = len(first)

        moving = np.zeros(len(closure.axes), dtype=bool)
        moving[closure.root_of[[n for n, axis in enumerate(closure.axes) if not self.graph.is_constant(axis[0])]]] = True
        wide = moving[pairs[:, 1]]
        self._per_unit = np.full(self.groups, np.iinfo(np.int64).max)
        np.minimum.at(self._per_unit, self.group_of[pairs[wide, 0]], counts[wide])

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

    def least(self) -> Mask:
        """The mask that leaves every group one unit."""
        removed = np.ones(self.units, dtype=bool)
        removed[np.unique(self.group_of, return_index=True)[1]] = False
        return removed

    def weight_axes_of(self, group: int) -> list[Axis]:
        """The constant tensors' axes that the units of a group lie on."""
        return self._group_axes.get(group, [])

    @cached_property
    def _group_axes(self) -> dict[int, list[Axis]]:
        found: dict[int, list[Axis]] = {}
        groups_at: dict[int, list[int]] = {}
        for number, axis in self.weight_axes:
            root = int(self.closure.root_of[number])
            if root not in groups_at:
                units = self.unit_of[self.closure.span(number)]
                groups_at[root] = np.unique(self.group_of[units[units >= 0]]).tolist()
            for group in groups_at[root]:
                found.setdefault(group, []).append(axis)
        return found

    def width_per_unit(self, group: int) -> int:
        """How many channels of an activation one unit takes: 1, or the number of convolution groups, say."""
        width = int(self._per_unit[group])
        return width if width < np.iinfo(np.int64).max else 1

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
        """The graph, with shapes."""
        return Graph(self.record)

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


def _classes(closure: Closure) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The roots in the order of their indices, and how many indices each has."""
    roots = np.array(
        [i for i in range(len(closure.axes)) if closure.root_of[i] == i and closure.sizes[i]], dtype=np.int64
    )
    return roots, np.array([closure.sizes[i] for i in roots], dtype=np.int64)


def _ranked(labels: NDArray[np.int64], free: Mask) -> tuple[NDArray[np.int64], int]:
    """Number the free labels 0, 1, … in the order of their first index; -1 elsewhere."""
    unit_of = np.full(labels.size, -1, dtype=np.int64)
    found, first, inverse = np.unique(labels[free], return_index=True, return_inverse=True)
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(found))
    unit_of[free] = rank[inverse]
    return unit_of, len(found)
