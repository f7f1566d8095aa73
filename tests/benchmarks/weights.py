"""The weights of a model, what an ideal cut would take of them, and why a real one did not.

*Weights* are the constants of two axes or more that an operator with multiply-accumulates reads, as they are or
through nodes that compute from constants alone: convolutions, linear layers, recurrent cells. Those of their axes that
the operator ties to other axes can shrink; a kernel's height cannot.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.explain import Explainer
from onnxprune.algebra.facts import Macs, Product, ties
from onnxprune.algebra.integers import Axis
from onnxprune.model.tensors import WHOLE_TYPES

RECURRENT = ("LSTM", "GRU", "RNN")

Labels = NDArray[np.int64]


class Weights:
    """The weights of a model, by name, with those of their axes that can shrink."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.graph = analysis, analysis.graph
        self._leaves: dict[str, tuple[str, ...]] = {}
        self.readers = [op for op in self.graph.ops if any(isinstance(f, Macs) for f in analysis.facts[op.index])]
        self.axes: dict[str, list[int]] = {}
        for name in dict.fromkeys(leaf for op in self.readers for slot in op.ins if slot for leaf in self.leaves(slot)):
            axes = self._tied(name)
            if axes and self._is_weight(name):
                self.axes[name] = axes

    def leaves(self, name: str) -> tuple[str, ...]:
        """The constants that a tensor is computed from, if from nothing else."""
        if name not in self._leaves:
            self._leaves[name] = ()  # while it is looked for
            self._leaves[name] = self._find_leaves(name)
        return self._leaves[name]

    def _find_leaves(self, name: str) -> tuple[str, ...]:
        if self.graph.is_constant(name):
            return (name,)
        op = self.graph.producer.get(name)
        if op is None or op.bodies:
            return ()
        parts = [self.leaves(slot) for slot in op.ins if slot]
        return tuple(leaf for part in parts for leaf in part) if all(parts) else ()

    def _is_weight(self, name: str) -> bool:
        tensor = self.graph.constant_tensor(name)
        return tensor.data_type not in WHOLE_TYPES and sum(size > 1 for size in tensor.dims) > 1

    def _tied(self, name: str) -> list[int]:
        """The axes that readers tie to another axis."""
        stated = (f for op, _ in self.graph.consumers.get(name, ()) for f in self.analysis.facts[op.index])
        pairs = [pair for fact in stated for pair in ties(fact)]
        found = {a for x, y in pairs if x != y for n, a in (x, y) if n == name}
        return sorted(a for a in found if self.dims(name)[a] > 1)

    def dims(self, name: str) -> tuple[int, ...]:
        """The sizes of a constant."""
        return tuple(self.graph.constant_tensor(name).dims)

    def size(self, names: Iterable[str], cut: dict[Axis, int] | None = None) -> int:
        """How many parameters these weights have, after a cut if one is given."""
        cut = cut or {}
        return sum(math.prod(cut.get((name, a), size) for a, size in enumerate(self.dims(name))) for name in names)

    def lost(self, names: Iterable[str], cut: dict[Axis, int]) -> float:
        """The share of these weights' parameters that a cut removes."""
        chosen = list(names)
        return 1 - self.size(chosen, cut) / max(self.size(chosen), 1) if chosen else 0.0

    # ---- the ends of the model -------------------------------------------------------------------------------

    def labels(self, axis: Axis) -> Labels:
        """Which component each index of an axis belongs to."""
        closure = self.analysis.closure
        number = closure.ids.get(axis)
        return np.empty(0, dtype=np.int64) if number is None else closure.labels[closure.span(number)]

    def _of(self, names: Iterable[str]) -> Labels:
        axes = ((name, a) for name in names for a in range(len(self.graph.shapes.get(name, ()))))
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *map(self.labels, axes)]))

    @cached_property
    def inputs(self) -> Labels:
        """The components that hold an index of an input."""
        return self._of(value.name for value in self.graph.inputs)

    @cached_property
    def outputs(self) -> Labels:
        """The components that hold an index of an output."""
        return self._of(value.name for value in self.graph.proto.output)

    @cached_property
    def ends(self) -> Labels:
        """The components that hold an index of an input or an output; an axis whose factors do, and its factors."""
        found = np.union1d(self.inputs, self.outputs)
        products = [f for stated in self.analysis.facts for f in stated if isinstance(f, Product)]
        before = -1
        while before < found.size:
            before = found.size
            for product in products:
                flat, factors = self.labels(product.flat), [self.labels(f) for f in product.factors]
                sides = (flat, np.concatenate([np.empty(0, dtype=np.int64), *factors]))
                if any(side.size and np.isin(side, found).all() for side in sides):
                    found = np.union1d(found, np.concatenate(sides))
        return found

    def ideal(self) -> float:
        """What all weights together would lose if all axes that are no input's or output's halved."""
        left = 0.0
        for name, axes in self.axes.items():
            stay = float(math.prod(self.dims(name)))
            for a in axes:
                size = self.dims(name)[a]
                free = size - int(np.isin(self.labels((name, a)), self.ends).sum())
                stay *= (size - free // 2) / size
            left += stay
        return 1 - left / max(self.size(self.axes), 1) if self.axes else 0.0

    # ---- what of it lies in blocks ---------------------------------------------------------------------------

    def blocks(self) -> list[str]:
        """The weights that are neither embeddings (read by a Gather, or alone with an axis of an input) nor heads."""
        looked_up = {leaf for op in self.graph.ops if op.kind == "Gather" for leaf in self.leaves(op.ins[0])}
        return [
            name for name in self.axes if name not in looked_up | self._alone(self.inputs) | self._alone(self.outputs)
        ]

    def _alone(self, ends: Labels) -> set[str]:
        """The weights with an axis that is tied to one of these components, and to no other weight."""
        touched = {
            name: {int(label) for a in axes for label in np.intersect1d(self.labels((name, a)), ends)}
            for name, axes in self.axes.items()
        }
        shared = Counter(label for labels in touched.values() for label in labels)
        return {name for name, labels in touched.items() if any(shared[label] == 1 for label in labels)}

    def kind(self) -> str:
        """What a model is made of, by what is most telling."""
        ops = self.graph.ops
        moving = {op.kind for op in self.readers if not any(self.leaves(name) for name in op.ins if name)}
        soft = any(op.kind == "Softmax" for op in ops) and moving & {"MatMul", "Einsum"}
        if soft or any("Attention" in op.kind for op in ops):
            return "attention"
        if any(op.kind in RECURRENT for op in ops):
            return "recurrent"
        return "convolution" if any(op.kind == "Conv" for op in self.readers) else "linear"

    # ---- what stayed -----------------------------------------------------------------------------------------

    def reasons(self, cut: dict[Axis, int]) -> dict[str, float]:
        """Why what could have halved did not, as shares of all weights' parameters."""
        explainer, found, total = Explainer(self.analysis), defaultdict[str, float](float), self.size(self.axes)
        for axis, amount in self._excess(cut):
            told = explainer.axis(axis)
            found[shorten(told.why) if told.why else "its groups have too few units to halve"] += amount / total
        return {why: round(share, 5) for why, share in sorted(found.items(), key=lambda item: -item[1])}

    def _excess(self, cut: dict[Axis, int]) -> Iterator[tuple[Axis, float]]:
        """The parameters kept beyond halving all axes, shared among those that did not halve."""
        for name, axes in self.axes.items():
            over = {}
            for a in axes:
                size = self.dims(name)[a]
                over[a] = math.log(max(cut.get((name, a), size) / (size - size // 2), 1.0))
            kept, total = self.size([name], cut), sum(over.values())
            for a in axes:
                if over[a]:
                    yield (name, a), kept * (1 - math.exp(-total)) * over[a] / total


def shorten(why: str) -> str:
    """A reason without the names of nodes and tensors, so that those of a kind are one."""
    why = re.sub(r"\b([A-Z]\w+) (#\d+ \('[^']*'\)|'[^']*')", r"\1", why)
    why = re.sub(r"^'[^']*' is (an (input|output) of the model)", r"\1", why)
    return re.sub(r"'[^']*'", "…", why)
