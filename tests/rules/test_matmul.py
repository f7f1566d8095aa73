"""Matrix products: of activations and weights, and of two activations, where zeros must be proven."""

from __future__ import annotations

import pytest

from tests.laws import difference, every_other, groups, parse
from tests.rules.cases import LIMIT, Case, check, multiply_accumulates

ATTENTION = """g (float[N,5,8] x) => (float[N,5,8] y)
<int64[4] apart = {0,5,3,4}, int64[3] joined = {0,5,12}, float[1] scale = {0.5},
 float[8,12] q, float[12] qb, float[8,12] k, float[8,12] p, float[12] pb, float[12,8] o, float[8] ob> {
    qa = MatMul(x, q)  qc = Add(qa, qb)  qr = Reshape(qc, apart)  qt = Transpose <perm = [0,2,1,3]> (qr)
    ka = MatMul(x, k)  kr = Reshape(ka, apart)  kt = Transpose <perm = [0,2,3,1]> (kr)
    pa = MatMul(x, p)  pc = Add(pa, pb)  pr = Reshape(pc, apart)  pt = Transpose <perm = [0,2,1,3]> (pr)
    s = MatMul(qt, kt)  ss = Mul(s, scale)  a = Softmax <axis = 3> (ss)
    c = MatMul(a, pt)  ct = Transpose <perm = [0,2,1,3]> (c)  cr = Reshape(ct, joined)
    l = MatMul(cr, o)  y = Add(l, ob)
}"""

# q, k: 8 inner indices of the product of two activations; what stands between them and their weights varies
SCORES = """g (float[N,5,4] x) => (float[N,5,5] y) <float[4,8] q, float[4,8] k> {{
    a = MatMul(x, q)  b = MatMul(x, k)
    {steps}
    t = Transpose <perm = [0,2,1]> (d)  y = MatMul(c, t)
}}"""

