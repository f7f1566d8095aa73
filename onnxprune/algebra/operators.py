"""What is known of every operator, read from the registry; the page ``rules/OPERATORS.md`` is made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import onnx

from onnxprune.algebra.registry import Rule, load

ONNX = "ai.onnx"  # how the nameless domain is called
HEAD = """# Operators

What each operator says about indices, and why some keep everything they touch. Any other operator is kept whole, too,
and named by `onnxprune inspect`. Made by `onnxprune operators --markdown`; do not edit.

"""


class Known(NamedTuple):
    """What is known of one operator: its status is ``rule``, ``pinned`` (on purpose) or ``no rule``."""

    domain: str
    operator: str
    status: str
    says: str


def status(domain: str, kind: str) -> str:
    """One of ``rule``, ``pinned: `` with the reason, and ``no rule``."""
    rule: Rule | None = load("rules").get((domain, kind))
    if rule is None:
        return "no rule"
    return "rule" if rule.pins is None else f"pinned: {rule.pins}"


def registered() -> list[Known]:
    """Every operator of the registry, by domain and name."""
    return sorted(_known(domain, kind, rule) for (domain, kind), rule in load("rules").items())


def unknown() -> list[Known]:
    """Every operator of the installed ``onnx`` that the registry lacks."""
    schemas = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas()}
    says = "Everything that it touches is kept whole."
    return sorted(Known(domain or ONNX, kind, "no rule", says) for domain, kind in schemas - load("rules").keys())


def page(known: Iterable[Known]) -> str:
    """The operators as Markdown, a table for each domain."""
    entries = list(known)
    pinned = sum(entry.status == "pinned" for entry in entries)
    text = HEAD + f"{len(entries) - pinned} operators have a rule; {pinned} are pinned on purpose.\n"
    for domain, group in groupby(entries, key=lambda entry: entry.domain):
        text += f"\n## {domain}\n\n| operator | status | what it says |\n|---|---|---|\n"
        text += "".join(f"| {e.operator} | {e.status} | {e.says.replace('|', chr(92) + '|')} |\n" for e in group)
    return text


def _known(domain: str, kind: str, rule: Rule) -> Known:
    if rule.pins is not None:
        return Known(domain or ONNX, kind, "pinned", f"{rule.pins[0].upper()}{rule.pins[1:]}.")
    return Known(domain or ONNX, kind, "rule", _first_sentence(rule.facts.__doc__ or ""))


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph)[0]
