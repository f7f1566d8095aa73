"""Pools keep batch and channels in place."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, batched, check

POOLED = """g (float[N,3,6,6] x) => (float[N,5,A,B] y) <float[8,3,1,1] w, float[8] b, float[5,8,1,1] v> {{
    h = Conv(x, w, b)  {steps}  y = Conv(z, v)
}}"""
PER_CHANNEL = {"b:0 v:1 w:0": 8}


def pooled(steps: str, opset: int = 17) -> Case:
    return Case(POOLED.format(steps=steps), PER_CHANNEL, opset=opset)


GRAPHS: dict[str, Case] = {
    "MaxPool": pooled("z = MaxPool <kernel_shape = [2,2], strides = [2,2]> (h)"),
    "MaxPool, padded": pooled("r = Relu(h)  z = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (r)", 8),
    "MaxPool, rounded up": pooled("z = MaxPool <kernel_shape = [4,4], strides = [4,4], ceil_mode = 1> (h)", 10),
    "MaxPool, dilated": pooled("z = MaxPool <kernel_shape = [2,2], dilations = [2,2]> (h)", 12),
    "MaxPool, over one axis": Case(
        """g (float[N,3,9] x) => (float[N,5,A] y) <float[8,3,1] w, float[5,8,1] v> {
            h = Conv(x, w)  z = MaxPool <kernel_shape = [3]> (h)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
    ),
    "MaxPool, that returns positions": Case(
        """g (float[N,3,4,4] x) => (float[N,5,2,2] y, int64[N,8,2,2] at) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z, at = MaxPool <kernel_shape = [2,2], strides = [2,2]> (h)  y = Conv(z, v)
        }""",
        {},
        "MaxPool #1 ('z') also returns positions counted over all channels",
    ),
    "AveragePool": pooled("z = AveragePool <kernel_shape = [3,3], strides = [2,2]> (h)"),
    "AveragePool, padded": pooled('z = AveragePool <kernel_shape = [3,3], auto_pad = "SAME_UPPER"> (h)', 11),
    "LpPool": pooled("z = LpPool <kernel_shape = [2,2], p = 2> (h)"),
    "GlobalAveragePool": pooled("z = GlobalAveragePool(h)"),
    "GlobalMaxPool": pooled("z = GlobalMaxPool(h)"),
    "GlobalLpPool": pooled("z = GlobalLpPool <p = 2> (h)"),
    "MaxPool, of a batch of weights": batched("t = MaxPool <kernel_shape = [2,2]> (w)", {}),
    "GlobalLpPool, of a batch of weights": batched("t = GlobalLpPool(w)", {}),
    "GlobalAveragePool, before a classifier": Case(
        """g (float[N,3,6,6] x) => (float[N,5] y) <float[8,3,1,1] w, float[5,8] v, float[5] c> {
            h = Conv(x, w)  r = Relu(h)  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm <transB = 1> (f, v, c)
        }""",
        {"v:1 w:0": 8},
    ),
    "MaxPool, of mixed branches": Case(
        """g (float[N,3,6,6] x) => (float[N,5,6,6] y)
        <float[4,3,1,1] w, float[6,3,3,3] k, float[2,3,1,1] q, float[5,12,1,1] v> {
            a = Conv(x, w)  b = Conv <pads = [1,1,1,1]> (x, k)
            p = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (x)  c = Conv(p, q)
            z = Concat <axis = 1> (a, b, c)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4, "k:0 v:1": 6, "q:0 v:1": 2},
    ),
}

SUMMED = """g (float[N,3,6,6] x) => (float[N,A,B] y) <float[8,3,1,1] w, int64[1] axis = {{1}}> {{
    h = Conv(x, w)  {steps}  y = ReduceSum <keepdims = 0> (z, axis)
}}"""


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_channels_stay_in_place(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [7, 8, 10, 11, 12, 18, 19, 22, 24])
def test_pools_say_the_same_at_every_opset(opset: int) -> None:
    windowed = "a = MaxPool <kernel_shape = [2,2]> (h)  c = AveragePool <kernel_shape = [2,2]> (a)"
    check(pooled(f"{windowed}  d = LpPool <kernel_shape = [2,2]> (c)  z = GlobalMaxPool(d)", opset))


@pytest.mark.parametrize(
    "steps",
    [
        "z = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (h)",
        "z = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (h)",
        "z = LpPool <kernel_shape = [2,2]> (h)",
        "z = GlobalAveragePool(h)",
        "z = GlobalMaxPool(h)",
        "z = GlobalLpPool(h)",
    ],
)
def test_a_pool_of_zeros_is_zero(steps: str) -> None:
    check(Case(SUMMED.format(steps=steps), {"w:0": 8}))
