"""What a model costs: parameters, bytes and multiply-accumulates, before a cut and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.facts import Macs
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.integers import Axis
from onnxprune.model.tensors import WHOLE_TYPES, bits, nbytes


@dataclass(frozen=True)
class Cost:
    """Parameters (weight elements, packed codes one by one), bytes (on disk), MACs (one run at the bound shapes)."""

    params: int
    bytes: int
    macs: int

    def to_json(self) -> dict[str, int]:
        """As plain data."""
        return asdict(self)


class Products:
    """Products of axis sizes, evaluated for any set of widths at once."""

    def __init__(self, analysis: Analysis, terms: Iterable[Sequence[Axis]], shapes: Graph) -> None:
        closure = analysis.closure
        constant, rows = [], []
        for axes in terms:
            factor, row = 1, []
            for axis in axes:
                number = closure.ids.get(axis, -1)
                cuttable = closure.sizes[number] if number >= 0 else 0
                if cuttable:
                    row.append(number)
                if axis[0] in shapes.shapes:
                    size = shapes.shapes[axis[0]][axis[1]]
                    factor *= size // (cuttable or 1) if isinstance(size, int) else 1
            constant.append(factor)
            rows.append(row)
        longest = max(map(len, rows), default=0)
        self.index = np.array([row + [-1] * (longest - len(row)) for row in rows], dtype=np.int64)
        self.constant = np.array(constant, dtype=np.int64)

    def __call__(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The products at these widths."""
        padded = np.append(widths, 1)
        factors = padded[self.index].prod(axis=1) if self.index.size else 1
        products: NDArray[np.int64] = self.constant * factors
        return products


class CostModel:
    """The cost of a model as a function of which units are gone.

    Args:
        analysis: the model's units.
        input_shapes: the shape of each input whose shape is open, for MACs; an open size that remains counts as 1.
    """

    def __init__(self, analysis: Analysis, input_shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        graph = analysis.graph
        self.input_shapes, self.units = dict(input_shapes or {}), analysis.units
        bound = Graph(graph.record, input_shapes) if input_shapes else graph
        weights = [
            n
            for n in graph.constants()
            if n not in graph.copies and graph.constant_tensor(n).data_type not in WHOLE_TYPES
        ]
        self._analysis = analysis
        self._params = Products(analysis, ([(n, a) for a in range(len(graph.shapes[n]))] for n in weights), graph)
        self._bits = np.array([bits(graph.constant_tensor(name)) for name in weights], dtype=np.int64)
        self._codes = np.array([analysis.codes.in_one_element(name) for name in weights], dtype=np.int64)
        stated = [(n, f) for n, facts in enumerate(analysis.facts) for f in facts if isinstance(f, Macs)]
        self._macs = Products(analysis, (fact.axes for _, fact in stated), bound)
        self._places = np.array([place for place, _ in stated], dtype=np.int64)
        self._copies = [pair for pair in graph.copies.items() if _differ(analysis, *pair)]
        self._structure = graph.record.nbytes - sum(nbytes(graph.constant_tensor(n)) for n in weights)

    def __call__(self, removed: Mask) -> Cost:
        """The cost once these units are gone; bytes are the file's, its structure unchanged."""
        widths = self._analysis.widths(removed)
        elements = self._params(widths)
        weight_bytes = int(((elements * self._bits + 7) // 8).sum())
        copied, copied_bytes = self._copied(removed)
        params = int((elements * self._codes).sum()) + copied
        return Cost(params, self._structure + weight_bytes + copied_bytes, int(self._macs(widths).sum()))

    def macs_by_node(self, removed: Mask) -> NDArray[np.int64]:
        """For each node of the graph, the multiply-accumulates of one run once these units are gone."""
        found = np.zeros(len(self._analysis.graph.ops), dtype=np.int64)
        np.add.at(found, self._places, self._macs(self._analysis.widths(removed)))
        return found

    def _copied(self, removed: Mask) -> tuple[int, int]:
        """The elements and bytes of copies of shared vectors that are cut otherwise than the vector itself."""
        elements = total = 0
        for copy, name in self._copies:
            kept = [_kept(self._analysis, tensor, removed) for tensor in (copy, name)]
            if not np.array_equal(kept[0], kept[1]):
                elements += int(kept[0].sum())
                total += int(kept[0].sum() * bits(self._analysis.graph.constant_tensor(copy)) + 7) // 8
        return elements, total

    @property
    def dense(self) -> Cost:
        """The cost of the model as it is."""
        return self(np.zeros(self._analysis.units, dtype=bool))


def _long_axis(analysis: Analysis, vector: str) -> Axis:
    dims = analysis.graph.constant_tensor(vector).dims
    return vector, max(range(len(dims)), key=lambda axis: dims[axis])


def _kept(analysis: Analysis, vector: str, removed: Mask) -> Mask:
    return analysis.kept(_long_axis(analysis, vector), removed)


def _differ(analysis: Analysis, copy: str, name: str) -> bool:
    """Whether a copy of a vector can be cut otherwise than the vector."""
    spans = [analysis.unit_of[analysis.span(_long_axis(analysis, vector))] for vector in (copy, name)]
    return not np.array_equal(spans[0], spans[1])
