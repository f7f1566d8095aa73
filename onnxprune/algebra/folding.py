"""Weights that the graph computes from other weights, by operators that keep their axes whole: computed once, here.

A standardised weight, say, is its weight less a mean over its inputs: no input can go while the mean is taken at run
time, and any can once it is taken. Nothing is folded that facts flow through (Identity, Transpose, Cast …), nothing
that depends on an input of the model, nothing that draws random numbers, and nothing that would make the file larger
than its weights explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxprune.algebra.facts import Macs, Normalized, Pin
from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.registry import load
from onnxprune.model.homes import drop_unread
from onnxprune.model.record import Array, Record

LARGEST = 1 << 30  # bytes of a model that is folded: it is held in memory
MOST_GROWTH = 2  # times the weights that a value is computed from
COMPUTED = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def folded(graph: Graph) -> Record | None:
    """The model with such weights in place of what computes them, or ``None`` if it has none."""
    region = list(_constant(graph))
    wanted = list(_wanted(graph, region))
    if not wanted or graph.record.nbytes > LARGEST:
        return None
    values = _computed(graph, region, wanted)
    if not values or not all(np.isfinite(value).all() for value in values.values()):
        return None
    record = Record(_replaced(graph, region, values))
    record.name, record.__dict__["sha256"] = graph.record.name, graph.record.sha256
    return record


def _constant(graph: Graph) -> Iterator[Op]:
    """The nodes of the main graph that depend on constants alone."""
    rules = load("rules")
    made: set[str] = set()
    for op in graph.ops:
        if op.home.path or op.bodies or op.domain or op.kind == "Constant" or not any(op.ins):
            continue
        rule = rules.get((op.domain, op.kind))
        if rule is None or rule.pins is not None:  # what is pinned on purpose may draw random numbers
            continue
        if all(not name or name in made or graph.is_constant(name) for name in op.ins):
            made.update(op.outs)
            yield op


def _wanted(graph: Graph, region: list[Op]) -> Iterator[str]:
    """What leaves the region as a weight, and has gone through a node that keeps an axis whole."""
    held: set[str] = set()
    inside = {op.index for op in region}
    sources: dict[str, int] = {}
    for op in region:
        read = sum(sources.get(name, graph.elements(name) if graph.is_constant(name) else 0) for name in op.ins if name)
        holds = _states(op, Pin, Normalized) or not held.isdisjoint(op.ins)
        for name in op.outs:
            sources[name] = read
            if holds:
                held.add(name)
            if (
                holds
                and len(op.outs) == 1
                and _is_weight(graph, name, inside)
                and _elements(graph, name) <= MOST_GROWTH * read
            ):
                yield name


def _states(op: Op, *kinds: type) -> bool:
    """Whether a node's rule states a fact of one of these kinds."""
    rule = load("rules").get((op.domain, op.kind))
    try:
        return rule is not None and any(isinstance(fact, kinds) for fact in rule.facts(op))
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        return False


def _is_weight(graph: Graph, name: str, inside: set[int]) -> bool:
    """Whether a node that multiplies and adds reads a value, of two axes at least, that does not leave the model."""
    leaves = any(op.index not in inside and _states(op, Macs) for op, _ in graph.consumers.get(name, ()))
    wide = len(graph.shapes.get(name, ())) > 1 and all(isinstance(size, int) for size in graph.shapes[name])
    return leaves and wide and graph.types.get(name) in COMPUTED and name not in graph.handed_out


def _elements(graph: Graph, name: str) -> int:
    return math.prod(int(size) for size in graph.shapes[name])


def _computed(graph: Graph, region: list[Op], wanted: list[str]) -> dict[str, Array]:
    """The values, by ONNX's own reference implementation; none if it does not know one of the operators."""
    part = onnx.ModelProto(ir_version=graph.record.proto.ir_version, opset_import=graph.record.structure.opset_import)
    part.graph.name = "weights"
    names = {graph.copies.get(name, name) for op in region for name in op.ins if name}
    for name in sorted(names & set(graph.initializers)):
        part.graph.initializer.append(numpy_helper.from_array(np.asarray(graph.constant(name)), name))
    part.graph.node.extend(op.node for name, op in sorted(graph.constant_nodes.items()) if name in names)
    part.graph.node.extend(op.node for op in region)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    try:
        found = ReferenceEvaluator(part).run(None, {})
    except Exception:
        return {}  # what it cannot compute stays as it came
    types = {name: onnx.helper.tensor_dtype_to_np_dtype(graph.types[name]) for name in wanted}
    return {name: np.asarray(value, dtype=types[name]) for name, value in zip(wanted, found, strict=True)}


def _replaced(graph: Graph, region: list[Op], values: dict[str, Array]) -> onnx.ModelProto:
    """The whole model, weights included, with these values as initializers and without what only made them."""
    model = graph.record.whole()
    places = {op.place for op in region if not values.keys().isdisjoint(op.outs)}
    for place in sorted(places, reverse=True):
        del model.graph.node[place]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    inputs = {value.name for value in model.graph.input}
    drop_unread(model.graph, {name for op in region for name in (*op.outs, *op.node.input)} - inputs)
    return model
