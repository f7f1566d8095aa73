"""Metrics: how good a model's outputs are, under the names that practitioners know, or by a user's own function.

Most hold outputs against labels; `agreement` and `kl` hold them against the dense model's, and so need none.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxprune.algebra import registry
from onnxprune.data.inputs import read_arrays
from onnxprune.errors import PruneError, UsageError, unknown
from onnxprune.metrics import detection, scoring
from onnxprune.metrics.scoring import PADDING, Output, Outputs
from onnxprune.metrics.scoring import Labels as Labels
from onnxprune.model.record import Array

GROUP = "metrics"
SEPARATOR = ":"


class Runs(Protocol):
    """A model that can be run, as `runtime.Session`."""

    def run(self, feed: Mapping[str, Array], /) -> list[Any]:
        """All outputs, in the model's order."""


def _anything(labels: Labels, rows: int) -> bool:
    return True


@dataclass(frozen=True)
class Metric:
    """One number for a model's outputs.

    Attributes:
        name: what users call it.
        score: from the outputs over all rows, as `collect` gives them, and the labels or the dense model's outputs.
        higher_is_better: whether more of it is better.
        needs_labels: whether it holds outputs against labels, not against the dense model's.
        meaning: what it says, in a line.
        labels: what labels look like, in a line.
        fits: whether labels look like that, for so many rows of data.
    """

    name: str
    score: Callable[[Outputs, Labels], float]
    higher_is_better: bool
    needs_labels: bool
    meaning: str
    labels: str
    fits: Callable[[Labels, int], bool] = _anything


# ---- the table ---------------------------------------------------------------------------------------------------


def _kind(labels: Labels, kinds: str) -> bool:
    return all(np.asarray(row).dtype.kind in kinds for row in ([labels] if isinstance(labels, np.ndarray) else labels))


def _classes(labels: Labels, rows: int) -> bool:
    return isinstance(labels, np.ndarray) and labels.ndim > 0 and len(labels) == rows and _kind(labels, "iu")


def _ratings(labels: Labels, rows: int) -> bool:
    fits = isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.size * 2 in (rows, rows * 2)
    return fits and _kind(labels, "iuf") and bool(np.isfinite(labels).all())


def _images(labels: Labels, rows: int) -> bool:
    return len(np.atleast_1d(labels) if isinstance(labels, np.ndarray) else labels) == rows and _kind(labels, "iuf")


def _rows_of(labels: Labels, rows: int, axes: int) -> bool:
    return np.ndim(labels) == axes + 1 if isinstance(labels, np.ndarray) else all(np.ndim(x) == axes for x in labels)


def _sequences(labels: Labels, rows: int) -> bool:
    fits = _rows_of(labels, rows, 1) and len(labels) == rows and _kind(labels, "iu")
    return fits and all(np.min(row, initial=0) >= PADDING for row in labels)


def _boxes(labels: Labels, rows: int) -> bool:
    fits = _rows_of(labels, rows, 2) and len(labels) == rows and _kind(labels, "iuf")
    return fits and all(np.shape(row)[-1] == 5 for row in labels)


CLASSES = "whole numbers, one per row of data"
RATINGS = "numbers, one per row of data, or per two rows where the model gives vectors"
IMAGES = "the images that should come out, one per row of data"
SYMBOLS = f"rows of whole numbers from 1, one row per row of data, padded with {PADDING}"
BOXES = "of shape (rows of data, boxes, 5): two corners and the class, class -1 where there is no box"
NONE = "none: it compares with the dense model's outputs"


