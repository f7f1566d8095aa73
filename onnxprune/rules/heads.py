"""Heads that lie in a row on some axis: what attention, and what turns or remembers its heads, says of all of them.

What belongs to a head is tied to the place where the head lies in the output. An axis that holds all heads in a row
keeps or loses all indices of a head together. Where several query heads share a key head, they stay with it; where
all of them share a single one, that one stays and the query heads go one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxprune.algebra.facts import Count, Fact, Index, Pin, Slot, mapped
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.symbols import Dim

MICROSOFT = "com.microsoft"
Q, K, V = 0, 1, 2
Blocks = Sequence[tuple[int, int]]  # heads and size of each part of an axis


class Heads:
    """The heads of one node.

    Args:
        op: the node.
        anchor: the axis of its output on which the query heads lie in a row.
        queries: how many query heads there are.
        keys: how many key heads; each serves as many query heads as any other.
    """

    def __init__(self, op: Op, anchor: Axis, queries: int, keys: int) -> None:
        if keys < 1 or queries % keys:
            raise ValueError(f"{keys} key heads for {queries} query heads")
        self.op, self.anchor, self.queries, self.keys = op, anchor, queries, keys
        self.shared = queries // keys if keys > 1 else 1
        self.width = quotient(op.shape(anchor[0])[anchor[1]], queries)

    def stated(self, queries: str | None, keys: str | None = None) -> Iterator[Fact]:
        """The output loses whole heads, and the attributes that count heads follow."""
        size = self.queries * self.width
        if self.queries == 1:
            yield Pin(self.anchor, f"{self.op.label} has a single head, which stays")
        yield mapped(*self.anchor, self._first(self._owners([(self.queries, size)])), *self.anchor)
        if queries:
            yield Count(Slot(queries), None, self.anchor, 0, size, self.width)
        if keys and self.keys > 1:
            yield Count(Slot(keys), None, self.anchor, 0, size, self.width * self.shared)

    def along(self, tensor: str, axis: int, blocks: Blocks | None = None) -> Iterator[Fact]:
        """An axis holds the heads in a row: the query heads, or those of each block."""
        if blocks is None:
            blocks = [(self.queries, whole(self.op.shape(tensor)[axis]))]
        owners = self._owners(blocks)
        alone = np.flatnonzero(owners < 0)
        if alone.size:
            yield Pin((tensor, axis), f"{self.op.label} lets one key head serve all query heads", alone.tolist())
        if alone.size == owners.size:
            return
        yield mapped(tensor, axis, self._first(owners), tensor, axis)
        first = np.unique(owners[owners >= 0], return_index=True)[1]
        places = np.flatnonzero(owners >= 0)[first]
        of_output = self._owners([(self.queries, self.queries * self.width)])
        yield mapped(tensor, axis, places[of_output], *self.anchor)

    def of_keys(self, tensor: str, axis: int) -> Iterator[Fact]:
        """An axis holds the key heads in a row."""
        yield from self.along(tensor, axis, [(self.keys, whole(self.op.shape(tensor)[axis]))])

    def over(self, slot: int) -> Iterator[Fact]:
        """A mask (…, heads, queries, keys) has the query heads on its third axis from the end, or is for all."""
        if not self.op.has(slot):
            return
        mask = self.op.ins[slot]
        axis = self.op.rank(mask) - 3
        size = self.op.shape(mask)[axis] if axis >= 0 else 1
        if size == self.queries > 1:
            yield from self.along(mask, axis)
        elif size != 1:
            yield Pin(self.anchor, f"{self.op.label} adds {mask!r}, of which it is open whether it has heads")

    def _owners(self, blocks: Blocks) -> Index:
        """For each index of an axis the group of heads that it belongs to; -1 for an only key head."""
        found = []
        for heads, size in blocks:
            group = np.arange(heads)
            if heads == self.queries:
                group = group // self.shared
            elif heads == 1:
                group = group - 1
            found.append(np.repeat(group, quotient(size, heads)))
        return np.concatenate(found)

    def _first(self, owners: Index) -> Index:
        """For each index of an axis the first one with the same owner, or itself if it has none."""
        firsts, inverse = np.unique(owners, return_index=True, return_inverse=True)[1:]
        return np.where(owners < 0, np.arange(owners.size), firsts[inverse.ravel()])


def whole(size: Dim) -> int:
    """A size that must be known.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(size, int):
        raise ValueError(f"a width of {size}")
    return size


def quotient(size: Dim, heads: int) -> int:
    """The width of a head.

    Raises:
        ValueError: it is not known, or not whole.
    """
    if not isinstance(size, int) or heads < 1 or size % heads:
        raise ValueError(f"{heads} heads on a width of {size}")
    return size // heads


def axis_of_heads(op: Op, tensor: str) -> int:
    """Of (batch, length, heads·width), (batch, heads, length, width) or (batch, length, heads, parts, width)."""
    return {3: 2, 4: 1, 5: 2}[op.rank(tensor)]


def like_first(op: Op) -> list[Shape]:
    """The output has the shape of the first input."""
    return [op.shape(op.ins[0])]
