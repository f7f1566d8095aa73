"""A model as stations that tensors pass: a linear layer with its tail is one, every other node is one of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onnxprune.algebra.graph import Graph, Op
from onnxprune.comparing.layers import Layer
from onnxprune.comparing.layers import found as find_layers

CARRIERS = frozenset(
    {
        *("Cast", "Dropout", "Flatten", "Identity", "Pad", "QuantizeLinear", "DequantizeLinear"),
        *("Reshape", "Squeeze", "Transpose", "Unsqueeze"),
    }
)
"""Operators that hand values on as they are, up to their layout, their type or zeros around them."""


@dataclass(eq=False)
class Station:
    """One step of a model.

    Attributes:
        ops: its nodes; the first one names it.
        ins: the tensors that it reads and that depend on the model's inputs.
        outs: the tensors that others may read.
        layer: the linear layer that it is, if it is one.
    """

    ops: Sequence[Op]
    ins: tuple[str, ...]
    outs: tuple[str, ...]
    layer: Layer | None = None

    @property
    def op(self) -> Op:
        """The node that names it."""
        return self.ops[0]

    @property
    def kind(self) -> str:
        """What it does, as far as that must be the same in both models."""
        return "linear" + "x".join(map(str, self.layer.key)) if self.layer else self.op.kind

    @property
    def carries(self) -> bool:
        """Whether it hands values on as they are."""
        return self.op.kind in CARRIERS


@dataclass
class Line:
    """The stations of a model in the order in which they run.

    Args:
        graph: the model, its weights written out.
    """

    graph: Graph
    layers: list[Layer] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = find_layers(self.graph)

    @cached_property
    def stations(self) -> list[Station]:
        """All stations."""
        graph = self.graph
        tails = {op.index for layer in self.layers for op in layer.tail}
        layer_of = {layer.op.index: layer for layer in self.layers}
        found = []
        for op in graph.ops:
            if op.home.path or op.index in tails or (op.kind == "Constant" and not op.domain):
                continue
            layer = layer_of.get(op.index)
            if layer is None:
                found.append(Station([op], self._variable(op), tuple(name for name in op.outs if name)))
            else:
                found.append(Station(layer.ops, (layer.linear.x[0],), (layer.end[0],), layer))
        return sorted(found, key=lambda station: station.ops[-1].index)

    def _variable(self, op: Op) -> tuple[str, ...]:
        inner = (name for other in self.graph.ops if op.bodies and _is_inside(other, op) for name in other.ins)
        names = dict.fromkeys((*op.ins, *inner))
        return tuple(name for name in names if name in self.variable)

    @cached_property
    def variable(self) -> frozenset[str]:
        """The tensors of the main graph that are no constants."""
        made = (name for op in self.graph.ops if not op.home.path for name in op.outs)
        return frozenset({*(v.name for v in self.graph.inputs), *made} - {"", *self.graph.constants()})

    @cached_property
    def maker(self) -> dict[str, Station]:
        """The station that makes each tensor."""
        return {name: station for station in self.stations for name in station.outs}

    def source(self, name: str) -> str:
        """The tensor whose values this one holds, behind all that only carries them."""
        station = self.maker.get(name)
        while station is not None and station.carries and station.ins:
            name = station.ins[0]
            station = self.maker.get(name)
        return name

    def readers(self, name: str) -> list[Station]:
        """The stations that read what a tensor holds, in whatever layout."""
        return self._readers.get(self.source(name), [])

    @cached_property
    def _readers(self) -> dict[str, list[Station]]:
        found: dict[str, list[Station]] = {}
        for station in (s for s in self.stations if not s.carries):
            for name in dict.fromkeys(map(self.source, station.ins)):
                found.setdefault(name, []).append(station)
        return found

    def between(self, start: Iterable[str], end: Station) -> list[Station]:
        """The stations from these tensors to a station, itself the last."""
        stop, todo, seen = set(start), [end], {id(end)}
        while todo:
            for name in todo.pop().ins:
                station = self.maker.get(name)
                if name not in stop and station is not None and id(station) not in seen:
                    seen.add(id(station))
                    todo.append(station)
        return [station for station in self.stations if id(station) in seen]


def _is_inside(op: Op, holder: Op) -> bool:
    return bool(op.home.path) and op.home.path[0][0] == holder.place
