"""Positions that only running the model tells: the axis that they mean stays whole, the others come along."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, batched, check

# 8 channels of 4 x 4 pixels from w, 6 from k
PICTURE = """g (float[N,3,4,4] x{inputs}) => (float[N,5,A,B] y)
<{numbers} float[8,3,1,1] w, float[6,3,1,1] k, float[5,{taken},1,1] v> {{
    h = Conv(x, w)  c = Conv(x, k)  {steps}  y = Conv(z, v)
}}"""
# two layers of 8 columns in 6 rows
ROWS = """g (float[2,6,4] x{inputs}) => (float[A,B,5] y) <{numbers} float[4,8] w, float[4,8] k, float[8,5] v> {{
    h = MatMul(x, w)  u = MatMul(x, k)  {steps}  y = MatMul(z, v)
}}"""


def graph(text: str, steps: str, groups: dict[str, int], numbers: str, opset: int, **more: str | int) -> Case:
    declared = {
        "numbers": f"{numbers}," if numbers else "",
        "inputs": f", {more['inputs']}" if "inputs" in more else "",
    }
    why = str(more["why"]) if "why" in more else None
    return Case(text.format(steps=steps, taken=more.get("taken", 8), **declared), groups, why, opset)


def picture(
    steps: str, groups: dict[str, int], numbers: str = "", opset: int = 17, unread: int = 6, **more: str | int
) -> Case:
    """Unless said otherwise, nothing reads the channels of the second layer."""
    return graph(PICTURE, steps, groups | ({"k:0": unread} if unread else {}), numbers, opset, **more)


def rows(steps: str, groups: dict[str, int], numbers: str = "", **more: str | int) -> Case:
    return graph(ROWS, steps, groups, numbers, 17, **more)


KEPT = {"v:1 w:0": 8}
COLUMNS = {"k:1": 8, "v:0 w:1": 8}

GRAPHS: dict[str, Case] = {
    "GatherElements": picture("i = ArgMax <axis = 2> (h)  z = GatherElements <axis = 2> (h, i)", KEPT),
    "GatherElements, from the end": picture("i = ArgMax <axis = -1> (h)  z = GatherElements <axis = -1> (h, i)", KEPT),
    "GatherElements, of the first channels": picture(  # 6 of 8, at positions that 6 other channels give
        "i = ArgMax <axis = 2> (c)  z = GatherElements <axis = 2> (h, i)",
        {"k:0 v:1 w:0": 6, "w:0": 2},
        unread=0,
        taken=6,
    ),
    "GatherElements, of channels": picture(
        "i = ArgMax <axis = 1> (h)  z = GatherElements <axis = 1> (h, i)",
        {},
        taken=1,
        why="GatherElements #3 ('z') picks from it at run time",
    ),
    "GatherElements, at positions that have channels themselves": Case(  # one position for each
        """g (float[N,3,4] x, float[N,20] d) => (float[N,5] y) <float[8,3,1] w, float[8,5] v> {
            h = Conv(x, w)  i = ArgMax <axis = 2, keepdims = 0> (h)
            z = GatherElements <axis = 1> (d, i)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "GatherElements, at positions that are given": rows(
        "z = GatherElements <axis = 1> (h, i)", {"k:1": 8}, inputs="int64[2,3,8] i", why="'i' is an input of the model"
    ),
    "GatherElements, of a batch": batched("i = ArgMax <axis = 2> (w)  t = GatherElements <axis = 2> (w, i)", {}),
    "GatherND": Case(
        """g (float[2,6,4] x) => (float[3,5] y)
        <int64[3,2] i = {1,0,0,5,1,2}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = GatherND(h, i)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "GatherND, of whole rows": rows("z = GatherND(h, i)", COLUMNS, "int64[3,1] i = {1,0,1}"),
    "GatherND, of a batch of channels": Case(  # at one position for each channel
        """g (float[N,3,4] x) => (float[N,5] y) <float[8,3,1] w, float[8,5] v> {
            h = Conv(x, w)  i = ArgMax <axis = 2, keepdims = 1> (h)
            z = GatherND <batch_dims = 2> (h, i)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "GatherND, at positions that have channels themselves": Case(
        """g (float[N,3,4] x, float[N,20] d) => (float[N,5] y) <float[8,3,1] w, float[8,5] v> {
            h = Conv(x, w)  i = ArgMax <axis = 2, keepdims = 1> (h)
            z = GatherND <batch_dims = 1> (d, i)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "GatherND, of channels": Case(
        """g (float[2,6,4] x) => (float[3] y) <int64[3,3] i = {1,0,0,0,5,7,1,2,2}, float[4,8] w> {
            h = MatMul(x, w)  y = GatherND(h, i)
        }""",
        {},
        "GatherND #1 ('y') picks from it at run time",
    ),
    "GatherND, by coordinates that are computed": Case(  # a position has as many coordinates as it has
        """g (float[N,4] x) => (float[N] y) <float[4,3] w, float[4,4,4] d> {
            h = MatMul(x, w)  s = Sigmoid(h)  i = Cast <to = 7> (s)  y = GatherND(d, i)
        }""",
        {},
        "GatherND #3 ('y') reads positions along it",
    ),
    "ScatterElements": picture(
        "i = ArgMax <axis = 2> (h)  u = ReduceMin <axes = [2]> (h)  z = ScatterElements <axis = 2> (h, i, u)", KEPT
    ),
    "ScatterElements, of other channels": Case(
        """g (float[N,3,4] x) => (float[N,5,4] y) <float[8,3,1] w, float[8,3,1] k, float[5,8,1] v> {
            h = Conv(x, w)  c = Conv(x, k)  i = ArgMax <axis = -1> (c)  u = ReduceMax <axes = [-1]> (c)
            z = ScatterElements <axis = -1, reduction = "add"> (h, i, u)  y = Conv(z, v)
        }""",
        {"k:0 v:1 w:0": 8},
    ),
    "ScatterElements, into the first channels": picture(
        "i = ArgMax <axis = 2> (c)  u = ReduceMin <axes = [2]> (c)  z = ScatterElements <axis = 2> (h, i, u)",
        {"k:0 v:1 w:0": 6, "v:1 w:0": 2},
        unread=0,
    ),
    "ScatterElements, into channels": picture(
        "i = ArgMax <axis = 1> (h)  u = ReduceMin <axes = [1]> (h)  z = ScatterElements <axis = 1> (h, i, u)",
        {},
        why="ScatterElements #4 ('z') writes to positions on it",
    ),
    "Scatter": picture(
        "i = ArgMax <axis = 2> (h)  u = ReduceMin <axes = [2]> (h)  z = Scatter <axis = 2> (h, i, u)", KEPT, opset=9
    ),
    "Scatter, into channels": picture(
        "i = ArgMax <axis = 1> (h)  u = ReduceMin <axes = [1]> (h)  z = Scatter <axis = 1> (h, i, u)",
        {},
        opset=9,
        why="Scatter #4 ('z') writes to positions on it",
    ),
    "Scatter, of what vanishes": picture(
        "i = ArgMax <axis = 2> (h)  u = ReduceMin <axes = [2]> (h)  t = Scatter <axis = 2> (h, i, u)"
        "  z = ReduceSum <axes = [1]> (t)",
        {"w:0": 8},
        opset=9,
        taken=1,
    ),
    "Scatter, of what does not vanish": picture(
        "i = ArgMax <axis = 2> (h)  u = ReduceMin <axes = [2]> (h)  e = Exp(u)  t = Scatter <axis = 2> (h, i, e)"
        "  z = ReduceSum <axes = [1]> (t)",
        {},
        opset=9,
        taken=1,
        why="ReduceSum #6 ('z') sums over it, and a zeroed unit would still contribute",
    ),
    "ScatterND": Case(
        """g (float[2,6,4] x, float[3,4] s) => (float[2,6,5] y)
        <int64[3,2] i = {1,0,0,5,1,2}, float[4,8] w, float[4,8] k, float[8,5] v> {
            h = MatMul(x, w)  u = MatMul(s, k)  z = ScatterND(h, i, u)  y = MatMul(z, v)
        }""",
        {"k:1 v:0 w:1": 8},
    ),
    "ScatterND, of whole rows": rows("z = ScatterND(h, i, u)", {"k:1 v:0 w:1": 8}, "int64[2,1] i = {1,0}"),
    "ScatterND, that adds": rows(
        'z = ScatterND <reduction = "add"> (h, i, u)', {"k:1 v:0 w:1": 8}, "int64[2,1] i = {1,0}"
    ),
    "ScatterND, into channels": Case(
        """g (float[6,4] x, float[3,6] u) => (float[6,5] y)
        <int64[3,1] i = {1,0,5}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  t = Transpose(h)  z = ScatterND(t, i, u)  s = Transpose(z)  y = MatMul(s, v)
        }""",
        {},
        "ScatterND #2 ('z') writes to positions on it",
    ),
    "ScatterND, of slices that are weights": Case(
        """g (float[6,4] x, float[3,6] u) => (float[6,5] y)
        <int64[3,1] i = {1,0,5}, float[4,3] w, float[8,6] d, float[8,5] v> {
            h = MatMul(x, w)  t = Transpose(h)  z = ScatterND(d, i, t)  s = Transpose(z)  y = MatMul(s, v)
        }""",
        {},
        "ScatterND #2 ('z') writes each of its slices somewhere",
    ),
    "TopK": picture("z, i = TopK <axis = 2> (h, many)", KEPT, "int64[1] many = {2}"),
    "TopK, of opset 9": picture("z, i = TopK <axis = 2, k = 2> (h)", KEPT, opset=9),
    "TopK, of positions": picture("a, i = TopK(h, many)  z = Cast <to = 1> (i)", KEPT, "int64[1] many = {2}"),
    "TopK, of channels": picture(
        "z, i = TopK <axis = 1> (h, many)", {}, "int64[1] many = {8}", why="TopK #2 ('z') orders it by value"
    ),
    "OneHot": Case(
        """g (float[N,3,4] x) => (float[N,4,5] y)
        <int64 depth = {4}, float[2] values = {0.5,2.0}, float[8,3,1] w, float[8,5] v> {
            h = Conv(x, w)  i = ArgMax <axis = 2, keepdims = 0> (h)  o = OneHot(i, depth, values)
            z = Transpose <perm = [0,2,1]> (o)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "OneHot, along an axis": picture(
        "i = ArgMax <axis = 2, keepdims = 0> (h)  z = OneHot <axis = 2> (i, depth, values)",
        KEPT,
        "int64 depth = {4}, float[2] values = {0.0,1.0}",
    ),
    "OneHot, before the channels": Case(
        """g (float[N,3,4] x) => (float[N,4,5] y)
        <int64 depth = {4}, float[2] values = {0.0,1.0}, float[8,3,1] w, float[8,5] v> {
            h = Conv(x, w)  i = ArgMax <axis = 2, keepdims = 0> (h)
            z = OneHot <axis = -2> (i, depth, values)  y = MatMul(z, v)
        }""",
        {"v:0 w:0": 8},
    ),
    "OneHot, that picks rows of a table": Case(
        """g (int64[N,6] x) => (float[N,6,5] y)
        <int64 depth = {9}, float[2] values = {0.0,1.0}, float[9,8] table, float[8,5] v> {
            o = OneHot(x, depth, values)  h = MatMul(o, table)  y = MatMul(h, v)
        }""",
        {"table:1 v:0": 8},
        "OneHot #0 ('o') has one place for each value of an index",
    ),
    "CumSum": picture("z = CumSum(h, axis)", KEPT, "int64 axis = {-1}"),
    "CumSum, of an axis in a list": picture("z = CumSum <reverse = 1> (h, axis)", KEPT, "int32[1] axis = {2}"),
    "CumSum, of channels": picture(
        "z = CumSum(h, axis)",
        {},
        "int64 axis = {1}",
        why="CumSum #2 ('z') carries every index of it on to those that follow",
    ),
    "CumSum, along an axis that is given": picture(
        "z = CumSum(h, axis)",
        {},
        inputs="int64 axis",
        why="CumSum #2 ('z') runs along an axis that is not known before running",
    ),
    "CumProd": picture("z = CumProd(h, axis)", KEPT, "int64 axis = {-1}", 26),
    "CumProd, of channels": picture(
        "z = CumProd(h, axis)", {}, "int64 axis = {1}", 26, why="CumProd #2 ('z') carries every index of it on"
    ),
    "Compress": picture("z = Compress <axis = -2> (h, some)", KEPT, "bool[4] some = {1,0,1,1}"),
    "Compress, of channels": picture(
        "z = Compress <axis = 1> (h, some)",
        {},
        "bool[4] some = {1,0,1,1}",
        taken=3,
        why="Compress #2 ('z') keeps what a condition picks at run time",
    ),
    "Compress, of everything": Case(
        """g (float[6,4] x) => (float[3] y) <bool[4] some = {1,0,1,1}, float[4,8] w> {
            h = MatMul(x, w)  y = Compress(h, some)
        }""",
        {},
        "Compress #1 ('y') picks single values at run time",
    ),
    "ReverseSequence": rows(
        "z = ReverseSequence <time_axis = 1, batch_axis = 0> (h, long)", COLUMNS, "int64[2] long = {3,5}"
    ),
    "ReverseSequence, of a batch": Case(  # the place of the largest of some other weights says how far
        """g (float[N,4] x) => (float[N,M] y) <float[4,8] u, float[8,4,6,6] w, float[8,4] q> {
            h = MatMul(x, u)  i = ArgMax <axis = 1, keepdims = 0> (q)
            t = ReverseSequence <time_axis = 1, batch_axis = 0> (w, i)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"q:0 u:1 w:0": 8},
    ),
    "ReverseSequence, of channels": Case(
        """g (float[6,4] x) => (float[6,5] y) <int64[6] long = {3,5,2,1,8,1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = ReverseSequence <time_axis = 1, batch_axis = 0> (h, long)  y = MatMul(z, v)
        }""",
        {},
        "ReverseSequence #1 ('z') turns its order around",
    ),
    "Trilu": picture("z = Trilu(h)", KEPT),
    "Trilu, from below": picture("z = Trilu <upper = 0> (h, diagonal)", KEPT, "int64 diagonal = {-1}"),
    "Trilu, of a batch": batched("t = Trilu(w)", {}),
    "Trilu, of channels": rows("z = Trilu(h)", {"k:1": 8}, why="Trilu #2 ('z') cuts a triangle out of it"),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_what_is_not_looked_up_comes_along(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("steps", "opset", "groups"),
    [
        ("i = ArgMax <axis = 2> (h)  z = GatherElements <axis = 2> (h, i)", 17, {"w:0": 8}),
        ("i = ArgMax <axis = 2> (h)  e = Exp(h)  z = GatherElements <axis = 2> (e, i)", 17, {}),
        ("i = ArgMax <axis = 2> (h)  z = GatherND <batch_dims = 2> (h, i)", 17, {"w:0": 8}),
        ("i = ArgMax <axis = 2> (h)  z = ScatterElements <axis = 2> (h, i, u)", 17, {"w:0": 8}),
        ("i = ArgMax <axis = 2> (h)  e = Exp(u)  z = ScatterElements <axis = 2> (h, i, e)", 17, {}),
        ("i = ArgMax <axis = 2> (h)  e = Exp(h)  z = ScatterElements <axis = 2> (e, i, u)", 17, {}),
        ("e = Exp(h)  i = ArgMax <axis = 2> (h)  z = GatherND <batch_dims = 2> (e, i)", 17, {}),
        ("t = Transpose(h)  s = Transpose(g)  z = ScatterND(t, one, s)", 17, {"w:0": 8}),
        ("e = Exp(h)  t = Transpose(e)  s = Transpose(g)  z = ScatterND(t, one, s)", 17, {}),
        ("e = Exp(g)  t = Transpose(h)  s = Transpose(e)  z = ScatterND(t, one, s)", 17, {}),
        ("z, i = TopK <axis = 2> (h, one)", 17, {"w:0": 8}),
        ("e, i = TopK <axis = 2> (h, two)  z = Cast <to = 1> (i)", 17, {}),
        ("i = ArgMax <axis = 2, keepdims = 0> (h)  z = OneHot <axis = 2> (i, two, values)", 17, {}),
        ("i = Cast <to = 7> (g)  z = OneHot <axis = 2> (i, two, values)", 17, {}),
        ("z = CumSum(h, two)", 17, {"w:0": 8}),
        ("e = Exp(h)  z = CumSum(e, two)", 17, {}),
        ("z = CumSum <exclusive = 1> (h, two)", 17, {"w:0": 8}),
        ("z = CumProd(h, two)", 26, {"w:0": 8}),
        ("z = CumProd <exclusive = 1> (h, two)", 26, {}),
        ("z = Compress <axis = 2> (h, some)", 17, {"w:0": 8}),
        ("e = Exp(h)  z = Compress <axis = 2> (e, some)", 17, {}),
        (
            "t = Transpose <perm = [2,0,1]> (h)  r = ReverseSequence(t, lengths)  z = Transpose <perm = [1,2,0]> (r)",
            17,
            {"w:0": 8},
        ),
        (
            "e = Exp(h)  t = Transpose <perm = [2,0,1]> (e)  r = ReverseSequence(t, lengths)"
            "  z = Transpose <perm = [1,2,0]> (r)",
            17,
            {},
        ),
        ("q = Unsqueeze(h, three)  z = Trilu(q)", 17, {"w:0": 8}),
        ("e = Exp(h)  q = Unsqueeze(e, three)  z = Trilu(q)", 17, {}),
    ],
)
def test_zeros_are_followed_to_where_they_are_picked(steps: str, opset: int, groups: dict[str, int]) -> None:
    reduced = "<axes = [2], keepdims = %d> (h)" if opset < 18 else "<keepdims = %d> (h, two)"
    text = """g (float[N,3,4] x) => (float y)
    <int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, bool[4] some = {1,0,1,1},
     int64[2] lengths = {2,4}, float[2] values = {0.5,2.0}, float[8,3,1] w> {
        h = Conv(x, w)  u = ReduceMax REDUCED  g = ReduceMax SQUEEZED  STEPS
        sum = ReduceSum <keepdims = 0> (z, one)  y = ReduceSum <keepdims = 0> (sum)
    }"""
    text = text.replace("REDUCED", reduced % 1).replace("SQUEEZED", reduced % 0).replace("STEPS", steps)
    check(Case(text, groups, opset=opset))
