"""Linear layers as matrices: what they say of a layer is what ONNX Runtime computes, whatever the operator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.linear import Bias, Linear
from onnxprune.model.record import Array
from tests.laws import analyse, parse
from tests.linears import KINDS, Kind, alone, found, normal, outputs


def computed(linear: Linear, x: Array, pick: Array | None = None) -> Array:
    """The layer's output by its matrix, as rows (n, groups, O)."""
    graph = linear.op.graph
    weight = linear.matrix(np.asarray(graph.constant(linear.w)).astype(np.float64))
    made = np.einsum("god,ngd->ngo", weight, linear.rows(x.astype(np.float64), pick))
    if linear.bias is not None and linear.bias.inside:
        bias = np.asarray(graph.constant(linear.bias.name)).astype(np.float64)
        made += linear.bias.factor * bias.reshape(linear.groups, -1)
    return np.asarray(made)


@pytest.mark.parametrize("name", KINDS)
def test_a_matrix_times_rows_is_what_onnxruntime_computes(name: str) -> None:
    kind = KINDS[name]
    (linear,) = found(alone(kind))
    x = normal(kind.h)
    (y,) = outputs(linear.op.graph, [{"h": x}], [linear.op.out])
    wanted = linear.targets(y, None)
    assert len(wanted) == linear.count(y)
    np.testing.assert_allclose(computed(linear, x), wanted, atol=2e-5)
    assert np.ptp(wanted) > 1
    assert linear.x == ("h", kind.axis)
    assert linear.matrix(np.zeros(kind.w)).shape[2] == linear.taps * kind.h[kind.axis] // linear.groups


