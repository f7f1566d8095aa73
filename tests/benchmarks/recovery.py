"""What recovery costs: ``python -m tests.benchmarks.recovery [MODEL --data DATA]...``.

Each model is pruned to half of its MACs with 256 samples and nothing else said, in a process of its own. Its seconds
are a ratio to those of one dense pass over the same samples in ONNX Runtime, batched as calibration batches are; the
most memory that the process ever took, what Python and its libraries take included, is a ratio to the model's bytes.
The cnn and the resnet that ship come first, on images of their own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxprune
from onnxprune.algebra.analysis import Model
from onnxprune.metrics.evidence import Bench, Evidence
from onnxprune.model.record import Record

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = [(MODELS / f"{name}.onnx", MODELS / "data" / "calibration.npz") for name in ("cnn", "resnet")]
SAMPLES = 256
BUDGET = 0.5
KIB = 1024 if sys.platform != "darwin" else 1  # bytes in the unit of ru_maxrss
COLUMNS = (
    f"{'model':24}{'MB':>8}{'samples':>9}{'prune':>10}{'dense pass':>12}{'ratio':>9}{'peak MiB':>10}{'/ bytes':>9}"
)
COMMAND = "from tests.benchmarks.recovery import measure; import sys; measure(*sys.argv[1:])"


def measure(model: str, data: str) -> None:
    """Measure one model in this process; print the numbers as JSON."""
    path = Path(model)
    with TemporaryDirectory(prefix="onnxprune-") as folder:
        bench = Bench(Model(Record(path)), Evidence(data=Path(data), samples=SAMPLES), path)
        _pass(bench)  # the first one is slower
        dense = min(_pass(bench) for _ in range(3))
        start = time.perf_counter()
        result = onnxprune.prune(path, Path(folder) / "out.onnx", data=Path(data), macs=BUDGET, samples=SAMPLES)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    numbers = {"dense": dense, "prune": seconds, "peak": peak, "samples": result.plan.recovery["samples"]}
    print(json.dumps({**numbers, "bytes": result.plan.source["bytes"]}))


def _pass(bench: Bench) -> float:
    """The seconds of one dense pass over the samples."""
    start = time.perf_counter()
    for feed in bench.calibration:
        bench.session.run(feed)
    return time.perf_counter() - start


def pairs(words: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Models and their data, as they were given."""
    while words:
        if len(words) < 3 or words[1] != "--data":
            raise SystemExit("Usage: python -m tests.benchmarks.recovery [MODEL --data DATA]...")
        yield Path(words[0]), Path(words[2])
        words = words[3:]


def main(words: Sequence[str]) -> None:
    """Print a line per model."""
    given = list(pairs(words))
    print(COLUMNS)
    for model, data in [*SHIPPED, *given]:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(model), str(data)], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            print(f"{model.stem[:23]:24}failed")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{model.stem[:23]:24}{found['bytes'] / 1e6:8.2f}{found['samples']:9}{found['prune']:9.1f}s"
            f"{found['dense']:11.3f}s{found['prune'] / found['dense']:9.0f}{found['peak'] / 2**20:10.0f}"
            f"{found['peak'] / found['bytes']:9.0f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
