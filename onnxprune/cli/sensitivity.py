"""`sensitivity`: the curves of all groups as a table, as JSON and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from onnxprune.budget.sensitivity import RATIOS, Outcome
from onnxprune.cli.group import main
from onnxprune.cli.options import DATA, EVALUATION, JSON, MODEL, SHAPE, WISHES
from onnxprune.cli.render import FRACTIONS, clean, table
from onnxprune.cli.showing import check_files, progress, shapes, show, write
from onnxprune.report import curves
from onnxprune.sensitivity import DEFAULT, Sensitivity
from onnxprune.sensitivity import sensitivity as measure

NAME = 16  # characters of a group's first weight
MOST, LEAST = 10, 4  # groups that are listed of the most and of the least sensitive ones
COLUMNS = 7  # ratios that fit beside the names


def _picture_place(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.endswith(".svg"):
        raise click.BadParameter(f"{value!r} does not end in '.svg'.", ctx, param)
    return value


@main.command()
@MODEL
@DATA
@EVALUATION
@SHAPE
@click.option(
    "--ratio", "ratios", type=float, multiple=True, help="Fraction to remove; repeatable.  [default: eighths]"
)
@click.option("--criterion", default=DEFAULT, show_default=True, help="The order in which units go; see `criteria`.")
@click.option("--samples", type=int, default=256, show_default=True, help="Rows of --data that calibrate.")
@WISHES
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@click.option("--picture", metavar="FILE.svg", callback=_picture_place, help="Also draw the curves.")
@JSON
def sensitivity(
    model: str,
    ratios: Sequence[float],
    input_shapes: Sequence[str],
    picture: str | None,
    json_to: str | None,
    **options: Any,
) -> None:
    """How much of each group of MODEL can go before its outputs change.

    Each group is cut by itself, as it is and with its readers refitted. `plan`
    and `prune` take the JSON as --sensitivity and need not measure again.
    """
    check_files([model, options["data"], options["labels"], options["evaluation"]], [picture, json_to])
    with progress() as stage:
        result = measure(model, input_shapes=shapes(input_shapes), ratios=ratios or RATIOS, progress=stage, **options)
    if picture:
        write(picture, curves.picture(result))
    show(result.to_json(), json_to, lambda console: _draw(console, result))


def _draw(console: Console, result: Sensitivity) -> None:
    if not result.groups:
        console.print("Nothing can be removed; `onnxprune inspect` says why.")
        return
    kind = "held-out rows of your data" if result.real else "made-up rows (--data tells more)"
    console.print(Text(f"Error of the outputs on {result.rows:,} {kind}, as a fraction of"))
    console.print("their variance, with so much of one group gone; the second line with its")
    console.print("readers refitted. The most sensitive group comes first.")
    _rows(console, result, lambda outcome: _number(outcome.error))
    if result.metric:
        console.print(Text(f"{result.metric}, {_score(result.metric, result.dense)} as the model is:"))
        _rows(console, result, lambda outcome: _score(result.metric, outcome.score))


def _rows(console: Console, result: Sensitivity, text: Callable[[Outcome], str]) -> None:
    step = -(-len(result.ratios) // COLUMNS)
    shown = result.ratios[::step]
    rows = table("group", "units", *(f"{ratio:.1%}" for ratio in shown), right=range(1, 2 + len(shown)))
    ranked = result.by_error()
    between = len(ranked) - MOST - LEAST
    for place, group in enumerate(ranked):
        if between > 0 and MOST <= place < MOST + between:
            if place == MOST:
                rows.add_row(f"… {between} more")
            continue
        points = [group.at(ratio) for ratio in shown]
        name = clean(group.axes[0] if group.axes else "", NAME).plain
        rows.add_row(Text(f"{group.id} {name}"), f"{group.units}", *(text(p.plain) if p else "" for p in points))
        rows.add_row(
            Text(f"  {group.kind}, refitted"), "", *(text(p.refit) if p else "" for p in points), style="green"
        )
    console.print(rows)
    if between > 0:
        console.print("(--json lists all)")
    console.print()


def _number(error: float) -> str:
    """An error in five characters."""
    if not math.isfinite(error):
        return "inf"
    if error < 5e-7:
        return "0"
    return f"{error:.0e}".replace("e-0", "e-") if error < 1e-3 else f"{error:.3f}" if error < 10 else f"{error:.3g}"


def _score(metric: str, score: float | None) -> str:
    if score is None:
        return ""
    return f"{score:.1%}" if metric in FRACTIONS else f"{score:.3g}"
