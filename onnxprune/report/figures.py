"""The pictures of a report, each from the result's plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

from onnxprune.report import wording
from onnxprune.report.document import Document
from onnxprune.report.drawing import Dot, Figure, Label, Line, Mark, Picture, Rect, apart, axes, ticks, tip

Row = Mapping[str, Any]
KINDS = (("before", "before"), ("after", "after"))
ROW = 36  # pixels that a layer takes
BAR = 72.0  # percent, the longest bar; its numbers stand behind
NAME = 52  # characters of a layer's name that fit a phone
FIRST = 16  # layers, or groups, that are seen at once
PAGE = 40  # layers in one drawing
TALL, SMALL = 220, 64  # pixels
LEAST = 1e-5  # the smallest loss that is told from none


def widths(document: Document) -> list[Figure]:
    """The width of every layer, at a glance and one by one."""
    rows = layers(document)
    if not rows:
        return []
    found = [_bars(rows)]
    return found if len(rows) <= FIRST else [_profile(rows), *found]


def layers(document: Document) -> list[dict[str, Any]]:
    """Every layer in the order in which they run, and behind them the groups that no linear layer makes."""
    rows = [dict(row) for row in document["details"]["layers"]]
    seen = {row["group"] for row in rows}
    for group in document["groups"]:
        if group["id"] not in seen:
            axes_of = ", ".join(group["axes"][:1]) or "no weight"
            rows.append({"layer": axes_of, "group": group["id"], "before": group["units"], "after": group["kept"]})
    return rows


def _profile(rows: Sequence[Row]) -> Figure:
    height, slot = 120, 100 / len(rows)
    top = ticks(_widest(rows), 2)
    marks: list[Mark] = axes([], [(height * (1 - t / top[-1]), f"{t:,.0f}") for t in top], height)
    for place, row in enumerate(rows):
        full = height * min(row["before"] / top[-1], 1.0)
        left = full * row["after"] / max(row["before"], 1)
        at, wide, said = slot * (place + 0.1), slot * 0.8, tip(row["layer"], _from_to(row))
        marks += [
            Rect(at, wide, height - full, full, "before", said),
            Rect(at, wide, height - left, left, "after", said),
        ]
        if row["before"] > top[-1]:
            marks.append(Rect(at, wide, 8, 3, "gap"))
    marks += [
        Label(0, height + 18, "first layer", "start", "tick"),
        Label(100, height + 18, "last layer", "end", "tick"),
    ]
    words = f"{len(rows)} layers from the input to the output; {_narrowed(rows)}"
    picture = Picture("profile", "Widths of all layers", words, height, marks, "axes")
    caption = f"Channels of every layer from the input (left) to the output (right).{_clipped(rows, top[-1])}"
    return Figure("profile", caption, [picture], legend=KINDS)


def _widest(rows: Sequence[Row]) -> float:
    """What pictures are scaled to: the widest layer that may be cut; a head of many classes would dwarf the others."""
    cuttable = [row["before"] for row in rows if row["group"] is not None]
    return float(max(cuttable or [row["before"] for row in rows], default=1) or 1)


def _clipped(rows: Sequence[Row], most: float) -> str:
    return " A bar with a gap is longer than drawn." if any(row["before"] > most for row in rows) else ""


def _narrowed(rows: Sequence[Row]) -> str:
    cut = sum(row["after"] < row["before"] for row in rows)
    return f"{cut} of them are narrower than before."


def _from_to(row: Row) -> str:
    return f"{row['before']:,} → {row['after']:,}" if row["after"] != row["before"] else f"{row['before']:,}"


def _bars(rows: Sequence[Row]) -> Figure:
    pages = [rows[:FIRST], *(rows[at : at + PAGE] for at in range(FIRST, len(rows), PAGE))]
    most, start = _widest(rows), 0
    pictures = []
    for number, page in enumerate(page for page in pages if page):
        marks: list[Mark] = []
        for place, row in enumerate(page):
            marks += _bar(row, most, place * ROW)
        words = "; ".join(f"{wording.name(r['layer'])}: {_from_to(r)}" for r in page)
        title = f"Layers {start + 1} to {start + len(page)} of {len(rows)}"
        pictures.append(Picture(f"widths-{number}", title, words, len(page) * ROW, marks))
        start += len(page)
    caption = (
        "Channels that each layer makes, in the order in which layers run. Layers of one group keep the same ones."
        f"{_clipped(rows, most)}"
    )
    return Figure("widths", caption, pictures, legend=KINDS)


def _bar(row: Row, most: float, y: float) -> list[Mark]:
    full = BAR * min(row["before"] / most, 1.0)
    left = full * row["after"] / max(row["before"], 1)
    group = "stays whole" if row["group"] is None else f"group {row['group']}"
    said = tip(row["layer"], group, _from_to(row))
    return [
        Label(0, y + 12, wording.name(row["layer"], NAME)),
        Rect(0, max(full, 0.6), y + 18, 10, "before", said),
        Rect(0, max(left, 0.6) if row["after"] else 0, y + 18, 10, "after", said),
        *([Rect(full - 4, 0.8, y + 17, 12, "gap")] if row["before"] > most else []),
        Label(max(full, 0.6), y + 27, _kept(row), "start", "value", 8),
    ]


def _kept(row: Row) -> str:
    if row["after"] == row["before"]:
        return f"{row['before']:,}"
    return f"{row['after']:,} of {row['before']:,}"


def tradeoff(document: Document) -> list[Figure]:
    """What was tried: error on held-out data against cost."""
    tried, measure = document["details"]["tried"], measure_of(document)
    dense = document["cost"]["before"][measure]
    shown = [(n, t) for n, t in enumerate(tried, 1) if t["error"] != "inf" and math.isfinite(t["error"])]
    if not shown or not dense:
        return []
    top = ticks(max(*(float(t["error"]) for _, t in shown), 1e-6))
    places = [(100 * t[measure] / dense, TALL * (1 - float(t["error"]) / top[-1])) for _, t in shown]
    marks: list[Mark] = axes(
        [(x, f"{x} %") for x in range(0, 101, 20)],
        [(TALL * (1 - t / top[-1]), wording.percent(t, _digits(top[-1]))) for t in top],
        TALL,
    )
    front = _front([*places, (100.0, float(TALL))])
    marks += [Line(*a, *b, "front") for a, b in pairwise(front)]
    best = chosen(document)
    for (number, trial), (x, y) in sorted(zip(shown, places, strict=True), key=lambda row: row[0][0] == best):
        said = tip(f"{number}: {trial['name']}", wording.percent(trial["error"], 2))
        marks.append(Dot(x, y, 5, "chosen" if number == best else "tried", said))  # the chosen one last, on top
    marks += _numbers([number for number, _ in shown], places, best)
    marks.append(Dot(100, TALL, 5, "dense", tip("dense")))
    marks.append(Label(100, TALL - 11, "dense", "middle", "value"))
    words = "; ".join(
        f"{n}: {wording.name(t['name'])}, {wording.of(t[measure], dense)} of the {NAMES[measure]} left,"
        f" {wording.percent(t['error'], 2)} off"
        for n, t in shown
    )
    picture = Picture("tradeoff", "Error against cost of everything tried", words, TALL, marks, "axes")
    caption = (
        f"Squared error on held-out data, as a fraction of the outputs' variance, against the {NAMES[measure]} that"
        " are left. Each number is a way to spend the budget that was refitted and measured; the line joins the best"
        " at each cost."
    )
    legend = (("chosen", "chosen"), ("tried", "tried"), ("dense", "dense"))
    return [Figure("tradeoff", caption, [picture], legend=legend)]


def _numbers(numbers: Sequence[int], places: Sequence[tuple[float, float]], best: int) -> Iterator[Mark]:
    """The numbers beside dots; those of dots on one another are one label."""
    found: dict[tuple[float, float], list[int]] = {}
    for number, (x, y) in zip(numbers, places, strict=True):
        if x < 100:  # where nothing went, the dense model is
            found.setdefault((round(x, 1), round(y)), []).append(number)
    sides = apart(list(found), 14, 8)
    for ((x, _), same), y in zip(found.items(), sides, strict=True):
        kind = "chosen" if best in same else "tried"
        yield Label(x, y + 4, ", ".join(map(str, same)), "start", f"value {kind}", 9)


NAMES = {"params": "parameters", "bytes": "bytes", "macs": "MACs"}


def measure_of(document: Document) -> str:
    """What the budget counts; MACs where it counts something else."""
    return next((name for name in NAMES if document["recipe"].get(name) is not None), "macs")


def chosen(document: Document) -> int:
    """Which of what was tried became the result, counted from 1; 0 if none is marked so."""
    recovery = document["recovery"]
    wanted = recovery.get("allocation"), recovery.get("criterion")
    found = [n for n, t in enumerate(document["details"]["tried"], 1) if (t["name"], t["criterion"]) == wanted]
    return found[-1] if found else 0


def _digits(top: float) -> int:
    return max(0, min(4, 1 - math.floor(math.log10(top * 100)))) if top > 0 else 0


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """From the cheapest on, the points that are better than all cheaper ones; errors grow upwards, so y falls."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def losses(document: Document) -> list[Figure]:
    """The loss curve of each group, side by side."""
    curves, groups = document["details"]["losses"], {g["id"]: g for g in document["groups"]}
    shown = [(number, curve) for number, curve in enumerate(curves) if len(curve["removed"]) > 1 and number in groups]
    if not shown:
        return []
    top = max((_finite(e) for _, c in shown for e in c["error"]), default=1.0)
    decades = range(round(math.log10(LEAST)), max(-3, math.ceil(math.log10(max(top, LEAST)))) + 1)
    pictures = [_curve(groups[number], curve, decades) for number, curve in shown]
    caption = (
        "What the outputs lose, as a fraction of their variance, when only this group is cut and what reads it is"
        f" refitted as if all else stayed. Down: {wording.percent(10.0 ** decades[0], 3)} to"
        f" {wording.percent(10.0 ** decades[-1], 0)}, in powers of ten. Across: the units that go, from none to all;"
        " a curve ends where no more may. The dot is what was cut."
    )
    return [Figure("losses", caption, pictures, FIRST, small=True)]


