"""What codes stand for: decoded with one scale, one per index, one per block; blanked with the code that is zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.algebra.quantization import Codes
from onnxprune.budget.ranking import rank
from tests.laws import analyse, parse

CODES = np.array([[7, 0, 9, 255], [3, 128, 4, 1]], dtype=np.uint8)
Array = NDArray[Any]


def codes(kind: str, *arrays: Array | None, **attributes: Any) -> Codes:
    """The codes of a model of one node, which reads w with these parameters."""
    names = [name if array is not None else "" for name, array in zip(("w", "scale", "zero"), arrays, strict=False)]
    tensors = [numpy_helper.from_array(a, n) for n, a in zip(names, arrays, strict=True) if a is not None]
    domain = "com.microsoft" if kind == "MatMulNBits" else ""
    node = helper.make_node(kind, ["x", *names] if domain else names, ["y"], domain=domain, **attributes)
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, attributes.get("K", 1)])]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", "columns"])
    graph = helper.make_graph([node], "g", given, [result], tensors)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return analyse(helper.make_model(graph, opset_imports=imports, ir_version=10)).codes


@pytest.mark.parametrize(
    ("scale", "zero", "attributes"),
    [
        (np.float32(0.5), np.uint8(3), {}),
        (np.array([0.5], dtype=np.float32), np.array([3], dtype=np.uint8), {}),
        (np.array([0.5, 2], dtype=np.float32), np.array([3, 250], dtype=np.uint8), {"axis": 0}),
        (np.array([0.5, 2, 4, 8], dtype=np.float32), np.array([3, 250, 0, 1], dtype=np.uint8), {"axis": -1}),
        (np.array([0.5, 2, 4, 8], dtype=np.float32), None, {"axis": 1}),
    ],
)
def test_codes_are_decoded_and_blanked(scale: Array, zero: Array | None, attributes: dict[str, int]) -> None:
    found = codes(
        "DequantizeLinear", CODES, np.asarray(scale), None if zero is None else np.asarray(zero), **attributes
    )
    shape = (-1, 1) if attributes.get("axis") == 0 else (-1,)
    point = np.zeros(1) if zero is None else np.asarray(zero).astype(np.float64).reshape(shape)
    assert np.array_equal(found.decode("w", CODES), (CODES - point) * np.asarray(scale).reshape(shape))
    assert np.array_equal(found.blank("w"), np.broadcast_to(point, CODES.shape))
    assert not list(found.undecided())


@pytest.mark.parametrize(("block", "blocks"), [(2, 2), (3, 2), (4, 1)])
def test_a_block_of_codes_has_one_scale(block: int, blocks: int) -> None:
    scale = np.arange(1, 2 * blocks + 1, dtype=np.float32).reshape(2, blocks)
    zero = np.arange(10, 2 * blocks + 10, dtype=np.uint8).reshape(2, blocks)
    found = codes("DequantizeLinear", CODES, scale, zero, axis=1, block_size=block)
    place = np.arange(4) // block
    expected = (CODES - zero[:, place].astype(np.float64)) * scale[:, place]
    assert np.array_equal(found.decode("w", CODES), expected)
    assert np.array_equal(found.blank("w"), zero[:, place])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("flat", [False, True])
def test_packed_codes_are_unpacked_and_blanked_in_every_place(bits: int, flat: bool) -> None:
    rng, columns, blocks, size = np.random.default_rng(0), 3, 5, 16
    values = rng.integers(0, 1 << bits, (columns, blocks, size))
    zeros = rng.integers(0, 1 << bits, (columns, blocks))
    scale = rng.random((columns, blocks)).astype(np.float32)
    parameters = (scale.reshape(-1), pack(zeros, bits).reshape(-1)) if flat else (scale, pack(zeros, bits))
    found = codes("MatMulNBits", pack(values, bits), *parameters, K=80, N=columns, bits=bits, block_size=size)
    decoded = found.decode("w", pack(values, bits))
    assert decoded == pytest.approx((values - zeros[..., None]) * scale[..., None])
    assert np.array_equal(found.decode("w", np.array(found.blank("w"))), np.zeros(values.shape))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_codes_without_a_zero_point_have_it_in_the_middle(bits: int) -> None:
    codes_of = np.arange(1 << min(bits, 4)).repeat(16)[: 16 * 4].reshape(1, -1, 16)
    scale = np.ones(codes_of.shape[:2], dtype=np.float32)
    packed = pack(codes_of, bits)
    found = codes("MatMulNBits", packed, scale, K=16 * scale.size, N=1, bits=bits, block_size=16)
    assert np.array_equal(found.decode("w", packed), codes_of - (1 << (bits - 1)))


def pack(values: Array, bits: int) -> Array:
    """Codes of a few bits in bytes, the first in the lowest bits; the last byte filled up with zeros."""
    each = 8 // bits
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % each)])
    groups = padded.reshape(*values.shape[:-1], -1, each) << (bits * np.arange(each))
    return np.asarray(groups.sum(axis=-1)).astype(np.uint8)


CONFLICT = """g (float[N,4] x) => (float[N,5] y) <uint8[4,8] w, float scale, {points}, float[8,5] v> {{
    d = DequantizeLinear(w, scale, {first})  c = {second}  s = Add(c, d)  h = MatMul(x, s)  y = MatMul(h, v)
}}"""


@pytest.mark.parametrize(
    ("points", "second", "units"),
    [
        ("uint8 zero = {7}, uint8 other = {7}", "DequantizeLinear(w, scale, other)", 8),
        ("uint8 zero = {7}, uint8 other = {8}", "DequantizeLinear(w, scale, other)", 0),
        ("uint8 zero = {7}, uint8 other = {0}", "Cast <to = 1> (w)", 0),
        ("uint8 zero = {0}, uint8 other = {0}", "Cast <to = 1> (w)", 8),
        ("uint8 zero = {0}, uint8 other = {0}", "DequantizeLinear(w, scale)", 8),
    ],
)
def test_readers_that_disagree_about_zero_pin_the_codes(points: str, second: str, units: int) -> None:
    assert analyse(parse(CONFLICT.format(points=points, first="zero", second=second))).units == units


def test_scores_are_those_of_the_values_and_leave_out_how_codes_are_read() -> None:
    """The same weights as numbers and as codes get the same scores, whatever their zero points and scales."""
    text = "g (float[N,4] x) => (float[N,5] y) <{w}, float[8,5] v> {{ {d}  h = MatMul(x, {n})  y = MatMul(h, v) }}"
    coded = parse(
        text.format(
            w="uint8[4,8] w, float[8] scale, uint8[8] zero",
            d="d = DequantizeLinear <axis = 1> (w, scale, zero)",
            n="d",
        )
    )
    analysis = analyse(coded)
    plain = parse(text.format(w="float[4,8] w", d="", n="w"))
    constant = analysis.graph.constant("w")
    assert constant is not None
    for tensor in plain.graph.initializer:
        source = analysis.codes.decode("w", constant) if tensor.name == "w" else analysis.graph.constant(tensor.name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(source), tensor.name))
    assert rank(analysis).scores == pytest.approx(rank(analyse(plain)).scores)


@pytest.mark.parametrize("entries", ["", "[1]", "[8]"])
def test_the_scale_behind_an_integer_product_counts_in_its_scores(entries: str) -> None:
    text = """g (uint8[N,4] x) => (float[N,5] y)
    <uint8[4,8] w, uint8 zx = {7}, uint8 zw = {9}, float*s scale, float[8,5] v> {
        p = MatMulInteger(x, w, zx, zw)  c = Cast <to = 1> (p)  h = Mul(c, scale)  y = MatMul(h, v)
    }"""
    analysis = analyse(parse(text.replace("*s", entries)))
    weight, scale = analysis.graph.constant("w"), analysis.graph.constant("scale")
    assert weight is not None
    assert scale is not None
    assert analysis.codes.decode("w", weight) == pytest.approx((weight.astype(np.float32) - 9) * scale)
