"""Where the time of a run goes, node by node, as ONNX Runtime's own profiler tells it."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from onnxprune.data import runtime
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import Session

KERNEL = "_kernel_time"
RUN = "model_run"
WARMUP = 2
NODES = 64  # of the ruler
RUNS = (8, 100)  # at least and at most
SECONDS = 0.6  # that they may take between the two


class Node(NamedTuple):
    """What one node of the optimised graph takes: its name, and milliseconds of one run."""

    name: str
    time: float


def profiled(models: Sequence[Path], feed: Feed, provider: str, threads: int) -> list[list[Node]]:
    """Profile models in this process, one after the other; nodes come in the order in which they run."""
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"  # or a kernel's time would be that of starting it
    runtime.share_pool(threads)
    ruler = {"x": np.zeros(1, dtype=np.float32)}
    alone, apart = _profiled(_ruler(), ruler, provider)
    price = max(0.0, (sum(node.time for node in apart) - alone) / len(apart))
    found = (_profiled(model, feed, provider)[1] for model in models)
    return [[Node(name, max(0.0, taken - price)) for name, taken in each] for each in found]


def _ruler() -> bytes:
    """A model of many nodes that do next to nothing, by which to tell what profiling a node costs."""
    names = ["x", *(f"t{number}" for number in range(NODES))]
    nodes = [helper.make_node("Tanh", [x], [y]) for x, y in itertools.pairwise(names)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "ruler", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


def _profiled(model: Path | bytes, feed: Feed, provider: str) -> tuple[float, list[Node]]:
    """The milliseconds of a run without the profiler, and of its nodes with it."""
    with TemporaryDirectory(prefix="onnxprune-") as folder:
        session = Session(model, provider, profile=Path(folder) / "profile", exact=False)
        run = session.bound(feed)
        session.run(feed)
        runs = int(np.clip(SECONDS / max(_times(run, WARMUP)[-1], 1e-6), *RUNS))
        _times(run, runs)
        events = json.loads(session.profile().read_text(encoding="utf-8"))
    return 1e3 * _quiet(_times(run, runs)) if isinstance(model, bytes) else 0.0, nodes(events, 1 + WARMUP)


def _times(run: Callable[[], object], runs: int) -> list[float]:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def nodes(events: Sequence[Mapping[str, Any]], warmup: int = 0) -> list[Node]:
    """What each node takes when nothing disturbs it: the mean of the quicker half of its runs.

    A node of a body runs several times; its times add up. The first ``warmup`` runs do not count.
    """
    runs: list[dict[str, float]] = []
    current: dict[str, float] = defaultdict(float)
    for event in events:
        name, taken = str(event["name"]), float(event["dur"]) / 1e3
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            current[name.removesuffix(KERNEL)] += taken
        elif name == RUN:
            runs.append(dict(current))
            current.clear()
    counted = runs[warmup:] or runs
    return [Node(name, _quiet([run.get(name, 0.0) for run in counted])) for name in runs[-1]]


def _quiet(times: Sequence[float]) -> float:
    ordered = np.sort(np.asarray(times))
    return float(ordered[: (len(ordered) + 1) // 2].mean())
