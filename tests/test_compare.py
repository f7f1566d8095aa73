"""Two exports of one network: equal pairs are found equal, and a planted difference where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxprune import compare
from onnxprune.comparing.results import Compared
from tests.laws import parse
from tests.pairs.exports import (
    changed,
    channels_first,
    channels_last,
    coded,
    encoder,
    folded,
    half,
    swapped,
    with_attribute,
)

Array = NDArray[Any]
Model = Callable[[], onnx.ModelProto]


def fused() -> onnx.ModelProto:
    return encoder(fused=True)


def written_out() -> onnx.ModelProto:
    return encoder(fused=False)


def with_folded() -> onnx.ModelProto:
    return folded(channels_first())


def compared(first: onnx.ModelProto, second: onnx.ModelProto, **options: Any) -> Compared:
    return compare(first, second, seconds=0, **options)


def ranges(model: onnx.ModelProto, names: list[str], feed: Array) -> dict[str, float]:
    """The largest magnitudes of some tensors."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, {session.get_inputs()[0].name: feed})
    return {name: float(np.abs(np.asarray(value)).max()) for name, value in zip(names, found, strict=True)}


PAIRS: list[tuple[Model, Model, int]] = [
    (channels_first, channels_first, 5),
    (channels_first, with_folded, 5),
    (with_folded, channels_first, 5),
    (channels_first, channels_last, 5),
    (channels_last, channels_first, 5),
    (channels_last, with_folded, 5),
    (fused, written_out, 7),
    (written_out, fused, 7),
]


@pytest.mark.parametrize(("first", "second", "layers"), PAIRS)
def test_exports_of_one_network_are_equal(first: Model, second: Model, layers: int) -> None:
    found = compared(first(), second())
    assert found
    assert found.divergence is None
    assert len(found.layers) == layers
    assert found.alone == ([], [])
    assert all(layer.level is not None and layer.level > 100 for layer in found.layers)


