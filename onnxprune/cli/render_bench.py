"""Timings as people read them in a terminal."""

from __future__ import annotations

from rich.console import Console

from onnxprune.cli.render import clean, table
from onnxprune.latency.bench import Benched, describe_threads
from onnxprune.latency.timing import Timing


def benched(console: Console, result: Benched) -> None:
    """Model by model, for each provider and number of threads."""
    for provider, threads, timings in result.measured:
        machine = clean(str(result.hardware[provider].get("device") or result.hardware[provider]["processor"]), 40)
        console.print(f"{provider}, {describe_threads(threads)}, {machine}", style="bold", markup=False)
        rows = table("model", "median ms", "quartiles", "runs", "ratio", "95 %", right=(1, 2, 3, 4, 5))
        for model, timing in zip(result.models, timings, strict=True):
            rows.add_row(clean(model, 26), *_cells(timing))
        console.print(rows)


def _cells(timing: Timing) -> list[str]:
    low, high = timing.quartiles
    least, most = timing.interval
    return [
        _rounded(timing.median),
        f"{_rounded(low)}-{_rounded(high)}",
        f"{timing.runs:,}",
        _rounded(timing.ratio),
        f"{_rounded(least)}-{_rounded(most)}",
    ]


def _rounded(value: float) -> str:
    return f"{value:.{3 if value < 10 else 1 if value < 1000 else 0}f}"
