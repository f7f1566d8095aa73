"""The graph as rules and solver read it: nodes in order, shapes, constants, small numbers. Nothing here edits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune import integers, symbols
from onnxprune.integers import Numbers
from onnxprune.record import Array, Record
from onnxprune.registry import load
from onnxprune.symbols import Dim, settled

Shape = tuple[Dim, ...]
Sizes = list[Dim | None]  # of a tensor that a node is to make, as far as they are known

ONNX_DOMAINS = ("", "ai.onnx")
MOST_ROUNDS = 4  # of handing evaluated numbers back to shape inference
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


class Op:
    """One node, as a rule sees it."""

    def __init__(self, graph: Graph, index: int, node: onnx.NodeProto) -> None:
        self.graph = graph
        self.index = index
        self.node = node
        self.kind = node.op_type
        self.domain = "" if node.domain in ONNX_DOMAINS else node.domain
        self.version = graph.opsets.get(self.domain, 0)
        self.ins = tuple(node.input)
        self.outs = tuple(node.output)

    @property
    def out(self) -> str:
        """The first output."""
        return str(self.outs[0])

    @cached_property
    def label(self) -> str:
        """How messages name this node."""
        return f"{self.kind} {self.node.name!r}" if self.node.name else f"{self.kind} #{self.index} ({self.out!r})"

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
    """A model's main graph, read only.

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
        self.ops = [Op(self, i, node) for i, node in enumerate(self.proto.node)]
        self.initializers = {t.name: t for t in self.proto.initializer}
        self.constant_nodes = {
            op.out: op for op in self.ops if op.kind == "Constant" and op.domain == "" and op.attr("value") is not None
        }
        overridable = {i.name for i in self.proto.input} if proto.ir_version >= 4 else set[str]()
        self.overridable = overridable & set(self.initializers)
        self.inputs = [i for i in self.proto.input if i.name not in self.initializers]
        self.captured = {name for op in self.ops for name in captures(op.node)}
        self.producer = {name: op for op in self.ops for name in op.outs if name}
        self.consumers: dict[str, list[tuple[Op, int]]] = defaultdict(list)
        for op in self.ops:
            for slot, name in enumerate(op.ins):
                if name:
                    self.consumers[name].append((op, slot))
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}  # of elements
        self.numbers: dict[str, Numbers] = {}
        self._infer()

    def is_constant(self, name: str) -> bool:
        """Whether a tensor's values are fixed in the model: an initializer, or a Constant node's output."""
        return name in self.constant_nodes or (name in self.initializers and name not in self.overridable)

    def constant(self, name: str) -> Array | None:
        """The values of a constant tensor."""
        if name in self.constant_nodes:
            return numpy_helper.to_array(self.constant_tensor(name))
        return self.record.array(name) if name in self.initializers and name not in self.overridable else None

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
        """Every constant tensor, initializers first."""
        yield from (name for name in self.initializers if name not in self.overridable)
        yield from self.constant_nodes

    def evaluate(self, shapes: dict[str, Shape]) -> dict[str, Numbers]:
        """The small numbers that the graph computes when its tensors have these shapes."""
        return self._forward(shapes, fill=False)

    def _infer(self) -> None:
        """Shapes from inputs and weights alone; what the file declares only fills gaps.

        ONNX's inference does not follow every computed shape. Numbers that we could evaluate are handed back to it as
        constants, until it learns nothing more.
        """
        bare = onnx.ModelProto()
        bare.CopyFrom(self.record.structure)
        del bare.graph.value_info[:]
        for value in bare.graph.input:
            _name_sizes(value.type)
        for value in bare.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, self.bound.get(value.name, ()), strict=False):
                dim.dim_value = size
        for output in bare.graph.output:
            output.type.tensor_type.ClearField("shape")
        given: set[str] = set()
        for _ in range(MOST_ROUNDS):
            self._learn_all(bare)
            self.numbers = self._forward(self.shapes, fill=True)
            new = self._computed_sizes() - given
            if not new:
                return
            given |= new
            for name in sorted(new):
                plain = integers.known(self.numbers[name])
                bare.graph.initializer.append(
                    numpy_helper.from_array(np.asarray(plain, dtype=np.int64), f"{name}\0known")
                )
            for node, op in zip(bare.graph.node, self.ops, strict=True):
                for slot, name in enumerate(op.ins):
                    if name in given and slot > 0:
                        node.input[slot] = f"{name}\0known"

    def _computed_sizes(self) -> set[str]:
        """Known numbers that nodes compute for nodes whose output shape is not fully known."""
        return {
            name
            for op in self.ops
            if any(y and self._is_open(y) for y in op.outs)
            for name in op.ins[1:]
            if name in self.numbers and not self.is_constant(name) and integers.known(self.numbers[name]) is not None
        }

    def _learn_all(self, bare: onnx.ModelProto) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
        except Exception:
            inferred = self.proto  # inference refuses some valid models; what is declared must do
        declared = [] if self.bound else [*self.proto.value_info, *self.proto.output]
        self.shapes.clear()
        inputs = [value for value in bare.graph.input if value.name not in self.initializers]
        for info in [*inputs, *inferred.value_info, *inferred.output]:
            self._learn(info.name, info.type)
        for info in declared:  # what inference leaves open, a declaration may know
            inferred_shape = self.shapes.get(info.name)
            if inferred_shape is None or not all(isinstance(dim, int) for dim in inferred_shape):
                kind = onnx.TypeProto()
                kind.CopyFrom(info.type)
                _name_sizes(kind)
                self._learn(info.name, kind)
        for tensor in self.proto.initializer:
            self.shapes[tensor.name] = tuple(tensor.dims)
            self.types[tensor.name] = tensor.data_type

    def _learn(self, name: str, kind: onnx.TypeProto) -> None:
        if not kind.HasField("tensor_type"):
            return
        if kind.tensor_type.elem_type:
            self.types[name] = kind.tensor_type.elem_type
        if kind.tensor_type.HasField("shape"):
            self._merge(name, [_size(d, f"?{name}.{i}") for i, d in enumerate(kind.tensor_type.shape.dim)])

    def _merge(self, name: str, learnt: Sequence[Dim]) -> None:
        """Take what is learnt of a shape where it says more than what was known: a size, or a name that is shared."""
        before = self.shapes.get(name, ())
        if len(before) == len(learnt):
            learnt = [old if settled(old) else new for new, old in zip(learnt, before, strict=True)]
        self.shapes[name] = tuple(learnt)

    def _is_open(self, name: str) -> bool:
        return name not in self.shapes or not all(map(settled, self.shapes[name]))

    def _forward(self, shapes: dict[str, Shape], *, fill: bool) -> dict[str, Numbers]:
        values: dict[str, Numbers] = {}
        for op in self.ops:
            if op.kind == "Shape" and op.ins[0] in shapes:
                whole = integers.widths(op.ins[0], shapes[op.ins[0]])
                values[op.out] = whole[op.attr("start", 0) : op.attr("end", len(whole))]
            elif op.kind == "Size" and op.ins[0] in shapes:
                values[op.out] = integers.size(op.ins[0], shapes[op.ins[0]])
            elif op.kind in integers.EVALUATORS and op.domain == "":
                found = self._evaluate(op, values)
                if found is not None:
                    values[op.out] = found
            if fill and any(name and self._is_open(name) for name in op.outs):
                self._fill(op, values)
        return values

    def _number(self, name: str, values: dict[str, Numbers]) -> Numbers | None:
        if name not in values and self.is_constant(name):
            tensor = self.constant_tensor(name)
            floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
            limit = 16 if tensor.data_type in floats else integers.LARGEST
            if math.prod(tensor.dims) <= limit and tensor.data_type != onnx.TensorProto.STRING:
                values[name] = integers.numbers(np.asarray(self.constant(name)))
        return values.get(name)

    def _evaluate(self, op: Op, values: dict[str, Numbers]) -> Numbers | None:
        inputs: list[Numbers | None] = []
        for name in op.ins:
            found = self._number(name, values) if name else None
            if found is None and name and not inputs:
                return None  # the data itself is no small number
            inputs.append(found)
        if not inputs and op.kind != "Constant":
            return None
        try:
            found = integers.EVALUATORS[op.kind](integers.Call(inputs, op.attr))
        except (ValueError, IndexError, TypeError, OverflowError):
            return None
        return found if found is not None and found.size <= integers.LARGEST else None

    def _fill(self, op: Op, values: dict[str, Numbers]) -> None:
        """Infer a node's output shapes where ONNX's inference gave up, from the numbers that we know."""
        target = self._number(op.ins[1], values) if op.kind in TARGETED and op.ins[0] in self.shapes else None
        copies = not op.attr("allowzero", 0)
        if target is not None and (copies or all(number.value != 0 for number in target.ravel())):
            self._merge(op.out, TARGETED[op.kind](self.shapes[op.ins[0]], target, op.out))
        elif op.kind == "Range" and (length := counted(*(self._number(name, values) for name in op.ins))) is not None:
            self._merge(op.out, (length,))
        else:
            self._fill_by_schema(op, values)
        rule = load("rules").get((op.domain, op.kind))
        stated = None if rule is None or rule.typed_by is None or not op.has(rule.typed_by) else rule.typed_by
        given = op.ins if stated is None else op.ins[stated : stated + 1]
        kinds = [self.types[name] for name in given if name in self.types]
        for name in op.outs:  # what a node picks or decodes is of its table's or its scale's type, not of its codes'
            if name in self.shapes and name not in self.types and kinds:
                self.types[name] = next((kind for kind in kinds if kind in FLOATS), kinds[0])

    def _fill_by_schema(self, op: Op, values: dict[str, Numbers]) -> None:
        data = {}
        for name in op.ins:
            plain = integers.known(self._number(name, values) if name else None)
            if plain is not None and plain.dtype == np.int64:
                data[name] = numpy_helper.from_array(plain, name)
        types = {name: self._typed(name) for name in op.ins if name in self.types}
        rule = load("rules").get((op.domain, op.kind))
        if rule is not None and rule.shapes is not None:
            self._fill_by_rule(op, rule.shapes)
            return
        try:
            schema = onnx.defs.get_schema(op.kind, op.version, op.domain)
            opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
            found = onnx.shape_inference.infer_node_outputs(
                schema, op.node, types, data, opset_imports=opsets, ir_version=self.record.proto.ir_version
            )
        except Exception:
            return  # unknown stays unknown, and what is unknown is pinned
        for name, kind in found.items():
            self._learn(name, kind)

    def _fill_by_rule(self, op: Op, shapes: Callable[[Op], Iterable[Shape]]) -> None:
        try:
            found = [tuple(shape) for shape in shapes(op)]
        except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError):
            return  # an input's shape is not known, or the node is malformed: its rule will say so
        for name, shape in zip(op.outs, found, strict=False):
            if name:
                self._merge(name, shape)

    def _typed(self, name: str) -> onnx.TypeProto:
        return onnx.helper.make_tensor_type_proto(self.types[name], self.shapes.get(name))


