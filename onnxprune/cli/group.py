"""The command group: errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from onnxprune.cli.render import clean
from onnxprune.errors import FileError, PruneError
from onnxprune.model import files

LONGEST_MESSAGE = 2000
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


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
    click.echo(f"Error: {clean(' '.join(message.split()), LONGEST_MESSAGE).plain}", err=True)
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
