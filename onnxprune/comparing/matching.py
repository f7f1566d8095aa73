"""Which layer of one model is which of the other: by their weights first, by their places for what is left.

What a batch normalisation scales is no matter, and rows or columns may lie in another order: compared are the
directions of the rows, and, where these tell nothing, what of each row does not depend on the order of its columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from onnxprune.comparing.layers import Layer
from onnxprune.comparing.weights import alike

Pair = tuple[Layer, Layer]

SAMPLE = 4096  # entries of a matrix by which it is compared
SURE = 0.8  # likeness from which on two weights are the same
FEWEST = 8  # rows whose features tell layers apart
NEAR = 1e-3  # likeness that equal places are worth: it decides between equal weights


def by_weights(first: Sequence[Layer], second: Sequence[Layer]) -> list[Pair]:
    """The layers that have the same weights, then those that stand in the same places between them.

    Returns:
        Pairs in the order of the first model's layers.
    """
    places = [{id(layer): n / max(1, len(side)) for n, layer in enumerate(side)} for side in (first, second)]
    pairs: list[Pair] = []
    classes: dict[tuple[int, ...], tuple[list[Layer], list[Layer]]] = defaultdict(lambda: ([], []))
    for number, side in enumerate((first, second)):
        for layer in side:
            classes[layer.key][number].append(layer)
    for these, those in classes.values():
        if these and those:
            likeness = _likenesses(these, those)
            apart = np.array([[abs(places[0][id(a)] - places[1][id(b)]) for b in those] for a in these])
            rows, columns = linear_sum_assignment(NEAR * apart - likeness)
            pairs += [(these[r], those[c]) for r, c in zip(rows, columns, strict=True) if likeness[r, c] >= SURE]
    pairs += _between(first, second, pairs)
    order = {id(layer): n for n, layer in enumerate(first)}
    return sorted(pairs, key=lambda pair: order[id(pair[0])])


def even(pairs: Iterable[Pair], slack: float) -> None:
    """Let both layers of a pair end where they compute the same, as far behind the product as that may be.

    Where no such ends are, both stay as they are: what one exporter adds in a node of its own is part of a layer, and
    what another fuses into the node behind it is not.

    Args:
        pairs: layers that correspond.
        slack: what may differ, as a fraction of a row's size.
    """
    for a, b in pairs:
        ends = [(i, j) for i in range(len(a.steps) + 1) for j in range(len(b.steps) + 1)]
        for i, j in [*sorted(ends, key=lambda end: -sum(end)), (len(a.steps), len(b.steps))]:
            a.cut(i)
            b.cut(j)
            one, other = (np.column_stack([layer.weight, layer.bias]) for layer in (a, b))
            if alike(one, other, slack):
                break


def _likenesses(these: Sequence[Layer], those: Sequence[Layer]) -> NDArray[np.float64]:
    """How alike the weights of layers of one shape are: the best of several looks, 1 for the same."""
    sides = [list(zip(*map(_looks, side), strict=True)) for side in (these, those)]
    return np.asarray(np.max([_cosines(np.stack(a), np.stack(b)) for a, b in zip(*sides, strict=True)], axis=0))


def _looks(layer: Layer) -> tuple[NDArray[np.float64], ...]:
    """A layer's entries, the features of its rows, and these in the order of the rows' mean entries."""
    features = _features(layer)
    order = np.argsort(layer.directions.mean(axis=1)[: len(features)], kind="stable")
    return _entries(layer), _centred(features), _centred(features[order])


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second)]
    first, second = (side / np.where(size, size, 1.0) for side, size in zip((first, second), lengths, strict=True))
    return np.asarray(first @ second.T)


def _entries(layer: Layer) -> NDArray[np.float64]:
    """Entries of the directions, the same ones of every layer."""
    flat = layer.directions.ravel()
    return np.asarray(flat[np.unique(np.linspace(0, flat.size - 1, SAMPLE).astype(np.int64))])


def _features(layer: Layer) -> NDArray[np.float64]:
    """Of every row what does not depend on the order of its columns; nothing, where there are too few rows to tell."""
    if len(layer.directions) < FEWEST:
        return np.zeros((1, 1))
    rows = layer.directions * np.float32(np.sqrt(layer.directions.shape[1]))
    sizes = np.abs(rows)
    found = [sizes.mean(axis=1), (rows * sizes).mean(axis=1), np.minimum(sizes, 1).mean(axis=1)]
    return np.stack(found, axis=1).astype(np.float64)


def _centred(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features of rows less their mean: those of unlike layers have a cosine near 0."""
    spread = features.std(axis=0)
    return np.asarray(((features - features.mean(axis=0)) / np.where(spread, spread, 1.0)).ravel())


def _between(first: Sequence[Layer], second: Sequence[Layer], pairs: Iterable[Pair]) -> list[Pair]:
    """Layers of one shape that stand between the same layers and are not paired yet, in their order."""
    partner = {id(a): b for a, b in pairs}
    taken = {id(b) for _, b in pairs}
    place = {id(layer): n for n, layer in enumerate(second)}
    found: list[Pair] = []
    at = -1
    for number, layer in enumerate(first):
        if id(layer) in partner:
            at = max(at, place[id(partner[id(layer)])])
            continue
        later = (place[id(partner[id(other)])] for other in first[number:] if id(other) in partner)
        end = min((n for n in later if n > at), default=len(second))
        fits = (b for b in second[at + 1 : end] if b.key == layer.key and id(b) not in taken)
        other = next(fits, None)
        if other is not None:
            found.append((layer, other))
            taken.add(id(other))
            at = place[id(other)]
    return found
