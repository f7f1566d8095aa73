"""How much of each architecture can go, how exactly, how fast, and why the rest stays.

    python -m tests.benchmarks.coverage [--width small|full|both|none] [--match GLOB] [--markdown OUT] [FOLDER ...]

prunes the bench of architectures and every ``.onnx`` file below the folders (``python models/fetch.py FOLDER`` fills
one): half of every group by L2, without alignment, proved in ONNX Runtime on seeded inputs. Each model has a process
that may crash, or take ``--timeout`` seconds, without costing the table; such a model is a row that says so. Exits 1 if
a model fails, or if removed and zeroed differ by more than 1e-4 of an output's range.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from rich import box
from rich.console import Console
from rich.table import Table

import onnxprune
from models import architectures
from models.fetch import manifest
from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.graph import Graph
from onnxprune.model.record import Record
from onnxprune.plan import removed_by
from onnxprune.report.results import Pruned
from tests.benchmarks.weights import Weights
from tests.benchmarks.worker import Failure, Worker, progress

TOLERANCE = 1e-4
ROUNDS = 3
TARGETS = {"convolution": ("weights", 0.70), "attention": ("blocks", 0.45)}
SHOWN = 4  # reasons of a model
NARROWEST = 120  # columns of the table in a terminal

LEGEND = """\
Half of every group by L2, without alignment; removed ≡ zeroed in ONNX Runtime, fp32, on seeded inputs.

* *parameters*: the share removed of all parameters, *weights*: of those of convolutions, linear layers and recurrent
  cells (constants of two axes or more that an operator with multiply-accumulates reads), *blocks*: of those weights
  that are neither embeddings (read by a Gather, or with an axis tied to an input of the model and to no other weight)
  nor heads (with an axis tied to an output and to no other weight).
* *ideal*: what the weights would lose if each axis that an operator ties to another tensor's lost half of its indices,
  those tied to an input or an output of the model apart. It asks neither about normalised axes nor about positions
  picked at run time, so it is an upper bound.
* *error*: the largest difference between removed and zeroed, as a fraction of the output's range; *nothing* where
  there is nothing to remove.
* *analysis*, *load*: milliseconds of analysing the model, graph and shapes included, and of `onnx.load` of the same
  file, in turns in one process; the best of three.
* *what stayed*: the parameters that a weight kept beyond halving all its axes, shared among the axes that did not
  halve, by the reason that `onnxprune explain` gives; as shares of the weights' parameters.
* **Bold**: less than 70% of a convolutional network's weights, or 45% of a transformer's blocks.
"""


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
    parameters: int = 0
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
    def label(self) -> str:
        """The model with how it was exported."""
        return f"{self.model}.{self.exporter}.op{self.opset}.{self.batch}" if self.exporter else self.model

    @property
    def bad(self) -> bool:
        """Whether the row is a failure."""
        return bool(self.failure) or (self.error or 0.0) > TOLERANCE

    @property
    def short(self) -> str:
        """Which target it misses, if it misses one."""
        column, least = TARGETS.get(self.kind, ("", 0.0))
        missed = column and not self.failure and round(getattr(self, column), 3) < least
        return column if missed else ""

    @property
    def why(self) -> str:
        """The main reasons for what stayed."""
        most = sorted(self.reasons.items(), key=lambda item: -item[1])[:SHOWN]
        return "; ".join(f"{share:.0%} {why}" for why, share in most if share >= 0.005)


# ---- one model ---------------------------------------------------------------------------------------------------


def measure(job: Job) -> Row:
    """Everything about one model."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = architectures.write(job.entry, folder) if job.entry else job.path
        assert path is not None
        row, record = Row(job.model), Record(path)
        row.load_ms, row.analysis_ms = _times(path, record)
        analysis = Model(record).analysis
        _describe(row, analysis)
        weights = Weights(analysis)
        row.kind, row.ideal = weights.kind(), weights.ideal()
        shapes = _example(analysis.graph) if job.entry else job.shapes
        result = onnxprune.prune(path, folder / "pruned.onnx", recover="none", ratio=0.5, align=1, input_shapes=shapes)
        _compare(row, weights, result)
    return row


