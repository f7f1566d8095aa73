"""Protections, ends and boundaries of the analysis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.pins import Protection
from onnxprune.errors import UsageError
from onnxprune.model.record import Record
from tests.laws import analyse, parse

CHAIN = """net (float[N,4] x) => (float[N,2] y)
<float[4,6] first_w, float[6] first_b, float[6,8] middle_w, float[8,5] last_w, float[5,2] head_w>
{ [one] a = MatMul(x, first_w) [two] s = Add(a, first_b) [three] r = Relu(s) [four] b = MatMul(r, middle_w)
  [five] c = MatMul(b, last_w) [six] y = MatMul(c, head_w) }"""


def widths(protection: Protection) -> list[int]:
    analysis = Analysis(Graph(Record(parse(CHAIN))), protection)
    return [len(analysis.members(g)) for g in range(analysis.groups)]


@pytest.mark.parametrize(
    ("protection", "expected"),
    [
        (Protection(), [6, 8, 5]),
        (Protection(names=("first_w",)), [8, 5]),
        (Protection(names=("four",)), [5]),
        (Protection(names=("f*",)), []),
        (Protection(first=True), [8, 5]),
        (Protection(last=True), [6, 8]),
        (Protection(first=True, last=True), [8]),
    ],
)
def test_what_is_protected_stays(protection: Protection, expected: list[int]) -> None:
    assert widths(protection) == expected


def test_protecting_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"called 'nope\*'"):
        widths(Protection(names=("nope*",)))


def test_an_opset_before_broadcasting_is_left_alone() -> None:
    model = parse(CHAIN, opset=6)
    assert analyse(model).units == 0


def test_a_model_without_weights_has_no_units() -> None:
    assert analyse(parse("net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")).units == 0


def test_widths_follow_the_mask() -> None:
    analysis = analyse(parse(CHAIN))
    removed = np.zeros(analysis.units, dtype=bool)
    removed[analysis.members(1)[:3]] = True
    assert analysis.cut_axes(removed) == {("middle_w", 1): 5, ("b", 1): 5, ("last_w", 0): 5}


def test_the_analysis_does_not_change_the_model() -> None:
    model = parse(CHAIN)
    record = Record(model)
    before = record.proto.SerializeToString(deterministic=True)
    Analysis(Graph(record))
    assert record.proto.SerializeToString(deterministic=True) == before
    assert isinstance(model, onnx.ModelProto)
