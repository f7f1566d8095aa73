"""One engine that acts on the facts: removes units, or zeroes them. Both start from the same record and the same mask.

Removing cuts every constant tensor along the axes that its units own, rewrites the numbers that nodes carry about
widths, and refreshes declared shapes. Zeroing writes 0 where removing would cut. Nothing else changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune import quantization
from onnxprune.analysis import Analysis
from onnxprune.closure import Mask
from onnxprune.facts import Count, Positions, Slot, Strided
from onnxprune.graph import Op, Shape, captures
from onnxprune.integers import Axis, Numbers
from onnxprune.record import Array, Record
from onnxprune.rewire import Rewiring
from onnxprune.tensors import TYPED_FIELDS

NO_END = np.iinfo(np.int32).max  # of the narrower type that a Slice's bounds may have
WHOLE_AXIS = ((Slot("starts", 1), 0), (Slot("ends", 2), NO_END), (Slot("steps", 4), 1))
WHERE_SINCE = 9  # the opset
Carrier = Count | Positions | Strided


@dataclass
class Draft:
    """A model in the making: its structure, and how to make each array that differs from the record's.

    Arrays are made one at a time, when they are written.
    """

    record: Record
    proto: onnx.ModelProto
    arrays: dict[str, Callable[[], Array]] = field(default_factory=dict)


def remove(analysis: Analysis, removed: Mask) -> Draft:
    """Take the units out of every tensor and number that they touch."""
    draft = _draft(analysis)
    cuts = _keeps(analysis, removed)
    for name, keep in cuts.items():
        _replace(analysis, draft, name, _cutter(analysis, name, keep), keep)
    cut = analysis.cut_axes(removed)
    _Numbers(analysis, removed, cut, draft).rewrite()
    _refresh_shapes(draft.proto.graph, analysis.graph.initializers, cut)
    return draft


def zero(analysis: Analysis, removed: Mask) -> Draft:
    """Write zeros, or the codes that stand for zero, into every slice of a constant tensor that the units own."""
    draft = _draft(analysis)
    for name, keep in _keeps(analysis, removed).items():
        _replace(analysis, draft, name, _eraser(analysis, name, keep), {})
    return draft


def keeps(analysis: Analysis, removed: Mask) -> dict[str, dict[int, list[int]]]:
    """For each constant tensor that is cut, the kept indices of each axis."""
    found = sorted(_keeps(analysis, removed).items())
    masks = {id(mask): mask for _, axes in found for mask in axes.values()}  # shared by axes that are the same
    indices = {key: np.flatnonzero(mask).tolist() for key, mask in masks.items()}
    return {name: {axis: indices[id(mask)] for axis, mask in axes.items()} for name, axes in found}


def _draft(analysis: Analysis) -> Draft:
    record = analysis.graph.record
    proto = onnx.ModelProto()
    proto.CopyFrom(record.proto)
    return Draft(record, proto)


def _keeps(analysis: Analysis, removed: Mask) -> dict[str, dict[int, Mask]]:
    found: dict[str, dict[int, Mask]] = defaultdict(dict)
    masks: dict[int, Mask | None] = {}  # axes that are the same have the same mask
    for (name, axis), units in analysis.slices():
        place = analysis.span((name, axis)).start
        if place not in masks:
            gone = (units >= 0) & removed[units]
            masks[place] = ~gone if gone.any() else None
        mask = masks[place]
        if mask is not None:
            found[name][axis] = mask
    return found


def _cutter(analysis: Analysis, name: str, keep: dict[int, Mask]) -> Callable[[], Array]:
    def cut() -> Array:
        array = np.asarray(analysis.graph.constant(name))
        for axis, mask in keep.items():
            array = array[(slice(None),) * axis + (mask,)]
        return array

    return cut


def _eraser(analysis: Analysis, name: str, keep: dict[int, Mask]) -> Callable[[], Array]:
    def erase() -> Array:
        array = np.array(analysis.graph.constant(name))
        readings = analysis.codes.get(name)
        blank = quantization.blank(analysis.graph, readings[0]) if readings else np.broadcast_to(0, array.shape)
        for axis, mask in keep.items():
            np.moveaxis(array, axis, 0)[~mask] = np.moveaxis(blank, axis, 0)[~mask]
        return array

    return erase


def _replace(analysis: Analysis, draft: Draft, name: str, make: Callable[[], Array], keep: dict[int, Mask]) -> None:
    """Give a constant tensor a new value, of its old type."""
    if name in analysis.graph.constant_nodes:
        node = draft.proto.graph.node[analysis.graph.constant_nodes[name].index]
        tensor = next(a.t for a in node.attribute if a.name == "value")
        tensor.CopyFrom(_packed(make(), tensor))
        return
    tensor = draft.proto.graph.initializer[draft.record.position(name)]
    for values in (*TYPED_FIELDS, "raw_data"):
        tensor.ClearField(values)
    for axis, mask in keep.items():
        tensor.dims[axis] = int(mask.sum())
    draft.arrays[name] = make


def _packed(array: Array, like: onnx.TensorProto) -> onnx.TensorProto:
    packed = numpy_helper.from_array(array, like.name)
    packed.data_type = like.data_type
    packed.doc_string = like.doc_string
    packed.metadata_props.MergeFrom(like.metadata_props)
    return packed


class _Numbers:
    """Rewrites the numbers that nodes carry about the widths of axes that were cut."""

    def __init__(self, analysis: Analysis, removed: Mask, cut: dict[Axis, int], draft: Draft) -> None:
        self.analysis, self.removed, self.cut, self.draft = analysis, removed, cut, draft
        self.graph = analysis.graph
        self.values = self.graph.evaluate(_shapes(analysis, cut))
        self.replaced: set[str] = set()
        self.names = set(self.graph.shapes) | set(self.graph.producer) | set(self.graph.initializers)

    def rewrite(self) -> None:
        """Bring every carried number up to date."""
        carriers = {op.index: found for op in self.graph.ops if (found := list(self._carriers(op)))}
        if not carriers:
            return
        self.rewiring = Rewiring(self.draft.proto, carriers)
        for index, found in carriers.items():
            op = self.graph.ops[index]
            fresh: dict[Slot, dict[int | None, int]] = defaultdict(dict)
            for fact in found:
                if isinstance(fact, Count):
                    fresh[fact.slot][fact.element] = int(self._kept(fact.axis)[fact.low : fact.high].sum())
                elif isinstance(fact, Positions):
                    self._repoint(op, fact)
                else:
                    for slot, value in WHOLE_AXIS:
                        fresh[slot][fact.element] = value
                    self._pick(op, fact)
            for slot, values in fresh.items():
                self._recount(op, slot, values)
        self.rewiring.commit()
        _drop_unread(self.draft.proto.graph, self.replaced)

    def _carriers(self, op: Op) -> Iterator[Carrier]:
        for fact in self.analysis.facts[op.index]:
            if isinstance(fact, Count):
                if fact.axis in self.cut or self._moved(op, fact.slot):
                    yield fact
            elif isinstance(fact, Positions | Strided) and fact.x in self.cut:
                yield fact

    def _moved(self, op: Op, slot: Slot) -> bool:
        """Whether a number is computed from the width of an axis that was cut."""
        if slot.slot is None or not op.has(slot.slot) or self.graph.is_constant(op.ins[slot.slot]):
            return False
        numbers = self.graph.numbers.get(op.ins[slot.slot])
        return numbers is not None and any(axis in self.cut for number in numbers.ravel() for axis in number.reads)

    def _kept(self, axis: Axis) -> Mask:
        return self.analysis.kept(axis, self.removed)

    def _recount(self, op: Op, slot: Slot, fresh: dict[int | None, int]) -> None:
        if None in fresh:
            self.rewiring.set_attribute(op.index, slot.name, fresh[None])
            return
        now = self._now(op, slot)
        if now is None and len(set(fresh.values())) == 1:
            return  # not written out means equal pieces, and they are equal
        required: list[int | None] = list(now) if now is not None else [None] * len(fresh)
        for element, value in fresh.items():
            required[element or 0] = value
        if now is not None and list(now) == required:
            return
        self._write(op, slot, required)

    def _now(self, op: Op, slot: Slot) -> list[int | None] | None:
        """The number's elements as the cut graph would compute them."""
        given = op.attr(slot.name)
        if given is not None:
            return list(given)
        if slot.slot is None or not op.has(slot.slot):
            return None
        values: Numbers | None = self.values.get(op.ins[slot.slot])
        if values is None:
            array = self.graph.constant(op.ins[slot.slot])
            return None if array is None else list(array.ravel().tolist())
        return [n.value if n.known else None for n in values.ravel()]

    def _write(self, op: Op, slot: Slot, required: list[int | None]) -> None:
        if slot.slot is None or op.attr(slot.name) is not None:
            self.rewiring.set_attribute(op.index, slot.name, [v or 0 for v in required])
            return
        if slot.instead_of:
            self.rewiring.drop_attribute(op.index, slot.instead_of)
        if None not in required:
            values = np.array(required, dtype=self._dtype(op, slot.slot))
            self._read_instead(op, slot.slot, self._constant(f"{op.out}/{slot.name}", values))
            return
        self.rewiring.set_input(op.index, slot.slot, self._merged(op, slot.slot, f"{op.out}/{slot.name}", required))

    def _merged(self, op: Op, slot: int, stem: str, required: list[int | None]) -> str:
        """What an input holds, but for the elements that are required."""
        dtype, given, output = self._dtype(op, slot), op.ins[slot], self._fresh(f"{stem}/followed")
        mask = np.array([value is not None for value in required])
        widths = self._constant(f"{stem}/widths", np.array([value or 0 for value in required], dtype=dtype))
        if self.graph.opsets[""] >= WHERE_SINCE:
            self.rewiring.before(op.index, "Where", [self._constant(f"{stem}/cut", mask), widths, given], output)
            return output
        others, kept = self._fresh(f"{stem}/others"), self._constant(f"{stem}/kept", (~mask).astype(dtype))
        self.rewiring.before(op.index, "Add", [others, widths], output)  # what is inserted last comes first
        self.rewiring.before(op.index, "Mul", [given, kept], others)
        return output

    def _read_instead(self, op: Op, slot: int, constant: str) -> None:
        if op.has(slot) and self.graph.is_constant(op.ins[slot]):
            self.replaced.add(op.ins[slot])
        self.rewiring.set_input(op.index, slot, constant)

    def _repoint(self, op: Op, fact: Positions) -> None:
        kept = self._kept(fact.x)
        place = np.cumsum(kept) - 1
        index = fact.picks if fact.y is None else fact.picks[self._kept(fact.y)]
        slot = fact.slot.slot or 0
        values = place[index].astype(self._dtype(op, slot))
        self._read_instead(op, slot, self._constant(f"{op.out}/{fact.slot.name}", values))

    def _pick(self, op: Op, fact: Strided) -> None:
        """Behind a Slice that takes the whole axis now, pick from it by position."""
        place = np.cumsum(self._kept(fact.x)) - 1
        values = place[fact.picks[self._kept(fact.y)]].astype(np.int64)
        indices, uncut = self._constant(f"{op.out}/indices", values), self._fresh(f"{op.out}/uncut")
        self.rewiring.after(op.index, "Gather", uncut, [indices], {"axis": fact.x[1]})

    def _dtype(self, op: Op, slot: int) -> Any:
        if op.has(slot) and op.ins[slot] in self.graph.types:
            return onnx.helper.tensor_dtype_to_np_dtype(self.graph.types[op.ins[slot]])
        return np.dtype(np.int64)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        fresh = self._fresh(name)
        self.draft.proto.graph.initializer.append(numpy_helper.from_array(values, fresh))
        if self.draft.proto.ir_version < 4:  # then every initializer is listed as an input, too
            kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
            self.draft.proto.graph.input.append(onnx.helper.make_tensor_value_info(fresh, kind, values.shape))
        return fresh

    def _fresh(self, name: str) -> str:
        fresh, number = name, 0
        while fresh in self.names:
            number += 1
            fresh = f"{name}_{number}"
        self.names.add(fresh)
        return fresh