def _finite(error: Any) -> float:
    return float(error) if error != "inf" and math.isfinite(error) else 1.0


def _curve(group: Row, curve: Row, decades: range) -> Picture:
    units = max(group["units"], 1)

    def place(count: float, error: Any) -> tuple[float, float]:
        low, high = decades[0], decades[-1]
        level = math.log10(max(_finite(error), LEAST))
        return 100 * count / units, SMALL * (1 - (min(level, high) - low) / (high - low))

    thinned = _thinned(list(zip(curve["removed"], curve["error"], strict=True)))
    points = [place(count, error) for count, error in thinned]
    gone = group["units"] - group["kept"]
    before = [point for point in thinned if point[0] <= gone] or thinned[:1]
    dot = place(gone, before[-1][1])
    marks: list[Mark] = [Line(0, SMALL, 100, SMALL, "axis"), Line(0, 0, 0, SMALL, "axis")]
    marks += [Line(0, y, 100, y, "grid") for y in (SMALL * k / (len(decades) - 1) for k in range(len(decades) - 1))]
    marks += [Line(*a, *b, "curve") for a, b in pairwise(points)]
    marks += [Dot(*dot, 4, "chosen", tip(f"{gone} of {units} cut"))]
    name = wording.name(group["axes"][0] if group["axes"] else f"group {group['id']}", 24)
    marks += [
        Label(0, SMALL + 16, f"{group['id']}: {name}", "start", "label"),
        Label(0, SMALL + 31, f"{gone} of {units} cut", "start", "tick"),
    ]
    last = wording.percent(_finite(curve["error"][-1]), 2)
    words = f"{gone} of {units} units are cut. With {curve['removed'][-1]} cut the loss is {last}."
    return Picture(f"loss-{group['id']}", f"Group {group['id']}, {name}", words, SMALL + 36, marks)


