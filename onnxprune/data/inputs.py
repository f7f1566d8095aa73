"""What a model is run on: the user's data, checked, or seeded inputs of real shapes."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.graph import Graph
from onnxprune.errors import FileError, RefusedError, UsageError, unknown
from onnxprune.model import files
from onnxprune.model.record import Array

Feed = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]
Data = str | os.PathLike[str] | Mapping[str, Array] | Sequence[Mapping[str, Array]]

LARGEST_INPUT = 1 << 28  # elements of an input whose shape was given
LARGEST_GUESS = 1 << 24  # elements of inputs whose shapes are tried
BATCH = 64  # rows of the user's data per run, where the model leaves the batch size open
LIKELY = (64, 32, 224, 16, 128, 8, 256, 320, 512, 100, 1, 4, 1024, 4096, 16000)  # sizes to try for an open dimension
MOST_SIZES = 8  # elements of a number that may hold an example's sizes
MOST_GUESSES = 32
MOST_NAMES = 4  # of sizes that are tried in every combination
LARGEST_SIZE = 1 << 14
INT64 = onnx.TensorProto.INT64
MOST_LIKELY = 8
ATTEMPTS = 16  # at finding seeded inputs that a model gives finite outputs for
MOVES = {"Cast", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Transpose", "Identity", "Flatten", "Clip"}


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name:1x3x224x224``.

    Raises:
        UsageError: it is written otherwise.
    """
    name, colon, sizes = text.rpartition(":")
    parts = sizes.lower().split("x")
    if not colon or not name or not all(re.fullmatch("[0-9]{1,18}", part) and int(part) for part in parts):
        raise UsageError(f"An input shape is written NAME:1x3x224x224, not {text!r}.")
    return name, tuple(int(part) for part in parts)


def check_tensors(graph: Graph) -> None:
    """Refuse a model that wants something else than tensors.

    Raises:
        RefusedError: an input is a sequence, a map or an optional value.
    """
    odd = next((value.name for value in graph.inputs if not value.type.HasField("tensor_type")), None)
    if odd is not None:
        raise RefusedError(f"Input {odd!r} is no tensor, and no inputs of other types can be made here.")


