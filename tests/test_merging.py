"""Neuron merging: what is a multiple of a kept channel is taken over exactly, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.algebra.analysis import Analysis
from onnxprune.recovery.merging import Merge
from onnxprune.recovery.methods import recovered
from onnxprune.recovery.sequence import Step
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal
from tests.laws import parse
from tests.linears import batches, mask, outputs, prepared, relative, replaced

NETS = {
    "convolutions": """g (float[N,3,8,8] x) => (float[N,5,4,4] z)
        <float[6,3,3,3] p, float[6] q, float[6] s, float[6] t, float[6] m, float[6] v, float[5,6,3,3] w, float[5] b>
        { c = Conv <pads = [1, 1, 1, 1]> (x, p, q) n = BatchNormalization(c, s, t, m, v) r = Relu(n)
          h = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) z = Conv <pads = [1, 1, 1, 1]> (h, w, b) }""",
    "dense layers": """g (float[N,9] x) => (float[N,5] z) <float[6,9] p, float[6] q, float[6,5] w, float[5] b>
        { c = Gemm <transB = 1> (x, p, q) h = Relu(c) z = Gemm(h, w, b) }""",
    "a filter per channel": """g (float[N,3,8,8] x) => (float[N,5,6,6] z)
        <float[6,3,3,3] p, float[6] q, float[6,1,3,3] k, float[6] l, float[5,6,1,1] w, float[5] b>
        { c = Conv <pads = [1, 1, 1, 1]> (x, p, q) h = Relu(c) d = Conv <group = 6> (h, k, l) z = Conv(d, w, b) }""",
    "no rectifier": """g (float[N,9] x) => (float[N,5] z) <float[6,9] p, float[6] q, float[6,5] w, float[5] b>
        { c = Gemm <transB = 1> (x, p, q) h = Sigmoid(c) z = Gemm(h, w, b) }""",
    "two producers": """g (float[N,9] x) => (float[N,5] z)
        <float[6,9] p, float[6] q, float[6,9] o, float[6] u, float[6,5] w, float[5] b>
        { c = Gemm <transB = 1> (x, p, q) d = Relu(c) e = Gemm <transB = 1> (x, o, u) f = Relu(e)
          h = Add(d, f) z = Gemm(h, w, b) }""",
}
SHAPES = {"x": (-1, 3, 8, 8)}
FLAT = {"x": (-1, 9)}
GONE, LIKE, TIMES = 4, 1, 2.5


def net(name: str, *, alike: bool = True) -> onnx.ModelProto:
    """A network in which one channel is a multiple of another, normalisation included."""
    model = parse(NETS[name], seed=3)
    if alike:
        for weight, bias in (("p", "q"), ("o", "u")):
            if any(tensor.name == weight for tensor in model.graph.initializer):
                replaced(model, weight, lambda w: w.__setitem__(GONE, TIMES * w[LIKE]))
                replaced(model, bias, lambda b: b.__setitem__(GONE, TIMES * b[LIKE]))
    if name == "convolutions":
        replaced(model, "v", lambda v: np.abs(v, out=v))
        if alike:
            for vector, factor in (("s", 1.0), ("t", TIMES), ("m", TIMES), ("v", 1.0)):
                replaced(model, vector, lambda a, f=factor: a.__setitem__(GONE, f * a[LIKE]))  # type: ignore[misc]
    return model


def merged(model: onnx.ModelProto, name: str) -> tuple[Analysis, Values, list[Step], float]:
    """What merging did, and how far the outputs that stay are from the dense model's."""
    analysis = prepared(model)
    shapes = SHAPES if "float[N,3" in NETS[name] else FLAT
    gone = mask(analysis, ("p", 0), [GONE])
    values, steps = recovered(analysis, gone, batches(shapes), "merge")
    other = batches(shapes, seed=9)
    (dense,), (found,) = outputs(analysis.graph, other, ["z"]), outputs(analysis.graph, other, ["z"], values)
    kept = analysis.kept(("z", 1), gone)
    return analysis, values, steps, relative(found[:, kept], dense[:, kept])


@pytest.mark.parametrize("name", ["convolutions", "dense layers"])
def test_a_multiple_of_a_kept_channel_is_taken_over(name: str) -> None:
    *_, steps, error = merged(net(name), name)
    assert error < 1e-5
    assert [step.after for step in steps] == [pytest.approx(0, abs=1e-6)]
    assert steps[0].before > 0.01


@pytest.mark.parametrize("name", ["no rectifier", "two producers", "a filter per channel"])
def test_what_is_not_known_to_be_a_multiple_is_left_alone(name: str) -> None:
    analysis, values, *_ = merged(net(name), name)
    gone = mask(analysis, ("p", 0), [GONE])
    for tensor, value in removal.zeroed(analysis, gone).items():
        np.testing.assert_array_equal(values[tensor], value)


@pytest.mark.parametrize("name", ["convolutions", "dense layers"])
def test_a_merger_that_does_harm_is_taken_back(name: str) -> None:
    """An error on the inputs that were given never grows."""
    *_, steps, _ = merged(net(name, alike=False), name)
    assert all(step.after <= step.before for step in steps)


def test_outputs_that_go_stay_zero() -> None:
    analysis = prepared(net("dense layers"))
    gone = mask(analysis, ("p", 0), [GONE])
    run = Merge(analysis, gone, batches(FLAT))
    run.values["w"] = run.values["w"].copy()
    run.values["w"][:, 2] = 0
    (linear,) = [found for found in run.linears.values() if found.w == "w"]
    read = linear.tensor(run._merged(linear, list(run._alike(linear))))
    assert not read[:, 2].any()
    np.testing.assert_allclose(
        read[LIKE, 0], np.asarray(analysis.graph.constant("w"))[[LIKE, GONE], 0] @ (1, TIMES), rtol=1e-6
    )
