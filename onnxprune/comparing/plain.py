"""A model with every weight that it computes from constants written out: dequantised, cast, transposed, copied.

Weights stand behind Constant, Identity, Cast, Transpose or DequantizeLinear, as the exporter likes; here they are
values, and each matrix is read by one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.registry import load
from onnxprune.errors import PruneError
from onnxprune.model.edits import NO_INPUTS
from onnxprune.model.record import Array, Record
from onnxprune.recovery.walk import Walk

LARGEST = 1 << 30  # bytes of a model that is written out: it is held in memory
MOST_COPIES = 1 << 24  # values of a matrix that is written once for each of its readers


def plain(graph: Graph) -> Graph:
    """The same model with such weights as initializers; a model that is too large stays as it is."""
    if graph.record.nbytes > LARGEST:
        return graph
    region = list(_constant(graph))
    inside = {op.index for op in region}
    wanted = [name for op in region for name in op.outs if name and _is_read_outside(graph, name, inside)]
    try:
        values = dict(next(Walk(graph, [{}]).map(wanted, lambda _, found: dict(found)))) if wanted else {}
    except PruneError:  # ONNX Runtime does not know one of the operators
        values, region = {}, []
    model = graph.record.whole()
    for place in sorted((op.place for op in region), reverse=True):
        del model.graph.node[place]
    _without_weights_as_inputs(model)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    _unshare(model, dict(_matrices(graph, values)))
    record = Record(model)
    record.name = graph.record.name
    return Graph(record, graph.bound)


def _constant(graph: Graph) -> Iterator[Op]:
    """The nodes of the main graph that depend on constants alone, and draw no random numbers."""
    rules = load("rules")
    made: set[str] = set()
    for op in graph.ops:
        rule = rules.get((op.domain, op.kind))
        known = op.kind == "Constant" or (any(op.ins) and rule is not None and rule.pins is None)
        if op.home.path or op.bodies or not known or op.out in graph.constant_nodes:
            continue
        if all(not name or name in made or graph.is_constant(name) for name in op.ins):
            made.update(op.outs)
            yield op


def _is_read_outside(graph: Graph, name: str, inside: set[int]) -> bool:
    return name in graph.handed_out or any(op.index not in inside for op, _ in graph.consumers.get(name, ()))


def _matrices(graph: Graph, values: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    yield from ((name, value) for name, value in values.items() if value.ndim > 1 and value.size <= MOST_COPIES)
    for name in graph.homes[0].initializers:
        if graph.is_constant(name) and len(graph.shapes[name]) > 1 and graph.elements(name) <= MOST_COPIES:
            value = graph.constant(name)
            if value is not None:
                yield name, value


def _without_weights_as_inputs(model: onnx.ModelProto) -> None:
    """Older models list every initializer among the inputs; nothing can be added to them."""
    if model.ir_version < NO_INPUTS:
        held = {tensor.name for tensor in model.graph.initializer}
        for place in reversed([n for n, value in enumerate(model.graph.input) if value.name in held]):
            del model.graph.input[place]
        model.ir_version = NO_INPUTS


def _unshare(model: onnx.ModelProto, matrices: dict[str, Array]) -> None:
    """Write a matrix once for each node that reads it."""
    taken = {tensor.name for tensor in model.graph.initializer} | {n for node in model.graph.node for n in node.output}
    read: Counter[str] = Counter()
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name not in matrices:
                continue
            read[name] += 1
            if read[name] > 1:
                copy = f"{name}.{read[name]}"
                while copy in taken:
                    copy += "_"
                taken.add(copy)
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(matrices[name]), copy))
                node.input[slot] = copy
