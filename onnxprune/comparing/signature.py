"""Which input and output of one model is which of the other: by the user's word, name, shape and type, or place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.algebra.graph import Graph
from onnxprune.algebra.symbols import Dim
from onnxprune.comparing.views import View, fitting
from onnxprune.data.inputs import Feed
from onnxprune.errors import RefusedError, UsageError, unknown
from onnxprune.model.record import Array


@dataclass(frozen=True)
class Port:
    """An input or an output as a model declares it, or as a run gave it."""

    name: str
    shape: tuple[Dim, ...]
    dtype: np.dtype[np.generic]

    @property
    def family(self) -> str:
        """What its values may be exchanged for: floats, whole numbers, truth values, text."""
        return {"V": "f", "u": "i", "S": "O", "U": "O"}.get(self.dtype.kind, self.dtype.kind)

    def __str__(self) -> str:
        sizes = ", ".join(str(size) if isinstance(size, int) else "?" for size in self.shape)
        return f"{self.name!r} ({self.dtype} [{sizes}])"


@dataclass(frozen=True)
class Bound:
    """An input or output of the first model, that of the second, and how the one lies in the other."""

    first: Port
    second: Port
    view: View

    def feed(self, array: Array) -> tuple[Array, Array]:
        """The same values for both, rounded to the coarser of the two types."""
        types = (self.first.dtype, self.second.dtype)
        coarse = array.astype(min(types, key=lambda dtype: dtype.itemsize)) if types[0] != types[1] else array
        return coarse.astype(types[0]), np.asarray(self.view.to(coarse), dtype=types[1], order="C")

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        ports = {"first": self.first, "second": self.second}
        sides = {k: {"name": p.name, "shape": list(p.shape), "dtype": str(p.dtype)} for k, p in ports.items()}
        return {**sides, "axes": list(self.view.axes)}


def parse_map(given: Sequence[str]) -> dict[str, str]:
    """What ``--map`` says: pairs ``FIRST=SECOND``.

    Raises:
        UsageError: it is written otherwise, or names something twice.
    """
    found: dict[str, str] = {}
    for text in given:
        first, equals, second = text.partition("=")
        if not first or not equals:
            raise UsageError(f"A pair is written NAME_IN_A=NAME_IN_B, not {text!r}.")
        if first in found or (second and second in found.values()):
            raise UsageError(f"--map {text!r}: one of the names was mapped before.")
        found[first] = second
    return found


def declared(graph: Graph) -> list[Port]:
    """The inputs of a model."""
    return [
        Port(
            value.name,
            tuple(graph.shapes.get(value.name, ())),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in graph.inputs
    ]


def given(names: Sequence[str], values: Sequence[Array]) -> list[Port]:
    """Outputs, as a run gave them."""
    return [Port(name, value.shape, value.dtype) for name, value in zip(names, values, strict=True)]


def match(word: str, first: Sequence[Port], second: Sequence[Port], mapped: Mapping[str, str]) -> list[Bound]:
    """The ports of one model with those of the other.

    Args:
        word: what they are, for messages.
        first: the ports of the one.
        second: the ports of the other.
        mapped: pairs that the user names; a port that is paired with the empty name is left out.

    Raises:
        RefusedError: a port has no counterpart.
        UsageError: what the user named does not fit.
    """
    pairs: list[tuple[Port, Port]] = []
    named = {port.name: port for port in second}
    for port in first:
        wanted = mapped.get(port.name)
        if wanted:
            if wanted not in named:
                raise unknown(f"{word} of the second model", wanted, named)
            pairs.append((port, named[wanted]))
    left = [p for p in first if p.name not in mapped]
    free = [p for p in second if p.name not in mapped.values()]
    for plain in (lambda name: name, _bare):
        for port in list(left):
            other = next((p for p in free if plain(p.name) == plain(port.name) and _fits(port, p)), None)
            if other is not None:
                pairs.append((port, other))
                left.remove(port)
                free.remove(other)
    pairs += _by_shape(word, left, free)
    order = {port.name: number for number, port in enumerate(first)}
    return [_bound(word, *pair) for pair in sorted(pairs, key=lambda pair: order[pair[0].name])]


def _bare(name: str) -> str:
    """A name without what exporters add to it: a scope in front, an output's number behind."""
    return name.rsplit("/", 1)[-1].split(":")[0]


def _fits(a: Port, b: Port) -> bool:
    return a.family == b.family and bool(fitting(a.shape, b.shape))


def _by_shape(word: str, left: Sequence[Port], free: Sequence[Port]) -> list[tuple[Port, Port]]:
    """Each port with the first free one that fits it, those first that least fit."""
    pairs = []
    free = list(free)
    for port in sorted(left, key=lambda port: sum(_fits(port, other) for other in free)):
        other = next((p for p in free if _fits(port, p)), None)
        if other is None:
            raise RefusedError(_no_counterpart(word, port, free))
        free.remove(other)
        pairs.append((port, other))
    if free:
        raise RefusedError(
            f"The second model has {word} {free[0]} and the first has none like it. These may not be the same network;"
            f" --map NAME={free[0].name} pairs it by hand."
        )
    return pairs


def _no_counterpart(word: str, port: Port, free: Sequence[Port]) -> str:
    others = ", ".join(map(str, free)) or f"no other {word}"
    return (
        f"The first model's {word} {port} fits nothing in the second, which has {others}."
        f" These may not be the same network; --map {port.name}=NAME pairs it by hand, --map {port.name}= leaves it"
        " out."
    )


def _bound(word: str, first: Port, second: Port) -> Bound:
    views = fitting(first.shape, second.shape)
    if first.family != second.family or not views:
        raise UsageError(f"--map: the {word}s {first} and {second} do not fit: another type, or no order of axes.")
    return Bound(first, second, views[0])


def feeds(bounds: Sequence[Bound], feed: Mapping[str, Array]) -> tuple[Feed, Feed]:
    """A feed of the first model as both take it."""
    both = {bound: bound.feed(feed[bound.first.name]) for bound in bounds}
    return (
        {bound.first.name: pair[0] for bound, pair in both.items()},
        {bound.second.name: pair[1] for bound, pair in both.items()},
    )