def _thinned(points: Sequence[tuple[int, Any]], most: int = 24) -> list[tuple[int, Any]]:
    """Enough of a curve's points to draw it; the last is among them."""
    step = max(1, -(-len(points) // most))
    found = list(islice(points, 0, None, step))
    return found if found[-1] == points[-1] else [*found, points[-1]]


def latency(document: Document) -> list[Figure]:
    """How long one run takes, before and after."""
    fidelity = document.get("fidelity") or {}
    times = [_finite(t) for t in fidelity.get("latency_ms") or []]
    if not times or max(times) <= 0:
        return []
    spread = fidelity.get("latency_quartiles_ms") or [[t, t] for t in times]
    top = ticks(max(*times, *(_finite(high) for _, high in spread)))
    marks: list[Mark] = []
    for t in top:
        x, anchor = 100 * t / top[-1], "start" if t == 0 else "end" if t == top[-1] else "middle"
        marks += [Line(x, 0, x, 92, "grid"), Label(x, 110, f"{t:g} ms", anchor, "tick")]
    for row, (kind, time, (low, high)) in enumerate(zip(("before", "after"), times, spread, strict=True)):
        y = 6 + row * 44
        ends = [100 * _finite(end) / top[-1] for end in (low, high)]
        marks += [
            Label(0, y + 10, f"{kind} {time:.3f} ms", "start", "label"),
            Rect(0, 100 * time / top[-1], y + 16, 14, kind, tip(kind, f"{time:.3f} ms")),
        ]
        if ends[0] < ends[1]:
            marks.append(Line(ends[0], y + 23, ends[1], y + 23, "whisker"))
            marks += [Line(end, y + 18, end, y + 28, "whisker") for end in ends]
    words = f"Before {times[0]:.3f} ms, after {times[1]:.3f} ms, {times[0] / max(times[1], 1e-12):.2f} times as fast."
    picture = Picture("latency", "Latency of one run", words, 92, marks, "axis")
    spoken = " The thin line is where the middle half of the runs lies." if fidelity.get("latency_quartiles_ms") else ""
    caption = f"Median milliseconds of one run of one row on this machine, both models measured in turns.{spoken}"
    return [Figure("latency", caption, [picture])]


def recovery(document: Document) -> list[Figure]:
    """The error of each refitted layer, before and after."""
    steps = [s for s in document["recovery"].get("layers") or [] if s["ridge"] is not None]
    if not steps:
        return []
    decades = range(-4, 1)

    def place(error: Any) -> float:
        level = math.log10(max(_finite(error), 10.0 ** decades[0]))
        return BAR * (min(level, decades[-1]) - decades[0]) / (decades[-1] - decades[0])

    pages = [steps[:FIRST], *(steps[at : at + PAGE] for at in range(FIRST, len(steps), PAGE))]
    pictures = []
    for number, page in enumerate(page for page in pages if page):
        marks: list[Mark] = []
        for row, step in enumerate(page):
            y, ends = row * ROW + 22, [place(step["before"]), place(step["after"])]
            marks += [
                Label(0, y - 9, wording.name(step["layer"], NAME)),
                Line(0, y, BAR, y, "grid"),
                Line(ends[0], y, ends[1], y, "step"),
                Dot(ends[0], y, 4, "before", tip("before", wording.percent(step["before"], 2))),
                Dot(ends[1], y, 5, "after", tip("after", wording.percent(step["after"], 2))),
                Label(BAR, y + 4, f"{_brief(step['before'])} → {_brief(step['after'])}", "start", "value", 10),
            ]
        words = "; ".join(
            f"{wording.name(s['layer'])}: {_brief(s['before'])} before, {_brief(s['after'])} after" for s in page
        )
        pictures.append(Picture(f"refits-{number}", "Errors of layers", words, len(page) * ROW, marks))
    caption = (
        "Error of each refitted layer on held-out rows, as a fraction of its outputs' variance: what its inputs lost"
        " by then, and what is left after its refit. From left to right 0.01 % to 100 %, in powers of ten."
    )
    return [Figure("refits", caption, pictures, legend=(("before", "before its refit"), ("after", "after")))]


def _brief(error: Any) -> str:
    found = _finite(error)
    return wording.percent(found, 1 if found >= 0.01 else 2)
