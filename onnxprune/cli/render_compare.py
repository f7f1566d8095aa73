"""Two exports of one network as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from onnxprune.cli.render import ROWS, amount, clean, table
from onnxprune.comparing.causes import Divergence
from onnxprune.comparing.results import Compared, LayerPair, Side
from onnxprune.comparing.signals import EXACT
from onnxprune.verification.comparison import failures

WORST = 6  # layers that are listed although they are equal
WIDE = 30  # characters of a node's name in a table


def compared(console: Console, result: Compared) -> None:
    """Side by side, output by output, layer by layer, and where they part."""
    _sides(console, result.sides)
    _signature(console, result)
    _outputs(console, result)
    _layers(console, result)
    if result.divergence:
        _divergence(console, result.divergence, result)
    elif not result:
        console.print(Text(_gradual(result)))
    if result.note:
        console.print(clean(result.note, 400), style="yellow")


def _gradual(result: Compared) -> str:
    """What differs although no node loses much at once."""
    known = [layer.level for layer in result.layers if layer.level is not None]
    span = f", from {known[0]:.0f} dB behind the first layer to {known[-1]:.0f} dB behind the last" if known else ""
    what = f"rounding to {result.precision}" if result.precision != "float32" else "rounding"
    return f"No node loses much agreement at once; this looks like {what}{span}. --tolerance sets what passes."


def failure(result: Compared) -> str:
    """One line that says what differs, and where it begins."""
    found = failures(result.comparisons)
    if result.divergence is None:
        return found
    finding = result.divergence.findings[0]
    node = clean(next(filter(None, result.divergence.nodes), "its outputs")).plain
    return f"{found}; it begins at {node} ({finding.kind}: {finding.what})"


def _sides(console: Console, sides: tuple[Side, Side]) -> None:
    one, other = sides
    rows = table("", "first", "second", right=(1, 2))
    rows.add_row("file", clean(one.name, WIDE), clean(other.name, WIDE))
    rows.add_row("written by", clean(one.producer or "unknown", WIDE), clean(other.producer or "unknown", WIDE))
    rows.add_row("opset", str(one.opset), str(other.opset))
    for label, name in (("bytes", "bytes"), ("parameters", "params"), ("MACs", "macs")):
        rows.add_row(label, amount(getattr(one, name)), amount(getattr(other, name)))
    if one.latency_ms is not None and other.latency_ms is not None:
        rows.add_row("latency (ms)", f"{one.latency_ms:.3f}", f"{other.latency_ms:.3f}")
    rows.add_row("nodes", *(amount(sum(side.operators.values())) for side in sides))
    for kind in _unequal(one.operators, other.operators):
        rows.add_row(clean(f"  {kind}", WIDE), *(str(side.operators.get(kind, 0)) for side in sides))
    rows.add_row("groups that can be cut", str(one.groups), str(other.groups))
    rows.add_row("  units in them", amount(one.units), amount(other.units))
    rows.add_row("  MACs at one unit each", f"{one.least:.1%}", f"{other.least:.1%}")
    for name in one.measures:
        rows.add_row(clean(name, WIDE), f"{one.measures[name]:.4g}", f"{other.measures[name]:.4g}")
    console.print(rows)
    for word, side in (("first", one), ("second", other)):
        if side.staying and one.staying != other.staying:
            console.print(Text.assemble(f"Most of what stays whole in the {word}: ", clean(side.staying, 120)))
    console.print()


def _unequal(first: dict[str, int], second: dict[str, int]) -> list[str]:
    """Operators of which the models have different numbers, the largest difference first."""
    kinds = dict.fromkeys((*first, *second))
    apart = {kind: abs(first.get(kind, 0) - second.get(kind, 0)) for kind in kinds}
    return sorted((kind for kind in kinds if apart[kind]), key=lambda kind: -apart[kind])[:ROWS]


def _signature(console: Console, result: Compared) -> None:
    for word, bounds in (("Input", result.inputs), ("Output", result.outputs)):
        for bound in bounds[:ROWS]:
            if bound.first.name != bound.second.name or not bound.view.plain:
                names = clean(bound.first.name, WIDE), " is ", clean(bound.second.name, WIDE)
                console.print(Text.assemble(f"{word} ", *names, f" ({bound.view})" if not bound.view.plain else ""))


def _outputs(console: Console, result: Compared) -> None:
    kind = "of your data" if result.real else "of seeded noise"
    console.print(f"Outputs on {result.rows:,} rows {kind}:", highlight=False)
    rows = table("output", "max error", "of range", "allowed", "cosine", "argmax", "", right=(1, 2, 3, 4, 5))
    for c in result.comparisons:
        agreement = "" if c.agreement is None else f"{c.agreement:.1%}"
        word = Text("equal", "green") if c else Text(f"DIFFERS {clean(c.problem, 200)}".strip(), "red")
        figures = f"{c.max_abs:.2g}", f"{c.relative:.1e}", f"{c.tolerance:g}", f"{c.cosine:.4f}"
        rows.add_row(clean(c.output, 18), *figures, agreement, word)
    console.print(rows)
    console.print()


def _layers(console: Console, result: Compared) -> None:
    total = [len(result.layers) + len(names) for names in result.alone]
    same = sum(not layer.weights for layer in result.layers)
    console.print(
        f"{len(result.layers)} linear layers correspond (of {total[0]} and {total[1]}), {same} with equal weights up to"
        f" {result.precision} rounding.",
        highlight=False,
    )
    for word, names in zip(("first", "second"), result.alone, strict=True):
        if names:
            listed = ", ".join(clean(name, WIDE).plain for name in names[:WORST])
            more = f" and {len(names) - WORST} more" if len(names) > WORST else ""
            console.print(Text(f"Only in the {word}: {listed}{more}"))
    listed_layers = _telling(result.layers)
    if listed_layers:
        rows = table("layer", "in the second", "agrees", "weights", right=(2,))
        for layer in listed_layers:
            alike = layer.nodes[0] == layer.nodes[1]
            nodes = (clean(layer.nodes[0], 36), "same") if alike else (clean(name, 24) for name in layer.nodes)
            rows.add_row(*nodes, _level(layer), clean(layer.weights, 120) if layer.weights else "equal")
        console.print(rows)
    console.print()


def _telling(layers: Sequence[LayerPair]) -> list[LayerPair]:
    """The layers that agree least, in their order."""
    known = [layer for layer in layers if layer.weights or (layer.level is not None and layer.level < EXACT)]
    worst = sorted(known, key=lambda layer: (not layer.weights, EXACT if layer.level is None else layer.level))
    chosen = set(map(id, worst[: 2 * WORST]))
    return [layer for layer in layers if id(layer) in chosen]


def _level(layer: LayerPair) -> str:
    if layer.level is None:
        return "?"
    word = "exactly" if layer.level >= EXACT else f"{layer.level:.0f} dB"
    return f"{word} (reordered)" if layer.moved else word


def _divergence(console: Console, found: Divergence, result: Compared) -> None:
    nodes = [clean(name or "nothing", 60) for name in found.nodes]
    console.print(Text.assemble("They part at ", nodes[0], " / ", nodes[1]), style="bold")
    console.print(f"  {found.before:.0f} dB agree at its inputs, {found.after:.0f} dB behind it.", highlight=False)
    for finding in found.findings[:WORST]:
        where = Text.assemble(" (", clean(finding.nodes[0]), ")") if finding.nodes != found.nodes else Text("")
        console.print(Text.assemble(f"  {finding.kind}: ", clean(finding.what, 200), where))
    if result.others:
        console.print(f"  {result.others} more nodes lose much at once behind it (--json lists all layers).")