GRAPHS: dict[str, Case] = {
    "Gemm": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8] b, float[8,5] v, float[5] c> {
            h = Gemm(x, w, b)  r = Relu(h)  y = Gemm(r, v, c)
        }""",
        {"b:0 v:0 w:1": 8},
        opset=7,
    ),
    "Gemm, without an addend": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
            h = Gemm(x, w)  r = Relu(h)  y = Gemm <alpha = 0.5> (r, v)
        }""",
        {"v:0 w:1": 8},
        opset=11,
    ),
    "Gemm, with transposed weights": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[8,4] w, float[8] b, float[5,8] v, float[5] c> {
            h = Gemm <transB = 1> (x, w, b)  r = Relu(h)  y = Gemm <transB = 1, beta = 2.0> (r, v, c)
        }""",
        {"b:0 v:1 w:0": 8},
    ),
    "Gemm, with a transposed input": Case(
        """g (float[4,3] x) => (float[3,5] y) <float[4,8] w, float[1,8] b, float[8,5] v> {
            h = Gemm <transA = 1> (x, w, b)  y = Gemm(h, v)
        }""",
        {"b:1 v:0 w:1": 8},
    ),
    "Gemm, with weights on the left": Case(
        """g (float[4,3] x) => (float[5,3] y) <float[8,4] w, float[8,1] b, float[8,5] v> {
            h = Gemm(w, x, b)  y = Gemm <transA = 1> (v, h)
        }""",
        {"b:0 v:0 w:0": 8},
    ),
    "Gemm, with one addend for all": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[1] one = {1.0}, float[4,8] w, float[8,5] v> {
            h = Gemm(x, w, one)  y = Gemm(h, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Gemm, of flattened channels": Case(  # each channel owns four rows of the weight
        """g (float[N,3,2,2] x) => (float[N,5] y) <float[8,3,1,1] w, float[32,5] v, float[5] c> {
            h = Conv(x, w)  r = Relu(h)  f = Flatten(r)  y = Gemm(f, v, c)
        }""",
        {"v:0 w:0": 8},
    ),
    "Gemm, of two activations": Case(
        """g (float[3,4] x) => (float[3,3] y) <float[4,8] q, float[4,8] k> {
            a = MatMul(x, q)  b = MatMul(x, k)  c = Relu(a)  y = Gemm <transB = 1> (c, b)
        }""",
        {"k:1 q:1": 8},
    ),
    "Gemm, whose output is summed over": Case(
        """g (float[N,4] x) => (float[N,1] y) <int64[1] axis = {1}, float[4,8] w, float[8] b> {
            h = Gemm(x, w, b)  y = ReduceSum(h, axis)
        }""",
        {"b:0 w:1": 8},
    ),
    "Gemm, whose output is summed over with an addend for all": Case(
        """g (float[N,4] x) => (float[N,1] y) <int64[1] axis = {1}, float[1] one = {1.0}, float[4,8] w> {
            h = Gemm(x, w, one)  y = ReduceSum(h, axis)
        }""",
        {},
        "ReduceSum #1 ('y') sums over it, and a zeroed unit would still contribute",
    ),
    "MatMul": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8] b, float[8,5] v> {
            h = MatMul(x, w)  i = Add(h, b)  r = Relu(i)  y = MatMul(r, v)
        }""",
        {"b:0 v:0 w:1": 8},
        opset=7,
    ),
    "MatMul, of sequences": Case(
        """g (float[N,6,4] x) => (float[N,6,5] y) <float[4,8] w, float[8] b, float[8,5] v> {
            h = MatMul(x, w)  i = Add(b, h)  r = Gelu(i)  y = MatMul(r, v)
        }""",
        {"b:0 v:0 w:1": 8},
        opset=20,
    ),
    "MatMul, with weights on the left": Case(  # what mixes tokens has tokens for units
        """g (float[N,6,4] x) => (float[N,5,4] y) <float[8,6] w, float[5,8] v> {
            h = MatMul(w, x)  r = Relu(h)  y = MatMul(v, r)
        }""",
        {"v:1 w:0": 8},
    ),
    "MatMul, by one matrix per batch index": Case(
        """g (float[1,3,4] x) => (float[6,3,5] y) <float[6,4,8] w, float[6,8,5] v> {
            h = MatMul(x, w)  y = MatMul(h, v)
        }""",
        {"v:1 w:2": 8},
        "'y' is an output of the model",
    ),
    "MatMul, by a stack that is summed": Case(  # the experts of a sum are units, too
        """g (float[1,3,4] x) => (float[3,5] y)
        <int64[1] axis = {0}, float[6,4,8] w, float[6,8,5] v> {
            h = MatMul(x, w)  i = MatMul(h, v)  y = ReduceSum <keepdims = 0> (i, axis)
        }""",
        {"v:1 w:2": 8, "v:0 w:0": 6},
    ),
    "MatMul, by a column": Case(
        """g (float[N,4] x) => (float[N] y) <float[4,8] w, float[8] v> { h = MatMul(x, w)  y = MatMul(h, v) }""",
        {"v:0 w:1": 8},
    ),
    "MatMul, of a row": Case(
        """g (float[4] x) => (float[5] y) <float[4,8] w, float[8,5] v> { h = MatMul(x, w)  y = MatMul(h, v) }""",
        {"v:0 w:1": 8},
    ),
    "MatMul, of a row by a column": Case(
        """g (float[4] x) => (float y) <float[4,8] w, float[8] v> { h = MatMul(x, w)  y = MatMul(h, v) }""",
        {"v:0 w:1": 8},
    ),
    "MatMul, in attention": Case(  # three heads of four indices each
        ATTENTION, {"k:1 o:0 p:1 pb:0 q:1 qb:0": 3}
    ),
    "MatMul, of two activations of which one is zero": Case(
        SCORES.format(steps="c = Relu(a)  d = Sigmoid(b)"), {"k:1 q:1": 8}
    ),
    "MatMul, of two activations that are both zero": Case(
        SCORES.format(steps="c = Tanh(a)  d = Identity(b)"), {"k:1 q:1": 8}
    ),
    "MatMul, of two activations of which neither is zero": Case(
        SCORES.format(steps="c = Sigmoid(a)  d = Sigmoid(b)"),
        {},
        "MatMul #5 ('y') sums over it, and a zeroed unit would still contribute: neither operand is zero there",
    ),
    "MatMul, whose weight is transposed first": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[8,4] w, float[5,8] v> {
            wt = Transpose(w)  vt = Transpose <perm = [1,0]> (v)  h = MatMul(x, wt)  y = MatMul(h, vt)
        }""",
        {"v:1 w:0": 8},
    ),
    "MatMul, with one weight for input and output": Case(  # tied embeddings: the inner axis goes, the table's rows stay
        """g (int64[N,6] x) => (float[N,6,20] y) <float[20,8] table> {
            e = Gather(table, x)  r = Relu(e)  t = Transpose(table)  y = MatMul(r, t)
        }""",
        {"table:1": 8},
        "Gather #0 ('e') picks from it at run time",
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_the_inner_axis_is_summed_over(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21, 24])
def test_heads_are_the_units_of_attention_at_every_opset(opset: int) -> None:
    check(Case(ATTENTION, {"k:1 o:0 p:1 pb:0 q:1 qb:0": 3}, opset=opset))


def test_attention_may_leave_batch_and_length_open() -> None:
    open_ended = """g (float[N,S,8] x) => (float[N,S,8] y)
    <int64 first = {0}, int64 second = {1}, int64[1] front = {0}, int64[1] heads = {3}, int64[1] width = {4},
     int64[1] both = {12}, float[8,12] q, float[8,12] k, float[8,12] p, float[12,8] o> {
        size = Shape(x)
        n = Gather(size, first)  nn = Unsqueeze(n, front)  s = Gather(size, second)  ss = Unsqueeze(s, front)
        apart = Concat <axis = 0> (nn, ss, heads, width)  joined = Concat <axis = 0> (nn, ss, both)
        qa = MatMul(x, q)  qr = Reshape(qa, apart)  qt = Transpose <perm = [0,2,1,3]> (qr)
        ka = MatMul(x, k)  kr = Reshape(ka, apart)  kt = Transpose <perm = [0,2,3,1]> (kr)
        pa = MatMul(x, p)  pr = Reshape(pa, apart)  pt = Transpose <perm = [0,2,1,3]> (pr)
        score = MatMul(qt, kt)  a = Softmax(score)
        c = MatMul(a, pt)  ct = Transpose <perm = [0,2,1,3]> (c)  cr = Reshape(ct, joined)
        y = MatMul(cr, o)
    }"""
    model = parse(open_ended)
    assert groups(model) == {"k:1 o:0 p:1 q:1": 3}
    for length in (1, 5, 7):
        assert difference(model, every_other(model), {"x": (2, length, 8)}) <= LIMIT


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("MatMul(x, m)", 2 * 8 * 6 * 6 * 5),
        ("MatMul(m, q)", 6 * 5 * 7),
        ("Gemm <transA = 1> (p, q)", 3 * 7 * 5),
        ("Gemm <transB = 1> (m, r)", 6 * 4 * 5),
    ],
)
def test_a_product_states_its_multiply_accumulates(node: str, expected: int) -> None:
    weights = "float[2,8,6,6] x, float[6,5] m, float[5,3] p, float[5,7] q, float[4,5] r"
    assert multiply_accumulates(node, weights) == expected
