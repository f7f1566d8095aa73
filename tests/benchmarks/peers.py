"""The same networks, pruned by us and by others: parameters removed, time from file to file, time in memory.

    python -m tests.benchmarks.peers files [--width small|full] [--match GLOB] [--rounds N] [--json OUT]
    python -m tests.benchmarks.peers networks [--width small|full] [--match GLOB] [--rounds N] [--json OUT]

``files`` takes the bench of architectures and needs onnxsim 0.8.1. ``networks`` builds the same networks in torch,
exports each (TorchScript, opset 17, a batch of one), and needs Torch-Pruning 1.6.1, too, beside what
`models/architectures/export.py` needs. All remove half of each group by L2:

* *onnxprune* reads, analyses, scores, cuts and writes, as `speed.prune` does; in memory, the file is read already;
  *cut* is that without scoring and plan.
* *onnxsim* runs ``apply_structured_pruning`` and ``apply_attention_head_pruning`` between ``onnx.load`` and
  ``onnx.save``; *simplified* is the same on what ``onnxsim.simplify`` makes of the file, not counting that, and is
  compared with what we remove of that.
* *Torch-Pruning* runs `MagnitudePruner` with heads as its examples have it, last layers left alone: constructor and
  step in memory, and the export to a file, which is what it takes to have an ONNX model.

All run in turns in one process for each network; times are medians, ratios those within a round. What a peer writes
must run on the example and give outputs of the same shapes; what does not is a row that says so. Removing is not
checked to equal zeroing there; a note says where a peer cut an axis that a LayerNormalization normalises over, which
changes what every index stands for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from rich import box
from rich.console import Console
from rich.table import Table

from models import architectures
from tests.benchmarks.contestants import Run, build, export, networks, onnxsim, ours, simplified, torch_pruning
from tests.benchmarks.worker import Failure, Worker, line, progress

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
OURS, SIM, SIMPLIFIED, TORCH = "onnxprune", "onnxsim", "simplified", "Torch-Pruning"
OURS_SIMPLIFIED = "onnxprune, simplified"
TOOLS = (OURS, SIM, SIMPLIFIED, TORCH)
NOTHING = "does nothing"
NARROWEST = 120
PATIENCE = 300  # seconds for one run of one tool
LONGEST = 240.0  # seconds for all rounds of a network; the first is always finished

Feed = Mapping[str, "np.ndarray[Any, Any]"]


class Contestant(NamedTuple):
    """A tool and the file whose parameters its result is compared with."""

    run: Run
    dense: Path


@dataclass
class Outcome:
    """What a tool did to one network."""

    removed: float = 0.0
    file: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    note: str = ""


@dataclass
class Row:
    """What all tools did to one network."""

    model: str
    parameters: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failure: str = ""


class Job(NamedTuple):
    """A network: an entry of the bench, or one that is built."""

    model: str
    entry: architectures.Entry | None
    full: bool
    rounds: int
    cpu: bool


# ---- one network -------------------------------------------------------------------------------------------------


def measure(job: Job) -> Row:
    """All tools on one network."""
    warnings.simplefilter("ignore")
    clock = time.process_time if job.cpu else time.perf_counter
    with TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        if job.entry:
            path, case = architectures.write(job.entry, folder), None
            feed: Feed = architectures.feed(architectures.load(job.entry))
        else:
            path, case = folder / "dense.onnx", build(job.model.split("/")[1], job.full)
            export(case, path)
            feed = {name: tensor.numpy() for name, tensor in case.inputs.items()}
        contestants = {OURS: Contestant(ours(path, clock), path), SIM: Contestant(onnxsim(path, clock), path)}
        if case is not None:
            contestants[TORCH] = Contestant(torch_pruning(case, clock), path)
        failed = {}
        try:
            simple = simplified(path, folder)
            contestants[SIMPLIFIED] = Contestant(onnxsim(simple, clock), simple)
            contestants[OURS_SIMPLIFIED] = Contestant(ours(simple, clock), simple)
        except Exception as error:
            failed[SIMPLIFIED] = Outcome(note=f"fails: {line(error)}")
        outcomes = contend(contestants, folder, job.rounds, path, feed)
        return Row(job.model, parameters(path), outcomes | failed)


def contend(
    contestants: Mapping[str, Contestant], folder: Path, rounds: int, dense: Path, feed: Feed
) -> dict[str, Outcome]:
    """Some rounds in turns; what fails drops out."""
    outcomes, begin = {name: Outcome() for name in contestants}, time.perf_counter()
    for number in range(rounds):
        for name, contestant in contestants.items():
            if not outcomes[name].note:
                one(outcomes[name], contestant, folder / f"{name}-pruned.onnx")
        if time.perf_counter() - begin > LONGEST * (number + 1) / (number + 2):
            break
    wanted = shapes(dense, feed)
    for name, contestant in contestants.items():
        if not outcomes[name].note:
            judge(outcomes[name], contestant, folder / f"{name}-pruned.onnx", feed, wanted)
    return outcomes


def one(outcome: Outcome, contestant: Contestant, out: Path) -> None:
    """One run of one tool."""
    out.unlink(missing_ok=True)
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(PATIENCE)
    try:
        seconds = contestant.run(out)
    except Exception as error:
        outcome.note = f"fails: {line(error)}"
        return
    finally:
        signal.alarm(0)
    outcome.file.append(seconds.file)
    outcome.memory.append(seconds.memory)
    outcome.cut.append(seconds.cut)


def _late(*_: object) -> None:
    raise TimeoutError(f"took more than {PATIENCE} s")


def judge(outcome: Outcome, contestant: Contestant, out: Path, feed: Feed, wanted: list[tuple[int, ...]]) -> None:
    """What was removed, if the result still runs."""
    try:
        found = shapes(out, feed)
    except Exception as error:
        outcome.note = f"writes what does not run: {line(error)}"
        return
    if found != wanted:
        outcome.note = f"changes the outputs: {found[:3]}, not {wanted[:3]}"
        return
    outcome.removed = 1 - parameters(out) / max(parameters(contestant.dense), 1)
    if outcome.removed <= 0:
        outcome.note = NOTHING
    elif normalised(out) < normalised(contestant.dense):
        outcome.note = "cuts normalised axes"


def shapes(path: Path, feed: Feed) -> list[tuple[int, ...]]:
    """The shapes of a model's outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return [value.shape for value in session.run(None, {n: array for n, array in feed.items() if n in names})]


