"""`sensitivity`: how much of each group can go before the outputs change, measured on data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxprune.algebra.analysis import Model
from onnxprune.budget import curves
from onnxprune.budget.allocation import Budget
from onnxprune.budget.decision import made_up
from onnxprune.budget.sensitivity import FORMAT, RATIOS, VERSION, Score, Sensitive, measured, settings
from onnxprune.budget.study import Study
from onnxprune.data.inputs import Data
from onnxprune.errors import PruneError, UsageError
from onnxprune.metrics import catalogue
from onnxprune.metrics.catalogue import Labels, collect
from onnxprune.metrics.evidence import Bench, Evidence, rows
from onnxprune.model.edits import LARGEST
from onnxprune.model.record import Array, Record, Source
from onnxprune.plan import source_of
from onnxprune.recovery.walk import Values, Walk
from onnxprune.report.results import environment
from onnxprune.surgery import saving
from onnxprune.wishes import Recipe

DEFAULT = "obs"
FREE = Budget(macs=0.5, align=1, min_keep=1)  # any width, down to one unit


@dataclass(frozen=True)
class Sensitivity:
    """How sensitive each group of a model is.

    Attributes:
        source: the model's name, sha256 and bytes.
        settings: what the measurement holds for.
        groups: the curves.
        rows: of held-out data that losses were measured on.
        real: whether the data were the user's; made-up inputs otherwise.
        metric: what was measured with labels; empty without.
        dense: the metric of the model as it is.
        ratios: that were asked for.
    """

    source: dict[str, Any]
    settings: dict[str, Any]
    groups: list[Sensitive]
    rows: int
    real: bool
    metric: str
    dense: float | None
    ratios: Sequence[float]

    @property
    def typical(self) -> float:
        """The median over the groups of what is lost with half of one gone, its readers refitted; 0 without groups."""
        points = [point for group in self.groups if (point := group.at(0.5)) is not None]
        return float(np.median([point.refit.error for point in points])) if points else 0.0

    def by_error(self, ratio: float = 0.5) -> list[Sensitive]:
        """The groups, the most sensitive first: by what is lost at this ratio in spite of a refit."""

        def lost(group: Sensitive) -> float:
            near = min(group.points, key=lambda p: abs(p.removed / group.units - ratio), default=None)
            return near.refit.error if near else 0.0

        return sorted(self.groups, key=lambda group: (-lost(group), group.id))

    def to_json(self) -> dict[str, Any]:
        """As plain data; what `--sensitivity` of `plan` and `prune` takes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "settings": self.settings,
            "data": {"rows": self.rows, "real": self.real},
            "metric": {"name": self.metric, "dense": self.dense} if self.metric else None,
            "groups": [group.to_json() for group in self.groups],
            "environment": environment(),
        }


def sensitivity(
    source: Source,
    *,
    data: Data | None = None,
    labels: str | os.PathLike[str] | Labels | None = None,
    evaluation: Data | None = None,
    metric: str | None = None,
    allow_overlap: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    ratios: Sequence[float] = RATIOS,
    criterion: str = DEFAULT,
    samples: int = 256,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
    **wishes: Any,
) -> Sensitivity:
    """Measure how much each group's removal changes the outputs, with and without a refit.

    Args:
        source: the model.
        data: the user's inputs; made-up ones are taken without.
        labels: what should come out of the evaluation data, row by row.
        evaluation: inputs that the metric is measured on, if not on what is left of ``data``.
        metric: what is measured with labels; accuracy by default.
        allow_overlap: evaluate on what calibrates, too.
        input_shapes: for inputs whose shape is open.
        ratios: the fractions of each group's units to remove; all that may go is measured, too.
        criterion: the order in which units go.
        samples: how many rows of the data calibrate, at most; a fifth of them is held out.
        seed: of everything random.
        progress: called with the name of each stage.
        **wishes: what may go and what stays, as in `onnxprune.wishes.Recipe`.

    Raises:
        UsageError: a ratio or the criterion makes no sense, or the data does not fit the model.
        FileError, RefusedError, PruneError: see `onnxprune.errors`.
    """
    given = _checked(ratios, criterion, samples)
    model = Model(Record(source), Recipe(ratio=0.0, criterion=criterion, seed=seed, **wishes).protection)
    if model.record.nbytes > LARGEST:
        raise PruneError(f"{model.record.name!r} exceeds {LARGEST >> 30} GiB, more than can be studied here.")
    evidence = Evidence(data, labels, evaluation, metric, samples, allow_overlap, input_shapes or {}, seed=seed)
    with TemporaryDirectory(prefix="onnxprune-") as folder:
        bench = Bench(model, evidence, model.record.path or saving.copy(model.record, Path(folder), "model.onnx"))
        feeds = bench.calibration or made_up(bench, seed)
        progress("statistics")
        study = Study(model, feeds, bench.shapes, seed, progress=progress, blind=not bench.calibration)
        study.labels = bench.calibration_labels
        statistics = study.statistics()
        ranking = study.rank(statistics, criterion, FREE)
        plain = curves.shapeless(study.analysis, ranking, FREE, study.none)
        score, dense = _scored(bench, study)
        groups = measured(study, statistics, plain, given, score)
    return Sensitivity(
        source_of(model.record),
        settings(study, criterion),
        groups,
        rows(study.held_out.feeds),
        bool(bench.calibration),
        bench.metric.name if bench.metric and dense is not None else "",
        dense,
        given,
    )


def _checked(ratios: Sequence[float], criterion: str, samples: int) -> list[float]:
    if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
        raise UsageError(f"Ratios are fractions above 0, at most 1, not {list(ratios)}.")
    if criterion == "auto":
        raise UsageError("Sensitivity is measured in the order of one criterion: name it instead of 'auto'.")
    if samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples!r}.")
    return sorted(set(ratios))


def _scored(bench: Bench, study: Study) -> tuple[Score | None, float | None]:
    """The user's metric as a function of the weights, and what it is of the dense model."""
    metric, labels = bench.metric, bench.labels
    if metric is None or labels is None:
        return None, None
    outputs = [value.name for value in study.analysis.graph.proto.output]
    walk = Walk(study.analysis.graph, bench.feeds)

    def score(values: Values, place: int) -> float:
        walk.advance(place)
        found = walk.tried(outputs, lambda _, got: [got[name] for name in outputs], values, fed=True)
        return catalogue.score(metric, collect(_Ran(found), bench.feeds), labels)

    return score, catalogue.measure(metric, bench.session, bench.feeds, labels)


class _Ran:
    """What a model gave, feed by feed, as one that is run."""

    def __init__(self, found: Sequence[list[Any]]) -> None:
        self._left = iter(found)

    def run(self, feed: Mapping[str, Array], /) -> list[Any]:
        """The outputs of the next feed."""
        return next(self._left)
