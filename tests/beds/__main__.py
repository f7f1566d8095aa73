"""Accuracy after pruning without training: ``python -m tests.beds``.

Each bed is a trained model with real data; each row is a way to prune; each seed draws other calibration samples. What
was measured is merged into ``beds.json``, and ``BEDS.md`` is written from that, so the rows can be run one by one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.beds import rows, table
from tests.beds.bed import Bed, Budget, Context, Factory, MissingError
from tests.beds.rows import Row
from tests.beds.store import Results, Run

FAMILIES = ("fmnist", "vision", "text", "ocr", "filetypes", "audio")
LONGEST = 300  # characters of a reason


def beds() -> dict[str, Factory]:
    """All beds by name; of families whose packages are not installed it is said that they are left out."""
    found: dict[str, Factory] = {}
    for family in FAMILIES:
        try:
            found |= import_module(f"tests.beds.{family}").BEDS
        except ImportError as error:
            print(f"{family}: skipped: {error}", flush=True)
    return found


def attempt(bed: Bed, budget: Budget, name: str, row: Row, seed: int) -> Run:
    """One row at one seed; what goes wrong is its result."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        out = Path(folder) / "pruned.onnx"
        try:
            row(bed, budget, seed, out)
            seconds = round(time.perf_counter() - start, 2)
            return Run(bed.name, budget.name, name, seed, bed.measure(out), rows.kept(out, bed), seconds)
        except Exception as error:
            reason = " ".join(f"failed: {type(error).__name__}: {error}".split())[:LONGEST]
            seconds = round(time.perf_counter() - start, 2)
            return Run(bed.name, budget.name, name, seed, seconds=seconds, failed=reason)


def jobs(bed: Bed, ways: Mapping[str, Row], wanted: Sequence[str], seeds: int) -> list[tuple[Budget, str, int]]:
    """What there is to run on a bed, row by row."""
    return [
        (budget, name, seed)
        for name in ways
        if not wanted or name in wanted
        for budget in bed.budgets
        if not budget.rows or name in budget.rows
        for seed in range(1 if name in rows.SEEDLESS else seeds)
    ]


def show(run: Run) -> None:
    """Print a line."""
    found = run.failed or "  ".join(f"{metric} {value:.4f}" for metric, value in run.metrics.items())
    share = f"macs {run.kept['macs']:.3f}  params {run.kept['params']:.3f}" if run.kept else ""
    print(f"  {run.budget} | {run.row} | seed {run.seed}: {found}  {share}  {run.seconds:.1f} s", flush=True)


def measure(bed: Bed, options: argparse.Namespace, ways: Mapping[str, Row], results: Results) -> None:
    """All that was asked for on one bed; written after each run."""
    dense = bed.measure(bed.model)
    print(f"{bed.name}: dense {dense} on {bed.items:,} items", flush=True)
    dropped = results.open(bed.name, dense, bed.items, bed.budgets)
    if dropped:
        print(f"  {dropped} earlier runs were measured otherwise and are dropped")
    for budget, name, seed in jobs(bed, ways, options.rows, options.seeds):
        known = results.runs.get((bed.name, budget.name, name, seed))
        if options.resume and known and not known.failed:
            continue
        run = attempt(bed, budget, name, ways[name], seed)
        show(run)
        results.add(run)
        write(results, options.out)
    write(results, options.out)


def write(results: Results, folder: Path) -> None:
    """The JSON document, and the table made from it."""
    results.write(folder / "beds.json")
    (folder / "BEDS.md").write_text(table.render(results), encoding="utf-8")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        "python -m tests.beds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="beds; repeatable")
    parser.add_argument("--rows", action="append", default=[], metavar="NAME", help="rows; repeatable")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=10_000, help="the most test items of a bed")
    parser.add_argument("--models", type=Path, help="a folder with the larger models; else they are fetched")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter with onnxsim; without it that row is left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where beds.json and BEDS.md go")
    parser.add_argument("--resume", action="store_true", help="run only what has no result yet")
    parser.add_argument("--page", type=Path, help="write the short table between the marks of this page; run nothing")
    parser.add_argument("--list", action="store_true", help="print the beds and the rows, and run nothing")
    options = parser.parse_args(arguments)
    known = {*rows.ROWS, rows.PEERS}
    if set(options.rows) - known:
        parser.error(f"no such row: {', '.join(sorted(set(options.rows) - known))}; there are {', '.join(known)}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measure, and write the table."""
    options = parse(arguments)
    known = beds()
    chosen = [name for name in known if not options.only or any(fnmatchcase(name, glob) for glob in options.only)]
    ways = rows.with_peer(options.peer)
    if options.list:
        print("\n".join(chosen), f"rows: {', '.join((*rows.ROWS, rows.PEERS))}", sep="\n")
        return 0
    if options.page is not None:
        known_results = Results.read(options.out / "beds.json")
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(table.inserted(page, table.brief(known_results)), encoding="utf-8")
        return 0
    context = Context(options.models, options.items)
    results = Results.read(options.out / "beds.json")
    for name in chosen:
        try:
            bed = known[name](context)
        except MissingError as reason:
            print(f"{name}: skipped: {reason}", flush=True)
            continue
        measure(bed, options, ways, results)
    return 0 if chosen else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
