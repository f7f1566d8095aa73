"""Why two models part where they do: a weight, a bias or an attribute differs, or only the arithmetic does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.graph import Graph, Op
from onnxprune.comparing import attributes
from onnxprune.comparing.layers import CARRIERS, Layer, Matrix
from onnxprune.comparing.stations import Station
from onnxprune.comparing.tracing import Drop, Trace
from onnxprune.comparing.weights import allowed, difference, vector_difference

LARGEST_EPSILON = 0.1


@dataclass(frozen=True)
class Finding:
    """One difference between two nodes.

    Attributes:
        kind: ``weights``, ``bias``, ``attribute``, ``operators`` or ``arithmetic``.
        what: the difference in words.
        nodes: the node of each model.
    """

    kind: str
    what: str
    nodes: tuple[str, str]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "nodes": list(self.nodes)}


@dataclass(frozen=True)
class Divergence:
    """Where two models part.

    Attributes:
        nodes: the node of each model.
        before, after: decibels of agreement at its inputs and behind it.
        findings: why, the likeliest reason first.
    """

    nodes: tuple[str, str]
    before: float
    after: float
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        findings = [finding.to_json() for finding in self.findings]
        return {"nodes": list(self.nodes), "before_db": self.before, "after_db": self.after, "findings": findings}


class Diagnosis:
    """Explains the drops of a trace.

    Args:
        made: the trace.
        labels: how to name a node of the first and of the second model.
        ceiling: decibels that rounding leaves of weights.
    """

    def __init__(self, made: Trace, labels: tuple[dict[str, str], dict[str, str]], ceiling: float) -> None:
        self.made, self.labels, self.slack = made, labels, allowed(ceiling)

    def __call__(self, drop: Drop) -> Divergence:
        """Why two models part at a drop."""
        stations = self._origin(drop) if drop.moved else drop.stations
        findings = list(self._findings(*stations))
        if findings:
            return Divergence(findings[0].nodes, drop.before, drop.after, findings)
        nodes = self._names(*(side[-1].op if side else None for side in stations))
        return Divergence(nodes, drop.before, drop.after, [self._no_difference(stations, nodes)])

    def _no_difference(self, stations: tuple[list[Station], list[Station]], nodes: tuple[str, str]) -> Finding:
        kinds = [[op.kind for station in side if not station.carries for op in station.ops] for side in stations]
        small = [_small_numbers(side) for side in stations]
        if all(small) and not attributes.same(small[0][0], small[1][0]):
            return Finding("attribute", f"epsilon differs: {small[0][0]:g} and {small[1][0]:g}", nodes)
        if kinds[0] == kinds[1]:
            return Finding("arithmetic", "the same operator with the same weights and attributes", nodes)
        words = [", ".join(side[-4:]) or "nothing" for side in kinds]
        return Finding("operators", f"one computes it by {words[0]}, the other by {words[1]}", nodes)

    def _origin(self, drop: Drop) -> tuple[list[Station], list[Station]]:
        """What put channels in another order: the nearest layer before whose weights differ, else where it begins.

        The node's own weights come first.
        """
        if drop.stations[0][-1:] and drop.stations[0][-1].layer and any(self._findings(*drop.stations)):
            return drop.stations
        one, other = self.made.lines
        name: str | None = drop.moved
        found = drop.stations
        while name is not None:
            station, partner = one.maker.get(name), other.maker.get(self.made.partner[name])
            if station is None or partner is None:
                break
            found = [station], [partner]
            if station.layer and any(self._findings(*found)):
                break
            name = next((n for n in station.ins if (known := self.made.likeness.get(n)) and known.moved), None)
        return found

    def _names(self, first: Op | None, second: Op | None) -> tuple[str, str]:
        one, other = (
            "" if op is None else known.get(op.out, op.label)
            for known, op in zip(self.labels, (first, second), strict=True)
        )
        return one, other

    def _findings(self, first: Sequence[Station], second: Sequence[Station]) -> Iterator[Finding]:
        """What differs between the stations of a stretch, attributes first: they may be why a weight differs."""
        layers = [[station.layer for station in side if station.layer] for side in (first, second)]
        paired = [(a, b) for a, b in zip(*layers, strict=False) if a.key == b.key]
        alike = {id(a): _kinds(a) == _kinds(b) for a, b in paired}
        nodes = list(_same_kinds(first, second))
        padded = any(station.op.kind == "Pad" for side in (first, second) for station in side)
        for a, b in nodes:
            for what in attributes.differences(a, b, padded=padded):
                yield Finding("attribute", what, self._names(a, b))
        for one, other in paired:
            yield from self._in_layer(one, other, alike=alike[id(one)])
        held = {op.index for one, _ in paired for op in one.ops if not alike[id(one)] or op is one.op}
        for a, b in nodes:
            if a.index not in held:
                yield from self._in_constants(a, b)

    def _in_layer(self, one: Layer, other: Layer, *, alike: bool) -> Iterator[Finding]:
        """What differs between two layers: as they stand if their tails are alike, else with the tails in them."""
        names = self._names(one.op, other.op)
        pair = (one.raw, other.raw) if alike else _unscaled(one, other)
        what = difference(*pair, self.slack, one.taps)
        if what and not alike:
            what += " (what is folded into one or follows the other included)"
        if what:
            yield Finding("weights", what, names)
        biases = (one.raw_bias, other.raw_bias) if alike else (one.bias, other.bias)
        size = float(np.sqrt((pair[0] ** 2).sum(axis=1).mean()))
        bias = vector_difference(*biases, self.slack, size)
        if bias:
            yield Finding("bias", bias, names)

    def _in_constants(self, a: Op, b: Op) -> Iterator[Finding]:
        first, second = (_constants(op) for op in (a, b))
        if len(first) != len(second):
            return
        for (slot, x), (_, y) in zip(first, second, strict=True):
            what = _constant_difference(x, y, self.slack)
            if what:
                yield Finding("weights", f"{_slot_name(a, slot)}: {what}", self._names(a, b))


def _unscaled(one: Layer, other: Layer) -> tuple[Matrix, Matrix]:
    """Both weights without the scale that is folded into one and follows the other."""
    scales = [layer.scale for layer in (one, other) if np.ptp(layer.scale) and layer.scale.all()]
    scale = scales[0][:, None] if len(scales) == 1 else 1.0
    return one.weight / scale, other.weight / scale


def _kinds(layer: Layer) -> list[str]:
    return [op.kind for op in layer.ops if op.kind not in CARRIERS]


def _same_kinds(first: Sequence[Station], second: Sequence[Station]) -> Iterator[tuple[Op, Op]]:
    """Nodes of one operator, in their order; none where one model has more of them than the other."""
    sides = [[op for station in side for op in station.ops if not op.bodies] for side in (first, second)]
    for kind in dict.fromkeys(op.kind for op in sides[0]):
        these, those = ([op for op in side if op.kind == kind] for side in sides)
        if len(these) == len(those):
            yield from zip(these, those, strict=True)


def _small_numbers(stations: Sequence[Station]) -> list[float]:
    """What is added, or given as an attribute, so that nothing is divided by 0; written out or not."""
    ops = [op for station in stations for op in station.ops]
    given = [float(op.attr("epsilon")) for op in ops if op.attr("epsilon") is not None]
    added = [float(v.item()) for op in ops if op.kind == "Add" for _, v in _constants(op) if v.size == 1]
    return sorted(number for number in (*given, *added) if 0 < number <= LARGEST_EPSILON)


def _constants(op: Op) -> list[tuple[int, Any]]:
    graph: Graph = op.graph
    held = ((slot, graph.constant(name)) for slot, name in enumerate(op.ins) if name and graph.is_constant(name))
    return [(slot, value) for slot, value in held if value is not None and value.dtype.kind in "fV"]


def _constant_difference(x: Any, y: Any, slack: float) -> str:
    if x.size != y.size or not x.size:
        return ""
    first, second = x.astype(np.float64), y.astype(np.float64)
    if max(first.shape, default=1) == first.size:
        return vector_difference(first.ravel(), second.ravel(), slack)
    if first.shape != second.shape:
        return ""
    return difference(first.reshape(len(first), -1), second.reshape(len(second), -1), slack)


def _slot_name(op: Op, slot: int) -> str:
    try:
        named = onnx.defs.get_schema(op.kind, op.version, op.domain).inputs
    except onnx.defs.SchemaError:
        return f"input {slot}"
    return named[slot].name if slot < len(named) else f"input {slot}"


def labels(graph: Graph) -> dict[str, str]:
    """How the nodes of a model are named, by their first outputs."""
    return {op.out: op.label for op in graph.ops if op.outs and not op.home.path}
