"""The record: a model as it came, its structure parsed, its weights left where they lie.

`Record` never changes. Surgery works on a copy of the structure and on new arrays for the few weights it cuts;
everything else leaves as it came.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from onnxprune.errors import FileError, RefusedError
from onnxprune.model import external, files, soundness, wire
from onnxprune.model.tensors import BITS, is_external
from onnxprune.model.tensors import nbytes as nbytes

Array = NDArray[Any]
Source = str | os.PathLike[str] | bytes | onnx.ModelProto

LARGEST_FILE = (1 << 31) - 1  # what a protobuf message may hold
POINTER = b"version https://git-lfs.github.com/spec/"


class Record:
    """A model: ``proto`` without its larger weights, and the weights by name.

    Args:
        source: a path, the bytes of a model, or a ``ModelProto``.

    Raises:
        FileError: the file cannot be read.
        RefusedError: it is not a valid ONNX model.
    """

    def __init__(self, source: Source) -> None:
        self.path = Path(source) if isinstance(source, str | os.PathLike) else None
        self.name = str(self.path) if self.path else "model"
        self.buffer = memoryview(_buffer(source))
        self._maps: dict[Path, memoryview] = {}
        _check_container(self.buffer, self.name)
        try:
            weightless = wire.without_weights(self.buffer)
            self.proto = onnx.ModelProto.FromString(weightless.model)
        except Exception as error:
            raise RefusedError(
                f"{self.name!r} is not an ONNX model, or is truncated. Export or download it again."
            ) from error
        self._places = {index: (start, end) for index, start, end in weightless.places}
        if len(self._places) != len(weightless.places):
            raise RefusedError(f"{self.name!r}: an initializer stores its data twice. Export the model again.")
        soundness.check(self.proto, self.name, {index: end - start for index, (start, end) in self._places.items()})
        self._index = {t.name: i for i, t in enumerate(self.proto.graph.initializer)}
        self._externals = {
            t.name: external.locate(t, self.path, nbytes(t)) for t in self.proto.graph.initializer if is_external(t)
        }

    @cached_property
    def structure(self) -> onnx.ModelProto:
        """``proto`` with its local functions written out where they are called; ``proto`` itself if it has none."""
        return _written_out(self.proto) if self.proto.functions else self.proto

    @cached_property
    def sha256(self) -> str:
        """The hash of the model file; external data is hashed with it, file by file."""
        digest = hashlib.sha256(self.buffer)
        for path in self.data_files.values():
            digest.update(hashlib.sha256(self._map(path)).digest())
        return digest.hexdigest()

    @cached_property
    def data_files(self) -> dict[str, Path]:
        """The external data files that the main graph's initializers refer to, by their place beside the model."""
        return dict(sorted((place.location, place.path) for place in self._externals.values()))

    @cached_property
    def outside(self) -> frozenset[str]:
        """The main graph's initializers whose data lie in other files, here or in the model that this was made from."""
        return frozenset(self._externals)

    @property
    def nbytes(self) -> int:
        """Bytes on disk, external data included."""
        return len(self.buffer) + sum(path.stat().st_size for path in set(self.data_files.values()))

    @cached_property
    def initializers(self) -> frozenset[str]:
        """The names of the main graph's initializers."""
        return frozenset(self._index)

    def position(self, name: str) -> int:
        """An initializer's place among the main graph's initializers."""
        return self._index[name]

    def raw(self, name: str) -> memoryview | None:
        """The bytes of an initializer as they lie on disk, or ``None`` if it is small and inside ``proto``."""
        index = self._index[name]
        tensor = self.proto.graph.initializer[index]
        if index in self._places:
            start, end = self._places[index]
            return self.buffer[start:end]
        if is_external(tensor):
            place = self._externals[name]
            return self._map(place.path)[place.start : place.end]
        return None

    def array(self, name: str) -> Array:
        """An initializer's values: a read-only view of the file where its type allows it."""
        tensor = self.proto.graph.initializer[self._index[name]]
        data = self.raw(name)
        if data is None:
            return numpy_helper.to_array(tensor)
        if tensor.data_type in BITS and BITS[tensor.data_type] < 8:
            whole = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(data))
            return numpy_helper.to_array(whole)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(tuple(tensor.dims))

    def whole(self) -> onnx.ModelProto:
        """The model with all its weights in it, however they were stored."""
        model = onnx.ModelProto()
        model.CopyFrom(self.structure)
        for tensor in model.graph.initializer:
            data = self.raw(tensor.name)
            if data is not None:
                whole = onnx.TensorProto(
                    name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(data)
                )
                tensor.CopyFrom(whole)
        return model

    def _map(self, path: Path) -> memoryview:
        if path not in self._maps:
            self._maps[path] = memoryview(_mmap(path))
        return self._maps[path]


def _written_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Local functions in place of their calls; the version that one imports of local functions says nothing of them."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    local = {function.domain for function in model.functions}
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for opset in (opset for function in model.functions for opset in function.opset_import):
        if opset.domain in local and opset.domain in versions:
            opset.version = versions[opset.domain]
    return inline_local_functions(model)


def _check_container(buffer: memoryview, name: str) -> None:
    if not buffer:
        raise RefusedError(f"{name!r} is empty. Export or download it again.")
    if bytes(buffer[: len(POINTER)]) == POINTER:
        raise RefusedError(f"{name!r} is a Git LFS pointer to a model. Run `git lfs pull` to get the model itself.")
    if len(buffer) > LARGEST_FILE:
        raise RefusedError(
            f"{name!r} exceeds 2 GiB, more than a runtime reads. Convert it to external data first:"
            " onnx.save(model, path, save_as_external_data=True)."
        )


def _buffer(source: Source) -> bytes | mmap.mmap:
    if isinstance(source, onnx.ModelProto):
        return bytes(source.SerializeToString())
    return source if isinstance(source, bytes) else _mmap(Path(source))


def _mmap(path: Path) -> bytes | mmap.mmap:
    files.check_readable(path)
    try:
        with path.open("rb") as file:
            empty = os.fstat(file.fileno()).st_size == 0
            return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read {str(path)!r}: {files.reason(error)}.") from error
