"""The table, from the results alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.beds.store import Results, Run

ROWS = ("l1", "l1+bn", "merge", "data-free", "default", "onnxsim")
MARKS = "<!-- beds -->", "<!-- end of beds -->"
OFF = 0.02  # a kept share this far from the budget's is shown

HEAD = """# Accuracy without training

Mean ± standard deviation over seeds, each of which draws other calibration samples. *reached* compares the mean of the
row that the goal is for. `n/m failed` counts seeds that gave no model. A share in brackets is what of the budgeted
quantity was really kept, where that is not what was asked for. Budgets use `align=1`, so that widths do not depend on
the processor. `python -m tests.beds` writes this file.

"""


def render(results: Results) -> str:
    """All of it as Markdown."""
    names = [row for row in (*ROWS, *_others(results)) if any(key[2] == row for key in results.runs)]
    lines = [_line(["bed", "budget", "metric", "dense", "goal", *names, "best", "reached"])]
    lines.append(_line(["---"] * (len(names) + 7)))
    for bed in sorted(results.beds):
        for budget, entry in results.beds[bed]["budgets"].items():
            if any(key[:2] == (bed, budget) for key in results.runs):
                lines += [_line(cells) for cells in _budget(results, bed, budget, entry, names)]
    return HEAD + "\n".join(lines) + "\n" + _failures(results)


def brief(results: Results) -> str:
    """A line per bed, budget and metric, and a column per row, with three digits."""
    lines = [_line(["bed", "budget", "metric", "dense", *ROWS]), _line(["---"] * (len(ROWS) + 4))]
    for bed in sorted(results.beds):
        for budget in results.beds[bed]["budgets"]:
            for metric, dense in results.beds[bed]["dense"].items():
                cells = [_rounded(results.of(bed, budget, row), metric) for row in ROWS]
                if any(cells):
                    lines.append(_line([bed, budget, metric, f"{float(dense):.3f}", *cells]))
    return "\n".join(lines) + "\n"


def inserted(page: str, lines: str) -> str:
    """A page with these lines between its two marks.

    Raises:
        ValueError: it has no such marks.
    """
    before, start, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise ValueError(f"the page has no lines {MARKS[0]} and {MARKS[1]}")
    return f"{before}{start}\n{lines}{end}{after}"


def _rounded(runs: Sequence[Run], metric: str) -> str:
    values = [run.metrics[metric] for run in runs if not run.failed and metric in run.metrics]
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}" if values else ""


def _others(results: Results) -> list[str]:
    return sorted({key[2] for key in results.runs} - set(ROWS))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _budget(results: Results, bed: str, budget: str, entry: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """A line per goal; what all rows reach stands in the first line of a metric."""
    lines, seen = [], set()
    for goal in entry["goals"]:
        metric = goal["metric"]
        dense = float(results.beds[bed]["dense"][metric])
        shown = [goal["row"]] if metric in seen else names
        cells = [_cell(results.of(bed, budget, row), metric, entry["recipe"]) if row in shown else "" for row in names]
        limit = target(goal, dense)
        means = {row: mean for row in names if (mean := average(results.of(bed, budget, row), metric)) is not None}
        best = max(means, key=lambda row: means[row]) if means and metric not in seen else ""
        wanted = "" if limit is None else f"{goal['row']} ≥ {limit:.4g}"
        verdict = reached(means.get(goal["row"]), limit)
        lines.append([bed, budget, metric, f"{dense:.4f}", wanted, *cells, best, verdict])
        seen.add(metric)
    return lines


def target(goal: Mapping[str, Any], dense: float) -> float | None:
    """The value that a goal asks for."""
    if goal["least"] is not None:
        return float(goal["least"])
    return None if goal["drop"] is None else dense - float(goal["drop"])


def reached(mean: float | None, limit: float | None) -> str:
    """Whether a mean meets a limit; by how much it misses."""
    if limit is None:
        return ""
    if mean is None:
        return "not measured"
    return "yes" if mean >= limit - 1e-9 else f"**no**, {mean - limit:+.4f}"


def average(runs: Sequence[Run], metric: str) -> float | None:
    """The mean over the seeds; none if any failed."""
    values = [run.metrics[metric] for run in runs if not run.failed and metric in run.metrics]
    return statistics.fmean(values) if values and len(values) == len(runs) else None


def _cell(runs: Sequence[Run], metric: str, recipe: Mapping[str, Any]) -> str:
    values = [run.metrics[metric] for run in runs if not run.failed and metric in run.metrics]
    failed = sum(bool(run.failed) for run in runs)
    parts = []
    if values:
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        parts.append(f"{statistics.fmean(values):.4f}{spread}{_share(runs, recipe)}")
    if failed:
        parts.append(f"{failed}/{len(runs)} failed")
    return ", ".join(parts)


def _share(runs: Sequence[Run], recipe: Mapping[str, Any]) -> str:
    """What was kept of the budgeted quantity, where it is not what was asked for."""
    for what in ("macs", "params"):
        shares = [run.kept[what] for run in runs if what in run.kept]
        if what in recipe and shares:
            share = statistics.fmean(shares)
            return f" ({share:.0%})" if abs(share - recipe[what]) > OFF else ""
    return ""


def _failures(results: Results) -> str:
    """Why cells are empty: each reason once."""
    reasons: dict[tuple[str, str, str], list[int]] = {}
    for key, run in sorted(results.runs.items()):
        if run.failed:
            reasons.setdefault((key[0], key[2], run.failed), []).append(run.seed)
    if not reasons:
        return ""
    lines = [f"- {bed}, {row}: {reason}" for bed, row, reason in reasons]
    return "\n## Failed\n\n" + "\n".join(lines) + "\n"
