"""The command line: options in, a verb called, its result shown. Only this module prints or exits."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import click
from rich.console import Console

from onnxprune import api, files, render
from onnxprune.criteria.base import Criterion
from onnxprune.errors import FileError, PruneError
from onnxprune.inputs import parse_shape
from onnxprune.operators import page, registered, unknown
from onnxprune.options import (
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
    WISHES,
    option_of,
)
from onnxprune.passes import Pass, find
from onnxprune.registry import load

LONGEST_MESSAGE = 2000
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command group."""
        raise BrokenPipeError


class _Verbs(click.Group):
    """The command group: errors become one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        given = _with_json_value(list(sys.argv[1:] if args is None else args))
        with contextlib.suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        try:
            return super().main(given, **extra)
        except OSError as error:  # the help text met a full disk
            click.echo(f"Error: {files.reason(error)}.", err=True)
            sys.exit(FileError.exit_code)
        finally:
            _flush()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except PruneError as error:
            _fail(ctx, str(error), error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            pass  # whoever read has seen enough
        except MemoryError:
            _fail(ctx, "Out of memory.", PruneError.exit_code)
        except OSError as error:
            where = f" at {error.filename!r}" if error.filename else ""
            _fail(ctx, f"Cannot read or write{where}: {files.reason(error)}.", FileError.exit_code)
        except Exception as error:  # a fault of ours: still one line
            _fail(ctx, f"Internal error, please report it: {type(error).__name__}: {error}", PruneError.exit_code)


def _fail(ctx: click.Context, message: str, code: int) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc()
    click.echo(f"Error: {render.clean(' '.join(message.split()), LONGEST_MESSAGE).plain}", err=True)
    ctx.exit(code)


def _flush() -> None:
    """What cannot be written by now would fail once more, and noisily, when Python ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_json_value(args: list[str]) -> list[str]:
    """Let ``--json`` stand alone: it takes the next word only if that is ``-`` or ends in ``.json``."""
    out: list[str] = []
    for number, word in enumerate(args):
        out.append(word)
        following = args[number + 1] if number + 1 < len(args) else ""
        if word == "--json" and following != "-" and not following.endswith(".json"):
            out.append("-")
    return out


