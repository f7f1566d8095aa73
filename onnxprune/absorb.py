"""Does a removed index contribute exactly nothing where an operator sums over it?

In the zeroed model every initializer slice of a removed unit is zero. Where a sum runs over a unit's indices, removing
equals zeroing only if one factor is zero there. `Zeros` follows zeros from the zeroed weights through the graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from onnxprune.facts import Fact, Pole, Sum, Tie, ties
from onnxprune.graph import Graph, Op
from onnxprune.integers import Axis
from onnxprune.registry import Terms


class Zeros:
    """Axes on which every removable index is zero once its unit is zeroed.

    An axis that cannot be cut has no removable index, so the claim holds for it too.
    """

    def __init__(
        self,
        graph: Graph,
        facts: Sequence[Sequence[Fact]],
        terms: Callable[[Op], Terms | None],
        fixed: Callable[[Axis], bool],
    ) -> None:
        self.graph, self.fixed = graph, fixed
        self._zero: set[Axis] = set()
        for op in graph.ops:
            self._follow(op, facts[op.index], terms(op))

    def holds(self, axis: Axis) -> bool:
        """Whether removable indices of this axis are certainly zero in the zeroed model."""
        return self.graph.is_constant(axis[0]) or axis in self._zero or self.fixed(axis)

    def _follow(self, op: Op, facts: Sequence[Fact], terms: Terms | None) -> None:
        if terms is None:
            return
        links = _links(facts)
        for y in op.outs:
            for a in range(len(self.graph.shapes.get(y, ()))):
                if not self.fixed((y, a)) and all(self._term(op, slots, (y, a), links) for slots in terms):
                    self._zero.add((y, a))

    def _term(self, op: Op, slots: Iterable[int], axis: Axis, links: Mapping[Axis, set[Axis]]) -> bool:
        return any(self._operand(op, slot, axis, links) for slot in slots)

    def _operand(self, op: Op, slot: int, axis: Axis, links: Mapping[Axis, set[Axis]]) -> bool:
        if not op.has(slot):
            return slot > 0  # an absent bias adds nothing
        tied = [x for x in _reached(axis, links) if x[0] == op.ins[slot]]
        if tied:
            return all(self.holds(x) for x in tied)
        value = self.graph.constant(op.ins[slot])
        return value is not None and not value.any()


def breaches(facts: Iterable[Fact], zeros: Zeros) -> Iterable[tuple[Axis, str]]:
    """Axes of one node that zeroing does not prove removable, and why."""
    for fact in facts:
        if isinstance(fact, Tie) and fact.sums:
            if not (zeros.holds(fact.x) or zeros.holds(fact.y)):
                why = "sums over it, and a zeroed unit would still contribute: neither operand is zero there"
                yield from ((axis, why) for axis in (fact.x, fact.y))
        elif isinstance(fact, Sum) and not any(map(zeros.holds, (fact.axis, *fact.times))):
            yield fact.axis, "sums over it, and a zeroed unit would still contribute"
        elif isinstance(fact, Pole) and not zeros.fixed(fact.axis) and zeros.holds(fact.axis):
            yield fact.axis, "is not finite where a zeroed unit makes it zero"


def summing(facts: Iterable[Fact], graph: Graph) -> bool:
    """Whether any fact of a node needs zeros to be followed at all."""
    for fact in facts:
        if isinstance(fact, Tie) and fact.sums:
            if not (graph.is_constant(fact.x[0]) or graph.is_constant(fact.y[0])):
                return True
        elif isinstance(fact, Sum | Pole):
            return True
    return False


def _links(facts: Iterable[Fact]) -> Mapping[Axis, set[Axis]]:
    links: dict[Axis, set[Axis]] = defaultdict(set)
    for fact in facts:
        for a, b in ties(fact):
            links[a].add(b)
            links[b].add(a)
    return links


def _reached(axis: Axis, links: Mapping[Axis, set[Axis]]) -> set[Axis]:
    seen, todo = {axis}, [axis]
    while todo:
        for other in links.get(todo.pop(), ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen - {axis}