def _table(metrics: Iterable[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: dict[str, Metric] = _table(
    (  # name, score, higher_is_better, needs_labels, meaning, labels, fits
        Metric("accuracy", scoring.accuracy, True, True, "fraction of right classes", CLASSES, _classes),
        Metric("top5", scoring.top5, True, True, "fraction of labels among the five best classes", CLASSES, _classes),
        Metric("f1", scoring.f1, True, True, "F1 of class 1 of two, else the mean over classes", CLASSES, _classes),
        Metric("auc", scoring.auc, True, True, "area under the ROC curve, a class against the rest", CLASSES, _classes),
        Metric("spearman", scoring.spearman, True, True, "rank correlation of numbers or cosines", RATINGS, _ratings),
        Metric("psnr", scoring.psnr, True, True, "peak signal-to-noise ratio of images, in dB", IMAGES, _images),
        Metric("cer", scoring.cer, False, True, "character error rate of greedy CTC decoding", SYMBOLS, _sequences),
        Metric("exact", scoring.exact, True, True, "fraction of rows CTC decodes faultlessly", SYMBOLS, _sequences),
        Metric("map", detection.mean_precision, True, True, "mean average precision, IoU .5 to .95", BOXES, _boxes),
        Metric("map50", detection.mean_precision_50, True, True, "mean average precision, IoU .5", BOXES, _boxes),
        Metric("agreement", scoring.agreement, True, False, "fraction of classes that are the dense model's", NONE),
        Metric("kl", scoring.kl, False, False, "mean KL divergence from the dense model's answers, in nats", NONE),
    )
)
"""By name; other distributions may add theirs by the entry point group ``onnxprune.metrics.catalogue``."""


# ---- a metric by name --------------------------------------------------------------------------------------------


def find(name: str) -> Metric:
    """A metric of the table, or ``module:function`` of the user's.

    The function takes outputs and labels and returns a number, more being better; attributes of it named
    ``higher_is_better`` and ``needs_labels`` may say otherwise. Modules are also looked for in the current directory.

    Raises:
        UsageError: there is no such metric, module or function.
    """
    if name in METRICS:
        return METRICS[name]
    if SEPARATOR in name:
        return _of_user(name)
    known: dict[str, Metric] = registry.load(GROUP)
    if name not in known:
        raise unknown("metric", name, {*METRICS, *known, "module:function"})
    return known[name]


def _of_user(name: str) -> Metric:
    module, _, attribute = name.partition(SEPARATOR)
    found = getattr(_import(module, name), attribute, None)
    if isinstance(found, Metric):
        return found
    if not callable(found):
        raise UsageError(f"Module {module!r} has no function {attribute!r} to measure with.")
    return Metric(
        name,
        found,
        higher_is_better=bool(getattr(found, "higher_is_better", True)),
        needs_labels=bool(getattr(found, "needs_labels", True)),
        meaning=next(iter((found.__doc__ or "").strip().splitlines()), ""),
        labels="whatever the function takes",
    )


def _import(module: str, name: str) -> Any:
    """Import as ``python -m`` does: the current directory comes first, and stays for what is imported later."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"Metric {name!r}: module {module!r} cannot be imported ({reason}).") from error


# ---- labels ------------------------------------------------------------------------------------------------------


def read_labels(source: str | os.PathLike[str] | Labels, rows: int, metric: Metric) -> Labels:
    """What a metric holds outputs against.

    Args:
        source: an array, a sequence of one per row, or a file: an ``.npy``, or an ``.npz`` of one array, or of as many
            as there are rows, in order, where they differ in size.
        rows: of the data.
        metric: what for.

    Raises:
        FileError: the file cannot be read.
        UsageError: they are not what the metric takes.
    """
    if not metric.needs_labels:
        raise UsageError(f"Metric {metric.name!r} takes no labels: it compares with the dense model's outputs.")
    labels = _read(source)
    if not metric.fits(labels, rows):
        raise UsageError(f"Labels for {metric.name!r} must be {metric.labels}; got {_described(labels)}, rows: {rows}.")
    return labels


def _read(source: str | os.PathLike[str] | Labels) -> Labels:
    if isinstance(source, str | os.PathLike):
        arrays = list(read_arrays(Path(source)).values())
        return arrays[0] if len(arrays) == 1 else arrays
    try:
        return np.asarray(source)
    except ValueError:  # rows that differ in size
        return [np.asarray(row) for row in source]


def _described(labels: Labels) -> str:
    if isinstance(labels, np.ndarray):
        return f"{labels.dtype} {labels.shape}"
    return f"{len(labels)} arrays" + (f", the first {_described(np.asarray(labels[0]))}" if len(labels) else "")


# ---- measuring ---------------------------------------------------------------------------------------------------


def measure(metric: Metric, session: Runs, feeds: Sequence[Mapping[str, Array]], labels: Labels) -> float:
    """Run a model and score what comes out.

    Args:
        metric: by which.
        session: the model.
        feeds: what it is run on.
        labels: one per row of the feeds; for a metric without labels, what `collect` gives of the dense model.

    Raises:
        PruneError: the outputs are not what the metric takes, or its number is not finite.
        UsageError: the labels are not, or a user's function fails.
    """
    return score(metric, collect(session, feeds), labels)


def score(metric: Metric, outputs: Outputs, labels: Labels) -> float:
    """The number of a metric for outputs that were collected, checked.

    Raises:
        PruneError: the outputs are not what the metric takes, or its number is not finite.
        UsageError: the labels are not, or a user's function fails.
    """
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(metric.score(outputs, labels))
    except PruneError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"Metric {metric.name!r} failed ({reason}).") from error
    if value.ndim or value.dtype.kind not in "biuf":
        raise UsageError(f"Metric {metric.name!r} must return a number; it returned {value.dtype} {value.shape}.")
    if not math.isfinite(value):
        kind = PruneError if metric.name in METRICS else UsageError
        raise kind(f"Metric {metric.name!r} gives {value}, no finite number; the outputs may hold NaN or infinity.")
    return float(value)


def loss(metric: Metric, dense: float, pruned: float) -> float:
    """How much worse pruned is, in the metric's own unit (0.01 of an accuracy is a point); negative if it is better."""
    return dense - pruned if metric.higher_is_better else pruned - dense


def collect(session: Runs, feeds: Sequence[Mapping[str, Array]]) -> list[Output]:
    """The outputs over all feeds, each an array with a row per row of data, or a list of rows that differ in size.

    A feed has as many rows as the first axis of its first input. An output whose first axis is something else has a
    feed for a row, if feeds are single rows; otherwise it is joined as it is along that axis. Of probabilities by class
    name, the columns are in the order of the names.

    Raises:
        PruneError: there are no feeds.
    """
    if not feeds:
        raise PruneError("There was nothing to measure on.")
    sizes = [(*np.shape(next(iter(feed.values()), 0)), 1)[0] for feed in feeds]
    runs = zip(*(session.run(feed) for feed in feeds), strict=True)
    return [_joined([_array(value) for value in values], sizes) for values in runs]


def _joined(values: list[Array], sizes: list[int]) -> Output:
    by_row = all(value.ndim and len(value) == size for value, size in zip(values, sizes, strict=True))
    if not by_row and set(sizes) == {1}:
        values, by_row = [value[None] for value in values], True
    values = [np.atleast_1d(value) for value in values]
    if len({value.shape[1:] for value in values}) == 1:
        return np.concatenate(values)
    return [row for value in values for row in value] if by_row else values


def _array(value: Any) -> Array:
    """An output as one array, a table of maps as one of their values."""
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return np.array([[row[key] for key in sorted(row)] for row in value])
    try:
        return np.asarray(value)
    except ValueError:  # a sequence of tensors that differ in size
        parts = np.empty(len(value), dtype=object)
        for place, part in enumerate(value):
            parts[place] = part
        return parts


def picked(labels: Labels, rows: Array) -> Labels:
    """The labels of these rows."""
    return labels[rows] if isinstance(labels, np.ndarray) else [labels[row] for row in rows]
