"""Shapes: what is computed from inputs and weights, what is learnt from uses, and what no declaration can change."""

from __future__ import annotations

import onnx
import pytest

from onnxprune.algebra.graph import Graph, Shape
from onnxprune.algebra.symbols import settled
from onnxprune.model.record import Record
from tests.laws import analyse, difference, every_other, groups, parse
from tests.rules.cases import LIMIT

NUMBERS = """int64 c0 = {0}, int64 c1 = {1}, int64[1] v0 = {0}, int64[1] v1 = {1}, int64[1] v2 = {2}, int64[1] v4 = {4},
int64[1] v6 = {6}, int64[1] v24 = {24}, int64[1] any = {-1}"""
SIZES = "sh = Shape(x)  b = Gather(sh, v0)  s = Gather(sh, v1)"


def shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """What is known of every tensor."""
    return Graph(Record(model)).shapes


def of(steps: str, weights: str = "float[1] unused", inputs: str = "float[B,S,24] x") -> dict[str, Shape]:
    """Shapes of a graph that ends in a number, so that its end says nothing about what lies before."""
    text = f"g ({inputs}) => (float y) <{NUMBERS}, {weights}> {{ {steps}  y = ReduceMax <keepdims = 0> (z) }}"
    return shapes(parse(text))


COMPUTED: dict[str, tuple[str, Shape]] = {
    "a batch with a number beside it": (
        f"{SIZES} bh = Mul(b, v4)  t = Concat <axis = 0> (bh, any, v6)  z = Reshape(x, t)",
        ("4*B", "S", 6),
    ),
    "a batch with another size beside it": (
        f"{SIZES} bs = Mul(b, s)  t = Concat <axis = 0> (bs, any)  z = Reshape(x, t)",
        ("B*S", 24),
    ),
    "a product that is taken apart again": (
        f"""{SIZES} bh = Mul(b, v4)  t = Concat <axis = 0> (bh, s, v6)  m = Reshape(x, t)
        u = Concat <axis = 0> (b, v4, any, v6)  z = Reshape(m, u)""",
        ("B", 4, "S", 6),
    ),
    "a batch that is divided": (
        f"""{SIZES} bh = Mul(b, v4)  t = Concat <axis = 0> (bh, s, v6)  m = Reshape(x, t)  mh = Shape(m)
        n = Gather(mh, v0)  q = Div(n, v4)  u = Concat <axis = 0> (q, any, v24)  z = Reshape(m, u)""",
        ("B", "S", 24),
    ),
    "what a minus one stands for": (
        "t = Constant <value = int64[4] {0, -1, 4, 6}> ()  z = Reshape(x, t)",
        ("B", "S", 4, 6),
    ),
    "sizes multiplied": (
        f"{SIZES} w = ReduceProd(sh)  z = Reshape(x, w)",
        ("24*B*S",),
    ),
    "a size where a minus one would be": (
        f"""{SIZES} t = Concat <axis = 0> (b, s, v4, v6)  r = Shape(t)
        on = ConstantOfShape <value = int64[1] {{1}}> (r)  ne = Mul(on, any)  e = Equal(t, ne)
        w = Where(e, on, t)  z = Reshape(x, w)""",
        ("B", "S", 4, 6),
    ),
    "a stretch to a size": (
        f"{SIZES} m = ReduceMax <axes = [1]> (x)  t = Concat <axis = 0> (b, s, v24)  z = Expand(m, t)",
        ("B", "S", 24),
    ),
    "a stretch by more axes": (
        f"{SIZES} m = ReduceMax <axes = [1]> (x)  t = Concat <axis = 0> (v2, v1, s, v1)  z = Expand(m, t)",
        (2, "B", "S", 24),
    ),
    "counting to a size": (f"{SIZES} n = Squeeze(s)  z = Range(c0, n, c1)", ("S",)),
    "counting to a multiple of a size": (f"{SIZES} n = Squeeze(s)  m = Mul(n, c4)  z = Range(c0, m, c1)", ("4*S",)),
}


@pytest.mark.parametrize(("steps", "expected"), COMPUTED.values(), ids=COMPUTED)
def test_sizes_are_computed_with_their_names(steps: str, expected: Shape) -> None:
    assert of(steps, "int64 c4 = {4}")["z"] == expected


