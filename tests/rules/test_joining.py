"""Operators that join, cut and pick along one axis: windows and maps between indices."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, check

# 12 channels; what stands between them and their consumers varies, and so does what the consumers take
CHANNELS = """g (float[N,3,2,2] x) => (float[N,5,2,2] y)
<{numbers} float[12,3,1,1] w, float[5,{taken},1,1] v> {{
    h = Conv(x, w)  {steps}  y = Conv(z, v)
}}"""


def taking(
    taken: int, steps: str, groups: dict[str, int], numbers: str = "", *, why: str | None = None, opset: int = 17
) -> Case:
    declared = f"{numbers}," if numbers else ""
    return Case(CHANNELS.format(numbers=declared, taken=taken, steps=steps), groups, why, opset)


def bounds(start: str, end: str, axis: str = "1", step: str = "1", kind: str = "int64") -> str:
    """The four inputs of a Slice, each a list in the text."""
    named = {"s": start, "e": end, "a": axis, "p": step}
    return ", ".join(f"{kind}[{len(v.split(','))}] {k} = {{{v}}}" for k, v in named.items())


LARGEST = str(2**63 - 1)
SMALLEST = str(-(2**63) + 1)

GRAPHS: dict[str, Case] = {
    "Concat": Case(
        """g (float[N,3,2,2] x) => (float[N,5,2,2] y)
        <float[4,3,1,1] w, float[6,3,1,1] k, float[5,10,1,1] v> {
            a = Conv(x, w)  b = Conv(x, k)  z = Concat <axis = 1> (a, b)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4, "k:0 v:1": 6},
        opset=7,
    ),
    "Concat, of a Concat": Case(
        """g (float[N,3,2,2] x) => (float[N,5,2,2] y)
        <float[4,3,1,1] w, float[6,3,1,1] k, float[2,3,1,1] q, float[5,12,1,1] v> {
            a = Conv(x, w)  b = Conv(x, k)  c = Conv(x, q)
            d = Concat <axis = -3> (a, b)  z = Concat <axis = 1> (c, d)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4, "k:0 v:1": 6, "q:0 v:1": 2},
    ),
    "Concat, with the input of the model": Case(
        """g (float[N,3,2,2] x) => (float[N,5,2,2] y) <float[4,3,1,1] w, float[5,7,1,1] v> {
            a = Conv(x, w)  z = Concat <axis = 1> (x, a)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4},
    ),
    "Concat, of one tensor twice": taking(24, "z = Concat <axis = 1> (h, h)", {"v:1 w:0": 12}),
    "Concat, in a dense network": Case(  # every layer reads what all layers before it wrote
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,1,1] w, float[4,6,3,3] k, float[2,10,3,3] q, float[5,12,1,1] v> {
            a = Conv(x, w)  b = Relu(a)  c = Conv <pads = [1,1,1,1]> (b, k)
            d = Concat <axis = 1> (a, c)  e = Relu(d)  f = Conv <pads = [1,1,1,1]> (e, q)
            z = Concat <axis = 1> (d, f)  y = Conv(z, v)
        }""",
        {"k:1 q:1 v:1 w:0": 6, "k:0 q:1 v:1": 4, "q:0 v:1": 2},
    ),
    "Concat, along another axis": Case(
        """g (float[N,2,4] x) => (float[N,4,5] y) <float[4,8] w, float[4,8] k, float[8,5] v> {
            a = MatMul(x, w)  b = MatMul(x, k)  z = Concat <axis = 1> (a, b)  y = MatMul(z, v)
        }""",
        {"k:1 v:0 w:1": 8},
    ),
    "Concat, of weights": Case(  # two weights are joined before they are used
        """g (float[N,4] x) => (float[N,5] y) <float[4,3] w, float[4,5] k, float[8,5] v> {
            j = Concat <axis = 1> (w, k)  h = MatMul(x, j)  y = MatMul(h, v)
        }""",
        {"v:0 w:1": 3, "k:1 v:0": 5},
    ),
    "Concat, with a piece whose size is open": Case(
        """g (float[4,3] x, float[4,M] s) => (float[4,K] y) <float[3,8] w> {
            h = MatMul(x, w)  y = Concat <axis = 1> (h, s)
        }""",
        {},
        "Concat #1 ('y') ties it to an axis of another, or an unknown, size",
    ),
    "Split, along another axis": Case(
        """g (float[N,2,4] x) => (float[N,1,5] y) <float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  a, b = Split <axis = 1> (h)  z = Mul(a, b)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Split, into equal pieces": taking(
        6, "a, b = Split <axis = 1> (h)  c = Sigmoid(b)  z = Mul(a, c)", {"v:1 w:0": 6}, opset=13
    ),
    "Split, whose pieces go apart": Case(
        """g (float[N,3,2,2] x) => (float[N,5,2,2] y, float[N,5,2,2] z)
        <int64[2] pieces = {8,4}, float[12,3,1,1] w, float[5,8,1,1] v, float[5,4,1,1] u> {
            h = Conv(x, w)  a, b = Split <axis = 1> (h, pieces)  y = Conv(a, v)  z = Conv(b, u)
        }""",
        {"v:1 w:0": 8, "u:1 w:0": 4},
        opset=13,
    ),
    "Split, whose pieces are joined in another order": taking(
        12,
        "a, b = Split <axis = 1> (h, pieces)  c = Mul(a, k)  z = Concat <axis = 1> (b, c)",
        {"k:0 v:1 w:0": 4, "v:1 w:0": 8},
        "int64[2] pieces = {4,8}, float[4,1,1] k",
    ),
    "Split, into pieces given at run time": Case(
        """g (float[N,3,2,2] x, int64[2] pieces) => (float[N,5,2,2] y)
        <float[N,6,2,2] a, float[N,6,2,2] b, float[12,3,1,1] w, float[5,6,1,1] v> {
            h = Conv(x, w)  a, b = Split <axis = 1> (h, pieces)  z = Add(a, b)  y = Conv(z, v)
        }""",
        {},
        "Split #1 ('a') cuts pieces whose size is known only at run time",
    ),
    # units that only the weight w has belong to channels that nothing reads
    "Slice": taking(4, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 4, "w:0": 8}, bounds("2", "6")),
    "Slice, with attributes": taking(
        4, "z = Slice <starts = [2], ends = [6], axes = [1]> (h)", {"v:1 w:0": 4, "w:0": 8}, opset=9
    ),
    "Slice, of all axes": taking(
        4, "z = Slice <starts = [0,2,0,0], ends = [1000,6,2,2]> (h)", {"v:1 w:0": 4, "w:0": 8}, opset=7
    ),
    "Slice, from a negative start": taking(
        4, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 4, "w:0": 8}, bounds("-4", LARGEST, "-3")
    ),
    "Slice, to a negative end": taking(
        8, "z = Slice(h, s, e, a)", {"v:1 w:0": 8, "w:0": 4}, bounds("-100", "-4"), opset=10
    ),
    "Slice, of everything": taking(12, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 12}, bounds("0", LARGEST)),
    "Slice, of every second": taking(
        6, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 6, "w:0": 6}, bounds("1", LARGEST, "1", "2")
    ),
    "Slice, backwards": taking(12, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 12}, bounds("-1", SMALLEST, "1", "-1")),
    "Slice, backwards in steps of three": taking(
        3, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 3, "w:0": 9}, bounds("10", "3", "1", "-3")
    ),
    "Slice, by numbers of 32 bits": taking(
        6, "z = Slice(h, s, e, a, p)", {"v:1 w:0": 6, "w:0": 6}, bounds("0", "12", "1", "2", "int32")
    ),
    "Slice, of pixels and channels at once": Case(
        """g (float[N,3,4,4] x) => (float[N,5,2,4] y)
        <int64[2] s = {0,4}, int64[2] e = {4,8}, int64[2] a = {2,1}, int64[2] p = {2,1},
         float[12,3,1,1] w, float[5,4,1,1] v> {
            h = Conv(x, w)  z = Slice(h, s, e, a, p)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4, "w:0": 8},
    ),
    "Slice, of both axes of a weight": Case(  # one by steps, one by bounds; rows and columns are cut
        """g (float[N,4] x) => (float[N,5] y)
        <int64[2] s = {1,2}, int64[2] e = {16,8}, int64[2] a = {0,1}, int64[2] p = {2,1},
         float[4,8] k, float[16,12] w, float[6,5] v> {
            h = MatMul(x, k)  c = Slice(w, s, e, a, p)  i = MatMul(h, c)  y = MatMul(i, v)
        }""",
        {"k:1 w:0": 8, "v:0 w:1": 6, "w:0": 8, "w:1": 6},
    ),
    "Slice, into halves that change places": taking(
        6,
        "a, b = Split <axis = 1> (h)  c = Slice(a, zero, three, one)  d = Slice(a, three, six, one)"
        "  e = Mul(d, k)  j = Concat <axis = 1> (e, c)  z = Mul(j, b)",
        {"k:0 v:1 w:0": 3, "v:1 w:0": 3},
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[1] six = {6}, float[3,1,1] k",
    ),
    "Slice, along another axis": Case(
        """g (float[N,3,4] x) => (float[N,2,5] y)
        <int64[1] s = {1}, int64[1] e = {3}, int64[1] a = {1}, float[4,8] w, float[8,5] v> {
            h = MatMul(x, w)  z = Slice(h, s, e, a)  y = MatMul(z, v)
        }""",
        {"v:0 w:1": 8},
    ),
    "Slice, by bounds that are computed": Case(  # the last four of eight channels, counted from another tensor's width
        """g (float[N,3,2,2] x, float[4,M] other) => (float[N,5,2,2] y)
        <int64 first = {0}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] end = {8},
         float[8,3,1,1] w, float[5,4,1,1] v> {
            h = Conv(x, w)
            o = Shape(other)  c = Gather(o, first)  s = Unsqueeze(c, zero)
            z = Slice(h, s, end, one)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4, "w:0": 4},
    ),
    "Slice, by a bound that is open": Case(
        """g (float[N,3,2,2] x, float[M] other) => (float[N,5,2,2] y)
        <float[N,4,2,2] z, int64[1] one = {1}, int64[1] end = {8}, float[8,3,1,1] w, float[5,4,1,1] v> {
            h = Conv(x, w)  s = Shape(other)  z = Slice(h, s, end, one)  y = Conv(z, v)
        }""",
        {},
        "Slice #2 ('z') has bounds on it that are not known before running",
    ),
    "Slice, by bounds given at run time": Case(
        """g (float[N,3,2,2] x, int64[1] s, int64[1] e, int64[1] a) => (float[N,5,2,2] y)
        <float[N,4,2,2] z, float[12,3,1,1] w, float[5,4,1,1] v> {
            h = Conv(x, w)  z = Slice(h, s, e, a)  y = Conv(z, v)
        }""",
        {},
        "Slice #1 ('z') has bounds that are not known before running",
    ),
    "Gather, of a permutation": taking(
        12, "z = Gather <axis = 1> (h, order)", {"v:1 w:0": 12}, "int64[12] order = {11,0,10,1,9,2,8,3,7,4,6,5}"
    ),
    "Gather, of a choice": taking(
        4, "z = Gather <axis = 1> (h, order)", {"v:1 w:0": 4, "w:0": 8}, "int32[4] order = {3,-1,7,0}"
    ),
    "Gather, of a choice with doubles": taking(
        6, "z = Gather <axis = 1> (h, order)", {"v:1 w:0": 3, "w:0": 9}, "int64[6] order = {3,3,7,0,7,3}"
    ),
    "Gather, of one index that vanishes": Case(  # that index stays; what else there is has no other reader
        """g (float[N,3,4] x) => (float[N,5] y)
        <int64 one = {2}, float[6,3] w, float[4,8] k, float[8,5] v> {
            h = MatMul(w, x)  i = MatMul(h, k)  z = Gather <axis = 1> (i, one)  y = MatMul(z, v)
        }""",
        {"w:0": 5, "k:1 v:0": 8},
        "Gather #2 ('z') takes this one index",
    ),
    "Gather, of one index that stays an axis": Case(
        """g (float[N,3,4] x) => (float[N,1,5] y)
        <int64[1] one = {2}, float[6,3] w, float[4,8] k, float[8,5] v> {
            h = MatMul(w, x)  i = MatMul(h, k)  z = Gather <axis = 1> (i, one)  y = MatMul(z, v)
        }""",
        {"w:0": 5, "k:1 v:0": 8},
        "Gather #2 ('z') keeps this index in an axis of size 1",
    ),
    "Gather, from a table at run time": Case(
        """g (int64[N,6] x) => (float[N,6,5] y) <float[20,8] table, float[6,8] place, float[8,5] v> {
            e = Gather(table, x)  h = Add(e, place)  y = MatMul(h, v)
        }""",
        {"place:1 table:1 v:0": 8},
        "Gather #0 ('e') picks from it at run time",
    ),
    "Gather, by the places that another weight has": Case(  # rows are picked, place by place
        """g (float[N,4] x) => (float[N,5] y) <float[4,8] k, float[8] places, float[20,5] table> {
            h = MatMul(x, k)  a = Abs(places)  p = Cast <to = 6> (a)
            t = Gather(table, p)  y = MatMul(h, t)
        }""",
        {"k:1 places:0": 8},
        "Gather #3 ('t') picks from it at run time",
    ),
    "Gather, from channels at run time": Case(
        """g (float[N,3,2,2] x, int64[12] order) => (float[N,5,2,2] y) <float[12,3,1,1] w, float[5,12,1,1] v> {
            h = Conv(x, w)  z = Gather <axis = 1> (h, order)  y = Conv(z, v)
        }""",
        {},
        "Gather #1 ('z') picks from it at run time",
    ),
    "Pad, of pixels": taking(
        12, "p = Pad <pads = [0,0,1,1,0,0,1,1]> (h)  z = MaxPool <kernel_shape = [3,3]> (p)", {"v:1 w:0": 12}, opset=7
    ),
    "Pad, of channels": Case(  # the shortcut of a residual network: the padded channels live by the other branch
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <int64[8] pads = {0,1,0,0,0,3,0,0}, float[4,3,1,1] w, float[8,4,3,3] k, float[5,8,1,1] v> {
            h = Conv(x, w)  c = Conv <pads = [1,1,1,1]> (h, k)
            q = Pad(h, pads)  z = Add(c, q)  y = Conv(z, v)
        }""",
        {"k:0 k:1 v:1 w:0": 4, "k:0 v:1": 4},
        opset=11,
    ),
    "Pad, of channels by an attribute": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[4,3,1,1] w, float[8,3,1,1] k, float[5,8,1,1] v> {
            h = Conv(x, w)  c = Conv(x, k)
            q = Pad <pads = [0,2,0,0,0,2,0,0]> (h)  z = Add(c, q)  y = Conv(z, v)
        }""",
        {"k:0 v:1 w:0": 4, "k:0 v:1": 4},
        opset=10,
    ),
    "Pad, of one of its axes": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <int64[2] pads = {2,2}, int64[1] axis = {1}, float one = {1.0},
         float[4,3,1,1] w, float[8,3,1,1] k, float[5,8,1,1] v> {
            h = Conv(x, w)  c = Conv(x, k)
            q = Pad(h, pads, one, axis)  z = Add(c, q)  y = Conv(z, v)
        }""",
        {"k:0 v:1 w:0": 4, "k:0 v:1": 4},
        opset=18,
    ),
    "Pad, of one of the other axes": taking(
        12,
        "q = Pad(h, pads, , axis)  z = AveragePool <kernel_shape = [3,1]> (q)",
        {"v:1 w:0": 12},
        "int64[2] pads = {1,1}, int64[1] axis = {2}",
        opset=18,
    ),
    "Pad, by reflection of pixels": taking(
        12,
        'q = Pad <mode = "reflect"> (h, pads)  z = AveragePool <kernel_shape = [3,3]> (q)',
        {"v:1 w:0": 12},
        "int64[8] pads = {0,0,1,1,0,0,1,1}",
    ),
    "Pad, by reflection of channels": taking(
        14,
        'z = Pad <mode = "reflect"> (h, pads)',
        {},
        "int64[8] pads = {0,1,0,0,0,1,0,0}",
        why="Pad #1 ('z') crops it, or fills it from its own values",
    ),
    "Pad, by the edges of channels": taking(
        14,
        'z = Pad <mode = "edge"> (h, pads)',
        {},
        "int64[8] pads = {0,1,0,0,0,1,0,0}",
        why="Pad #1 ('z') crops it, or fills it from its own values",
    ),
    "Pad, that crops channels": taking(
        10,
        "z = Pad(h, pads)",
        {},
        "int64[8] pads = {0,-1,0,0,0,-1,0,0}",
        why="Pad #1 ('z') crops it, or fills it from its own values",
    ),
    "Pad, by amounts given at run time": Case(
        """g (float[N,3,2,2] x, int64[8] pads) => (float[N,5,2,2] y)
        <float[N,12,2,2] z, float[12,3,1,1] w, float[5,12,1,1] v> {
            h = Conv(x, w)  z = Pad(h, pads)  y = Conv(z, v)
        }""",
        {},
        "Pad #1 ('z') pads by amounts that are not known before running",
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_windows_and_picks_are_followed(case: Case) -> None:
    check(case)


# an uneven cut: of 12 channels, pieces of 5, 4 and 3 go to convolutions of their own
PIECES = """g (float[N,3,2,2] x) => (float[N,5,2,2] y)
<int64[3] pieces = {{{sizes}}}, float[12,3,1,1] w, float[5,{0},1,1] q, float[5,{1},1,1] r, float[5,{2},1,1] s> {{
    h = Conv(x, w)  {step}  d = Conv(a, q)  e = Conv(b, r)  f = Conv(c, s)  i = Add(d, e)  y = Add(i, f)
}}"""


@pytest.mark.parametrize(
    ("step", "sizes", "opset"),
    [
        ("a, b, c = Split <axis = 1> (h)", (4, 4, 4), 7),
        ("a, b, c = Split <axis = 1, split = [5,4,3]> (h)", (5, 4, 3), 7),
        ("a, b, c = Split <axis = -3, split = [5,4,3]> (h)", (5, 4, 3), 11),
        ("a, b, c = Split <axis = 1> (h)", (4, 4, 4), 13),
        ("a, b, c = Split <axis = 1> (h, pieces)", (5, 4, 3), 13),
        ("a, b, c = Split <axis = 1> (h, pieces)", (2, 3, 7), 17),
        ("a, b, c = Split <axis = 1, num_outputs = 3> (h)", (4, 4, 4), 18),
        ("a, b, c = Split <axis = 1> (h, pieces)", (5, 4, 3), 18),
        ("a, b, c = Split <axis = -3> (h, pieces)", (1, 2, 9), 24),
    ],
)
def test_a_split_is_cut_alike_at_every_opset(step: str, sizes: tuple[int, int, int], opset: int) -> None:
    text = PIECES.format(*sizes, sizes=",".join(map(str, sizes)), step=step)
    groups = {f"{name}:1 w:0": size for name, size in zip("qrs", sizes, strict=True) if size > 1}
    check(Case(text, groups, opset=opset))


def test_a_split_into_as_many_outputs_may_have_a_smaller_last_piece() -> None:
    text = """g (float[N,3,2,2] x) => (float[N,5,2,2] y)
    <float[11,3,1,1] w, float[5,4,1,1] q, float[5,4,1,1] r, float[5,3,1,1] s> {
        h = Conv(x, w)  a, b, c = Split <axis = 1, num_outputs = 3> (h)
        d = Conv(a, q)  e = Conv(b, r)  f = Conv(c, s)  i = Add(d, e)  y = Add(i, f)
    }"""
    check(Case(text, {"q:1 w:0": 4, "r:1 w:0": 4, "s:1 w:0": 3}, opset=18))


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 24])
def test_a_slice_is_cut_alike_at_every_opset(opset: int) -> None:
    groups = {"v:1 w:0": 4, "w:0": 8}
    if opset < 10:
        check(taking(4, "z = Slice <starts = [-9], ends = [-5], axes = [1]> (h)", groups, opset=opset))
    else:
        check(taking(4, "z = Slice(h, s, e, a)", groups, bounds("-9", "-5"), opset=opset))


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 18, 19, 21, 24])
def test_padded_channels_are_cut_alike_at_every_opset(opset: int) -> None:
    steps = "z = Pad <pads = [0,2,0,0,0,2,0,0]> (h)" if opset < 11 else "z = Pad(h, pads)"
    check(taking(16, steps, {"v:1 w:0": 12, "v:1": 4}, "int64[8] pads = {0,2,0,0,0,2,0,0}", opset=opset))


@pytest.mark.parametrize(
    ("steps", "groups"),
    [
        ("p = Pad(h, pads)  y = ReduceSum(p, axis)", {"w:0": 12}),
        ("p = Pad(h, pads, two)  y = ReduceSum(p, axis)", {}),
        ("c = Concat <axis = 1> (h, h)  y = ReduceSum(c, axis)", {"w:0": 12}),
        ("e = Exp(h)  c = Concat <axis = 1> (h, e)  y = ReduceSum(c, axis)", {}),
        ("a, b = Split <axis = 1> (h)  s = Add(a, b)  y = ReduceSum(s, axis)", {"w:0": 6}),
        ("e = Exp(h)  a, b = Split <axis = 1> (e)  s = Add(a, b)  y = ReduceSum(s, axis)", {}),
        ("a, b = Split <axis = 1> (h)  e = Exp(b)  s = Mul(a, e)  y = ReduceSum(s, axis)", {"w:0": 6}),
        (
            "a = Slice(h, zero, six, axis)  b = Slice(h, six, twelve, axis)  s = Sub(a, b)  y = ReduceSum(s, axis)",
            {"w:0": 6},
        ),
        ("s = Gather <axis = 1> (h, order)  y = ReduceSum(s, axis)", {"w:0": 12}),
    ],
)
def test_zeros_are_followed_through_windows(steps: str, groups: dict[str, int]) -> None:
    text = """g (float[N,3,2,2] x) => (float[N,1,2,2] y)
    <int64[8] pads = {0,1,0,0,0,1,0,0}, int64[1] axis = {1}, float two = {2.0},
     int64[1] zero = {0}, int64[1] six = {6}, int64[1] twelve = {12},
     int64[12] order = {3,1,2,0,11,10,5,4,6,7,9,8}, float[12,3,1,1] w> {
        h = Conv(x, w)  %s
    }"""
    check(Case(text % steps, groups))
