"""File to file against the floor: ``python -m tests.benchmarks.speed [FILE ...]``.

For each file, in turns within one run: reading and writing its bytes; ``onnx.load`` + ``onnx.save``; *cut*, which reads
the file, analyses it, removes every other unit and writes the result; *prune*, which also hashes the file, scores its
units by L2 and writes a plan. Without files, the nine networks of the onnx package with random weights. The best of
several rounds is compared, as ratios; proof and measurement in ONNX Runtime are not part of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.graph import Graph
from onnxprune.model.record import Record
from onnxprune.plan import decide
from onnxprune.surgery import removal, saving
from onnxprune.wishes import Recipe
from tests.benchmarks import light

ROUNDS = 5
COLUMNS = ("model", "MB", "read+write", "load+save", "cut", "prune", "cut / load+save", "load", "analysis")


def rewrite(path: Path, out: Path) -> None:
    """The floor: the same bytes, read and written."""
    out.write_bytes(path.read_bytes())


def load_and_save(path: Path, out: Path) -> None:
    """What any tool on the protobuf pays."""
    onnx.save(onnx.load(path), out)


def cut(path: Path, out: Path) -> None:
    """Read, analyse, cut, write."""
    analysis = Analysis(Graph(Record(path)))
    removed = np.arange(analysis.units) % 2 == 1
    removed[np.unique(analysis.group_of, return_index=True)[1]] = False
    saving.write(removal.remove(analysis, removed), out.parent, out.name)


def prune(path: Path, out: Path) -> None:
    """Read, analyse, score, cut, write."""
    model = Model(Record(path))
    removed = decide(model, Recipe(ratio=0.5, align=1)).removed
    saving.write(removal.remove(model.analysis, removed), out.parent, out.name)


def load(path: Path, out: Path) -> None:
    """Parsing alone."""
    onnx.load(path)


def analyse(record: Record) -> Callable[[Path, Path], None]:
    """Shapes, facts, closure, units and groups of a model that is read already."""

    def run(path: Path, out: Path) -> None:
        Analysis(Graph(record))

    return run


def measure(path: Path, folder: Path) -> dict[str, float]:
    """The best of some rounds for each contestant, in seconds."""
    contestants: dict[str, Callable[[Path, Path], None]] = {
        "read+write": rewrite,
        "load+save": load_and_save,
        "cut": cut,
        "prune": prune,
        "load": load,
    }
    contestants["analysis"] = analyse(Record(path))
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            out = folder / f"{name.replace('+', '-')}.onnx"
            out.unlink(missing_ok=True)
            start = time.perf_counter()
            run(path, out)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def files(arguments: list[str], folder: Path) -> Iterator[Path]:
    """The files named, or the networks of the onnx package."""
    if arguments:
        yield from map(Path, arguments)
        return
    for path in light.write_all(folder):
        yield path
        path.unlink()


def main(arguments: list[str]) -> int:
    """Print the table."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in files(arguments, folder):
            best = measure(path, folder)
            floor = best["read+write"]
            cells = [path.stem, f"{path.stat().st_size / 1e6:.0f}", f"{floor * 1e3:.0f} ms"]
            cells += [f"{best[n] / floor:.1f}x" for n in ("load+save", "cut", "prune")]
            cells += [f"{best['cut'] / best['load+save']:.2f}"]
            cells += [f"{best[n] * 1e3:.0f} ms" for n in ("load", "analysis")]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
