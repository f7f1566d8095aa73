"""Commands that read models and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from onnxprune import api
from onnxprune.cli import render
from onnxprune.cli.group import main
from onnxprune.cli.options import DATA, JSON, MODEL, PROVIDER, SHAPE, WISHES
from onnxprune.cli.showing import check_files, progress, shapes, show
from onnxprune.errors import PruneError


@main.command()
@MODEL
@SHAPE
@WISHES
@JSON
def inspect(model: str, input_shapes: Sequence[str], json_to: str | None, **wishes: Any) -> None:
    """What is in MODEL, what can go, and why the rest cannot."""
    check_files([model], [json_to])
    with progress() as stage:
        stage("analysing")
        result = api.inspect(model, input_shapes=shapes(input_shapes), **wishes)
    show(result.to_json(), json_to, lambda console: render.inspection(console, result))


@main.command()
@MODEL
@click.option("--tensor", help="Explain the axes of this tensor.")
@click.option("--group", type=int, help="Explain what holds this group together.")
@click.option("--op", help="Explain the axes of this operator's nodes.")
@WISHES
@JSON
def explain(model: str, tensor: str, group: int, op: str, json_to: str | None, **wishes: Any) -> None:
    """Why an axis of MODEL stays, or who holds a group together."""
    if sum(given is not None for given in (tensor, group, op)) > 1:
        raise click.UsageError("Give one of --tensor, --group and --op.")
    check_files([model], [json_to])
    explainer = api.explainer(model, **wishes)
    if group is not None:
        steps = explainer.group(group)
        plain = [{"axis": list(s.axis), "node": s.node, "to": list(s.to)} for s in steps]
        show({"group": group, "ties": plain}, json_to, lambda console: render.steps(console, steps))
        return
    if tensor is not None:
        found = explainer.tensor(tensor)
    elif op is not None:
        found = explainer.op(op)
    else:
        staying = [{"why": why, "weights": n, "params": p} for why, n, p in explainer.staying()]
        show({"staying": staying}, json_to, lambda console: render.staying(console, explainer.staying()))
        return
    show({"axes": [e.to_json() for e in found]}, json_to, lambda console: render.explanations(console, found))


@main.command()
@click.argument("reference")
@click.argument("candidate")
@click.option("--plan", metavar="PLAN", help="Compare with REFERENCE after zeroing the plan's units.")
@DATA
@SHAPE
@PROVIDER
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of generated inputs.")
@JSON
def verify(reference: str, candidate: str, input_shapes: Sequence[str], json_to: str | None, **options: Any) -> None:
    """Whether CANDIDATE gives REFERENCE's outputs; exit 1 if not."""
    check_files([reference, candidate, options["plan"], options["data"]], [json_to])
    with progress() as stage:
        stage("comparing")
        result = api.verify(reference, candidate, input_shapes=shapes(input_shapes), **options)
    show(result.to_json(), json_to, lambda console: render.verified(console, result))
    if not result:
        why = result.problem or f"it does not give the outputs of {reference!r}"
        raise PruneError(f"{candidate!r}: {why}.")
