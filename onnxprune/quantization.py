"""What the codes of a quantised constant stand for: the value zero, and every other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnxprune.facts import Fact, Quantized
from onnxprune.graph import Graph
from onnxprune.record import Array


def collect(facts: Iterable[Sequence[Fact]]) -> dict[str, list[Quantized]]:
    """What each constant's readers say about its codes, without repetition."""
    found: dict[str, list[Quantized]] = {}
    for stated in facts:
        for fact in stated:
            if isinstance(fact, Quantized) and fact not in found.setdefault(fact.codes, []):
                found[fact.codes].append(fact)
    return found


def undecided(graph: Graph, codes: dict[str, list[Quantized]]) -> Iterator[str]:
    """Constants of which nobody knows which code stands for zero: not constant itself, or read in two ways."""
    for name, readings in codes.items():
        zeros = [np.asarray(_zero(graph, reading)) for reading in readings if _is_settled(graph, reading)]
        if len(zeros) < len(readings) or any(not np.array_equal(zeros[0], zero) for zero in zeros[1:]):
            yield name


def blank(graph: Graph, reading: Quantized) -> Array:
    """For every element of a constant the code that stands for 0."""
    return np.broadcast_to(_zero(graph, reading), graph.constant_tensor(reading.codes).dims)


def decode(graph: Graph, reading: Quantized, codes: Array) -> Array:
    """The values that codes stand for, as float32; the codes themselves if their scale is computed."""
    zero, scale = _zero(graph, reading).astype(np.float32), graph.constant(reading.scale)
    centred: Array = codes.astype(np.float32) - zero
    return centred if scale is None else centred * _stretched(scale, codes.shape, reading.axis).astype(np.float32)


def _is_settled(graph: Graph, reading: Quantized) -> bool:
    return not reading.zero or graph.constant(reading.zero) is not None


def _zero(graph: Graph, reading: Quantized) -> Array:
    given = graph.constant(reading.zero) if reading.zero else None
    shape = tuple(graph.constant_tensor(reading.codes).dims)
    return np.zeros((), dtype=np.int8) if given is None else _stretched(given, shape, reading.axis)


def _stretched(values: Array, shape: Sequence[int], axis: int) -> Array:
    """One value for all, one per index of the axis, or one per block along it, as an array of this shape."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        return np.broadcast_to(values.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)
    blocks = -(-shape[axis] // values.shape[axis])
    return np.repeat(values, blocks, axis=axis)[(slice(None),) * axis + (slice(shape[axis]),)]
