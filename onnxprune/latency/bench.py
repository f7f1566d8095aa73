"""`bench`: how long models take, one against the other, on every provider and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.graph import Graph
from onnxprune.data import runtime, sampling
from onnxprune.data.inputs import Data, Feed, synthesise
from onnxprune.data.runtime import Session
from onnxprune.errors import UsageError, unknown
from onnxprune.latency import apart, hardware
from onnxprune.latency.timing import Limits, Timing, interleave
from onnxprune.metrics import evidence
from onnxprune.metrics.evidence import Evidence
from onnxprune.model.record import Record, Source
from onnxprune.surgery import saving

Progress = Callable[[str], None]
MOST_SECONDS = 86_400.0
MOST_THREADS = 1024


class Measured(NamedTuple):
    """The timings of all models, in their order, on one provider with one number of threads (0: one per core)."""

    provider: str
    threads: int
    timings: list[Timing]


@dataclass(frozen=True)
class Benched:
    """Models, timed against each other.

    Attributes:
        models: their names.
        inputs: the shape of each input of each model.
        seed: of the inputs, and of the order of the models.
        measured: the timings; in each, ratios are to the first model.
        hardware: what they belong to, by provider.
    """

    models: list[str]
    inputs: list[dict[str, list[int]]]
    seed: int
    measured: list[Measured]
    hardware: dict[str, dict[str, str | int]]

    def to_json(self) -> dict[str, Any]:
        """As plain data; milliseconds."""
        measured = [
            {
                "provider": provider,
                "threads": threads,
                "times": [{"model": m, **asdict(t)} for m, t in zip(self.models, timings, strict=True)],
            }
            for provider, threads, timings in self.measured
        ]
        models = [{"model": name, "inputs": shapes} for name, shapes in zip(self.models, self.inputs, strict=True)]
        return {"models": models, "seed": self.seed, "hardware": self.hardware, "measured": measured}


def bench(
    models: Sequence[Source],
    *,
    providers: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (0,),
    batch: int | None = None,
    data: Data | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 10.0,
    runs: int | None = None,
    warmup: int = 3,
    seed: int = 0,
    progress: Progress = lambda stage: None,
) -> Benched:
    """Time models in turns, in one process of its own per provider and number of threads.

    Args:
        models: what to time; ratios are to the first.
        providers: execution providers by name.
        threads: how many work on one operator; 0: one per core.
        batch: rows per run, where the models leave that open; one by default.
        data: inputs to run on, the first rows of them (see `onnxprune.data.inputs.load_data`).
        input_shapes: for inputs whose shape is open.
        seconds: the most that timing takes for each provider and number of threads; it ends once ratios are sure.
        runs: rounds to time instead.
        warmup: untimed runs before.
        seed: of generated inputs, and of the order in each round.
        progress: called with the name of each stage.

    Raises:
        UsageError: a number or a shape makes no sense, or the data does not fit a model.
        FileError, RefusedError, ProviderError, PruneError: see `onnxprune.errors`.
    """
    limits = _limits(models, threads, batch, seconds, runs, warmup)
    for name in providers:
        runtime.provider(name)
    graphs = [Model(Record(source)).graph for source in models]
    given = _by_model(graphs, input_shapes or {})
    with TemporaryDirectory(prefix="onnxprune-") as folder:
        files, feeds = [], []
        for number, (graph, shapes) in enumerate(zip(graphs, given, strict=True)):
            progress("reading")
            proof = Evidence(data, input_shapes=shapes, providers=providers, seed=seed)
            files.append(graph.record.path or saving.copy(graph.record, Path(folder) / str(number), "model.onnx"))
            feeds.append(_feed(graph, evidence.Bench(Model(graph.record), proof, files[-1]), batch))
        measured = []
        for name in dict.fromkeys(providers):
            for count in dict.fromkeys(threads):
                progress(f"timing on {name}, {describe_threads(count)}")
                measured.append(Measured(name, count, versus(files, feeds, name, limits, seed, count)))
    return Benched(
        [graph.record.name for graph in graphs],
        [{name: list(array.shape) for name, array in feed.items()} for feed in feeds],
        seed,
        measured,
        {name: hardware.describe(runtime.provider(name)) for name in dict.fromkeys(providers)},
    )


def describe_threads(count: int) -> str:
    """A number of threads in words."""
    return "a thread per core" if count == 0 else f"{count} thread{'s' * (count > 1)}"


def versus(
    files: Sequence[Path], feeds: Sequence[Feed], provider: str, limits: Limits, seed: int, threads: int = 0
) -> list[Timing]:
    """Time model files in turns, each on its own feed, in an interpreter of their own.

    In this one, sessions with pools of threads of their own would slow each other down.

    Raises:
        ProviderError, PruneError: a model does not load, or does not run.
    """
    return apart.call(timed, files, feeds, provider, threads, limits, seed)


def against_dense(bench: evidence.Bench, cut: Path, limits: Limits) -> list[Timing]:
    """The dense model and a cut one, timed in turns on one row and the first provider that was asked for."""
    row, asked = bench.one_row(), bench.evidence
    return versus([bench.file, cut], [row, row], asked.providers[0], limits, asked.seed)


def timed(
    files: Sequence[Path], feeds: Sequence[Feed], provider: str, threads: int, limits: Limits, seed: int
) -> list[Timing]:
    """Time model files in this process, each on its own feed, all on one pool of threads."""
    runtime.share_pool(threads)
    sessions = [Session(file, provider, exact=False) for file in files]
    for session, feed in zip(sessions, feeds, strict=True):
        session.run(feed)
    return interleave([s.bound(feed) for s, feed in zip(sessions, feeds, strict=True)], limits, seed)


def _limits(
    models: Sequence[Source], threads: Sequence[int], batch: int | None, seconds: float, runs: int | None, warmup: int
) -> Limits:
    if isinstance(models, str | bytes) or not models:
        raise UsageError("Give a list of models to time.")
    if not threads or not all(0 <= count <= MOST_THREADS for count in threads):
        raise UsageError(f"Numbers of threads lie between 0 (one per core) and {MOST_THREADS}, not {list(threads)}.")
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"Seconds must be more than 0 and at most {MOST_SECONDS:,.0f}, not {seconds!r}.")
    if warmup < 0 or any(number is not None and number < 1 for number in (batch, runs)):
        raise UsageError("A batch and a number of runs are at least 1, and a warm-up is not negative.")
    return Limits(seconds, runs, warmup)


def _by_model(graphs: Sequence[Graph], given: Mapping[str, Sequence[int]]) -> list[dict[str, Sequence[int]]]:
    """The shapes that each model has an input for; each must fit somewhere."""
    names = [{value.name for value in graph.inputs} for graph in graphs]
    known = set().union(*names)
    for name in given:
        if name not in known:
            raise unknown("input", name, known)
    return [{name: shape for name, shape in given.items() if name in own} for own in names]


def _feed(graph: Graph, bench: evidence.Bench, batch: int | None) -> Feed:
    """One batch: the first rows of the data, or seeded ones."""
    if bench.feeds:
        return _first_rows(graph, bench.feeds, batch)
    firsts = {graph.shapes[value.name][0] for value in graph.inputs if graph.shapes.get(value.name)}
    open_sizes = {size for size in firsts if isinstance(size, str)}
    if batch is None:
        return bench.one_row()
    if not open_sizes and firsts != {batch}:
        raise UsageError(f"The batch of {graph.record.name!r} is of fixed size; it cannot be {batch}.")
    shapes = {
        value.name: tuple(
            batch if declared in open_sizes else size
            for declared, size in zip(graph.shapes[value.name], bench.shapes[value.name], strict=True)
        )
        for value in graph.inputs
        if value.name in bench.shapes
    }
    evidence.check_memory(Graph(graph.record, shapes))
    return synthesise(graph, shapes, bench.evidence.seed)


def _first_rows(graph: Graph, feeds: Sequence[Feed], batch: int | None) -> Feed:
    if not sampling.is_open(graph):
        rows = sampling.count(feeds[0])
        if batch not in (None, rows):
            raise UsageError(f"{graph.record.name!r} takes {rows} rows of this data at a time, not {batch}.")
        return feeds[0]
    first = sampling.batched(graph, sampling.rows_of(graph, feeds), batch or 1)[0]
    if sampling.count(first) != (batch or 1):
        raise UsageError(f"The data has no {batch} rows of one shape in a row for {graph.record.name!r}.")
    return first
