"""The numbers that nodes carry about widths, once the axes that they speak of are cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.facts import Count, Positions, Slot, Strided
from onnxprune.algebra.graph import Op, Shape, Sizes
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.symbols import Dim, Product, split
from onnxprune.model.homes import Path, drop_unread, locate
from onnxprune.surgery.rewire import Rewiring

NO_END = np.iinfo(np.int32).max  # of the narrower type that a Slice's bounds may have
WHOLE_AXIS = ((Slot("starts", 1), 0), (Slot("ends", 2), NO_END), (Slot("steps", 4), 1))
WHERE_SINCE = 9  # the opset
Carrier = Count | Positions | Strided


class Renumbering:
    """Rewrites the numbers that nodes carry about the widths of axes that were cut."""

    def __init__(self, analysis: Analysis, removed: Mask, cut: dict[Axis, int], proto: onnx.ModelProto) -> None:
        self.analysis, self.removed, self.cut, self.proto = analysis, removed, cut, proto
        self.graph = analysis.graph
        self.values = self.graph.evaluate(_shapes(analysis, cut))
        self.replaced: set[str] = set()
        self.names = {name for home in self.graph.homes for pair in home.names.items() for name in pair}

    def rewrite(self) -> None:
        """Bring every carried number up to date."""
        carriers: dict[Path, list[Op]] = defaultdict(list)
        for op in self.graph.ops:
            if any(True for _ in self._carriers(op)):
                carriers[op.home.path].append(op)
        for path in sorted(carriers, key=len, reverse=True):  # a body before the graph that holds it
            graph = locate(self.proto.graph, path)
            self.rewiring = Rewiring(self.proto, graph, [op.place for op in carriers[path]])
            for op in carriers[path]:
                self._rewrite(op)
            self.rewiring.commit()
        drop_unread(self.proto.graph, self.replaced)

    def _rewrite(self, op: Op) -> None:
        fresh: dict[Slot, dict[int | None, Dim]] = defaultdict(dict)
        for fact in self._carriers(op):
            if isinstance(fact, Count):
                fresh[fact.slot][fact.element] = self._count(fact)
            elif isinstance(fact, Positions):
                self._repoint(op, fact)
            else:
                for slot, value in WHOLE_AXIS:
                    fresh[slot][fact.element] = value
                self._pick(op, fact)
        for slot, values in fresh.items():
            self._recount(op, slot, values)

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

    def _count(self, fact: Count) -> Dim:
        kept = int(self._kept(fact.axis)[fact.low : fact.high].sum()) // fact.per
        tensor, axis = fact.axis
        names = split(self.graph.shapes[tensor][axis]).names if tensor in self.graph.shapes else ()
        return Product(kept, names).dim

    def _recount(self, op: Op, slot: Slot, fresh: dict[int | None, Dim]) -> None:
        if None in fresh:
            self.rewiring.set_attribute(op.place, slot.name, split(fresh[None]).factor)
            return
        now = op.sizes(slot.name, slot.slot, self.values)
        if now is None and len(set(fresh.values())) == 1:
            return  # not written out means equal pieces, and they are equal
        required: Sizes = list(now) if now is not None else [None] * len(fresh)
        for element, value in fresh.items():
            required[element or 0] = value
        if now is None or now != required:
            self._write(op, slot, now or required, required)

    def _write(self, op: Op, slot: Slot, now: Sizes, required: Sizes) -> None:
        if slot.slot is None or op.attr(slot.name) is not None:
            self.rewiring.set_attribute(op.place, slot.name, [split(v or 0).factor for v in required])
            return
        if slot.instead_of:
            self.rewiring.drop_attribute(op.place, slot.instead_of)
        stem, dtype = f"{op.out}/{slot.name}", self._dtype(op, slot.slot)
        if all(isinstance(value, int) for value in required):
            self._read_instead(op, slot.slot, self._constant(stem, np.array(required, dtype=dtype)))
            return
        followed = self._scaled(op, op.node.input[slot.slot], stem, dtype, list(zip(now, required, strict=True)))
        self.rewiring.set_input(op.place, slot.slot, self._merged(op, followed, stem, dtype, required))

    def _scaled(self, op: Op, given: str, stem: str, dtype: Any, change: list[tuple[Dim | None, Dim | None]]) -> str:
        """What an input holds, the numbers changed by which sizes of the run are multiplied."""
        pairs = [_factors(a, b) for a, b in change]
        if all(a == b for a, b in pairs):
            return given
        before, after = (np.array(factors, dtype=dtype) for factors in zip(*pairs, strict=True))
        shared, output = self._fresh(f"{stem}/shared"), self._fresh(f"{stem}/scaled")
        inserted = [("Div", [given, self._constant(f"{stem}/before", before)], shared)]
        inserted += [("Mul", [shared, self._constant(f"{stem}/after", after)], output)]
        for kind, inputs, name in inserted:
            self.rewiring.before(op.place, kind, inputs, name)
        return output

    def _merged(self, op: Op, given: str, stem: str, dtype: Any, required: Sizes) -> str:
        """What an input holds, but for the elements that are required."""
        fixed = [value if isinstance(value, int) else None for value in required]
        if fixed == [None] * len(fixed):
            return given
        output, mask = self._fresh(f"{stem}/followed"), np.array([value is not None for value in fixed])
        widths = self._constant(f"{stem}/widths", np.array([value or 0 for value in fixed], dtype=dtype))
        if self.graph.opsets[""] >= WHERE_SINCE:
            self.rewiring.before(op.place, "Where", [self._constant(f"{stem}/cut", mask), widths, given], output)
            return output
        others, kept = self._fresh(f"{stem}/others"), self._constant(f"{stem}/kept", (~mask).astype(dtype))
        self.rewiring.before(op.place, "Mul", [given, kept], others)
        self.rewiring.before(op.place, "Add", [others, widths], output)
        return output

    def _read_instead(self, op: Op, slot: int, constant: str) -> None:
        if op.has(slot) and self._in_main(op.ins[slot]):
            self.replaced.add(op.ins[slot])
        self.rewiring.set_input(op.place, slot, constant)

    def _in_main(self, name: str) -> bool:
        """Whether a tensor is a constant of the main graph."""
        if name in self.graph.constant_nodes:
            return not self.graph.constant_nodes[name].home.path
        return name in self.graph.homes[0].initializers and self.graph.is_constant(name)

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
        self.rewiring.after(op.place, "Gather", uncut, [indices], {"axis": fact.x[1]})

    def _dtype(self, op: Op, slot: int) -> Any:
        if op.has(slot) and op.ins[slot] in self.graph.types:
            return onnx.helper.tensor_dtype_to_np_dtype(self.graph.types[op.ins[slot]])
        return np.dtype(np.int64)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        fresh = self._fresh(name)
        self.proto.graph.initializer.append(numpy_helper.from_array(values, fresh))
        if self.proto.ir_version < 4:  # then every initializer is listed as an input, too
            kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
            self.proto.graph.input.append(onnx.helper.make_tensor_value_info(fresh, kind, values.shape))
        return fresh

    def _fresh(self, name: str) -> str:
        fresh, number = name, 0
        while fresh in self.names:
            number += 1
            fresh = f"{name}_{number}"
        self.names.add(fresh)
        return fresh


def _factors(before: Dim | None, after: Dim | None) -> tuple[int, int]:
    """The numbers in two symbolic sizes; whatever else an element is, scaling leaves it alone."""
    symbolic = isinstance(before, str) and isinstance(after, str)
    return (split(before or 0).factor, split(after or 0).factor) if symbolic else (1, 1)


def _shapes(analysis: Analysis, cut: dict[Axis, int]) -> dict[str, Shape]:
    """Every tensor's shape once its cut axes have these sizes."""
    shapes = dict(analysis.graph.shapes)
    for (name, axis), size in cut.items():
        if name in shapes:  # the flattened run of a reshape has no tensor
            resized = split(shapes[name][axis])._replace(factor=size).dim
            shapes[name] = (*shapes[name][:axis], resized, *shapes[name][axis + 1 :])
    return shapes
