"""Pictures as a few kinds of marks, from which a template writes plain SVG.

Across, places are percentages and down they are pixels, so that a picture is as wide as its page, on a phone, too,
while its text keeps the size of the page's. No plotting library gives that together with colours that follow the
reader's light or dark, text that can be selected, and the same bytes each time: pygal draws random ids and loads a
script, matplotlib fixes sizes and colours, plotly and Vega need JavaScript to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxprune.report import wording


@dataclass(frozen=True)
class Rect:
    """A bar from ``x``, ``width`` wide, in percent; ``y`` and ``height`` in pixels."""

    x: float
    width: float
    y: float
    height: float
    kind: str
    tip: str = ""
    shape: str = "rect"


@dataclass(frozen=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str
    shape: str = "line"


@dataclass(frozen=True)
class Dot:
    """A circle."""

    x: float
    y: float
    radius: float
    kind: str
    tip: str = ""
    shape: str = "dot"


@dataclass(frozen=True)
class Label:
    """Text at a place, moved by ``dx`` pixels; it begins, has its middle, or ends there."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    kind: str = "label"
    dx: float = 0
    shape: str = "label"


Mark = Rect | Line | Dot | Label


@dataclass(frozen=True)
class Picture:
    """One drawing, with what it is called and what it shows in words.

    Attributes:
        id: unique on the page.
        title, describes: for who cannot see it.
        height: in pixels.
        marks: what is drawn, the last on top.
        frame: what it leaves room for: ``"axes"`` beside and below it, one ``"axis"`` below it, or none.
    """

    id: str
    title: str
    describes: str
    height: float
    marks: Sequence[Mark]
    frame: str = "none"


@dataclass(frozen=True)
class Figure:
    """Pictures under one caption; those behind the first ``shown`` are folded away.

    Attributes:
        id: unique on the page.
        caption: what is to be seen, and how to read it.
        pictures: the drawings.
        shown: how many are seen at once.
        small: whether they stand side by side.
        legend: ``(kind, meaning)`` of the colours.
    """

    id: str
    caption: str
    pictures: Sequence[Picture]
    shown: int = 1
    small: bool = False
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)


def ticks(high: float, about: int = 4) -> list[float]:
    """Round numbers from 0 to at least ``high``: steps of 1, 2 or 5 times a power of ten."""
    if high <= 0 or not math.isfinite(high):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(high / about))
    step = next(power * m for m in (1, 2, 5, 10) if power * m * about >= high * (1 - 1e-9))
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def axes(across: Sequence[tuple[float, str]], down: Sequence[tuple[float, str]], height: float) -> list[Mark]:
    """Grid lines with their labels: ``(percent, label)`` across, ``(pixels, label)`` down."""
    marks: list[Mark] = []
    for y, text in down:
        marks += [Line(0, y, 100, y, "grid"), Label(0, y + 4, text, "end", "tick", -8)]
    for x, text in across:
        marks += [Line(x, height, x, height + 4, "grid"), Label(x, height + 18, text, "middle", "tick")]
    return marks


def apart(places: Sequence[tuple[float, float]], gap: float, near: float) -> list[float]:
    """How far down each place must be so that those ``near`` each other across are ``gap`` apart; none moves up."""
    moved = [y for _, y in places]
    order = sorted(range(len(places)), key=lambda i: places[i][1])
    for number, below in enumerate(order):
        for above in sorted(order[:number], key=lambda i: moved[i]):
            if abs(places[above][0] - places[below][0]) < near and moved[below] - moved[above] < gap:
                moved[below] = moved[above] + gap
    return moved


def tip(*parts: object) -> str:
    """What a mark says when it is pointed at."""
    return " · ".join(wording.name(part) for part in parts if part != "")
