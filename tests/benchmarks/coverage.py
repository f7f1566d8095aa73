"""How much of each architecture can go, how exactly, how fast, and why the rest stays.

    python -m tests.benchmarks.coverage [--width small|full|both|none] [--match GLOB] [--json OUT] [--markdown OUT] [FOLDER …]

prunes the bench of architectures and every ``.onnx`` file below the folders (``python models/fetch.py FOLDER`` fills
one): half of every group by L2, without alignment, proved in ONNX Runtime on seeded inputs. Each model has a process
that may crash, or take ``--timeout`` seconds, without costing the table; such a model is a row that says so. Exits 1 if
a model fails, or if removed and zeroed differ by more than 1e-4 of an output's range.

*Weights* are the constants of two axes or more that an operator with multiply-accumulates reads, as they are or
through nodes that compute from constants alone: convolutions, linear layers, recurrent cells. Those of their axes that
the operator ties to another tensor's can shrink; a kernel's height cannot. *Ideal* is what all weights would lose if
each such axis lost half of its indices, those tied to an input or an output of the model apart: an upper bound, since
it asks neither about normalised axes nor about positions picked at run time. *Blocks* are the weights without
embeddings (read by a Gather) and heads (with an axis tied to an output and to no other weight). What a weight kept
beyond halving all its axes is shared among the axes that did not halve; the reasons add that up.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import onnxprune
from models import architectures
from models.fetch import manifest
from onnxprune.analysis import Analysis
from onnxprune.closure import Mask
from onnxprune.explain import Explainer
from onnxprune.facts import Macs, ties
from onnxprune.graph import Graph, Op
from onnxprune.integers import Axis
from onnxprune.pins import WHOLE_TYPES
from onnxprune.plan import removed_by
from onnxprune.record import Record

TOLERANCE = 1e-4
ROUNDS = 3
TARGETS = {"convolution": ("weights", 0.70), "attention": ("blocks", 0.45)}
RECURRENT = ("LSTM", "GRU", "RNN")
SHOWN = 4  # reasons


@dataclass(frozen=True)
class Job:
    """A model to measure: one of the bench, or a file."""

    model: str
    entry: architectures.Entry | None = None
    path: Path | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class Row:
    """What was found of a model; shares are of what there was before."""

    model: str
    exporter: str = ""
    opset: int = 0
    batch: str = ""
    kind: str = ""
    nodes: int = 0
    groups: int = 0
    units: int = 0
    params: int = 0
    removed: float = 0.0
    macs_removed: float = 0.0
    ideal: float = 0.0
    weights: float = 0.0
    blocks: float = 0.0
    error: float | None = None
    analysis_ms: float = 0.0
    load_ms: float = 0.0
    reasons: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def bad(self) -> bool:
        """Whether the row is a failure."""
        return bool(self.failure) or (self.error or 0.0) > TOLERANCE

    @property
    def short(self) -> str:
        """Which target it misses, if it misses one."""
        column, least = TARGETS.get(self.kind, ("", 0.0))
        missed = column and not self.failure and round(getattr(self, column), 3) < least
        return f"{column} {getattr(self, column):.0%} < {least:.0%}" if missed else ""

    @property
    def why(self) -> str:
        """The main reasons for what stayed."""
        most = sorted(self.reasons.items(), key=lambda item: -item[1])[:SHOWN]
        return "; ".join(f"{share:.0%} {why}" for why, share in most if share >= 0.005)


class Weights:
    """The weights of a model, and what becomes of them."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.graph = analysis, analysis.graph
        self._leaves: dict[str, tuple[str, ...] | None] = {}
        self.macs = [op for op in self.graph.ops if any(isinstance(f, Macs) for f in analysis.facts[op.index])]
        self.axes: dict[str, list[int]] = {}
        for name in dict.fromkeys(leaf for op in self.macs for slot in op.ins if slot for leaf in self.leaves(slot)):
            axes = self._tied(name)
            if axes and self._is_weight(name):
                self.axes[name] = axes

    def leaves(self, name: str) -> tuple[str, ...]:
        """The constants that a tensor is computed from, if from nothing else."""
        if name not in self._leaves:
            self._leaves[name] = ()  # while it is looked for
            self._leaves[name] = self._find_leaves(name)
        return self._leaves[name] or ()

    def _find_leaves(self, name: str) -> tuple[str, ...]:
        if self.graph.is_constant(name):
            return (name,)
        op = self.graph.producer.get(name)
        if op is None or op.bodies:
            return ()
        parts = [self.leaves(slot) for slot in op.ins if slot]
        return tuple(leaf for part in parts for leaf in part) if all(parts) else ()

    def _is_weight(self, name: str) -> bool:
        tensor = self.graph.constant_tensor(name)
        return tensor.data_type not in WHOLE_TYPES and sum(size > 1 for size in tensor.dims) > 1

    def _tied(self, name: str) -> list[int]:
        """The axes that readers tie to another tensor's."""
        stated = (f for op, _ in self.graph.consumers.get(name, ()) for f in self.analysis.facts[op.index])
        pairs = [pair for fact in stated for pair in ties(fact)]
        found = {a for x, y in pairs for (n, a), (other, _) in ((x, y), (y, x)) if n == name and other != name}
        return sorted(a for a in found if self.dims(name)[a] > 1)

    def dims(self, name: str) -> tuple[int, ...]:
        """The sizes of a constant."""
        return tuple(self.graph.constant_tensor(name).dims)

    def labels(self, axis: Axis) -> NDArray[np.int64]:
        """Which component each index of an axis belongs to."""
        closure = self.analysis.closure
        number = closure.ids.get(axis)
        return closure.labels[closure.span(number)] if number is not None else np.empty(0, dtype=np.int64)

    def _ends(self, names: Iterable[str]) -> NDArray[np.int64]:
        axes = ((name, a) for name in names for a in range(len(self.graph.shapes.get(name, ()))))
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *map(self.labels, axes)]))

    @cached_property
    def outputs(self) -> NDArray[np.int64]:
        """The components that hold an index of an output."""
        return self._ends(value.name for value in self.graph.proto.output)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The components that hold an index of an input or an output."""
        return np.union1d(self.outputs, self._ends(value.name for value in self.graph.inputs))

    def ideal(self) -> float:
        """What all weights together would lose if all axes that are no input's or output's halved."""
        left = 0.0
        for name, axes in self.axes.items():
            stay = math.prod(self.dims(name))
            for a in axes:
                size = self.dims(name)[a]
                fixed = int(np.isin(self.labels((name, a)), self.ends).sum())
                stay = stay // size * (size - (size - fixed) // 2)
            left += stay
        return _lost(left, sum(math.prod(self.dims(name)) for name in self.axes))

    def blocks(self) -> list[str]:
        """The weights that are neither embeddings nor heads."""
        readers = Counter(label for name, axes in self.axes.items() for label in self._outward(name, axes))
        heads = {
            name for name, axes in self.axes.items() if any(readers[label] == 1 for label in self._outward(name, axes))
        }
        looked_up = {
            name
            for name in self.axes
            if any(
                op.kind in ("Gather", "Identity") and slot == 0 and self._gathers(op, name)
                for op, slot in self.graph.consumers[name]
            )
        }
        return [name for name in self.axes if name not in heads | looked_up]

    def _outward(self, name: str, axes: list[int]) -> set[int]:
        """The components of outputs that a weight has an axis in."""
        return {int(i) for a in axes for i in np.intersect1d(self.labels((name, a)), self.outputs)}

    def _gathers(self, op: Op, name: str) -> bool:
        """Whether a weight is looked up here, or behind an Identity."""
        if op.kind == "Gather":
            return True
        return any(then.kind == "Gather" and slot == 0 for then, slot in self.graph.consumers.get(op.out, ()))

    def lost(self, names: Iterable[str], cut: dict[Axis, int]) -> float:
        """The share of these weights' parameters that a cut removes."""
        before = after = 0
        for name in names:
            before += math.prod(self.dims(name))
            after += math.prod(cut.get((name, a), size) for a, size in enumerate(self.dims(name)))
        return _lost(after, before)

    def reasons(self, cut: dict[Axis, int]) -> dict[str, float]:
        """Why what could have halved did not, as shares of all weights' parameters."""
        explainer, found = Explainer(self.analysis), Counter[str]()
        for name, axes in self.axes.items():
            sizes = {a: (cut.get((name, a), self.dims(name)[a]), self.dims(name)[a]) for a in axes}
            kept = math.prod(cut.get((name, a), size) for a, size in enumerate(self.dims(name)))
            half = kept * math.prod((size - size // 2) / left for left, size in sizes.values())
            excess = {a: math.log(max(left / (size - size // 2), 1.0)) for a, (left, size) in sizes.items()}
            for a, share in excess.items():
                if share:
                    found[self._why(explainer, (name, a))] += max(kept - half, 0.0) * share / sum(excess.values())
        total = sum(math.prod(self.dims(name)) for name in self.axes)
        return {why: round(amount / total, 5) for why, amount in found.most_common()}

    def _why(self, explainer: Explainer, axis: Axis) -> str:
        told = explainer.axis(axis)
        return shorten(told.why) if told.why else "its groups do not halve (few units, or one)"

    def kind(self) -> str:
        """What a model is made of, by what is most telling."""
        ops = self.graph.ops
        moving = (op for op in self.macs if not any(self.leaves(name) for name in op.ins if name))
        if any("Attention" in op.kind for op in ops) or (
            any(op.kind == "Softmax" for op in ops) and any(op.kind in ("MatMul", "Einsum") for op in moving)
        ):
            return "attention"
        if any(op.kind in RECURRENT for op in ops):
            return "recurrent"
        return "convolution" if any(op.kind == "Conv" for op in self.macs) else "linear"


def _lost(after: float, before: float) -> float:
    return 1 - after / before if before else 0.0


def shorten(why: str) -> str:
    """A reason without the names of nodes and tensors, so that those of a kind are one."""
    why = re.sub(r"\b([A-Z]\w+) (#\d+ \('[^']*'\)|'[^']*')", r"\1", why)
    why = re.sub(r"^'[^']*' is (an (input|output) of the model)", r"\1", why)
    return re.sub(r"'[^']*'", "…", why)


# ---- one model ---------------------------------------------------------------------------------------------------


def measure(job: Job) -> Row:
    """Everything about one model."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = architectures.write(job.entry, folder) if job.entry else job.path
        assert path is not None
        row = Row(job.model)
        record = Record(path)
        row.load_ms, row.analysis_ms = _times(path, record)
        analysis = Analysis(Graph(record))
        weights = Weights(analysis)
        _describe(row, job, analysis)
        row.kind, row.ideal = weights.kind(), weights.ideal()
        shapes = _example(analysis.graph) if job.entry else job.shapes
        result = onnxprune.prune(path, folder / "pruned.onnx", ratio=0.5, align=1, input_shapes=shapes)
        _compare(row, weights, result)
    return row


def _times(path: Path, record: Record) -> tuple[float, float]:
    """Milliseconds of reading the file by onnx, and of analysing it, in turns; the best of some rounds."""
    best = [math.inf, math.inf]
    for _ in range(ROUNDS):
        for i, run in enumerate((lambda: onnx.load(path), lambda: Analysis(Graph(record)))):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
    return best[0], best[1]


def _describe(row: Row, job: Job, analysis: Analysis) -> None:
    graph = analysis.graph
    row.nodes, row.groups, row.units = len(graph.ops), analysis.groups, analysis.units
    row.opset = graph.opsets.get("", 0)
    if job.entry:
        row.exporter, row.batch = job.entry.exporter, job.entry.batch
        return
    row.exporter = graph.record.structure.producer_name
    first = [graph.shapes[value.name][:1] for value in graph.inputs if value.name in graph.shapes]
    row.batch = "fixed" if all(isinstance(size, int) for sizes in first for size in sizes) else "dynamic"


def _example(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shapes that a model of the bench says it runs on, of inputs that are open."""
    text = next(p.value for p in graph.record.structure.metadata_props if p.key == architectures.EXAMPLE)
    shapes = {name: tuple(facts["shape"]) for name, facts in json.loads(text).items()}
    return {name: s for name, s in shapes.items() if not all(isinstance(size, int) for size in graph.shapes[name])}


def _compare(row: Row, weights: Weights, result: onnxprune.Pruned) -> None:
    analysis = weights.analysis
    before, after = result.plan.cost["before"], result.plan.cost["after"]
    row.params = before["params"]
    row.removed, row.macs_removed = (_lost(after[m], before[m]) for m in ("params", "macs"))
    removed: Mask = removed_by(result.plan, analysis)
    cut = analysis.cut_axes(removed)
    row.weights, row.blocks = weights.lost(weights.axes, cut), weights.lost(weights.blocks(), cut)
    row.reasons = weights.reasons(cut)
    row.error = result.applied.error if removed.any() else None


# ---- a process that may die --------------------------------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Measure what is asked for; what is wrong with a model is told in a line."""
    while True:
        job: Job = pipe.recv()
        try:
            pipe.send(measure(job))
        except Exception as error:
            name = "" if isinstance(error, onnxprune.PruneError) else f"{type(error).__name__}: "
            pipe.send(Row(job.model, failure=name + " ".join(str(error).split())[:300]))


class Worker:
    """A process for one model after another, replaced when it dies or takes too long."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.context = multiprocessing.get_context("spawn")
        self.start()

    def start(self) -> None:
        """Begin a process."""
        self.pipe, other = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, job: Job) -> Row:
        """Measure one model, whatever happens."""
        self.pipe.send(job)
        try:
            if self.pipe.poll(self.timeout):
                row: Row = self.pipe.recv()
                return _identified(row, job)
            failure = f"took more than {self.timeout:g} s"
        except (EOFError, ConnectionError):
            self.process.join(10)
            failure = f"the process died (exit code {self.process.exitcode})"
        self.stop()
        self.start()
        return _identified(Row(job.model, failure=failure), job)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _identified(row: Row, job: Job) -> Row:
    if job.entry:
        row.exporter, row.opset, row.batch = job.entry.exporter, job.entry.opset, job.entry.batch
    return row


# ---- all ---------------------------------------------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """The bench, then the files."""
    for width in ("small", "full"):
        if options.width in (width, "both"):
            for entry in architectures.entries(width, options.match):
                yield Job(f"{width}/{entry.name}", entry=entry)
    for folder in options.folders:
        known = manifest()
        for path in sorted(folder.rglob("*.onnx")):
            name = str(path.relative_to(folder))
            shapes = {n: tuple(s) for n, s in known.get(name, {}).get("input_shapes", {}).items() if s}
            yield Job(name.removesuffix(".onnx"), path=path, shapes=shapes)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", choices=("small", "full", "both", "none"), default="small", help="of the bench")
    parser.add_argument("--match", default="*", help="only those of the bench that this glob matches")
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--markdown", type=Path, help="write the table and the reasons here")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one model")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    rows = list(_run(list(jobs(options)), options.timeout))
    return 0
