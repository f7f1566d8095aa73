"""Options that a recipe gives: what is also on the command line goes before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from onnxprune import recipes
from onnxprune.cli.options import Command, Numbered
from onnxprune.plan import Plan
from onnxprune.recipes import Key

PATHS = ("model", "out", "data", "labels", "eval", "plan", "report", "json")
"""Options that name files; relative ones start where the recipe lies."""
BUDGETS = ("ratio", "params", "macs", "bytes", "max_drop", "latency", "speedup")
"""Options of which one is given: one on the command line takes the place of another in the recipe."""
_KINDS: tuple[tuple[Any, tuple[type, ...], str], ...] = (
    (click.types.FloatParamType, (float, int), "a number"),
    (click.types.IntParamType, (int,), "a whole number"),
    (Numbered, (int, str), "a whole number or 'auto'"),
)


class Prescribed(click.Command):
    """A command whose options a recipe can give."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, a budget of the command line alone if there is one."""
        sources = {name: ctx.get_parameter_source(name) for name in BUDGETS if name in ctx.params}
        if ParameterSource.COMMANDLINE in sources.values():
            ctx.params |= {name: None for name, source in sources.items() if source is ParameterSource.DEFAULT_MAP}
        return super().invoke(ctx)


def name_of(parameter: click.Parameter) -> str:
    """What an option, or an argument, is called in a recipe."""
    longest = max(parameter.opts, key=len)
    return longest.lstrip("-").replace("_", "-")


def keys_of(command: click.Command) -> dict[str, Key]:
    """What a recipe for a command can say."""
    return {name_of(p): _key(p) for p in command.params if p.name != "recipe"}


def _key(parameter: click.Parameter) -> Key:
    path = name_of(parameter) in PATHS
    if getattr(parameter, "is_flag", False):
        return Key((bool,), "true or false")
    for kind, types, words in _KINDS:
        if isinstance(parameter.type, kind):
            return Key(types, words)
    return Key((str,), "text", path, many=bool(getattr(parameter, "multiple", False)))


def recipe_option(out: str = "out") -> Callable[[Command], Command]:
    """The option ``--recipe``.

    Args:
        out: the key that says where the command writes.
    """

    def follow(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
        if path is not None:
            group = ctx.find_root().command
            command = group.get_command(ctx, "prune") if isinstance(group, click.Group) else None
            known = command or ctx.command
            said = recipes.read(path, keys_of(known))
            if out != "out":
                said.pop("out", None)
                said = {("out" if name == out else name): value for name, value in said.items()}
            ctx.default_map = {str(p.name): said[name_of(p)] for p in known.params if name_of(p) in said}
        return path

    return click.option(
        "--recipe",
        metavar="FILE",
        is_eager=True,
        callback=follow,
        help="A TOML file with any of these options; the command line goes before it.",
    )


def request(ctx: click.Context, plan: Plan) -> dict[str, Any]:
    """What was asked for, on the command line or in a recipe, as plain data.

    What depends on the machine, the width that ``auto`` stands for, is as the plan has it, so that others get the same.
    """
    found = {}
    for parameter in ctx.command.params:
        name = str(parameter.name)
        value = ctx.params.get(name)
        asked = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT and name != "recipe"
        if asked and value is not None and value is not False and value != ():
            found[name_of(parameter)] = list(value) if isinstance(value, tuple) else value
    return {**found, "align": plan.recipe["align"]}
