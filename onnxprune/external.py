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


class Place(NamedTuple):
    """A run of bytes in a file."""

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
    path = _contained(tensor.name, entries["location"], model)
    size = path.stat().st_size
    start = _number(tensor.name, entries, "offset", 0)
    length = _number(tensor.name, entries, "length", nbytes)
    if length < nbytes or start + nbytes > size:
        raise RefusedError(
            f"External data of {tensor.name!r} is too short: {nbytes} bytes at {start} of {path.name!r} ({size} bytes)."
        )
    return Place(path, start, start + nbytes)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    keys = [entry.key for entry in tensor.external_data]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(keys) != len(entries) or not set(entries) <= KNOWN_KEYS or not entries.get("location"):
        raise RefusedError(f"External data of {tensor.name!r} has missing, repeated or unknown keys: {keys}.")
    return entries


def _number(name: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit()):
        raise RefusedError(f"External data of {name!r}: {key} {text!r} is not a non-negative integer.")
    return int(text)


def _contained(name: str, location: str, model: Path) -> Path:
    refused = RefusedError(f"External data of {name!r} at {location!r} is not a regular file in the model's directory.")
    if "\0" in location or "\\" in location or "://" in location or os.path.isabs(location):
        raise refused
    if ".." in Path(location).parts:
        raise refused
    path = Path(os.path.realpath(model.parent / location))
    homes = {Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent}
    if not any(path.is_relative_to(home) for home in homes) or path == Path(os.path.realpath(model)):
        raise refused
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FileError(f"External data of {name!r}: cannot read {location!r} ({error.strerror}).") from error
    if not stat.S_ISREG(mode):
        raise refused
    return path
