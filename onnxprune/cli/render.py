"""Results as people read them in a terminal: 80 columns, no colour where none is wanted, hostile names harmless."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxprune.algebra.explain import Explanation, Step
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.operators import Known
from onnxprune.criteria.base import Criterion, Needs
from onnxprune.plan import Plan
from onnxprune.report.results import Applied, Fidelity, Inspection, Pruned, Ran
from onnxprune.report.wording import FRACTIONS as FRACTIONS
from onnxprune.report.wording import amount as amount
from onnxprune.verification.comparison import Comparison

LONGEST_NAME = 60
ROWS = 12  # of a long list, before "and more"
MOST_AXES = 24


def clean(name: str, longest: int = LONGEST_NAME) -> Text:
    """A name from a model, without control characters or markup, cut to a readable length in its middle."""
    if len(name) > longest:
        name = f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"
    return Text("".join(c if c.isprintable() else "?" for c in name))


def _shape(dims: Iterable[int | str]) -> str:
    """Sizes as people write them; a size without a name of its own is a question mark."""
    return "x".join("?" if str(dim).startswith("?") else clean(str(dim), 20).plain for dim in dims)


def axis_text(axis: Axis) -> str:
    """A tensor's axis in words."""
    return f"{clean(axis[0]).plain}[{axis[1]}]"


