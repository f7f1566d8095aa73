"""Graphs in ONNX text, each with what its meaning allows to remove."""

from __future__ import annotations

from typing import NamedTuple

from tests.laws import difference, every_other, groups, parse, reasons

LIMIT = 1e-5  # how far removing may be from zeroing


class Case(NamedTuple):
    """One graph.

    Attributes:
        text: the graph; weights that are declared without a value become random.
        groups: for each group the weight axes that it cuts, and its units.
        why: what one of the reasons for keeping something must say; it names the node.
        opset: of the ONNX domain.
        ir: the version of the file format.
    """

    text: str
    groups: dict[str, int]
    why: str | None = None
    opset: int = 17
    ir: int = 8


def check(case: Case) -> None:
    """The partition is as written, the reason is given, and removing half of every group equals zeroing it."""
    model = parse(case.text, opset=case.opset, ir=case.ir)
    assert groups(model) == case.groups
    if case.why is not None:
        assert case.why in reasons(model)
    if case.groups:
        assert difference(model, every_other(model)) <= LIMIT


def operator(title: str) -> str:
    """A table's entries are titled by their operator, then a comma and what is special about them."""
    return title.partition(",")[0]
