"""Gates of 1 in a model, and its derivative by them: another model, written by the package onnx-ad.

A gate multiplies what one operator that sums over units reads there, so that closing it removes them from that sum.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import helper, version_converter

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.facts import Fact, Sum, Tie
from onnxprune.algebra.graph import ONNX_DOMAINS, Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.autodiff import padding
from onnxprune.criteria.base import Numbers
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import Session
from onnxprune.errors import UsageError
from onnxprune.model.edits import with_values
from onnxprune.model.homes import captures
from onnxprune.model.record import Array, Record
from onnxprune.recovery.walk import Values

LEAST_OPSET, NEW_OPSET = 16, 17  # before it, MaxPool and Gather have no derivative that ONNX can write
FLAT = ("QuantizeLinear", "DynamicQuantizeLinear")  # steps: their derivative is zero wherever it exists
STEPS = (1e-2, 1e-3, 1e-4)  # of gates, by which a derivative is checked
DIRECTIONS = 4
TOLERANCE = 0.05  # of what the derivative along a random direction is like
ROUNDING = 8  # units in the last place that an output may be off


@dataclass(frozen=True)
class Gate:
    """Gates behind the units on one axis of a tensor.

    Attributes:
        axis: the axis.
        units: the unit of each of its indices, or -1.
        readers: the nodes of the main graph that read through them, and at which inputs.
    """

    axis: Axis
    units: Numbers
    readers: list[tuple[int, int]] = field(default_factory=list)


def gates(analysis: Analysis) -> list[Gate]:
    """Gates in front of everything that sums over units.

    Raises:
        UsageError: a node inside a body does, where no gate can be put.
    """
    graph = analysis.graph
    moving = _reached(graph, (value.name for value in graph.inputs))
    found: dict[Axis, Gate] = {}
    for op in graph.ops:
        for axis in _summed(op, analysis.facts[op.index], moving):
            units = _units(analysis, axis)
            if (units >= 0).any():
                if op.home.path:
                    raise refusal(f"{op.label}, in the body of another node, sums over units")
                found.setdefault(axis, Gate(axis, units)).readers.append((op.place, op.ins.index(axis[0])))
    return list(found.values())


def _summed(op: Op, stated: Sequence[Fact], moving: set[str]) -> Iterable[Axis]:
    """The axes that a node sums over; of the two factors of a product the first that depends on the model's inputs."""
    for fact in stated:
        axes = [fact.x, fact.y] if isinstance(fact, Tie) and fact.sums else []
        axes = [fact.axis] if isinstance(fact, Sum) else axes
        yield from [axis for axis in axes if axis[0] in moving and axis[0] in op.ins][:1]


def _units(analysis: Analysis, axis: Axis) -> Numbers:
    number = analysis.closure.ids.get(axis)
    if number is None or not analysis.closure.sizes[number]:
        return np.array([], dtype=np.int64)
    found: Numbers = analysis.unit_of[analysis.closure.span(number)]
    return found


def _reached(graph: Graph, names: Iterable[str]) -> set[str]:
    """These tensors and all that is made of them."""
    found = set(names)
    for op in graph.ops:
        if not found.isdisjoint(op.ins) or (op.bodies and not found.isdisjoint(captures(op.node))):
            found.update(name for name in op.outs if name)
    return found


class Adjoint:
    """A model with gates, for inputs of one shape, and its derivative by them.

    Args:
        analysis: the model's units.
        places: its gates.
        values: what some constants hold by now.
        feed: inputs of that shape.
        outputs: the outputs whose derivative is taken.

    Raises:
        UsageError: onnx-ad is not installed, or cannot differentiate the model.
    """

    def __init__(
        self, analysis: Analysis, places: Sequence[Gate], values: Values, feed: Feed, outputs: Sequence[str]
    ) -> None:
        package = _package()
        self.outputs = list(outputs)
        gated = _gated(analysis, places, values, feed, outputs)
        inputs = gated.graph.input[len(gated.graph.input) - len(places) :]
        self.names = [value.name for value in inputs]
        graph = Graph(Record(_renewed(gated)))
        _refuse_strangers(graph, self.names, outputs)
        model = _declared(Graph(Record(padding.written_out(graph))))
        sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs]
        self.open = {name: np.ones(size, _dtype(graph, name)) for name, size in zip(self.names, sizes, strict=True)}
        self._types = [_dtype(graph, name) for name in outputs]
        try:
            derived = package.reverse(model, inputs=self.names, outputs=self.outputs, layout="onnx")
        except (package.UnsupportedOperator, ValueError, KeyError, TypeError) as error:
            raise refusal(str(error)) from error
        self._seeds = [f"adj_{name}" for name in self.outputs]
        self._plain = Session(bytes(gated.SerializeToString()), threads=1)
        self._derived = Session(bytes(derived.SerializeToString()), threads=1)
        self._check(feed)

    def forward(self, feed: Feed, moved: Mapping[str, Array] | None = None) -> list[Array]:
        """The outputs, all gates at 1, or some elsewhere."""
        return list(self._plain.run({**feed, **self.open, **(moved or {})}))

    def pull(self, feed: Feed, seeds: Sequence[Array]) -> list[Array]:
        """Jᵀ of seeds, one per output with a last axis of directions: for every gate (indices, directions)."""
        given = (seed.astype(dtype) for seed, dtype in zip(seeds, self._types, strict=True))
        found = self._derived.run({**feed, **self.open, **dict(zip(self._seeds, given, strict=True))})
        return [array.reshape(-1, array.shape[-1]).astype(np.float64) for array in found[-len(self.names) :]]

    def _check(self, feed: Feed) -> None:
        """Compare with differences along random directions of all gates: a wrong derivative is worse than none.

        Differences of different steps that disagree (by rounding, or at a kink) say nothing.
        """
        rng = np.random.default_rng(0)
        outputs = self.forward(feed)
        seeds = [rng.choice([-1.0, 1.0], np.shape(y)) for y in outputs]
        slopes = self.pull(feed, [seed[..., None] for seed in seeds])
        types = [*self._types, *(gate.dtype for gate in self.open.values())]
        rounding = ROUNDING * max(map(_precision, types)) * _length(outputs)
        for _ in range(DIRECTIONS):
            signs = [rng.choice([-1.0, 1.0], len(slope)) for slope in slopes]
            expected = sum(float(slope[:, 0] @ sign) for slope, sign in zip(slopes, signs, strict=True))
            found = [self._quotient(feed, seeds, signs, step) for step in STEPS]
            allowed = TOLERANCE * _length(slopes)
            far = all(abs(q - expected) > allowed + rounding / step for q, step in zip(found, STEPS, strict=True))
            if far and any(abs(a - b) <= max(allowed, TOLERANCE * abs(a)) for a, b in pairwise(found)):
                raise refusal("the derivative that onnx-ad gives is not the one that differences give")

    def _quotient(self, feed: Feed, seeds: Sequence[Array], signs: Sequence[Array], step: float) -> float:
        """The slope of all outputs together, each number of them times a seed, along a direction of the gates."""
        high, low = (self._projected(feed, seeds, [end * sign for sign in signs]) for end in (step, -step))
        return (high - low) / (2 * step)

    def _projected(self, feed: Feed, seeds: Sequence[Array], moves: Sequence[Array]) -> float:
        """The sum of all outputs, each number of them times a seed, once the gates have moved."""
        moved = {
            name: (gate + move.reshape(gate.shape)).astype(gate.dtype)
            for (name, gate), move in zip(self.open.items(), moves, strict=True)
        }
        outputs = self.forward(feed, moved)
        return sum(float((y.astype(np.float64) * seed).sum()) for y, seed in zip(outputs, seeds, strict=True))