@pytest.mark.parametrize(("first", "shape"), [(channels_first, (4, 3, 8, 8)), (fused, (4, 5, 16))])
def test_half_precision_is_rounding(first: Model, shape: tuple[int, ...]) -> None:
    data = {first().graph.input[0].name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    found = compared(first(), half(first()), data=data)
    assert found
    assert found.precision == "float16"
    assert all(c.tolerance == 4e-3 for c in found.comparisons)
    assert all(not layer.weights for layer in found.layers)
    assert not compared(first(), half(first()), data=data, tolerance=1e-6)


def quantised(images: Array) -> onnx.ModelProto:
    names = ["n1", "r1", "c2", "c3", "n3", "s", "h"]
    return coded(channels_first(), ranges(channels_first(), names, images))


def images(rows: int = 4) -> Array:
    return np.random.default_rng(0).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def test_quantisation_noise_is_no_bug_and_passes_with_a_tolerance() -> None:
    second = quantised(images())
    found = compared(channels_first(), second, data={"image": images()})
    assert not found
    assert found.precision == "int8"
    assert found.divergence is None
    assert len(found.layers) == 5
    assert all(not layer.weights and layer.level is not None and 15 < layer.level < 60 for layer in found.layers)
    assert compared(channels_first(), second, data={"image": images()}, tolerance=0.1)


# ---- planted differences ---------------------------------------------------------------------------------------


def transposed(weight: Array) -> Array:
    return np.swapaxes(weight, 0, 1)


def shifted(bias: Array) -> Array:
    bias[2] += 0.5
    return bias


IN_WEIGHTS = [
    # what is changed in channels_first(), how, at which node, what is said
    ("w1", swapped(3, 7, 0), "first", "output channels 3 and 7 are swapped"),
    ("w3", swapped(3, 7, 0), "point", "output channels 3 and 7 are swapped"),
    ("w3", swapped(2, 5, 1), "point", "input channels 2 and 5 are swapped"),
    ("w3", transposed, "point", "the weight is transposed"),
    ("w1", lambda w: w.swapaxes(2, 3), "first", "the kernel is transposed"),
    ("w2", lambda w: w[:, :, ::-1, ::-1], "depth", "the kernel is flipped"),
    ("w2", swapped(0, 4, 0), "depth", "output channels 0 and 4 are swapped"),
    ("b2", shifted, "depth", "1 of 12 channels (2) differ"),
    ("w5", swapped(1, 3, 1), "head", "output channels 1 and 3 are swapped"),
]


@pytest.mark.parametrize("other", [channels_first, with_folded, channels_last])
@pytest.mark.parametrize(("name", "change", "node", "says"), IN_WEIGHTS)
def test_a_changed_weight_is_found_where_it_is(
    other: Model, name: str, change: Callable[[Array], Array], node: str, says: str
) -> None:
    found = compared(changed(channels_first(), name, change), other())
    assert not found
    assert found.divergence is not None
    first, second = found.divergence.nodes
    assert first.endswith(f"'{node}'")
    assert node in second
    assert found.divergence.findings[0].kind in ("weights", "bias")
    assert says in found.divergence.findings[0].what
    wrong = [layer.nodes[0] for layer in found.layers if layer.weights and "another order" not in layer.weights]
    assert name.startswith("b") or wrong == [first]


def test_a_swap_in_front_of_a_flattening_of_another_order_is_found() -> None:
    found = compared(changed(channels_first(), "w4", swapped(3, 7, 1)), channels_last())
    assert found.divergence is not None
    assert found.divergence.nodes == ("Gemm 'hidden'", "MatMul 'tf_hidden'")
    assert "output channels 3 and 7 are swapped" in found.divergence.findings[0].what


IN_ATTRIBUTES = [
    (channels_first, "norm1", "epsilon", 0.05, "epsilon differs: 0.05 and 0.001"),
    (channels_first, "norm3", "epsilon", 0.05, "epsilon differs: 0.05 and 1e-05"),
    (channels_first, "act4", "alpha", 0.2, "alpha differs: 0.2 and 0.1"),
    (channels_first, "depth", "dilations", [1, 2], "dilations differs"),
    (fused, "layernorm1", "epsilon", 0.05, "epsilon differs: 0.05 and 1e-05"),
    (fused, "layernorm2", "epsilon", 0.05, "epsilon differs: 0.05 and 1e-05"),
]


@pytest.mark.parametrize(("first", "node", "attribute", "value", "says"), IN_ATTRIBUTES)
def test_a_changed_attribute_is_found_where_it_is(
    first: Model, node: str, attribute: str, value: Any, says: str
) -> None:
    planted = with_attribute(first(), node, attribute, value)
    if attribute == "dilations":
        planted = with_attribute(planted, node, "pads", [1, 2, 1, 2])
    found = compared(planted, first())
    assert not found
    assert found.divergence is not None
    assert [name.split("'")[1] for name in found.divergence.nodes] == [node, node]
    assert found.divergence.findings[0].kind == "attribute"
    assert says in "; ".join(finding.what for finding in found.divergence.findings)


@pytest.mark.parametrize("number", [1, 2])
def test_an_epsilon_is_found_in_a_normalisation_that_is_written_out(number: int) -> None:
    found = compared(with_attribute(fused(), f"layernorm{number}", "epsilon", 0.05), written_out())
    assert not found
    assert found.divergence is not None
    assert found.divergence.nodes[0] == f"LayerNormalization 'layernorm{number}'"
    assert "epsilon differs: 0.05 and 1e-05" in found.divergence.findings[0].what


def test_an_epsilon_that_was_folded_away_shows_as_a_scale() -> None:
    found = compared(with_attribute(channels_first(), "norm3", "epsilon", 0.05), with_folded())
    assert found.divergence is not None
    assert found.divergence.nodes == ("Conv 'point'", "Conv 'point'")
    assert "12 of 12 channels scaled" in found.divergence.findings[0].what


@pytest.mark.parametrize(("name", "axis", "node"), [("wu", 1, "up"), ("wd", 0, "down"), ("wv", 1, "value")])
@pytest.mark.parametrize("other", [fused, written_out])
def test_a_swap_in_a_transformer_is_found(name: str, axis: int, node: str, other: Model) -> None:
    found = compared(changed(fused(), name, swapped(3, 7, axis)), other())
    assert found.divergence is not None
    assert found.divergence.nodes == (f"MatMul '{node}'", f"MatMul '{node}'")
    side = "output" if axis else "input"
    assert found.divergence.findings[0].what == f"{side} channels 3 and 7 are swapped"


def test_channels_that_are_renumbered_throughout_are_no_difference() -> None:
    swap = swapped(3, 7, 1)
    second = changed(changed(changed(fused(), "wu", swap), "bu", swapped(3, 7, 0)), "wd", swapped(3, 7, 0))
    found = compared(fused(), second)
    assert found
    moved = {layer.nodes[0]: layer.weights for layer in found.layers if layer.weights}
    assert moved == {
        "MatMul 'up'": "output channels 3 and 7 are swapped",
        "MatMul 'down'": "input channels 3 and 7 are swapped",
    }
    broken = changed(second, "wh", swapped(0, 9, 0))
    found = compared(fused(), broken)
    assert found.divergence is not None
    assert found.divergence.nodes[0] == "MatMul 'head'"


FUSED_BIAS = """
net (float[N,5,16] x) => (float[N,5,8] y) <float[16,32] w1, float[32] b1, float[32,8] w2>
{ [up] a = MatMul (x, w1) GELU [down] y = MatMul (g, w2) }
"""
APART = """
c = Add (a, b1) root = Constant <value_float=1.4142135> () s = Div (c, root) e = Erf (s)
one = Constant <value_float=1.0> () i = Add (e, one) half = Constant <value_float=0.5> () p = Mul (c, i)
g = Mul (p, half)
"""


def test_a_bias_that_is_fused_into_the_node_behind_is_no_difference() -> None:
    apart = parse(FUSED_BIAS.replace("GELU", APART), seed=4)
    fused_bias = parse(FUSED_BIAS.replace("GELU", "g = com.microsoft.BiasGelu (a, b1)"), seed=4)
    found = compared(apart, fused_bias)
    assert found
    assert [(layer.weights, layer.level is not None and layer.level > 100) for layer in found.layers] == [
        ("", True)
    ] * 2
    found = compared(changed(apart, "w2", swapped(3, 7, 1)), fused_bias)
    assert found.divergence is not None
    assert found.divergence.nodes == ("MatMul 'down'", "MatMul 'down'")


def test_a_swap_under_quantisation_is_found() -> None:
    second = quantised(images())
    found = compared(changed(channels_first(), "w3", swapped(3, 7, 0)), second, data={"image": images()})
    assert found.divergence is not None
    assert found.divergence.nodes == ("Conv 'point'", "Conv 'point'")
    assert "output channels 3 and 7 are swapped" in found.divergence.findings[0].what


def test_a_tensor_that_is_clipped_by_its_codes_is_the_abrupt_fall() -> None:
    names = ["n1", "r1", "c2", "c3", "n3", "s", "h"]
    limits = ranges(channels_first(), names, images())
    second = coded(channels_first(), {**limits, "s": limits["s"] / 20})
    found = compared(channels_first(), second, data={"image": images()})
    assert found.divergence is not None
    assert found.divergence.nodes[0] in ("Add 'sum'", "MaxPool 'pool'")


def test_two_networks_have_little_in_common() -> None:
    found = compared(changed(channels_first(), "w1", lambda w: w[::-1] + 1), channels_first())
    assert not found
    assert found.divergence is not None
    assert found.divergence.nodes == ("Conv 'first'", "Conv 'first'")
    other = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "net (float[N,3,8,8] image) => (float[N,3] scores) { p = GlobalMaxPool (image) scores = Flatten (p) }"
    )
    first = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "net (float[N,3,8,8] image) => (float[N,3] scores) { p = GlobalAveragePool (image) scores = Flatten (p) }"
    )
    found = compared(first, other)
    assert not found
    assert found.divergence is not None
    assert "GlobalMaxPool" in found.divergence.findings[0].what


