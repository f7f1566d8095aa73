"""Shapes and small numbers of a whole graph: ONNX's inference, with what we know better handed back to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.algebra import integers, symbols
from onnxprune.algebra.integers import Axis, Numbers
from onnxprune.algebra.registry import load
from onnxprune.algebra.symbols import Dim, Shape, settled
from onnxprune.model.homes import Home, bodies, locate
from onnxprune.model.tensors import FLOATS

if TYPE_CHECKING:
    from onnxprune.algebra.graph import Graph, Op

MOST_ROUNDS = 4  # of handing evaluated numbers back to shape inference
SCAN_WITHOUT_BATCH = 9  # the opset


class Inference:
    """Fills in the shapes, element types and small numbers of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes, self.types = graph.shapes, graph.types
        self._varying: set[Axis] = set()  # what a loop hands on to itself in another size
        self._entered: dict[int, list[Op]] = {}  # the nodes whose bodies begin with a node
        for op in graph.ops:
            if op.bodies and (length := _length(op.node)):
                self._entered.setdefault(op.index - length, []).append(op)

    def run(self) -> None:
        """Shapes from inputs and weights alone; what the file declares only fills gaps.

        ONNX's inference does not follow every computed shape. Numbers that we could evaluate are handed back to it as
        constants, until it learns nothing more.
        """
        bare = self._bare()
        given: set[str] = set()
        for turn in itertools.count():
            self._learn_all(bare)
            self.graph.numbers = self.forward(self.shapes, fill=True)
            new = self._computed_sizes() - given if turn < MOST_ROUNDS else set()
            varying = self._find_varying() - self._varying
            if not new and not varying:
                return
            given |= new
            self._varying |= varying
            self._hand_back(bare, new, given)

    def _bare(self) -> onnx.ModelProto:
        """The model without what it declares of shapes, but for its inputs."""
        bare = onnx.ModelProto()
        bare.CopyFrom(self.graph.record.structure)
        for home in self.graph.homes:
            graph = locate(bare.graph, home.path)
            del graph.value_info[:]
            for value in graph.input:
                if not home.path:
                    _name_sizes(value.type)
                elif value.type.tensor_type.HasField("shape"):
                    value.type.tensor_type.shape.CopyFrom(_open(value.type, home.names[value.name]))
            for output in graph.output:
                output.type.tensor_type.ClearField("shape")
        for value in bare.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, self.graph.bound.get(value.name, ()), strict=False):
                dim.dim_value = size
        return bare

    def _hand_back(self, bare: onnx.ModelProto, new: set[str], given: set[str]) -> None:
        """Let nodes read numbers that we know as constants."""
        for name in sorted(new):
            plain = np.asarray(integers.known(self.graph.numbers[name]), dtype=np.int64)
            bare.graph.initializer.append(numpy_helper.from_array(plain, f"{name}\0known"))
        for op in self.graph.ops:
            for slot, name in enumerate(op.ins):
                if name in given and slot > 0:
                    locate(bare.graph, op.home.path).node[op.place].input[slot] = f"{name}\0known"

    def _computed_sizes(self) -> set[str]:
        """Known numbers that nodes compute for nodes whose output shape is not fully known."""
        numbers = self.graph.numbers
        return {
            name
            for op in self.graph.ops
            if any(y and self._is_open(y) for y in op.outs)
            for name in op.ins[1:]
            if name in numbers and not self.graph.is_constant(name) and integers.known(numbers[name]) is not None
        }

    def _learn_all(self, bare: onnx.ModelProto) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
        except Exception:
            inferred = self.graph.proto  # inference refuses some valid models; what is declared must do
        self.shapes.clear()
        for home in self.graph.homes:
            self._learn_home(home, locate(bare.graph, home.path), locate(inferred, home.path))
        for copy, name in self.graph.copies.items():
            if name in self.shapes:
                self.shapes[copy], self.types[copy] = self.shapes[name], self.types[name]

    def _learn_home(self, home: Home, bare: onnx.GraphProto, inferred: onnx.GraphProto) -> None:
        inputs = [value for value in bare.input if home.names[value.name] not in home.initializers]
        for info in [*inputs, *inferred.value_info, *inferred.output]:
            self._learn(home.names.get(info.name, info.name), info.type)
        declared = [] if self.graph.bound else [*home.proto.value_info, *home.proto.output]
        for info in declared:  # what inference leaves open, a declaration may know
            name = home.names.get(info.name, info.name)
            inferred_shape = self.shapes.get(name)
            if inferred_shape is None or not all(isinstance(dim, int) for dim in inferred_shape):
                kind = onnx.TypeProto()
                kind.CopyFrom(info.type)
                _name_sizes(kind, name)
                self._learn(name, kind)
        for name, tensor in home.initializers.items():
            self.shapes[name] = tuple(tensor.dims)
            self.types[name] = tensor.data_type

    def _hand_in(self, op: Op) -> None:
        """What a loop's body is handed has the shape of what the loop is, unless the body hands on another."""
        for given, inner, axis in handed(op):
            if given not in self.shapes:
                continue
            shape = [size for a, size in enumerate(self.shapes[given]) if a != axis]
            self._merge(inner, shape)
            open_axes = {a: f"?{inner}.{a}" for a in range(len(shape)) if (inner, a) in self._varying}
            self.shapes[inner] = tuple(open_axes.get(a, size) for a, size in enumerate(self.shapes[inner]))
            if given in self.types:
                self.types[inner] = self.types[given]

    def _find_varying(self) -> set[Axis]:
        """What a loop's body is handed in one size, and hands on in another, or in one that is not known."""
        found: set[Axis] = set()
        for inner, following in (pair for op in self.graph.ops if op.bodies for pair in carried(op)):
            before, after = self.shapes.get(inner, ()), self.shapes.get(following, ())
            same_rank = len(before) == len(after)
            found |= {(inner, a) for a, size in enumerate(before) if not same_rank or size != after[a]}
        return found

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

    def forward(self, shapes: dict[str, Shape], *, fill: bool) -> dict[str, Numbers]:
        """The small numbers that the graph computes when its tensors have these shapes.

        Args:
            shapes: of all tensors.
            fill: whether to infer, on the way, the shapes that are still open.
        """
        values: dict[str, Numbers] = {}
        for op in self.graph.ops:
            for owner in self._entered.get(op.index, ()) if fill else ():
                self._hand_in(owner)
            found = self._sizes(op, shapes) if op.kind in ("Shape", "Size") else self._evaluate(op, values)
            if found is not None:
                values[op.out] = found
            if fill and any(name and self._is_open(name) for name in op.outs):
                self._fill(op, values)
        return values

    def _sizes(self, op: Op, shapes: dict[str, Shape]) -> Numbers | None:
        """What ``Shape`` and ``Size`` return."""
        if op.domain or not op.has(0) or op.ins[0] not in shapes:
            return None
        shape = shapes[op.ins[0]]
        if op.kind == "Size":
            return integers.size(op.ins[0], shape)
        return integers.widths(op.ins[0], shape)[op.attr("start", 0) : op.attr("end", len(shape))]

    def _number(self, name: str, values: dict[str, Numbers]) -> Numbers | None:
        if name not in values and self.graph.is_constant(name):
            tensor = self.graph.constant_tensor(name)
            floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
            limit = 16 if tensor.data_type in floats else integers.LARGEST
            if math.prod(tensor.dims) <= limit and tensor.data_type != onnx.TensorProto.STRING:
                values[name] = integers.numbers(np.asarray(self.graph.constant(name)))
        return values.get(name)

    def _evaluate(self, op: Op, values: dict[str, Numbers]) -> Numbers | None:
        if op.domain or op.kind not in integers.EVALUATORS:
            return None
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
        try:
            told = self._told(op, values)
        except (IndexError, ValueError, TypeError):  # a malformed node: its rule will say so
            told = None
        if told is not None:
            self._merge(op.out, told)
        else:
            self._fill_by_schema(op, values)
        rule = load("rules").get((op.domain, op.kind))
        stated = None if rule is None or rule.typed_by is None or not op.has(rule.typed_by) else rule.typed_by
        given = op.ins if stated is None else op.ins[stated : stated + 1]
        kinds = [self.types[name] for name in given if name in self.types]
        for name in op.outs:  # what a node picks or decodes is of its table's or its scale's type, not of its codes'
            if name in self.shapes and name not in self.types and kinds:
                self.types[name] = next((kind for kind in kinds if kind in FLOATS), kinds[0])

    def _told(self, op: Op, values: dict[str, Numbers]) -> Shape | None:
        """The shape that a node is told to make, by the numbers that it reads."""
        if op.domain:
            return None
        if op.kind == "Range":
            length = counted(*(self._number(name, values) for name in op.ins))
            return None if length is None else (length,)
        slot, made = TARGETED.get(op.kind, (0, reshaped))
        target = self._number(op.ins[slot], values) if slot and op.has(slot) and op.ins[0] in self.shapes else None
        if op.attr("axes") is not None or op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            return None  # a Resize that is told less, or does otherwise
        literal = op.attr("allowzero", 0) and target is not None and any(n.value == 0 for n in target.ravel())
        return None if target is None or literal else made(self.shapes[op.ins[0]], target, op.out)

    def _fill_by_schema(self, op: Op, values: dict[str, Numbers]) -> None:
        rule = load("rules").get((op.domain, op.kind))
        if rule is not None and rule.shapes is not None:
            self._fill_by_rule(op, rule.shapes)
            return
        data, types = {}, {}
        for local, name in zip(op.node.input, op.ins, strict=True):  # the node knows its tensors by its own names
            plain = integers.known(self._number(name, values) if name else None)
            if plain is not None and plain.dtype == np.int64:
                data[local] = numpy_helper.from_array(plain, local)
            if name in self.types:
                types[local] = self._typed(name)
        try:
            schema = onnx.defs.get_schema(op.kind, op.version, op.domain)
            opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.graph.opsets.items()]
            found = onnx.shape_inference.infer_node_outputs(
                schema, op.node, types, data, opset_imports=opsets, ir_version=self.graph.record.proto.ir_version
            )
        except Exception:
            return  # unknown stays unknown, and what is unknown is pinned
        for local, name in zip(op.node.output, op.outs, strict=True):
            if local in found:
                self._learn(name, found[local])

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


