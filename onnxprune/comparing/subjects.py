"""The two models of a comparison as they are run: loaded, fed the same values, their outputs in one layout and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.graph import Graph
from onnxprune.comparing import signature
from onnxprune.comparing.plain import plain
from onnxprune.comparing.signature import Bound
from onnxprune.comparing.stations import Line
from onnxprune.data import inputs
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.errors import RefusedError
from onnxprune.metrics.evidence import check_memory
from onnxprune.model.record import Array, Record, Source
from onnxprune.surgery import saving

FLOATS = {onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.FLOAT: "float32"}
CODED = ("QLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "MatMulNBits")
"""What the names of operators that read codes begin with."""


@dataclass
class Subject:
    """One of the models.

    Args:
        source: the model.
        folder: where a model that has no file is written to.
        provider: where it is run.

    Raises:
        FileError, RefusedError: the model cannot be read, or is not one.
        ProviderError: the provider is missing.
    """

    source: Source
    folder: Path
    provider: str

    def __post_init__(self) -> None:
        self.model = Model(Record(self.source))
        self.graph = Graph(self.model.record)
        inputs.check_tensors(self.graph)
        check_memory(self.graph)

    @property
    def name(self) -> str:
        """Its file."""
        return self.model.record.name

    @cached_property
    def file(self) -> Path:
        """What ONNX Runtime loads."""
        return self.model.record.path or saving.copy(self.model.record, self.folder, "model.onnx")

    def load(self, optimization: str = "all") -> Session:
        """A session.

        Raises:
            RefusedError: ONNX Runtime does not load it.
        """
        try:
            return Session(self.file, self.provider, optimization=optimization)
        except ExecutionError as error:
            raise RefusedError(f"{self.name!r} does not load: {error}") from error

    @cached_property
    def session(self) -> Session:
        """The model, loaded."""
        return self.load()

    @cached_property
    def line(self) -> Line:
        """Its stations."""
        return Line(plain(self.graph))

    @property
    def precision(self) -> str:
        """The coarsest number type that it computes with; ``int8`` stands for all codes."""
        if any(op.kind.startswith(CODED) for op in self.graph.ops):
            return "int8"
        made = {self.graph.types.get(name, 0) for op in self.graph.ops for name in op.outs}
        return next((name for kind, name in FLOATS.items() if kind in made), "float64")


@dataclass
class Aligned:
    """A model that takes feeds of the first one, and gives outputs as the first one does.

    Attributes:
        session: the model.
        second: whether it is the second one.
        ins, outs: what corresponds to what.
    """

    session: Session
    second: bool
    ins: Sequence[Bound]
    outs: Sequence[Bound]

    @property
    def outputs(self) -> list[str]:
        """The names of the first model's outputs."""
        return [bound.first.name for bound in self.outs]

    def run(self, feed: Mapping[str, Array]) -> list[Any]:
        """The outputs, in the type that holds those of both.

        Raises:
            ExecutionError: the model fails on this input.
        """
        found = dict(zip(self.session.outputs, self.session.run(self.feed(feed)), strict=True))
        return [self._aligned(bound, found) for bound in self.outs]

    def feed(self, feed: Mapping[str, Array]) -> Feed:
        """A feed of the first model as this one takes it; the first keeps what the second has no input for."""
        both = signature.feeds(self.ins, feed)
        return both[1] if self.second else {**feed, **both[0]}

    def _aligned(self, bound: Bound, found: Mapping[str, Any]) -> Any:
        value = found[(bound.second if self.second else bound.first).name]
        if not isinstance(value, np.ndarray):
            return value
        if self.second:
            value = bound.view.back(value, len(bound.first.shape))
        return value.astype(wider(bound.first.dtype, bound.second.dtype))


def wider(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The type that outputs of two types are compared in."""
    return a if a == b else max(a, b, key=lambda dtype: dtype.itemsize)
