"""The tables of graphs, one per family, held against the table of rules."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

from onnxprune.algebra.registry import Rule
from onnxprune.rules import FAMILIES, RULES
from tests.laws import parse
from tests.rules.cases import Case, operator


def graphs(family: ModuleType) -> dict[str, Case]:
    """The graphs of the file that tests a family."""
    table: dict[str, Case] = import_module(f"tests.rules.test_{name(family)}").GRAPHS
    return table


def name(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]


ENTRIES = [(title, case) for family in FAMILIES for title, case in graphs(family).items()]


@pytest.mark.parametrize("family", FAMILIES, ids=name)
def test_every_operator_of_a_family_has_a_graph(family: ModuleType) -> None:
    assert {kind for _, kind in family.RULES} == {operator(title) for title in graphs(family)}


def test_some_graph_of_every_operator_loses_units() -> None:
    losing = {kind for (_, kind), rule in RULES.items() if rule.pins is None}
    assert losing <= {operator(title) for title, case in ENTRIES if case.groups}


@pytest.mark.parametrize(("title", "case"), ENTRIES, ids=[title for title, _ in ENTRIES])
def test_a_graph_contains_the_operator_that_it_is_titled_by(title: str, case: Case) -> None:
    model = parse(case.text, opset=case.opset, ir=case.ir)
    assert operator(title) in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("rule", RULES.values(), ids=[kind for _, kind in RULES])
def test_every_rule_says_what_it_knows(rule: Rule) -> None:
    assert (rule.facts.__doc__ or "").strip().endswith(".")