def handed(op: Op) -> Iterator[tuple[str, str, int | None]]:
    """What a loop hands to its body: the node's input, the body's, and the axis that it goes along, if any."""
    if op.domain == "" and op.kind == "Loop":
        yield from ((x, inner, None) for x, inner in zip(op.ins[2:], op.bodies[0].inputs[2:], strict=False))
    elif op.domain == "" and op.kind == "Scan" and op.version >= SCAN_WITHOUT_BATCH:
        scanned = int(op.attr("num_scan_inputs", 0))
        states = len(op.ins) - scanned
        axes = [None] * states + list(op.attr("scan_input_axes") or [0] * scanned)
        for x, inner, axis in zip(op.ins, op.bodies[0].inputs, axes, strict=False):
            rank = len(op.graph.shapes.get(x, ()))
            yield x, inner, axis + rank if axis is not None and axis < 0 else axis


def carried(op: Op) -> Iterator[tuple[str, str]]:
    """What the body of a loop is handed, and what it hands on to its next turn in the same place."""
    if op.domain == "" and op.kind == "Loop":
        yield from zip(op.bodies[0].inputs[2:], op.bodies[0].outputs[1:], strict=False)
    elif op.domain == "" and op.kind == "Scan" and op.version >= SCAN_WITHOUT_BATCH:
        states = len(op.ins) - int(op.attr("num_scan_inputs", 0))
        yield from zip(op.bodies[0].inputs[:states], op.bodies[0].outputs[:states], strict=False)