def test_both_are_put_side_by_side() -> None:
    found = compared(channels_first(), with_folded(), measures={"batchnorms": lambda m: 0.5})
    one, other = found.sides
    assert one.operators["BatchNormalization"] == 2
    assert "BatchNormalization" not in other.operators
    assert one.macs == other.macs > 0
    assert one.params > other.params
    assert one.units == other.units > 0
    assert one.measures == {"batchnorms": 0.5}
    assert one.latency_ms is None
    timed = compare(channels_first(), with_folded(), seconds=0.05).sides
    assert all(side.latency_ms is not None and side.latency_ms > 0 for side in timed)
    document = found.to_json()
    assert document["equal"] is True
    assert [layer["nodes"][0] for layer in document["layers"]] == [layer.nodes[0] for layer in found.layers]


def test_a_scalar_input_and_rows_that_are_no_batch_are_taken() -> None:
    text = "net (float[N,8] x, float t) => (float[N,4] y) <float[8,4] w> { a = MatMul (x, w) y = Mul (a, t) }"
    found = compared(parse(text), parse(text))
    assert found
    assert len(found.layers) == 1


def test_weights_that_are_inputs_as_well_are_weights() -> None:
    text = "net (float[N,8] x) => (float[N,4] y) <float[8,8] w, float[8,4] v> { a = MatMul (x, w) y = MatMul (a, v) }"
    old, new = parse(text, ir=3, opset=8), parse(text)
    assert compared(old, new)
    found = compared(old, changed(new, "w", swapped(1, 2, 1)))
    assert found.divergence is not None
    assert found.divergence.findings[0].what == "output channels 1 and 2 are swapped"
