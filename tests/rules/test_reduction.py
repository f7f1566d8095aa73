"""Reductions: a plain sum may lose what is zero, every other reduction keeps its axis whole."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, check

# pixels are reduced, channels are kept
PIXELS = """g (float[N,3,4,4] x) => (float[N,5,1,1] y)
<int64[2] axes = {{2,3}}, float[8,3,1,1] w, float[8] b, float[5,8,1,1] v> {{
    h = Conv(x, w, b)  {steps}  y = Conv(z, v)
}}"""
# channels are reduced
CHANNELS = """g (float[N,4] x) => (float[N,1] y) <int64[1] axes = {{1}}, float[4,8] w, float[8] b> {{
    m = MatMul(x, w)  h = Add(m, b)  {steps}
}}"""
KEPT = {"b:0 v:1 w:0": 8}
REDUCED = {"b:0 w:1": 8}
PLAIN_SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
OTHERS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
NO_PLAIN_SUM = "('y') reduces over it by something other than a plain sum"


def pixels(op: str, opset: int, before: str = "r = Abs(h)") -> Case:
    axes = "(r, axes)" if opset >= (13 if op == "ReduceSum" else 18) else "<axes = [2,3]> (r)"
    axes = axes.replace("<axes = [2,3]>", "<axes = [-2,-1]>") if opset == 11 else axes
    return Case(PIXELS.format(steps=f"{before}  z = {op} {axes}"), KEPT, opset=opset)


def channels(op: str, opset: int, groups: dict[str, int], why: str | None, before: str = "r = Abs(h)") -> Case:
    axes = "(r, axes)" if opset >= (13 if op == "ReduceSum" else 18) else "<axes = [1]> (r)"
    return Case(CHANNELS.format(steps=f"{before}  y = {op} {axes}"), groups, why, opset)


GRAPHS: dict[str, Case] = {f"{op}, of pixels": pixels(op, 18) for op in (*PLAIN_SUMS, *OTHERS) if op != "ReduceLogSum"}
GRAPHS |= {f"{op}, of channels": channels(op, 18, REDUCED, None) for op in PLAIN_SUMS}
GRAPHS |= {f"{op}, of channels": channels(op, 18, {}, NO_PLAIN_SUM) for op in OTHERS}
GRAPHS |= {
    "ReduceLogSum, of pixels": pixels("ReduceLogSum", 18, "r = Sigmoid(h)"),
    "ReduceLogSum, of pixels that are all zero": Case(
        PIXELS.format(steps="r = Relu(h)  z = ReduceLogSum(r, axes)"),
        {},
        "ReduceLogSum #2 ('z') is not finite where a zeroed unit makes it zero",
        18,
    ),
    "ReduceSum, of what is not zero": channels(
        "ReduceSum",
        18,
        {},
        "ReduceSum #3 ('y') sums over it, and a zeroed unit would still contribute",
        "r = Sigmoid(h)",
    ),
    "ReduceL2, of what is not zero": channels(
        "ReduceL2", 13, {}, "ReduceL2 #3 ('y') sums over it, and a zeroed unit would still contribute", "r = Exp(h)"
    ),
    "ReduceSum, of everything": Case(
        """g (float[N,4] x) => (float y) <float[4,8] w> { h = MatMul(x, w)  y = ReduceSum <keepdims = 0> (h) }""",
        {"w:1": 8},
        opset=11,
    ),
    "ReduceSum, of nothing": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  e = Exp(h)  z = ReduceSum <noop_with_empty_axes = 1> (e)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=13,
    ),
    "ReduceSum, without the axis that it sums": Case(
        """g (float[N,6,4] x) => (float[N,5] y) <int64[1] axes = {-2}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = ReduceSum <keepdims = 0> (h, axes)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "ReduceSum, over axes that are given at run time": Case(
        """g (float[N,6,4] x, int64[1] axes) => (float[N,1,5] y) <float[N,1,8] z, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = ReduceSum(h, axes)  y = MatMul(z, v)
        }""",
        {},
        "ReduceSum #1 ('z') reduces over axes that are not known before running",
    ),
    "ReduceMean, that is squeezed": Case(
        """g (float[N,3,4,4] x) => (float[N,5] y) <float[8,3,1,1] w, float[8,5] v> {
            h = Conv(x, w)  z = ReduceMean <axes = [2,3], keepdims = 0> (h)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "ReduceMean, over the axis that a norm would divide by": Case(
        """g (float[N,3,4] x) => (float[N,3,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  mean = ReduceMean <axes = [-1]> (h)  z = Sub(h, mean)  y = MatMul(z, v)
        }""",
        {},
        "ReduceMean #1 ('mean') reduces over it by something other than a plain sum",
        11,
    ),
    "Det": Case(
        """g (float[N,3,4,4] x) => (float[N,5] y) <float[8,3,1,1] w, float[8,5] v> {
            h = Conv(x, w)  z = Det(h)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
        opset=11,
    ),
    "Det, that is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N] y) <int64[1] axis = {1}, float[8,3,1,1] w> {
            h = Conv(x, w)  z = Det(h)  y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {"w:0": 8},
    ),
    "Det, of what is not zero that is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N] y) <int64[1] axis = {1}, float[8,3,1,1] w> {
            h = Conv(x, w)  e = Exp(h)  z = Det(e)  y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {},
        "ReduceSum #3 ('y') sums over it, and a zeroed unit would still contribute",
    ),
    "Det, of channels": Case(
        """g (float[8,4] x) => (float y) <float[4,8] w> { h = MatMul(x, w)  y = Det(h) }""",
        {},
        "Det #1 ('y') needs the whole matrix",
    ),
    "ArgMax": Case(
        """g (float[N,3,4] x) => (float[N,5] y) <float[8,3,1] w, float[8,5] v> {
            h = Conv(x, w)  a = ArgMax <axis = 2, keepdims = 0> (h)  z = Cast <to = 1> (a)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "ArgMax, over the axis": Case(
        """g (float[N,4] x) => (int64[N] y) <float[4,8] w> {
            h = MatMul(x, w)  y = ArgMax <axis = -1, keepdims = 0> (h)
        }""",
        {},
        "ArgMax #1 ('y') returns positions on it",
    ),
    "ArgMin": Case(
        """g (float[N,3,4] x) => (float[N,5,1] y) <float[8,3,1] w, float[5,8,1] v> {
            h = Conv(x, w)  a = ArgMin <axis = -1> (h)  z = Cast <to = 1> (a)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=11,
    ),
    "ArgMin, over the axis": Case(
        """g (float[N,4] x) => (int64[N,1] y) <float[4,8] w> { h = MatMul(x, w)  y = ArgMin <axis = 1> (h) }""",
        {},
        "ArgMin #1 ('y') returns positions on it",
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_what_is_reduced_stays_whole_unless_it_is_summed(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [7, 11, 13, 18, 20, 24])
@pytest.mark.parametrize("op", [op for op in (*PLAIN_SUMS, *OTHERS) if op != "ReduceLogSum"])
def test_kept_axes_are_cut_alike_whether_axes_are_an_attribute_or_an_input(op: str, opset: int) -> None:
    check(pixels(op, opset))


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
@pytest.mark.parametrize("op", PLAIN_SUMS)
def test_sums_lose_their_axis_alike_whether_axes_are_an_attribute_or_an_input(op: str, opset: int) -> None:
    check(channels(op, opset, REDUCED, None))


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
@pytest.mark.parametrize("op", OTHERS)
def test_other_reductions_refuse_alike_whether_axes_are_an_attribute_or_an_input(op: str, opset: int) -> None:
    check(channels(op, opset, {}, NO_PLAIN_SUM))


@pytest.mark.parametrize("op", [*PLAIN_SUMS, "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_a_reduction_of_zeros_is_zero(op: str) -> None:
    text = f"""g (float[N,3,4,4] x) => (float[N,1] y)
    <int64[2] pixels = {{2,3}}, int64[1] axes = {{1}}, float[8,3,1,1] w> {{
        h = Conv(x, w)  r = Abs(h)  z = {op} <keepdims = 0> (r, pixels)  y = ReduceSum(z, axes)
    }}"""
    check(Case(text, {"w:0": 8}, opset=18))


def test_the_exponential_of_zeros_is_not_zero() -> None:
    text = """g (float[N,3,4,4] x) => (float[N,1] y) <int64[2] pixels = {2,3}, int64[1] axes = {1}, float[8,3,1,1] w> {
        h = Conv(x, w)  z = ReduceLogSumExp <keepdims = 0> (h, pixels)  y = ReduceSum(z, axes)
    }"""
    check(Case(text, {}, "ReduceSum #2 ('y') sums over it, and a zeroed unit would still contribute", 18))
