"""What a model is run on, and where: the user's data or seeded inputs, checked before any work is done."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.graph import Graph
from onnxprune.data import inputs, runtime, sampling
from onnxprune.data.inputs import Data, Feed, Shapes
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.errors import PruneError, RefusedError, UsageError
from onnxprune.metrics import catalogue
from onnxprune.metrics.catalogue import Labels, Metric
from onnxprune.model.record import Array
from onnxprune.model.tensors import KNOWN_TYPES

LARGEST_VALUE = 4 << 30  # bytes
TOO_NEW = ("under development", "Unsupported model IR version")  # how ONNX Runtime says that it is older than the model


@dataclass
class Evidence:
    """What the user gave.

    Attributes:
        data: the user's inputs (see `onnxprune.data.inputs.load_data`).
        labels: what the evaluation data should give, row by row: of ``evaluation``, or else of ``data``.
        evaluation: what the result is measured on, if not on what of ``data`` is left by the calibration.
        metric: what is measured with labels (see `onnxprune.metrics.catalogue`).
        samples: how many rows of ``data`` calibrate, at most; 0 where nothing is to be calibrated.
        allow_overlap: whether calibration rows may be among the evaluation rows.
        input_shapes: for inputs whose shape is open.
        providers: execution providers by name; the first also measures fidelity and latency.
        seed: of generated inputs.
    """

    data: Data | None = None
    labels: str | os.PathLike[str] | Labels | None = None
    evaluation: Data | None = None
    metric: str | None = None
    samples: int = 0
    allow_overlap: bool = False
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    providers: Sequence[str] = ("cpu",)
    seed: int = 0


class Bench:
    """A model and what it is run on, loaded and checked.

    Args:
        model: the model.
        evidence: what the user gave.
        dense: the model's file.

    Raises:
        UsageError: the data, the labels or the shapes do not fit the model.
        RefusedError: the model does not run.
        ProviderError: a provider is missing.
        PruneError: the model asks for more than this machine has, or is too new for its ONNX Runtime.
    """

    def __init__(self, model: Model, evidence: Evidence, dense: Path) -> None:
        self.model, self.evidence, self.file = model, evidence, dense
        given = load_given(model.graph, evidence)
        self.feeds, self.labels, self.metric = given.evaluation or given.data, given.labels, given.metric
        inputs.check_tensors(model.graph)
        check_memory(model.graph)
        self.session = self._load(dense)
        run = partial(attempt, self.session)
        self.shapes: Shapes = inputs.bind(model.graph, evidence.input_shapes, self.feeds, run)
        self.calibration: list[Feed] = []
        self.calibration_labels: list[Array] = []  # of each batch's rows, where they are known
        self.seen = False  # whether the feeds calibrate, too
        if given.data and evidence.samples:
            self._divide(given)
        self.seeded = inputs.seeded(model.graph, self.shapes, evidence.seed, run, doubtful=not self.feeds)
        try:
            self.session.run(self.feeds[0] if self.feeds else self.one_row())
        except ExecutionError as error:
            raise RefusedError(f"The input model does not run: {error}") from error

    def _divide(self, given: Given) -> None:
        """Draw what calibrates; what is left evaluates, unless other data do."""
        graph, evidence = self.model.graph, self.evidence
        apart = bool(given.evaluation)
        labelled = given.labels is not None and not apart
        parts = sampling.split(
            graph,
            given.data,
            self.shapes,
            evidence.samples,
            evidence.seed,
            labelled=labelled and not evidence.allow_overlap,
        )
        self.calibration = parts.calibration
        if not apart:
            self.calibration_labels = sampling.classes(given.labels, parts.chosen, parts.calibration)
        if apart and not evidence.allow_overlap:
            sampling.refuse_overlap(parts.calibration, given.evaluation)
        elif not apart and not evidence.allow_overlap:
            self.feeds, self.seen = parts.evaluation, parts.seen
            if given.labels is not None and not parts.seen:
                self.labels = catalogue.picked(given.labels, parts.rows)

    def _load(self, dense: Path) -> Session:
        try:
            return Session(dense, self.evidence.providers[0])
        except ExecutionError as error:
            if not any(words in str(error.__cause__) for words in TOO_NEW):
                raise RefusedError(f"The input model does not load: {error}") from error
            record = self.model.record
            raise PruneError(
                f"ONNX Runtime {runtime.version()} cannot execute {record.name!r} (IR {record.proto.ir_version},"
                f" opset {self.model.graph.opsets.get('', 0)}), so nothing can be proved. Install a newer onnxruntime."
            ) from error

    def one_row(self) -> Feed:
        """A seeded feed of the bound shapes."""
        return inputs.synthesise(self.model.graph, self.shapes, self.evidence.seed)

    @property
    def proof(self) -> list[Feed]:
        """What removed and zeroed are compared on: seeded inputs, and a few of the user's."""
        return [*self.seeded, *self.feeds[:2]]


class Given(NamedTuple):
    """What the user gave, read and checked; labels are of the evaluation data, or else of the data."""

    data: list[Feed]
    evaluation: list[Feed]
    labels: Labels | None
    metric: Metric | None


def load_given(graph: Graph, evidence: Evidence) -> Given:
    """The user's data and labels, read and checked, once the rest of what was given makes sense.

    Raises:
        UsageError: the data, the labels or the shapes do not fit the model.
        ProviderError: a provider is missing.
    """
    for name in evidence.providers:
        runtime.provider(name)
    inputs.check_given(graph, evidence.input_shapes)
    metric = catalogue.find(evidence.metric or "accuracy")
    data, evaluation = (
        inputs.load_data(graph, source) if source is not None else [] for source in (evidence.data, evidence.evaluation)
    )
    if evidence.labels is None:
        if evidence.metric is not None and metric.needs_labels:
            raise UsageError(f"Metric {metric.name!r} needs labels: give --labels.")
        return Given(data, evaluation, None, metric if evidence.metric else None)
    if not (evaluation or data):
        raise UsageError("Labels need data: give both.")
    return Given(data, evaluation, catalogue.read_labels(evidence.labels, rows(evaluation or data), metric), metric)


def check_memory(graph: Graph) -> None:
    """A few bytes of a model can ask for more memory than there is, and no process survives that.

    Raises:
        PruneError: a value that the model computes is too large.
    """
    for name, shape in graph.shapes.items():
        sizes = [dim for dim in shape if isinstance(dim, int)]
        size = math.prod(sizes) * _width(graph, name) if len(sizes) == len(shape) else 0
        if size > LARGEST_VALUE and not graph.is_constant(name):
            raise PruneError(
                f"Tensor {name!r} of shape {sizes} takes {size / 2**30:,.0f} GiB; a value that a model computes may"
                f" take {LARGEST_VALUE / 2**30:.0f} GiB here (resource limit)."
            )


def _width(graph: Graph, name: str) -> int:
    element = graph.types.get(name, 0)
    return int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize) if element in KNOWN_TYPES else 1


def rows(feeds: Sequence[Feed]) -> int:
    """The rows of all feeds together."""
    return sum(map(sampling.count, feeds))


def attempt(session: Session, feed: Feed) -> list[Any] | None:
    """Run a model; ``None`` if it fails."""
    try:
        return session.run(feed)
    except ExecutionError:
        return None
