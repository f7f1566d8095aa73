"""The command that puts two exports of one network side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from onnxprune.cli import render_compare
from onnxprune.cli.group import main
from onnxprune.cli.options import DATA, JSON, SHAPE
from onnxprune.cli.showing import check_files, progress, shapes, show
from onnxprune.comparing import signature, verb
from onnxprune.errors import PruneError
from onnxprune.model.record import Source
from onnxprune.sensitivity import sensitivity


def _typical(source: Source) -> float:
    return sensitivity(source, ratios=(0.5,)).typical


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--map", "pairs", multiple=True, metavar="A=B", help="A's input or output is B's; 'A=' leaves it out.")
@DATA
@SHAPE
@click.option("--provider", default="cpu", show_default=True, help="Where to run both.")
@click.option("--tolerance", type=float, help="Difference that passes, of an output's range.  [default: by type]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of generated inputs.")
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="To time both; 0 does not.")
@click.option("--sensitivity", "sensitive", is_flag=True, help="Also what half of a group costs, on made-up inputs.")
@JSON
def compare(
    first: str,
    second: str,
    pairs: Sequence[str],
    input_shapes: Sequence[str],
    json_to: str | None,
    sensitive: bool,
    **options: Any,
) -> None:
    """FIRST and SECOND, two exports of one network, layer by layer; exit 1 if they differ.

    --data and --input-shape are those of FIRST.
    """
    mapping = signature.parse_map(pairs)
    check_files([first, second, options["data"]], [json_to])
    with progress() as stage:
        result = verb.compare(
            first,
            second,
            mapping=mapping,
            input_shapes=shapes(input_shapes),
            measures={"error, half of a group cut": _typical} if sensitive else {},
            progress=stage,
            **options,
        )
    show(result.to_json(), json_to, lambda console: render_compare.compared(console, result))
    if not result:
        raise PruneError(f"{second!r} does not give the outputs of {first!r}: {render_compare.failure(result)}.")
