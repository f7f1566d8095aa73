"""Reports: a result as HTML, Markdown or JSON, by the suffix of where it goes; at once, or later from its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.group import main
from onnxprune.cli.render import clean
from onnxprune.cli.showing import check_files, text, write
from onnxprune.report import document, page

FORMS = {".html": page.html, ".md": page.markdown, ".json": text}


def check_forms(paths: Sequence[str]) -> None:
    """Refuse a place whose suffix does not say what is to be written."""
    for path in paths:
        if Path(path).suffix.lower() not in FORMS:
            raise click.UsageError(f"{path!r} ends in none of {', '.join(FORMS)}, which say what a report is.")


def write_reports(paths: Sequence[str], result: Mapping[str, Any]) -> None:
    """Write a result to each place, in the form that its suffix names."""
    if paths:
        checked = document.check(json.loads(text(result)))
        for path in paths:
            write(path, FORMS[Path(path).suffix.lower()](checked))


@main.command()
@click.argument("result")
@click.option("-o", "--out", multiple=True, required=True, metavar="OUT", help="An .html, .md or .json; repeatable.")
def report(result: str, out: Sequence[str]) -> None:
    """Draw the JSON that `prune --report` or `--json` wrote, as a page."""
    check_files([result], out)
    check_forms(out)
    write_reports(out, document.read(Path(result)))
    for path in out:
        click.echo(f"Wrote {clean(path, 200).plain}")