def table(*columns: str, right: Iterable[int] = ()) -> Table:
    """An empty table; the columns of these numbers are flush right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in right else "left", overflow="fold")
    return table


def pruned(console: Console, result: Pruned) -> None:
    """Before and after, and what proves it."""
    before, after = result.plan.cost["before"], result.plan.cost["after"]
    rows = table("", "before", "after", "kept", right=(1, 2, 3))
    for label, name in (("parameters", "params"), ("MACs", "macs")):
        rows.add_row(label, amount(before[name]), amount(after[name]), _kept(before[name], after[name]))
    if result.applied.bytes:
        old, new = result.applied.bytes["before"], result.applied.bytes["after"]
        rows.add_row("bytes", amount(old), amount(new), _kept(old, new))
    if result.fidelity:
        _measured(rows, result.fidelity)
    console.print(rows)
    console.print()
    applied(console, result.applied)
    if result.fidelity:
        _fidelity(console, result.fidelity)


def planned(console: Console, plan: Plan, out: str) -> None:
    """What a plan will do."""
    before, after = plan.cost["before"], plan.cost["after"]
    rows = table("", "before", "after", "kept", right=(1, 2, 3))
    for label, name in (("parameters", "params"), ("MACs", "macs"), ("bytes", "bytes")):
        rows.add_row(label, amount(before[name]), amount(after[name]), _kept(before[name], after[name]))
    console.print(rows)
    if plan.empty:
        console.print("Nothing is to be removed.")
    console.print(Text.assemble("Wrote ", clean(out, 200)))


def _kept(before: float, after: float) -> str:
    return f"{after / before:.1%}" if before else ""


def _measured(rows: Table, fidelity: Fidelity) -> None:
    old, new = fidelity.latency_ms
    rows.add_row("latency, 1 row (ms)", f"{old:.3f}", f"{new:.3f}", f"{_kept(old, new)}")
    if fidelity.scores:
        old, new = fidelity.scores
        if fidelity.metric in FRACTIONS:
            rows.add_row(fidelity.metric, f"{old:.2%}", f"{new:.2%}", f"{100 * (new - old):+.2f} points")
        else:
            rows.add_row(clean(fidelity.metric), f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}")


def applied(console: Console, result: Applied) -> None:
    """What was proved, and what was written."""
    if result.proof:
        word = "Removed ≡ zeroed" if result.verified else "REMOVED AND ZEROED DIFFER"
        first = next(iter(result.proof.values()))
        tolerance = max(c.tolerance for c in first)
        where = ", ".join(result.proof)
        console.print(
            f"{word} on {where}: {result.error:.1e} of the output's range apart ({tolerance:g} allowed).",
            highlight=False,
            style="green" if result.verified else "red",
        )
    if result.note:
        console.print(clean(result.note, 400), style="yellow")
    if result.out:
        console.print(Text.assemble("Wrote ", clean(result.out, 200)))


def _fidelity(console: Console, fidelity: Fidelity) -> None:
    kind = "of your data" if fidelity.real else "of seeded noise (give --data for a figure that means something)"
    if fidelity.seen:
        kind = "of the calibration data itself, which flatters (give --eval)"
    console.print(f"Pruned against dense on {fidelity.rows:,} rows {kind}:", highlight=False)
    differences(console, fidelity.outputs)


def differences(console: Console, found: Sequence[Comparison]) -> None:
    """How far outputs are from what they were."""
    rows = table("output", "max error", "mean error", "cosine", "same argmax", right=(1, 2, 3, 4))
    for c in found[:ROWS]:
        agreement = "" if c.agreement is None else f"{c.agreement:.1%}"
        rows.add_row(clean(c.output, 28), f"{c.max_abs:.3g}", f"{c.mean_abs:.3g}", f"{c.cosine:.4f}", agreement)
    console.print(rows)


def inspection(console: Console, result: Inspection) -> None:
    """What is in a model, what can go, why the rest cannot."""
    model = result.model
    opsets = ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items())
    console.print(clean(model["name"], 78), style="bold")
    console.print(clean(f"{model['nodes']} nodes, opset {opsets}, written by {model['producer'] or 'unknown'}", 200))
    for word, values in (("input", model["inputs"]), ("output", model["outputs"])):
        for name, shape in list(values.items())[:ROWS]:
            console.print(Text.assemble(f"  {word} ", clean(name), f" {_shape(shape)}"))
    console.print()
    rows = table("", "as it is", "every group at 1 unit", "kept", right=(1, 2, 3))
    for label, name in (("parameters", "params"), ("MACs", "macs"), ("bytes", "bytes")):
        old, new = getattr(result.cost, name), getattr(result.least, name)
        rows.add_row(label, amount(old), amount(new), _kept(old, new))
    console.print(rows)
    console.print()
    _groups(console, result.groups)
    staying(console, result.staying)


def _groups(console: Console, groups: Sequence[dict[str, object]]) -> None:
    if not groups:
        console.print("Nothing can be removed.")
        return
    console.print(f"{len(groups)} groups can be cut:", highlight=False)
    rows = table("group", "kind", "units", "weight axes", "first", right=(0, 2, 3))
    for group in groups[: 4 * ROWS]:
        axes = group["axes"]
        first = str(axes[0]) if isinstance(axes, list) and axes else ""
        rows.add_row(
            str(group["id"]),
            str(group["kind"]),
            str(group["units"]),
            str(len(axes)) if isinstance(axes, list) else "",
            clean(first, 40),
        )
    console.print(rows)
    if len(groups) > 4 * ROWS:
        console.print(f"… and {len(groups) - 4 * ROWS} more (--json lists all)")
    console.print()


def staying(console: Console, reasons: Sequence[tuple[str, int, int]]) -> None:
    """Why weights stay whole, the largest first."""
    if not reasons:
        console.print("No weight stays whole.")
        return
    console.print("What stays whole, and why:")
    rows = table("parameters", "weights", "because", right=(0, 1))
    for why, weights, params in reasons[:ROWS]:
        rows.add_row(amount(params), str(weights), clean(why, 160))
    console.print(rows)
    if len(reasons) > ROWS:
        console.print(f"… and {len(reasons) - ROWS} more reasons (--json lists all)")


def explanations(console: Console, found: Sequence[Explanation]) -> None:
    """Axis by axis: its group, or the chain of facts that pins it."""
    for e in found[:MOST_AXES]:
        console.print(Text(f"{axis_text(e.axis)}, size {_shape([e.size])}: {_verdict(e)}"))
        steps(console, e.chain)
        if e.pinned and e.chain:
            console.print(Text(f"    {axis_text(e.chain[-1].to)} stays: {clean(e.why, 200).plain}"))
    if len(found) > MOST_AXES:
        console.print(f"… and {len(found) - MOST_AXES} more axes (--json lists all)")


def _verdict(e: Explanation) -> str:
    groups = f"in group {', '.join(map(str, e.groups[:8]))}" if e.groups else ""
    if not e.pinned:
        return f"may be cut, {groups}" if groups else f"stays: {clean(e.why, 200).plain}"
    count = "stays" if not groups else f"{e.pinned} indices stay, the others are {groups}"
    return f"{count}: {clean(e.why, 200).plain}" if not e.chain else f"{count}, because"


def steps(console: Console, chain: Sequence[Step]) -> None:
    """Ties, one a line."""
    for step in chain[: 4 * ROWS]:
        console.print(Text(f"    {axis_text(step.axis)} is tied by {clean(step.node).plain} to {axis_text(step.to)}"))
    if len(chain) > 4 * ROWS:
        console.print(f"    … and {len(chain) - 4 * ROWS} more ties")


def ran(console: Console, result: Ran) -> None:
    """What a pass did."""
    numbers = ", ".join(f"{value} {name}" for name, value in result.numbers.items())
    console.print(Text(f"{result.name}: {numbers}" if result.changed else f"{result.name}: nothing to do"))
    console.print(Text.assemble("Wrote ", clean(result.out, 200)))


def operators(console: Console, known: Iterable[Known]) -> None:
    """What is known of each operator, domain by domain."""
    for domain, entries in groupby(known, key=lambda entry: entry.domain):
        console.print(f"{domain}:")
        rows = table("operator", "status", "what it says")
        for entry in entries:
            rows.add_row(clean(entry.operator), entry.status, clean(entry.says, 200))
        console.print(rows)
        console.print()


def criteria(console: Console, found: Iterable[Criterion]) -> None:
    """What each criterion computes, by what it needs; below the formula, who it is from."""
    rows = table("name", "needs", "the score of a unit p, higher stays")
    for c in sorted(found, key=lambda c: (get_args(Needs).index(c.needs), c.name)):
        rows.add_row(clean(c.name), c.needs, Text.assemble(clean(c.formula, 200), "\n", (c.source, "dim")))
    console.print(rows)
    console.print()
    console.print("W_p: slice of a weight; x_p: activation; U_p: weight that reads it;")
    console.print("H: covariance of x; g: gradient of a sample's loss at a gate behind the unit.")
    console.print("To combine: --criterion 'vote(l1,bn-scale,obs)'.")


def names(console: Console, listed: Iterable[tuple[str, str]]) -> None:
    """A list of names with what each means."""
    rows = table("name", "what it does")
    for name, meaning in listed:
        rows.add_row(clean(name), clean(meaning, 200))
    console.print(rows)