def _length(node: onnx.NodeProto) -> int:
    """How many nodes the bodies of a node hold."""
    return sum(1 + _length(inner) for _, _, body in bodies(node) for inner in body.node)


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


def _name_sizes(kind: onnx.TypeProto, within: str | None = None) -> None:
    """Tell the names that a file declares for sizes from our own; of what is not an input, they prove nothing."""
    for axis, dim in enumerate(kind.tensor_type.shape.dim):
        if dim.dim_param:
            dim.dim_param = symbols.atom(dim.dim_param) if within is None else f"?{within}.{axis}"


def _open(kind: onnx.TypeProto, name: str) -> onnx.TensorShapeProto:
    """A shape of as many axes, of which nothing else is known: all that a body's input declares for certain."""
    dims = range(len(kind.tensor_type.shape.dim))
    return onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension(dim_param=f"?{name}.{axis}") for axis in dims])


def resized(shape: Shape, target: Numbers, out: str) -> Shape:
    """The shape that ``Resize`` gives when it is told sizes for all axes."""
    if target.size != len(shape):
        return tuple(f"?{out}.{axis}" for axis in range(len(shape)))
    return tuple(n.value if isinstance(n.value, int | str) else f"?{out}.{i}" for i, n in enumerate(target.ravel()))


TARGETED = {"Reshape": (1, reshaped), "Expand": (1, expanded), "Resize": (3, resized)}
"""Operators that are told the shape to make: by which input, and what follows from it."""


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
