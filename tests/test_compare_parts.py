"""The parts of a comparison: layouts, decibels, what a weight differs by, which port and which layer is which."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxprune.algebra.graph import Graph
from onnxprune.comparing import layers, matching, signals, weights
from onnxprune.comparing.attributes import differences
from onnxprune.comparing.plain import plain
from onnxprune.comparing.signature import Port, match, parse_map
from onnxprune.comparing.stations import Line
from onnxprune.comparing.views import View, fitting
from onnxprune.errors import RefusedError, UsageError
from onnxprune.model.record import Record
from tests.laws import parse
from tests.pairs.exports import CHANNELS_FIRST, channels_first, channels_last, coded, folded, with_attribute

Array = NDArray[Any]
CEILING = signals.CEILING["float32"]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- layouts -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(2, 5), min_size=4, max_size=4))
def test_a_view_is_undone_by_its_back(order: list[int], shape: list[int]) -> None:
    array, view = noise(*shape), View(tuple(order))
    assert np.array_equal(view.to(array), array.transpose(order))
    assert np.array_equal(view.back(view.to(array), 4), array)


@pytest.mark.parametrize(
    ("first", "second", "axes"),
    [
        ((1, 3, 8, 8), (1, 3, 8, 8), (0, 1, 2, 3)),
        ((1, 3, 8, 8), (1, 8, 8, 3), (0, 2, 3, 1)),
        (("N", 8, 8, 3), ("batch", 3, 8, 8), (0, 3, 1, 2)),
        (("N", 3, "H", "W"), ("N", "H", "W", 3), (0, 2, 3, 1)),
        (("N", 3, 3, 3), ("N", 3, 3, 3), (0, 1, 2, 3)),
        ((28, 28), (1, 1, 28, 28), (None, None, 0, 1)),
        (("N", 10, 1, 1), ("N", 10), (0, 1)),
        ((2, 3, 4), (4, 2, 3), (2, 0, 1)),
    ],
)
def test_the_likeliest_view_comes_first(first: tuple[Any, ...], second: tuple[Any, ...], axes: tuple[Any, ...]) -> None:
    assert fitting(first, second)[0].axes == axes


@pytest.mark.parametrize(("first", "second"), [((1, 3, 8, 8), (1, 4, 8, 8)), ((2, 3), (2, 3, 4)), ((5,), (6,))])
def test_shapes_that_do_not_fit_have_no_view(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    assert not fitting(first, second)


def test_a_view_drops_and_adds_axes_of_one() -> None:
    view = fitting((4, 10, 1, 1), (4, 10))[0]
    array = noise(4, 10, 1, 1)
    assert np.array_equal(view.to(array), array[:, :, 0, 0])
    assert np.array_equal(view.back(view.to(array), 4), array)


# ---- decibels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_likeness_sees_through_a_layout(order: tuple[int, ...]) -> None:
    a, b = noise(3, 4, 5), noise(3, 4, 5).transpose(order)
    assert signals.likeness(a, b, CEILING) == signals.Likeness(signals.EXACT)
    assert signals.likeness(a, np.ascontiguousarray(b).reshape(-1, 10), CEILING) == signals.Likeness(signals.EXACT)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5])
def test_a_level_is_the_ratio_of_powers(size: float) -> None:
    a = np.random.default_rng(0).standard_normal(100_000)
    b = a + size * np.random.default_rng(1).standard_normal(a.size)
    assert signals.level(a, b) == pytest.approx(-20 * np.log10(size), abs=0.2)


@pytest.mark.parametrize("mask", [-1e4, -3e38])
@pytest.mark.parametrize("masked", [0.2, 0.6])
def test_a_mask_does_not_drown_the_rest(mask: float, masked: float) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((8, 32, 32))
    b = a + 0.1 * rng.standard_normal(a.shape)
    hidden = np.where(rng.random(a.shape) < masked, mask, 0.0)
    assert signals.level(a + hidden, b + hidden) == pytest.approx(signals.level(a, b), abs=0.5)
    assert signals.level(a + hidden, a) < 0


def test_values_in_another_order_are_told_from_other_values() -> None:
    a = noise(2, 6, 7)
    swapped = a[:, [0, 3, 2, 1, 4, 5]]
    found = signals.likeness(a, swapped, CEILING)
    assert found is not None
    assert found.moved
    assert found.level == signals.EXACT
    plain_one = signals.likeness(a, swapped, CEILING, in_place=True)
    assert plain_one is not None
    assert not plain_one.moved
    assert plain_one.level < 20
    other = signals.likeness(a, noise(2, 6, 7, seed=1), CEILING)
    assert other is not None
    assert not other.moved
    assert other.level < 5
    assert signals.likeness(a, noise(2, 6, 8), CEILING) is None


def test_moments_tell_tensors_apart_and_not_orders() -> None:
    a, relu = noise(1, 8, 9, 9), np.maximum(noise(1, 8, 9, 9), 0)
    own = signals.moments(a)
    same = signals.moments(a.transpose(0, 2, 3, 1)[:, ::-1] + np.float32(1e-4))
    far = signals.apart(own, [same, signals.moments(relu), signals.moments(3 * a)])
    assert far[0] < 0.01
    assert min(far[1:]) > 0.5


def test_constants_and_few_values_tell_nothing() -> None:
    assert not signals.tells(np.ones((4, 4), np.float32))
    assert not signals.tells(np.arange(100))
    assert not signals.tells(noise(4))
    assert signals.tells(noise(4, 4))
    assert not signals.tells(np.full((4, 4), np.nan, np.float32))


# ---- what a weight differs by --------------------------------------------------------------------------------------

SLACK = weights.allowed(CEILING)
W = noise(6, 12, seed=3).astype(np.float64)
SQUARE = noise(6, 6 * 9, seed=4).astype(np.float64)


def kernels(change: str) -> Array:
    k = SQUARE.reshape(6, 6, 3, 3)
    turned = {"transposed": k.swapaxes(0, 1), "kernel": k.swapaxes(2, 3), "flip": k[:, :, ::-1, ::-1]}
    return np.ascontiguousarray(turned[change]).reshape(6, -1)


@pytest.mark.parametrize(
    ("first", "second", "taps", "says"),
    [
        (W, W, (), ""),
        (W, W * (1 + 1e-7), (), ""),
        (W, W[[0, 1, 5, 3, 4, 2]], (), "output channels 2 and 5 are swapped"),
        (W, W[[1, 2, 0, 3, 4, 5]], (), "3 of 6 output channels lie in another order"),
        (W, W[:, [0, 2, 1, *range(3, 12)]], (), "input channels 1 and 2 are swapped"),
        (W, W[[0, 1, 5, 3, 4, 2]][:, ::-1], (), "output channels 2 and 5 are swapped; 12 of 12 input channels"),
        (SQUARE, kernels("transposed"), (3, 3), "the weight is transposed"),
        (SQUARE, kernels("kernel"), (3, 3), "the kernel is transposed"),
        (SQUARE, kernels("flip"), (3, 3), "the kernel is flipped"),
        (W, W * np.where(np.arange(6) == 4, 1.5, 1.0)[:, None], (), "1 of 6 channels (4) scaled, by 1.5 at most"),
        (W, -W, (), "scaled, some negated"),
        (W, W + np.eye(6, 12)[[0, 0, 2, 0, 0, 0]] * (np.arange(6) == 2)[:, None], (), "1 of 6 channels (2) differ"),
        (W, noise(6, 12, seed=9).astype(np.float64), (), "6 of 6 channels"),
        (W, W[:5], (), "shape differs"),
    ],
)
def test_a_difference_is_named(first: Array, second: Array, taps: tuple[int, ...], says: str) -> None:
    found = weights.difference(first, second, SLACK, taps)
    assert found == "" if not says else says in found


@pytest.mark.parametrize("size", [1e-3, 1e-4])
def test_one_per_mille_of_one_row_is_a_difference(size: float) -> None:
    second = W.copy()
    second[3] *= 1 + size
    assert "1 of 6 channels (3)" in weights.difference(W, second, SLACK)


def test_vectors_differ_by_entry() -> None:
    a = np.linspace(1, 2, 6)
    assert weights.vector_difference(a, a, SLACK) == ""
    assert weights.vector_difference(a, a[[0, 4, 2, 3, 1, 5]], SLACK) == "entries 1 and 4 are swapped"
    assert weights.vector_difference(a, a + 0.1 * (np.arange(6) == 2), SLACK).startswith("1 of 6 channels (2) differ")


# ---- ports ---------------------------------------------------------------------------------------------------------


def port(name: str, *shape: Any, dtype: Any = np.float32) -> Port:
    return Port(name, shape, np.dtype(dtype))


def names(first: list[Port], second: list[Port], **mapped: str) -> dict[str, str]:
    return {bound.first.name: bound.second.name for bound in match("input", first, second, mapped)}


def test_names_come_before_shapes_and_shapes_before_places() -> None:
    a, b, c = port("a", 1, 4), port("b", 1, 4), port("c", 1, 5)
    assert names([a, b], [b, a]) == {"a": "a", "b": "b"}
    assert names([a], [port("scope/a:0", 1, 4)]) == {"a": "scope/a:0"}
    assert names([a, c], [port("x", 1, 5), port("y", 1, 4)]) == {"a": "y", "c": "x"}
    assert names([a, b], [port("x", 1, 4), port("y", 1, 4)]) == {"a": "x", "b": "y"}
    assert names([a, b], [port("x", 1, 4), port("y", 1, 4)], a="y") == {"a": "y", "b": "x"}
    assert names([a, b], [port("y", 1, 4)], a="") == {"b": "y"}
    ids = port("a", 1, 4, dtype=np.int64)
    assert names([ids, b], [port("x", 1, 4, dtype=np.float16), port("y", 1, 4, dtype=np.int32)]) == {"a": "y", "b": "x"}


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([port("a", 1, 4)], [port("a", 1, 5)], "'a' (float32 [1, 4]) fits nothing"),
        ([port("a", 1, 4)], [port("a", 1, 4, dtype=np.int32)], "fits nothing"),
        ([port("a", 1, 4)], [], "no other input"),
        ([port("a", 1, 4)], [port("a", 1, 4), port("b", 1, 4)], "has input 'b'"),
    ],
)
def test_ports_without_a_counterpart_are_refused(first: list[Port], second: list[Port], says: str) -> None:
    with pytest.raises(RefusedError, match=r"same network.*--map") as caught:
        match("input", first, second, {})
    assert says in str(caught.value)


def test_a_mapping_must_fit() -> None:
    with pytest.raises(UsageError, match="do not fit"):
        match("input", [port("a", 4)], [port("b", 5)], {"a": "b"})
    with pytest.raises(UsageError, match="'c'"):
        match("input", [port("a", 4)], [port("b", 4)], {"a": "c"})
    assert parse_map(["a=b", "c="]) == {"a": "b", "c": ""}
    for wrong in (["a"], ["=b"], ["a=b", "a=c"], ["a=b", "c=b"]):
        with pytest.raises(UsageError):
            parse_map(wrong)


# ---- layers --------------------------------------------------------------------------------------------------------


def found(model: Any) -> list[layers.Layer]:
    return Line(plain(Graph(Record(model)))).layers


def test_a_layer_holds_what_follows_it() -> None:
    one, other = found(channels_first()), found(folded(channels_first()))
    assert [layer.op.node.name for layer in one] == ["first", "depth", "point", "hidden", "head"]
    for a, b in zip(one, other, strict=True):
        assert a.weight == pytest.approx(b.weight, rel=1e-5, abs=1e-6)
        assert a.bias == pytest.approx(b.bias, rel=1e-4, abs=1e-5)
    assert [[op.kind for op in layer.tail] for layer in one[:3]] == [["BatchNormalization"], [], ["BatchNormalization"]]


def test_weights_behind_codes_and_turns_are_read() -> None:
    first, second = found(channels_first()), found(channels_last())
    assert [layer.key for layer in first] == [layer.key for layer in second]
    for layer, same in zip(first[:3], second, strict=False):
        assert np.array_equal(layer.raw, same.raw)
    for layer, near in zip(first, found(coded(channels_first(), {})), strict=True):
        assert layer.raw == pytest.approx(near.raw, abs=0.01)
        assert not np.array_equal(layer.raw, near.raw)


def test_a_shared_matrix_is_a_layer_for_each_of_its_readers() -> None:
    model = parse("""net (float[N,4] x) => (float[N,4] y) <float[4,4] w> {
        [one] a = MatMul (x, w) r = Relu (a) [two] y = MatMul (r, w) }""")
    assert [layer.op.node.name for layer in found(model)] == ["one", "two"]


def test_layers_are_found_by_weights_whatever_their_order_and_scale() -> None:
    text = "net (float[N,16] x) => (float[N,16] y, float[N,16] z) <float[16,16] u, float[16,16] v> {{ {} }}"
    lines = ["[up] y = MatMul (x, u)", "[down] z = MatMul (x, v)"]
    first, second = parse(text.format(" ".join(lines))), parse(text.format(" ".join(reversed(lines))))
    pairs = matching.by_weights(found(first), found(second))
    assert [(a.op.node.name, b.op.node.name) for a, b in pairs] == [("up", "up"), ("down", "down")]
    rng = np.random.default_rng(0)
    for layer in (both := found(second)):
        layer.raw = layer.raw[rng.permutation(16)][:, rng.permutation(16)] * rng.uniform(0.5, 2, (16, 1))
    pairs = matching.by_weights(found(first), both)
    assert [(a.op.node.name, b.op.node.name) for a, b in pairs] == [("up", "up"), ("down", "down")]


def test_layers_with_other_weights_are_found_by_their_places() -> None:
    first, second = found(channels_first()), found(parse(CHANNELS_FIRST, seed=77))
    pairs = matching.by_weights(first, second)
    assert [(a.op.node.name, b.op.node.name) for a, b in pairs] == [
        (n, n) for n in ("first", "depth", "point", "hidden", "head")
    ]


# ---- attributes ----------------------------------------------------------------------------------------------------

CONV = "net (float[1,3,{size},{size}] x) => (float[1,4,h,w] y) <float[4,3,3,3] k> {{ y = Conv <{attributes}> (x, k) }}"


def conv(attributes: str, size: int = 8) -> Any:
    return Graph(Record(parse(CONV.format(size=size, attributes=attributes)))).ops[0]


@pytest.mark.parametrize(
    ("first", "second", "size", "says"),
    [
        ("pads=[1,1,1,1]", 'auto_pad="SAME_UPPER"', 8, ""),
        ("strides=[1,1]", "dilations=[1,1]", 8, ""),
        ("pads=[0,0,0,0]", 'auto_pad="VALID"', 8, ""),
        ("strides=[2,2], pads=[1,1,1,1]", 'strides=[2,2], auto_pad="SAME_UPPER"', 8, "[1, 1, 1, 1] and [0, 0, 1, 1]"),
        ("strides=[2,2], pads=[1,1,1,1]", 'strides=[2,2], auto_pad="SAME_UPPER"', 9, ""),
        ("strides=[2,2], pads=[1,1,0,0]", 'strides=[2,2], auto_pad="SAME_LOWER"', 8, ""),
        ("strides=[2,2]", "strides=[1,2]", 8, "strides differs: [2, 2] and [1, 2]"),
        ("dilations=[2,2]", "", 8, "dilations differs: [2, 2] and default"),
    ],
)
def test_attributes_are_compared_by_what_they_mean(first: str, second: str, size: int, says: str) -> None:
    what = "; ".join(differences(conv(first, size), conv(second or "strides=[1,1]", size)))
    assert what == "" if not says else says in what


def test_a_default_is_a_value() -> None:
    model = channels_first()
    explicit = with_attribute(model, "norm3", "epsilon", 1e-5)
    ops = [next(op for op in Graph(Record(m)).ops if op.node.name == "norm3") for m in (model, explicit)]
    assert list(differences(*ops)) == []
