"""External data: where the bytes of a tensor that lies outside the model file may be, and where not.

A location is trusted only if it names a regular file that lies, links resolved, in the directory of the model
(or in the directory that the model itself resolves to, as in a cache of links). Anything else would let a model
file read whatever the user can read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import onnx

from onnxprune.errors import FileError, RefusedError

KNOWN_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


FORBIDDEN = ("\0", "\\", "://", "_ORT_MEM_ADDR_")  # the last lets ONNX Runtime read any memory
LONGEST_NUMBER = 18  # digits


class Place(NamedTuple):
    """A run of bytes in a file that the model knows by a location relative to itself."""

    location: str
    path: Path
    start: int
    end: int


def locate(tensor: onnx.TensorProto, model: Path | None, nbytes: int) -> Place:
    """Where the ``nbytes`` bytes of an external tensor lie.

    Raises:
        RefusedError: the reference is malformed, leaves the model's directory, or is too short.
        FileError: the data file does not exist.
    """
    entries = _entries(tensor)
    if model is None:
        raise RefusedError(
            f"Tensor {tensor.name!r} has external data, but the model did not come from a file; pass its path."
        )
    path, size = _contained(tensor.name, entries["location"], model)
    start = _number(tensor.name, entries, "offset", 0)
    length = _number(tensor.name, entries, "length", nbytes)
    if length != nbytes:
        raise RefusedError(f"External data of {tensor.name!r}: its type and shape take {nbytes} bytes, not {length}.")
    if start + nbytes > size:
        raise RefusedError(
            f"External data of {tensor.name!r} is too short: {nbytes} bytes at {start} of {path.name!r} ({size} bytes)."
        )
    return Place(os.path.normpath(entries["location"]), path, start, start + nbytes)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    keys = [entry.key for entry in tensor.external_data]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(keys) != len(entries) or not set(entries) <= KNOWN_KEYS or not entries.get("location"):
        raise RefusedError(f"External data of {tensor.name!r} has missing, repeated or unknown keys: {keys}.")
    odd = next((value for value in entries.values() if not isinstance(value, str)), None)
    if odd is not None:
        raise RefusedError(f"External data of {tensor.name!r} has a value that is not UTF-8 text: {odd!r}.")
    return entries


def _number(name: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
        raise RefusedError(f"External data of {name!r}: {key} {text!r} is not a non-negative integer.")
    return int(text)


def _contained(name: str, location: str, model: Path) -> tuple[Path, int]:
    """The file at a location, links resolved, and its size."""
    where = f"External data of {name!r} at {location!r}"
    refused = RefusedError(f"{where} is not a regular file in the model's directory. Put it there, beside the model.")
    forbidden = any(part in location for part in FORBIDDEN) or os.path.isabs(location)
    if forbidden or ".." in Path(location).parts:
        raise refused
    path = Path(os.path.realpath(model.parent / location))
    homes = {Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent}
    if not any(path.is_relative_to(home) for home in homes) or path == Path(os.path.realpath(model)):
        raise refused
    try:
        found = path.stat()
    except OSError as error:
        raise FileError(f"{where} cannot be read: {error.strerror}. It belongs beside the model.") from error
    if not stat.S_ISREG(found.st_mode):
        raise refused
    return path, found.st_size
