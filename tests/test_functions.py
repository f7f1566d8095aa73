"""Local functions: what is called is read as if it stood where it is called, however deep."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune.errors import RefusedError
from tests.generated import mask
from tests.laws import analyse, difference, every_other, groups, parse, reasons
from tests.material import save, weights
from tests.rules.cases import LIMIT

pytestmark = pytest.mark.usefixtures("instant")

HEAD = '<domain: "local", opset_import: ["" : {opset}, "local" : 1]>\n'
LAYER = "layer (a, w, b) => (c) { m = MatMul(a, w)  n = Add(m, b)  c = Tanh(n) }"
BLOCK = "block (a, w, b, v) => (c) { h = local.layer(a, w, b)  c = MatMul(h, v) }"
HOLDER = """scaled (a, w) => (c) {
    m = MatMul(a, w)  s = Constant <value = float[6] {1, -2, 3, -4, 5, 6}> ()  c = Mul(m, s)
}"""
ONE = "float[4,6] w, float[6] b, float[6,2] v"
TWO = "float[4,6] w, float[6] b, float[6,5] u, float[5] d, float[5,2] v"


def called(
    steps: str, weights: str, *functions: str, inputs: str = "", opset: int = 17, own: int = 17
) -> onnx.ModelProto:
    """A model with local functions; they may be of another opset than the graph."""
    text = f"g (float[N,4] x{inputs}) => (float[N,2] y) <{weights}> {{ {steps} }}\n"
    model = parse(text + "".join(HEAD.format(opset=own) + function + "\n" for function in functions))
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    return model


MODELS: dict[str, tuple[onnx.ModelProto, dict[str, int]]] = {
    "once": (called("h = local.layer(x, w, b)  y = MatMul(h, v)", ONE, LAYER), {"b:0 v:0 w:1": 6}),
    "twice, with different weights": (
        called("h = local.layer(x, w, b)  k = local.layer(h, u, d)  y = MatMul(k, v)", TWO, LAYER),
        {"b:0 u:0 w:1": 6, "d:0 u:1 v:0": 5},
    ),
    "twice, with the same weights": (
        called(
            "h = local.layer(x, w, b)  z = Neg(x)  k = local.layer(z, w, b)  s = Sub(h, k)  y = MatMul(s, v)",
            ONE,
            LAYER,
        ),
        {"b:0 v:0 w:1": 6},
    ),
    "twice, with a shared bias": (
        called(
            "h = local.block(x, w, b, v)  k = local.block(x, u, b, d)  y = Add(h, k)",
            "float[4,6] w, float[6] b, float[6,2] v, float[4,6] u, float[6,2] d",
            LAYER,
            BLOCK,
        ),
        {"b:0 v:0 w:1": 6, "b@2:0 d:0 u:1": 6},
    ),
    "one inside another": (called("y = local.block(x, w, b, v)", ONE, LAYER, BLOCK), {"b:0 v:0 w:1": 6}),
    "one inside another, named in any order": (
        called("y = local.block(x, w, b, v)", ONE, BLOCK, LAYER),
        {"b:0 v:0 w:1": 6},
    ),
    "three deep": (
        called(
            "y = local.net(x, w, b, u, d, v)",
            TWO,
            "net (a, w, b, u, d, v) => (c) { h = local.layer(a, w, b)  c = local.block(h, u, d, v) }",
            BLOCK,
            LAYER,
        ),
        {"b:0 u:0 w:1": 6, "d:0 u:1 v:0": 5},
    ),
    "with attributes that are handed on": (
        called(
            "h = local.leaky <alpha = 0.3, axis = 1> (x, w, u)  y = MatMul(h, v)",
            "float[4,6] w, float[4,5] u, float[11,2] v",
            """leaky <alpha, axis> (a, w, u) => (c) {
                m = MatMul(a, w)  k = MatMul(a, u)  n = Concat <axis: int = @axis> (m, k)
                c = LeakyRelu <alpha: float = @alpha> (n)
            }""",
        ),
        {"v:0 w:1": 6, "u:1 v:0": 5},
    ),
    "with attributes that are left out": (
        called(
            "h = local.leaky(x, w)  y = MatMul(h, v)",
            "float[4,6] w, float[6,2] v",
            "leaky <alpha: float = 0.3> (a, w) => (c) { m = MatMul(a, w)  c = LeakyRelu <alpha: float = @alpha> (m) }",
        ),
        {"v:0 w:1": 6},
    ),
    "with branches inside": (
        called(
            "h = local.either(x, w, b, q)  y = MatMul(h, v)",
            ONE,
            """either (a, w, b, q) => (c) {
                m = MatMul(a, w)
                c = If (q) <then_branch = yes () => (r) { r = Add(m, b) }, else_branch = no () => (r) { r = Neg(m) }>
            }""",
            inputs=", bool q",
        ),
        {"b:0 v:0 w:1": 6},
    ),
    "called inside of branches": (
        called(
            """y = If (q) <then_branch = yes () => (float[N,2] r) { r = local.block(x, w, b, v) },
                           else_branch = no () => (float[N,2] r) { k = local.layer(x, u, d) r = MatMul(k, t) }>""",
            f"{ONE}, float[4,5] u, float[5] d, float[5,2] t",
            LAYER,
            BLOCK,
            inputs=", bool q",
        ),
        {"b:0 v:0 w:1": 6, "d:0 t:0 u:1": 5},
    ),
    "with an optional input left out": (
        called(
            "h = local.dense(x, w)  y = MatMul(h, v)",
            "float[4,6] w, float[6,2] v",
            "dense (a, w, b) => (c) { c = Gemm(a, w, b) }",
        ),
        {"v:0 w:1": 6},
    ),
}


@pytest.mark.parametrize(("model", "expected"), MODELS.values(), ids=MODELS)
def test_a_call_is_read_as_what_it_stands_for(model: onnx.ModelProto, expected: dict[str, int]) -> None:
    assert groups(model) == expected
    analysis = analyse(model)
    for removed in [every_other(model), analysis.least(), *(mask(analysis, seed) for seed in range(2))]:
        assert difference(model, removed) <= LIMIT


def test_a_weight_that_a_function_holds_is_cut_for_each_call_alone() -> None:
    model = called(
        "h = local.scaled(x, w)  k = local.scaled(x, u)  s = MatMul(h, v)  t = MatMul(k, d)  y = Add(s, t)",
        "float[4,6] w, float[6,2] v, float[4,6] u, float[6,2] d",
        HOLDER,
    )
    analysis = analyse(model)
    first, second = (set(analysis.weight_axes_of(group)) for group in range(2))
    assert {("w", 1), ("v", 0)} < first
    assert {("u", 1), ("d", 0)} < second
    assert (len(first), len(second), analysis.groups) == (3, 3, 2)
    for seed in range(4):
        assert difference(model, mask(analysis, seed)) <= LIMIT


@pytest.mark.parametrize("own", [14, 18])
def test_a_function_of_another_opset_keeps_what_it_touches(own: int) -> None:
    """Its operators may mean something else, although these do not."""
    steps = "h = local.layer(x, w, b)  z = MatMul(h, v)  k = MatMul(z, p)  r = Tanh(k)  y = MatMul(r, q)"
    model = called(steps, f"{ONE}, float[2,5] p, float[5,2] q", LAYER, own=own)
    assert groups(model) == {"p:0 v:1": 2, "p:1 q:0": 5}
    assert "layer #0 ('h') has no rule (local, opset 1)" in reasons(model)
    assert difference(model, every_other(model)) <= LIMIT


def test_a_function_whose_operators_mean_something_else_is_refused() -> None:
    with pytest.raises(RefusedError, match="not compatible"):
        analyse(called("h = local.layer(x, w, b)  y = MatMul(h, v)", ONE, LAYER, own=13))


def test_a_null_plan_leaves_the_functions_and_every_byte(tmp_path: Path) -> None:
    source = save(called("y = local.block(x, w, b, v)", ONE, LAYER, BLOCK), tmp_path / "model.onnx")
    onnxprune.prune(source, tmp_path / "out.onnx", recover="none", ratio=0)
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def test_what_is_cut_is_written_out_and_replayed(tmp_path: Path) -> None:
    """Two calls of one function need two widths, so the result calls none."""
    steps = "h = local.layer(x, w, b)  k = local.layer(h, u, d)  y = MatMul(k, v)"
    source = save(called(steps, TWO, LAYER), tmp_path / "model.onnx")
    result = onnxprune.prune(source, tmp_path / "a.onnx", recover="none", ratio=0.5, align=1)
    cut = onnx.load(tmp_path / "a.onnx")
    assert not cut.functions
    assert {node.op_type for node in cut.graph.node} == {"MatMul", "Add", "Tanh"}
    shapes = {name: array.shape for name, array in weights(tmp_path / "a.onnx").items()}
    assert shapes == {"w": (4, 3), "b": (3,), "u": (3, 3), "d": (3,), "v": (3, 2)}
    assert onnxprune.apply(source, result.plan, tmp_path / "b.onnx").verified
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
