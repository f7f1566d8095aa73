"""Writing a model so that nothing is ever lost: into a directory beside the target, synced, moved into place last.

The weights stream through: an array is made, written and forgotten before the next one is made.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.errors import FileError, RefusedError, UsageError
from onnxprune.model import files, wire
from onnxprune.model.record import LARGEST_FILE, Array, Record
from onnxprune.model.tensors import BITS, is_external, nbytes
from onnxprune.surgery.removal import Draft

UNSAFE = r"[^\w.-]"  # in the name of a data file, which the model's text repeats
LONGEST_STEM = 40
Chunk = bytes | memoryview


def check_target(record: Record, target: Path, *, in_place: bool = False) -> None:
    """Refuse a target that is the source or its data, is no regular file, or cannot be written.

    Raises:
        UsageError: it is the source, and ``in_place`` is not set, or it is the source's data.
        FileError: it cannot be written.
    """
    files.check_place(target)
    if record.path is not None and files.same_file(target, record.path) and not in_place:
        raise UsageError(f"The output {str(target)!r} is the input. Choose another, or pass --in-place.")
    if any(files.same_file(target, data) for data in record.data_files.values()):
        raise UsageError(f"The output {str(target)!r} holds the input's external data. Choose another.")


def write(draft: Draft, folder: Path, name: str) -> Path:
    """Write a draft as ``folder / name``, external data beside it.

    Raises:
        RefusedError: the model would exceed what one file may hold.
    """
    folder.mkdir(exist_ok=True)
    path = folder / name
    for tensor in draft.proto.graph.initializer:
        if tensor.name in draft.record.outside and _streamed(draft, tensor.name):
            tensor.data_location = onnx.TensorProto.EXTERNAL
    externals = [t for t in draft.proto.graph.initializer if is_external(t)]
    if externals:
        _write_external(draft, externals, folder, Path(name).stem)
    with path.open("wb") as file:
        for chunk in _chunks(draft):
            file.write(chunk)
        files.sync(file)
    return path


def copy(record: Record, folder: Path, name: str) -> Path:
    """Write a record as it came, byte for byte."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    with path.open("wb") as file:
        file.write(record.buffer)
        files.sync(file)
    for location, data in record.data_files.items():
        place = folder / location
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, place)
    return path


def publish(staged: Path, target: Path) -> None:
    """Move a staged model into place: what else lies in its directory first, the model last.

    Raises:
        FileError: a data file of this name exists already and differs.
    """
    folder = staged.parent
    for data in sorted(p for p in folder.rglob("*") if p.is_file() and p != staged):
        place = target.parent / data.relative_to(folder)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(data, place)
        elif _digest(place) != _digest(data):
            raise FileError(f"Cannot write {str(place)!r}: another file of that name is there. Move it away first.")
    os.replace(staged, target)
    files.sync_folder(target.parent)


def _chunks(draft: Draft) -> Iterator[Chunk]:
    """The model as bytes: structure first, then its initializers one by one."""
    shell = onnx.ModelProto()
    shell.CopyFrom(draft.proto)
    shell.ClearField("graph")
    graph = onnx.GraphProto()
    graph.CopyFrom(draft.proto.graph)
    del graph.initializer[:]
    structure = graph.SerializeToString(deterministic=True)
    initializers = [_initializer(draft, tensor) for tensor in draft.proto.graph.initializer]
    size = len(structure) + sum(len(head) + length for head, length, _ in initializers)
    if size > LARGEST_FILE:
        raise RefusedError("The model exceeds 2 GiB in one file; convert it to external data first.")
    yield shell.SerializeToString(deterministic=True)
    yield wire.tag(wire.GRAPH, size)
    yield structure
    for head, length, data in initializers:
        yield head
        if length:
            yield data()


def _initializer(draft: Draft, tensor: onnx.TensorProto) -> tuple[bytes, int, Callable[[], Chunk]]:
    """The head of an initializer field, the length of the data behind it, and the data."""
    body = tensor.SerializeToString(deterministic=True)
    if is_external(tensor) or not _streamed(draft, tensor.name):
        return wire.tag(wire.INITIALIZER, len(body)) + body, 0, lambda: b""
    length = nbytes(tensor)
    raw = wire.tag(wire.RAW_DATA, length)
    return wire.tag(wire.INITIALIZER, len(body) + len(raw) + length) + body + raw, length, lambda: _data(draft, tensor)


def _streamed(draft: Draft, name: str) -> bool:
    """Whether a tensor's data is not in the draft's structure: it was made anew, or it lies on disk."""
    return name in draft.arrays or (name in draft.record.initializers and draft.record.raw(name) is not None)


def _data(draft: Draft, tensor: onnx.TensorProto) -> Chunk:
    if tensor.name not in draft.arrays:
        return draft.record.raw(tensor.name) or b""
    return _bytes(draft.arrays[tensor.name](), tensor.data_type)


def _bytes(array: Array, data_type: int) -> Chunk:
    if BITS.get(data_type, 8) < 8:
        return numpy_helper.from_array(array).raw_data
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _write_external(draft: Draft, tensors: list[onnx.TensorProto], folder: Path, stem: str) -> None:
    """One data file, named by its content, for all tensors that were external."""
    digest = hashlib.sha256()
    staged = folder / "staged.data"
    offset = 0
    places = []
    with staged.open("wb") as file:
        for tensor in tensors:
            data = _data(draft, tensor)
            file.write(data)
            digest.update(data)
            places.append((tensor, offset, len(data)))
            offset += len(data)
        files.sync(file)
    name = f"{re.sub(UNSAFE, '_', stem)[:LONGEST_STEM]}-{digest.hexdigest()[:16]}.data"
    staged.rename(folder / name)
    for tensor, start, length in places:
        del tensor.external_data[:]
        for key, value in (("location", name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
