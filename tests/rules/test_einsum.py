"""Einsum: every letter is one index; what is summed must vanish in one operand at least."""

from __future__ import annotations

import pytest

from onnxprune.algebra.facts import Batch
from tests.laws import analyse, parse, reasons
from tests.rules.cases import Case, check, multiply_accumulates

# one row of 8 channels from each of three weights, which steps make into p, q and r
ROWS = """g (float[N,4] x) => (float y)
<{numbers} float[4,8] a, float[4,8] b, float[4,8] c> {{
    k = MatMul(x, a)  l = MatMul(x, b)  m = MatMul(x, c)  {steps}
    y = ReduceSum <keepdims = 0> (z)
}}"""
HEADS = """g (float[N,6,4] x) => (float[N,6,5] y)
<int64[4] apart = {0,0,4,6}, int64[3] together = {0,0,24},
 float[4,24] q, float[4,24] k, float[4,24] u, float[24,5] o> {
    a = MatMul(x, q)  b = MatMul(x, k)  c = MatMul(x, u)
    i = Reshape(a, apart)  j = Reshape(b, apart)  l = Reshape(c, apart)
    s = Einsum <equation = "nqhd,nkhd->nhqk"> (i, j)  p = Softmax <axis = -1> (s)
    r = Einsum <equation = "nhqk,nkhd->nqhd"> (p, l)  f = Reshape(r, together)  y = MatMul(f, o)
}"""


def rows(steps: str, groups: dict[str, int], why: str | None = None, numbers: str = "") -> Case:
    return Case(ROWS.format(steps=steps, numbers=f"{numbers}," if numbers else ""), groups, why, opset=12)


def dense(equations: tuple[str, str], v: str = "float[8,5] v") -> Case:
    """A hidden layer between two."""
    return Case(
        f"""g (float[N,6,4] x) => (float[N,6,5] y) <float[4,8] w, {v}> {{
            h = Einsum <equation = "{equations[0]}"> (x, w)  y = Einsum <equation = "{equations[1]}"> (h, v)
        }}""",
        {"v:0 w:1": 8} if v == "float[8,5] v" else {"v:1 w:1": 8},
        opset=12,
    )


TOGETHER = {"a:1 b:1 c:1": 8}
STILL = "('z') sums over it, and a zeroed unit would still contribute"

