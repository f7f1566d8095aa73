"""The record: a model as it came, its structure parsed, its weights left where they lie.

`Record` never changes. Surgery works on a copy of the structure and on new arrays for the few weights it cuts;
everything else leaves as it came.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune import external, wire
from onnxprune.errors import FileError, RefusedError

Array = NDArray[Any]
Source = str | os.PathLike[str] | bytes | onnx.ModelProto

TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
KNOWN_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
BITS = {
    getattr(onnx.TensorProto, name): bits
    for bits, names in {
        2: ("INT2", "UINT2"),
        4: ("INT4", "UINT4", "FLOAT4E2M1"),
        8: ("FLOAT8E8M0",),
    }.items()
    for name in names
    if hasattr(onnx.TensorProto, name)
}


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
        self._maps: dict[Path, mmap.mmap] = {}
        try:
            weightless = wire.without_weights(self.buffer)
            self.proto = onnx.ModelProto.FromString(weightless.model)
        except Exception as error:
            raise RefusedError(f"{self.name!r} is not an ONNX model, or is truncated.") from error
        self._places = {index: (start, end) for index, start, end in weightless.places}
        if len(self._places) != len(weightless.places):
            raise RefusedError(f"{self.name!r}: an initializer stores its data twice.")
        self._index = {t.name: i for i, t in enumerate(self.proto.graph.initializer)}
        self._check()

    @cached_property
    def sha256(self) -> str:
        """The hash of the model file; external data is hashed with it, file by file."""
        digest = hashlib.sha256(self.buffer)
        for path in self.data_files:
            digest.update(hashlib.sha256(self._map(path)).digest())
        return digest.hexdigest()

    @property
    def data_files(self) -> list[Path]:
        """The external data files that the main graph's initializers refer to."""
        return sorted({self._external(t).path for t in self.proto.graph.initializer if is_external(t)})

    @property
    def nbytes(self) -> int:
        """Bytes on disk, external data included."""
        return len(self.buffer) + sum(path.stat().st_size for path in self.data_files)

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
            place = self._external(tensor)
            return memoryview(self._map(place.path))[place.start : place.end] if nbytes(tensor) else memoryview(b"")
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

    def _external(self, tensor: onnx.TensorProto) -> external.Place:
        return external.locate(tensor, self.path, nbytes(tensor))

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            self._maps[path] = _mmap(path)
        return self._maps[path]

    def _check(self) -> None:
        graph = self.proto.graph
        if not self.proto.HasField("graph"):
            raise RefusedError(f"{self.name!r} holds no graph; it is not an ONNX model.")
        domains = [o.domain for o in self.proto.opset_import]
        if len(set(domains)) != len(domains):
            raise RefusedError(f"{self.name!r} imports two opsets for one domain.")
        if len(self._index) != len(graph.initializer):
            raise RefusedError(f"{self.name!r} has two initializers of one name.")
        for index, tensor in enumerate(graph.initializer):
            self._check_tensor(index, tensor)
        try:
            onnx.checker.check_model(self._hollow())
        except Exception as error:
            reason = " ".join(str(error).split("==>")[0].split())
            raise RefusedError(f"{self.name!r} is not a valid ONNX model: {reason}") from error

    def _check_tensor(self, index: int, tensor: onnx.TensorProto) -> None:
        where = f"Initializer {tensor.name!r} of {self.name!r}"
        if tensor.data_type not in KNOWN_TYPES:
            raise RefusedError(f"{where} has no known data type ({tensor.data_type}).")
        if any(dim < 0 for dim in tensor.dims):
            raise RefusedError(f"{where} has a negative dimension: {list(tensor.dims)}.")
        if is_external(tensor):
            self._external(tensor)
        elif index in self._places:
            start, end = self._places[index]
            if end - start != nbytes(tensor) or any(getattr(tensor, f) for f in TYPED_FIELDS):
                raise RefusedError(f"{where}: its data does not fit its shape {list(tensor.dims)}.")

    def _hollow(self) -> onnx.ModelProto:
        """The structure with each weight that lies on disk replaced by an empty tensor, for the checker."""
        hollow = onnx.ModelProto()
        hollow.CopyFrom(self.proto)
        for index, tensor in enumerate(hollow.graph.initializer):
            if index in self._places or is_external(tensor):
                tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
        return hollow


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's bytes lie outside the model file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def nbytes(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor of this type and shape takes, packed types rounded up."""
    count = math.prod(tensor.dims)
    if tensor.data_type in BITS:
        return int(count * BITS[tensor.data_type] + 7) // 8
    return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _buffer(source: Source) -> bytes | mmap.mmap:
    if isinstance(source, onnx.ModelProto):
        return bytes(source.SerializeToString())
    return source if isinstance(source, bytes) else _mmap(Path(source))


def _mmap(path: Path) -> mmap.mmap:
    try:
        if path.is_dir():
            raise FileError(f"{str(path)!r} is a directory, not a file.")
        if path.exists() and not path.is_file():
            raise FileError(f"{str(path)!r} is not a regular file.")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise RefusedError(f"{str(path)!r} is empty.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"Cannot read {str(path)!r}: {reason}.") from error
