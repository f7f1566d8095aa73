"""The curves of `sensitivity` as one picture: an SVG that needs nothing else, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

from onnxprune.budget.sensitivity import Outcome, Sensitive
from onnxprune.report import wording
from onnxprune.sensitivity import Sensitivity

ACROSS, WIDE, HIGH = 3, 200, 110  # pictures side by side, and the size of each
GAP, TOP = 60, 96
LEAST, MOST = 1e-6, 10.0  # errors between which curves are drawn
STYLE = """
 text { font: 11px sans-serif; fill: #222 } .title { font-size: 15px } .axis { stroke: #888 } .grid { stroke: #ddd }
 polyline { fill: none; stroke-width: 2 } .plain { stroke: #b5541c; stroke-dasharray: 4 3 } .refit { stroke: #1f6fb2 }
 svg { background: #fff }
 @media (prefers-color-scheme: dark) {
  text { fill: #ddd } .grid { stroke: #444 } .plain { stroke: #f0935a } .refit { stroke: #6db3f2 }
  svg { background: #161616 }
 }
"""


def picture(result: Sensitivity) -> str:
    """An SVG of all groups, the most sensitive first."""
    rows = max(1, -(-len(result.groups) // ACROSS))
    width, height = ACROSS * (WIDE + GAP) + GAP, TOP + rows * (HIGH + GAP)
    name = wording.visible(result.source["name"] or "the model")
    marks = "".join(_curves(group, place) for place, group in enumerate(result.by_error()))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n<style>{STYLE}</style>\n'
        f'<text class="title" x="{GAP}" y="28">{escape(f"Sensitivity of {name}")}</text>\n'
        f'<text x="{GAP}" y="48">Error of the outputs as a fraction of their variance, {LEAST:g} to {MOST:g} in powers'
        " of ten; across: how much of the group is gone.</text>\n"
        f'<text x="{GAP}" y="66">Dashed: as it is. Solid: with its readers refitted.</text>\n{marks}</svg>\n'
    )


def _curves(group: Sensitive, place: int) -> str:
    left, top = GAP + place % ACROSS * (WIDE + GAP), TOP + place // ACROSS * (HIGH + GAP)
    decades = round(math.log10(MOST / LEAST))
    grid = "".join(
        f'<line class="{"axis" if n == decades else "grid"}" x1="0" x2="{WIDE}" y1="{y}" y2="{y}"/>'
        for n in range(decades + 1)
        for y in [round(HIGH * n / decades, 1)]
    )
    grid += "".join(
        f'<text x="-6" y="{HIGH * n / decades + 4:.1f}" text-anchor="end">{MOST / 10**n:g}</text>'
        for n in range(0, decades + 1, 3)
    ) + "".join(
        f'<text x="{WIDE * part}" y="{HIGH + 14}" text-anchor="middle">{part:.0%}</text>' for part in (0, 0.5, 1)
    )
    first = wording.name(group.axes[0] if group.axes else group.kind, 22)
    lines = "".join(
        f'<polyline class="{kind}" points="{_points(group.units, found)}"/>'
        for kind, found in (
            ("plain", [(p.removed, p.plain) for p in group.points]),
            ("refit", [(p.removed, p.refit) for p in group.points]),
        )
    )
    said = escape(f"{group.id}: {first}, {group.units} {group.kind}")
    return f'<g transform="translate({left} {top})">{grid}{lines}<text y="{HIGH + 32}">{said}</text></g>\n'


def _points(units: int, found: Iterable[tuple[int, Outcome]]) -> str:
    return " ".join(f"{WIDE * count / units:.1f},{_height(outcome.error):.1f}" for count, outcome in [*found])


def _height(error: float) -> float:
    level = math.log(min(max(error, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return HIGH * (1 - level)
