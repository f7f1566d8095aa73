"""Operators that trade resolution: channels stay in place, or are dealt out to pixels and back."""

from __future__ import annotations

import pytest

from onnxprune.algebra.facts import Macs
from tests.laws import analyse, parse
from tests.rules.cases import Case, batched, check

PICTURE = """g (float[N,3,2,4] x) => (float[N,5,A,B] y)
<float[4] scales = {{1.0,1.0,2.0,2.0}}, float[4] wide = {{1.0,2.0,1.0,1.0}}, float[2] twice = {{2.0,2.0}},
 int64[2] larger = {{6,8}}, int64[3] some = {{8,6,8}}, float[0] nothing = {{}},
 int64[2] other = {{4,2}}, int64[2] which = {{1,0}}, float[2,4] regions = {{0,0,2,1,1,0,3,2}},
 float[2,5] varr, float[2,2,3,2] places,
 float[8,3,1,1] w, float[8] b, float[5,8,1,1] v> {{
    h = Conv(x, w, b)  {steps}  y = Conv(z, v)
}}"""
# a convolution of 8 channels to 12, whose reading places are shifted
SHIFTED = """g (float[N,3,4,4] x, float[N,{shifts},4,4] s, float[N,{shifts},4,4] m) => (float[N,5,4,4] y)
<float[8,3,1,1] w, float[{outputs},{per},3,3] k, float[{outputs}] c, float[5,{outputs},1,1] v> {{
    h = Conv(x, w)  a, b = Split <axis = 1, num_outputs = 2> (m)
    z = DeformConv <pads = [1,1,1,1], group = {group}, offset_group = {sets}> ({inputs})  y = Conv(z, v)
}}"""
PER_CHANNEL = {"b:0 v:1 w:0": 8}


def picture(steps: str, opset: int, groups: dict[str, int] | None = None, why: str | None = None) -> Case:
    return Case(PICTURE.format(steps=steps), PER_CHANNEL if groups is None else groups, why, opset)


