"""Writing a model so that nothing is ever lost: into a directory beside the target, synced, moved into place last.

The weights stream through: an array is made, written and forgotten before the next one is made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune import wire
from onnxprune.errors import FileError, RefusedError, UsageError
from onnxprune.record import BITS, Array, Record, is_external, nbytes
from onnxprune.surgery import Draft

LARGEST_FILE = (1 << 31) - 1  # what a protobuf message may hold
Chunk = bytes | memoryview


def check_target(record: Record, target: Path, *, in_place: bool = False) -> None:
    """Refuse a target that is the source, a directory, or cannot be written.

    Raises:
        UsageError: it is the source, and ``in_place`` is not set.
        FileError: it cannot be written.
    """
    if record.path is not None and target.exists() and target.samefile(record.path) and not in_place:
        raise UsageError(f"The output {str(target)!r} is the input. Choose another, or pass --in-place.")
    if target.is_dir():
        raise FileError(f"Cannot write {str(target)!r}: it is a directory.")
    if not target.parent.is_dir():
        raise FileError(f"Cannot write {str(target)!r}: {str(target.parent)!r} is not a directory.")
    if not os.access(target.parent, os.W_OK):
        raise FileError(f"Cannot write {str(target)!r}: no permission.")


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A directory beside the target, gone at the end whatever happens.

    Raises:
        FileError: the disk is full, or may not be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:64]}-", dir=target.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise FileError(f"Cannot write {str(target)!r}: {error.strerror or error}.") from error


def write(draft: Draft, folder: Path, name: str) -> Path:
    """Write a draft as ``folder / name``, external data beside it.

    Raises:
        RefusedError: the model would exceed what one file may hold.
    """
    path = folder / name
    externals = [t for t in draft.proto.graph.initializer if is_external(t)]
    if externals:
        _write_external(draft, externals, folder, Path(name).stem)
    with path.open("wb") as file:
        for chunk in _chunks(draft):
            file.write(chunk)
        _sync(file)
    return path


def copy(record: Record, folder: Path, name: str) -> Path:
    """Write a record as it came, byte for byte."""
    path = folder / name
    with path.open("wb") as file:
        file.write(record.buffer)
        _sync(file)
    for data in record.data_files:
        place = folder / _relative(record, data)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, place)
    return path


def publish(staged: Path, target: Path) -> None:
    """Move a staged model into place: its data first, the model last.

    Raises:
        FileError: a data file of this name exists already and differs.
    """
    folder = staged.parent
    for data in sorted(p for p in folder.rglob("*") if p.is_file() and p != staged):
        place = target.parent / data.relative_to(folder)
        if place.exists() and _digest(place) != _digest(data):
            raise FileError(f"Cannot write {str(place)!r}: another file of that name is there.")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(data, place)
    os.replace(staged, target)
    _sync_folder(target.parent)


def write_bytes(target: Path, data: bytes) -> None:
    """Write a small file atomically."""
    with workspace(target) as folder:
        staged = folder / "staged"
        with staged.open("wb") as file:
            file.write(data)
            _sync(file)
        os.replace(staged, target)


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
    if is_external(tensor) or not _on_disk(draft, tensor.name):
        return wire.tag(wire.INITIALIZER, len(body)) + body, 0, lambda: b""
    length = nbytes(tensor)
    raw = wire.tag(wire.RAW_DATA, length)
    return wire.tag(wire.INITIALIZER, len(body) + len(raw) + length) + body + raw, length, lambda: _data(draft, tensor)


def _on_disk(draft: Draft, name: str) -> bool:
    return name in draft.record.initializers and draft.record.raw(name) is not None


def _data(draft: Draft, tensor: onnx.TensorProto) -> Chunk:
    if tensor.name not in draft.arrays:
        return draft.record.raw(tensor.name) or b""
    return _bytes(draft.arrays[tensor.name](), tensor.data_type)


def _bytes(array: Array, data_type: int) -> Chunk:
    if BITS.get(data_type, 8) < 8:
        return numpy_helper.from_array(array).raw_data
    return np.ascontiguousarray(array).tobytes()


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
        _sync(file)
    name = f"{stem}-{digest.hexdigest()[:16]}.data"
    staged.rename(folder / name)
    for tensor, start, length in places:
        del tensor.external_data[:]
        for key, value in (("location", name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))


def _relative(record: Record, data: Path) -> Path:
    homes = [] if record.path is None else [record.path.parent.resolve(), record.path.resolve().parent]
    return next((data.relative_to(home) for home in homes if data.is_relative_to(home)), Path(data.name))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
