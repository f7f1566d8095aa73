"""Every refusal is data that can be printed."""

from __future__ import annotations

import pytest

from onnxprune.algebra.explain import Explainer
from onnxprune.errors import UsageError
from tests.laws import analyse, parse

NET = """net (float[N,4] x) => (float[N,3] y) <float[4,6] w1, float[6] scale, float[6,3] w2, float[4,3] w3>
{ a = MatMul(x, w1) s = Softmax<axis=-1>(a) m = Mul(s, scale) b = MatMul(m, w2) c = MatMul(x, w3) y = Add(b, c) }"""
FREE = """net (float[N,4] x) => (float[N,3] y) <float[4,6] w1, float[6] b1, float[6,3] w2>
{ a = MatMul(x, w1) s = Add(a, b1) r = Relu(s) y = MatMul(r, w2) }"""


def test_a_pinned_axis_leads_to_the_node_that_pins_it() -> None:
    found = Explainer(analyse(parse(NET))).tensor("w2")[0]
    assert found.pinned == 6
    assert [step.to for step in found.chain] == [("m", 1), ("s", 1)]
    assert "Softmax" in found.why


def test_a_free_axis_names_its_group() -> None:
    found = Explainer(analyse(parse(FREE))).tensor("w1")
    assert (found[0].pinned, found[0].groups) == (4, ())
    assert (found[1].pinned, found[1].groups) == (0, (0,))


def test_a_group_is_held_together_by_its_ties() -> None:
    steps = Explainer(analyse(parse(FREE))).group(0)
    reached = {step.axis for step in steps} | {step.to for step in steps}
    assert {("w1", 1), ("b1", 0), ("w2", 0)} <= reached
    assert {step.node.split()[0] for step in steps} <= {"MatMul", "Add", "Relu"}


def test_an_operator_lists_its_axes_and_what_it_keeps_of_them() -> None:
    found = {e.axis: e for e in Explainer(analyse(parse(NET))).op("Softmax")}
    assert found.keys() == {("a", 0), ("a", 1), ("s", 0), ("s", 1)}
    assert found["a", 0].why == "its size is known only at run time"
    assert "normalises over it" in found["a", 1].why
    assert found["a", 1].pinned == found["a", 1].size


def test_what_stays_is_summed_up_by_reason() -> None:
    reasons = Explainer(analyse(parse(NET))).staying()
    assert sum(weights for _, weights, _ in reasons) == 4
    assert sum(params for _, _, params in reasons) == 24 + 6 + 18 + 12


@pytest.mark.parametrize("ask", [lambda e: e.tensor("nope"), lambda e: e.group(7), lambda e: e.op("Conv")])
def test_a_wrong_name_is_a_usage_error(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        ask(Explainer(analyse(parse(FREE))))
