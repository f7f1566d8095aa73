"""Why an axis stays, or who holds a group together, as the chain of facts that says so."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.facts import ties
from onnxprune.algebra.integers import Axis
from onnxprune.errors import UsageError, unknown
from onnxprune.model.tensors import WHOLE_TYPES


@dataclass(frozen=True)
class Step:
    """One link: a node ties an axis to the next one."""

    axis: Axis
    node: str
    to: Axis


@dataclass(frozen=True)
class Explanation:
    """What is known of one axis.

    Attributes:
        axis: the tensor and the axis.
        size: its size, or its name if it is known only at run time.
        group: the groups whose units lie on it.
        pinned: how many of its indices may not go.
        chain: from this axis to the one that is pinned, if this one may not go.
        why: the reason given there.
    """

    axis: Axis
    size: int | str
    groups: tuple[int, ...] = ()
    pinned: int = 0
    chain: tuple[Step, ...] = ()
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        chain = [{"axis": list(s.axis), "node": s.node, "to": list(s.to)} for s in self.chain]
        return {
            "tensor": self.axis[0],
            "axis": self.axis[1],
            "size": self.size,
            "groups": list(self.groups),
            "pinned": self.pinned,
            "chain": chain,
            "why": self.why,
        }


class Explainer:
    """Answers questions about an analysis; the paths to all pins are found once."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis

    @cached_property
    def _links(self) -> dict[Axis, list[tuple[str, Axis]]]:
        links: dict[Axis, list[tuple[str, Axis]]] = defaultdict(list)
        for op in self.analysis.graph.ops:
            for fact in self.analysis.facts[op.index]:
                for a, b in ties(fact):
                    links[a].append((op.label, b))
                    links[b].append((op.label, a))
        return links

    @cached_property
    def _toward_pin(self) -> dict[Axis, Step | None]:
        """For each axis the first step of a shortest way to a pinned one (``None`` where the pin is its own)."""
        closure = self.analysis.closure
        found: dict[Axis, Step | None] = {closure.axes[number]: None for number in sorted(closure.reasons)}
        todo = deque(found)
        while todo:
            axis = todo.popleft()
            for node, other in self._links.get(axis, ()):
                if other not in found:
                    found[other] = Step(other, node, axis)
                    todo.append(other)
        return found

    def axis(self, axis: Axis) -> Explanation:
        """Why this axis stays, or which groups it belongs to."""
        closure = self.analysis.closure
        size = self.analysis.graph.shapes[axis[0]][axis[1]]
        number = closure.ids.get(axis)
        if number is None or not closure.sizes[number]:
            reasons = closure.reasons.get(closure.ids.get(axis, -1), [])
            otherwise = "its size is 1" if size == 1 else "its size is known only at run time"
            return Explanation(axis, size, why=reasons[0][0] if reasons and size != 1 else otherwise)
        span = closure.span(number)
        units = self.analysis.unit_of[span]
        groups = tuple(sorted({int(self.analysis.group_of[u]) for u in units if u >= 0}))
        pinned = int(closure.pinned[span].sum())
        if not pinned:
            why = "" if groups else "no weight lies along it, so there is nothing to remove"
            return Explanation(axis, size, groups, why=why)
        chain = self._chain(axis)
        return Explanation(axis, size, groups, pinned, chain, self._reason(chain[-1].to if chain else axis))

    def _chain(self, axis: Axis) -> tuple[Step, ...]:
        chain = []
        while (step := self._toward_pin.get(axis)) is not None:
            chain.append(step)
            axis = step.to
        return tuple(chain)

    def _reason(self, axis: Axis) -> str:
        reasons = self.analysis.closure.reasons.get(self.analysis.closure.ids[axis], [])
        whole = [why for why, indices in reasons if indices is None]
        return (whole or [why for why, _ in reasons] or [""])[0]

    def tensor(self, name: str) -> list[Explanation]:
        """Every axis of a tensor.

        Raises:
            UsageError: the model has no tensor of this name, or its shape is not known.
        """
        shapes = self.analysis.graph.shapes
        if name not in shapes:
            raise unknown("tensor", name, shapes)
        return [self.axis((name, a)) for a in range(len(shapes[name]))]

    def group(self, group: int) -> list[Step]:
        """The facts that hold a group together: a tree of ties that reaches each of its weight axes.

        Raises:
            UsageError: there is no such group.
        """
        if not 0 <= group < self.analysis.groups:
            raise UsageError(f"There is no group {group}; the model has {self.analysis.groups} (0 is the first).")
        wanted = set(self.analysis.weight_axes_of(group))
        start = self.analysis.weight_axes_of(group)[0]
        parent: dict[Axis, Step] = {}
        todo = deque([start])
        seen = {start}
        while todo:
            axis = todo.popleft()
            for node, other in self._links.get(axis, ()):
                if other not in seen and self._in_group(other, group):
                    seen.add(other)
                    parent[other] = Step(axis, node, other)
                    todo.append(other)
        needed: dict[Axis, Step] = {}
        for axis in wanted & set(parent):
            while axis in parent and axis not in needed:
                needed[axis] = parent[axis]
                axis = parent[axis].axis
        return [step for axis, step in parent.items() if axis in needed]

    def _in_group(self, axis: Axis, group: int) -> bool:
        number = self.analysis.closure.ids.get(axis)
        if number is None or not self.analysis.closure.sizes[number]:
            return False
        units = self.analysis.unit_of[self.analysis.closure.span(number)]
        return bool((self.analysis.group_of[units[units >= 0]] == group).any())

    def op(self, kind: str) -> list[Explanation]:
        """Every axis, longer than 1, of every tensor that nodes of this operator touch.

        Raises:
            UsageError: no node has this operator.
        """
        ops = [op for op in self.analysis.graph.ops if op.kind == kind]
        if not ops:
            raise unknown("operator in this model", kind, {op.kind for op in self.analysis.graph.ops})
        names = dict.fromkeys(n for op in ops for n in op.tensors if n in self.analysis.graph.shapes)
        return [found for name in names for found in self.tensor(name) if found.size != 1]

    def staying(self) -> list[tuple[str, int, int]]:
        """Why weights stay: ``(reason, weights, parameters)`` by parameters that no unit touches, most first."""
        graph = self.analysis.graph
        cut = {name for (name, _), _ in self.analysis.slices()}
        totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for name in (n for n in graph.constants() if graph.constant_tensor(n).data_type not in WHOLE_TYPES):
            dims = list(graph.constant_tensor(name).dims)
            pinned = [self.axis((name, a)) for a in range(len(dims)) if dims[a] > 1]
            if name in cut or not pinned:
                continue
            widest = max(pinned, key=lambda e: int(e.size))
            totals[widest.why][0] += 1
            totals[widest.why][1] += graph.elements(name)
        return sorted(((why, n, p) for why, (n, p) in totals.items()), key=lambda row: (-row[2], row[0]))
