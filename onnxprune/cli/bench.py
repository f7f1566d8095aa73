"""The command that times models against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from onnxprune.cli import render_bench
from onnxprune.cli.group import main
from onnxprune.cli.options import DATA, JSON, PROVIDER, SHAPE
from onnxprune.cli.showing import check_files, progress, shapes, show
from onnxprune.latency import bench as timing


@main.command()
@click.argument("models", nargs=-1, required=True)
@PROVIDER
@click.option(
    "--threads",
    type=click.IntRange(0, timing.MOST_THREADS),
    multiple=True,
    default=(0,),
    help="That work on one operator; repeatable.  [default: one per core]",
)
@click.option("--batch", type=click.IntRange(1), help="Rows per run, where the models leave it open.  [default: 1]")
@DATA
@SHAPE
@click.option("--seconds", type=float, default=10.0, show_default=True, help="The most that timing takes per setting.")
@click.option("--runs", type=click.IntRange(1), help="Rounds to time, instead of seconds.")
@click.option("--warmup", type=click.IntRange(0), default=3, show_default=True, help="Untimed runs before.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of inputs and order.")
@JSON
def bench(models: Sequence[str], input_shapes: Sequence[str], json_to: str | None, **options: Any) -> None:
    """How long MODELS take, timed in turns against the first one.

    All run in one process with one pool of threads, in an order drawn anew in
    each round; a model against itself comes out at 1.
    """
    check_files([*models, options["data"]], [json_to])
    with progress() as stage:
        result = timing.bench(models, input_shapes=shapes(input_shapes), progress=stage, **options)
    show(result.to_json(), json_to, lambda console: render_bench.benched(console, result))
