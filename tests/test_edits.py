"""Values and biases that are written into a model: only what was asked for changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.linear import layers
from onnxprune.model.edits import with_biases, with_values
from onnxprune.model.record import Array, Record
from tests.laws import analyse, groups, parse, run
from tests.linears import KINDS, alone, batches, found, normal
from tests.material import save, save_external


def made(model: onnx.ModelProto | Record, feed: dict[str, Array], folder: Path) -> list[Array]:
    whole = model.whole() if isinstance(model, Record) else model
    onnx.checker.check_model(whole, full_check=True)
    return run(save(whole, folder / "model.onnx"), feed)


def biased(model: onnx.ModelProto) -> Record:
    analysis = analyse(model)
    return with_biases(analysis.graph, layers(analysis.graph, analysis.rule))


@pytest.mark.parametrize("name", KINDS)
def test_a_bias_of_zeros_changes_no_output_and_is_found_again(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    model, feed = alone(kind), {"h": normal(kind.h)}
    record = biased(model)
    for a, b in zip(made(record, feed, tmp_path), made(model, feed, tmp_path), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    (linear,) = found(record.whole())
    assert linear.bias is not None
    if kind.b is not None:
        assert record.whole().graph == Record(model).whole().graph
    else:
        bias = linear.op.graph.constant(linear.bias.name)
        assert bias is not None
        assert not bias.any()
    assert biased(record.whole()).whole().graph == record.whole().graph


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.b is None])
def test_the_new_bias_is_added_to_the_output(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    model, feed = alone(kind), {"h": normal(kind.h)}
    record = biased(model)
    (linear,) = found(record.whole())
    assert linear.bias is not None
    bias = np.arange(1, 5, dtype=np.float32)
    (a,) = made(with_values(Graph(record), {linear.bias.name: bias}), feed, tmp_path)
    (b,) = made(model, feed, tmp_path)
    axis = 1 if "Conv" in name else -1
    np.testing.assert_allclose(np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1) + bias, atol=1e-5)


COMPUTED = {
    "Conv": "g (float[N,3,5,6] h, float[4] b) => (float[N,4,3,4] z) <float[4,3,3,3] w> { z = Conv(h, w, b) }",
    "ConvTranspose": """g (float[N,3,5,6] h, float[4] b) => (float[N,4,7,8] z) <float[3,4,3,3] w> {
        z = ConvTranspose(h, w, b) }""",
    "Gemm": "g (float[N,3] h, float[4] b) => (float[N,4] z) <float[3,4] w> { z = Gemm(h, w, b) }",
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_layer_whose_bias_is_computed_still_computes_the_same(name: str, tmp_path: Path) -> None:
    model = parse(COMPUTED[name])
    shape = (-1, 3, 5, 6) if "Conv" in name else (-1, 3)
    feed = {"h": normal(shape), "b": normal((4,))}
    record = biased(model)
    for a, b in zip(made(record, feed, tmp_path), made(model, feed, tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)
    if "Conv" in name:
        assert [node.op_type for node in record.structure.graph.node] == [name]
    assert [linear.bias for linear in found(record.whole())] == [None]


def test_new_names_are_not_taken_and_nodes_stay_in_order(tmp_path: Path) -> None:
    model = parse("""g (float[N,4] x) => (float[N,4] y, float[N,4] z) <float[4,4] u, float[4,4] v, float[4,4] w> {
        h = MatMul(x, u)  m = MatMul(h, v)  y = Relu(m)  z = MatMul(m, w) }""")
    for old, new in (("h", "y.bias"), ("m", "z.product")):
        for node in model.graph.node:
            for field in (node.input, node.output):
                for slot, name in enumerate(field):
                    field[slot] = new if name == old else name
    feed = dict(batches({"x": (-1, 4)}, 1)[0])
    record = biased(model)
    for a, b in zip(made(record, feed, tmp_path), made(model, feed, tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)
    names = [name for node in record.structure.graph.node for name in node.output]
    names += [tensor.name for tensor in record.structure.graph.initializer]
    assert len(names) == len(set(names)) == 4 + 3 + 3 + 3
    assert sum(linear.bias is not None for linear in found(record.whole())) == 3


def test_biases_keep_groups_and_add_a_tensor_to_them() -> None:
    model = parse("""g (float[N,4] x) => (float[N,3] y) <float[4,6] u, float[6,3] w> {
        h = MatMul(x, u)  r = Relu(h)  y = MatMul(r, w) }""")
    assert groups(model) == {"u:1 w:0": 6}
    assert groups(biased(model).whole()) == {"h.bias:0 u:1 w:0": 6}


@settings(deadline=None, max_examples=20)
@given(names=st.sets(st.sampled_from(["u", "b", "w", "k", "v"])), seed=st.integers(0, 9))
def test_only_what_was_given_is_written_bit_for_bit(names: set[str], seed: int) -> None:
    model = parse("""g (float[N,4] x) => (float[N,3] y) <float[4,6] u, float[6] b, float16[6,6] w, float[6,3] v> {
        h = Gemm(x, u, b)  k = Constant <value = float[6] {1, 2, 3, 4, 5, 6}> ()  m = Mul(h, k)
        c = Cast <to = 10> (m)  p = MatMul(c, w)  q = Cast <to = 1> (p)  y = MatMul(q, v) }""")
    graph = analyse(model).graph
    rng = np.random.default_rng(seed)
    values = {}
    for name in sorted(names):
        old = np.asarray(graph.constant(name))
        values[name] = rng.standard_normal(old.shape).astype(old.dtype)
    again = Graph(with_values(graph, values))
    for name in graph.constants():
        wanted = values.get(name, graph.constant(name))
        got = again.constant(name)
        assert wanted is not None
        assert got is not None
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    assert [op.kind for op in again.ops] == [op.kind for op in graph.ops]


SHARED = """g (float[N,4] x) => (float[N,4] y) <float[4,4] u, float[4,4] v, float[4] b> {
    h = MatMul(x, u)  k = Add(h, b)  r = Relu(k)  m = MatMul(r, v)  y = Add(m, b) }"""
SHARED_NODE = SHARED.replace(", float[4] b>", ">").replace(
    "h = MatMul", "b = Constant <value = float[4] {1, 2, 3, 4}> ()  h = MatMul"
)


@pytest.mark.parametrize("text", [SHARED, SHARED_NODE])
@pytest.mark.parametrize("which", ["the vector", "its copy", "both"])
def test_readers_of_a_shared_vector_get_values_of_their_own(text: str, which: str, tmp_path: Path) -> None:
    model = parse(text)
    graph = analyse(model).graph
    (copy,) = graph.copies
    old = np.asarray(graph.constant("b"))
    first, second = (old if which == "its copy" else old + 5), (old if which == "the vector" else old - 9)
    values = {name: value for name, value in (("b", first), (copy, second)) if value is not old}
    feed = dict(batches({"x": (-1, 4)}, 1)[0])
    u, v = (np.asarray(graph.constant(name)) for name in ("u", "v"))
    (y,) = made(with_values(graph, values), feed, tmp_path)
    np.testing.assert_allclose(y, np.maximum(feed["x"] @ u + first, 0) @ v + second, rtol=1e-5, atol=1e-5)


BODY = """g (float[3,4] x, bool c) => (float[3,2] y) <float[4,6] u, float[6,2] v, float[6] b> {
    h = MatMul(x, u)  g = Add(h, b)
    t = If (c) <then_branch = yes () => (float[3,6] r) <float[6] s = {1, 2, 3, 4, 5, 6}> {
            k = Constant <value = float[6] {1, 1, 1, 1, 1, 1}> ()  p = Mul(g, s)  q = Add(p, k)  r = Add(q, b) },
                else_branch = no () => (float[3,6] r) { r = Relu(g) }>
    y = MatMul(t, v) }"""


def test_values_inside_bodies_are_written(tmp_path: Path) -> None:
    """An initializer, a Constant node, and a vector of the graph around it that others read, too."""
    graph = analyse(parse(BODY)).graph
    (copy,) = graph.copies
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(6).astype(np.float32) for name in ("s", "k", "b")}
    feed = {"c": np.array(True), **batches({"x": (3, 4)}, 1)[0]}
    u, v, old = (np.asarray(graph.constant(name)) for name in ("u", "v", "b"))
    for after in (old, rng.standard_normal(6).astype(np.float32)):
        given_ = values if after is old else {**values, copy: after}
        (first, second) = (
            (values["b"], after) if copy in [op.ins[1] for op in graph.ops if op.out == "r"] else (after, values["b"])
        )
        (y,) = made(with_values(graph, given_), feed, tmp_path)
        wanted = ((feed["x"] @ u + first) * values["s"] + values["k"] + second) @ v
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def test_a_record_with_values_is_known_as_the_one_it_was_made_from(tmp_path: Path) -> None:
    record = Record(save_external(tmp_path))
    made_ = with_values(Graph(record), {"b1": np.ones(64, dtype=np.float32)})
    assert (made_.name, made_.sha256) == (record.name, record.sha256)
    assert not made_.data_files
    np.testing.assert_array_equal(made_.array("w1"), record.array("w1"))
    np.testing.assert_array_equal(made_.array("b1"), 1)


def test_units_are_the_same_after_values_are_written() -> None:
    analysis = analyse(parse(SHARED))
    values: dict[str, Array] = {"b": np.ones(4, dtype=np.float32)}
    again = Analysis(Graph(with_values(analysis.graph, values)))
    assert again.units == analysis.units
    assert not again.graph.copies
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in again.graph.proto.initializer}
    assert len(tensors) == 4