def _times(path: Path, record: Record) -> tuple[float, float]:
    """Milliseconds of reading the file by onnx, and of analysing it, in turns; the best of some rounds."""
    load, analysis = math.inf, math.inf
    for _ in range(ROUNDS):
        start = time.perf_counter()
        onnx.load(path)
        middle = time.perf_counter()
        Model(record).analysis  # noqa: B018 (made when asked for)
        load, analysis = min(load, middle - start), min(analysis, time.perf_counter() - middle)
    return load * 1e3, analysis * 1e3


def _describe(row: Row, analysis: Analysis) -> None:
    graph = analysis.graph
    row.nodes, row.groups, row.units = len(graph.ops), analysis.groups, analysis.units
    row.exporter, row.opset = graph.record.structure.producer_name, graph.opsets.get("", 0)
    first = [graph.shapes[value.name][:1] for value in graph.inputs if value.name in graph.shapes]
    row.batch = "fixed" if all(isinstance(size, int) for sizes in first for size in sizes) else "dynamic"


def _example(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shapes that a model of the bench says it runs on, of inputs that are open."""
    text = next(p.value for p in graph.record.structure.metadata_props if p.key == architectures.EXAMPLE)
    shapes = {name: tuple(facts["shape"]) for name, facts in json.loads(text).items()}
    return {name: s for name, s in shapes.items() if not all(isinstance(size, int) for size in graph.shapes[name])}


def _compare(row: Row, weights: Weights, result: Pruned) -> None:
    analysis, cost = weights.analysis, result.plan.cost
    row.parameters = cost["before"]["params"]
    row.removed, row.macs_removed = (
        1 - cost["after"][m] / cost["before"][m] if cost["before"][m] else 0.0 for m in ("params", "macs")
    )
    removed = removed_by(result.plan, analysis)
    cut = analysis.cut_axes(removed)
    row.weights, row.blocks = weights.lost(weights.axes, cut), weights.lost(weights.blocks(), cut)
    row.reasons = weights.reasons(cut)
    row.error = result.applied.error if removed.any() else None


# ---- all ---------------------------------------------------------------------------------------------------------


def jobs(width: str, match: str, folders: Sequence[Path]) -> Iterator[Job]:
    """The bench, then the files."""
    for each in ("small", "full"):
        if width in (each, "both"):
            yield from (Job(f"{each}/{e.name}", entry=e) for e in architectures.entries(each, match))
    known = manifest()
    for folder in folders:
        for path in sorted(folder.rglob("*.onnx")):
            name = str(path.relative_to(folder))
            shapes = {n: tuple(s) for n, s in known.get(name, {}).get("input_shapes", {}).items() if s}
            yield Job(name.removesuffix(".onnx"), path=path, shapes=shapes)


def run(todo: Sequence[Job], timeout: float) -> list[Row]:
    """Measure all, one at a time, and show how far it is."""
    rows = []
    with closing(Worker(measure, timeout)) as worker:
        for job in progress(todo, lambda job: job.entry.label if job.entry else job.model):
            found = worker.ask(job)
            row: Row = Row(job.model, failure=str(found)) if isinstance(found, Failure) else found
            if job.entry:
                row.exporter, row.opset, row.batch = job.entry.exporter, job.entry.opset, job.entry.batch
            rows.append(row)
    return rows


def summary(rows: Sequence[Row]) -> list[str]:
    """The table in a few lines."""
    worst = max((row.error or 0.0 for row in rows), default=0.0)
    ratios = [row.analysis_ms / row.load_ms for row in rows if row.load_ms]
    lines = [f"{len(rows)} models, {sum(bool(row.failure) for row in rows)} failures, largest error {worst:.1g}."]
    for kind, (column, least) in TARGETS.items():
        of = [row for row in rows if row.kind == kind and not row.failure]
        if of:
            short = sum(bool(row.short) for row in of)
            middle = statistics.median(getattr(row, column) for row in of)
            lines.append(f"{kind}: {len(of)} models, median {middle:.0%} of {column}, {short} below {least:.0%}.")
    if ratios:
        lines.append(f"Analysis takes {statistics.median(ratios):.1f} times as long as onnx.load (median).")
    return lines


def overall(rows: Sequence[Row]) -> list[tuple[str, float, int]]:
    """For each reason the mean share that it keeps, and in how many models it does."""
    good = [row for row in rows if not row.failure]
    models = Counter(why for row in good for why in row.reasons)
    found = [(why, sum(row.reasons.get(why, 0.0) for row in good) / len(good), models[why]) for why in models]
    return sorted(found, key=lambda item: -item[1])


def cells(row: Row) -> list[str]:
    """The numbers of a row, as text."""
    if not row.nodes:
        return [""] * 10
    error = "nothing" if row.error is None else f"{row.error:.0e}"
    counts = [str(row.nodes), str(row.groups), str(row.units)]
    shares = [f"{share:.0%}" for share in (row.removed, row.ideal, row.weights, row.blocks)]
    return [*counts, *shares, error, f"{row.analysis_ms:.1f}", f"{row.load_ms:.1f}"]


def show(rows: Sequence[Row]) -> None:
    """Print the table, what failed, what is below its target, and why things stay."""
    console = Console()
    console.width = max(console.width, NARROWEST)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("nodes", "groups", "units", "params", "ideal", "weights", "blocks", "error", "ms", "load"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.label.replace("torchscript", "ts"),
            *cells(row),
            style="red" if row.bad else "yellow" if row.short else None,
        )
    console.print(table)
    for row in rows:
        if row.failure:
            console.print(f"[red]failed[/] {row.label}: {row.failure}", highlight=False)
        elif row.short:
            share = getattr(row, row.short)
            console.print(f"[yellow]{share:.0%} of {row.short}[/] {row.label}: {row.why}", highlight=False)
    console.print(*summary(rows), "", "Why weights stay, on average:", sep="\n", highlight=False)
    for why, share, models in overall(rows)[:12]:
        console.print(f"{share:6.1%}  {why} ({models} models)", highlight=False)


def markdown(rows: Sequence[Row], command: str) -> str:
    """The page: summary, table, reasons."""
    names = ("model", "exporter", "opset", "batch", "nodes", "groups", "units")
    more = ("parameters", "ideal", "weights", "blocks", "error", "analysis", "load", "what stayed")
    lines = ["# Coverage", "", f"Made by `{command}`.", "", *(f"* {line}" for line in summary(rows)), "", LEGEND]
    lines += [f"| {' | '.join((*names, *more))} |", "|---" * len(names + more) + "|"]
    for row in rows:
        numbers = cells(row)
        if row.short:
            place = 3 + ("removed", "ideal", "weights", "blocks").index(row.short)
            numbers[place] = f"**{numbers[place]}**"
        why = f"**failed**: {row.failure}" if row.failure else row.why
        told = [row.model, row.exporter, str(row.opset), row.batch, *numbers, why]
        lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in told)} |")
    lines += ["", "## Why weights stay, on average", "", "| share | models | reason |", "|---|---|---|"]
    lines += [f"| {share:.1%} | {models} | {why} |" for why, share, models in overall(rows) if share >= 0.0005]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", choices=("small", "full", "both", "none"), default="small", help="of the bench")
    parser.add_argument("--match", default="*", help="only those of the bench that this glob matches")
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one model")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    rows = run(list(jobs(options.width, options.match, options.folders)), options.timeout)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        folders = [folder.name for folder in options.folders]
        command = " ".join(["python -m tests.benchmarks.coverage --width", options.width, *folders])
        options.markdown.write_text(markdown(rows, command), encoding="utf-8")
    return 1 if any(row.bad for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
