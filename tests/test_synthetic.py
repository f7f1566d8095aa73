"""Inputs that are made up: of the right types, in the right ranges, and where normalisations saw theirs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.algebra.graph import Graph
from onnxprune.data import synthetic as module
from onnxprune.data.inputs import Feed
from onnxprune.data.synthetic import CLIP, FEW, LEAST, LEVELS, MOST, WORK, synthetic
from tests.laws import analyse, parse
from tests.linears import replaced

MIXED = """g (float[N,3,8,8] x, float16[N,5] h, double[N,4,9] d, int64[N,2] i, uint8[N,6] c, bool[N] t, string[N] s,
    float[N] v) => (float[N,8,6,6] y, float[N,2,7] e) <float[8,3,3,3] w, float[11,7] table> {
    y = Conv(x, w)  e = Gather(table, i) }"""
NORMALISED = """g (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[3] scale, float[3] b, float[3] m, float[3] var,
    float[4,3,3,3] w> { n = BatchNormalization(x, scale, b, m, var)  y = Conv(n, w) }"""
SHAPES: dict[str, tuple[int, ...]] = {
    "x": (1, 3, 8, 8),
    "h": (1, 5),
    "d": (1, 4, 9),
    "i": (1, 2),
    "c": (1, 6),
    "t": (1,),
    "s": (1,),
    "v": (1,),
}
PICTURE: dict[str, tuple[int, ...]] = {"x": (1, 3, 8, 8)}


def graph(text: str) -> Graph:
    return analyse(parse(text)).graph


def together(feeds: list[Feed], name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.concatenate([feed[name] for feed in feeds])


def same(first: list[Feed], second: list[Feed]) -> bool:
    return [{n: a.tobytes() for n, a in feed.items()} for feed in first] == [
        {n: a.tobytes() for n, a in feed.items()} for feed in second
    ]


def remembering(mean: float, deviation: float) -> onnx.ModelProto:
    """A model whose normalisation remembers inputs of this level."""
    model = parse(NORMALISED)
    replaced(model, "m", lambda array: array.fill(mean))
    replaced(model, "var", lambda array: array.fill(deviation**2))
    return model


def test_there_are_enough_of_every_type_and_within_their_ranges() -> None:
    own = graph(MIXED)
    feeds = synthetic(own, SHAPES, 0)
    for value in own.inputs:
        found = together(feeds, value.name)
        wanted = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        assert found.shape == (MOST, *SHAPES[value.name][1:])
        assert found.dtype == (object if value.name == "s" else wanted)
    assert set(np.unique(together(feeds, "i"))) == set(range(11))
    assert len(np.unique(together(feeds, "c"))) > 200
    for name in ("x", "h", "d"):
        assert 2 < np.abs(together(feeds, name).astype(np.float64)).max() <= CLIP
        assert np.abs(together(feeds, name).astype(np.float64).mean()) < 0.2


def test_a_batch_that_is_fixed_is_run_a_few_times() -> None:
    own = graph("g (float[2,5] x) => (float[2,4] y) <float[5,4] w> { y = MatMul(x, w) }")
    feeds = synthetic(own, {"x": (2, 5)}, 0)
    assert [feed["x"].shape for feed in feeds] == [(2, 5)] * FEW


def test_the_seed_decides() -> None:
    own = graph(MIXED)
    first = synthetic(own, SHAPES, 3)
    assert same(first, synthetic(own, SHAPES, 3))
    assert not same(first, synthetic(own, SHAPES, 4))


def test_no_two_rows_are_alike() -> None:
    rows = together(synthetic(graph(MIXED), SHAPES, 0), "x")
    assert len({row.tobytes() for row in rows}) == MOST


def test_pictures_are_smooth_and_channels_go_their_own_way() -> None:
    rows = together(synthetic(graph(MIXED), SHAPES, 0), "x")
    rows = rows - rows.mean((2, 3), keepdims=True)
    power = (rows * rows).mean()
    assert (rows[..., 1:] * rows[..., :-1]).mean() > 0.3 * power
    assert (rows[:, :, 1:] * rows[:, :, :-1]).mean() > 0.3 * power
    assert abs((rows[:, 0] * rows[:, 1]).mean()) < 0.1 * power


def test_rows_differ_in_contrast_and_offset() -> None:
    rows = together(synthetic(graph(MIXED), SHAPES, 0), "x")
    assert rows.mean((1, 2, 3)).std() > 0.3
    assert np.ptp(rows.std((1, 2, 3))) > 0.5


@pytest.mark.parametrize("level", LEVELS)
def test_a_normalisation_knows_the_level(level: tuple[float, float]) -> None:
    own = analyse(remembering(*level)).graph
    found = synthetic(own, PICTURE, 0)
    assert same(found, module._feeds(own, PICTURE, 0, level, MOST))
    values = together(found, "x")
    assert values.mean() == pytest.approx(level[0], abs=0.2 * level[1])
    assert np.abs(values - level[0]).max() <= CLIP * level[1] * 1.001


def test_the_means_count_beside_the_variances() -> None:
    """Where deviations alone say standard inputs, the mean says bytes."""
    own = analyse(remembering(127.5, 1)).graph
    assert same(synthetic(own, PICTURE, 0), module._feeds(own, PICTURE, 0, LEVELS[-1], MOST))


def test_a_level_at_which_the_model_does_not_run_is_not_chosen() -> None:
    """Bytes would be best, but the table that they index has but ten rows."""
    text = NORMALISED.replace("w>", "w, float[10,2] table>").replace("(x, scale", "(a, scale")
    found = "i = Cast <to = 7> (x)  e = Gather(table, i)  r = ReduceMean <keepdims = 0> (e)  a = Add(x, r)"
    model = parse(text.replace("{ n", f"{{ {found}  n"))
    replaced(model, "m", lambda array: array.fill(127.5))
    replaced(model, "var", lambda array: array.fill(64.0**2))
    own = analyse(model).graph
    assert np.abs(together(synthetic(own, PICTURE, 0), "x")).max() < 10


def test_without_a_normalisation_that_remembers_inputs_are_standard() -> None:
    """One whose means are computed remembers nothing."""
    text = NORMALISED.replace("{ n", "{ r = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x)  p = Add(r, m)  n")
    model = parse(text.replace("n = BatchNormalization(x, scale, b, m,", "n = BatchNormalization(x, scale, b, p,"))
    replaced(model, "m", lambda array: array.fill(127.5))
    own = analyse(model).graph
    assert same(synthetic(own, PICTURE, 0), module._feeds(own, PICTURE, 0, LEVELS[0], MOST))


@pytest.mark.parametrize(("macs", "rows"), [(1, MOST), (int(WORK / 500), 500), (int(WORK), LEAST)])
def test_there_are_fewer_rows_for_a_model_that_takes_long(macs: int, rows: int) -> None:
    assert len(together(synthetic(graph(NORMALISED), PICTURE, 0, macs), "x")) == rows
