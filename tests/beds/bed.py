"""What a bed is: a model, data to calibrate on, other data to measure on, and budgets with goals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from onnxprune import api

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Feeds = Feed | list[Feed]  # a list where samples have different shapes
Metrics = dict[str, float]

CALIBRATION = 256  # unlabelled samples
BATCH = 100  # items per run of a model


class MissingError(Exception):
    """Something that a bed needs is not on this machine and cannot be had; the bed is skipped."""


@dataclass(frozen=True)
class Context:
    """Where the larger models are, and how many items to measure on.

    Attributes:
        models: a folder laid out as ``models/fetch.py`` writes it; ``None`` fetches into the cache.
        items: the most test items of a bed.
    """

    models: Path | None = None
    items: int = 10_000


@dataclass(frozen=True)
class Goal:
    """What a row should reach in one metric; with neither number the metric is only reported.

    Attributes:
        metric: its name in what the bed measures.
        least: the value to reach.
        drop: or the loss that is allowed against the dense model, in the metric's own unit.
        row: the row that is judged.
    """

    metric: str
    least: float | None = None
    drop: float | None = None
    row: str = "default"


@dataclass(frozen=True)
class Budget:
    """How much goes, and what should be left of the accuracy.

    Attributes:
        name: how the table calls it.
        recipe: keyword arguments of `onnxprune.api.prune`.
        goals: the first of them is what the rows are compared by.
        rows: the rows that are measured at this budget; empty for all.
    """

    name: str
    recipe: dict[str, Any]
    goals: tuple[Goal, ...]
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bed:
    """A trained model with real data.

    Attributes:
        name: of the bed.
        model: the file.
        calibration: 256 unlabelled samples drawn with a seed, disjoint from what is measured on.
        measure: the metrics of an ONNX file on the test data.
        budgets: what to try.
        items: how many test items `measure` uses.
        shapes: of inputs that the model leaves open, for rows without data.
    """

    name: str
    model: Path
    calibration: Callable[[int], Feeds]
    measure: Callable[[Path], Metrics]
    budgets: Sequence[Budget]
    items: int
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)


Factory = Callable[[Context], Bed]


def macs(kept: float, *goals: Goal, rows: tuple[str, ...] = ()) -> Budget:
    """Keep this fraction of the MACs; ``align=1``, so that the result does not depend on the processor."""
    return Budget(f"{kept:g} of the MACs", {"macs": kept, "align": 1}, goals, rows)


def ratio(removed: float, what: str, *goals: Goal, **recipe: Any) -> Budget:
    """Remove this fraction of every group."""
    return Budget(f"{removed:.0%} of {what} removed", {"ratio": removed, "align": 1, **recipe}, goals)


def block_params(model: Path, kept: float, *goals: Goal) -> Budget:
    """Keep this fraction of the parameters of the blocks: of all weights that some group cuts."""
    found = api.inspect(model)
    cut = {axis.rpartition(":")[0] for group in found.groups for axis in group["axes"]}
    sizes = {t.name: int(np.prod(t.dims)) for t in onnx.load(model).graph.initializer}
    share = sum(sizes[name] for name in cut) / found.cost.params
    recipe = {"params": round(1 - (1 - kept) * share, 4), "align": 1}
    return Budget(f"{kept:g} of the block parameters", recipe, goals)


def session(path: Path) -> Any:
    """ONNX Runtime on the CPU, silent."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def batches(feed: Feed, size: int = BATCH) -> Iterator[Feed]:
    """The rows of a feed, some at a time."""
    rows = len(next(iter(feed.values())))
    for start in range(0, rows, size):
        yield {name: array[start : start + size] for name, array in feed.items()}


def run(path: Path, feed: Feed, output: int | str = 0, size: int = BATCH) -> Array:
    """One output of a model for all rows of a feed."""
    model = session(path)
    name = output if isinstance(output, str) else model.get_outputs()[output].name
    return np.concatenate([model.run([name], part)[0] for part in batches(feed, size)])


def draw(seed: int, rows: int, count: int = CALIBRATION) -> Array:
    """Distinct row numbers, in order."""
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, rows), replace=False))
