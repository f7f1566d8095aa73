"""Linear layers as matrices: y = W x + b for every row x that the layer reads, whatever operator does it.

A rule hands out a `Linear` for a node whose weight is constant; statistics, criteria and recovery need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.graph import Graph, Op
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.registry import Rule
from onnxprune.model.record import Array

Index = NDArray[np.int64]


class Bias(NamedTuple):
    """A constant vector that is added to the layer's output.

    Attributes:
        name: its tensor.
        factor: what it is multiplied by on its way.
        inside: whether the node itself adds it, so that its output has it.
    """

    name: str
    factor: float = 1.0
    inside: bool = True


@dataclass(frozen=True)
class Linear:
    """How a node reads rows, and how its weight is a matrix.

    Attributes:
        op: the node.
        x: the axis of its input that W sums over.
        w: the weight.
        y: the axis of its output that W's rows make.
        groups: how many matrices the weight holds; each reads its own run of ``x`` and makes its own run of ``y``.
        taps: how many columns an index of ``x`` has, next to each other.
        rows: of an input's values the rows, (n, groups, D); ``pick`` takes these of the n.
        targets: of an output's values the rows, (n, groups, O).
        count: how many rows an output's values have.
        matrix: the weight's values as (groups, O, D).
        tensor: a matrix as the weight's values.
        bias: what is added, if it is a constant vector.
        slot: the input that a bias can be given to, if the node has one.
    """

    op: Op
    x: Axis
    w: str
    y: Axis
    groups: int
    taps: int
    rows: Callable[[Array, Index | None], Array]
    targets: Callable[[Array, Index | None], Array]
    count: Callable[[Array], int]
    matrix: Callable[[Array], Array]
    tensor: Callable[[Array], Array]
    bias: Bias | None = None
    slot: int | None = None


def layers(graph: Graph, rule: Callable[[Op], Rule | None]) -> Iterator[Linear]:
    """The linear layers of the main graph, in the order in which they run."""
    for op in graph.ops:
        known = rule(op)
        if known is not None and known.linear is not None and not op.home.path:
            found = known.linear(op)
            if found is not None:
                yield found


def flat(rank: int, axis: int) -> tuple[Callable[[Array, Index | None], Array], Callable[[Array], int]]:
    """Rows along one axis of an array, all other axes flattened: as (n, 1, D); and how many there are."""

    def rows(values: Array, pick: Index | None) -> Array:
        found = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
        return (found if pick is None else found[pick])[:, None]

    return rows, lambda values: values.size // max(1, values.shape[axis])


def is_free(graph: Graph, name: str) -> bool:
    """Whether a constant of at least two axes is read by one node alone, so that changing it changes no other."""
    return graph.is_constant(name) and len(graph.consumers[name]) == 1 and name not in graph.handed_out


def bias_at(op: Op, slot: int, size: int, factor: float = 1.0) -> Bias | None:
    """The bias that a node holds itself; none if it is computed, or is no vector."""
    name = op.ins[slot]
    graph = op.graph
    if not is_free(graph, name) or graph.elements(name) != size or graph.shapes[name][-1:] not in ((size,), ()):
        return None
    return Bias(name, factor)


def added(op: Op, size: int) -> Bias | None:
    """The constant vector that the only reader of a node's output adds to its last axis."""
    graph, readers = op.graph, op.graph.consumers.get(op.out, [])
    if len(readers) != 1 or op.out in graph.handed_out:
        return None
    other, slot = readers[0]
    if other.kind != "Add" or other.domain or other.home.path or len(other.ins) != 2:
        return None
    name = other.ins[1 - slot]
    if not is_free(graph, name) or graph.elements(name) != size or graph.shapes[name][-1:] != (size,):
        return None
    return Bias(name, inside=False)
