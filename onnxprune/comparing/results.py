"""What a comparison of two models found: plain, typed, and ready to become JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxprune.comparing.causes import Divergence
from onnxprune.comparing.signature import Bound
from onnxprune.verification.comparison import Comparison


@dataclass(frozen=True)
class LayerPair:
    """A linear layer of both models.

    Attributes:
        nodes: the node of each model.
        shape: rows and columns of its matrix.
        weights: how the weights differ, what is folded in or follows included; empty if rounding explains it.
        level: decibels by which what it makes agrees (see `onnxprune.comparing.signals.level`); ``None``: not known.
        moved: whether its channels lie in another order.
    """

    nodes: tuple[str, str]
    shape: tuple[int, int]
    weights: str
    level: float | None
    moved: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "nodes": list(self.nodes), "shape": list(self.shape)}


@dataclass(frozen=True)
class Side:
    """One of the models.

    Attributes:
        name: its file.
        producer: who wrote it.
        opset: of ONNX's own operators.
        bytes, params, macs: what it costs.
        latency_ms: median of one run, measured in turns with the other; ``None``: not measured.
        operators: how many nodes of each.
        groups, units: what pruning can cut.
        least: MACs with every group at one unit, as a fraction.
        staying: why the most parameters stay whole.
        measures: what else was asked for, by name.
    """

    name: str
    producer: str
    opset: int
    bytes: int
    params: int
    macs: int
    latency_ms: float | None
    operators: dict[str, int]
    groups: int
    units: int
    least: float
    staying: str
    measures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Compared:
    """Two exports of one network.

    Attributes:
        sides: the models.
        precision: the coarsest number type in either: ``int8`` stands for every quantised one.
        inputs, outputs: what corresponds to what.
        comparisons: how each output differs.
        rows: of input.
        real: whether they were the user's data.
        layers: pairs of linear layers, in the order of the first model.
        alone: linear layers of either model without a counterpart.
        divergence: where the outputs' difference begins; ``None`` if they are equal, or no node loses much at once.
        others: how many more nodes lose much agreement at once.
        note: what else the user should know.
    """

    sides: tuple[Side, Side]
    precision: str
    inputs: Sequence[Bound]
    outputs: Sequence[Bound]
    comparisons: Sequence[Comparison]
    rows: int
    real: bool
    layers: Sequence[LayerPair]
    alone: tuple[Sequence[str], Sequence[str]]
    divergence: Divergence | None
    others: int = 0
    note: str = ""

    def __bool__(self) -> bool:
        return all(self.comparisons)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "equal": bool(self),
            "precision": self.precision,
            "rows": self.rows,
            "real": self.real,
            "sides": [side.to_json() for side in self.sides],
            "inputs": [bound.to_json() for bound in self.inputs],
            "outputs": [bound.to_json() for bound in self.outputs],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "layers": [layer.to_json() for layer in self.layers],
            "alone": [list(names) for names in self.alone],
            "divergence": self.divergence.to_json() if self.divergence else None,
            "others": self.others,
            "note": self.note,
        }