def load_data(graph: Graph, source: Data) -> list[Feed]:
    """The user's data as feeds for this model.

    Args:
        graph: the model.
        source: an ``.npz`` or ``.npy`` file, a folder of them, arrays by input name, or a list of feeds.

    Raises:
        FileError: a file cannot be read.
        UsageError: an input is missing, empty, or of another type or shape than the model wants.
        RefusedError: the model wants something else than tensors.
    """
    check_tensors(graph)
    groups: Iterator[tuple[str, Mapping[str, Array]]]
    if isinstance(source, str | os.PathLike):
        groups = ((repr(str(path)), _read(graph, path)) for path in _files(Path(source)))
    else:
        groups = (("The data", group) for group in ([source] if isinstance(source, Mapping) else source))
    feeds = [feed for where, group in groups for feed in _batches(graph, group, where)]
    if not feeds:
        raise UsageError(f"There is no data in {str(source)!r}. Give .npz or .npy files.")
    return feeds


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` by name, or of an ``.npy`` under the name ``""``; pickled objects are refused.

    Raises:
        FileError: it cannot be read.
        UsageError: it is something else.
    """
    files.check_readable(path)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise FileError(f"Cannot read data {str(path)!r}: {files.reason(error)}.") from error
    except Exception as error:
        raise UsageError(f"{str(path)!r} is no .npy or .npz of plain arrays ({type(error).__name__}).") from error


def _read(graph: Graph, path: Path) -> dict[str, Array]:
    arrays = read_arrays(path)
    names = [value.name for value in graph.inputs]
    if len(arrays) == 1 and len(names) == 1 and not set(arrays) & set(names):
        return {names[0]: next(iter(arrays.values()))}
    return arrays


def _batches(graph: Graph, arrays: Mapping[str, Array], where: str) -> Iterator[Feed]:
    for value in graph.inputs:
        if value.name not in arrays:
            raise UsageError(f"{where} has no input {value.name!r}; it has {', '.join(sorted(arrays)) or 'nothing'}.")
    feed = {value.name: _text(value, np.asarray(arrays[value.name])) for value in graph.inputs}
    for value in graph.inputs:
        _check(graph, value, feed[value.name], where)
    size = _batch_size(graph, feed)
    if size is None:
        yield feed
        return
    rows = next(iter(feed.values())).shape[0]
    for start in range(0, rows - rows % size if rows >= size and _fixed_batch(graph) else rows, size):
        yield {name: array[start : start + size] for name, array in feed.items()}


def _fixed_batch(graph: Graph) -> bool:
    return any(isinstance(graph.shapes[v.name][0], int) for v in graph.inputs)


def _batch_size(graph: Graph, feed: Feed) -> int | None:
    """Rows per run, or ``None`` if the arrays are one feed as they are."""
    shapes = [graph.shapes.get(name, ()) for name in feed]
    rows = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    if len(rows) != 1 or not all(shapes):
        return None
    fixed = {shape[0] for shape in shapes if isinstance(shape[0], int)}
    if len(fixed) > 1 or rows == fixed:
        return None
    return fixed.pop() if fixed else BATCH


def _text(value: onnx.ValueInfoProto, array: Array) -> Array:
    """Text as ONNX Runtime takes it; an array on disk has no objects."""
    wanted = value.type.tensor_type.elem_type == onnx.TensorProto.STRING and array.dtype.kind == "U"
    return array.astype(object) if wanted else array


def _check(graph: Graph, value: onnx.ValueInfoProto, array: Array, where: str) -> None:
    wanted = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if array.dtype != wanted:
        raise UsageError(f"{where}: input {value.name!r} is {array.dtype}, the model wants {wanted}.")
    if array.size == 0:
        raise UsageError(f"{where}: input {value.name!r} is empty.")
    shape = graph.shapes.get(value.name)
    if shape is None:
        return
    fits = array.ndim == len(shape) and all(
        not isinstance(want, int) or have == want or (axis == 0 and have % want == 0)
        for axis, (have, want) in enumerate(zip(array.shape, shape, strict=False))
    )
    if not fits:
        raise UsageError(
            f"{where}: input {value.name!r} is of shape {list(array.shape)}, the model wants {list(shape)}."
        )


def read_labels(source: str | os.PathLike[str] | Array, rows: int) -> Array:
    """One whole number per row of the data.

    Raises:
        UsageError: there are more or fewer, or they are no whole numbers.
    """
    if isinstance(source, str | os.PathLike):
        arrays = read_arrays(Path(source))
        if len(arrays) != 1:
            raise UsageError(f"Labels in {str(source)!r} must be one array; it has {len(arrays)}.")
        labels = next(iter(arrays.values()))
    else:
        labels = np.asarray(source)
    if labels.dtype.kind not in "iu" or labels.shape != (rows,):
        raise UsageError(
            f"Labels must be {rows} whole numbers, one per row of data; got {labels.dtype} {labels.shape}."
        )
    return labels


def bind(
    graph: Graph, given: Mapping[str, Sequence[int]], feeds: Sequence[Feed], run: Callable[[Feed], list[Any] | None]
) -> Shapes:
    """A full shape, with a batch of one, for every input that leaves sizes open.

    Sizes come from ``given``, then from the data, then from the first likely ones that the model runs on.

    Raises:
        UsageError: a given shape does not fit, or no likely size runs.
    """
    open_inputs = [v for v in graph.inputs if not all(isinstance(d, int) for d in graph.shapes.get(v.name, ("?",)))]
    check_given(graph, given)
    if all(v.name in given for v in open_inputs):
        return {name: tuple(shape) for name, shape in given.items()}
    if feeds:
        return {name: _one_row(graph, name, array.shape) for name, array in feeds[0].items()}
    if all(v.name in graph.shapes for v in open_inputs):
        for sizes in _guesses(graph, open_inputs):
            shapes = {v.name: tuple(given.get(v.name) or _filled(graph, v.name, sizes)) for v in open_inputs}
            small = sum(map(math.prod, shapes.values())) <= LARGEST_GUESS
            if small and run(synthesise(graph, shapes, 0)) is not None:
                return shapes
    names = ", ".join(repr(v.name) for v in open_inputs)
    raise UsageError(
        f"The shape of {names} is open and no likely size runs. Give --input-shape NAME:1x3x224x224, or --data."
    )


def check_given(graph: Graph, given: Mapping[str, Sequence[int]]) -> None:
    """Refuse shapes that the model's inputs cannot have.

    Raises:
        UsageError: an input is unknown, or its declared shape is another one.
    """
    for name, shape in given.items():
        if name not in {value.name for value in graph.inputs}:
            raise unknown("input", name, (value.name for value in graph.inputs))
        if not all(isinstance(size, Integral) and size > 0 for size in shape) or math.prod(shape) > LARGEST_INPUT:
            raise UsageError(f"Input {name!r} cannot have shape {list(shape)}: sizes are positive, and not that large.")
        declared = graph.shapes.get(name)
        if declared is not None and (
            len(declared) != len(shape)
            or any(isinstance(d, int) and d != s for d, s in zip(declared, shape, strict=True))
        ):
            raise UsageError(f"Input {name!r} has shape {list(declared)}; {list(shape)} does not fit.")


def _one_row(graph: Graph, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    declared = graph.shapes.get(name, ())
    if declared and not isinstance(declared[0], int):
        return (1, *shape[1:])
    return tuple(shape)


def _filled(graph: Graph, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in graph.shapes[name])


def _guesses(graph: Graph, inputs: Sequence[onnx.ValueInfoProto]) -> Iterator[dict[str, int]]:
    """Sizes for all names, likely ones first; a batch, which is what some input's first axis counts, is of one.

    All others are of one size; or those that some input's last axis counts are, and the rest is one; or they add up,
    as what is remembered and what is new do.
    """
    shapes = [graph.shapes[value.name] for value in inputs]
    names = list(dict.fromkeys(dim for shape in shapes for dim in shape if isinstance(dim, str)))
    first = {shape[0] for value in graph.inputs if (shape := graph.shapes.get(value.name))}
    last = {shape[-1] for shape in shapes if shape}
    sizes = list(dict.fromkeys((*LIKELY, *_written(graph))))

    def alike(size: int) -> Iterator[dict[str, int]]:
        yield {name: 1 if name in first else size for name in names}
        yield {name: size if name in last else 1 for name in names}

    for size in sizes[:MOST_LIKELY]:
        yield from alike(size)
    others = [name for name in names if name not in first][:MOST_NAMES]
    for chosen in itertools.product((8, 1, 9, 16), repeat=len(others)):
        yield {**dict.fromkeys(names, 1), **dict(zip(others, chosen, strict=True))}
    for size in sizes[MOST_LIKELY:]:
        yield from alike(size)


def _written(graph: Graph) -> list[int]:
    """Sizes that stand in the model's small numbers: an exporter may have written its example's sizes there."""
    small = (n for n in graph.constants() if graph.elements(n) <= MOST_SIZES and graph.types.get(n) == INT64)
    sizes = sorted({size for name in small for size in np.asarray(graph.constant(name)).ravel().tolist()})
    return [size for size in sizes if 1 < size < LARGEST_SIZE][:MOST_GUESSES]


def _waves(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """What sound and pictures are made of: smooth along the last axis, a frequency and a phase per row."""
    if not shape:
        return np.asarray(255 * rng.random())
    rows = (*shape[:-1], 1)
    turns = 10 ** rng.uniform(-2.5, -1, rows) * np.arange(shape[-1]) + rng.random(rows)
    return np.asarray(np.sin(2 * np.pi * turns))


STYLES: tuple[Callable[[np.random.Generator, Sequence[int]], Array], ...] = (
    lambda rng, shape: rng.standard_normal(shape),  # what normalised inputs look like
    lambda rng, shape: rng.random(shape),  # intensities
    lambda rng, shape: 255 * rng.random(shape),  # bytes; hertz
    _waves,
)


def synthesise(graph: Graph, shapes: Mapping[str, Sequence[int]], seed: int, *, batch: int | None = None) -> Feed:
    """A seeded feed; whole numbers stay within the tables that they index.

    Args:
        graph: the model.
        shapes: the shape of each input that leaves sizes open.
        seed: of the values, and of their scale.
        batch: the size of the first axis where the model leaves it open.
    """
    rng = np.random.default_rng(seed)
    style = STYLES[seed % len(STYLES)]
    feed = {}
    for value in graph.inputs:
        declared = graph.shapes.get(value.name, ())
        shape = list(shapes.get(value.name, [d if isinstance(d, int) else 1 for d in declared]))
        if batch and declared and not isinstance(declared[0], int):
            shape[0] = batch
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if np.issubdtype(dtype, np.floating) or dtype.kind == "V":
            feed[value.name] = np.asarray(style(rng, shape)).astype(dtype)
        else:
            rows = _table_size(graph, value.name, shapes)
            feed[value.name] = _whole(rows, shape, dtype, rng)
    return feed


def _whole(rows: int, shape: Sequence[int], dtype: Any, rng: np.random.Generator) -> Array:
    if np.issubdtype(dtype, np.bool_):
        return np.asarray(rng.random(shape) < 0.5)
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if np.issubdtype(dtype, np.integer):
        return np.asarray(rng.integers(0, rows, shape)).astype(dtype)
    return np.full(shape, "a", dtype=object)


def _table_size(graph: Graph, name: str, shapes: Mapping[str, Sequence[int]]) -> int:
    """The rows of the smallest table that an input of whole numbers picks from; 2 if it picks from none."""
    bound = {d: size for value, shape in shapes.items() for d, size in zip(graph.shapes[value], shape, strict=False)}
    sizes, todo, seen = [], [name], {name}
    while todo:
        for op, slot in graph.consumers.get(todo.pop(), ()):
            shape = graph.shapes.get(op.ins[0], ())
            if op.kind in ("Gather", "GatherND") and slot == 1 and shape:
                size = shape[op.attr("axis", 0) if op.kind == "Gather" else 0]
                size = bound.get(size, size)
                sizes += [size] if isinstance(size, int) else []
            elif op.kind in MOVES or (op.kind == "Gather" and slot == 0):
                new = [y for y in op.outs if y and y not in seen]
                todo += new
                seen.update(new)
    return max(1, min(sizes, default=2))


def seeded(
    graph: Graph, shapes: Shapes, seed: int, run: Callable[[Feed], list[Any] | None], *, doubtful: bool = True
) -> list[Feed]:
    """Feeds that exercise a model: of several scales, the last of three rows if the model leaves the rows open.

    Args:
        graph: the model.
        shapes: the shape of each input that leaves sizes open.
        seed: of the first feed.
        run: the model; ``None`` where it fails. Feeds that make it give NaN are passed over while others do not.
        doubtful: whether one of those is better than none.
    """
    feeds: list[Feed] = []
    others: list[Feed] = []
    for attempt in range(ATTEMPTS):
        batch = 3 if len(feeds) == len(STYLES) - 1 else None
        feed = synthesise(graph, shapes, seed + attempt, batch=batch)
        outputs = run(feed)
        if outputs is None and batch:
            feed = synthesise(graph, shapes, seed + attempt)
            outputs = run(feed)
        if outputs is not None:
            (feeds if all(map(_finite, outputs)) else others).append(feed)
        if len(feeds) == len(STYLES):
            break
    return feeds or others[: int(doubtful)]


def _finite(output: Any) -> bool:
    return not isinstance(output, np.ndarray) or output.dtype.kind != "f" or bool(np.isfinite(output).all())
