"""Commands that list what is registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from onnxprune.algebra.operators import page, registered, unknown
from onnxprune.algebra.registry import load
from onnxprune.cli import render
from onnxprune.cli.group import main
from onnxprune.cli.options import JSON
from onnxprune.cli.showing import check_files, show
from onnxprune.criteria.base import Criterion


@main.command()
@JSON
def passes(json_to: str | None) -> None:
    """List the passes."""
    _list(load("passes"), json_to)


@main.command()
@JSON
def criteria(json_to: str | None) -> None:
    """List the criteria: what each needs, what it computes, and where it is from."""
    check_files([], [json_to])
    table: dict[str, Criterion] = load("criteria")
    found = [table[name] for name in sorted(table)]
    plain = {c.name: {"needs": c.needs, "formula": c.formula, "source": c.source} for c in found}
    show(plain, json_to, lambda console: render.criteria(console, found))


@main.command()
@click.option("--markdown", is_flag=True, help="Print the page that comes with the package.")
@JSON
def operators(markdown: bool, json_to: str | None) -> None:
    """List the operators, and what is known of each."""
    if markdown and json_to:
        raise click.UsageError("Give one of --markdown and --json.")
    check_files([], [json_to])
    if markdown:
        click.echo(page(registered()), nl=False)
        return
    known = registered() + unknown()
    plain = {"operators": [entry._asdict() for entry in sorted(known)]}
    show(plain, json_to, lambda console: render.operators(console, sorted(known)))


def _list(table: Mapping[str, Any], json_to: str | None) -> None:
    check_files([], [json_to])
    rows = [(name, (value.__doc__ or "").splitlines()[0]) for name, value in sorted(table.items())]
    show(dict(rows), json_to, lambda console: render.names(console, rows))
