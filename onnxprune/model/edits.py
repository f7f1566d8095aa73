"""New values for constants, as a model: what recovery changed is written down here, and surgery starts from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.linear import Linear, layers
from onnxprune.algebra.registry import Rule
from onnxprune.model.homes import Home, locate
from onnxprune.model.record import Array, Record

Keeps = Mapping[str, Mapping[int, Sequence[int]]]

NO_INPUTS = 4  # the IR version from which on initializers need not be inputs
LARGEST = 1 << 30  # bytes of a model that is edited: it is held in memory


def with_biases(graph: Graph, linears: Iterable[Linear]) -> Record:
    """The model with a bias of zeros for every one of these layers that has none."""
    model = graph.record.whole()
    names = {name for node in model.graph.node for name in (*node.input, *node.output)} | set(graph.shapes)
    behind: dict[int, onnx.NodeProto] = {}
    held: dict[str, Array] = {}
    for linear in (found for found in linears if _takes_bias(graph, found)):
        node = model.graph.node[linear.op.place]
        bias = _unique(f"{node.output[0]}.bias", names)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.types[linear.y[0]])
        held[bias] = np.zeros(int(graph.shapes[linear.y[0]][linear.y[1]]), dtype)
        if linear.slot is not None:
            given = [*node.input, *[""] * (linear.slot + 1 - len(node.input))]
            given[linear.slot] = bias
            del node.input[:]
            node.input.extend(given)
        else:
            inner, final = _unique(f"{node.output[0]}.product", names), node.output[0]
            node.output[0] = inner
            behind[linear.op.place] = onnx.helper.make_node("Add", [inner, bias], [final])
    for place in sorted(behind, reverse=True):
        model.graph.node.insert(place + 1, behind[place])
    _hold(model.graph, held, model.ir_version)
    return _like(graph.record, model)


def _takes_bias(graph: Graph, linear: Linear) -> bool:
    """Whether a layer has no bias, and one can be added: as an input of the node, or along the last axis behind it."""
    return linear.bias is None and (linear.slot is not None or linear.y[1] == len(graph.shapes[linear.y[0]]) - 1)


def _hold(proto: onnx.GraphProto, values: Mapping[str, Array], ir_version: int) -> None:
    """Make room for new constants: as initializers, or, where every initializer is an input as well, as nodes."""
    for number, (name, value) in enumerate(values.items()):
        tensor = numpy_helper.from_array(value, name)
        if ir_version >= NO_INPUTS:
            proto.initializer.append(tensor)
        else:
            proto.node.insert(number, onnx.helper.make_node("Constant", [], [name], value=tensor))


def with_values(graph: Graph, values: Mapping[str, Array]) -> Record:
    """The model with these values in these constants; a copy of a shared vector gets a place of its own."""
    model = graph.record.whole()
    for home in graph.homes:
        write(graph, home, locate(model.graph, home.path), values)
    return _like(graph.record, model)


def write(graph: Graph, home: Home, proto: onnx.GraphProto, values: Mapping[str, Array]) -> None:
    """Write values into the constants that a home holds, given a copy of its graph."""
    places = {tensor.name: place for place, tensor in enumerate(proto.initializer)}
    own: dict[str, Array] = {}
    for name, tensor in home.initializers.items():
        if name in values:
            proto.initializer[places[tensor.name]].CopyFrom(numpy_helper.from_array(values[name], tensor.name))
    for op in (op for op in graph.ops if op.home is home):
        node = proto.node[op.place]
        if op.out in values and op.out in graph.constant_nodes:
            held = next(attribute.t for attribute in node.attribute if attribute.name == "value")
            held.CopyFrom(numpy_helper.from_array(values[op.out]))
        for slot, name in enumerate(op.ins):
            if name in graph.copies and (name in values or graph.copies[name] in values):
                own[name] = values[name] if name in values else np.asarray(graph.constant(name))
                node.input[slot] = name
    _hold(proto, own, graph.record.proto.ir_version)


def grown(graph: Graph, rule: Callable[[Op], Rule | None], other: Graph) -> Graph:
    """The model with zero biases where a model that was made from it has biases that it has not."""
    bare = [linear for linear in layers(graph, rule) if linear.bias is None]
    every = {linear.w: linear.bias for linear in layers(Graph(with_biases(graph, bare)), rule)}
    given = [linear for linear in bare if (bias := every.get(linear.w)) and other.is_constant(bias.name)]
    return Graph(with_biases(graph, given)) if given else graph


def adopted(graph: Graph, other: Graph, keeps: Keeps) -> Record:
    """The model with the weights of a smaller one in the place of those that it kept; the others stay.

    Args:
        graph: the model.
        other: the smaller one.
        keeps: of each constant that was cut, the kept indices of each axis.
    """
    values = {}
    for name in graph.constants():
        held, new = graph.constant(name), other.constant(name) if other.is_constant(name) else None
        if held is None or new is None:
            continue
        whole = np.array(held)
        places = np.ix_(*(keeps.get(name, {}).get(axis, range(size)) for axis, size in enumerate(whole.shape)))
        if whole[places].shape == new.shape and not np.array_equal(whole[places], new):
            whole[places] = new
            values[name] = whole
    return with_values(graph, values)


def digest(graph: Graph, keeps: Keeps, names: Iterable[str]) -> str:
    """A hash of these constants as they are once they are cut."""
    found = hashlib.sha256()
    for name in sorted(names):
        value = graph.constant(name) if graph.is_constant(name) else None
        array = np.zeros(0) if value is None else np.asarray(value)
        for axis, kept in keeps.get(name, {}).items():
            array = array.take(kept, axis=axis)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique)
    return unique


def _like(record: Record, model: onnx.ModelProto) -> Record:
    """A record that plans still know as the one it was made from."""
    made = Record(model)
    made.name, made.__dict__["sha256"], made.__dict__["outside"] = record.name, record.sha256, record.outside
    return made
