"""What `verify` found, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from onnxprune.cli.render import ROWS, amount, clean, differences, table
from onnxprune.report.results import Verified
from onnxprune.verification.comparison import Comparison
from onnxprune.verification.divergence import Divergence
from onnxprune.verification.placement import Placement


def verified(console: Console, result: Verified) -> None:
    """The questions that were asked, one after the other."""
    answers = result.answers
    if answers.surgery:
        with_plan = "Is the surgery right? The candidate, and the reference with the plan's units zeroed:"
        console.print(Text(with_plan if result.against else "Does the candidate give the reference's outputs?"))
        _by_setup(console, answers.surgery, answers.divergence.get("surgery", {}))
    if answers.agreement:
        console.print(Text("Do the providers agree? The same model there, and on the CPU unoptimised:"))
        _by_setup(console, answers.agreement, answers.divergence.get("agreement", {}))
    if answers.cost:
        console.print(Text("What did it cost? The candidate, and the reference as it is:"))
        differences(console, answers.cost)
        console.print()
    _placed(console, answers.placement)


def _by_setup(console: Console, found: Mapping[str, Sequence[Comparison]], parted: Mapping[str, Divergence]) -> None:
    rows = table("where", "output", "max error", "of range", "allowed", "", right=(2, 3, 4))
    for where, c in ((where, c) for where, each in found.items() for c in each):
        figures = (f"{c.max_abs:.3g}", f"{c.relative:.1e}", f"{c.tolerance:g}")
        rows.add_row(where, clean(c.output, 24), *figures, _verdict(c))
    console.print(rows)
    for where, divergence in parted.items():
        console.print(Text.assemble(f"{where}: they part ", clean(str(divergence), 300)), style="red")
    console.print()


def _verdict(c: Comparison) -> Text:
    if not c:
        return Text(f"DIFFERS {clean(c.problem, 200)}".strip(), "red")
    beside = f", {c.nonfinite:,} not finite in both" if c.nonfinite else ""
    return Text(f"equal{beside}{', by its own rounding' if c.noise is not None else ''}", "green")


def _placed(console: Console, found: Mapping[str, Placement]) -> None:
    """Where nodes ran, unless all of it was to be expected."""
    for where, placement in found.items():
        if placement.provider == "cpu":
            continue
        nodes = ", ".join(f"{count:,} on {clean(name).plain}" for name, count in placement.nodes.items())
        console.print(Text(f"{where}: ran {placement.share:.1%} of its {placement.measure} itself; nodes: {nodes}."))
        for node, op, other, macs in placement.elsewhere[:ROWS]:
            console.print(
                Text.assemble(f"  {clean(op).plain} ", clean(node, 48), f" ran on {other} ({amount(macs)} MACs)")
            )
        if len(placement.elsewhere) > ROWS:
            console.print(f"  … and {len(placement.elsewhere) - ROWS} more (--json lists all)")
