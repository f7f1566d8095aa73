"""What can be removed from real models, and how exactly removing equals zeroing, as a Markdown table.

    python -m tests.benchmarks.table [FOLDER]

prunes the models of ``models/``, the nine networks of the onnx package with random weights, and whatever ``FOLDER``
holds (``python models/fetch.py FOLDER`` fills it): half of every group by L2, without alignment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxprune
from models.fetch import manifest
from onnxprune.analysis import Analysis
from onnxprune.graph import Graph
from onnxprune.record import Record
from tests.benchmarks import light

MODELS = Path(__file__).parents[2] / "models"
COLUMNS = ("model", "nodes", "groups", "units", "parameters removed", "MACs removed", "removed vs zeroed", "analysis")


def row(path: Path, name: str) -> tuple[str, ...]:
    """One model, pruned and measured."""
    record = Record(path)
    start = time.perf_counter()
    analysis = Analysis(Graph(record))
    seconds = time.perf_counter() - start
    shapes = {n: tuple(s) for n, s in manifest().get(name, {}).get("input_shapes", {}).items() if s}
    with TemporaryDirectory() as folder:
        result = onnxprune.prune(path, Path(folder) / "out.onnx", ratio=0.5, align=1, input_shapes=shapes)
    before, after = result.plan.cost["before"], result.plan.cost["after"]
    head = (name.removesuffix(".onnx"), str(len(analysis.graph.ops)), str(analysis.groups), str(analysis.units))
    if not analysis.units:
        return (*head, "nothing to prune", "", "", f"{seconds * 1e3:.0f} ms")
    gone = [f"{1 - after[m] / before[m]:.0%}" for m in ("params", "macs")]
    return (*head, *gone, f"{result.applied.error:.0e}", f"{seconds * 1e3:.0f} ms")


def sources(folder: Path | None) -> Iterator[tuple[Path, str]]:
    """Every model with the name that the table gives it."""
    for path in sorted(MODELS.glob("*.onnx")):
        yield path, f"models/{path.name}"
    with TemporaryDirectory() as scratch:
        for path in light.write_all(Path(scratch)):
            yield path, path.name
            path.unlink()
    if folder:
        for path in sorted(folder.rglob("*.onnx")):
            yield path, str(path.relative_to(folder))


def main(arguments: list[str]) -> int:
    """Print the table, a row as soon as it is known."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for path, name in sources(Path(arguments[0]) if arguments else None):
        try:
            cells = row(path, name)
        except onnxprune.PruneError as error:
            cells = (name.removesuffix(".onnx"), f"refused: {error}", *[""] * (len(COLUMNS) - 2))
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
