"""How far a changed model's outputs are from the dense one's, on data that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import ExecutionError
from onnxprune.model.record import Array
from onnxprune.model.tensors import FLOATS
from onnxprune.recovery.walk import Walk

MOST_ELEMENTS = 1 << 25  # of dense outputs that are kept


@dataclass(frozen=True)
class Loss:
    """How far outputs are from the dense model's.

    Attributes:
        error: the squared error as a fraction of the outputs' variance, the mean over all outputs of floats.
        agreement: the fraction of rows of the first output whose largest entry is the same; 1 for single numbers.
    """

    error: float
    agreement: float

    def to_json(self) -> dict[str, float | str]:
        """As plain data; an infinite error, of outputs that cannot be compared, is written as text."""
        return {"error": self.error if np.isfinite(self.error) else "inf", "agreement": self.agreement}


class HeldOut:
    """Batches, and what the dense model makes of them.

    Args:
        graph: the model.
        feeds: the batches.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feed]) -> None:
        made = {name for op in graph.ops if not op.home.path for name in op.outs}
        self.outputs = [v.name for v in graph.proto.output if graph.types.get(v.name) in FLOATS and v.name in made]
        self.graph = graph
        self.dense: list[dict[str, Array]] = []
        size = 0
        for found in Walk(graph, feeds).map(self.outputs, lambda _, values: dict(values)):
            size += sum(array.size for array in found.values())
            if self.dense and size > MOST_ELEMENTS:
                break
            self.dense.append(found)
        self.feeds = list(feeds[: len(self.dense)])
        self._variances = {name: _variance([found[name] for found in self.dense]) for name in self.outputs}
        self._walk = Walk(graph, self.feeds)

    @property
    def is_classifier(self) -> bool:
        """Whether the first output is a row of scores per sample."""
        first = self.dense[0].get(self.outputs[0]) if self.outputs else None
        return first is not None and first.ndim == 2 and first.shape[1] > 1

    def start(self, values: Mapping[str, Array] | None = None) -> None:
        """Let all models that are compared from here on share these values up to where they are told apart."""
        self._walk = Walk(self.graph, self.feeds, values)

    def loss(self, values: Mapping[str, Array], place: int = 0, *, fed: bool = False) -> Loss:
        """Compare a model.

        Args:
            values: what its constants hold.
            place: the first node, counted in the main graph, that reads another value than `start` was given; calls
                with growing places are cheap.
            fed: whether the values that `start` was not given are inputs of one session, which the next call takes
                over if it changes the same constants.
        """
        if place < self._walk.at:
            self.start(self._walk.values)
        self._walk.advance(place)
        try:
            found = self._walk.tried(self.outputs, self._compare, dict(values), fed=fed)
        except ExecutionError:
            return Loss(np.inf, 0.0)
        squares, same, rows = (sum(part) for part in zip(*found, strict=True))
        scaled = [total / self._variances[name] for name, total in zip(self.outputs, squares, strict=True)]
        error = float(np.mean(scaled)) if scaled else 0.0
        return Loss(error if np.isfinite(error) else np.inf, float(same / rows) if rows else 1.0)

    def _compare(self, number: int, values: Mapping[str, Array]) -> tuple[Array, int, int]:
        squares = []
        same = rows = 0
        for name in self.outputs:
            a, b = self.dense[number][name].astype(np.float64), values[name].astype(np.float64)
            squares.append(float(np.square(a - b).sum()) if a.shape == b.shape else np.inf)
            if name == self.outputs[0] and a.shape == b.shape and a.ndim > 0 and a.shape[-1] > 1:
                equal = a.argmax(-1) == b.argmax(-1)
                same, rows = int(equal.sum()), equal.size
        return np.array(squares), same, rows


def _variance(arrays: Sequence[Array]) -> float:
    """The sum of squared deviations from the mean of every index of the last axis."""
    wide = [array.astype(np.float64).reshape(-1, array.shape[-1] if array.ndim else 1) for array in arrays]
    if len({array.shape[1] for array in wide}) > 1:
        wide = [array.reshape(-1, 1) for array in wide]
    rows = np.concatenate(wide)
    total = float(np.square(rows - rows.mean(0)).sum())
    return total or float(np.square(rows).sum()) or 1.0
