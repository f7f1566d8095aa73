"""A result as sections of text, tables and pictures: what HTML and Markdown have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune import recipes
from onnxprune.report import figures, wording
from onnxprune.report.document import Document
from onnxprune.report.drawing import Figure
from onnxprune.report.wording import amount, brief, number, of, percent

Cells = Sequence[str]
LONG = 16  # rows of a table, before the rest is folded away


@dataclass(frozen=True)
class Table:
    """Rows under a head; columns in ``right`` hold numbers. The first column says what a row is about."""

    caption: str
    head: Cells
    rows: Sequence[Cells]
    right: Sequence[int] = ()
    shown: int = LONG


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    caption: str
    language: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """One part of the report."""

    id: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: Sequence[Code] = ()


@dataclass(frozen=True)
class Tile:
    """One number of the summary: how much of something is left, or how it changed."""

    label: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True)
class Story:
    """The whole report."""

    title: str
    mood: str
    verdict: str
    asked: str
    notes: Sequence[str]
    tiles: Sequence[Tile]
    sections: Sequence[Section] = field(repr=False)


def story(document: Document) -> Story:
    """Everything there is to say about a result; what it does not hold is left out."""
    mood, verdict = _verdict(document)
    notes = [document["note"]] if document["note"] else []
    made = (_before_after, _widths, _tradeoff, _losses, _latency, _proof, _fidelity, _recovery, _staying)
    sections = [found for make in (*made, _reproduce, _environment) if (found := make(document)) is not None]
    title = f"{wording.name(document['source']['name'] or 'A model', 80)}, pruned"
    return Story(title, mood, verdict, _asked(document), notes, list(_tiles(document)), sections)


def _verdict(document: Document) -> tuple[str, str]:
    proof = document["removed_vs_zeroed"]
    if not document["verified"]:
        return "bad", "Not verified: the pruned model differs from the original with the same channels zeroed."
    if not proof["providers"]:
        return "plain", "Nothing was removed: the output is the input."
    where = ", ".join(wording.name(name, 40) for name in proof["providers"])
    return "good", (
        f"Verified on {where}: removing the channels gives what zeroing them gives,"
        f" within {number(proof['max_relative_error'], 2)} of the output's range."
    )


def _asked(document: Document) -> str:
    recipe, recovery = document["recipe"], document["recovery"]
    budgets = {
        "ratio": "remove {} of each group's units",
        "params": "keep {} of the parameters",
        "macs": "keep {} of the multiply-accumulates",
        "bytes": "keep {} of the file",
        "latency": "take at most {} of the time",
        "speedup": "run at {} of the speed",
        "max_drop": "remove as much as makes the model worse by at most {}",
    }
    known = [(text, recipe.get(name)) for name, text in budgets.items()]
    wishes = [text.format(percent(v)) for text, v in known if isinstance(v, int | float)]
    wishes += [f"step {wording.name(recipe['step'], 20)}"] if recipe.get("step") else []
    said = f"Asked: {', '.join(wishes) or 'see the recipe below'}."
    done = recovery.get("recover")
    if not done:
        return f"{said} Kept weights are as they were."
    rows = f"{recovery.get('samples') or 0:,} rows of {'your data' if recovery.get('data') == 'given' else 'noise'}"
    how = "Kept weights are as they were" if done == "none" else "What is left was refitted, without training"
    return f"{said} {how}; {rows} decided."


def _tiles(document: Document) -> Iterator[Tile]:
    before, after = document["cost"]["before"], document["cost"]["after"]
    for label, key in (("MACs", "macs"), ("Parameters", "params")):
        if before[key]:
            share = after[key] / before[key]
            yield Tile(label, percent(share), f"{brief(before[key])} → {brief(after[key])}", share)
    if sizes := document["bytes"]:
        share = sizes["after"] / max(sizes["before"], 1)
        yield Tile("File", percent(share), f"{brief(sizes['before'])}B → {brief(sizes['after'])}B", share)
    fidelity = document.get("fidelity") or {}
    if times := fidelity.get("latency_ms"):
        old, new = map(float, times)
        yield Tile("Speed", f"{old / max(new, 1e-12):.2f} ×", f"{old:.3f} → {new:.3f} ms")
    if scores := fidelity.get("scores"):
        metric, (old, new) = fidelity["metric"], map(float, scores)
        shown = f"{wording.score(metric, old)} → {wording.score(metric, new)}"
        yield Tile(wording.name(metric or "metric", 24).capitalize(), wording.change(metric, old, new), shown)


def _before_after(document: Document) -> Section:
    before, after = document["cost"]["before"], document["cost"]["after"]
    pairs = [("parameters", before["params"], after["params"]), ("MACs of one run", before["macs"], after["macs"])]
    if sizes := document["bytes"]:
        pairs.append(("bytes on disk", sizes["before"], sizes["after"]))
    rows: list[Cells] = [(label, f"{old:,}", f"{new:,}", of(new, old)) for label, old, new in pairs]
    fidelity = document.get("fidelity") or {}
    if times := fidelity.get("latency_ms"):
        old, new = map(float, times)
        rows.append(("latency of one row (ms)", f"{old:.3f}", f"{new:.3f}", of(new, old)))
    if spread := fidelity.get("latency_quartiles_ms"):
        rows.append(("its middle half (ms)", *(f"{float(low):.3f} to {float(high):.3f}" for low, high in spread), ""))
    if scores := fidelity.get("scores"):
        metric, (old, new) = fidelity["metric"], map(float, scores)
        shown = wording.score(metric, old), wording.score(metric, new), wording.change(metric, old, new)
        rows.append((wording.name(metric or "metric", 40), *shown))
    table = Table("The model before and after", ("", "before", "after", "left"), rows, (1, 2, 3))
    return Section("summary", "Before and after", tables=[table])


def _widths(document: Document) -> Section | None:
    rows = figures.layers(document)
    if not rows:
        return None
    cells = [
        (
            wording.name(row["layer"]),
            "–" if row["group"] is None else str(row["group"]),
            f"{row['before']:,}",
            f"{row['after']:,}",
            of(row["after"], row["before"]),
        )
        for row in rows
    ]
    head = ("layer", "group", "before", "after", "left")
    table = Table("Width of every layer", head, cells, (1, 2, 3, 4), shown=0)
    return Section("widths", "Width of every layer", figures=figures.widths(document), tables=[table])


def _tradeoff(document: Document) -> Section | None:
    tried, best = document["details"]["tried"], figures.chosen(document)
    if not tried:
        return None
    dense, measure = document["cost"]["before"], figures.measure_of(document)
    rows = [
        (
            f"{place}{' (chosen)' if place == best else ''}",
            wording.name(trial["name"], 60),
            wording.name(trial["criterion"], 60),
            of(trial[measure], dense[measure]),
            percent(trial["error"], 2),
            percent(trial["agreement"], 1),
        )
        for place, trial in enumerate(tried, 1)
    ]
    head = ("", "way to spend the budget", "scored by", f"{figures.NAMES[measure]} left", "error", "same argmax")
    table = Table("Everything that was tried, refitted and measured on held-out data", head, rows, (3, 4, 5))
    return Section("tradeoff", "Accuracy against cost", figures=figures.tradeoff(document), tables=[table])


def _losses(document: Document) -> Section | None:
    found = figures.losses(document)
    return Section("losses", "Sensitivity of each group", figures=found) if found else None


def _latency(document: Document) -> Section | None:
    found = figures.latency(document)
    return Section("latency", "Latency", figures=found) if found else None


def _proof(document: Document) -> Section | None:
    providers = document["removed_vs_zeroed"]["providers"]
    rows = [
        (
            wording.name(provider, 40),
            wording.name(c["output"], 80),
            number(c["max_abs"]),
            number(c["relative"], 2),
            number(c["tolerance"]),
            _equality(c),
        )
        for provider, found in providers.items()
        for c in found
    ]
    if not rows:
        return None
    head = ("provider", "output", "largest error", "of the range", "allowed", "verdict")
    table = Table("Removed against zeroed, on each execution provider", head, rows, (2, 3, 4))
    text = (
        "The same model was made twice: once with the channels cut out, once with their weights set to zero. Both ran"
        " on the same inputs, and may differ by rounding alone: the tolerance follows from the outputs' number type."
    )
    return Section("proof", "Is the surgery right?", [text], tables=[table])


def _equality(comparison: Mapping[str, Any]) -> str:
    if not comparison["equal"]:
        return f"differs {wording.name(comparison['problem'])}".strip()
    return "equal" if comparison.get("noise") is None else "equal, up to the model's own rounding"


def _fidelity(document: Document) -> Section | None:
    fidelity = document.get("fidelity")
    if not fidelity:
        return None
    rows = [
        (
            wording.name(c["output"], 80),
            number(c["max_abs"]),
            number(c["mean_abs"]),
            f"{float(c['cosine']):.4f}",
            percent(c["agreement"]),
        )
        for c in fidelity["outputs"]
    ]
    kind = "your data" if fidelity["real"] else "seeded noise; real inputs (--data) give a figure that means something"
    kind = "the calibration data itself, which flatters (give --eval)" if fidelity["seen"] else kind
    head = ("output", "largest error", "mean error", "cosine", "same argmax")
    table = Table("Pruned against dense, output by output", head, rows, (1, 2, 3, 4))
    text = f"The pruned and the original model ran on {fidelity['rows']:,} rows of {kind}."
    return Section("fidelity", "What did it cost?", [text], tables=[table])


def _recovery(document: Document) -> Section | None:
    recovery = document["recovery"]
    steps = recovery.get("layers") or []
    if not steps:
        return None
    rows = [
        (
            wording.name(s["layer"]),
            percent(s["before"], 2),
            percent(s["after"], 2),
            "–" if s["ridge"] is None else "bias only" if s["ridge"] == "inf" else number(s["ridge"]),
            wording.name(s["note"]) or ("left as it was" if s["ridge"] is None else "kept"),
        )
        for s in steps
    ]
    head = ("layer", "error before", "error after", "ridge", "refit")
    caption = "Layers in the order in which they were refitted; errors are fractions of the outputs' variance"
    table = Table(caption, head, rows, (1, 2, 3))
    return Section("recovery", "Recovery, layer by layer", figures=figures.recovery(document), tables=[table])


def _staying(document: Document) -> Section | None:
    rows = [
        (amount(each["params"]), f"{each['weights']:,}", wording.name(each["why"], 240))
        for each in document["details"]["staying"]
    ]
    rows += [
        (f"{g['units']:,} units", f"group {g['id']}", wording.name(g["stays"], 240))
        for g in document["groups"]
        if g.get("stays")
    ]
    if not rows:
        return None
    table = Table(
        "Weights that no cut touches, by their parameters", ("parameters", "weights", "because"), rows, (0, 1)
    )
    return Section("staying", "What could not be pruned, and why", tables=[table])


def _reproduce(document: Document) -> Section:
    request = recipes.request_of(document)
    text = (
        "The same model, data and versions give the same bytes. Paths are relative to the folder that the command ran"
        " in: run it there again, or save the recipe there."
    )
    code = [
        Code("As a command", "sh", [recipes.command(request)]),
        Code("As a recipe, for onnxprune prune --recipe FILE", "toml", recipes.dumps(request).splitlines()),
    ]
    return Section("reproduce", "Do it again", [text], code=code)


def _environment(document: Document) -> Section:
    source = document["source"]
    rows = [
        ("model", wording.name(source["name"], 80)),
        ("sha256", wording.name(source["sha256"], 80)),
        ("bytes", f"{source['bytes']:,}"),
    ]
    rows += [(wording.name(key, 40), wording.name(value, 80)) for key, value in document["environment"].items()]
    rows.append(("written to", wording.name(document["out"])))
    return Section("environment", "Model and versions", tables=[Table("What it was made from", ("", ""), rows)])
