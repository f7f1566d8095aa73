"""Products: where one axis is made of others, a cut must follow exactly one of them, or a rectangle is lost.

A flat index is (h, d), say; removing h takes all its d with it. The factor to follow is settled by what is pinned,
and where several are free: the heads of an attention (the batch axis of a product of two activations, or what that is
made of) first, then the factor that most products share, then the one that leaves the most units.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.algebra.closure import Closure
from onnxprune.algebra.facts import Index

LARGEST = 1 << 22  # indices of a flattened run; more than this is no channel axis


class Knot(NamedTuple):
    """One product, by axis numbers, and the node that states it."""

    flat: int
    factors: tuple[int, ...]
    who: str


def untie(closure: Closure, knots: list[Knot], is_head: Callable[[int], bool], *, whole_heads: bool = True) -> None:
    """Close, deciding for every knot which factor its flat axis follows.

    Where heads and what is inside of them are both free, ``whole_heads`` says which of them goes.

    A few closures suffice: all knots that pins have settled are tied at once, and so are all choices, which are
    kept consistent through the axes that they share.
    """
    closure.close()
    pending = knots
    while pending:
        still = [knot for knot in pending if not _settle(closure, knot)]
        if len(still) == len(pending):
            _choose(closure, still, _heads(closure, knots, is_head), whole_heads=whole_heads)
            still = []
        closure.close()
        pending = still


def _live(closure: Closure, knot: Knot) -> list[int]:
    return [factor for factor in knot.factors if closure.free(factor)]


def _settle(closure: Closure, knot: Knot) -> bool:
    """Act on a knot that leaves no choice."""
    live = _live(closure, knot)
    sizes = [closure.sizes[f] for f in knot.factors]
    whole = all(sizes) and math.prod(sizes) == closure.sizes[knot.flat] <= LARGEST
    if whole and closure.free(knot.flat) and len(live) > 1:
        return False
    if whole and closure.free(knot.flat) and live:
        _follow(closure, knot, live[0])
    else:
        for number in (knot.flat, *knot.factors):
            closure.pin(number, f"{knot.who} flattens axes that are all fixed, or of unknown size")
    return True


def _choose(closure: Closure, knots: list[Knot], heads: set[int], *, whole_heads: bool) -> None:
    taken: set[int] = set()
    dropped: set[int] = set()
    shared = Counter(root for knot in knots for root in {closure.root(n) for n in (knot.flat, *knot.factors)})

    def merit(knot: Knot, factor: int) -> tuple[bool, int, int]:
        root = closure.root(factor)
        return (root in heads) == whole_heads, shared[root], _units(closure, knot, factor)

    for knot in knots:
        live = _live(closure, knot)
        candidates = [f for f in live if closure.root(f) not in dropped] or live
        chosen = next((f for f in candidates if closure.root(f) in taken), None)
        if chosen is None:
            chosen = max(candidates, key=partial(merit, knot))
        taken.add(closure.root(chosen))
        for other in live:
            if other != chosen:
                dropped.add(closure.root(other))
                closure.pin(other, f"{knot.who} flattens it with another axis, which is cut instead")
        _follow(closure, knot, chosen)


def _heads(closure: Closure, knots: list[Knot], is_head: Callable[[int], bool]) -> set[int]:
    """The axes that number heads, by their roots: grouped ones (kv head, query of its group) are made of two."""
    heads = {closure.root(n) for knot in knots for n in (knot.flat, *knot.factors) if is_head(n)}
    before = -1
    while len(heads) > before:
        before = len(heads)
        heads |= {closure.root(f) for knot in knots if closure.root(knot.flat) in heads for f in knot.factors}
        heads |= closure.sources(heads)
    return heads


def _follow(closure: Closure, knot: Knot, factor: int) -> None:
    closure.tie(factor, knot.flat, _index(closure, knot, factor), knot.who)


def _index(closure: Closure, knot: Knot, factor: int) -> Index:
    """For every flat index, the factor's index."""
    place = knot.factors.index(factor)
    stride = math.prod(closure.sizes[f] for f in knot.factors[place + 1 :])
    return np.arange(closure.sizes[knot.flat]) // stride % closure.sizes[factor]


def _units(closure: Closure, knot: Knot, factor: int) -> int:
    """How many separate components remain if the flat axis follows this factor."""
    labels = np.unique(closure.labels[closure.span(knot.flat)], return_inverse=True)[1]
    index = _index(closure, knot, factor)
    count = int(labels.max()) + 1 + closure.sizes[factor]
    edges = coo_array(
        (np.ones(index.size, dtype=np.int8), (labels, index + int(labels.max()) + 1)), shape=(count, count)
    )
    return int(connected_components(edges, directed=False)[0])