def _shapes(analysis: Analysis, cut: dict[Axis, int]) -> dict[str, Shape]:
    """Every tensor's shape once its cut axes have these sizes."""
    shapes = dict(analysis.graph.shapes)
    for (name, axis), size in cut.items():
        if name in shapes:  # the flattened run of a reshape has no tensor
            shapes[name] = (*shapes[name][:axis], size, *shapes[name][axis + 1 :])
    return shapes


def _refresh_shapes(graph: onnx.GraphProto, initializers: Iterable[str], cut: dict[Axis, int]) -> None:
    """Declared shapes that a cut made stale would let a runtime refuse the model."""
    stale: dict[str, dict[int, int]] = defaultdict(dict)
    for (name, axis), size in cut.items():
        stale[name][axis] = size
    listed = [value for value in graph.input if value.name in initializers]
    for value in (v for v in [*graph.value_info, *listed] if v.name in stale):
        dims = value.type.tensor_type.shape.dim
        for axis, size in stale[value.name].items():
            if axis < len(dims):
                dims[axis].dim_value = size


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove constants that nothing reads any more."""
    read = {name for node in graph.node for name in (*node.input, *captures(node))}
    unread = names - read - {output.name for output in graph.output}
    for field_of in (graph.initializer, graph.input):
        for index in reversed([i for i, value in enumerate(field_of) if value.name in unread]):
            del field_of[index]
    idle = [i for i, node in enumerate(graph.node) if node.op_type == "Constant" and node.output[0] in unread]
    for index in reversed(idle):
        del graph.node[index]
