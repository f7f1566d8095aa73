"""Normalisations: per channel they lose channels; the axis they normalise over stays whole."""

from __future__ import annotations

import pytest

from tests.laws import groups, parse, reasons
from tests.rules.cases import Case, batched, check

# a MatMul from the left makes the second of three axes the one that is cut, a MatMul from the right the third
SECOND = """g (float[N,4,6] x) => (float[N,5,6] y) <float[8,4] w, float[5,8] v, float[6] s, float[6] b> {{
    h = MatMul(w, x)  {steps}  y = MatMul(v, z)
}}"""
THIRD = """g (float[N,3,4] x) => (float[N,3,5] y) <float[4,8] w, float[8,5] v, float[8] s, float[8] b> {{
    h = MatMul(x, w)  {steps}  y = MatMul(z, v)
}}"""
BATCH = """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[8,3,1,1] w, float[8] s, float[8] b, float[8] m, float[8] var, float[5,8,1,1] v> {{
    h = Conv(x, w)  {steps}  y = Conv(z, v)
}}"""
PER_CHANNEL = {"b:0 m:0 s:0 v:1 var:0 w:0": 8}

GRAPHS: dict[str, Case] = {
    "BatchNormalization": Case(BATCH.format(steps="z = BatchNormalization(h, s, b, m, var)"), PER_CHANNEL),
    "BatchNormalization, behind a rectifier": Case(
        BATCH.format(steps="r = Relu(h)  n = BatchNormalization(r, s, b, m, var)  z = Sigmoid(n)"), PER_CHANNEL
    ),
    "BatchNormalization, of rows": Case(
        """g (float[N,4] x) => (float[N,5] y)
        <float[4,8] w, float[8] s, float[8] b, float[8] m, float[8] var, float[8,5] v> {
            h = MatMul(x, w)  z = BatchNormalization(h, s, b, m, var)  y = MatMul(z, v)
        }""",
        {"b:0 m:0 s:0 v:0 var:0 w:1": 8},
        opset=9,
    ),
    "BatchNormalization, whose output is summed over": Case(
        """g (float[N,4] x) => (float[N] y)
        <int64[1] axis = {1}, float[4,8] w, float[8] s, float[8] b, float[8] m, float[8] var> {
            h = MatMul(x, w)  e = Exp(h)  z = BatchNormalization(e, s, b, m, var)
            y = ReduceSum <keepdims = 0> (z, axis)
        }""",
        {"b:0 m:0 s:0 var:0 w:1": 8},
    ),
    "BatchNormalization, that keeps a dense network's channels apart": Case(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,1,1] w, float[6] s, float[6] b, float[6] m, float[6] var, float[4,6,1,1] k,
         float[10] t, float[10] c, float[10] n, float[10] varn, float[5,10,1,1] v> {
            a = Conv(x, w)  d = BatchNormalization(a, s, b, m, var)  e = Relu(d)  f = Conv(e, k)
            h = Concat <axis = 1> (a, f)
            i = BatchNormalization(h, t, c, n, varn)  j = Relu(i)  y = Conv(j, v)
        }""",
        {"b:0 c:0 k:1 m:0 n:0 s:0 t:0 v:1 var:0 varn:0 w:0": 6, "c:0 k:0 n:0 t:0 v:1 varn:0": 4},
    ),
    "BatchNormalization, in training mode": Case(
        BATCH.format(steps="z, mm, vv = BatchNormalization <training_mode = 1> (h, s, b, m, var)"),
        {},
        "BatchNormalization #1 ('z') is in training mode",
        15,
    ),
    "BatchNormalization, that divides by the variance alone": Case(
        BATCH.format(steps="z = BatchNormalization <epsilon = 0.0> (h, s, b, m, var)"),
        {},
        "BatchNormalization #1 ('z') is not finite where a zeroed unit makes it zero",
    ),
    "InstanceNormalization": Case(BATCH.format(steps="z = InstanceNormalization(h, s, b)"), {"b:0 s:0 v:1 w:0": 8}),
    "InstanceNormalization, over the axis": Case(
        """g (float[N,3,4] x) => (float[N,3,5] y) <float[4,8] w, float[3] s, float[3] b, float[8,5] v> {
            h = MatMul(x, w)  z = InstanceNormalization(h, s, b)  y = MatMul(z, v)
        }""",
        {},
        "InstanceNormalization #1 ('z') normalises over it",
    ),
    "InstanceNormalization, of a batch of weights": batched(
        "t = InstanceNormalization(w, s, b)", {}, "float[4] s, float[4] b"
    ),
    "InstanceNormalization, whose output is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N,1,4,4] y)
        <int64[1] axis = {1}, float[8,3,1,1] w, float[8] s, float[8] b> {
            h = Conv(x, w)  e = Exp(h)  z = InstanceNormalization(e, s, b)  y = ReduceSum(z, axis)
        }""",
        {"b:0 s:0 w:0": 8},
    ),
    "LayerNormalization": Case(SECOND.format(steps="z = LayerNormalization(h, s, b)"), {"v:1 w:0": 8}),
    "LayerNormalization, over the axis": Case(
        THIRD.format(steps="z = LayerNormalization(h, s, b)"),
        {},
        "LayerNormalization #1 ('z') normalises over it",
    ),
    "LayerNormalization, over the axis and all after it": Case(
        """g (float[N,4,6] x) => (float[N,5,6] y) <float[8,4] w, float[8,6] s, float[8,6] b, float[5,8] v> {
            h = MatMul(w, x)  z = LayerNormalization <axis = 1> (h, s, b)  y = MatMul(v, z)
        }""",
        {},
        "LayerNormalization #1 ('z') normalises over it",
    ),
    "RMSNormalization": Case(SECOND.format(steps="z = RMSNormalization(h, s)"), {"v:1 w:0": 8}, opset=23),
    "RMSNormalization, over the axis": Case(
        THIRD.format(steps="z = RMSNormalization(h, s)"), {}, "RMSNormalization #1 ('z') normalises over it", 23
    ),
    # channels 0 and 1, 2 and 3, … are normalised together, so that they go together
    "GroupNormalization": Case(
        BATCH.format(steps="z = GroupNormalization <num_groups = 4> (h, s, b)"), {"b:0 s:0 v:1 w:0": 4}, opset=21
    ),
    "GroupNormalization, of groups of one": Case(
        BATCH.format(steps="z = GroupNormalization <num_groups = 8> (h, s, b)"), {"b:0 s:0 v:1 w:0": 8}, opset=22
    ),
    "GroupNormalization, behind two groups of another": Case(  # which is coarser
        BATCH.format(
            steps="n = GroupNormalization <num_groups = 4> (h, s, b)"
            "  z = GroupNormalization <num_groups = 2> (n, m, var)"
        ),
        {"b:0 m:0 s:0 v:1 var:0 w:0": 2},
        opset=21,
    ),
    "GroupNormalization, whose output is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N,1,4,4] y)
        <int64[1] axis = {1}, float[8,3,1,1] w, float[8] s, float[8] b> {
            h = Conv(x, w)  e = Exp(h)  z = GroupNormalization <num_groups = 4> (e, s, b)  y = ReduceSum(z, axis)
        }""",
        {"b:0 s:0 w:0": 4},
        opset=21,
    ),
    "GroupNormalization, by a scale that is not zero": Case(
        """g (float[N,3,4,4] x) => (float[N,1,4,4] y)
        <int64[1] axis = {1}, float[8,3,1,1] w, float[8] s, float[8] b> {
            h = Conv(x, w)  e = Exp(s)  z = GroupNormalization <num_groups = 4> (h, e, b)  y = ReduceSum(z, axis)
        }""",
        {},
        "ReduceSum #3 ('y') sums over it, and a zeroed unit would still contribute",
        21,
    ),
    "GroupNormalization, of one group": Case(
        BATCH.format(steps="z = GroupNormalization <num_groups = 1> (h, s, b)"),
        {},
        "GroupNormalization #1 ('z') normalises over all channels",
        21,
    ),
    "GroupNormalization, that divides by the variance alone": Case(
        BATCH.format(steps="z = GroupNormalization <num_groups = 4, epsilon = 0.0> (h, s, b)"),
        {},
        "GroupNormalization #1 ('z') normalises over all channels, or has no epsilon",
        21,
    ),
    "GroupNormalization, over the axis": Case(
        """g (float[N,4,4] x) => (float[N,4,5] y) <float[4,8] w, float[4] s, float[4] b, float[8,5] v> {
            h = MatMul(x, w)  z = GroupNormalization <num_groups = 2> (h, s, b)  y = MatMul(z, v)
        }""",
        {},
        "GroupNormalization #1 ('z') normalises over it",
        21,
    ),
    "GroupNormalization, of a batch of weights": batched(
        "t = GroupNormalization <num_groups = 2> (w, s, b)", {}, "float[4] s, float[4] b", 21
    ),
    "LpNormalization": Case(BATCH.format(steps="z = LpNormalization <axis = 2> (h)"), {"v:1 w:0": 8}),
    "LpNormalization, of pixels that are summed over": Case(
        """g (float[N,3,4,4] x) => (float[N,1,4,4] y) <int64[1] axis = {1}, float[8,3,1,1] w> {
            h = Conv(x, w)  z = LpNormalization <p = 1> (h)  y = ReduceSum(z, axis)
        }""",
        {"w:0": 8},
        opset=22,
    ),
    "LpNormalization, of what is not zero that is summed over": Case(
        """g (float[N,3,4,4] x) => (float[N,1,4,4] y) <int64[1] axis = {1}, float[8,3,1,1] w> {
            h = Conv(x, w)  e = Exp(h)  z = LpNormalization <p = 1> (e)  y = ReduceSum(z, axis)
        }""",
        {},
        "ReduceSum #3 ('y') sums over it, and a zeroed unit would still contribute",
        22,
    ),
    "LpNormalization, over the axis": Case(
        THIRD.format(steps="z = LpNormalization(h)"), {}, "LpNormalization #1 ('z') normalises over it"
    ),
    "LRN, of a batch of weights": batched("t = LRN <size = 3> (w)", {}),
    "LRN, of a batch of weights that is summed over": Case(
        """g (float[N,4,2,2] x) => (float[N,4,2,2] y) <int64[1] axis = {0}, float[8,4,2,2] w> {
            t = LRN <size = 3> (w)  s = ReduceSum(t, axis)  y = Mul(x, s)
        }""",
        {"w:0": 8},
    ),
    "LRN": Case(BATCH.format(steps="z = LRN <size = 3> (h)"), {}, "LRN #1 ('z') mixes neighbouring channels", opset=9),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_what_is_normalised_per_channel_loses_channels(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 18, 22, 24])
def test_batch_normalization_says_the_same_at_every_opset(opset: int) -> None:
    check(Case(BATCH.format(steps="z = BatchNormalization(h, s, b, m, var)"), PER_CHANNEL, opset=opset))


@pytest.mark.parametrize(
    ("steps", "opset"),
    [
        ("z = BatchNormalization <spatial = 0> (h, s, b, m, var)", 7),
        ("z, a, c, d, e = BatchNormalization(h, s, b, m, var)", 7),
        ("z, a, c, d, e = BatchNormalization(h, s, b, m, var)", 9),
        ("z, a, c = BatchNormalization <training_mode = 1> (h, s, b, m, var)", 14),
    ],
)
def test_old_and_new_ways_of_training_are_refused(steps: str, opset: int) -> None:
    model = parse(BATCH.format(steps=steps), opset=opset)
    assert groups(model) == {}
    assert "BatchNormalization #1 ('z') is in training mode, or normalises every position" in reasons(model)


def test_a_batch_of_single_numbers_has_one_channel() -> None:
    text = """g (float[8] x) => (float[8] y) <float[1] s, float[1] b, float[1] m, float[1] var> {
        y = BatchNormalization(x, s, b, m, var)
    }"""
    assert groups(parse(text)) == {}
