"""A model in segments: an operator that multiplies, and what runs behind it until the next one.

A runtime fuses, reorders and inserts nodes as widths let it. Whatever it makes of a model, it does so around the
operators that multiply; the time of a segment is comparable between any two widths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.cost import Products
from onnxprune.algebra.facts import Macs, Tie
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.latency.profile import Node

TAG = "@{}@"  # what a node is called while it is measured; fusions keep it as a part of the name they make
LAYOUT = re.compile(r"(.*)_nchwc(_token_\d+)?")  # nodes that ONNX Runtime names after their output
Widths = NDArray[np.int64]
Features = NDArray[np.float64]  # of each segment: 1, multiply-accumulates, elements read, elements written


class Blocks(NamedTuple):
    """What widths are rounded up to: of axes that an operator keeps, and of those that it sums over."""

    kept: int
    summed: int


class Segments:
    """Which operator belongs to which segment, and what drives the time of each.

    Args:
        analysis: the model's units.
        bound: its graph at the shapes of the run.

    Attributes:
        anchor: for each operator the one that leads its segment, or -1 for what runs before any.
        leaders: the operators that lead, and -1.
    """

    def __init__(self, analysis: Analysis, bound: Graph) -> None:
        self.analysis, self.graph = analysis, analysis.graph
        self._multiplies = [[f.axes for f in stated if isinstance(f, Macs)] for stated in analysis.facts]
        self.anchor: list[int] = []
        for op in self.graph.ops:
            self.anchor.append(op.index if self._multiplies[op.index] else self._upstream(op))
        self.leaders = sorted({-1, *self.anchor})
        self._place = {leader: number for number, leader in enumerate(self.leaders)}
        self._terms = [
            (Products(analysis, [axes for _, axes in found], bound), np.array([s for s, _ in found], dtype=np.int64))
            for found in (list(self._macs()), list(self._elements(reading=True)), list(self._elements(reading=False)))
        ]
        closure = analysis.closure
        self._free = np.array([closure.free(number) for number in range(len(closure.axes))], dtype=bool)
        summed = (f for stated in analysis.facts for f in stated if isinstance(f, Tie) and f.sums)
        numbers = [closure.ids[axis] for f in summed for axis in (f.x, f.y) if axis in closure.ids]
        self._summed = np.zeros(len(closure.axes), dtype=bool)
        self._summed[numbers] = True
        self.axes = [self._cut_axes(leader) for leader in self.leaders]
        self.kinds = [self._kind(leader) for leader in self.leaders]

    def _upstream(self, op: Op) -> int:
        makers = [self.graph.producer[name].index for name in op.ins if name in self.graph.producer]
        return max((self.anchor[i] for i in makers if i < len(self.anchor)), default=-1)

    def _macs(self) -> Iterator[tuple[int, Sequence[Axis]]]:
        for op in self.graph.ops:
            yield from ((self._place[self.anchor[op.index]], axes) for axes in self._multiplies[op.index])

    def _elements(self, *, reading: bool) -> Iterator[tuple[int, Sequence[Axis]]]:
        for op in self.graph.ops:
            for name in op.ins if reading else op.outs:
                if name in self.graph.shapes and not self.graph.is_constant(name):
                    axes = [(name, axis) for axis in range(len(self.graph.shapes[name]))]
                    yield self._place[self.anchor[op.index]], axes

    def _cut_axes(self, leader: int) -> NDArray[np.int64]:
        closure = self.analysis.closure
        axes = {axis for product in self._multiplies[leader] for axis in product} if leader >= 0 else set()
        numbers = {closure.ids[axis] for axis in axes if axis in closure.ids}
        return np.array(sorted(n for n in numbers if self._free[n]), dtype=np.int64)

    def _kind(self, leader: int) -> str:
        if leader < 0:
            return ""
        op = self.graph.ops[leader]
        grouped = op.kind.startswith("Conv") and op.attr("group", 1) > 1
        return f"grouped {op.kind}" if grouped else op.kind

    def features(self, widths: Widths, blocks: Blocks) -> Features:
        """What drives each segment's time when axes are that wide; what can be cut is rounded up to whole blocks."""
        block = np.where(self._free, np.where(self._summed, blocks.summed, blocks.kept), 1)
        rounded = -(-widths // block) * block
        found = np.zeros((len(self.leaders), 1 + len(self._terms)))
        found[:, 0] = 1
        for column, (products, places) in enumerate(self._terms, start=1):
            if len(places):
                np.add.at(found[:, column], places, products(rounded).astype(np.float64))
        return found

    def tag(self, proto: onnx.ModelProto) -> None:
        """Name every node of a cut model after the operator that it is."""
        for node in proto.graph.node:
            maker = self.graph.producer.get(node.output[0]) if node.output else None
            node.name = TAG.format(maker.index) if maker else ""

    def times(self, nodes: Sequence[Node]) -> NDArray[np.float64]:
        """The milliseconds of each segment; what a runtime inserted belongs to what ran before it."""
        found = np.zeros(len(self.leaders))
        current = -1
        for name, taken in nodes:
            current = self._operator(name, current)
            found[self._place[self.anchor[current] if current >= 0 else -1]] += taken
        return found

    def _operator(self, name: str, before: int) -> int:
        tags = re.findall(TAG.format(r"(\d+)"), name)
        if tags:
            return int(tags[-1])
        layout = LAYOUT.fullmatch(name)
        maker = self.graph.producer.get(layout[1]) if layout else None
        return maker.index if maker else before
