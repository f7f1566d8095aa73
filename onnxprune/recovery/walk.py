"""Walking through a model with calibration data: only what lies between two cuts is run.

A walk holds, for every batch, the tensors that are alive at its place; to see a tensor further on, it runs the nodes
in between, and to go on from there, it keeps what is alive there, if that fits into memory.

Each batch is run by one thread, and results come back in the order of the batches: they do not depend on how many
threads there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.algebra.graph import Graph, Op
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.model.edits import write
from onnxprune.model.homes import captures, locate
from onnxprune.model.record import Array

MEMORY = 256 << 20  # bytes of live tensors that a walk keeps

ONE_THREAD = partial(Session, threads=1)

T = TypeVar("T")
Values = dict[str, Array]
"""New values of constant tensors, by name."""


class Walk:
    """A walk from a model's inputs towards its outputs.

    Args:
        graph: the model.
        feeds: the batches.
        values: what some constants hold instead of what they held.
        memory: bytes of live tensors that may be kept between two cuts.
        load: how a part of the model is loaded; on the CPU, one thread for each batch, unless told otherwise.
    """

    def __init__(
        self,
        graph: Graph,
        feeds: Sequence[Feed],
        values: Mapping[str, Array] | None = None,
        memory: int = MEMORY,
        load: Callable[[bytes], Session] = ONE_THREAD,
    ) -> None:
        self.graph, self.memory, self.load = graph, memory, load
        self.values: Values = dict(values or {})
        self.ops = [op for op in graph.ops if not op.home.path]
        self.maker = {name: number for number, op in enumerate(self.ops) for name in op.outs if name}
        self.known = {*self.maker, *graph.homes[0].initializers, *(value.name for value in graph.inputs)}
        self.at = 0
        self.held: list[dict[str, Array]] = [dict(feed) for feed in feeds]
        self._last = self._last_readers()
        self.feeds_constants = True
        self._kept: Session | None = None
        self._key: object = None

    def _last_readers(self) -> dict[str, int]:
        last: dict[str, int] = {value.name: len(self.ops) for value in self.graph.proto.output}
        for number, op in enumerate(self.ops):
            for name in self.reads(op):
                last[name] = max(number, last.get(name, 0))
        return last

    def reads(self, op: Op) -> list[str]:
        """All that a node reads, its bodies included."""
        captured = captures(op.node) & self.known if op.bodies else set()
        return [*(name for name in op.ins if name), *sorted(captured)]

    def map(
        self,
        names: Iterable[str],
        function: Callable[[int, Mapping[str, Array]], T],
        fed: Mapping[str, Array] | None = None,
    ) -> Iterator[T]:
        """What a function makes of the values of these tensors, batch by batch.

        Args:
            names: the tensors.
            function: given a batch's number and the values by name.
            fed: what constants of the main graph hold this time; they are handed to the part that is run as its
                inputs, so that the next values of the same constants run in the same session.

        Raises:
            ExecutionError: a part of the model does not run.
        """
        wanted, given = list(dict.fromkeys(names)), dict(fed or {})
        session = self._ready([name for name in wanted if name not in self.held[0]], frozenset(given))
        inputs = {value.name for value in self._inputs}
        given = {name: value for name, value in given.items() if name in inputs}

        def work(number: int) -> T:
            held = self.held[number]
            found = {name: held[name] for name in wanted if name in held}
            if session is not None:
                outputs = session.run({name: held[name] for name in inputs if name not in given} | given)
                found.update(zip(session.outputs, outputs, strict=True))
            return function(number, found)

        yield from in_order(work, len(self.held))

    def tried(
        self, names: Iterable[str], function: Callable[[int, Mapping[str, Array]], T], values: Values, *, fed: bool
    ) -> list[T]:
        """The same with other values of constants, which all lie behind the walk's place.

        Args:
            names: the tensors.
            function: given a batch's number and the values by name.
            values: what constants hold.
            fed: whether to feed what differs from the walk's own values, unless an operator wants it constant.

        Raises:
            ExecutionError: the model does not run with these values.
        """
        if fed and self.feeds_constants:
            changed = {name: value for name, value in values.items() if value is not self.values.get(name)}
            try:
                return list(self.map(names, function, changed))
            except ExecutionError:
                self.feeds_constants = False
        own, self.values = self.values, dict(values)
        try:
            return list(self.map(names, function))
        finally:
            self.values = own

    def advance(self, place: int) -> None:
        """Keep what is alive before the node at this place, and forget what came before; stay, if it is too much."""
        if place <= self.at:
            return
        alive = self._alive(place)
        if any(self.graph.types.get(name, 0) == 0 for name in alive):
            return  # what is no tensor cannot be handed over
        kept: list[dict[str, Array]] = []
        size = 0
        for found in self.map(alive, lambda _, values: dict(values)):
            kept.append(found)
            size += sum(array.nbytes for array in found.values())
            if size > self.memory:
                return
        self.at, self.held = place, kept

    def _alive(self, place: int) -> list[str]:
        made = [name for number in range(place) for name in self.ops[number].outs if name]
        names = [*(value.name for value in self.graph.inputs), *made]
        return [name for name in names if self._last.get(name, -1) >= place and not self.graph.is_constant(name)]

    def _ready(self, names: Sequence[str], fed: frozenset[str]) -> Session | None:
        """The session of the last call, if this one wants the same of it with other values."""
        key = (self.at, tuple(names), fed)
        if not fed or key != self._key:
            self._kept, self._key = self._session(names, fed), key
        return self._kept

    def _session(self, names: Sequence[str], fed: frozenset[str]) -> Session | None:
        self._inputs: list[onnx.ValueInfoProto] = []
        if not names:
            return None
        needed: set[int] = set()
        todo, inputs, constants = list(names), set[str](), set[str]()
        while todo:
            name = todo.pop()
            if name in self.held[0] or name in fed:
                inputs.add(name)
            elif self.graph.is_constant(name) or name in self.graph.overridable:
                constants.add(name)
            elif self.maker[name] not in needed:
                needed.add(self.maker[name])
                todo += self.reads(self.ops[self.maker[name]])
        return self.load(self._part(sorted(needed), sorted(inputs), sorted(constants), names))

    def _part(
        self, places: Sequence[int], inputs: Iterable[str], constants: Iterable[str], outputs: Iterable[str]
    ) -> bytes:
        """The nodes at these places as a model of their own."""
        structure = self.graph.record.structure
        part = onnx.ModelProto(ir_version=structure.ir_version, opset_import=structure.opset_import)
        part.graph.name = "part"
        self._inputs = [onnx.helper.make_tensor_value_info(name, self.graph.types[name], None) for name in inputs]
        part.graph.input.extend(self._inputs)
        for place in places:
            op = self.ops[place]
            if op.kind == "Constant" and op.domain == "" and self.graph.is_constant(op.out):
                continue
            node = part.graph.node.add()
            node.CopyFrom(op.node)
            del node.input[:]
            node.input.extend(op.ins)
            for home in self.graph.homes if op.bodies else ():
                if home.path and home.path[0][0] == op.place:
                    first = (len(part.graph.node) - 1, *home.path[0][1:])
                    write(self.graph, home, locate(part.graph, (first, *home.path[1:])), self.values)
        part.graph.initializer.extend(self._tensor(name) for name in constants)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        return bytes(part.SerializeToString())

    def _tensor(self, name: str) -> onnx.TensorProto:
        like = self.graph.constant_tensor(name)
        array = self.values.get(name)
        if array is None:
            held = self.graph.constant(name)
            array = self.graph.record.array(name) if held is None else held
        tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
        tensor.data_type = like.data_type
        return tensor


def in_order(work: Callable[[int], T], count: int) -> Iterator[T]:
    """Results of a task for 0, 1, …, computed side by side, a few ahead of what is asked for."""
    threads = max(1, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[T]] = deque()
        for number in range(count):
            ahead.append(pool.submit(work, number))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
