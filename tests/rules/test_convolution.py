"""Convolutions: whole, grouped, depthwise and transposed, alone and in the company that they keep."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, batched, check, multiply_accumulates

GRAPHS: dict[str, Case] = {
    "Conv": Case(
        """g (float[N,3,6,6] x) => (float[N,5,6,6] y)
        <float[8,3,3,3] w, float[8] b, float[5,8,1,1] v> {
            h = Conv <pads = [1,1,1,1]> (x, w, b)
            y = Conv(h, v)
        }""",
        {"b:0 v:1 w:0": 8},
    ),
    "Conv, of opset 7": Case(
        """g (float[N,3,6,6] x) => (float[N,5,3,3] y)
        <float[8,3,3,3] w, float[8] b, float[5,8,1,1] v> {
            h = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w, b)
            y = Conv(h, v)
        }""",
        {"b:0 v:1 w:0": 8},
        opset=7,
    ),
    "Conv, over one axis": Case(
        """g (float[N,3,9] x) => (float[N,5,5] y) <float[8,3,3] w, float[8] b, float[5,8,3] v> {
            h = Conv(x, w, b)  r = Relu(h)  y = Conv(r, v)
        }""",
        {"b:0 v:1 w:0": 8},
    ),
    "Conv, over three axes": Case(
        """g (float[N,3,4,4,4] x) => (float[N,5,3,3,3] y) <float[8,3,2,2,2] w, float[5,8,1,1,1] v> {
            h = Conv(x, w)  r = Relu(h)  y = Conv(r, v)
        }""",
        {"v:1 w:0": 8},
    ),
    "Conv, in two groups": Case(  # channels j and j + 4 feed the same place of the weight; outputs pair up, too
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[12,4,1,1] k, float[12] b, float[5,12,1,1] v> {
            h = Conv(x, w)  r = Relu(h)  i = Conv <group = 2> (r, k, b)  y = Conv(i, v)
        }""",
        {"k:1 w:0": 4, "b:0 k:0 v:1": 6},
    ),
    "Conv, in four groups of one output each": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y) <float[8,3,1,1] w, float[4,2,1,1] k, float[5,4,1,1] v> {
            h = Conv(x, w)  i = Conv <group = 4> (h, k)  y = Conv(i, v)
        }""",
        {"k:1 w:0": 2, "k:0 v:1": 1},
    ),
    "Conv, depthwise": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[8,1,3,3] k, float[8] b, float[5,8,1,1] v> {
            h = Conv(x, w)  i = Conv <group = 8, pads = [1,1,1,1]> (h, k, b)  y = Conv(i, v)
        }""",
        {"b:0 k:0 v:1 w:0": 8},
    ),
    "Conv, depthwise with two outputs per channel": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[16,1,1,1] k, float[16] b, float[5,16,1,1] v> {
            h = Conv(x, w)  r = Relu(h)  i = Conv <group = 8> (r, k, b)  y = Conv(i, v)
        }""",
        {"b:0 k:0 v:1 w:0": 8},
    ),
    "Conv, depthwise on the input": Case(
        """g (float[N,6,4,4] x) => (float[N,5,4,4] y) <float[6,1,1,1] k, float[5,6,1,1] v> {
            h = Conv <group = 6> (x, k)  y = Conv(h, v)
        }""",
        {},
        "'x' is an input of the model",
    ),
    "Conv, in an inverted residual": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[4,3,1,1] w, float[12,4,1,1] e, float[12,1,3,3] d, float[4,12,1,1] p, float[5,4,1,1] v> {
            h = Conv(x, w)
            a = Conv(h, e)  r = Clip(a)  b = Conv <group = 12, pads = [1,1,1,1]> (r, d)  q = Relu(b)  c = Conv(q, p)
            s = Add(h, c)  y = Conv(s, v)
        }""",
        {"e:1 p:0 v:1 w:0": 4, "d:0 e:0 p:1": 12},
    ),
    "Conv, in a bottleneck": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[8] b, float[6,8,1,1] k, float[8,6,1,1] m, float[5,8,1,1] v> {
            h = Conv(x, w, b)  r = Relu(h)
            c = Conv(r, k)  d = Relu(c)  e = Conv(d, m)
            s = Add(e, r)  t = Relu(s)  y = Conv(t, v)
        }""",
        {"b:0 k:1 m:0 v:1 w:0": 8, "k:0 m:1": 6},
    ),
    "Conv, with squeeze and excitation": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[4,8,1,1] s, float[4] b, float[8,4,1,1] e, float[8] c, float[5,8,1,1] v> {
            h = Conv(x, w)
            p = GlobalAveragePool(h)  q = Conv(p, s, b)  r = Relu(q)  t = Conv(r, e, c)  i = Sigmoid(t)
            m = Mul(h, i)  y = Conv(m, v)
        }""",
        {"c:0 e:0 s:1 v:1 w:0": 8, "b:0 e:1 s:0": 4},
    ),
    "Conv, twice with one weight": Case(  # what leaves it enters it again
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[8,8,1,1] s, float[5,8,1,1] v> {
            h = Conv(x, w)  a = Conv(h, s)  r = Relu(a)  b = Conv(r, s)  y = Conv(b, v)
        }""",
        {"s:0 s:1 v:1 w:0": 8},
    ),
    "Conv, of two branches with one weight": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y, float[N,5,4,4] z)
        <float[8,3,1,1] w, float[8,3,1,1] k, float[6,8,1,1] s, float[5,6,1,1] v, float[5,6,1,1] u> {
            a = Conv(x, w)  b = Conv(x, k)  c = Conv(a, s)  d = Conv(b, s)  y = Conv(c, v)  z = Conv(d, u)
        }""",
        {"k:0 s:1 w:0": 8, "s:0 u:1 v:1": 6},
    ),
    "Conv, whose channels are shuffled": Case(
        # Channel c = 6 g + p is shuffled to place 2 p + g. The outputs of the first convolution live and die by p,
        # the inputs of the second by their place modulo 6, that is by p modulo 3.
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <int64[5] apart = {0,2,6,4,4}, int64[4] joined = {0,12,4,4},
         float[12,3,1,1] w, float[12,6,1,1] k, float[12,6,1,1] m, float[5,12,1,1] v> {
            h = Conv(x, w)  i = Conv <group = 2> (h, k)
            a = Reshape(i, apart)  t = Transpose <perm = [0,2,1,3,4]> (a)  s = Reshape(t, joined)
            o = Conv <group = 2> (s, m)  y = Conv(o, v)
        }""",
        {"k:1 w:0": 6, "k:0 m:1": 3, "m:0 v:1": 6},
    ),
    "Conv, whose weight is computed": Case(  # the weight is no plain tensor, so the input must bring the zeros
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  r = Relu(h)  k = Sigmoid(v)  y = Conv(r, k)
        }""",
        {"v:1 w:0": 8},
    ),
    "Conv, which neither operand makes zero": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  r = Sigmoid(h)  k = Sigmoid(v)  y = Conv(r, k)
        }""",
        {},
        "Conv #3 ('y') sums over it, and a zeroed unit would still contribute: neither operand is zero there",
    ),
    "ConvTranspose": Case(
        """g (float[N,3,4,4] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] w, float[8,6,2,2] t, float[6] b, float[5,6,1,1] v> {
            h = Conv(x, w)  u = ConvTranspose <strides = [2,2]> (h, t, b)  y = Conv(u, v)
        }""",
        {"t:0 w:0": 8, "b:0 t:1 v:1": 6},
    ),
    "ConvTranspose, over one axis": Case(
        """g (float[N,3,4] x) => (float[N,5,8] y) <float[8,3,1] w, float[8,6,2] t, float[5,6,1] v> {
            h = Conv(x, w)  u = ConvTranspose <strides = [2]> (h, t)  y = Conv(u, v)
        }""",
        {"t:0 w:0": 8, "t:1 v:1": 6},
        opset=7,
    ),
    "ConvTranspose, in two groups": Case(  # the weight holds the outputs of one group
        """g (float[N,3,4,4] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] w, float[8,3,2,2] t, float[6] b, float[5,6,1,1] v> {
            h = Conv(x, w)  r = Relu(h)  u = ConvTranspose <group = 2, strides = [2,2]> (r, t, b)  y = Conv(u, v)
        }""",
        {"t:0 w:0": 4, "b:0 t:1 v:1": 3},
    ),
    "Conv, of a batch of weights": batched("t = Conv(w, k)", {"k:1 w:1": 4}, "float[3,4,1,1] k"),
    "Conv, whose output is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N,1,4,4] y) <int64[1] axis = {1}, float[8,3,1,1] w, float[8] b> {
            h = Conv(x, w, b)  y = ReduceSum(h, axis)
        }""",
        {"b:0 w:0": 8},
    ),
    "ConvTranspose, of a batch of weights": batched("t = ConvTranspose(w, k)", {"k:0 w:1": 4}, "float[4,3,1,1] k"),
    "ConvTranspose, whose output is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N,1,5,5] y) <int64[1] axis = {1}, float[3,8,2,2] w, float[8] b> {
            h = ConvTranspose(x, w, b)  y = ReduceSum(h, axis)
        }""",
        {"b:0 w:1": 8},
    ),
    "ConvTranspose, depthwise": Case(
        """g (float[N,3,4,4] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] w, float[8,1,2,2] t, float[8] b, float[5,8,1,1] v> {
            h = Conv(x, w)  u = ConvTranspose <group = 8, strides = [2,2]> (h, t, b)  y = Conv(u, v)
        }""",
        {"b:0 t:0 v:1 w:0": 8},
    ),
    "ConvTranspose, depthwise with two outputs per channel": Case(
        """g (float[N,3,4,4] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] w, float[8,2,2,2] t, float[16] b, float[5,16,1,1] v> {
            h = Conv(x, w)  u = ConvTranspose <group = 8, strides = [2,2]> (h, t, b)  y = Conv(u, v)
        }""",
        {"b:0 t:0 v:1 w:0": 8},
    ),
}

NETWORK = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,3,3] w, float[8] wb, float[8] s, float[8] b, float[8] m, float[8] var,
 float[8,1,3,3] d, float[6,8,1,1] p, float[6] pb, float[10,96] v, float[10] vb, float[5,10] u, float[5] ub> {
    a = Conv <pads = [1,1,1,1]> (x, w, wb)  n = BatchNormalization(a, s, b, m, var)  r = Relu(n)
    q = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
    e = Conv <group = 8, pads = [1,1,1,1]> (q, d)  c = Conv(e, p, pb)  i = LeakyRelu(c)
    f = Flatten(i)  h = Gemm <transB = 1> (f, v, vb)  j = Relu(h)  y = Gemm <transB = 1> (j, u, ub)
}"""


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_channels_follow_the_groups(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", range(7, 25))
def test_a_small_network_is_cut_alike_at_every_opset(opset: int) -> None:
    groups = {"b:0 d:0 m:0 p:1 s:0 var:0 w:0 wb:0": 8, "p:0 pb:0 v:1": 6, "u:1 v:0 vb:0": 10}
    check(Case(NETWORK, groups, opset=opset))


def test_a_network_of_file_format_3_lists_its_weights_as_inputs() -> None:
    groups = {"b:0 d:0 m:0 p:1 s:0 var:0 w:0 wb:0": 8, "p:0 pb:0 v:1": 6, "u:1 v:0 vb:0": 10}
    check(Case(NETWORK, groups, opset=8, ir=3))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Conv(x, k)", 2 * 4 * 4 * 12 * 8 * 3 * 3),
        ("Conv <group = 2> (x, g)", 2 * 4 * 4 * 12 * 4 * 3 * 3),
        ("Conv <group = 8> (x, d)", 2 * 4 * 4 * 8 * 3 * 3),
        ("Conv <pads = [1,1,1,1]> (x, k)", 2 * 6 * 6 * 12 * 8 * 3 * 3),
        ("ConvTranspose(x, t)", 2 * 6 * 6 * 8 * 12 * 3 * 3),
        ("ConvTranspose <group = 8, strides = [2,2]> (x, d)", 2 * 6 * 6 * 8 * 3 * 3),
    ],
)
def test_a_convolution_states_its_multiply_accumulates(node: str, expected: int) -> None:
    weights = "float[12,8,3,3] k, float[12,4,3,3] g, float[8,1,3,3] d, float[8,12,3,3] t"
    assert multiply_accumulates(node, f"float[2,8,6,6] x, {weights}") == expected
