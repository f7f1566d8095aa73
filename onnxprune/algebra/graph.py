"""The graph as rules and solver read it: nodes in order, shapes, constants, small numbers. Nothing here edits.

The nodes of bodies (If, Loop, Scan) stand among the others, right before the node that holds them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.algebra.inference import Inference
from onnxprune.algebra.integers import Numbers
from onnxprune.algebra.symbols import Dim as Dim
from onnxprune.algebra.symbols import Shape as Shape
from onnxprune.model.homes import Home, Namer, Path, bodies
from onnxprune.model.record import Array, Record
from onnxprune.model.tensors import WHOLE_TYPES

Sizes = list[Dim | None]  # of a tensor that a node is to make, as far as they are known

ONNX_DOMAINS = ("", "ai.onnx")


class Op:
    """One node, as a rule sees it."""

    def __init__(self, graph: Graph, node: onnx.NodeProto, home: Home, place: int, bodies: tuple[Home, ...]) -> None:
        self.graph = graph
        self.index = len(graph.ops)
        self.node = node
        self.home, self.place = home, place
        self.bodies = bodies
        self.kind = node.op_type
        self.domain = "" if node.domain in ONNX_DOMAINS else node.domain
        self.version = graph.opsets.get(self.domain, 0)
        names = home.names
        self.ins = tuple([names.get(name, name) for name in node.input])
        self.outs = tuple([names.get(name, name) for name in node.output])

    @property
    def out(self) -> str:
        """The first output."""
        return str(self.outs[0])

    @cached_property
    def label(self) -> str:
        """How messages name this node."""
        return f"{self.kind} {self.node.name!r}" if self.node.name else f"{self.kind} #{self.place} ({self.out!r})"

    @property
    def tensors(self) -> list[str]:
        """All that it reads or writes, and what its bodies are handed and hand out."""
        ends = (name for body in self.bodies for name in (*body.inputs, *body.outputs))
        return [name for name in dict.fromkeys((*self.ins, *self.outs, *ends)) if name]

    def has(self, slot: int) -> bool:
        """Whether an optional input is given."""
        return slot < len(self.ins) and bool(self.ins[slot])

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return _value(attribute)
        return default

    def shape(self, tensor: str) -> Shape:
        """The shape of one of this node's tensors (only asked for when its rank is known)."""
        return self.graph.shapes[tensor]

    def rank(self, tensor: str) -> int:
        """Its number of axes."""
        return len(self.graph.shapes[tensor])

    def sizes(self, name: str, slot: int | None, numbers: Mapping[str, Numbers] | None = None) -> Sizes | None:
        """Integers kept in an attribute (older opsets) or an input (newer); unknown elements are ``None``.

        Args:
            name: the attribute.
            slot: the input.
            numbers: the values of small tensors, if not those of the graph as it came.
        """
        given = self.attr(name)
        if given is not None:
            return list(np.atleast_1d(given).tolist())
        if slot is None or not self.has(slot):
            return None
        found = (self.graph.numbers if numbers is None else numbers).get(self.ins[slot])
        if found is None:
            array = self.graph.constant(self.ins[slot])
            return None if array is None else list(array.ravel().tolist())
        return [number.value for number in found.ravel()]

    def numbers(self, name: str, slot: int) -> list[Any] | None:
        """The same, what is symbolic counted among the unknown."""
        found = self.sizes(name, slot)
        return None if found is None else [None if isinstance(value, str) else value for value in found]

    def ints(self, name: str, slot: int) -> list[int] | None:
        """The same, if every element is known."""
        found = self.numbers(name, slot)
        return None if found is None or None in found else found


