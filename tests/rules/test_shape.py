"""Operators that move, split, join and stretch axes, and those that talk about sizes."""

from __future__ import annotations

import pytest

from tests.laws import difference, every_other, groups, parse
from tests.rules.cases import LIMIT, Case, check

ROWS = """g (float[N,4] x) => (float[N,5] y)
<int64[2] flat = {{0,8}}, int64[3] line = {{0,1,8}}, int64[3] square = {{0,2,4}},
 int64[1] naught = {{0}}, int64[1] first = {{1}}, int64[1] last = {{-1}}, float[4,8] w, float[8] b, float[8,5] v> {{
    m = MatMul(x, w)  h = Add(m, b)  {steps}  y = MatMul(z, v)
}}"""
HIDDEN = {"b:0 v:0 w:1": 8}


def rows(steps: str, groups: dict[str, int] | None = None, why: str | None = None, opset: int = 17) -> Case:
    return Case(ROWS.format(steps=steps), HIDDEN if groups is None else groups, why, opset)


GRAPHS: dict[str, Case] = {
    "Constant, that holds a weight": Case(
        """g (float[N,2] x) => (float[N,1] y) {
            w = Constant <value = float[2,4] {1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0}> ()
            b = Constant <value = float[4] {1.0,-2.0,3.0,4.0}> ()
            v = Constant <value = float[4,1] {2.0,3.0,-5.0,7.0}> ()
            m = MatMul(x, w)  h = Add(m, b)  y = MatMul(h, v)
        }""",
        {"b:0 v:0 w:1": 4},
    ),
    "Constant, that lists its numbers": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,3] w, float[3,5] v> {
            c = Constant <value_floats = [1.0,2.0,3.0]> ()  h = MatMul(x, w)  z = Mul(h, c)  y = MatMul(z, v)
        }""",
        {},
        "Constant #0 ('c') does not keep its values in a plain tensor",
    ),
    "Constant, that lists the sizes of a target": rows(
        "s = Constant <value_ints = [0,8,1]> ()  t = Constant <value_ints = [0,8]> ()"
        "  a = Reshape(h, s)  r = Relu(a)  z = Reshape(r, t)"
    ),
    "Shape, of which the batch is read": Case(  # a constant width stands beside a computed batch
        """g (float[N,4] x) => (float[N,5] y)
        <int64 zero = {0}, int64[1] front = {0}, int64[1] width = {8}, int64[1] one = {1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)
            s = Shape(h)  n = Gather(s, zero)  u = Unsqueeze(n, front)  t = Concat <axis = 0> (u, width, one)
            a = Reshape(h, t)  r = Relu(a)  o = Concat <axis = 0> (u, width)  z = Reshape(r, o)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Shape, of which a target follows by itself": Case(
        """g (float[N,4] x) => (float[N,5] y) <int64[1] one = {1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Shape(h)  t = Concat <axis = 0> (s, one)
            a = Reshape(h, t)  r = Relu(a)  z = Reshape(r, s)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Shape, of which a target is computed that does not follow": Case(  # 8 - 4 is half of 8, and 4 - 4 not half of 4
        """g (float[N,4] x) => (float[N,5] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)
            s = Shape(h)  n = Gather(s, zero)  c = Gather(s, one)  d = Sub(c, four)  t = Concat <axis = 0> (n, two, d)
            a = Reshape(h, t)  r = Relu(a)  z = Reshape(r, s)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 4},
    ),
    "Shape, that starts and ends": Case(
        """g (float[N,4] x) => (float[N,5] y) <int64[1] one = {1}, int64[1] two = {2}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  n = Shape <end = 1> (h)  c = Shape <start = -1> (h)  t = Concat <axis = 0> (n, c, one)
            a = Reshape(h, t)  r = Relu(a)  z = Squeeze(r, two)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=15,
    ),
    "Shape, of which the width is read as a number": rows(
        "s = Shape(h)  c = Gather(s, last)  f = Cast <to = 1> (c)  q = Sqrt(f)  z = Mul(h, q)",
        {},
        "Sqrt #5 ('q') reads its width as a number",
    ),
    "Shape, of which the width is a divisor": rows(
        "s = Shape(h)  c = Gather(s, last)  f = Cast <to = 1> (c)  z = Div(h, f)",
        {},
        "Div #5 ('z') reads its width as a number",
    ),
    "Shape, of which only the batch is read as a number": rows(
        "s = Shape(h)  c = Slice(s, naught, first)  f = Cast <to = 1> (c)  q = Sqrt(f)  z = Mul(h, q)"
    ),
    "Size, that is read as a number": rows(
        "s = Size(h)  f = Cast <to = 1> (s)  z = Div(h, f)", {}, "Div #4 ('z') reads its width as a number"
    ),
    "Size, of something that is not cut": rows("s = Size(x)  f = Cast <to = 1> (s)  z = Div(h, f)"),
    "Reshape, that adds a factor": rows("a = Reshape(h, line)  r = Relu(a)  z = Reshape(r, flat)"),
    "Reshape, into a square of which one side is cut": rows(
        "a = Reshape(h, square)  r = Relu(a)  z = Reshape(r, flat)", {"b:0 v:0 w:1": 4}
    ),
    "Reshape, into a square of which a weight takes one side": Case(
        """g (float[N,4] x) => (float[N,4,5] y)
        <int64[3] square = {0,2,4}, float[4,8] w, float[2,6] k, float[6,5] v> {
            h = MatMul(x, w)  a = Reshape(h, square)  t = Transpose <perm = [0,2,1]> (a)  i = MatMul(t, k)
            y = MatMul(i, v)
        }""",
        {"k:0 w:1": 2, "k:1 v:0": 6},
    ),
    "Reshape, whose 0 copies what it does not keep": Case(
        # 64 = 2 x 4 x 8 = 8 x 4 x 2: the 0 stands where both have 4, but those are other axes
        """g (float[N,4] x) => (float[N,5] y)
        <int64[4] deep = {0,2,4,8}, int64[4] wide = {0,8,0,2}, int64[2] flat = {0,-1}, float[4,64] w, float[64,5] v> {
            h = MatMul(x, w)  a = Reshape(h, deep)  r = Relu(a)  b = Reshape(r, wide)  q = Sigmoid(b)
            z = Reshape(q, flat)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 4},
    ),
    "Reshape, that mixes its axes": Case(
        # Rows of 96 and rows of 64 start together every 192: two rows of the one are three rows of the other.
        """g (float[4,96] x) => (float[5,64] y) <int64[2] target = {12,64}, float[8,4] w, float[5,12] v> {
            h = MatMul(w, x)  r = Relu(h)  a = Reshape(r, target)  y = MatMul(v, a)
        }""",
        {"v:1 w:0": 4},
    ),
    "Reshape, that mixes its axes and is read in columns": Case(
        # Columns meet modulo 32: three of the one are two of the other.
        """g (float[8,4] x) => (float[12,5] y) <int64[2] target = {12,64}, float[4,96] w, float[64,5] v> {
            h = MatMul(x, w)  r = Relu(h)  a = Reshape(r, target)  y = MatMul(a, v)
        }""",
        {"v:0 w:1": 32},
    ),
    "Reshape, to a shape that is given at run time": Case(
        """g (float[N,4] x, int64[2] target) => (float[N,5] y) <float[N,8] z, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Reshape(h, target)  y = MatMul(z, v)
        }""",
        {},
        "Reshape #1 ('z') takes a shape that is not known before running",
    ),
    "Flatten": Case(
        """g (float[N,3,2,2] x) => (float[N,5] y) <float[8,3,1,1] w, float[32,5] v> {
            h = Conv(x, w)  r = Relu(h)  z = Flatten(r)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "Flatten, at the last axis": Case(
        """g (float[2,3,4] x) => (float[6,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Flatten <axis = -1> (h)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=11,
    ),
    "Flatten, of what is only channels": Case(
        """g (float[N,3,1,1] x) => (float[N,5] y) <float[8,3,1,1] w, float[5,8] v> {
            h = Conv(x, w)  z = Flatten(h)  y = Gemm <transB = 1> (z, v)
        }""",
        {"v:1 w:0": 8},
    ),
    "Flatten, of pictures whose size is open": Case(
        """g (float[N,3,H,W] x) => (float[N,M] y) <float[8,3,1,1] w> { h = Conv(x, w)  y = Flatten(h) }""",
        {},
        "Flatten #1 ('y') flattens axes that are all fixed, or of unknown size",
    ),
    "Squeeze": rows("a = Unsqueeze(h, first)  z = Squeeze(a, first)"),
    "Squeeze, of all that is 1": Case(
        """g (float[2,4] x) => (float[2,5] y) <int64[3] line = {2,1,8}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  a = Reshape(h, line)  z = Squeeze(a)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 6},
        "drops every axis of size 1, so that two indices stay",
    ),
    "Squeeze, of axes that are given at run time": Case(
        """g (float[N,1,4] x, int64[1] axes) => (float[N,5] y) <float[N,8] z, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Squeeze(h, axes)  y = MatMul(z, v)
        }""",
        {},
        "Squeeze #1 ('z') drops axes that are not known before running",
    ),
    "Unsqueeze, of axes that are given at run time": Case(
        """g (float[N,4] x, int64[1] axes) => (float[N,1,5] y) <float[N,1,8] z, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Unsqueeze(h, axes)  y = MatMul(z, v)
        }""",
        {},
        "Unsqueeze #1 ('z') adds axes that are not known before running",
    ),
    "Unsqueeze": rows("a = Unsqueeze(h, last)  r = Relu(a)  z = Squeeze(r, last)"),
    "Transpose": Case(
        """g (float[N,4,6] x) => (float[N,6,5] y) <float[8,4] w, float[8,5] v> {
            h = MatMul(w, x)  z = Transpose <perm = [0,2,1]> (h)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "Transpose, that reverses": Case(
        """g (float[3,4] x) => (float[5,3] y) <float[4,8] w, float[5,8] v> {
            h = MatMul(x, w)  z = Transpose(h)  y = MatMul(v, z)
        }""",
        {"v:1 w:1": 8},
    ),
    "Expand, of other axes": Case(
        """g (float[N,1,4] x) => (float[N,3,5] y) <int64[3] to = {1,3,8}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Expand(h, to)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Expand, by a shape of ones": Case(
        """g (float[N,1,4] x) => (float[N,3,5] y) <int64[2] to = {3,1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Expand(h, to)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=8,
    ),
    "Expand, that makes channels of one": Case(  # every channel is the same; each owns a row of the weight
        """g (float[N,4] x) => (float[N,5] y) <int64[2] to = {1,8}, float[4,1] k, float[4,8] w, float[8,5] v> {
            a = MatMul(x, k)  e = Expand(a, to)  h = MatMul(x, w)  z = Mul(e, h)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Expand, that gives a sum all its indices": Case(
        """g (float[N,4] x) => (float[N,5] y) <int64[2] to = {1,8}, float[4,1] k, float[8,5] v> {
            a = MatMul(x, k)  e = Expand(a, to)  y = MatMul(e, v)
        }""",
        {"v:0": 8},
    ),
    "Expand, to another tensor's shape": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[8] b, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Shape(h)  e = Expand(b, s)  z = Add(h, e)  y = MatMul(z, v)
        }""",
        {"b:0 v:0 w:1": 8},
    ),
    "Expand, to a shape that is given at run time": Case(
        """g (float[N,4] x, int64[2] to) => (float[N,5] y) <float[N,8] z, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Expand(h, to)  y = MatMul(z, v)
        }""",
        {},
        "Expand #1 ('z') takes a shape that is not known before running",
    ),
    "Tile, of other axes": Case(
        """g (float[N,2,4] x) => (float[N,6,5] y) <int64[3] by = {1,3,1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Tile(h, by)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=7,
    ),
    "Tile, along the channels": Case(  # channel c is found again 8 and 16 places on
        """g (float[N,4] x) => (float[N,5] y) <int64[2] by = {1,3}, float[4,8] w, float[24,5] v> {
            h = MatMul(x, w)  z = Tile(h, by)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=13,
    ),
    "ConstantOfShape": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <int64[2] to = {1,8}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  c = ConstantOfShape <value = float[1] {3.0}> (to)  z = Add(h, c)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
        opset=9,
    ),
    "ConstantOfShape, of another tensor's shape": Case(
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  s = Shape(h)  c = ConstantOfShape <value = float[1] {3.0}> (s)
            z = Mul(h, c)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "ConstantOfShape, of a shape that is given at run time": Case(
        """g (float[N,4] x, int64[1] to) => (float[N,5] y) <float[8] c, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  c = ConstantOfShape(to)  z = Add(h, c)  y = MatMul(z, v)
        }""",
        {},
        "ConstantOfShape #1 ('c') takes a shape that is not known before running",
    ),
    "ConstantOfShape, of zeros that are summed": Case(
        """g (float[N,4] x) => (float[N] y) <int64[1] to = {8}, int64[1] axis = {1}, float[4,8] w> {
            h = MatMul(x, w)  c = ConstantOfShape(to)  z = Add(h, c)  y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {"w:1": 8},
    ),
    "ConstantOfShape, of ones that are summed": Case(
        """g (float[N,4] x) => (float[N] y) <int64[1] to = {8}, int64[1] axis = {1}, float[4,8] w> {
            h = MatMul(x, w)  c = ConstantOfShape <value = float[1] {1.0}> (to)  z = Add(h, c)
            y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {},
        "ReduceSum #3 ('y') sums over it, and a zeroed unit would still contribute",
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_axes_are_followed_and_sizes_rewritten(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("steps", "axis"),
    [
        ("z = Reshape(h, line)", 2),
        ("z = Flatten(h)", 1),
        ("z = Unsqueeze(h, first)", 2),
        ("u = Unsqueeze(h, first)  z = Squeeze(u, first)", 1),
        ("z = Transpose <perm = [1,0]> (h)", 0),
        ("u = Unsqueeze(h, first)  z = Expand(u, thrice)", 2),
        ("z = Tile(h, twice)", 1),
    ],
)
def test_what_is_moved_or_repeated_keeps_its_zeros(steps: str, axis: int) -> None:
    text = f"""g (float[2,4] x) => (float y)
    <int64[3] line = {{2,1,8}}, int64[1] first = {{1}}, int64[3] thrice = {{2,3,8}}, int64[2] twice = {{1,2}},
     int64[1] axis = {{{axis}}}, float[4,8] w> {{
        h = MatMul(x, w)  {steps}  s = ReduceSum(z, axis)  y = ReduceMax <keepdims = 0> (s)
    }}"""
    check(Case(text, {"w:1": 8}))


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 21, 24])
def test_axes_of_size_one_come_and_go_alike_whether_they_are_attributes_or_inputs(opset: int) -> None:
    steps = "a = Unsqueeze <axes = [1]> (h)  r = Relu(a)  z = Squeeze <axes = [1]> (r)"
    check(rows("a = Unsqueeze(h, first)  r = Relu(a)  z = Squeeze(r, first)" if opset >= 13 else steps, opset=opset))


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 18, 24])
def test_a_width_beside_a_computed_batch_is_rewritten_at_every_opset(opset: int) -> None:
    text = """g (float[N,4] x) => (float[N,5] y)
    <int64[1] zero = {0}, int64[2] apart = {4,2}, int64[1] flat = {8}, float[4,8] w, float[8,5] v> {
        h = MatMul(x, w)  s = Shape(x)  n = Gather(s, zero)  t = Concat <axis = 0> (n, apart)
        a = Reshape(h, t)  r = Relu(a)  o = Concat <axis = 0> (n, flat)  z = Reshape(r, o)  y = MatMul(z, v)
    }"""
    check(Case(text, {"v:0 w:1": 4}, opset=opset))


def test_one_target_that_serves_two_widths_is_written_twice() -> None:
    text = """g (float[N,4] x) => (float[N,5] y)
    <int64[3] target = {0,1,8}, int64[1] axis = {1}, float[4,8] w, float[4,8] k, float[8,5] v, float[8,5] u> {
        a = MatMul(x, w)  b = MatMul(x, k)  c = Reshape(a, target)  d = Reshape(b, target)
        e = Squeeze(c, axis)  f = Squeeze(d, axis)  m = MatMul(e, v)  n = MatMul(f, u)  y = Add(m, n)
    }"""
    model = parse(text)
    assert groups(model) == {"v:0 w:1": 8, "k:1 u:0": 8}
    removed = every_other(model)
    removed[:8] = False
    removed[[0, 1, 2]] = True
    assert difference(model, removed) <= LIMIT
