"""Pins that no operator's rule states: the model's own ends, widths that are read as numbers, the user's wishes."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxprune.algebra.facts import Count, Fact, Macs
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.registry import Rule
from onnxprune.errors import UsageError
from onnxprune.model.tensors import WHOLE_TYPES

Reason = tuple[Axis, str]
Facts = Sequence[Sequence[Fact]]


ATTENTION = ("heads", "dims")


@dataclass(frozen=True)
class Protection:
    """What the user wants left alone, and what not.

    Attributes:
        names: of nodes and tensors, or globs.
        first, last: whether the first, the last layers stay whole.
        attention: what of an attention goes: whole ``"heads"``, or ``"dims"``, the same ones of every head.
        normalized: whether axes that a normalisation takes its statistics over may go (hidden-size pruning).
    """

    names: tuple[str, ...] = ()
    first: bool = False
    last: bool = False
    attention: str = "heads"
    normalized: bool = False


def ends(graph: Graph) -> Iterator[Reason]:
    """What leaves or enters the graph, or is no plain weight."""
    for value in graph.inputs:
        yield from _whole(graph, value.name, f"{value.name!r} is an input of the model")
    for value in graph.proto.output:
        yield from _whole(graph, value.name, f"{value.name!r} is an output of the model")
    for name in graph.overridable:
        yield from _whole(graph, name, f"{name!r} is an initializer that a caller may override")
    for home in graph.homes:
        for sparse in home.proto.sparse_initializer:
            name = home.names[sparse.values.name]
            yield from _whole(graph, name, f"{name!r} is stored sparse")
    for name in graph.constants():
        kind = WHOLE_TYPES.get(graph.constant_tensor(name).data_type)
        if kind:
            yield from _whole(graph, name, f"{name!r} holds {kind} values, which are no weights")


def undecided(graph: Graph, names: Iterable[str]) -> Iterator[Reason]:
    """Quantised constants of which it is open which code stands for zero."""
    for name in names:
        yield from _whole(
            graph, name, f"{name!r} holds codes whose zero point is computed, or differs between its readers"
        )


def read_widths(graph: Graph, facts: Facts, rule: Callable[[Op], Rule | None]) -> Iterator[Reason]:
    """A width that is read as a number may only end where a size is expected and can be rewritten."""
    for name, values in graph.numbers.items():
        elements = [] if graph.is_constant(name) else [number.reads for number in values.ravel()]
        if not any(elements):
            continue
        for op, slot in graph.consumers.get(name, ()):
            lost = (reads for i, reads in enumerate(elements) if not _follows(graph, facts, rule(op), op, slot, i))
            yield from _each(lost, f"{op.label} reads its width as a number")
        if name in graph.handed_out:
            yield from _each(elements, f"{name!r} carries its width out of the graph")


def _follows(graph: Graph, facts: Facts, rule: Rule | None, op: Op, slot: int, element: int) -> bool:
    """Whether an element of this input is a number that surgery rewrites, or is evaluated further on."""
    if op.out in graph.numbers and op.kind != "ConstantOfShape":
        return True
    counted = {(fact.slot.slot, fact.element) for fact in facts[op.index] if isinstance(fact, Count)}
    return rule is not None and slot in rule.sizes and (slot, element) in counted


def protected(graph: Graph, facts: Facts, protection: Protection) -> Iterator[Reason]:
    """What the user wants left alone.

    Raises:
        UsageError: a name or glob matches nothing.
    """
    for pattern in protection.names:
        found = [n for op in graph.ops if fnmatch.fnmatchcase(op.node.name, pattern) for n in _held(graph, op)]
        found += [n for n in graph.shapes if fnmatch.fnmatchcase(graph.copies.get(n, n), pattern)]
        if not found:
            raise UsageError(f"Nothing to protect is called {pattern!r}; `onnxprune inspect` lists the names.")
        for name in found:
            yield from _whole(graph, name, f"protected by {pattern!r}")
    if protection.first:
        inputs = {value.name for value in graph.inputs}
        yield from _layers(graph, facts, graph.ops, inputs, "first", forward=True)
    if protection.last:
        outputs = {value.name for value in graph.proto.output}
        yield from _layers(graph, facts, graph.ops[::-1], outputs, "last", forward=False)


def _layers(
    graph: Graph, facts: Facts, ops: Sequence[Op], reached: set[str], which: str, *, forward: bool
) -> Iterator[Reason]:
    """The first layers with weights met on every path from the model's ends."""
    for op in ops:
        entering, leaving = (op.ins, op.outs) if forward else (op.outs, op.ins)
        if not reached.intersection(n for n in entering if n):
            continue
        if any(isinstance(fact, Macs) for fact in facts[op.index]):
            for name in _held(graph, op):
                yield from _whole(graph, name, f"protected: one of the {which} layers")
        else:
            reached.update(n for n in leaving if n)


def _held(graph: Graph, op: Op) -> list[str]:
    """A node's weights and outputs."""
    return [*(n for n in op.ins if graph.is_constant(n)), *(n for n in op.outs if n)]


def _whole(graph: Graph, name: str, why: str) -> Iterator[Reason]:
    return (((name, axis), why) for axis in range(len(graph.shapes.get(name, ()))))


def _each(groups: Iterable[frozenset[Axis]], why: str) -> Iterator[Reason]:
    return ((axis, why) for axis in sorted(frozenset[Axis]().union(*groups)))