def _size(dim: onnx.TensorShapeProto.Dimension, otherwise: str) -> Dim:
    """A size, or the name of one."""
    known = dim.HasField("dim_value") and dim.dim_value >= 0
    return int(dim.dim_value) if known else dim.dim_param or otherwise


def reshaped(shape: Shape, target: Numbers, out: str) -> Shape:
    """The shape that ``Reshape`` gives, symbolic sizes cancelled where they can be."""
    dims: list[Dim] = []
    for i, number in enumerate(target.ravel()):
        if number.known and number.value == 0:
            dims.append(shape[i])
        elif number.value == -1 or number.value is None:
            dims.append(-1 if number.known else f"?{out}.{i}")
        else:
            dims.append(number.value)
    if -1 in dims:
        at = dims.index(-1)
        rest = symbols.over(product(shape), product(d for d in dims if d != -1))
        dims[at] = f"?{out}.{at}" if rest is None else rest
    return tuple(dims)


def expanded(shape: Shape, target: Numbers, out: str) -> Shape:
    """The shape that ``Expand`` gives."""
    wanted = [n.value if n.value is not None else f"?{out}.{i}" for i, n in enumerate(target.ravel())]
    rank = max(len(shape), len(wanted))
    a: list[Dim] = [*[1] * (rank - len(shape)), *shape]
    b: list[Dim] = [*[1] * (rank - len(wanted)), *wanted]
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _name_sizes(kind: onnx.TypeProto) -> None:
    """Tell the names that a file declares for sizes from our own."""
    for dim in kind.tensor_type.shape.dim:
        if dim.dim_param:
            dim.dim_param = symbols.atom(dim.dim_param)


TARGETED = {"Reshape": reshaped, "Expand": expanded}


def counted(start: Numbers | None, limit: Numbers | None, step: Numbers | None) -> Dim | None:
    """The length of a ``Range`` that counts from 0 in steps of 1 to a size."""
    if start is None or limit is None or step is None or (start.item().value, step.item().value) != (0, 1):
        return None
    size = limit.item().value
    return size if isinstance(size, int | str) else None


def product(dims: Iterable[Dim]) -> Dim:
    """The product of sizes, known and unknown."""
    one: Dim = 1
    return reduce(symbols.times, dims, one)


def captures(node: onnx.NodeProto) -> set[str]:
    """Names that a node's bodies (If, Loop, Scan) may read from the graph around them."""
    names: set[str] = set()
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
            for inner in body.node:
                names.update(inner.input)
                names |= captures(inner)
            names.update(output.name for output in body.output)
    return names


def _value(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