@pytest.mark.parametrize("name", KINDS)
def test_picked_rows_are_those_rows(name: str) -> None:
    kind = KINDS[name]
    (linear,) = found(alone(kind))
    x = normal(kind.h, seed=1)
    (y,) = outputs(linear.op.graph, [{"h": x}], [linear.op.out])
    pick = np.random.default_rng(0).permutation(linear.count(y))[: linear.count(y) // 2 + 1]
    np.testing.assert_array_equal(linear.rows(x, pick), linear.rows(x, None)[pick])
    np.testing.assert_array_equal(linear.targets(y, pick), linear.targets(y, None)[pick])
    np.testing.assert_allclose(computed(linear, x, pick), linear.targets(y, pick), atol=2e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_weight_comes_back_from_its_matrix_bit_for_bit(name: str) -> None:
    (linear,) = found(alone(KINDS[name]))
    weight = normal(KINDS[name].w, seed=2)
    back = linear.tensor(linear.matrix(weight.astype(np.float64))).astype(np.float32)
    np.testing.assert_array_equal(back, weight)
    assert back.shape == weight.shape


@pytest.mark.parametrize("name", KINDS)
def test_columns_belong_to_channels_tap_by_tap(name: str) -> None:
    """A channel that is zero makes the run of columns zero that recovery takes for it."""
    kind = KINDS[name]
    (linear,) = found(alone(kind))
    per_group = kind.h[kind.axis] // linear.groups
    for channel in range(kind.h[kind.axis]):
        x = np.zeros_like(normal(kind.h))
        np.moveaxis(x, kind.axis, 0)[channel] = 1
        group, place = divmod(channel, per_group)
        own = np.zeros((linear.groups, per_group * linear.taps), dtype=bool)
        own[group, place * linear.taps : (place + 1) * linear.taps] = True
        seen = linear.rows(x, None).any(0)
        assert not (seen & ~own).any()
        assert seen.any()


@pytest.mark.parametrize("name", KINDS)
def test_a_bias_is_found_inside_or_behind(name: str) -> None:
    kind = KINDS[name]
    (linear,) = found(alone(kind))
    if kind.b is None:
        assert linear.bias is None
        return
    factor = -1.7 if "beta = -1.7" in kind.node else 1.0
    assert linear.bias is not None
    assert linear.bias.name == "b"
    assert linear.bias.factor == pytest.approx(factor)
    assert linear.bias.inside == ("Add" not in kind.node)


def test_a_slot_is_offered_only_where_a_bias_there_means_what_it_says() -> None:
    slots = {name: linear.slot for name, kind in KINDS.items() for linear in found(alone(kind))}
    assert slots["Conv, without a bias"] == slots["ConvTranspose, without a bias"] == 2
    assert slots["Gemm, without a bias"] == slots["Gemm, alpha alone"] == 2
    assert slots["Gemm, beta of 0"] is slots["Gemm, a bias behind"] is slots["MatMul"] is slots["Gemm"] is None


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_convolution_of_two_axes_is_its_matrix(data: st.DataObject) -> None:
    draw = data.draw
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides, dilations = draw(pair), draw(pair), draw(pair)
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    groups = draw(st.sampled_from([1, 2, 4]))
    attributes = f"group = {groups}, strides = {list(strides)}, dilations = {list(dilations)}, pads = {list(pads)}"
    kind = Kind(
        f"z = Conv <{attributes}> (h, w, b)",
        (-1, 4, 8, 9),
        (
            -1,
            4,
            *(
                -(-(n + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1)) // strides[i])
                for i, n in ((0, 8), (1, 9))
            ),
        ),
        (4, 4 // groups, *kernel),
        b=(4,),
    )
    (linear,) = found(alone(kind))
    x = normal(kind.h, rows=2)
    (y,) = outputs(linear.op.graph, [{"h": x}], ["z"])
    np.testing.assert_allclose(computed(linear, x), linear.targets(y, None), atol=2e-5)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_transposed_convolution_is_its_matrix_or_is_left_alone(data: st.DataObject) -> None:
    draw = data.draw
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides, dilations = draw(pair), draw(pair), draw(pair)
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    more = [draw(st.integers(0, s - 1)) for s in strides]
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    sizes = [
        (n - 1) * s + r + 1 + m - pads[i] - pads[i + 2]
        for i, (n, s, r, m) in enumerate(zip((4, 5), strides, reach, more, strict=True))
    ]
    if min(sizes) < 1:
        return
    attributes = (
        f"strides = {list(strides)}, dilations = {list(dilations)}, pads = {list(pads)}, output_padding = {more}"
    )
    kind = Kind(
        f"z = ConvTranspose <group = 2, {attributes}> (h, w, b)",
        (-1, 4, 4, 5),
        (-1, 4, *sizes),
        (4, 2, *kernel),
        b=(4,),
    )
    layers = found(alone(kind))
    cropped = any(reach[i] < pads[i] or reach[i] - pads[i + 2] + more[i] < 0 for i in range(2))
    assert len(layers) == (0 if cropped else 1)
    for linear in layers:
        x = normal(kind.h, rows=2)
        (y,) = outputs(linear.op.graph, [{"h": x}], ["z"])
        np.testing.assert_allclose(computed(linear, x), linear.targets(y, None), atol=2e-5)


NOT_LINEAR = {
    "a weight read twice": "g (float[N,6] h) => (float[N,6] z) <float[6,6] w> { m = MatMul(h, w)  z = MatMul(m, w) }",
    "a weight handed out": """g (float[N,6] h) => (float[N,4] z, float[6,4] w) <float[6,4] v> {
        w = Identity(v)  z = MatMul(h, w) }""",
    "a weight that is an output": """g (float[N,6] h) => (float[N,4] z, float[6,4] w) <float[6,4] w> {
        z = MatMul(h, w) }""",
    "a computed weight": "g (float[N,6] h, float[6,4] w) => (float[N,4] z) { z = MatMul(h, w) }",
    "a computed kernel": "g (float[N,6,7,7] h, float[4,6,3,3] w) => (float[N,4,5,5] z) { z = Conv(h, w) }",
    "a computed kernel, turned": """g (float[N,6,7,7] h, float[6,4,3,3] w) => (float[N,4,9,9] z) {
        z = ConvTranspose(h, w) }""",
    "a constant on the left": "g (float[6,4] h) => (float[5,4] z) <float[5,6] w> { z = MatMul(w, h) }",
    "a constant on the left of Gemm": "g (float[6,4] h) => (float[5,4] z) <float[5,6] w> { z = Gemm(w, h) }",
    "two constants": """g (float[N,4] h) => (float[N,4] z) <float[5,6] v, float[6,4] w> {
        m = MatMul(v, w)  z = Add(h, h) }""",
    "a stack of matrices": "g (float[2,N,6] h) => (float[2,N,4] z) <float[2,6,4] w> { z = MatMul(h, w) }",
    "an alpha of 0": """g (float[N,6] h) => (float[N,4] z) <float[6,4] w, float[4] b> {
        z = Gemm <alpha = 0.0> (h, w, b) }""",
    "same, turned": """g (float[N,6,7,7] h) => (float[N,4,7,7] z) <float[6,4,3,3] w> {
        z = ConvTranspose <auto_pad = "SAME_UPPER"> (h, w) }""",
    "an output shape": """g (float[N,6,7,7] h) => (float[N,4,10,10] z) <float[6,4,3,3] w> {
        z = ConvTranspose <output_shape = [10, 10]> (h, w) }""",
    "no product at all": "g (float[N,6] h) => (float[N,6] z) <float[6] w> { z = Mul(h, w) }",
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_in_a_constant_of_its_own_is_no_layer(name: str) -> None:
    assert found(parse(NOT_LINEAR[name])) == []


def test_a_weight_that_a_user_may_override_is_no_constant() -> None:
    model = alone(KINDS["Gemm"])
    model.graph.input.append(parse("g (float[6,4] w) => (float[6,4] y) { y = Relu(w) }").graph.input[0])
    assert found(model) == []


def test_a_layer_inside_a_body_is_left_alone() -> None:
    text = """g (float[3,6] h, bool c) => (float[3,4] z) <float[6,4] w, float[6,4] v> {
        z = If (c) <then_branch = yes () => (float[3,4] r) { r = MatMul(h, w) },
                    else_branch = no () => (float[3,4] r) { r = MatMul(h, v) }> }"""
    assert found(parse(text)) == []


BIASES = {
    "a column": ("g (float[4,6] h) => (float[4,4] z) <float[6,4] w, float[4,1] b> { z = Gemm(h, w, b) }", None),
    "a matrix": ("g (float[4,6] h) => (float[4,3] z) <float[6,3] w, float[4,3] b> { z = Gemm(h, w, b) }", None),
    "computed": ("g (float[4,6] h, float[3] b) => (float[4,3] z) <float[6,3] w> { z = Gemm(h, w, b) }", None),
    "computed, and one behind": (
        """g (float[4,6] h, float[3] c) => (float[4,3] z) <float[6,3] w, float[3] b> {
            m = Gemm(h, w, c)  z = Add(m, b) }""",
        None,
    ),
    "one that does not count, and one behind": (
        """g (float[4,6] h) => (float[4,3] z) <float[6,3] w, float[3] c, float[3] b> {
            m = Gemm <beta = 0.0> (h, w, c)  z = Add(m, b) }""",
        Bias("b", inside=False),
    ),
    "a row": ("g (float[4,6] h) => (float[4,4] z) <float[6,4] w, float[1,4] b> { z = Gemm(h, w, b) }", Bias("b")),
    "shared by two": (
        """g (float[N,6] h) => (float[N,6] z) <float[6,6] w, float[6,6] v, float[6] b> {
            m = Gemm(h, w, b)  z = Gemm(m, v, b) }""",
        Bias("b"),
    ),
    "behind, along another axis": (
        "g (float[N,4,6] h) => (float[N,4,4] z) <float[6,4] w, float[4,1] b> { m = MatMul(h, w)  z = Add(m, b) }",
        None,
    ),
    "behind, the product read twice": (
        """g (float[N,6] h) => (float[N,4] z) <float[6,4] w, float[4] b> {
            m = MatMul(h, w)  n = Add(m, b)  z = Mul(m, n) }""",
        None,
    ),
    "behind, the product handed out": (
        """g (float[N,6] h) => (float[N,4] z, float[N,4] m) <float[6,4] w, float[4] b> {
            m = MatMul(h, w)  z = Add(m, b) }""",
        None,
    ),
    "behind, subtracted": (
        "g (float[N,6] h) => (float[N,4] z) <float[6,4] w, float[4] b> { m = MatMul(h, w)  z = Sub(m, b) }",
        None,
    ),
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_is_a_constant_vector_along_the_outputs(name: str) -> None:
    text, bias = BIASES[name]
    assert found(parse(text))[0].bias == bias


def test_layers_come_in_the_order_in_which_they_run() -> None:
    text = """g (float[N,6] h) => (float[N,2] z) <float[6,4] w, float[4,2] v> {
        m = MatMul(h, w)  n = Relu(m)  z = MatMul(n, v) }"""
    assert [linear.w for linear in found(parse(text))] == ["w", "v"]
    assert analyse(parse(text)).graph.ops[0].kind == "MatMul"
