"""Whether pruned models are faster, and by what their operations promise: ``python -m tests.benchmarks.latency MODEL``.

Each model is pruned to a budget with nothing else said, then timed again beside itself and the dense model by `bench`,
in a process that had no part in pruning. *itself* must be 1.00: it says how far the figures can be trusted. The last
column is the speed-up as a fraction of what the multiply-accumulates promise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxprune
from onnxprune.algebra.analysis import Model
from onnxprune.data.inputs import Shapes, parse_shape
from onnxprune.errors import PruneError
from onnxprune.model.record import Record

COLUMNS = ("model", "seconds", "MACs kept", "told", "measured", "95 %", "itself", "of promised")
ROW = "| {:24} | {:>7} | {:>9} | {:>5} | {:>8} | {:>11} | {:>6} | {:>11} |"


def measure(model: Path, recipe: Mapping[str, Any], shapes: Shapes, seconds: float) -> list[str]:
    """A line of the table: prune, and time the result."""
    names = {value.name for value in Model(Record(model)).graph.inputs}
    given = {name: shape for name, shape in shapes.items() if name in names}
    with TemporaryDirectory(prefix="onnxprune-") as folder:
        out, start = Path(folder) / "out.onnx", time.perf_counter()
        try:
            result = onnxprune.prune(model, out, input_shapes=given, **recipe)
        except PruneError as error:
            return [model.stem, f"{time.perf_counter() - start:.0f}", str(error), *[""] * 5]
        taken = time.perf_counter() - start
        timings = onnxprune.bench([model, out, model], input_shapes=given, seconds=seconds).measured[0].timings
    kept = result.plan.cost["after"]["macs"] / result.plan.cost["before"]["macs"]
    told = result.fidelity.latency_ratio if result.fidelity else 1.0
    _, pruned, itself = timings
    interval = "-".join(f"{1 / ratio:.2f}" for ratio in pruned.interval[::-1])
    figures = [f"{kept:.3f}", f"{1 / told:.2f}", f"{1 / pruned.ratio:.2f}", interval]
    return [model.stem, f"{taken:.0f}", *figures, f"{1 / itself.ratio:.2f}", f"{kept / pruned.ratio:.2f}"]


def main(words: Sequence[str]) -> None:
    """Print a line per model."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.latency", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--speedup", type=float)
    budget.add_argument("--macs", type=float)
    parser.add_argument("--recover", default="auto")
    parser.add_argument("--input-shape", action="append", default=[], metavar="NAME:1x3x224x224")
    parser.add_argument("--seconds", type=float, default=20.0, help="the most that timing takes")
    options = parser.parse_args(words)
    recipe = {"speedup": options.speedup, "macs": options.macs, "recover": options.recover, "allow_slower": True}
    shapes = dict(map(parse_shape, options.input_shape))
    print(ROW.format(*COLUMNS))
    print(ROW.format(*["---"] * len(COLUMNS)))
    for model in options.models:
        print(ROW.format(*measure(model, recipe, shapes, options.seconds)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