GRAPHS: dict[str, Case] = {
    "Einsum": dense(("nti,io->nto", "nto,op->ntp")),
    "Einsum, with blanks and capitals": dense((" nTi , io -> nTo ", "nTo,op->nTp")),
    "Einsum, with a transposed weight": dense(("nti,io->nto", "nto,po->ntp"), "float[5,8] v"),
    "Einsum, whose output is implied": dense(("abi,ic", "abi,ic")),
    "Einsum, of an ellipsis": dense(("...i,io->...o", "...o,op->...p")),
    "Einsum, of an ellipsis whose output is implied": dense(("...i,io", "...o,op")),
    "Einsum, of an ellipsis that hides nothing": dense(("nti...,io...->nto", "nto,op->ntp")),
    "Einsum, of a transposition": Case(
        """g (float[N,6,4] x) => (float[5,N,6] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  t = Einsum <equation = "nto->ont"> (h)  y = Einsum <equation = "ont,op->pnt"> (t, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Einsum, of transposed letters that are implied": Case(  # the output is "abc": channels, rows, pictures
        """g (float[N,6,4] x) => (float[8,M,5] y) <float[6,6] w, float[6,5] v, float[4,8] k> {
            h = MatMul(w, x)  i = MatMul(h, k)  t = Einsum <equation = "cba"> (i)
            s = Transpose <perm = [0,2,1]> (t)  y = MatMul(s, v)
        }""",
        {"v:0 w:0": 6},
    ),
    "Einsum, of attention": Case(  # heads h and what each of them compares (d) and passes on (e)
        """g (float[N,6,4] x) => (float[N,6,5] y)
        <float[4,3,8] q, float[4,3,8] k, float[4,3,7] u, float[3,7,5] o> {
            a = Einsum <equation = "nti,ihd->nhtd"> (x, q)  b = Einsum <equation = "nti,ihd->nhtd"> (x, k)
            c = Einsum <equation = "nti,ihe->nhte"> (x, u)  s = Einsum <equation = "nhqd,nhkd->nhqk"> (a, b)
            p = Softmax <axis = -1> (s)  r = Einsum <equation = "nhqk,nhke->nqhe"> (p, c)
            y = Einsum <equation = "nqhe,heo->nqo"> (r, o)
        }""",
        {"k:1 o:0 q:1 u:1": 3, "k:2 q:2": 8, "o:1 u:2": 7},
    ),
    # of a flattened axis of four heads of six, the heads go, though six would be more
    "Einsum, of attention that is reshaped": Case(HEADS, {"k:1 o:0 q:1 u:1": 4}),
    "Einsum, of three factors": rows('z = Einsum <equation = "ni,ni,ni->n"> (k, l, m)', TOGETHER),
    "Einsum, of three factors of which the first vanishes": rows(
        'r = Exp(l)  s = Exp(m)  z = Einsum <equation = "ni,ni,ni->n"> (k, r, s)', TOGETHER
    ),
    "Einsum, of three factors of which the second vanishes": rows(
        'r = Exp(k)  s = Exp(m)  z = Einsum <equation = "ni,ni,ni->n"> (r, l, s)', TOGETHER
    ),
    "Einsum, of three factors of which the third vanishes": rows(
        'r = Exp(k)  s = Exp(l)  z = Einsum <equation = "ni,ni,ni->n"> (r, s, m)', TOGETHER
    ),
    "Einsum, of three factors of which none vanishes": rows(
        'r = Exp(k)  s = Exp(l)  t = Exp(m)  z = Einsum <equation = "ni,ni,ni->n"> (r, s, t)', {}, STILL
    ),
    "Einsum, of a sum over one factor": rows(
        'z = Einsum <equation = "ni,nj,nk->n"> (k, l, m)', {"a:1": 8, "b:1": 8, "c:1": 8}
    ),
    "Einsum, of a sum over one factor that does not vanish": rows(  # that of the others does not help
        'r = Exp(k)  z = Einsum <equation = "ni,nj,nk->n"> (r, l, m)', {"b:1": 8, "c:1": 8}, STILL
    ),
    "Einsum, of a sum of all": rows('z = Einsum <equation = "ni->"> (k)', {"a:1": 8, "b:1": 8, "c:1": 8}),
    "Einsum, of an outer product": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[4,6] k, float[8,6,5] v> {
            h = MatMul(x, w)  i = MatMul(x, k)
            z = Einsum <equation = "ni,nj->nij"> (h, i)  y = Einsum <equation = "nij,ijo->no"> (z, v)
        }""",
        {"v:0 w:1": 8, "k:1 v:1": 6},
    ),
    "Einsum, of an outer product with itself": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,8,5] v> {
            h = MatMul(x, w)  z = Einsum <equation = "ni,nj->nij"> (h, h)  y = Einsum <equation = "nij,ijo->no"> (z, v)
        }""",
        {"v:0 v:1 w:1": 8},
    ),
    "Einsum, of a square": rows('z = Einsum <equation = "ni,ni->n"> (k, k)', {"a:1": 8, "b:1": 8, "c:1": 8}),
    "Einsum, of a letter that is stretched": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[1,5] v> {
            h = MatMul(x, w)  y = Einsum <equation = "ni,io->no"> (h, v)
        }""",
        {"w:1": 8},
    ),
    "Einsum, of a letter that is stretched over what does not vanish": Case(
        """g (float[N,4] x) => (float[N,5] z) <float[4,8] w, float[1,5] v> {
            h = MatMul(x, w)  e = Exp(h)  z = Einsum <equation = "ni,io->no"> (e, v)
        }""",
        {},
        STILL,
    ),
    "Einsum, of an ellipsis that is stretched": Case(
        """g (float[1,6,4] x) => (float[3,6,5] y) <float[4,8] w, float[3,8,5] v> {
            h = MatMul(x, w)  y = Einsum <equation = "...to,...op->...tp"> (h, v)
        }""",
        {"v:1 w:1": 8},
    ),
    "Einsum, of an ellipsis of two axes": Case(  # the last of which are channels
        """g (float[N,6,4] x) => (float[N,3,5] y) <float[4,8] w, float[1,1,8] k, float[6,3] r, float[8,5] v> {
            h = MatMul(x, w)  t = Transpose <perm = [1,0,2]> (h)
            i = Einsum <equation = "t...,tr->r..."> (t, r)  j = Einsum <equation = "...,...->..."> (i, k)
            s = Transpose <perm = [1,0,2]> (j)  y = MatMul(s, v)
        }""",
        {"k:2 v:0 w:1": 8},
    ),
    "Einsum, of a diagonal": Case(  # pixels on the diagonal, of channels that go
        """g (float[N,3,6,6] x) => (float[N,6,5] y) <float[8,3,1,1] w, float[8,5] v> {
            h = Conv(x, w)  z = Einsum <equation = "ncii->nic"> (h)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "Einsum, of a trace of channels": Case(
        """g (float[N,8,4] x) => (float[N] y) <float[8,8] k, float[4,8] w> {
            h = MatMul(k, x)  i = MatMul(h, w)  y = Einsum <equation = "nii->n"> (i)
        }""",
        {},
        "Einsum #2 ('y') takes a diagonal along it",
    ),
}
MALFORMED = {
    "nti->nt": "its equation has another number of terms than it has inputs",
    "nt,io->no": "'nt' does not fit 3 axes",
    "ntijk,io->no": "'ntijk' does not fit 3 axes",
    "...i,io->io": "its output lacks the ellipsis",
    "...i,...io->...o": "its ellipses stand for different numbers of axes",
    "nt1,io->nto": "'nt1' is no term of an equation",
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_a_letter_is_one_index_wherever_it_stands(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [12, 17, 22])
def test_einsum_says_the_same_at_every_opset(opset: int) -> None:
    check(GRAPHS["Einsum"]._replace(opset=opset))


@pytest.mark.parametrize("equation", MALFORMED)
def test_an_equation_that_does_not_fit_is_refused(equation: str) -> None:
    text = f"""g (float[N,6,4] x) => (float[N,6,8] y) <float[N,6,8] z, float[4,8] w> {{
        z = Einsum <equation = "{equation}"> (x, w)  y = Relu(z)
    }}"""
    assert f"Einsum #0 ('z') is malformed ({MALFORMED[equation]}" in reasons(parse(text))


@pytest.mark.parametrize(
    ("steps", "groups"),
    [
        ('s = Einsum <equation = "ni,ni->ni"> (k, l)', {"a:1 b:1": 8, "c:1": 8}),
        ('r = Exp(k)  s = Einsum <equation = "ni,ni->ni"> (r, l)', {"a:1 b:1": 8, "c:1": 8}),
        ('r = Exp(l)  s = Einsum <equation = "ni,ni->ni"> (k, r)', {"a:1 b:1": 8, "c:1": 8}),
        ('q = Exp(k)  r = Exp(l)  s = Einsum <equation = "ni,ni->ni"> (q, r)', {"c:1": 8}),
    ],
)
def test_a_product_is_zero_where_a_factor_is(steps: str, groups: dict[str, int]) -> None:
    check(rows(f"{steps}  z = ReduceSum <axes = [1]> (s)", groups))


def test_the_heads_of_two_activations_are_named() -> None:
    analysis = analyse(parse(HEADS))
    named = [{f.axis for f in facts if isinstance(f, Batch)} for facts in analysis.facts]
    assert {("i", 2), ("j", 2)} <= set().union(*named)
    assert not any(axis[0] in analysis.graph.initializers for axes in named for axis in axes)


def test_multiply_accumulates_are_the_product_of_all_letters() -> None:
    weights = "float[2,3] a, float[3,7] b, float[7,5] c"
    assert multiply_accumulates('Einsum <equation = "ij,jk->ik"> (a, b)', weights) == 2 * 3 * 7
    assert multiply_accumulates('Einsum <equation = "ij,jk,kl->il"> (a, b, c)', weights) == 2 * 3 * 7 * 5
