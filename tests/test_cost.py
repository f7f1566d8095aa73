"""The cost model against counts worked out by hand, and against the files that surgery writes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.algebra.cost import CostModel
from onnxprune.surgery import removal, saving
from tests.laws import analyse, every_other, parse

SHAPES = {"x": (1, 4, 8, 8)}


@pytest.mark.parametrize(
    ("body", "weights", "macs"),
    [
        ("y = Conv<pads=[1,1,1,1]>(x, w)", "float[6,4,3,3] w", 6 * 4 * 9 * 64),
        ("y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)", "float[6,4,3,3] w", 6 * 4 * 9 * 16),
        ("y = Conv<group=4>(x, w)", "float[4,1,1,1] w", 4 * 64),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", "float[4,6,2,2] w", 4 * 6 * 4 * 64),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", "float[5,256] w", 5 * 256),
        ("y = MatMul(x, w)", "float[8,3] w", 4 * 8 * 8 * 3),
    ],
)  # fmt: skip
def test_multiply_accumulates_of_one_layer(body: str, weights: str, macs: int) -> None:
    rank = 2 if "Gemm" in body else 4
    model = parse(f"net (float[N,4,8,8] x) => (float[{','.join('ABCD'[:rank])}] y) <{weights}> {{ {body} }}")
    cost = CostModel(analyse(model), SHAPES).dense
    assert cost.macs == macs
    assert cost.params == math.prod(model.graph.initializer[0].dims)


def test_what_is_predicted_is_what_is_written(tmp_path: Path) -> None:
    model = parse("""net (float[N,4,8,8] x) => (float[N,2] y)
    <float[6,4,3,3] w1, float[6] b1, float[10,6,3,3] w2, float[2,640] w3>
    { a = Conv<pads=[1,1,1,1]>(x, w1, b1) b = Conv<pads=[1,1,1,1]>(a, w2) f = Flatten(b) y = Gemm<transB=1>(f, w3) }""")
    analysis, removed = analyse(model), every_other(model)
    cut = onnx.load(saving.write(removal.remove(analysis, removed), tmp_path, "cut.onnx"))
    predicted = CostModel(analysis, SHAPES)(removed)
    assert predicted.params == sum(math.prod(t.dims) for t in cut.graph.initializer)
    assert predicted.macs == CostModel(analyse(cut), SHAPES).dense.macs
    assert predicted.bytes == pytest.approx((tmp_path / "cut.onnx").stat().st_size, abs=64)


def test_codes_that_are_packed_count_one_by_one(tmp_path: Path) -> None:
    """Two codes to a byte, whether the type packs them, or the operator; an odd last one takes a whole byte."""
    model = parse(
        """net (float[N,3] x) => (float[N,5] y)
        <int4[3,48] w, float scale, uint8[9,3,8] n, float[9,3] scalen, float[9,5] v>
        { d = DequantizeLinear(w, scale) a = MatMul(x, d)
          b = com.microsoft.MatMulNBits<K = 48, N = 9, block_size = 16>(a, n, scalen) y = MatMul(b, v) }""",
        opset=21,
        ir=10,
    )
    analysis, removed = analyse(model), every_other(model)
    cost = CostModel(analysis)
    assert cost.dense.params == 3 * 48 + 1 + 9 * 48 + 9 * 3 + 9 * 5
    cut = saving.write(removal.remove(analysis, removed), tmp_path, "cut.onnx")
    assert cost(removed).params == 3 * 32 + 1 + 5 * 32 + 5 * 2 + 5 * 5
    assert cost(removed).bytes == pytest.approx(cut.stat().st_size, abs=64)


def test_sizes_are_no_parameters() -> None:
    model = parse("net (float[N,4] x) => (float[N,2,2] y) <int64[3] to = {0,2,2}> { y = Reshape(x, to) }")
    assert CostModel(analyse(model)).dense.params == 0


def test_a_model_without_units_costs_what_it_costs() -> None:
    model = parse("net (float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    analysis = analyse(model)
    assert analysis.units == 0
    assert CostModel(analysis)(np.zeros(0, dtype=bool)).params == 12
