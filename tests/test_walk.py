"""Walking with data: wherever it stands, the values are those of the whole model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import ExecutionError
from onnxprune.model.edits import with_values
from onnxprune.model.record import Array
from onnxprune.recovery.walk import Walk, in_order
from onnxprune.surgery import removal, saving
from tests.laws import analyse, every_other, parse, run
from tests.linears import batches

NET = """g (float[N,3,6,6] x) => (float[N,4] y, float[N,5,6,6] r) <float[5,3,3,3] u, float[5] c, float[5,5,1,1] w,
    float[5,4] v> {
    h = Conv <pads = [1, 1, 1, 1]> (x, u, c)  r = Relu(h)  k = Conv(r, w)  a = Add(k, r)  p = GlobalAveragePool(a)
    f = Flatten(p)  y = MatMul(f, v) }"""
CONSTANTS = """g (float[N,3] x) => (float[N,3] y) <float[3,4] u> {
    w = Constant <value = float[4,3] {1,2,3,4,5,6,7,8,9,10,11,12}> ()
    b = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
    h = MatMul(x, u)  k = Relu(h)  m = Add(k, b)  n = MatMul(m, w)  y = Tanh(n) }"""
BODIES = """g (float[3,4] x, bool c) => (float[3,2] y) <float[4,8] u, float[8,6] w, float[6,8] v, float[8,2] k> {
    h = MatMul(x, u)  e = Neg(h)
    t = If (c) <then_branch = yes () => (float[3,8] r) { m = MatMul(h, w)  n = Relu(m)  r = MatMul(n, v) },
                else_branch = no () => (float[3,8] r) {
                    d = Not(c)
                    r = If (d) <then_branch = a () => (float[3,8] s) { s = Add(h, e) },
                                else_branch = b () => (float[3,8] s) { s = Relu(h) }> }>
    y = MatMul(t, k) }"""
TWO = """g (float[N,4] x, float[N,4] z) => (float[N,3] y) <float[4,3] u, float[4,3] v> {
    a = MatMul(x, u)  b = MatMul(z, v)  q = Neg(z)  m = MatMul(q, u2)  s = Add(a, b)  y = Add(s, m) }"""
SHARED = """g (float[N,4] x) => (float[N,4] y) <float[4,4] u, float[4,4] v, float[4] b> {
    h = MatMul(x, u)  k = Add(h, b)  r = Relu(k)  m = MatMul(r, v)  y = Add(m, b) }"""

MODELS: dict[str, tuple[str, list[Feed]]] = {
    "a network": (NET, batches({"x": (-1, 3, 6, 6)}, 3, 2)),
    "constants in nodes": (CONSTANTS, batches({"x": (-1, 3)}, 3, 2)),
    "bodies": (
        BODIES,
        [{"c": np.array(c), **feed} for c, feed in zip([True, False, True], batches({"x": (3, 4)}, 3), strict=True)],
    ),
    "several inputs": (
        TWO.replace("float[4,3] v", "float[4,3] v, float[4,3] u2"),
        batches({"x": (-1, 4), "z": (-1, 4)}, 3, 2),
    ),
    "a shared vector": (SHARED, batches({"x": (-1, 4)}, 3, 2)),
}


def everything(model: onnx.ModelProto, feed: Feed, folder: Path) -> dict[str, Array]:
    """All tensors of the main graph, by one run of the whole model."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = list(dict.fromkeys(name for node in whole.graph.node for name in node.output))
    shown = {value.name for value in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    (folder / "whole.onnx").write_bytes(whole.SerializeToString())
    order = [value.name for value in whole.graph.output]
    return dict(zip(order, run(folder / "whole.onnx", dict(feed)), strict=True))


def copied(_: int, values: Mapping[str, Array]) -> dict[str, Array]:
    return dict(values)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_the_whole_model_wherever_it_stands(name: str, tmp_path: Path) -> None:
    text, feeds = MODELS[name]
    model = parse(text)
    graph = analyse(model).graph
    wanted = [everything(model, feed, tmp_path) for feed in feeds]
    walk = Walk(graph, feeds)
    for place in range(len(walk.ops) + 1):
        walk.advance(place)
        assert walk.at == place
        names = [out for op in walk.ops[place:] for out in op.outs]
        for found, known in zip(walk.map(names, copied), wanted, strict=True):
            assert found.keys() == set(names)
            for tensor in names:
                np.testing.assert_allclose(found[tensor], known[tensor], atol=1e-5)
        for held in walk.held:
            assert not [tensor for tensor in held if graph.is_constant(tensor)]


@pytest.mark.parametrize("name", MODELS)
def test_changed_values_count_wherever_it_stands(name: str, tmp_path: Path) -> None:
    text, feeds = MODELS[name]
    analysis = analyse(parse(text))
    rng = np.random.default_rng(0)
    values = {
        name: rng.standard_normal(np.asarray(analysis.graph.constant(name)).shape).astype(np.float32)
        for name in analysis.graph.constants()
    }
    model = with_values(analysis.graph, values).whole()
    wanted = [everything(model, feed, tmp_path) for feed in feeds]
    outputs = [value.name for value in analysis.graph.proto.output]
    walk = Walk(analysis.graph, feeds)
    for place in range(len(walk.ops)):
        early = {name for op in walk.ops[:place] for name in walk.reads(op)}
        walk = Walk(analysis.graph, feeds, {name: value for name, value in values.items() if name in early})
        walk.advance(place)
        walk.values = dict(values)  # the rest is changed only now
        for found, known in zip(walk.map(outputs, copied), wanted, strict=True):
            for tensor in outputs:
                np.testing.assert_allclose(found[tensor], known[tensor], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_zeroed_values_are_the_zeroed_model(name: str, tmp_path: Path) -> None:
    """Weights inside bodies, and copies of a shared vector that differ, are zeroed as surgery zeroes them."""
    text, feeds = MODELS[name]
    model = parse(text)
    analysis, removed = analyse(model), every_other(model)
    zeroed = saving.write(removal.zero(analysis, removed), tmp_path, "zeroed.onnx")
    walk = Walk(analysis.graph, feeds, removal.zeroed(analysis, removed))
    outputs = [value.name for value in analysis.graph.proto.output]
    for feed, found in zip(feeds, walk.map(outputs, copied), strict=True):
        for tensor, wanted in zip(outputs, run(zeroed, dict(feed)), strict=True):
            np.testing.assert_allclose(found[tensor], wanted, atol=1e-5)


def test_weights_that_live_inside_a_body_can_be_changed() -> None:
    numbers = ", ".join(str(number % 7 - 3) for number in range(48))
    text = BODIES.replace("float[8,6] w, ", "").replace(
        "yes () => (float[3,8] r) {", f"yes () => (float[3,8] r) <float[8,6] w = {{{numbers}}}> {{", 1
    )
    analysis = analyse(parse(text))
    feeds: list[Feed] = [{"c": np.array(True), **batches({"x": (3, 4)}, 1)[0]}]
    (dense,) = Walk(analysis.graph, feeds).map(["t"], copied)
    (zero,) = Walk(analysis.graph, feeds, {"w": np.zeros((8, 6), dtype=np.float32)}).map(["t"], copied)
    assert dense["t"].any()
    assert not zero["t"].any()


def test_only_what_is_alive_is_kept() -> None:
    text, feeds = MODELS["a network"]
    walk = Walk(analyse(parse(text)).graph, feeds)
    walk.advance(3)  # before the Add
    assert [sorted(held) for held in walk.held] == [["k", "r"]] * 3
    walk.advance(5)
    assert [sorted(held) for held in walk.held] == [["p", "r"]] * 3  # r is an output


def test_it_never_goes_back() -> None:
    text, feeds = MODELS["a network"]
    walk = Walk(analyse(parse(text)).graph, feeds)
    walk.advance(4)
    walk.advance(2)
    assert walk.at == 4


def test_it_stays_where_more_would_be_kept_than_fits() -> None:
    text, feeds = MODELS["a network"]
    graph = analyse(parse(text)).graph
    size = 3 * 2 * 5 * 6 * 6 * 4  # h, of all three batches
    walk = Walk(graph, feeds, memory=size - 1)
    walk.advance(1)
    assert walk.at == 0
    assert [list(held) for held in walk.held] == [["x"]] * 3
    assert [values["y"].shape for values in walk.map(["y"], copied)] == [(2, 4)] * 3
    walk.memory = size
    walk.advance(1)
    assert walk.at == 1
    walk.advance(3)  # two tensors of this size
    assert walk.at == 1


def test_batches_comein_order_whoever_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    feeds = [{"x": np.full((1, 3), number, dtype=np.float32)} for number in range(9)]
    walk = Walk(analyse(parse("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")).graph, feeds)

    def late(number: int, values: Mapping[str, Array]) -> tuple[int, float]:
        time.sleep(0.01 * (number % 3 == 0))
        return number, float(values["y"][0, 0])

    assert list(walk.map(["y"], late)) == [(number, -number) for number in range(9)]


def test_no_more_is_computed_ahead_than_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    started: list[int] = []
    found = in_order(lambda number: started.append(number) or number, 50)  # type: ignore[func-returns-value]
    assert next(found) == 0
    time.sleep(0.05)
    assert len(started) <= 3
    assert list(found) == list(range(1, 50))


@pytest.mark.parametrize("name", MODELS)
def test_values_do_not_depend_on_the_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, feeds = MODELS[name]
    graph = analyse(parse(text)).graph
    found = []
    for cpus in (1, 2, None):
        monkeypatch.setattr("os.cpu_count", lambda cpus=cpus: cpus)
        walk = Walk(graph, feeds)
        walk.advance(2)
        found.append([values["y"].tobytes() for values in walk.map(["y"], copied)])
    assert found[0] == found[1] == found[2]


def test_a_tensor_at_hand_is_not_computed() -> None:
    text, feeds = MODELS["a network"]
    walk = Walk(analyse(parse(text)).graph, feeds)
    for feed, found in zip(feeds, walk.map(["x", "x"], copied), strict=True):
        assert found["x"] is feed["x"]


def test_an_input_with_a_default_keeps_it() -> None:
    model = parse("g (float[N,3] x, float[3,2] w) => (float[N,2] y) { h = Neg(x)  y = MatMul(h, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2), dtype=np.float32), "w"))
    feeds = batches({"x": (-1, 3)}, 2, 4)
    walk = Walk(analyse(model).graph, feeds)
    walk.advance(1)
    for feed, found in zip(feeds, walk.map(["y"], copied), strict=True):
        np.testing.assert_allclose(found["y"], -feed["x"].sum(1, keepdims=True).repeat(2, 1), atol=1e-6)


def test_a_part_that_does_not_run_says_so() -> None:
    model = parse("g (float[N,M] x) => (float[N,2] y) <float[3,2] w> { y = MatMul(x, w) }")
    walk = Walk(analyse(model).graph, [{"x": np.zeros((2, 5), dtype=np.float32)}])
    with pytest.raises(ExecutionError, match="cannot run"):
        list(walk.map(["y"], copied))