def shifted(
    groups: dict[str, int], inputs: str = "h, k, s, c", group: int = 1, sets: int = 1, outputs: int = 12
) -> Case:
    """The shifts come in sets, each for as many channels as the others; masks are half as many."""
    sizes = {"per": 8 // group, "shifts": 18 * sets, "group": group, "sets": sets, "outputs": outputs}
    return Case(SHIFTED.format(inputs=inputs, **sizes), groups, "('z') needs it whole", 22)


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
    "Col2Im": Case(  # input channels 4 c … 4 c + 3 are the places of a block in output channel c
        """g (float[N,3,4] x) => (float[N,5,3,3] y)
        <int64[2] image = {3,3}, int64[2] block = {2,2}, float[16,3,1] w, float[5,4,1,1] v> {
            h = Conv(x, w)  z = Col2Im(h, image, block)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 4},
        opset=18,
    ),
    "Col2Im, of a batch of weights": Case(
        """g (float[N,4] x) => (float[N,M] y)
        <int64[2] image = {3,3}, int64[2] block = {2,2}, float[4,8] u, float[8,12,4] w> {
            h = MatMul(x, u)  t = Col2Im(w, image, block)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"u:1 w:0": 8},
        opset=18,
    ),
    "CenterCropPad": picture("z = CenterCropPad <axes = [2,-1]> (h, other)", 18),
    "CenterCropPad, of channels that stay as many": picture("z = CenterCropPad <axes = [1,2,3]> (h, some)", 18),
    "CenterCropPad, of all axes": Case(
        """g (float[1,3,2,4] x) => (float[1,5,6,2] y) <int64[4] all = {1,8,6,2}, float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  z = CenterCropPad(h, all)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=18,
    ),
    "CenterCropPad, of the channels themselves": Case(
        """g (float[N,3,2,4] x) => (float[N,5,2,4] y) <int64[1] six = {6}, float[8,3,1,1] w, float[5,6,1,1] v> {
            h = Conv(x, w)  z = CenterCropPad <axes = [1]> (h, six)  y = Conv(z, v)
        }""",
        {},
        "CenterCropPad #1 ('z') needs it whole",
        18,
    ),
    "GridSample": picture("z = GridSample(h, places)", 20),
    "GridSample, of a batch of weights": batched("t = GridSample(w, grid)", {}, "float[8,2,3,2] grid", 16)._replace(
        groups={"grid:0 u:1 w:0": 8}
    ),
    "AffineGrid": Case(  # the maps of a batch
        """g (float[N,4] x) => (float[N,M] y)
        <int64[4] size = {8,4,3,3}, float[4,8] u, float[8,2,3] maps, float[8,4,6,6] w> {
            h = MatMul(x, u)  places = AffineGrid(maps, size)  t = GridSample(w, places)
            f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"maps:0 u:1 w:0": 8},
        opset=20,
    ),
    "AffineGrid, of maps that are summed over": Case(
        """g (float[N,3,3,2] x) => (float[N,3,3,2] y)
        <int64[4] size = {8,4,3,3}, int64[1] axis = {0}, float[8,2,3] maps> {
            t = AffineGrid(maps, size)  s = ReduceSum(t, axis)  y = Mul(x, s)
        }""",
        {"maps:0": 8},
        opset=20,
    ),
    "AffineGrid, of maps that do not vanish": Case(
        """g (float[N,3,3,2] x) => (float[N,3,3,2] y)
        <int64[4] size = {8,4,3,3}, int64[1] axis = {0}, float[8,2,3] maps> {
            e = Exp(maps)  t = AffineGrid(e, size)  s = ReduceSum(t, axis)  y = Mul(x, s)
        }""",
        {},
        "ReduceSum #2 ('s') sums over it, and a zeroed unit would still contribute",
        20,
    ),
    "AffineGrid, as large as a picture whose channels go": Case(
        """g (float[N,3,4,4] x, float[N,2,3] maps) => (float[N,5,4,4] y) <float[8,3,1,1] w, float[5,8,1,1] v> {
            h = Conv(x, w)  size = Shape(h)  places = AffineGrid(maps, size)  z = GridSample(h, places)  y = Conv(z, v)
        }""",
        {"v:1 w:0": 8},
        opset=20,
    ),
    "AffineGrid, of a size given at run time": Case(
        """g (float[N,4] x, int64[4] size) => (float[N,M] y)
        <float[8,A,B,2] places, float[4,8] u, float[8,2,3] maps, float[8,4,6,6] w> {
            h = MatMul(x, u)  places = AffineGrid(maps, size)  t = GridSample(w, places)
            f = Flatten(t)  y = MatMul(h, f)
        }""",
        {},
        "AffineGrid #1 ('places') takes a size that is not known before running",
        20,
    ),
    "RoiAlign": picture("z = RoiAlign <output_height = 2, output_width = 2> (h, regions, which)", 16),
    "RoiAlign, of regions that are weights": Case(
        """g (float[N,4] x, float[2,3,6,6] p) => (float[N,M] y)
        <float three = {3.0}, float[4,8] u, float[8,2] varr, float[8,2] q> {
            h = MatMul(x, u)  i = ArgMax <axis = 1, keepdims = 0> (q)
            to = Add(varr, three)  regions = Concat <axis = 1> (varr, to)
            t = RoiAlign <output_height = 2, output_width = 2> (p, regions, i)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"q:0 u:1 varr:0": 8},
        opset=16,
    ),
    "RoiAlign, of a batch": Case(
        """g (float[N,4] x) => (float[N,M] y)
        <int64[2] which = {5,2}, float[2,4] varr, float[4,2] u, float[8,4,6,6] w> {
            h = MatMul(x, u)  t = RoiAlign(w, varr, which)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {},
        "RoiAlign #1 ('t') picks pictures from it at run time",
        16,
    ),
    "MaxRoiPool": picture("z = MaxRoiPool <pooled_shape = [2,2]> (h, varr)", 17),
    "MaxRoiPool, of a batch": Case(
        """g (float[N,4] x, float[2,5] regions) => (float[N,M] y) <float[4,2] u, float[8,4,6,6] w> {
            h = MatMul(x, u)  t = MaxRoiPool <pooled_shape = [2,2]> (w, regions)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {},
        "MaxRoiPool #1 ('t') picks pictures from it at run time",
    ),
    "MaxRoiPool, of regions that are weights": Case(
        """g (float[N,4] x, float[2,3,6,6] p) => (float[N,M] y) <float[4,8] u, float[8,5] varr> {
            h = MatMul(x, u)  t = MaxRoiPool <pooled_shape = [2,2]> (p, varr)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"u:1 varr:0": 8},
    ),
    "DeformConv": shifted({"k:1 w:0": 8, "c:0 k:0 v:1": 12}),
    "DeformConv, without a bias": shifted({"k:1 w:0": 8, "k:0 v:1": 12}, "h, k, s"),
    "DeformConv, with a mask": shifted({"k:1 w:0": 8, "k:0 v:1": 12}, "h, k, s, , a"),
    # the same position in each of the groups, be they of weights, of shifts, or of both
    "DeformConv, of two groups": shifted({"k:1 w:0": 4, "c:0 k:0 v:1": 6}, group=2),
    "DeformConv, of two sets of shifts": shifted({"k:1 w:0": 4, "c:0 k:0 v:1": 12}, sets=2),
    "DeformConv, of two groups and four sets": shifted({"k:1 w:0": 2, "k:0 v:1": 6}, "h, k, s, , a", 2, 4),
    "DeformConv, of each channel": shifted({"c:0 k:0 v:1 w:0": 8}, group=8, outputs=16),
    "DeformConv, of each channel by two sets": shifted({"c:0 k:0 v:1 w:0": 4}, group=8, sets=2, outputs=16),
    "DeformConv, of a batch of weights": Case(
        """g (float[N,4] x) => (float[N,M] y)
        <float[4,8] u, float[8,4,6,6] w, float[3,4,3,3] k, float[8,18,4,4] s, float[8,9,4,4] m> {
            h = MatMul(x, u)  t = DeformConv(w, k, s, , m)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"m:0 s:0 u:1 w:0": 8, "k:1 w:1": 4},
        opset=22,
    ),
    "DeformConv, by computed weights that do not vanish": Case(
        """g (float[N,3,4,4] x, float[N,18,2,2] s) => (float[N,2,2] y) <int64[1] axis = {1}, float[8,3,3,3] k> {
            e = Exp(k)  z = DeformConv(x, e, s)  y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {},
        "ReduceSum #2 ('y') sums over it, and a zeroed unit would still contribute",
        22,
    ),
    "DeformConv, of what is summed over": Case(
        """g (float[N,3,4,4] x, float[N,18,2,2] s) => (float[N,2,2] y)
        <int64[1] axis = {1}, float[8,3,3,3] k, float[8] c> {
            e = Exp(x)  z = DeformConv(e, k, s, c)  y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {"c:0 k:0": 8},
        opset=22,
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
    ("step", "opset", "units"),  # before what does not vanish stands an exponential, and nothing goes
    [
        ("z = Upsample <scales = [1.0,1.0,2.0,2.0]> (h)", 8, 8),
        ("z = Upsample(h, scales)", 9, 8),
        ("z = DepthToSpace <blocksize = 2> (h)", 12, 2),
        ('z = DepthToSpace <blocksize = 2, mode = "CRD"> (h)', 12, 2),
        ("z = SpaceToDepth <blocksize = 2> (h)", 12, 8),
        ("z = GridSample(h, places)", 16, 8),
        ("q = Reshape(h, blocked)  z = Col2Im(q, image, block)", 18, 2),
        ("z = CenterCropPad <axes = [2,3]> (h, image)", 18, 8),
        ("z = MaxRoiPool <pooled_shape = [2,2]> (h, varr)", 17, 8),
        ("z = RoiAlign(h, regions, which)", 16, 8),
        ("e = Exp(h)  z = GridSample(e, places)", 16, 0),
        ("e = Exp(h)  q = Reshape(e, blocked)  z = Col2Im(q, image, block)", 18, 0),
        ("e = Exp(h)  z = CenterCropPad <axes = [2,3]> (e, image)", 18, 0),
        ("e = Exp(h)  z = MaxRoiPool <pooled_shape = [2,2]> (e, varr)", 17, 0),
        ("e = Exp(h)  z = RoiAlign(e, regions, which)", 16, 0),
    ],
)
def test_what_is_moved_keeps_its_zeros(step: str, opset: int, units: int) -> None:
    reduced = "(z, axis)" if opset >= 13 else "<axes = [1]> (z)"
    text = f"""g (float[N,3,2,4] x) => (float[N,1,A,B] y)
    <float[4] scales = {{1.0,1.0,2.0,2.0}}, int64[1] axis = {{1}},
     int64[3] blocked = {{0,8,8}}, int64[2] block = {{2,2}}, int64[2] image = {{3,5}}, int64[2] which = {{1,0}},
     float[2,4] regions = {{0,0,2,1,1,0,3,2}},
     float[2,5] varr, float[2,2,3,2] places, float[8,3,1,1] w> {{
        h = Conv(x, w)  {step}  y = ReduceSum {reduced}
    }}"""
    check(Case(text, {"w:0": units} if units else {}, opset=opset))


def test_multiply_accumulates_are_those_of_a_convolution() -> None:
    text = """g () => (float y) <float[2,4,5,5] p, float[6,4,3,3] k, float[2,18,3,3] s> {
        z = DeformConv(p, k, s)  y = ReduceSum <keepdims = 0> (z)
    }"""
    stated = analyse(parse(text, opset=19)).facts[0]
    (axes,) = [fact.axes for fact in stated if isinstance(fact, Macs)]
    assert axes == (("z", 0), ("z", 2), ("z", 3), ("k", 0), ("k", 1), ("k", 2), ("k", 3))
