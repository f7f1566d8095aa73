"""Weights that are computed from weights alone: folded where that keeps them whole, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.algebra.analysis import Model
from onnxprune.algebra.folding import folded
from onnxprune.algebra.graph import Graph
from onnxprune.model.record import Record
from onnxprune.plan import Plan
from tests.laws import parse

STANDARDISED = """net (float[N,3,6,6] x) => (float[N,4,6,6] y)
<float[8,3,3,3] w1, float[6,8,3,3] w2, float[4,6,1,1] w3, float eps = {0.1}> {
    m1 = ReduceMean <axes = [1,2,3]> (w1)  c1 = Sub(w1, m1)
    a = Conv <pads = [1,1,1,1]> (x, c1)  r = Relu(a)
    m2 = ReduceMean <axes = [1,2,3]> (w2)  c2 = Sub(w2, m2)  q2 = Mul(c2, c2)  v2 = ReduceMean <axes = [1,2,3]> (q2)
    e2 = Add(v2, eps)  d2 = Sqrt(e2)  s2 = Div(c2, d2)
    b = Conv <pads = [1,1,1,1]> (r, s2)  t = Relu(b)
    y = Conv(t, w3)
}"""


def saved(text: str, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(parse(text), path)
    return path


def test_a_standardised_weight_loses_its_inputs_and_its_outputs(tmp_path: Path) -> None:
    result = onnxprune.prune(saved(STANDARDISED, tmp_path), tmp_path / "small.onnx", recover="none", ratio=0.5, align=1)
    assert result.applied.verified
    small = onnx.load(tmp_path / "small.onnx")
    dims = sorted(tuple(t.dims) for t in small.graph.initializer if len(t.dims) == 4)
    assert dims == [(3, 4, 3, 3), (4, 3, 1, 1), (4, 3, 3, 3)]
    assert "ReduceMean" not in {node.op_type for node in small.graph.node}


def test_the_folded_model_computes_the_same(tmp_path: Path) -> None:
    path = saved(STANDARDISED, tmp_path)
    record = folded(Graph(Record(path)))
    assert record is not None
    (tmp_path / "folded.onnx").write_bytes(bytes(record.buffer))
    assert all(onnxprune.verify(path, tmp_path / "folded.onnx").proof["cpu"])
    assert record.sha256 == Record(path).sha256


def test_a_plan_that_removes_nothing_folds_nothing(tmp_path: Path) -> None:
    path = saved(STANDARDISED, tmp_path)
    onnxprune.prune(path, tmp_path / "same.onnx", recover="none", ratio=0)
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()


def test_a_plan_of_a_folded_model_is_replayed_to_the_same_bytes(tmp_path: Path) -> None:
    path = saved(STANDARDISED, tmp_path)
    result = onnxprune.prune(path, tmp_path / "a.onnx", recover="none", ratio=0.5, align=1)
    onnxprune.apply(path, Plan.loads(result.plan.dumps()), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


UNTOUCHED = {
    "what facts flow through": "t = Transpose <perm = [1,0]> (w)  u = Identity(t)",
    "what an input takes part in": "p = ReduceMean <axes = [0,1]> (x)  u = Mul(w, p)",
    "what draws random numbers": "n = RandomNormalLike(w)  u = Softmax <axis = 0> (n)",
}


@pytest.mark.parametrize("steps", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_what_need_not_be_folded_stays(steps: str) -> None:
    text = f"net (float[N,6] x) => (float[N,6] y) <float[6,6] w> {{ {steps}  y = MatMul(x, u) }}"
    model = Model(Record(parse(text)))
    assert model.graph.record is model.record


def test_what_is_far_larger_than_its_weights_is_not_folded() -> None:
    text = """net (float[N,6] x) => (float[N,640] y) <float[6,1] w, int64[2] wide = {6,640}> {
        s = Softmax <axis = 0> (w)  u = Expand(s, wide)  y = MatMul(x, u)
    }"""
    assert Model(Record(parse(text))).graph.record.structure.graph.node[0].op_type == "Softmax"


def test_values_that_are_not_finite_are_not_folded() -> None:
    text = """net (float[N,6] x) => (float[N,6] y) <float[6,6] w> {
        z = Sub(w, w)  m = ReduceMean <axes = [0]> (z)  u = Div(w, m)  y = MatMul(x, u)
    }"""
    with np.errstate(all="ignore"):
        assert folded(Graph(Record(parse(text)))) is None
