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
from onnxprune.cli.verdict import verified
from onnxprune.data.runtime import LEVELS
from onnxprune.errors import PruneError
from onnxprune.verification import verb


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
@click.argument("candidate", required=False)
@click.option("--plan", metavar="PLAN", help="Compare with REFERENCE after zeroing the plan's units.")
@DATA
@SHAPE
@PROVIDER
@click.option(
    "--optimization",
    multiple=True,
    type=click.Choice([*LEVELS, "both"]),
    help="How far ONNX Runtime may fuse; repeatable; both: off and all.  [default: all; of one model: both]",
)
@click.option("--tolerance", type=float, help="What may differ, of an output's range.  [default: by its type]")
@click.option("--equal-nan", is_flag=True, help="Take NaN in both for agreement.")
@click.option("--require-share", type=float, help="Fraction of the MACs that every provider must run itself.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of generated inputs.")
@JSON
def verify(
    reference: str,
    candidate: str | None,
    input_shapes: Sequence[str],
    optimization: Sequence[str],
    json_to: str | None,
    **options: Any,
) -> None:
    """Whether CANDIDATE gives REFERENCE's outputs; exit 1 if not.

    Without CANDIDATE: whether REFERENCE gives the same outputs on every
    provider, and however far ONNX Runtime optimises it.
    """
    check_files([reference, candidate, options["plan"], options["data"]], [json_to])
    levels = [level for given in optimization for level in (("off", "all") if given == "both" else (given,))]
    with progress() as stage:
        stage("comparing")
        result = verb.verify(
            reference, candidate, input_shapes=shapes(input_shapes), optimization=levels or None, **options
        )
    show(result.to_json(), json_to, lambda console: verified(console, result))
    if result.problem:
        raise PruneError(f"{candidate or reference!r}: {result.problem}.")
    if not result:
        does_not = f"give the outputs of {reference!r}" if candidate else "give the same outputs everywhere"
        raise PruneError(f"{candidate or reference!r} does not {does_not} {result.answers.reason}.")