@click.group(cls=_Verbs, context_settings=CONTEXT)
@click.version_option(package_name="onnxprune")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Make ONNX models smaller and faster, and prove that the result is right.

    Exit codes: 0 done, 1 a check failed, 2 usage, 3 input refused, 4 provider missing, 5 input or output.
    """


@main.command()
@MODEL
@SHAPE
@WISHES
@JSON
def inspect(model: str, input_shapes: Sequence[str], json_to: str | None, **wishes: Any) -> None:
    """What is in MODEL, what can go, and why the rest cannot."""
    _check_files([model], [json_to])
    with _progress() as progress:
        progress("analysing")
        result = api.inspect(model, input_shapes=_shapes(input_shapes), **wishes)
    _show(result.to_json(), json_to, lambda console: render.inspection(console, result))


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
    _check_files([model], [json_to])
    explainer = api.explainer(model, **wishes)
    if group is not None:
        steps = explainer.group(group)
        plain = [{"axis": list(s.axis), "node": s.node, "to": list(s.to)} for s in steps]
        _show({"group": group, "ties": plain}, json_to, lambda console: render.steps(console, steps))
        return
    if tensor is not None:
        found = explainer.tensor(tensor)
    elif op is not None:
        found = explainer.op(op)
    else:
        staying = [{"why": why, "weights": n, "params": p} for why, n, p in explainer.staying()]
        _show({"staying": staying}, json_to, lambda console: render.staying(console, explainer.staying()))
        return
    _show({"axes": [e.to_json() for e in found]}, json_to, lambda console: render.explanations(console, found))


@main.command()
@MODEL
@OUT
@BUDGET
@DATA
@EFFORT
@EVALUATION
@SHAPE
@PROVIDER
@click.option("--plan", "plan_to", metavar="FILE", help="Also write the plan.")
@click.option("--report", "report_to", metavar="FILE", help="Also write the result as JSON.")
@IN_PLACE
@KEEP_UNVERIFIED
@JSON
def prune(
    model: str,
    out: str,
    input_shapes: Sequence[str],
    plan_to: str | None,
    report_to: str | None,
    json_to: str | None,
    **options: Any,
) -> None:
    """Plan, recover, remove, prove that removed equals zeroed, measure, and write OUT.

    With --data, the weights that stay are refitted so that outputs stay close
    to what they were; without, the same is done on inputs that are made up.
    """
    given = [options["data"], options["labels"], options["evaluation"]]
    _check_files(given, [out])
    _check_files([model, out, *given], [plan_to, report_to, json_to])
    with _progress() as progress:
        result = api.prune(model, out, input_shapes=_shapes(input_shapes), progress=progress, **options)
    if plan_to:
        _write(plan_to, result.plan.dumps())
    if report_to:
        _write(report_to, _text(result.to_json()))
    _show(result.to_json(), json_to, lambda console: render.pruned(console, result))


@main.command()
@MODEL
@OUT
@BUDGET
@DATA
@EFFORT
@SHAPE
@JSON
def plan(model: str, out: str, input_shapes: Sequence[str], json_to: str | None, **options: Any) -> None:
    """Decide what goes, and write the decision to OUT for people, diffs and `apply`."""
    _check_files([model, options["data"]], [out, json_to])
    with _progress() as progress:
        result = api.plan(model, input_shapes=_shapes(input_shapes), progress=progress, **options)
    _write(out, result.dumps())
    plain = {"out": out, "cost": result.cost, "groups": [{**g, "kept": len(g["kept"])} for g in result.groups]}
    _show(plain, json_to, lambda console: render.planned(console, result, out))


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
    _check_files([plan, options["data"]], [out])
    _check_files([model, plan, out, options["data"]], [json_to])
    with _progress() as progress:
        result = api.apply(model, plan, out, input_shapes=_shapes(input_shapes), progress=progress, **options)
    _show(result.to_json(), json_to, lambda console: render.applied(console, result))


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
    _check_files([reference, candidate, options["plan"], options["data"]], [json_to])
    with _progress() as progress:
        progress("comparing")
        result = api.verify(reference, candidate, input_shapes=_shapes(input_shapes), **options)
    _show(result.to_json(), json_to, lambda console: render.verified(console, result))
    if not result:
        why = result.problem or f"it does not give the outputs of {reference!r}"
        raise PruneError(f"{candidate!r}: {why}.")


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
        _check_files([model, out], [json_to])
        result = api.run(kind.name, model, out, in_place=in_place, **options)
        _show(result.to_json(), json_to, lambda console: render.ran(console, result))

    command = click.command(kind.name, help=kind.__doc__, context_settings=CONTEXT)(call)
    hints = get_type_hints(kind)
    parameters = [click.Argument(["model"]), click.Option(["-o", "--out"], required=True, help="Where to write.")]
    parameters += [option_of(f, hints[f.name]) for f in fields(kind)]  # type: ignore[arg-type]
    command.params = parameters
    return JSON(IN_PLACE(command))


@main.command()
@JSON
def passes(json_to: str | None) -> None:
    """List the passes."""
    _list(load("passes"), json_to)


@main.command()
@JSON
def criteria(json_to: str | None) -> None:
    """List the criteria: what each needs, what it computes, and where it is from."""
    _check_files([], [json_to])
    table: dict[str, Criterion] = load("criteria")
    found = [table[name] for name in sorted(table)]
    plain = {c.name: {"needs": c.needs, "formula": c.formula, "source": c.source} for c in found}
    _show(plain, json_to, lambda console: render.criteria(console, found))


@main.command()
@click.option("--markdown", is_flag=True, help="Print the page that comes with the package.")
@JSON
def operators(markdown: bool, json_to: str | None) -> None:
    """List the operators, and what is known of each."""
    if markdown and json_to:
        raise click.UsageError("Give one of --markdown and --json.")
    _check_files([], [json_to])
    if markdown:
        click.echo(page(registered()), nl=False)
        return
    known = registered() + unknown()
    plain = {"operators": [entry._asdict() for entry in sorted(known)]}
    _show(plain, json_to, lambda console: render.operators(console, sorted(known)))


def _list(table: Mapping[str, Any], json_to: str | None) -> None:
    _check_files([], [json_to])
    rows = [(name, (value.__doc__ or "").splitlines()[0]) for name, value in sorted(table.items())]
    _show(dict(rows), json_to, lambda console: render.names(console, rows))


def _shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    shapes = [parse_shape(text) for text in given]
    names = [name for name, _ in shapes]
    if len(set(names)) < len(names):
        raise click.UsageError("--input-shape is given twice for one input.")
    return dict(shapes)


def _check_files(reads: Iterable[str | None], writes: Iterable[str | None]) -> None:
    """Every file that a command writes is another one, and can be written; found out before any work."""
    taken = [Path(path) for path in reads if path]
    for target in (Path(path) for path in writes if path and path != "-"):
        if any(files.same_file(target, other) for other in taken):
            raise click.UsageError(f"{str(target)!r} is named twice. Write to a file of its own.")
        files.check_place(target)
        taken.append(target)


def _text(document: Any) -> str:
    return json.dumps(document, indent=1, default=float) + "\n"


def _write(path: str, text: str) -> None:
    files.write_bytes(Path(path), text.encode("utf-8", "replace"))


def _show(document: Any, json_to: str | None, draw: Callable[[Console], None]) -> None:
    if json_to == "-":
        click.echo(_text(document), nl=False)
        return
    if json_to:
        _write(json_to, _text(document))
    if sys.stdout is None:  # it was closed before we began
        return
    console = _Console(width=None if sys.stdout.isatty() else 80, safe_box=True, highlight=False)
    draw(console)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner with the current stage, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("") as status:
        yield lambda stage: status.update(f"{stage} …")
