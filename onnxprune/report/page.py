"""A result as a page: one HTML file that needs nothing else, or Markdown as GitHub shows it."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnxprune.report import wording
from onnxprune.report.document import Document
from onnxprune.report.story import story

SUFFIXES = (".html", ".md", ".json")
"""What a report may be written as."""
BLOCKS = 12  # characters of a bar in Markdown


def html(document: Document) -> str:
    """One self-contained HTML file; the same document gives the same bytes."""
    return _environment().get_template("report.html").render(story=story(document))


def markdown(document: Document) -> str:
    """GitHub-flavoured Markdown; pictures are left to HTML, their numbers are in the tables."""
    return _environment().get_template("report.md").render(story=story(document))


@cache
def _environment() -> Environment:
    """Templates that escape everything, HTML as HTML and Markdown by a filter."""
    found = Environment(
        loader=PackageLoader("onnxprune.report"),
        autoescape=lambda name: name is not None and name.endswith((".html", ".svg")),
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(md=lambda text: Markup(wording.escaped(text)), bar=_bar)
    found.policies["urlize.target"] = None
    return found


def _harmless(value: Any) -> Any:
    """What a template writes: numbers as short as they can be, and text without anything that is obeyed, not read."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return wording.visible(str(value))


def _bar(share: float) -> str:
    """A fraction as a bar of characters."""
    full = round(max(0.0, min(1.0, share)) * BLOCKS)
    return "█" * full + "░" * (BLOCKS - full)
