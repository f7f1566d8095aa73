"""Does a removed index contribute exactly nothing where an operator sums over it?

In the zeroed model every initializer slice of a removed unit is zero. Where a sum runs over a unit's indices, removing
equals zeroing only if one factor is zero there. `Zeros` follows zeros from the zeroed weights through the graph. Where
a tensor holds codes, zero is the code that stands for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from onnxprune.algebra.facts import Fact, Pole, Quantized, Sum, Tie, ties
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.quantization import Codes, Rest, moves
from onnxprune.algebra.registry import Terms

Wanted = Mapping[str, Rest | None]
"""The code that stands for zero in each tensor of codes at a node; ``None``: nobody knows which."""


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
        codes: Codes,
    ) -> None:
        self.graph, self.fixed, self.codes = graph, fixed, codes
        self._rest: dict[Axis, Rest] = {}
        for op in graph.ops:
            self._follow(op, facts[op.index], terms(op))

    def holds(self, axis: Axis, wanted: Wanted | None = None) -> bool:
        """Whether removable indices of this axis are certainly zero, or the wanted code, in the zeroed model."""
        name, zero = axis[0], (wanted or {}).get(axis[0], 0)
        if self.fixed(axis):
            return True
        if self.graph.is_constant(name):
            read_as_codes = wanted is not None and name in wanted  # then zeroing writes just what is wanted
            return name not in self.codes.parameters and (read_as_codes or self.codes.rest(name) == 0)
        return axis in self._rest and self._rest[axis] == zero

    def wanted(self, facts: Iterable[Fact]) -> Wanted:
        """What stands for zero in the codes that a node reads and writes."""
        found: dict[str, Rest | None] = {}
        for fact in facts:
            if isinstance(fact, Quantized):
                zero = self.codes.code_of_zero(fact.zero)
                found[fact.codes] = zero if found.get(fact.codes, zero) == zero else None
        return found

    def _follow(self, op: Op, facts: Sequence[Fact], terms: Terms | None) -> None:
        if terms is None:
            return
        links, wanted = _links(facts), self.wanted(facts)
        carries = moves(op)
        for y in op.outs:
            for a in range(len(self.graph.shapes.get(y, ()))):
                if self.fixed((y, a)):
                    continue
                if carries:
                    wanted = dict.fromkeys((*op.ins, y), self._carried(op, (y, a), links))
                zero = wanted.get(y, 0)
                if zero is not None and all(self._term(op, slots, (y, a), links, wanted) for slots in terms):
                    self._rest[y, a] = zero

    def _carried(self, op: Op, axis: Axis, links: Mapping[Axis, set[Axis]]) -> Rest | None:
        """What the removable indices of an axis hold, if all inputs that are moved there agree."""
        tied = [x for x in _reached(axis, links) if x[0] in op.ins and not self.fixed(x)]
        found = {self.codes.rest(x[0]) if self.graph.is_constant(x[0]) else self._rest.get(x) for x in tied}
        return found.pop() if len(found) == 1 else None if found else 0

    def _term(self, op: Op, slots: Iterable[int], axis: Axis, links: Mapping[Axis, set[Axis]], wanted: Wanted) -> bool:
        return any(self._operand(op, slot, axis, links, wanted) for slot in slots)

    def _operand(self, op: Op, slot: int, axis: Axis, links: Mapping[Axis, set[Axis]], wanted: Wanted) -> bool:
        if not op.has(slot):
            return slot > 0  # an absent bias adds nothing
        tied = [x for x in _reached(axis, links) if x[0] == op.ins[slot]]
        if tied:
            return all(self.holds(x, wanted) for x in tied)
        value = self.graph.constant(op.ins[slot])
        return value is not None and not value.any() and wanted.get(op.ins[slot], 0) == 0


def breaches(facts: Iterable[Fact], zeros: Zeros) -> Iterable[tuple[Axis, str]]:
    """Axes of one node that zeroing does not prove removable, and why."""
    stated = tuple(facts)
    wanted = zeros.wanted(stated)
    for fact in stated:
        if isinstance(fact, Tie) and fact.sums:
            if not (zeros.holds(fact.x, wanted) or zeros.holds(fact.y, wanted)):
                why = "sums over it, and a zeroed unit would still contribute: neither operand is zero there"
                yield from ((axis, why) for axis in (fact.x, fact.y))
        elif isinstance(fact, Sum) and not any(zeros.holds(a, wanted) for a in (fact.axis, *fact.times)):
            yield fact.axis, "sums over it, and a zeroed unit would still contribute"
        elif isinstance(fact, Pole) and not zeros.fixed(fact.axis) and zeros.holds(fact.axis, wanted):
            yield fact.axis, "is not finite where a zeroed unit makes it zero"


def summing(facts: Iterable[Fact], vanishes: Callable[[str], bool]) -> bool:
    """Whether any fact of a node needs zeros to be followed at all: of some tensors it is known that they vanish."""
    for fact in facts:
        if isinstance(fact, Tie) and fact.sums:
            if not (vanishes(fact.x[0]) or vanishes(fact.y[0])):
                return True
        elif isinstance(fact, Sum):
            if not any(vanishes(name) for name, _ in (fact.axis, *fact.times)):
                return True
        elif isinstance(fact, Pole):
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
