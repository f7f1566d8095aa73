"""The tables of graphs, held against the table of rules."""

from __future__ import annotations

import pytest

from onnxprune.registry import Rule
from onnxprune.rules import RULES
from tests.laws import parse
from tests.rules import (
    test_convolution,
    test_joining,
    test_matmul,
    test_normalization,
    test_pointwise,
    test_pooling,
    test_reduction,
    test_shape,
    test_spatial,
)
from tests.rules.cases import Case, operator

TABLES: dict[str, dict[str, Case]] = {
    "pointwise": test_pointwise.GRAPHS,
    "convolution": test_convolution.GRAPHS,
    "matmul": test_matmul.GRAPHS,
    "normalization": test_normalization.GRAPHS,
    "pooling": test_pooling.GRAPHS,
    "reduction": test_reduction.GRAPHS,
    "shape": test_shape.GRAPHS,
    "joining": test_joining.GRAPHS,
    "spatial": test_spatial.GRAPHS,
}
ENTRIES = [(title, case) for table in TABLES.values() for title, case in table.items()]


def test_every_operator_of_the_rule_table_has_a_graph() -> None:
    shown = {operator(title) for title, _ in ENTRIES}
    assert {kind for _, kind in RULES} == shown


def test_some_graph_of_every_operator_loses_units_unless_the_operator_always_refuses() -> None:
    removable = {operator(title) for title, case in ENTRIES if case.groups}
    assert {kind for _, kind in RULES} - removable == {"LRN"}


@pytest.mark.parametrize(("title", "case"), ENTRIES, ids=[title for title, _ in ENTRIES])
def test_a_graph_contains_the_operator_that_it_is_titled_by(title: str, case: Case) -> None:
    model = parse(case.text, opset=case.opset, ir=case.ir)
    assert operator(title) in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("rule", RULES.values(), ids=[kind for _, kind in RULES])
def test_every_rule_says_what_it_knows(rule: Rule) -> None:
    assert (rule.facts.__doc__ or "").strip().endswith((".", ")"))
