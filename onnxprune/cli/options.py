"""The options that commands share, and how a pass's fields become options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field
from typing import Any, TypeVar

import click

from onnxprune.algebra.pins import ATTENTION
from onnxprune.recovery.methods import METHODS
from onnxprune.wishes import SCHEDULES

Command = TypeVar("Command", bound=Callable[..., Any])


class Numbered(click.ParamType):  # type: ignore[type-arg]
    """A whole number, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number, or the word."""
        if value == "auto" or isinstance(value, int):
            return value if isinstance(value, int) else str(value)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'.", param, ctx)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _json_place(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and value != "-" and not value.endswith(".json"):
        raise click.BadParameter(f"{value!r} does not end in '.json'.", ctx, param)
    return value


JSON = click.option(
    "--json",
    "json_to",
    metavar="[FILE]",
    callback=_json_place,
    help="Print the result as JSON (to FILE.json if given).",
)
WISHES = _options(
    click.option("--protect", multiple=True, metavar="NAME", help="Node or tensor that stays whole; globs allowed."),
    click.option("--protect-first", is_flag=True, help="Leave the first layers whole."),
    click.option("--protect-last", is_flag=True, help="Leave the last layers whole."),
    click.option(
        "--attention", type=click.Choice(ATTENTION), default="heads", show_default=True, help="What of attention goes."
    ),
    click.option("--normalized-axes", is_flag=True, help="Cut hidden sizes, too: where norms run, removing ≠ zeroing."),
)
"""What may go and what stays: `onnxprune.wishes.Recipe` without its budget."""
BUDGET = _options(
    click.option("--ratio", type=float, help="Fraction of each group's units to remove."),
    click.option("--params", type=float, help="Fraction of the model's parameters to keep."),
    click.option("--macs", type=float, help="Fraction of the model's multiply-accumulates to keep."),
    click.option("--bytes", type=float, help="Fraction of the model's file to keep."),
    click.option("--latency", type=float, help="Fraction of the model's time to keep, measured on this machine."),
    click.option("--speedup", type=float, help="How many times as fast it is to become: --latency 1/SPEEDUP."),
    click.option("--max-drop", type=float, help="Remove as much as makes the model worse by this, measured on data."),
    click.option("--step", metavar="K/N", help="Only the K-th of N steps to the budget, to train in between."),
    click.option(
        "--criterion", help="What units are scored by; see `criteria`.  [default: obs, or l2 with --recover none]"
    ),
    click.option("--align", type=Numbered(), default="auto", show_default=True, help="Keep multiples of this width."),
    click.option("--min-keep", type=int, default=1, show_default=True, help="Units that every group keeps."),
    WISHES,
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random."),
)
EFFORT = _options(
    click.option(
        "--recover",
        type=click.Choice(list(METHODS)),
        default="auto",
        show_default=True,
        help="How what is left makes up for what went; with none, kept weights stay as they are.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        default="auto",
        show_default=True,
        help="Whether the budget is spent at once, bit by bit, or in steps that may be taken back.",
    ),
    click.option("--samples", type=int, default=256, show_default=True, help="Rows of --data that calibrate."),
    click.option(
        "--sensitivity", metavar="FILE.json", help="Loss curves from `sensitivity --json`, not measured again."
    ),
)
EVALUATION = _options(
    click.option("--labels", metavar="FILE", help="What should come out, for --eval or else for the rest of --data."),
    click.option("--metric", help="accuracy, top5, f1, auc, …, or module:function.  [default: accuracy]"),
    click.option("--eval", "evaluation", metavar="PATH", help="Inputs to measure on, other than those of --data."),
    click.option("--allow-overlap", is_flag=True, help="Measure on what calibrated, too."),
)
SHAPE = click.option(
    "--input-shape", "input_shapes", multiple=True, metavar="NAME:1x3x224x224", help="For inputs whose shape is open."
)
DATA = click.option("--data", metavar="PATH", help="Real inputs: an .npz, an .npy, or a folder of them.")
PROVIDER = click.option(
    "--provider", "providers", multiple=True, default=("cpu",), show_default=True, help="cpu, cuda, …; repeatable."
)
OUT = click.option("-o", "--out", required=True, metavar="OUT", help="Where to write.")
IN_PLACE = click.option("--in-place", is_flag=True, help="Allow OUT to be the input.")
KEEP_UNVERIFIED = click.option("--keep-unverified", is_flag=True, help="Write even if the proof fails.")
ALLOW_SLOWER = click.option(
    "--allow-slower", is_flag=True, help="Write even if it is slower than asked for, or than before."
)
MODEL = click.argument("model")


def option_of(field: Field[Any], hint: Any) -> click.Option:
    """The option that sets a field of a pass."""
    name = f"--{field.name.replace('_', '-')}"
    default = None if field.default is MISSING else field.default
    if hint is bool:
        return click.Option([name], is_flag=True, default=default)
    if hint == tuple[str, ...]:
        return click.Option([name], multiple=True, default=default)
    kinds: Mapping[Any, Any] = {int: int, str: str, float: float, float | None: float, int | None: int}
    return click.Option([name], type=kinds.get(hint, Numbered()), default=default, show_default=True)