UNKNOWN: dict[str, tuple[str, int]] = {
    "a quotient that may leave a remainder": (
        f"{SIZES} q = Div(b, v2)  t = Concat <axis = 0> (q, any)  z = Reshape(x, t)",
        0,
    ),
    "what a minus one stands for, where it may leave a remainder": (
        "t = Constant <value = int64[2] {-1, 36}> ()  z = Reshape(x, t)",
        0,
    ),
    "a sum of sizes": (f"{SIZES} q = Add(b, s)  t = Concat <axis = 0> (q, any)  z = Reshape(x, t)", 0),
    "counting from one": (f"{SIZES} n = Squeeze(s)  z = Range(c1, n, c1)", 0),
    "counting in twos": (f"{SIZES} n = Squeeze(s)  z = Range(c0, n, c2)", 0),
}


@pytest.mark.parametrize(("steps", "axis"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_computed_is_left_open(steps: str, axis: int) -> None:
    assert not settled(of(steps, "int64 c2 = {2}")["z"][axis])


def test_a_zero_copies_unless_it_is_allowed_to_be_one() -> None:
    target = "t = Constant <value = int64[2] {0, 0}> ()"
    assert of(f"{target}  z = Reshape(x, t)", inputs="float[B,24] x")["z"] == ("B", 24)
    assert of(f"{target}  z = Reshape <allowzero = 1> (x, t)", inputs="float[B,24] x")["z"] == (0, 0)


def test_an_empty_axis_is_not_copied_by_a_computed_target() -> None:
    found = of(f"{SIZES} t = Concat <axis = 0> (v0, b)  z = Reshape <allowzero = 1> (x, t)", inputs="float[B,0] x")
    assert found["z"][0] != "B"


# ---- what uses say -----------------------------------------------------------------------------------------------


OPEN = """n0 = Gather(sh, v0)  n = Sub(n0, v0)  t = Concat <axis = 0> (n, any)  z = Reshape(h, t)"""


@pytest.mark.parametrize("use", ["y = MatMul(z, v)", "y = Gemm(z, v)"])
def test_a_size_is_learnt_from_the_weight_that_it_is_summed_with(use: str) -> None:
    """How much a difference leaves is open, and so is what a minus one stands for beside it."""
    model = parse(
        f"""g (float[N,4] x) => (float[N,5] y) <{NUMBERS}, float[4,8] w, float[8,5] v> {{
            h = MatMul(x, w)  sh = Shape(x)  {OPEN}  {use}
        }}"""
    )
    assert not settled(shapes(model)["z"][1])
    assert analyse(model).graph.shapes["z"][1] == 8
    assert groups(model) == {"v:0 w:1": 8}
    assert difference(model, every_other(model)) <= LIMIT


# ---- what declarations say ---------------------------------------------------------------------------------------


def test_a_declaration_is_not_believed_against_what_is_computed() -> None:
    text = """g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v, float[N,9] h, float[3,8] r> {
        h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v)
    }"""
    found = shapes(parse(text))
    assert (found["h"], found["r"]) == (("N", 8), ("N", 8))


def test_a_declaration_says_what_nothing_else_does_but_names_prove_nothing() -> None:
    body = "g (float[N,4] x) => (float[N,5] y) <float[8,5] v{more}> {{ h = some.where.Widen(x)  y = MatMul(h, v) }}"
    for more, known in (("", None), (", float[N,8] h", ("?h.0", 8))):
        model = parse(body.format(more=more))
        model.opset_import.append(onnx.helper.make_opsetid("some.where", 1))
        assert shapes(model).get("h") == known


@pytest.mark.parametrize("name", ["2*n", "n*2", "16", "2*n*n", "*"])
def test_a_declared_name_is_no_product(name: str) -> None:
    model = parse(
        f"""g (float[N,8] x) => (float y) <{NUMBERS}, int64[3] two = {{2, -1, 8}}> {{
            z = Reshape(x, two)  t = Transpose <perm = [1,0,2]> (z)  y = ReduceMax <keepdims = 0> (t)
        }}"""
    )
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    found = shapes(model)
    assert isinstance(found["x"][0], str)
    assert found["z"] == (2, found["z"][1], 8)
    assert not settled(found["z"][1])


def test_two_names_that_are_no_products_stay_apart() -> None:
    model = parse("g (float[A,8] x, float[C,8] k) => (float y) { z = Concat <axis = 0> (x, k)  y = ReduceMax(z) }")
    for value, name in zip(model.graph.input, ("2*n", "3*n"), strict=True):
        value.type.tensor_type.shape.dim[0].dim_param = name
    found = shapes(model)
    assert found["x"][0] != found["k"][0]


# ---- bodies ------------------------------------------------------------------------------------------------------

LOOP = """g (float[3,4] x) => (float y) <float[4,8] u, int64 turns = {3}, bool go = {1}> {
    h = MatMul(x, u)
    z, s = Loop (turns, go, h) <body = one (int64 i, bool on, float[%s,8] a) => (bool p, float[?,8] b, float[?,8] e) {
        p = Identity(on)  %s
    }>
    y = ReduceMax <keepdims = 0> (z)
}"""


@pytest.mark.parametrize("declared", ["3", "N", "7"])
def test_a_state_that_grows_is_of_no_known_size_within(declared: str) -> None:
    found = shapes(parse(LOOP % (declared, "b = Concat <axis = 0> (a, a)  e = Relu(a)")))
    assert not settled(found["a"][0])
    assert not settled(found["e"][0])
    assert found["a"][1] == found["z"][1] == 8


@pytest.mark.parametrize("declared", ["3", "N", "7"])
def test_a_state_that_stays_as_it_is_has_the_size_that_is_handed_in(declared: str) -> None:
    found = shapes(parse(LOOP % (declared, "b = Tanh(a)  e = Relu(a)")))
    assert found["a"] == found["b"] == found["e"] == found["z"] == (3, 8)
    assert found["s"][1:] == (3, 8)
    assert not settled(found["s"][0])


def test_branches_that_hand_out_different_sizes_leave_the_size_open() -> None:
    found = shapes(
        parse(
            """g (float[3,8] x, bool c) => (float y) <float[5,8] w> {
                z = If (c) <then_branch = yes () => (float[A,8] r) { r = Neg(x) },
                            else_branch = no () => (float[C,8] r) { r = Neg(w) }>
                y = ReduceMax <keepdims = 0> (z)
            }"""
        )
    )
    assert not isinstance(found["z"][0], int)
    assert found["z"][1] == 8


MIXED = """g (float[B,S,10] x) => (float[S,B,5] y) <float[10,24] w, float[24,5] v, int64[1] v0 = {{0}},
    int64[1] v1 = {{1}}, int64[1] four = {{4}}, int64[1] six = {{6}}, int64[1] w24 = {{24}},
    int64[4] apart = {{0,0,6,4}} {more}> {{
    h = MatMul(x, w)  a = Reshape(h, apart)  p = Transpose <perm = [0,2,1,3]> (a)  sh = Shape(x)
    b0 = Gather(sh, v0)  s0 = Gather(sh, v1)  b = {step}(b0, {one})  s = {step}(s0, {one})
    t = Concat <axis = 0> (s, six, b, four)  e = Reshape(p, t)  f = Relu(e)
    q = Transpose <perm = [0,2,1,3]> (f)  t2 = Concat <axis = 0> (s, b, w24)  z = Reshape(q, t2)  y = MatMul(z, v)
}}"""


@pytest.mark.parametrize(
    ("names", "step", "more"),
    [
        (("B", "S"), "Mul", ", float[B,6,S,4] e"),
        (("?e.0", "?e.2"), "Sub", ""),
        (("unk__0", "unk__1"), "Sub", ""),
        (("B*S", "S*B"), "Mul", ", float[B,6,S,4] e"),
    ],
    ids=["a declared name", "names like ours", "names like those of inference", "names like products"],
)
def test_names_do_not_tie_what_is_mixed(names: tuple[str, str], step: str, more: str) -> None:
    model = parse(MIXED.format(step=step, one="v1" if step == "Mul" else "v0", more=more))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[:2], names, strict=True):
        dim.dim_param = name
    removed = every_other(model)
    assert not removed.any() or difference(model, removed, {"x": (2, 3, 10)}) <= LIMIT


def test_malformed_nodes_are_pinned_and_do_not_crash() -> None:
    for step in ("z = Reshape(h, threes)", "z = Range(threes, threes, threes)", "z = my.dom.Shape()"):
        text = "g (float[N,4] x) => (float[N,5] y) <float[4,8] w, float[8,5] v, int64[3] threes = {0,0,0}> {"
        model = parse(text + f" h = MatMul(x, w)  {step}  r = Add(h, z)  y = MatMul(r, v) }}")
        model.opset_import.append(onnx.helper.make_opsetid("my.dom", 1))
        assert groups(model) == {}