def parameters(path: Path) -> int:
    """How many numbers a file holds that are no whole numbers."""
    graph = onnx.load(path).graph
    held = (a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t"))
    return sum(math.prod(t.dims) for t in (*graph.initializer, *held) if t.data_type in FLOATS)


def normalised(path: Path) -> int:
    """The widths of all LayerNormalizations together."""
    graph = onnx.load(path, load_external_data=False).graph
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer}
    return sum(sizes.get(node.input[1], 0) for node in graph.node if node.op_type == "LayerNormalization")


# ---- all ---------------------------------------------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> list[Job]:
    """What the arguments name."""
    full = options.width == "full"
    if options.what == "files":
        found = architectures.entries(options.width, options.match)
        return [Job(entry.label, entry, full, options.rounds, options.cpu) for entry in found]
    names = [name for name in networks() if fnmatchcase(name, options.match)]
    return [Job(f"{options.width}/{name}", None, full, options.rounds, options.cpu) for name in names]


def ratio(row: Row, name: str, what: str) -> float:
    """How many times as long as ours a tool took, in the median round."""
    tool, us = (getattr(row.outcomes.get(n, Outcome()), what) for n in (name, OURS))
    pairs = list(zip(tool, us, strict=False))
    return statistics.median(theirs / mine for theirs, mine in pairs) if pairs else 0.0


def cells(row: Row) -> list[str]:
    """What each removed; our time and how many times as long the others took."""
    found = [f"{row.parameters / 1e6:.2f}M"]
    for name in TOOLS:
        outcome = row.outcomes.get(name)
        found.append(
            "" if outcome is None else "-" if outcome.note and not outcome.removed else f"{outcome.removed:.0%}"
        )
    for what in ("file", "memory", "cut"):
        mine = getattr(row.outcomes.get(OURS, Outcome()), what)
        found.append(f"{statistics.median(mine) * 1e3:.0f}" if mine else "")
        found += [f"{times:.1f}x" if (times := ratio(row, name, what)) else "" for name in (SIM, TORCH)]
    return found


def show(rows: Sequence[Row]) -> None:
    """Print the table, the notes, and who removed more than we did."""
    console = Console()
    console.width = max(console.width, NARROWEST)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", no_wrap=True)
    names = (
        "params",
        "ours",
        "sim",
        "simpl.",
        "t-p",
        "file ms",
        "sim",
        "t-p",
        "mem. ms",
        "sim",
        "t-p",
        "cut ms",
        "sim",
        "t-p",
    )
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.model, *cells(row))
    console.print(table)
    for row in rows:
        notes = [f"{name} {o.note}" for name, o in row.outcomes.items() if o.note and o.note != NOTHING]
        for note in [row.failure] if row.failure else notes:
            console.print(f"{row.model}: {note}", highlight=False, markup=False)
    more = [text for row in rows for text in beaten(row)]
    console.print("", f"Removed more than ours: {len(more)}", *more, sep="\n", highlight=False, markup=False)


def beaten(row: Row) -> list[str]:
    """The tools that removed more than we did of the same file."""
    found = []
    for name, same in ((SIM, OURS), (SIMPLIFIED, OURS_SIMPLIFIED), (TORCH, OURS)):
        theirs, mine = (row.outcomes.get(n, Outcome()) for n in (name, same))
        if theirs.removed > mine.removed + 5e-4:
            found.append(
                f"{row.model}: {name} {theirs.removed:.1%}, {same} {mine.removed:.1%} ({theirs.note or 'runs'})"
            )
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("files", "networks"))
    parser.add_argument("--width", choices=("small", "full"), default="small")
    parser.add_argument("--match", default="*", help="only those that this glob matches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="seconds of all cores' work, for a machine that is busy")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one network")
    parser.add_argument("--json", type=Path, help="write all rows here")
    options = parser.parse_args(arguments)
    rows = []
    with closing(Worker(measure, options.timeout)) as worker:
        for job in progress(jobs(options), lambda job: job.model):
            found = worker.ask(job)
            rows.append(Row(job.model, failure=str(found)) if isinstance(found, Failure) else found)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 1 if any(row.failure or row.outcomes[OURS].note.startswith("fails") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
