"""Commands that decide on a change, or make one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import click

from onnxprune import api
from onnxprune.algebra.registry import load
from onnxprune.cli import render
from onnxprune.cli.group import CONTEXT, main
from onnxprune.cli.options import (
    ALLOW_SLOWER,
    BUDGET,
    DATA,
    EFFORT,
    EVALUATION,
    IN_PLACE,
    JSON,
    KEEP_UNVERIFIED,
    MODEL,
    OUT,
    PROVIDER,
    SHAPE,
    option_of,
)
from onnxprune.cli.recipe import Prescribed, recipe_option, request
from onnxprune.cli.report import check_forms, write_reports
from onnxprune.cli.showing import check_files, progress, shapes, show, write
from onnxprune.passes import Pass, find


@main.command(cls=Prescribed)
@MODEL
@OUT
@recipe_option()
@BUDGET
@DATA
@EFFORT
@EVALUATION
@SHAPE
@PROVIDER
@click.option("--plan", "plan_to", metavar="FILE", help="Also write the plan.")
@click.option(
    "--report", "reports", multiple=True, metavar="FILE", help="Also write a report: .html, .md or .json; repeatable."
)
@IN_PLACE
@KEEP_UNVERIFIED
@ALLOW_SLOWER
@JSON
def prune(
    model: str,
    out: str,
    input_shapes: Sequence[str],
    plan_to: str | None,
    reports: Sequence[str],
    json_to: str | None,
    recipe: str | None,
    **options: Any,
) -> None:
    """Plan, recover, remove, prove that removed equals zeroed, measure, and write OUT.

    With --data, the weights that stay are refitted so that outputs stay close
    to what they were; without, the same is done on inputs that are made up.
    """
    given = [options["data"], options["labels"], options["evaluation"], options["sensitivity"]]
    check_files([*given, recipe], [out])
    check_files([model, out, *given, recipe], [plan_to, *reports, json_to])
    check_forms(reports)
    with progress() as stage:
        result = api.prune(model, out, input_shapes=shapes(input_shapes), progress=stage, **options)
    asked = request(click.get_current_context(), result.plan)
    if plan_to:
        write(plan_to, result.plan.recording(asked).dumps())
    found = {**result.to_json(), "request": asked}
    write_reports(reports, found)
    show(found, json_to, lambda console: render.pruned(console, result))


@main.command(cls=Prescribed)
@MODEL
@OUT
@recipe_option("plan")
@BUDGET
@DATA
@EFFORT
@SHAPE
@JSON
def plan(
    model: str, out: str, input_shapes: Sequence[str], json_to: str | None, recipe: str | None, **options: Any
) -> None:
    """Decide what goes, and write the decision to OUT for people, diffs and `apply`.

    Of a recipe for `prune`, `plan` is where this writes.
    """
    check_files([model, options["data"], options["sensitivity"], recipe], [out, json_to])
    with progress() as stage:
        result = api.plan(model, input_shapes=shapes(input_shapes), progress=stage, **options)
    write(out, result.recording(request(click.get_current_context(), result)).dumps())
    plain = {"out": out, "cost": result.cost, "groups": [{**g, "kept": len(g["kept"])} for g in result.groups]}
    show(plain, json_to, lambda console: render.planned(console, result, out))


@main.command()
@MODEL
@click.argument("plan")
@OUT
@DATA
@SHAPE
@PROVIDER
@IN_PLACE
@KEEP_UNVERIFIED
@click.option("--recover", type=click.Choice(["none"]), help="Leave kept weights as they are, whatever PLAN says.")
@JSON
def apply(model: str, plan: str, out: str, input_shapes: Sequence[str], json_to: str | None, **options: Any) -> None:
    """Do to MODEL what PLAN says, prove it, and write OUT."""
    check_files([plan, options["data"]], [out])
    check_files([model, plan, out, options["data"]], [json_to])
    with progress() as stage:
        result = api.apply(model, plan, out, input_shapes=shapes(input_shapes), progress=stage, **options)
    show(result.to_json(), json_to, lambda console: render.applied(console, result))


class _Passes(click.Group):
    """One command per registered pass; its fields are the options."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(load("passes"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        return _command_of(find(cmd_name))


@main.group(cls=_Passes, context_settings=CONTEXT)
def run() -> None:
    """Run one pass: `onnxprune run PASS MODEL -o OUT`."""


def _command_of(kind: type[Pass]) -> click.Command:
    def call(model: str, out: str, in_place: bool, json_to: str | None, **options: Any) -> None:
        check_files([model, out], [json_to])
        result = api.run(kind.name, model, out, in_place=in_place, **options)
        show(result.to_json(), json_to, lambda console: render.ran(console, result))

    command = click.command(kind.name, help=kind.__doc__, context_settings=CONTEXT)(call)
    hints = get_type_hints(kind)
    parameters = [click.Argument(["model"]), click.Option(["-o", "--out"], required=True, help="Where to write.")]
    parameters += [option_of(f, hints[f.name]) for f in fields(kind)]  # type: ignore[arg-type]
    command.params = parameters
    return JSON(IN_PLACE(command))
