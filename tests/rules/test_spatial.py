"""Operators that trade resolution: channels stay in place, or are dealt out to pixels and back."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, batched, check

PICTURE = """g (float[N,3,2,4] x) => (float[N,5,A,B] y)
<float[4] scales = {{1.0,1.0,2.0,2.0}}, float[4] wide = {{1.0,2.0,1.0,1.0}}, float[2] twice = {{2.0,2.0}},
 int64[2] larger = {{6,8}}, int64[3] some = {{8,6,8}}, float[0] nothing = {{}},
 float[8,3,1,1] w, float[8] b, float[5,8,1,1] v> {{
    h = Conv(x, w, b)  {steps}  y = Conv(z, v)
}}"""
PER_CHANNEL = {"b:0 v:1 w:0": 8}


def picture(steps: str, opset: int, groups: dict[str, int] | None = None, why: str | None = None) -> Case:
    return Case(PICTURE.format(steps=steps), PER_CHANNEL if groups is None else groups, why, opset)


def blocks(mode: str = "") -> str:
    """A graph that deals 16 channels out to blocks of 2 x 2 pixels."""
    return f"""g (float[N,3,2,2] x) => (float[N,5,4,4] y)
    <float[16,3,1,1] w, float[5,4,1,1] v> {{
        h = Conv(x, w)  z = DepthToSpace <blocksize = 2{mode}> (h)  y = Conv(z, v)
    }}"""


GRAPHS: dict[str, Case] = {
    "Upsample, with an attribute": picture("z = Upsample <scales = [1.0,1.0,2.0,2.0]> (h)", 7),
    "Upsample, with an input": picture('z = Upsample <mode = "nearest"> (h, scales)', 9),
    "Resize, of opset 10": picture("z = Resize(h, scales)", 10),
    "Resize, of opset 11 by scales": picture('z = Resize <mode = "linear"> (h, nothing, scales)', 11),
    "Resize, of opset 13 by scales": picture('z = Resize <mode = "nearest"> (h, , scales)', 13),
    "Resize, of opset 18 by scales of two axes": picture("z = Resize <axes = [2,3]> (h, , twice)", 18),
    "Resize, of opset 19 by sizes of two axes": picture("z = Resize <axes = [-2,-1]> (h, , , larger)", 19),
    "Resize, of opset 18 by sizes of three axes": picture("z = Resize <axes = [1,2,3]> (h, , , some)", 18),
    "Resize, by sizes": Case(
        """g (float[1,3,2,4] x) => (float[1,5,6,8] y)
        <int64[4] sizes = {1,8,6,8}, float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Resize <mode = "linear"> (h, , , sizes)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=13,
    ),
    "Resize, by sizes of opset 11": Case(
        """g (float[1,3,2,4] x) => (float[1,5,6,8] y)
        <float[0] none = {}, int64[4] sizes = {1,8,6,8}, float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Resize(h, none, none, sizes)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=11,
    ),
    "Resize, to the size of another picture": Case(  # the width of the channels is a constant among computed sizes
        """g (float[N,3,2,4] x, float[N,3,6,8] like) => (float[N,5,6,8] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] width = {8},
         float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)
            n = Shape(h)  batch = Slice(n, zero, one)  m = Shape(like)  space = Slice(m, two, four)
            sizes = Concat <axis = 0> (batch, width, space)
            z = Resize(h, , , sizes)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=13,
    ),
    "Resize, of the channels themselves": picture("z = Resize(h, , wide)", 13, {}, "Resize #1 ('z') needs it whole"),
    "Resize, that keeps its proportions": Case(
        """g (float[1,3,2,4] x) => (float[1,5,A,B] y)
        <int64[4] sizes = {1,8,6,8}, float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Resize <keep_aspect_ratio_policy = "not_larger"> (h, , , sizes)  y = Conv(z, v)
        }""",
        {},
        "Resize #1 ('z') needs it whole",
        18,
    ),
    "Resize, that crops": Case(
        """g (float[N,3,2,4] x, float[8] region) => (float[N,5,4,8] y)
        <float[4] scales = {1.0,1.0,2.0,2.0}, float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)
            z = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (h, region, scales)  y = Conv(z, v)
        }""",
        {},
        "Resize #1 ('z') crops by a region given at run time",
        13,
    ),
    "Resize, to sizes given at run time": Case(
        """g (float[N,3,2,4] x, int64[4] sizes) => (float[N,5,A,B] y)
        <float[N,8,A,B] z, float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = Resize(h, , , sizes)  y = Conv(z, v)
        }""",
        {},
        "Resize #1 ('z') takes sizes that are not known before running",
        13,
    ),
    # input channel 4 i + c goes to output channel c, for each of the four pixels i of a block
    "DepthToSpace": Case(blocks(), {"v:1 w:0": 4}, opset=7),
    "DepthToSpace, depth first": Case(blocks(', mode = "DCR"'), {"v:1 w:0": 4}, opset=11),
    # input channel 4 c + i goes to output channel c
    "DepthToSpace, columns first": Case(blocks(', mode = "CRD"'), {"v:1 w:0": 4}, opset=13),
    "DepthToSpace, columns first behind what repeats each channel": Case(
        # Each of the 4 outputs of channel c is one of the pixels of output channel c, so that 8 units stay apart.
        """g (float[N,3,2,2] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[32,1,1,1] k, float[5,8,1,1] v> {
            h = Conv(x, w)  d = Conv <group = 8> (h, k)
            z = DepthToSpace <blocksize = 2, mode = "CRD"> (d)  y = Conv(z, v)
        }""",
        {"k:0 v:1 w:0": 8},
    ),
    "DepthToSpace, depth first behind what repeats each channel": Case(
        # Output channel c takes 8 i + c: one output each of channels (8 i + c) // 4, so c // 4 + 2 i: two units.
        """g (float[N,3,2,2] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w, float[32,1,1,1] k, float[5,8,1,1] v> {
            h = Conv(x, w)  d = Conv <group = 8> (h, k)
            z = DepthToSpace <blocksize = 2, mode = "DCR"> (d)  y = Conv(z, v)
        }""",
        {"k:0 v:1 w:0": 2},
    ),
    "SpaceToDepth": Case(  # input channel c goes to output channels c, 4 + c, 8 + c and 12 + c
        """g (float[N,3,4,4] x) => (float[N,5,2,2] y) <float[4,3,1,1] w, float[5,16,1,1] v> {
            h = Conv(x, w)  z = SpaceToDepth <blocksize = 2> (h)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4},
    ),
    "DepthToSpace, of a batch of weights": batched("t = DepthToSpace <blocksize = 2> (w)", {}),
    "SpaceToDepth, of a batch of weights": batched("t = SpaceToDepth <blocksize = 2> (w)", {}),
    "SpaceToDepth, and back": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y) <float[4,3,1,1] w, float[5,4,1,1] v> {
            h = Conv(x, w)  s = SpaceToDepth <blocksize = 2> (h)  r = Relu(s)
            z = DepthToSpace <blocksize = 2> (r)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4},
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_channels_follow_where_they_are_dealt_out_to(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [7, 11, 13, 18, 24])
def test_blocks_say_the_same_at_every_opset(opset: int) -> None:
    check(Case(blocks(), {"v:1 w:0": 4}, opset=opset))


@pytest.mark.parametrize(
    ("mode", "opset"), [("nearest", 10), ("linear", 11), ("linear", 13), ("nearest", 18), ("cubic", 19)]
)
def test_what_is_made_larger_keeps_its_zeros(mode: str, opset: int) -> None:
    inputs = "(h, scales)" if opset == 10 else "(h, none, scales)"
    reduced = "(z, axis)" if opset >= 13 else "<axes = [1]> (z)"
    text = f"""g (float[N,3,2,4] x) => (float[N,1,4,8] y)
    <float[4] scales = {{1.0,1.0,2.0,2.0}}, float[0] none = {{}}, int64[1] axis = {{1}}, float[8,3,1,1] w> {{
        h = Conv(x, w)  z = Resize <mode = "{mode}"> {inputs}  y = ReduceSum {reduced}
    }}"""
    check(Case(text, {"w:0": 8}, opset=opset))


@pytest.mark.parametrize(
    ("step", "opset", "units"),
    [
        ("z = Upsample <scales = [1.0,1.0,2.0,2.0]> (h)", 8, 8),
        ("z = Upsample(h, scales)", 9, 8),
        ("z = DepthToSpace <blocksize = 2> (h)", 12, 2),
        ('z = DepthToSpace <blocksize = 2, mode = "CRD"> (h)', 12, 2),
        ("z = SpaceToDepth <blocksize = 2> (h)", 12, 8),
    ],
)
def test_what_is_moved_keeps_its_zeros(step: str, opset: int, units: int) -> None:
    text = f"""g (float[N,3,2,4] x) => (float[N,1,A,B] y) <float[4] scales = {{1.0,1.0,2.0,2.0}}, float[8,3,1,1] w> {{
        h = Conv(x, w)  {step}  y = ReduceSum <axes = [1]> (z)
    }}"""
    check(Case(text, {"w:0": units}, opset=opset))
