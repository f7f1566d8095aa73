"""What two weights that should be the same differ by, in words: swapped, transposed, scaled, or simply other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.comparing.signals import MARGIN

Matrix = NDArray[np.floating]

MOST = 6  # channels that are named
CHANCE = 0.5  # cosine below which two rows have nothing in common


def allowed(ceiling: float) -> float:
    """The difference that rounding explains, as a fraction of a row's size.

    Args:
        ceiling: decibels that rounding leaves.
    """
    return float(10 ** ((MARGIN - ceiling) / 20))


def difference(first: Matrix, second: Matrix, slack: float, taps: Sequence[int] = ()) -> str:
    """How a weight differs from another; empty if it does not.

    Args:
        first: (O, D), a row for each output channel.
        second: the same.
        slack: what may differ, as a fraction of the typical row's length.
        taps: the kernel's sizes; its places lie next to each other in a row.
    """
    if first.shape != second.shape:
        return f"shape differs: {list(first.shape)} and {list(second.shape)}"
    if alike(first, second, slack):
        return ""
    rows = _far(first, second, slack)
    return next(_explanations(first, second, slack, tuple(taps)), None) or _scaled(first, second, rows, slack)


def alike(first: Matrix, second: Matrix, slack: float) -> bool:
    """Whether two matrices of one shape differ by no more than rounding."""
    return not _far(first, second, slack).any()


def _far(first: Matrix, second: Matrix, slack: float) -> NDArray[np.bool_]:
    """The rows that differ."""
    typical = float(np.sqrt(np.mean(first**2) * first.shape[1])) or float(np.linalg.norm(second)) or 1.0
    return np.asarray(np.linalg.norm(first - second, axis=1) > slack * typical)


def _explanations(first: Matrix, second: Matrix, slack: float, taps: tuple[int, ...]) -> Iterator[str]:
    """What the first weight would have to be done to so that it is the second."""
    size = int(np.prod(taps)) if taps else 1
    blocks = first.reshape(len(first), -1, size)

    def same(found: Matrix) -> bool:
        return found.size == second.size and not _far(found.reshape(second.shape), second, slack).any()

    if blocks.shape[0] == blocks.shape[1] and same(blocks.swapaxes(0, 1)):
        yield "the weight is transposed (input and output channels)"
    if size > 1 and len(taps) > 1:
        kernels = first.reshape(*blocks.shape[:2], *taps)
        if taps[-1] == taps[-2] and same(kernels.swapaxes(-1, -2)):
            yield "the kernel is transposed (height and width)"
    if size > 1 and same(np.flip(blocks, -1)):
        yield "the kernel is flipped"
    others = second.reshape(blocks.shape)
    rows = _order(first, second, slack)
    if rows is not None:
        yield _moved(rows, "output channels")
    columns = _order(_by_column(blocks), _by_column(others), slack)
    if columns is not None:
        yield _moved(columns, "input channels")
    both = _both_ways(blocks, others, slack)
    if both:
        yield both


def _both_ways(blocks: Matrix, others: Matrix, slack: float) -> str:
    """Rows and columns that both lie in another order; rows are known by their values, in whatever order."""
    sides = [side.reshape(len(side), -1) for side in (blocks, others)]
    rows = _order(np.sort(sides[0], axis=1), np.sort(sides[1], axis=1), slack)
    if rows is None:
        return ""
    columns = _order(_by_column(blocks[rows]), _by_column(others), slack)
    return "" if columns is None else f"{_moved(rows, 'output channels')}; {_moved(columns, 'input channels')}"


def _by_column(blocks: Matrix) -> Matrix:
    return np.moveaxis(blocks, 1, 0).reshape(blocks.shape[1], -1)


def _order(first: Matrix, second: Matrix, slack: float) -> NDArray[np.int64] | None:
    """For each row of the second the row of the first that it is; ``None`` if they are not the same rows."""
    far = np.flatnonzero(_far(first, second, slack))
    order = np.arange(len(first))
    apart = (
        ((second[far][:, None] - first[far][None]) ** 2).sum(axis=2)
        if far.size <= 256
        else _distances(second[far], first[far])
    )
    order[far] = far[apart.argmin(axis=1)]
    if len(set(order.tolist())) < len(order) or _far(first[order], second, slack).any():
        return None
    return order


def _distances(second: Matrix, first: Matrix) -> Matrix:
    return np.asarray((second**2).sum(1)[:, None] + (first**2).sum(1)[None] - 2 * second @ first.T)


def _moved(order: NDArray[np.int64], what: str) -> str:
    places = np.flatnonzero(order != np.arange(order.size))
    if places.size == 2:
        return f"{what} {places[0]} and {places[1]} are swapped"
    return f"{places.size} of {order.size} {what} lie in another order"


def _scaled(first: Matrix, second: Matrix, rows: NDArray[np.bool_], slack: float) -> str:
    """Rows that differ by a factor, or by more."""
    power = (first**2).sum(axis=1)
    factors = np.divide((first * second).sum(axis=1), power, out=np.ones(len(first)), where=power > 0)
    which = channels(rows)
    if first.shape[1] > 1 and not _far(first * factors[:, None], second, slack).any():
        worst = factors[np.abs(factors - 1).argmax()]
        return f"{which} scaled, by {worst:.4g} at most" if worst >= 0 else f"{which} scaled, some negated"
    far = float(np.linalg.norm(first - second) / (np.linalg.norm(first) or 1.0))
    return f"{which} differ, by {far:.2g} of the weight's norm"


def channels(rows: NDArray[np.bool_]) -> str:
    """Channels by their numbers, as far as they are few."""
    places = np.flatnonzero(rows)
    if places.size == 1:
        return f"1 of {rows.size} channels ({places[0]})"
    named = f" ({', '.join(map(str, places))})" if places.size <= MOST else ""
    return f"{places.size} of {rows.size} channels{named}"


def vector_difference(first: Matrix, second: Matrix, slack: float, scale: float = 0.0) -> str:
    """How a vector differs from another, entry by entry; empty if it does not.

    Args:
        first: (O,).
        second: the same.
        slack: what may differ, as a fraction of the vector's largest entry.
        scale: the size of what it is added to, if that is larger.
    """
    if first.shape != second.shape:
        return f"shape differs: {list(first.shape)} and {list(second.shape)}"
    largest = max(float(np.abs(first).max(initial=0.0)), float(np.abs(second).max(initial=0.0)), scale)
    rows = np.abs(first - second) > slack * largest
    if not rows.any():
        return ""
    order = _order(first[:, None], second[:, None], slack)
    if order is not None:
        return _moved(order, "entries")
    return f"{channels(rows)} differ, by {float(np.abs(first - second).max()):.3g} at most"