def refusal(why: str) -> UsageError:
    """An error for a model that has no gradients here."""
    return UsageError(f"No gradients of this model: {why}. Choose a criterion that needs none.")


def _package() -> Any:
    try:
        return importlib.import_module("onnx_ad")
    except ImportError as error:
        raise UsageError("Gradients need the extra: pip install onnxprune[grad].") from error


def _gated(
    analysis: Analysis, places: Sequence[Gate], values: Values, feed: Feed, outputs: Sequence[str]
) -> onnx.ModelProto:
    """The model for inputs of one shape, with gates as its last inputs, and only these outputs."""
    graph = analysis.graph
    model: onnx.ModelProto = onnx.ModelProto.FromString(bytes(with_values(graph, values).buffer))
    made: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    for value in model.graph.input:
        if value.name in feed:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, feed[value.name].shape))
    for number, gate in enumerate(places):
        (tensor, axis), name = gate.axis, f"onnxprune:gate:{number}"
        shape = [len(gate.units) if place == axis else 1 for place in range(len(graph.shapes[tensor]))]
        model.graph.input.append(helper.make_tensor_value_info(name, graph.types[tensor], shape))
        made[gate.readers[0][0]].append(helper.make_node("Mul", [tensor, name], [f"{name}:behind"]))
        for place, slot in gate.readers:
            model.graph.node[place].input[slot] = f"{name}:behind"
    for place in sorted(made, reverse=True):
        for node in made[place]:
            model.graph.node.insert(place, node)
    del model.graph.value_info[:], model.graph.output[:]
    ranks = {name: [None] * len(graph.shapes[name]) for name in outputs}
    model.graph.output.extend(helper.make_tensor_value_info(n, graph.types[n], rank) for n, rank in ranks.items())
    return model


def _renewed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset whose operators have derivatives; as it is, where it cannot be brought there."""
    opset = max((o.version for o in model.opset_import if o.domain in ONNX_DOMAINS), default=0)
    if opset >= LEAST_OPSET:
        return model
    try:
        newer: onnx.ModelProto = version_converter.convert_version(model, NEW_OPSET)
    except RuntimeError:
        return model
    return newer


def _refuse_strangers(graph: Graph, names: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse what onnx-ad would take for something else, or for a constant.

    Raises:
        UsageError: such a node lies between gates and outputs.
    """
    behind, before = _reached(graph, names), set(outputs)
    for op in reversed(graph.ops):
        if before.isdisjoint(op.outs) or behind.isdisjoint(op.outs):
            continue
        before.update(op.ins)
        if op.domain:
            raise refusal(f"onnx-ad knows no operators of the domain {op.domain!r}, such as {op.label}")
        if op.kind in FLAT:
            raise refusal(f"{op.label} rounds, and has a derivative of zero")


def _declared(graph: Graph) -> onnx.ModelProto:
    """The model with the shape of every value written down."""
    model = graph.record.whole()
    del model.graph.value_info[:]
    known = [op.outs for op in graph.ops if not op.home.path]
    outputs = {value.name for value in model.graph.output}
    for name in (name for outs in known for name in outs if graph.types.get(name) and name in graph.shapes):
        value = helper.make_tensor_value_info(name, graph.types[name], graph.shapes[name])
        if name not in outputs:
            model.graph.value_info.append(value)
    for output in model.graph.output:
        output.CopyFrom(helper.make_tensor_value_info(output.name, graph.types[output.name], graph.shapes[output.name]))
    return model


def _dtype(graph: Graph, name: str) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(graph.types[name])


def _precision(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7  # bfloat16


def _length(arrays: Sequence[Array]) -> float:
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)))
