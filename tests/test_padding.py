"""Gradients through convolutions and pools whose pads onnx-ad does not know, or gets wrong."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

from onnxprune.algebra.graph import Graph
from onnxprune.autodiff import padding
from onnxprune.autodiff.gradients import Gates
from onnxprune.errors import UsageError
from tests.gated import Net, batches, cross_entropy, differences, plain
from tests.laws import analyse

WINDOWS = {
    "same, upper": 'Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (r, k)',
    "same, lower": 'Conv <auto_pad = "SAME_LOWER", strides = [1, 2]> (r, k)',
    "pads behind only": "Conv <pads = [0, 0, 1, 1], strides = [2, 2]> (r, k)",
    "pads in front only": "Conv <pads = [1, 1, 0, 0], strides = [2, 2]> (r, k)",
    "uneven pads and dilations": "Conv <pads = [0, 2, 1, 0], dilations = [2, 1]> (r, k)",
    "an end that is never read": "Conv <pads = [2, 2, 2, 2], strides = [3, 4]> (r, k)",
    "transposed, same": 'ConvTranspose <auto_pad = "SAME_UPPER", strides = [2, 2]> (r, k)',
    "transposed, uneven": "ConvTranspose <pads = [1, 0, 0, 2], strides = [2, 1], output_padding = [1, 0]> (r, k)",
    "greatest of the same": 'MaxPool <kernel_shape = [3, 2], auto_pad = "SAME_UPPER", strides = [2, 2]> (r)',
    "mean of what is there": "AveragePool <kernel_shape = [3, 2], pads = [0, 1, 2, 0], strides = [2, 2]> (r)",
    "mean with pads": "AveragePool <kernel_shape = [3, 2], pads = [0, 1, 1, 0], count_include_pad = 1> (r)",
    "mean of the same": 'AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER", strides = [2, 2]> (r)',
    "plain": "Conv <pads = [1, 1, 1, 1]> (r, k)",
}


def windowed(node: str) -> Net:
    """Gates in front of a convolution whose output passes through a window."""
    text = f"""(float[N,2,7,9] x) => (float[N,4] y)
        <float[3,2,1,1] u, float[3,3,1,1] v, float[3,3,3,3] k, float[3,4] w> {{
        h = Conv(x, u)  t = Tanh(h)  i = Conv([t], v)  r = Sigmoid(i)  o = {node}  s = Tanh(o)
        f = ReduceMean <axes = [2, 3], keepdims = 0> (s)  y = MatMul(f, w) }}"""
    return Net(text, {"t": ((1, 3, 1, 1), 1)}, (2, 7, 9))


@pytest.mark.parametrize("name", WINDOWS)
def test_gradients_pass_through_windows(name: str) -> None:
    net = windowed(WINDOWS[name])
    analysis = analyse(plain(net))
    group = int(analysis.group_of[analysis.unit_of[analysis.span(("t", 1))][0]])
    members = analysis.members(group)
    feeds, labels = batches(net, 2)[:1], np.array([1, 0])
    gates = Gates(analysis, feeds, [labels])
    expected = differences(net, analysis, feeds[0]["x"], partial(cross_entropy, labels))[:, members]
    np.testing.assert_allclose(gates.gates(group), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["pads in front only", "uneven pads and dilations"])
def test_a_wrong_derivative_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def untouched(graph: Graph) -> onnx.ModelProto:
        return graph.record.whole()

    monkeypatch.setattr(padding, "written_out", untouched)
    net = windowed(WINDOWS[name])
    with pytest.raises(UsageError, match="not the one that differences give"):
        Gates(analyse(plain(net)), batches(net), [np.zeros(3, int), np.zeros(2, int)]).gates(0)
