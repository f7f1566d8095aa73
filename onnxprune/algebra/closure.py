"""From facts to components: axes that are the same share one space of indices, and indices that are tied, one label.

Two levels keep this fast. Axes tied index by index (`same`) are united first, in a forest of axes; only what is left
(windows, maps, repeats, products) becomes edges between indices, closed in one call on integer arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.algebra.facts import Index
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.symbols import Dim, split

Mask = NDArray[np.bool_]


class Closure:
    """Axes, ties and pins; `close` labels every index and spreads the pins.

    An axis is *cuttable* if its size, or the number in it (12 of ``"12*batch"``), is above 1; others take no part.
    """

    def __init__(self) -> None:
        self.ids: dict[Axis, int] = {}
        self.axes: list[Axis] = []
        self.sizes: list[int] = []  # 0 for axes that cannot be cut
        self.reasons: dict[int, list[tuple[str, NDArray[np.int64] | None]]] = {}
        self._parent: list[int] = []
        self._edges: list[tuple[int, int, Index]] = []  # x axis, y axis, index of x for each of y

    def add(self, axis: Axis, size: Dim) -> int:
        """Make an axis known; returns its number."""
        if axis in self.ids:
            return self.ids[axis]
        number = self.ids[axis] = len(self.axes)
        self.axes.append(axis)
        factor = split(size).factor
        self.sizes.append(factor if factor > 1 else 0)
        self._parent.append(number)
        return number

    def root(self, number: int) -> int:
        """The axis that stands for all axes united with this one."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def pin(self, number: int, why: str, indices: NDArray[np.int64] | None = None) -> None:
        """These indices (all, if ``None``) may not go; an axis that cannot be cut at all keeps the reason, too."""
        if self.sizes[number] or indices is None:
            self.reasons.setdefault(number, []).append((why, indices))

    def tie(self, x: int, y: int, index: Index | None, who: str) -> None:
        """Index j of y is index ``index[j]`` of x. What does not fit pins both axes."""
        nx, ny = self.sizes[x], self.sizes[y]
        if index is None and nx == ny:
            a, b = self.root(x), self.root(y)
            if a != b:
                self._parent[max(a, b)] = min(a, b)
        elif (
            index is not None and nx and index.size == (ny or 1) and index.size and 0 <= index.min() <= index.max() < nx
        ):
            if ny:
                self._edges.append((x, y, index))
            else:
                self.pin(x, f"{who} keeps this index in an axis of size 1", index)
        else:
            for number in (x, y):
                self.pin(number, f"{who} ties it to an axis of another, or an unknown, size")

    def sources(self, roots: set[int]) -> set[int]:
        """The axes, by their roots, that indices of these are picked from."""
        return {self.root(x) for x, y, _ in self._edges if self.root(y) in roots}

    def close(self) -> None:
        """Label all indices. Sets ``root_of``, ``offset``, ``labels`` and ``pinned``."""
        self.root_of = np.fromiter((self.root(i) for i in range(len(self.axes))), np.int64, len(self.axes))
        sizes = np.array(self.sizes, dtype=np.int64)
        self._own = np.where(self.root_of == np.arange(len(sizes)), sizes, 0)
        starts = np.concatenate([[0], np.cumsum(self._own)])
        self.offset = starts[:-1][self.root_of] if len(sizes) else starts
        self.space = int(starts[-1])
        self.labels = self._components()
        self.spread()

    def _components(self) -> NDArray[np.int64]:
        if not self._edges:
            return np.arange(self.space)
        rows = np.concatenate([self.offset[x] + index for x, _, index in self._edges])
        columns = np.concatenate([self.offset[y] + np.arange(index.size) for _, y, index in self._edges])
        graph = coo_array((np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=(self.space, self.space))
        return connected_components(graph, directed=False)[1].astype(np.int64)

    def spread(self) -> None:
        """Recompute ``pinned`` from the pins; a label with one pinned index is pinned."""
        whole = np.zeros(len(self.axes), dtype=bool)  # roots that no index of may go
        some: list[NDArray[np.int64]] = []
        for number, reasons in self.reasons.items():
            for _, indices in reasons:
                if indices is None:
                    whole[self.root_of[number]] = True
                else:
                    some.append(self.offset[number] + indices)
        roots = np.flatnonzero(self._own)
        hit = np.repeat(whole[roots], self._own[roots])
        for places in some:
            hit[places] = True
        dead = np.zeros(int(self.labels.max()) + 1 if self.space else 0, dtype=bool)
        dead[self.labels[hit]] = True
        self.pinned: Mask = dead[self.labels] if self.space else hit

    def span(self, number: int) -> slice:
        """Where an axis' indices lie in ``labels`` and ``pinned``."""
        low = int(self.offset[number])
        return slice(low, low + self.sizes[number])

    def free(self, number: int) -> bool:
        """Whether any index of an axis may go."""
        return bool(self.sizes[number]) and not bool(self.pinned[self.span(number)].all())
