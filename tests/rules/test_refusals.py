"""What no rule allows, and what the model itself forbids: every refusal names its cause."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.laws import groups, parse, reasons
from tests.rules.cases import Case, check

REFUSED: dict[str, Case] = {
    "the input of the model": Case(
        """g (float[N,8] x) => (float[N,5] y) <float[8,5] v> { y = MatMul(x, v) }""", {}, "'x' is an input of the model"
    ),
    "the output of the model": Case(
        """g (float[N,4] x) => (float[N,8] y) <float[4,8] w> { y = MatMul(x, w) }""",
        {},
        "'y' is an output of the model",
    ),
    "an inner value that is an output, too": Case(
        """g (float[N,4] x) => (float[N,8] h, float[N,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  y = MatMul(h, v)
        }""",
        {},
        "'h' is an output of the model",
    ),
    "weights that are whole numbers": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <int64[8] steps = {1,2,3,4,5,6,7,8}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Cast <to = 1> (steps)  z = Mul(h, s)  y = MatMul(z, v)
        }""",
        {},
        "'steps' holds INT64 values, which are no weights",
    ),
    "weights that are truth values": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <bool[8] mask = {1,0,1,1,0,1,1,0}, float zero = {0.0}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Where(mask, h, zero)  y = MatMul(z, v)
        }""",
        {},
        "'mask' holds BOOL values, which are no weights",
    ),
    "a size that leaves the graph": Case(
        """g (float[N,4] x) => (float[N,5] y, int64[2] s) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Shape(h)  y = MatMul(h, v)
        }""",
        {},
        "'s' carries its width out of the graph",
    ),
    "a size that leaves the graph after a computation": Case(
        """g (float[N,4] x) => (float[N,5] y, int64[1] c)
        <int64[1] one = {1}, int64[1] two = {2}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Shape(h)  d = Gather(s, one)  c = Mul(d, two)  y = MatMul(h, v)
        }""",
        {},
        "'c' carries its width out of the graph",
    ),
    "a width that is the square root of attention": Case(
        """g (float[N,4] x) => (float[N,5] y) <int64 one = {1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Shape(h)  c = Gather(s, one)  f = Cast <to = 1> (c)  r = Sqrt(f)  z = Mul(h, r)
            y = MatMul(z, v)
        }""",
        {},
        "Sqrt #4 ('r') reads its width as a number",
    ),
    "an operator that is kept whole on purpose": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  r = RandomUniformLike(h)  z = Add(h, r)  y = MatMul(z, v)
        }""",
        {},
        "RandomUniformLike #1 ('r') draws random numbers in order",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_nothing_is_removed_and_the_reason_is_given(case: Case) -> None:
    check(case)


def test_an_operator_of_another_domain_is_refused_by_name() -> None:
    text = """g (float[N,4] x) => (float[N,5] y) <float[N,8] z, float[4,8] w, float[8,5] v> {
        h = MatMul(x, w)  z = some.where.Fused(h)  y = MatMul(z, v)
    }"""
    model = parse(text)
    model.opset_import.append(onnx.helper.make_opsetid("some.where", 3))
    assert groups(model) == {}
    assert "Fused #1 ('z') has no rule" in reasons(model)


def test_an_operator_of_another_domain_is_not_mistaken_for_one_of_the_same_name() -> None:
    text = """g (float[N,4] x) => (float[N,5] y) <float[N,8] z, float[4,8] w, float[8,5] v> {
        h = MatMul(x, w)  z = some.where.Relu(h)  y = MatMul(z, v)
    }"""
    model = parse(text)
    model.opset_import.append(onnx.helper.make_opsetid("some.where", 1))
    assert groups(model) == {}


@pytest.mark.parametrize("opset", [1, 6])
def test_opsets_whose_broadcasting_was_explicit_are_refused(opset: int) -> None:
    text = """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
        h = MatMul(x, w)  y = MatMul(h, v)
    }"""
    model = parse(text, opset=opset)
    assert groups(model) == {}
    assert "MatMul #0 ('h') has no rule" in reasons(model)


DENSE = """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
    h = MatMul(x, w)  y = MatMul(h, v)
}"""


@pytest.mark.parametrize(("ir", "expected"), [(3, {"v:0 w:1": 8}), (4, {}), (8, {})])
def test_an_initializer_that_a_caller_may_override_stays(ir: int, expected: dict[str, int]) -> None:
    model = parse(DENSE, opset=8, ir=ir)
    if ir >= 4:  # from then on, only what is listed as an input may be overridden
        model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 8]))
    assert groups(model) == expected
    assert ("'w' is an initializer that a caller may override" in reasons(model)) == (expected == {})


def test_a_weight_that_is_stored_sparse_stays() -> None:
    model = parse("""g (float[N,4] x) => (float[N,5] y) <float[8,5] v> { h = MatMul(x, w)  y = MatMul(h, v) }""")
    values = numpy_helper.from_array(np.ones(8, dtype=np.float32), "w")
    places = numpy_helper.from_array(np.arange(0, 32, 4), "")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [4, 8]))
    assert groups(model) == {}
