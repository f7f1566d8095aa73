"""What a model is run on: the user's data, checked; seeded inputs of real shapes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.algebra.graph import Graph
from onnxprune.data import inputs
from onnxprune.errors import FileError, RefusedError, UsageError
from onnxprune.model.record import Record
from tests.laws import parse
from tests.material import snapshot, tiny, within

Array = NDArray[Any]


def graph(text: str) -> Graph:
    return Graph(Record(parse(text)))


def of(**inputs_: str) -> Graph:
    """A model that passes its inputs through; ``a="float[n, 2]"`` is one of them."""
    given = ", ".join(f"{kind} {name}" for name, kind in inputs_.items())
    passed = ", ".join(f"{kind} {name}_out" for name, kind in inputs_.items())
    body = " ".join(f"{name}_out = Identity({name})" for name in inputs_)
    return graph(f"m ({given}) => ({passed}) {{ {body} }}")


@pytest.fixture
def mlp_graph() -> Graph:
    return Graph(Record(tiny()))


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


# ---- shapes as text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("x:1x3x224x224", "x", (1, 3, 224, 224)),
        ("x:7", "x", (7,)),
        ("x:1X8", "x", (1, 8)),
        ("serving_default:0:1x8", "serving_default:0", (1, 8)),
        ("a b:2x2", "a b", (2, 2)),
    ],
)
def test_a_shape_is_read(text: str, name: str, shape: tuple[int, ...]) -> None:
    assert inputs.parse_shape(text) == (name, shape)


@pytest.mark.parametrize(
    "text",
    ["", "x", "x:", ":1x8", "x:1xa", "x:0x8", "x:-1x8", "x:1 x8", "x:1x", "x:1.5", "x:\u0661x8", "x:" + "9" * 5000],
)
def test_a_malformed_shape_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(UsageError, match="NAME:1x3x224x224"):
        inputs.parse_shape(text)


# ---- the user's data ---------------------------------------------------------------------------------------------


def test_data_is_read_from_files_folders_and_memory(tmp_path: Path, mlp_graph: Graph) -> None:
    np.savez(tmp_path / "a.npz", x=ones(3, 8))
    np.save(tmp_path / "b.npy", 2 * ones(2, 8))
    (tmp_path / "notes.txt").write_text("not data")
    (tmp_path / "link.npz").symlink_to("a.npz")
    sources: list[tuple[inputs.Data, list[int]]] = [
        (tmp_path / "a.npz", [3]),
        (str(tmp_path / "b.npy"), [2]),
        (tmp_path, [3, 2, 3]),
        ({"x": ones(5, 8)}, [5]),
        ([{"x": ones(1, 8)}, {"x": ones(2, 8)}], [1, 2]),
        ({"x": ones(150, 8)}, [64, 64, 22]),
    ]
    for source, rows in sources:
        feeds = inputs.load_data(mlp_graph, source)
        assert [len(feed["x"]) for feed in feeds] == rows


def test_a_single_array_needs_no_name(tmp_path: Path, mlp_graph: Graph) -> None:
    np.savez(tmp_path / "a.npz", images=ones(3, 8))
    assert list(inputs.load_data(mlp_graph, tmp_path / "a.npz")[0]) == ["x"]


def test_arrays_that_the_model_does_not_want_are_left_out(mlp_graph: Graph) -> None:
    (feed,) = inputs.load_data(mlp_graph, {"x": ones(3, 8), "labels": np.arange(3)})
    assert list(feed) == ["x"]


def test_rows_are_split_into_the_batches_that_a_model_is_fixed_to() -> None:
    fixed = of(a="float[4, 2]", b="float[4]")
    rows = np.arange(12, dtype=np.float32)
    feeds = inputs.load_data(fixed, {"a": np.stack([rows, rows], 1), "b": rows})
    assert [feed["b"].tolist() for feed in feeds] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(UsageError, match=r"'a' is of shape \[10, 2\]"):
        inputs.load_data(fixed, {"a": ones(10, 2), "b": ones(10)})


def test_text_is_handed_over_as_text(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.array(["a", "bc"]))
    (feed,) = inputs.load_data(of(words="string[n]"), tmp_path / "words.npy")
    assert feed["words"].dtype == object
    assert feed["words"].tolist() == ["a", "bc"]


def test_inputs_without_a_shape_take_any() -> None:
    feeds = inputs.load_data(
        graph("m (float[a, b] x, float s) => (float[a, b] y) { y = Mul(x, s) }"), {"x": ones(2, 3), "s": ones()}
    )
    assert [{name: array.shape for name, array in feed.items()} for feed in feeds] == [{"x": (2, 3), "s": ()}]


WRONG: dict[str, tuple[Mapping[str, object], str]] = {
    "another name": ({"q": ones(4, 8), "z": ones(4, 8)}, "has no input 'x'; it has q, z"),
    "nothing": ({}, "has no input 'x'; it has nothing"),
    "another type": ({"x": np.ones((4, 8))}, "'x' is float64, the model wants float32"),
    "another byte order": ({"x": np.ones((4, 8), ">f4")}, "'x' is >f4"),
    "text": ({"x": np.array([["a"] * 8])}, "'x' is <U1"),
    "records": ({"x": np.zeros((4, 8), [("a", "f4")])}, "the model wants float32"),
    "another rank": ({"x": ones(4, 8, 1)}, "is of shape [4, 8, 1], the model wants ['batch', 8]"),
    "no rank": ({"x": np.float32(3)}, "is of shape []"),
    "another size": ({"x": ones(4, 9)}, "is of shape [4, 9]"),
    "no rows": ({"x": ones(0, 8)}, "'x' is empty"),
}


@pytest.mark.parametrize(("arrays", "words"), WRONG.values(), ids=WRONG)
def test_data_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, mlp_graph: Graph, arrays: Mapping[str, Any], words: str
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(UsageError) as refusal:
        inputs.load_data(mlp_graph, path)
    assert words in str(refusal.value)
    assert repr(str(path)) in str(refusal.value)
    with pytest.raises(UsageError):
        inputs.load_data(mlp_graph, dict(arrays))


def _archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=ones(4, 8))
    return buffer.getvalue()


def _flipped() -> bytes:
    data = bytearray(_archive())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def _header(shape: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45, 8)})
    return buffer.getvalue().replace(str(1 << 45).encode(), shape.ljust(14).encode())


def _pickled(name: str) -> bytes:
    buffer = io.BytesIO()
    array = np.array([{"a": 1}], dtype=object)
    if name.endswith("z"):
        np.savez(buffer, x=array)
    else:
        np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


OLD_NUMPY = [int(part) for part in np.__version__.split(".")[:2]] < [2, 3]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.npz", b""),
        ("d.npy", b""),
        ("d.npz", b"garbage"),
        ("d.npz", b"PK\x03\x04garbage"),
        ("d.npz", _archive()[:-30]),
        ("d.npz", _flipped()),
        ("d.npy", _header(str(1 << 45))),
        pytest.param(
            "d.npy", _header("-1"), marks=pytest.mark.skipif(OLD_NUMPY, reason="this numpy reads it as empty")
        ),
        ("d.npy", _pickled("d.npy")),
        ("d.npz", _pickled("d.npz")),
    ],
)
def test_a_file_that_holds_no_plain_arrays_is_refused(tmp_path: Path, mlp_graph: Graph, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with within(5), pytest.raises(UsageError, match=r"no \.npy or \.npz of plain arrays"):
        inputs.load_data(mlp_graph, tmp_path / name)


def test_a_missing_path_and_an_empty_folder_are_told_apart(tmp_path: Path, mlp_graph: Graph) -> None:
    with pytest.raises(FileError, match="No such file"):
        inputs.load_data(mlp_graph, tmp_path / "nope.npz")
    with pytest.raises(UsageError, match="There is no data"):
        inputs.load_data(mlp_graph, tmp_path)
    with pytest.raises(UsageError, match="There is no data"):
        inputs.load_data(mlp_graph, [])


@pytest.mark.parametrize("inside", [False, True])
def test_a_pipe_is_no_data(tmp_path: Path, mlp_graph: Graph, inside: bool) -> None:
    os.mkfifo(tmp_path / "d.npy")
    with within(5), pytest.raises(FileError, match="not a regular file"):
        inputs.load_data(mlp_graph, tmp_path if inside else tmp_path / "d.npy")
    assert snapshot(tmp_path) == {"d.npy": "special"}


# ---- labels ------------------------------------------------------------------------------------------------------


def test_labels_are_read_from_a_file_or_from_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.array([1, 0, 2]))
    np.savez(tmp_path / "l.npz", labels=np.array([1, 0, 2], np.uint8))
    for source in (tmp_path / "l.npy", str(tmp_path / "l.npz"), np.array([1, 0, 2])):
        assert inputs.read_labels(source, 3).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    "labels",
    [np.arange(4), np.arange(2), np.arange(0), np.ones(3), np.ones((3, 1), int), np.ones(3, bool), np.array(3)],
)
def test_labels_of_another_length_or_type_are_refused(labels: Array) -> None:
    with pytest.raises(UsageError, match="Labels must be 3 whole numbers"):
        inputs.read_labels(labels, 3)


@pytest.mark.parametrize("count", [0, 2])
def test_labels_are_one_array(tmp_path: Path, count: int) -> None:
    np.savez(tmp_path / "l.npz", **{f"a{i}": np.arange(3) for i in range(count)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"must be one array; it has {count}"):
        inputs.read_labels(tmp_path / "l.npz", 3)


# ---- open shapes -------------------------------------------------------------------------------------------------

OPEN = {"image": "float[batch, 3, h, w]", "extra": "float[batch, 4]"}


def runs_at(size: int) -> Callable[[inputs.Feed], list[Any] | None]:
    """A model that runs on images of one size only."""
    return lambda feed: [feed["image"]] if feed["image"].shape[2:] == (size, size) else None


def test_open_sizes_come_from_what_is_given_then_from_data_then_from_trying() -> None:
    model, given = of(**OPEN), {"image": (2, 3, 5, 6), "extra": (2, 4)}
    feeds = [{"image": ones(7, 3, 9, 9), "extra": ones(7, 4)}]
    assert inputs.bind(model, given, [], runs_at(1)) == given
    assert inputs.bind(model, {}, feeds, runs_at(1)) == {"image": (1, 3, 9, 9), "extra": (1, 4)}
    assert inputs.bind(model, {}, [], runs_at(224)) == {"image": (1, 3, 224, 224), "extra": (1, 4)}
    assert inputs.bind(model, {"image": (1, 3, 16, 16)}, [], runs_at(16))["image"] == (1, 3, 16, 16)


def test_a_model_that_runs_at_no_likely_size_needs_to_be_told() -> None:
    with pytest.raises(UsageError, match="--input-shape") as refusal:
        inputs.bind(of(**OPEN), {}, [], lambda feed: None)
    assert "'image'" in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"imag": (1, 3, 8, 8)}, "No input is called 'imag'. Did you mean 'image'?"),
        ({"image": (1, 3, 8)}, "does not fit"),
        ({"image": (1, 4, 8, 8)}, "does not fit"),
        ({"image": (0, 3, 8, 8)}, "sizes are positive"),
        ({"image": (1, 3, 1 << 20, 1 << 20)}, "not that large"),
    ],
)
def test_a_given_shape_that_does_not_fit_is_refused(given: Mapping[str, Sequence[int]], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        inputs.bind(of(**OPEN), given, [], lambda feed: [])
    assert words in str(refusal.value)


def test_a_model_that_wants_no_tensor_is_refused() -> None:
    model = graph("m (seq(float[n]) s, int64 i) => (float[n] y) { y = SequenceAt(s, i) }")
    with pytest.raises(RefusedError, match="Input 's' is no tensor"):
        inputs.check_tensors(model)


# ---- seeded inputs -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_feed() -> None:
    model = of(a="float[2, 3]", b="int64[4]")
    for seed in range(4):
        first, again = (inputs.synthesise(model, {}, seed) for _ in range(2))
        other = inputs.synthesise(model, {}, seed + 1)
        assert first["a"].tobytes() == again["a"].tobytes() != other["a"].tobytes()


def test_values_are_of_the_inputs_type_and_shape() -> None:
    kinds = {"float": "float32", "float16": "float16", "double": "float64", "bfloat16": "bfloat16", "int32": "int32"}
    kinds |= {"uint8": "uint8", "int8": "int8", "bool": "bool", "string": "object"}
    names = {kind: f"v{i}" for i, kind in enumerate(kinds)}
    model = of(**{name: f"{kind}[n, 3]" for kind, name in names.items()})
    feed = inputs.synthesise(model, dict.fromkeys(names.values(), (2, 3)), 0)
    assert {str(feed[name].dtype) for name in names.values()} == set(kinds.values())
    assert {feed[name].shape for name in names.values()} == {(2, 3)}


def test_whole_numbers_stay_within_the_table_that_they_index() -> None:
    text = """
    m (int64[n] ids) => (float[n, 4] y) <float[30522, 4] large, float[7, 4] small>
    { wide = Cast<to = 7>(ids) a = Gather(large, wide) b = Gather(small, ids) y = Add(a, b) }
    """
    ids = inputs.synthesise(graph(text), {"ids": (1000,)}, 0)["ids"]
    assert (ids.min(), ids.max()) == (0, 6)


def test_seeded_feeds_differ_in_scale_and_the_last_has_three_rows(mlp_graph: Graph) -> None:
    feeds = inputs.seeded(mlp_graph, {}, 0, lambda feed: [feed["x"]])
    assert [feed["x"].shape for feed in feeds] == [*[(1, 8)] * (len(inputs.STYLES) - 1), (3, 8)]
    largest = [np.abs(feed["x"]).max() for feed in feeds]
    assert max(largest) > 10 > min(largest)
    assert any((feed["x"] < 0).any() for feed in feeds)
    assert any((feed["x"] > 0).all() for feed in feeds)


def test_a_model_that_takes_one_row_only_gets_one(mlp_graph: Graph) -> None:
    feeds = inputs.seeded(mlp_graph, {}, 0, lambda feed: [feed["x"]] if len(feed["x"]) == 1 else None)
    assert [feed["x"].shape for feed in feeds] == [(1, 8)] * len(inputs.STYLES)


def test_feeds_that_give_nan_are_passed_over_while_others_do_not(mlp_graph: Graph) -> None:
    def logarithm(feed: inputs.Feed) -> list[Any]:
        with np.errstate(invalid="ignore"):
            return [np.log(feed["x"])]

    feeds = inputs.seeded(mlp_graph, {}, 0, logarithm)
    assert len(feeds) >= 3
    assert all((feed["x"] > 0).all() for feed in feeds)


@pytest.mark.parametrize(("doubtful", "count"), [(True, 1), (False, 0)])
def test_a_feed_that_gives_nan_is_the_last_resort(mlp_graph: Graph, doubtful: bool, count: int) -> None:
    def never(feed: inputs.Feed) -> list[Any]:
        return [feed["x"] * np.float32("nan")]

    assert len(inputs.seeded(mlp_graph, {}, 0, never, doubtful=doubtful)) == count
    assert inputs.seeded(mlp_graph, {}, 0, lambda feed: None) == []


# ---- sizes that depend on one another ----------------------------------------------------------------------------


def test_sizes_that_must_add_up_are_found() -> None:
    """What is remembered and what is new make up what is masked."""
    model = of(x="float[b, s, 4]", past="float[b, p, 4]", mask="float[b, t]")

    def runs(feed: inputs.Feed) -> list[Any] | None:
        sums = feed["mask"].shape[1] == feed["past"].shape[1] + feed["x"].shape[1]
        return [feed["x"]] if sums and len({len(array) for array in feed.values()}) == 1 else None

    shapes = inputs.bind(model, {}, [], runs)
    assert {shape[0] for shape in shapes.values()} == {1}
    assert shapes["mask"][1] == shapes["past"][1] + shapes["x"][1]
    given = {"x": (1, 1, 4)}
    assert inputs.bind(model, given, [], runs)["x"] == (1, 1, 4)


def test_a_size_that_an_exporter_wrote_down_is_found() -> None:
    model = graph(
        """m (float[b, s, 4] x) => (float[b, s, 4] y) <int64[3] example = {-1, 83, 4}> { y = Reshape(x, example) }"""
    )
    shapes = inputs.bind(model, {}, [], lambda feed: [feed["x"]] if feed["x"].shape[1] % 83 == 0 else None)
    assert shapes == {"x": (1, 83, 4)}


def test_a_batch_that_another_input_counts_within_is_one_there_too() -> None:
    model = of(x="float[b, 4]", mix="float[3, b]")

    def fits(feed: inputs.Feed) -> list[Any] | None:
        return [feed["x"]] if feed["mix"].shape[1] == len(feed["x"]) else None

    shapes = inputs.bind(model, {}, [], fits)
    assert shapes == {"x": (1, 4), "mix": (3, 1)}
    feeds = inputs.seeded(model, shapes, 0, fits)
    assert len(feeds) == len(inputs.STYLES)
    assert all(feed["mix"].shape[1] == len(feed["x"]) for feed in feeds)


@pytest.mark.parametrize("table", ["x", "h"])
def test_whole_numbers_stay_within_a_table_whose_rows_are_open(table: str) -> None:
    text = f"m (float[rows, 4] x, int64[n] ids) => (float[n, 4] y) {{ h = Relu(x)  y = Gather({table}, ids) }}"
    for rows in (1, 5, 40):
        feed = inputs.synthesise(graph(text), {"x": (rows, 4), "ids": (1000,)}, 0)
        assert feed["x"].shape == (rows, 4)
        assert (feed["ids"].min(), feed["ids"].max()) == (0, rows - 1)
