"""Graphs in ONNX text, each with what its meaning allows to remove."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from onnxprune.algebra.facts import Macs
from tests.laws import analyse, difference, every_other, groups, parse, reasons

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
    """The partition is as written, the reason is given, and removing half of all equals zeroing it, and all but one."""
    model = parse(case.text, opset=case.opset, ir=case.ir)
    assert groups(model) == case.groups
    if case.why is not None:
        assert case.why in reasons(model)
    if case.groups:
        assert difference(model, every_other(model)) <= LIMIT
        assert difference(model, analyse(model).least(), silent=True) <= LIMIT


def check_alone(case: Case) -> None:
    """Removing all of one group but a unit equals zeroing it, too: what must be as wide as another is tied to it."""
    model = parse(case.text, opset=case.opset, ir=case.ir)
    analysis = analyse(model)
    for group in range(analysis.groups):
        removed = np.zeros(analysis.units, dtype=bool)
        removed[analysis.members(group)[1:]] = True
        assert difference(model, removed) <= LIMIT


BATCHED = """g (float[N,4] x) => (float[N,M] y) <float[4,8] u, float[8,4,6,6] w, {weights}> {{
    h = MatMul(x, u)  {step}  f = Flatten(t)  y = MatMul(h, f)
}}"""
"""A batch of 8 pictures that are weights themselves: what a step keeps apart, the product behind it may lose."""


def batched(step: str, groups: dict[str, int], weights: str = "float[1] unused", opset: int = 17) -> Case:
    """The batch axis is cut, and whatever else is said."""
    return Case(BATCHED.format(step=step, weights=weights), {"u:1 w:0": 8} | groups, opset=opset)


def multiply_accumulates(node: str, weights: str) -> int:
    """The product of the sizes that a node states."""
    analysis = analyse(parse(f"g () => (float y) <{weights}> {{ z = {node}  y = ReduceSum <keepdims = 0> (z) }}"))
    (stated,) = [fact for fact in analysis.facts[0] if isinstance(fact, Macs)]
    return math.prod(int(analysis.graph.shapes[name][axis]) for name, axis in stated.axes)


def operator(title: str) -> str:
    """A table's entries are titled by their operator, then a comma and what is special about them."""
    return title.partition(",")[0]
