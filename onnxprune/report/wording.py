"""Numbers and foreign names as people read them: short, and with nothing in them that could deceive or do harm."""

from __future__ import annotations

import math
import re
from typing import Any

FRACTIONS = ("accuracy", "top5", "exact", "agreement")
"""Metrics that are read as percentages."""
LONGEST = 160  # characters of a name, before its middle is left out
PICTURES = 0x2400  # where Unicode has pictures of the control characters
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def amount(value: float) -> str:
    """A count, in a width that fits a table."""
    return (
        f"{value:,.0f}" if value < 10_000_000 else f"{value / 1e6:,.1f} M" if value < 1e10 else f"{value / 1e9:,.1f} G"
    )


def brief(value: float) -> str:
    """A count to three digits, with the prefix of its power of a thousand."""
    for prefix in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.3g}{prefix}"
        value /= 1000
    return f"{value:,.3g} T"


def visible(text: str) -> str:
    """Text whose control characters, line breaks and changes of direction are shown instead of obeyed."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _picture(c) for c in text)


def _picture(character: str) -> str:
    code = ord(character)
    return chr(PICTURES + code) if code < 32 else "␡" if code == 127 else f"[U+{code:04X}]"


def name(text: object, longest: int = LONGEST) -> str:
    """A name from a model or a user: visible, and cut in its middle to a readable length."""
    plain = str(text)
    if len(plain) > longest:
        plain = f"{plain[: longest // 2 - 1]}…{plain[-(longest // 2) :]}"
    return visible(plain)


def number(value: Any, digits: int = 3) -> str:
    """A measured number; what is none is a dash, what is too large to measure is said to be."""
    if value is None:
        return "–"
    found = float(value)
    if math.isnan(found):
        return "not a number"
    return f"{found:.{digits}g}" if math.isfinite(found) else "∞"


def percent(value: Any, digits: int = 1) -> str:
    """A fraction as a percentage."""
    if value is None:
        return "–"
    found = float(value)
    return f"{found * 100:.{digits}f} %" if math.isfinite(found) else "∞"


def of(after: float, before: float) -> str:
    """What is left, as a percentage; empty where there was nothing."""
    return percent(after / before) if before else ""


def score(metric: str, value: float) -> str:
    """What a metric gave."""
    return percent(value, 2) if metric in FRACTIONS else f"{value:.4f}"


def change(metric: str, before: float, after: float) -> str:
    """By how much a metric moved."""
    moved = after - before
    text = f"{100 * moved:+.2f} pt" if metric in FRACTIONS else f"{moved:+.4f}"
    return text.replace("-", "\N{MINUS SIGN}")


def escaped(text: object) -> str:
    """Text in a Markdown table or paragraph, where none of it is markup, a table's border or a link."""
    plain = _MARKUP.sub(r"\\\1", visible(str(text)))
    return re.sub(r"(?i)(www)\.", r"\1\\.", plain.replace("://", r"\://")).replace("@", r"\@")