class Graph:
    """A model's graph, read only.

    Args:
        record: the model.
        bound: sizes for inputs whose shape is open, to see the graph as one run would.
    """

    def __init__(self, record: Record, bound: Mapping[str, Sequence[int]] | None = None) -> None:
        self.record = record
        self.bound = dict(bound or {})
        proto = record.structure
        self.proto = proto.graph
        self.opsets = {"" if o.domain in ONNX_DOMAINS else o.domain: o.version for o in proto.opset_import}
        self.ops: list[Op] = []
        self.homes: list[Home] = []
        self._namer = Namer()
        self._enter((), self.proto, {})
        self.initializers = {name: tensor for home in self.homes for name, tensor in home.initializers.items()}
        self.constant_nodes = {
            op.out: op for op in self.ops if op.kind == "Constant" and op.domain == "" and op.attr("value") is not None
        }
        self.copies = dict(self._unshare())
        self.initializers |= {c: self.initializers[n] for c, n in self.copies.items() if n in self.initializers}
        self.constant_nodes |= {c: self.constant_nodes[n] for c, n in self.copies.items() if n in self.constant_nodes}
        main = self.homes[0].initializers
        overridable = {i.name for i in self.proto.input} if proto.ir_version >= 4 else set[str]()
        self.overridable = overridable & set(main)
        self.inputs = [i for i in self.proto.input if i.name not in main]
        self.producer = {name: op for op in self.ops for name in op.outs if name}
        self.consumers: dict[str, list[tuple[Op, int]]] = defaultdict(list)
        for op in self.ops:
            for slot, name in enumerate(op.ins):
                if name:
                    self.consumers[name].append((op, slot))
        self.handed_out = {name for home in self.homes for name in home.outputs}
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}  # of elements
        self.numbers: dict[str, Numbers] = {}
        Inference(self).run()

    def _enter(self, path: Path, proto: onnx.GraphProto, outer: Mapping[str, str]) -> Home:
        """List the nodes of a graph, those of bodies before the node that holds them."""
        home = self._namer.home(path, proto, outer)
        self.homes.append(home)
        for place, node in enumerate(proto.node):
            inner = [
                self._enter((*path, (place, attribute, number)), body, home.names)
                for attribute, number, body in bodies(node)
            ]
            self.ops.append(Op(self, node, home, place, tuple(inner)))
        return home

    def _unshare(self) -> Iterator[tuple[str, str]]:
        """Give every reader of a shared vector a copy of its own; only copies that end up different are ever written.

        Exporters store equal vectors once, which ties layers together that have nothing else in common. What is
        larger than a vector stays one: its readers share it on purpose.
        """
        overridable = {value.name for value in self.proto.input}
        vectors = {n: t for n, t in self.initializers.items() if n not in overridable and is_vector(t)}
        vectors |= {n: t for n in self.constant_nodes if is_vector(t := self.constant_tensor(n))}
        read: set[str] = set()
        for op in self.ops:
            for slot, name in enumerate(op.ins):
                if name in read:
                    copy = self._namer.unique(name)
                    op.ins = (*op.ins[:slot], copy, *op.ins[slot + 1 :])
                    yield copy, name
                elif name in vectors:
                    read.add(name)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor's values are fixed in the model: an initializer, or a Constant node's output."""
        return name in self.constant_nodes or (name in self.initializers and name not in self.overridable)

    def constant(self, name: str) -> Array | None:
        """The values of a constant tensor."""
        if name in self.constant_nodes:
            return numpy_helper.to_array(self.constant_tensor(name))
        if name in self.overridable or name not in self.initializers:
            return None
        original = self.copies.get(name, name)
        in_main = original in self.homes[0].initializers
        return self.record.array(original) if in_main else numpy_helper.to_array(self.initializers[name])

    def constant_tensor(self, name: str) -> onnx.TensorProto:
        """The description (type, dims) of a constant tensor."""
        if name in self.initializers:
            found: onnx.TensorProto = self.initializers[name]
        else:
            found = next(a.t for a in self.constant_nodes[name].node.attribute if a.name == "value")
        return found

    def elements(self, name: str) -> int:
        """How many values a constant tensor holds."""
        return math.prod(self.constant_tensor(name).dims)

    def constants(self) -> Iterator[str]:
        """Every constant tensor, initializers first; a shared vector for each of its readers."""
        yield from (name for name in self.initializers if name not in self.overridable)
        yield from self.constant_nodes

    def evaluate(self, shapes: dict[str, Shape]) -> dict[str, Numbers]:
        """The small numbers that the graph computes when its tensors have these shapes."""
        return Inference(self).forward(shapes, fill=False)


def is_vector(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is a weight of which one axis at most is longer than 1."""
    return tensor.data_type not in WHOLE_TYPES and 1 < math.prod(tensor.dims) == max(tensor.dims, default=0)


def _value(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
