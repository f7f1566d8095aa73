"""A bench of architectures: the graphs that exporters write for well-known networks, with weights made on loading.

``structures`` holds the graphs without their weights; `load` fills them with noise of the same distribution, the same
bytes each time. Neither needs torch. `export.py` wrote them and does.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from models.architectures import noise

__all__ = ["EXAMPLE", "STRUCTURES", "Entry", "entries", "feed", "load", "write"]

STRUCTURES = Path(__file__).with_name("structures")
SUFFIX = ".onnx.gz"
EXAMPLE = "example"  # the metadata entry that describes inputs that the model runs on

Array = np.ndarray[Any, np.dtype[Any]]


class Entry(NamedTuple):
    """One stored structure.

    Args:
        name: the architecture, ``resnet18``.
        exporter: what wrote the graph, ``torchscript`` or ``dynamo``.
        opset: the version of the default operator set.
        batch: ``fixed`` if all sizes are numbers, ``dynamic`` if the batch (and what else may be) is open.
        width: ``small`` or ``full``.
        path: the file.
    """

    name: str
    exporter: str
    opset: int
    batch: str
    width: str
    path: Path

    @property
    def label(self) -> str:
        """What names this entry alone: ``small/resnet18.torchscript.op17.dynamic``."""
        return f"{self.width}/{self.name}.{self.exporter}.op{self.opset}.{self.batch}"


def entries(width: str = "small", match: str = "*") -> list[Entry]:
    """The stored structures of a width, by name.

    Args:
        width: ``small`` or ``full``.
        match: a glob for an architecture's name (``resnet*``) or for its file's (``*.dynamo.*``).
    """
    found = (_entry(path) for path in sorted((STRUCTURES / width).glob("*" + SUFFIX)))
    return [e for e in found if fnmatchcase(e.name, match) or fnmatchcase(e.path.name.removesuffix(SUFFIX), match)]


def _entry(path: Path) -> Entry:
    name, exporter, opset, batch = path.name.removesuffix(SUFFIX).split(".")
    return Entry(name, exporter, int(opset.removeprefix("op")), batch, path.parent.name, path)


def load(entry: Entry) -> onnx.ModelProto:
    """The model with its weights, which are the same each time."""
    model = onnx.load_model_from_string(gzip.decompress(entry.path.read_bytes()))
    noise.refill(model, entry.label)
    return model


def write(entry: Entry, folder: Path) -> Path:
    """Save the model as an ``.onnx`` file in a folder, and say where."""
    path = folder / (entry.label.replace("/", ".") + ".onnx")
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(load(entry), path)
    return path


def feed(model: onnx.ModelProto, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Inputs that a model of this bench runs on.

    Args:
        model: what `load` gives.
        seed: another one gives other inputs.
        sizes: sizes for named open dimensions, such as ``{"batch": 3}``, in place of the example's.
    """
    example: dict[str, dict[str, Any]] = json.loads(next(p.value for p in model.metadata_props if p.key == EXAMPLE))
    found = {}
    for value in model.graph.input:
        facts = example[value.name]
        dims = zip(value.type.tensor_type.shape.dim, facts["shape"], strict=True)
        shape = tuple((sizes or {}).get(dim.dim_param, size) for dim, size in dims)
        generator = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        found[value.name] = _values(generator, shape, facts).astype(kind)
    return found


def _values(generator: np.random.Generator, shape: tuple[int, ...], facts: dict[str, Any]) -> Array:
    """A mask, whole numbers in a range, or a normal distribution."""
    if facts.get("mask"):  # the first of each row are there, one at least: what sees nothing may not be a number
        lengths = generator.integers(1, shape[-1], (*shape[:-1], 1), endpoint=True)
        return np.asarray(np.arange(shape[-1]) < lengths)
    if "low" in facts:
        return np.asarray(generator.integers(facts["low"], facts["high"], shape, endpoint=True))
    return generator.standard_normal(shape)
