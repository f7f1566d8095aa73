"""Mean average precision of detections, as COCO defines it, without its areas and crowds.

Per class and overlap: detections in falling order of score, each taking the free box of its image that it overlaps
most, if by enough; precision at 101 recalls, each the best at that recall or beyond; their mean. Then the mean over
the classes that are labelled. An image gives its 100 best detections.

The outputs are read in one of three layouts; a box is two opposite corners, the lower first, x and y in the order and
in the unit that the labels have:

- boxes (rows, n, 4), scores (rows, n) and classes (rows, n), the two in either order where classes are whole numbers;
- boxes (rows, n, 4) and scores (rows, n, classes), a box counting as the class that scores highest;
- (rows, n, 6): corners, score, class.

A score of 0 or less, or a negative class, is padding. The labels are (rows, m, 5): corners, class; class -1 is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import PruneError, UsageError
from onnxprune.model.record import Array

Reals = NDArray[np.float64]
Sets = tuple[Reals, Reals, Reals]

OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of an image


@dataclass(frozen=True)
class Image:
    """The detections of one class in one image, best first.

    Attributes:
        scores: falling.
        overlaps: detections x labelled boxes.
    """

    scores: Reals
    overlaps: Reals


def mean_precision(outputs: Sequence[Array | list[Array]], labels: Array | Sequence[Any]) -> float:
    """The mean over ten overlaps from 0.5 to 0.95."""
    return _mean(outputs, labels, OVERLAPS)


def mean_precision_50(outputs: Sequence[Array | list[Array]], labels: Array | Sequence[Any]) -> float:
    """At an overlap of half."""
    return _mean(outputs, labels, OVERLAPS[:1])


def _mean(outputs: Sequence[Array | list[Array]], labels: Array | Sequence[Any], overlaps: Sequence[float]) -> float:
    """The mean average precision.

    Raises:
        PruneError: the outputs are laid out otherwise, or have not as many rows as there are labels.
        UsageError: no box is labelled.
    """
    found = list(_detections(outputs))
    wanted = [_labelled(row) for row in labels]
    if len(found) != len(wanted):
        raise PruneError(f"The outputs are of {len(found)} images; there are labels of {len(wanted)}.")
    classes = np.unique(np.concatenate([row[:, 4] for row in wanted] or [np.zeros(0)]))
    if not classes.size:
        raise UsageError("Mean average precision needs a labelled box.")
    return float(np.mean([_precision(found, wanted, one, overlaps) for one in classes]))


def _precision(found: Sequence[Sets], wanted: Sequence[Reals], one: float, overlaps: Sequence[float]) -> float:
    images = []
    for (boxes, scores, classes), truth in zip(found, wanted, strict=True):
        mine = classes == one
        images.append(Image(scores[mine], overlap(boxes[mine], truth[truth[:, 4] == one, :4])))
    return float(np.mean([average_precision(images, least) for least in overlaps]))


def average_precision(images: Sequence[Image], least: float) -> float:
    """Of one class, at one overlap."""
    boxes = sum(image.overlaps.shape[1] for image in images)
    right = np.concatenate([_taken(image.overlaps, least) for image in images])
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    hits = np.cumsum(right[order])
    precision = np.maximum.accumulate((hits / np.arange(1, hits.size + 1))[::-1])[::-1]
    at = np.searchsorted(hits / boxes, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _taken(overlaps: Reals, least: float) -> NDArray[np.bool_]:
    """Which detections take a box: each, in order, the free one that it overlaps most."""
    free = overlaps.copy()
    right = np.zeros(len(free), bool)
    for row in range(len(free) if free.shape[1] else 0):
        best = int(free[row].argmax())
        right[row] = free[row, best] >= least
        if right[row]:
            free[:, best] = -1
    return right


def overlap(a: Reals, b: Reals) -> Reals:
    """Intersection over union of every pair of two lists of boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - both
    return np.asarray(both / np.where(union > 0, union, 1))


def _labelled(row: Any) -> Reals:
    boxes = np.asarray(row, np.float64).reshape(-1, 5)
    return boxes[boxes[:, 4] >= 0]


def _detections(outputs: Sequence[Array | list[Array]]) -> Iterator[Sets]:
    rows = {len(output) for output in outputs[:3]}
    if len(rows) > 1:
        raise PruneError(f"The outputs have {', '.join(map(str, sorted(rows)))} rows; detections want the same of all.")
    for parts in zip(*outputs[:3], strict=True):
        boxes, scores, classes = _layout([np.asarray(part) for part in parts])
        with np.errstate(invalid="ignore"):
            kept = np.flatnonzero((scores > 0) & (classes >= 0))
        best = kept[np.argsort(-scores[kept], kind="stable")][:MOST]
        yield boxes[best], scores[best], classes[best]


def _layout(parts: Sequence[Array]) -> Sets:
    """Boxes, scores and classes of one image.

    Raises:
        PruneError: the outputs are laid out otherwise.
    """
    if parts[0].shape[-1:] == (6,):
        table = parts[0].reshape(-1, 6).astype(np.float64)
        return table[:, :4], table[:, 4], table[:, 5]
    count = parts[0].size // 4
    sizes = [part.size for part in parts[1:]]
    if parts[0].shape[-1:] == (4,) and sizes == [count, count]:
        first, second = parts[1:3]
        scores, classes = (second, first) if first.dtype.kind in "iu" else (first, second)
    elif parts[0].shape[-1:] == (4,) and count and len(parts) > 1 and parts[1].shape[-2:-1] == (count,):
        scores, classes = parts[1].max(axis=-1), parts[1].argmax(axis=-1)
    else:
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise PruneError(
            f"The outputs of an image are of shapes {shapes}; detections are boxes [n, 4], scores [n] and classes [n],"
            " or boxes and scores [n, classes], or corners, score and class [n, 6]."
        )
    numbers = [np.asarray(x, np.float64) for x in (parts[0].reshape(-1, 4), scores.ravel(), classes.ravel())]
    return numbers[0], numbers[1], numbers[2]
