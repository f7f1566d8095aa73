"""Models that must be refused, each with words that the refusal says."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model import wire
from tests.material import changed, entry, tiny

Model = onnx.ModelProto | bytes
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def _boundary() -> bytes:
    data = bytes(tiny().SerializeToString())
    return data[: list(wire.fields(memoryview(data), 0, len(data)))[-2].end]


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "b")
    return buffer.getvalue()


def _twice() -> bytes:
    """`w1` with two `raw_data` fields, of which protobuf would take the last."""
    model = tiny()
    first = model.graph.initializer.pop(0)
    tensor = first.SerializeToString() + wire.tag(wire.RAW_DATA, len(first.raw_data)) + first.raw_data
    graph = model.graph.SerializeToString() + wire.tag(wire.INITIALIZER, len(tensor)) + tensor
    model.ClearField("graph")
    return bytes(model.SerializeToString() + wire.tag(wire.GRAPH, len(graph)) + graph)


def _tensor(index: int, **fields: object) -> onnx.ModelProto:
    model = tiny()
    tensor = model.graph.initializer[index]
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return model


def _bare(**fields: object) -> onnx.ModelProto:
    """`w1` described anew, without data."""
    return changed(lambda m: m.graph.initializer[0].CopyFrom(TensorProto(name="w1", **fields)))  # type: ignore[arg-type]


def _longer(index: int, more: int) -> onnx.ModelProto:
    raw = tiny().graph.initializer[index].raw_data
    return _tensor(index, raw_data=raw + bytes(more) if more > 0 else raw[:more])


def _cycle() -> onnx.ModelProto:
    model = tiny()
    model.graph.node[0].input[0] = "c"
    model.graph.node.append(helper.make_node("Relu", ["r"], ["c"]))
    return model


def _functions(*bodies: tuple[str, list[str]]) -> onnx.ModelProto:
    """A model that calls the last of these functions, each a chain of calls by name."""
    model = tiny()
    model.ir_version = 9
    model.opset_import.append(helper.make_opsetid("local", 1))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for name, calls in bodies:
        values = ["a", *(f"t{i}" for i in range(1, len(calls))), "b"]
        nodes = [
            helper.make_node(call, [values[i]], [values[i + 1]], domain="" if call == "Relu" else "local")
            for i, call in enumerate(calls)
        ]
        model.functions.append(helper.make_function("local", name, ["a"], ["b"], nodes, opsets))
    model.graph.node[1].op_type, model.graph.node[1].domain = bodies[-1][0], "local"
    return model


def doubling(depth: int) -> onnx.ModelProto:
    """Functions that each call the one before twice: two to the power of `depth` nodes."""
    return _functions(("f0", ["Relu"]), *((f"f{i}", [f"f{i - 1}"] * 2) for i in range(1, depth + 1)))


def _constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return changed(lambda m: m.graph.node.append(helper.make_node("Constant", [], [tensor.name], value=tensor)))


def _external(name: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    entry(tensor, location="secret")
    return tensor


def in_branch(*initializers: onnx.TensorProto, depth: int = 1) -> onnx.ModelProto:
    """The activation inside nested branches of `If`, the innermost with initializers of its own."""
    model = tiny()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))

    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    inner = branch("in", [helper.make_node("Relu", ["h"], ["in"])])
    inner.initializer.extend(initializers)
    for level in range(depth):
        other = branch(f"else{level}", [helper.make_node("Relu", ["h"], [f"else{level}"])])
        node = helper.make_node("If", ["yes"], [f"o{level}"], then_branch=inner, else_branch=other)
        inner = branch(f"o{level}", [node])
    model.graph.node[1].CopyFrom(inner.node[0])
    model.graph.node[1].output[0] = "r"
    return model


def _sparse_outside() -> onnx.ModelProto:
    model = tiny()
    sparse = model.graph.sparse_initializer.add(dims=[8])
    sparse.values.CopyFrom(_external("s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "i"))
    return model


def _cleared(field: str) -> onnx.ModelProto:
    return changed(lambda m: m.ClearField(field))


def _opset(version: int, domain: str | None = None) -> onnx.ModelProto:
    """Another opset for the operators, or one more import."""
    if domain is None:
        return changed(lambda m: m.opset_import[0].CopyFrom(helper.make_opsetid("", version)))
    return changed(lambda m: m.opset_import.append(helper.make_opsetid(domain, version)))


def _node(kind: str, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    return changed(lambda m: m.graph.node.append(helper.make_node(kind, inputs, outputs)))


FLOAT = TensorProto.FLOAT
CONTAINERS: dict[str, tuple[Callable[[], Model], str]] = {
    "nothing": (lambda: b"", "is empty"),
    "truncated": (lambda: tiny().SerializeToString()[:-20], "truncated"),
    "truncated at a field": (_boundary, "imports no opset"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(256), "not an ONNX model"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX model"),
    "an archive": (_zip, "not an ONNX model"),
    "JSON": (lambda: b'{"a": 1}', "not an ONNX model"),
    "a web page": (lambda: b"<!DOCTYPE html><html></html>", "not an ONNX model"),
    "a Git LFS pointer": (lambda: LFS, "git lfs pull"),
    "something behind it": (lambda: tiny().SerializeToString() + bytes(10), "not an ONNX model"),
    "data twice": (_twice, "stores its data twice"),
}
HEADERS: dict[str, tuple[Callable[[], Model], str]] = {
    "no graph": (lambda: _cleared("graph"), "holds no graph"),
    "no opset": (lambda: _cleared("opset_import"), "imports no opset"),
    "opset 0": (lambda: _opset(0), "imports opset 0"),
    "opset -3": (lambda: _opset(-3), "imports opset -3"),
    "opset 999": (lambda: _opset(999), "is of opset 999"),
    "two opsets": (lambda: _opset(13, ""), "two opsets for one domain"),
    "two opsets, two spellings": (lambda: _opset(13, "ai.onnx"), "two opsets for one domain"),
    "IR 999": (lambda: changed(lambda m: setattr(m, "ir_version", 999)), "ir_version 999"),
    "no IR": (lambda: _cleared("ir_version"), "ir_version"),
    "a name in no encoding": (lambda: tiny().SerializeToString().replace(b"b1", b"\xff\xfe"), "not UTF-8"),
    "a function that calls itself": (lambda: _functions(("f", ["f"])), "calls itself"),
    "functions in a circle": (lambda: _functions(("f", ["g"]), ("g", ["f"])), "calls itself"),
    "functions that double": (lambda: doubling(40), "more than 1,000,000 nodes"),
}
GRAPHS: dict[str, tuple[Callable[[], Model], str]] = {
    "two initializers of one name": (
        lambda: changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "two initializers called 'w1'",
    ),
    "two inputs of one name": (lambda: changed(lambda m: m.graph.input.append(m.graph.input[0])), "'x' has been used"),
    "two producers": (lambda: _node("Relu", ["h"], ["r"]), "'r' has been used"),
    "a producer of a weight": (lambda: _node("Relu", ["h"], ["w1"]), "'w1' has been used"),
    "a cycle": (_cycle, "topologically sorted"),
    "an unknown operator": (lambda: _node("Foo", ["h"], ["z"]), "Foo"),
    "an unknown domain": (lambda: changed(lambda m: setattr(m.graph.node[1], "domain", "x.y")), "'x.y'"),
    "an undefined input": (lambda: _node("Relu", ["nope"], ["z"]), "'nope'"),
    "an undefined output": (lambda: changed(lambda m: setattr(m.graph.output[0], "name", "nope")), "'nope'"),
    "an unknown attribute": (
        lambda: changed(lambda m: m.graph.node[0].attribute.append(helper.make_attribute("foo", 3))),
        "foo",
    ),
    "no nodes": (lambda: changed(lambda m: m.graph.ClearField("node")), "not an output of any node"),
    "no outputs": (lambda: changed(lambda m: m.graph.ClearField("output")), "has no output"),
    "an input of no type": (
        lambda: changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 0)),
        "Input 'x'",
    ),
    "an input of type 99": (
        lambda: changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)),
        "Input 'x'",
    ),
}
TENSORS: dict[str, tuple[Callable[[], Model], str]] = {
    "a negative dimension": (lambda: _tensor(0, dims=[-8, 64]), "'w1' of"),
    "two negative dimensions": (lambda: _tensor(0, dims=[-8, -64]), "negative dimension: [-8, -64]"),
    "a negative dimension, small": (lambda: _tensor(1, dims=[-64]), "'b1' of"),
    "data too short": (lambda: _longer(0, -4), "'w1' of"),
    "data too long": (lambda: _longer(0, 4), "does not fit"),
    "data too short, small": (lambda: _longer(1, -4), "'b1' of"),
    "data too long, small": (lambda: _longer(1, 4), "does not fit"),
    "no data": (lambda: changed(lambda m: m.graph.initializer[0].ClearField("raw_data")), "does not fit"),
    "type 0": (lambda: _tensor(0, data_type=0), "no known data type (0)"),
    "type 99": (lambda: _tensor(0, data_type=99), "no known data type (99)"),
    "type 99, small": (lambda: _tensor(1, data_type=99), "no known data type (99)"),
    "type -1": (lambda: _tensor(0, data_type=-1), "no known data type (-1)"),
    "data in two fields": (lambda: _tensor(0, float_data=[1.0] * 512), "does not fit"),
    "data in two fields, small": (lambda: _tensor(1, float_data=[1.0] * 64), "does not fit"),
    "too few typed entries": (lambda: _bare(data_type=FLOAT, dims=[8], float_data=[1.0] * 7), "does not fit"),
    "too many typed entries": (lambda: _bare(data_type=FLOAT, dims=[8], float_data=[1.0] * 9), "does not fit"),
    "huge without data": (lambda: _bare(data_type=FLOAT, dims=[1 << 31, 1 << 31]), "does not fit"),
    "huge, overflowing": (lambda: _bare(data_type=FLOAT, dims=[1 << 62, 4]), "does not fit"),
    "text as raw bytes": (lambda: _tensor(0, data_type=TensorProto.STRING), "does not fit"),
    "a segment": (lambda: changed(lambda m: setattr(m.graph.initializer[0].segment, "end", 3)), "segment"),
    "no name": (lambda: _tensor(0, name=""), "name"),
    "a constant too long": (lambda: _constant(TensorProto(name="q", data_type=1, dims=[1], raw_data=bytes(8))), "'q'"),
    "an external constant": (lambda: _constant(_external("q")), "'q' inside a node"),
    "external data in a branch": (lambda: in_branch(_external("q")), "'q' inside a node"),
    "external data in a sparse tensor": (_sparse_outside, "'s' inside a node"),
}
BROKEN = {**CONTAINERS, **HEADERS, **GRAPHS, **TENSORS}
