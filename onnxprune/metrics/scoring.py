"""What the metrics compute, from a model's outputs over all rows and what they are held against.

An output is one array with a row per item, or, where items differ in size, a list with one array per item. Classes are
the largest entry along the last axis. A single number per item answers yes or no, class 1 or 0: above 0.5 if all of
them lie in [0, 1] (probabilities), above 0 otherwise (logits). Whole numbers of 32 or 64 bits are the classes
themselves. An answer that is NaN is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import PruneError, UsageError
from onnxprune.model.record import Array

Output = Array | list[Array]
Outputs = Sequence[Output]
Labels = Array | Sequence[Any]
Reals = NDArray[np.float64]
Whole = NDArray[np.int64]

BLANK = 0  # the class of a CTC output that stands for no symbol
PADDING = -1  # of label sequences of unequal length
TOP = 5
FAITHFUL = 100.0  # dB: what the PSNR of one image may reach, as equal images would reach infinity
LEAST = 1e-12  # what no probability counts as less than, as a zero would make the divergence infinite
NEAR_ONE = 1e-2  # what rows of probabilities may differ from 1 by, in float16 and over many classes
NOTHING = np.iinfo(np.int64).min  # the answer of a row of NaN


# ---- classes -----------------------------------------------------------------------------------------------------


def accuracy(outputs: Outputs, labels: Labels) -> float:
    """The fraction of right answers.

    Raises:
        PruneError: the first output does not give one answer per label.
        UsageError: a label is no class.
    """
    answers, wanted = _answered(outputs[0], labels)
    return float((answers == wanted).mean())


def f1(outputs: Outputs, labels: Labels) -> float:
    """F1 of class 1 where there are two classes; else its plain mean over all classes labelled or answered."""
    answers, wanted = _answered(outputs[0], labels)
    known = _width(outputs[0])
    classes = np.union1d(answers, wanted)
    if known == 2 or (known is None and np.isin(classes, (0, 1)).all()):
        classes = np.ones(1, np.int64)
    else:
        classes = classes[classes != NOTHING]
    return float(np.mean([_f1(answers == one, wanted == one) for one in classes]))


def _f1(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    return 2 * float((found & wanted).sum()) / max(1.0, float(found.sum() + wanted.sum()))


def top5(outputs: Outputs, labels: Labels) -> float:
    """The fraction of rows whose label is among the five largest scores; of equal scores, the first come first."""
    table, wanted = _judged(outputs, labels)
    own = np.take_along_axis(table, wanted[:, None], axis=1)
    earlier = (table == own) & (np.arange(table.shape[1]) < wanted[:, None])
    rank = ((table > own) | earlier).sum(axis=1)
    return float(((rank < TOP) & ~np.isnan(table).any(axis=1)).mean())


def auc(outputs: Outputs, labels: Labels) -> float:
    """The chance that a random positive scores above a random negative, a tie counting half.

    For more than two classes, each against the rest by its probability, and the plain mean over those labelled.

    Raises:
        UsageError: all labels are the same.
    """
    table, wanted = _judged(outputs, labels)
    present = np.unique(wanted)
    if present.size < 2:
        raise UsageError(f"AUC needs rows of two classes; every label is {present[0]}.")
    if table.shape[1] == 2:
        return _auc(table[:, 1] - table[:, 0], wanted == 1)
    chances = np.exp(_log_chances(table, are=_are_chances(table)))
    return float(np.mean([_auc(chances[:, one], wanted == one) for one in present]))


def _auc(scores: Reals, positive: NDArray[np.bool_]) -> float:
    many, few = float(positive.sum()), float((~positive).sum())
    return float((_ranks(scores)[positive].sum() - many * (many + 1) / 2) / (many * few))


def agreement(outputs: Outputs, dense: Labels) -> float:
    """The fraction of answers that are the dense model's.

    Raises:
        PruneError: the two do not give equally many.
    """
    answers, wanted = _answers(outputs[0], dense[0]), _answers(dense[0])
    if answers.size != wanted.size or not wanted.size:
        raise PruneError(f"The first output gives {answers.size} answers, the dense model's {wanted.size}.")
    return float(((answers == wanted) & (wanted != NOTHING)).mean())


def kl(outputs: Outputs, dense: Labels) -> float:
    """The mean Kullback-Leibler divergence, in nats, of the answers from the dense model's.

    Of softmax along the last axis, or of the outputs as they are where the dense model's rows sum to 1.

    Raises:
        PruneError: the two are not of the same shape.
    """
    wanted, found = _table(list(dense)), _table(outputs, dense)
    if wanted.shape != found.shape or not wanted.size:
        raise PruneError(f"The scores are of shape {list(found.shape)}, the dense model's {list(wanted.shape)}.")
    are = _are_chances(wanted)
    p, q = (np.maximum(_log_chances(table, are=are), np.log(LEAST)) for table in (wanted, found))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


# ---- numbers, images, text ---------------------------------------------------------------------------------------


def spearman(outputs: Outputs, labels: Labels) -> float:
    """The rank correlation of labels with the model's numbers, or with the cosine similarities of its pairs.

    Taken is the first output of one number or one vector per row. Of vectors, rows 2i and 2i+1 are a pair, and there
    is one label per pair. Outputs that are all equal rank nothing: 0.

    Raises:
        PruneError: no output is such, or there are not as many numbers as labels.
        UsageError: all labels are equal.
    """
    wanted = np.asarray(labels, np.float64).ravel()
    output = next((o for o in outputs if isinstance(o, np.ndarray) and o.ndim <= 2 and _is_real(o) and o.size), None)
    if output is None:
        raise PruneError("No output is one number or one vector per row; name a metric of your own, module:function.")
    rows = _real(output).reshape(len(output), -1)
    single = rows.shape[1] == 1
    if len(rows) != wanted.size * (1 if single else 2):
        what = "numbers" if single else "vectors (two per label, one after the other)"
        raise PruneError(f"The output gives {len(rows)} {what} for {wanted.size} labels.")
    if np.ptp(wanted) == 0:
        raise UsageError(f"Spearman's correlation needs labels that differ; all are {wanted[0]:g}.")
    found = rows[:, 0] if single else _cosines(rows[::2], rows[1::2])
    return _correlation(_ranks(found), _ranks(wanted))


def _cosines(a: Reals, b: Reals) -> Reals:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(norms == 0, 1, norms))


def _correlation(a: Reals, b: Reals) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return 0.0 if norm == 0 else float((a * b).sum() / norm)


def _ranks(values: Reals) -> Reals:
    """Ranks from 1, equal values sharing the mean of theirs; NaN throughout if there is one."""
    if np.isnan(values).any():
        return np.full(values.shape, np.nan)
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which.ravel()])


def psnr(outputs: Outputs, labels: Labels, *, peak: float | None = None) -> float:
    """The mean over images of the peak signal-to-noise ratio, in dB, each at most `FAITHFUL`.

    Args:
        outputs: the first one is the images.
        labels: what they should be, of the same shapes.
        peak: the largest signal; without it, the range that all targets span.

    Raises:
        PruneError: shapes differ.
        UsageError: the targets span no range.
    """
    found, wanted = [np.asarray(x) for x in outputs[0]], [np.asarray(x) for x in labels]
    if [x.shape for x in found] != [x.shape for x in wanted] or not sum(x.size for x in wanted):
        raise PruneError(f"The first output is {_described(found)}; the targets are {_described(wanted)}.")
    if peak is None:
        peak = max(float(x.max()) for x in wanted) - min(float(x.min()) for x in wanted)
    if not peak > 0:
        raise UsageError("PSNR needs targets that are not all of one value.")
    return float(np.mean([_psnr(a, b, peak) for a, b in zip(found, wanted, strict=True)]))


def _psnr(found: Array, wanted: Array, peak: float) -> float:
    error = float(np.square(_real(found) - _real(wanted)).mean())
    noise = peak**2 / 10 ** (FAITHFUL / 10)
    return float(10 * np.log10(peak**2 / np.maximum(error, noise)))


def cer(outputs: Outputs, labels: Labels) -> float:
    """Character errors of greedy CTC decoding: insertions, deletions and substitutions per labelled symbol.

    Raises:
        PruneError: the first output has not as many rows as there are labels.
        UsageError: a label holds the blank, or all are empty.
    """
    pairs = _decoded(outputs[0], labels)
    if not sum(wanted.size for _, wanted in pairs):
        raise UsageError("The character error rate needs labels that are not all empty.")
    return sum(_distance(found, wanted) for found, wanted in pairs) / sum(wanted.size for _, wanted in pairs)


def exact(outputs: Outputs, labels: Labels) -> float:
    """The fraction of rows that greedy CTC decoding reads without an error."""
    return float(np.mean([np.array_equal(found, wanted) for found, wanted in _decoded(outputs[0], labels)]))


def _decoded(output: Output, labels: Labels) -> list[tuple[Whole, Whole]]:
    if len(output) != len(labels) or not len(labels):
        raise PruneError(f"The first output gives {len(output)} sequences for {len(labels)} labels.")
    wanted = [np.asarray(row, np.int64).ravel() for row in labels]
    if any((row == BLANK).any() for row in wanted):
        raise UsageError(f"A label holds {BLANK}, the blank; symbols are counted from 1 and padded with {PADDING}.")
    return [(greedy(row), one[one != PADDING]) for row, one in zip(output, wanted, strict=True)]


def greedy(row: Array) -> Whole:
    """One row of a CTC output as symbols: the best class of each step, repeats merged, blanks left out.

    Args:
        row: steps x classes, or the steps' classes as whole numbers.
    """
    steps = _answers([row])
    first = np.append(True, steps[1:] != steps[:-1])[: steps.size]
    return np.asarray(steps[first & (steps != BLANK)])


def _distance(a: Whole, b: Whole) -> int:
    """Levenshtein's, a row of the table at a time: what is deleted follows from a running minimum."""
    place = np.arange(b.size + 1)
    row = place.copy()
    for symbol in a:
        new = row + 1
        new[1:] = np.minimum(new[1:], row[:-1] + (b != symbol))
        row = np.minimum.accumulate(new - place) + place
    return int(row[-1])


# ---- outputs as answers and scores -------------------------------------------------------------------------------


def _answered(output: Output, labels: Labels) -> tuple[Whole, Whole]:
    answers, wanted = _answers(output), np.asarray(labels).ravel()
    _check(answers.size, _width(output), wanted)
    return answers, wanted


def _judged(outputs: Outputs, labels: Labels) -> tuple[Reals, Whole]:
    table, wanted = _table(outputs), np.asarray(labels).ravel()
    _check(len(table), table.shape[1], wanted)
    return table, wanted


def _check(answers: int, classes: int | None, labels: Array) -> None:
    if answers != labels.size or not answers:
        raise PruneError(f"The first output gives {answers} answers for {labels.size} labels.")
    if classes is not None and (labels.min() < 0 or labels.max() >= classes):
        raise UsageError(
            f"Labels run from {labels.min()} to {labels.max()}, but the first output has {classes} classes, from 0."
        )


def _answers(output: Output, dense: Output | None = None) -> Whole:
    """The class of every row; none where the output is no scores."""
    parts = _columns(output, dense)
    if not parts or any(x.dtype.kind in "OUSc" or x.shape[-1] == 0 for x in parts):
        return np.zeros(0, np.int64)
    if _are_classes(parts):
        return np.concatenate([x.ravel() for x in parts]).astype(np.int64)
    return np.concatenate([np.where(np.isnan(x).any(axis=-1), NOTHING, x.argmax(axis=-1)).ravel() for x in parts])


def _table(outputs: Outputs, dense: Labels | None = None) -> Reals:
    """Rows x classes, of the first output that is real numbers, or else of the first."""
    which = next((i for i, output in enumerate(outputs) if all(map(_is_real, _parts(output)))), 0)
    parts = _columns(outputs[which], None if dense is None else dense[which])
    widths = {x.shape[-1] for x in parts}
    if len(widths) != 1 or not min(widths) or any(x.dtype.kind in "OUSc" for x in parts):
        return np.zeros((0, 0))
    return np.concatenate([_real(x).reshape(-1, x.shape[-1]) for x in parts])


def _columns(output: Output, dense: Output | None = None) -> list[Array]:
    """Scores along the last axis; a single number becomes two, as it is or as it would be in the dense model."""
    parts = _parts(output)
    if not _are_single(parts):
        return parts
    judged = parts if dense is None else _parts(dense)
    chances = all(((x >= 0) & (x <= 1)).all() for x in judged)
    return [np.concatenate([1 - x if chances else np.zeros_like(x), x], axis=-1) for x in parts]


def _parts(output: Output) -> list[Array]:
    if isinstance(output, list):
        return [_known(np.atleast_1d(x)) for x in output]
    return [_known(output if output.ndim > 1 else output.reshape(-1, 1))]


def _known(values: Array) -> Array:
    """Numbers of a type that numpy has: bfloat16 and its like as float64."""
    return values.astype(np.float64) if values.dtype.kind == "V" else values


def _width(output: Output) -> int | None:
    """The number of classes; ``None`` where the output is the classes themselves."""
    parts = _columns(output)
    return None if _are_classes(parts) else min((x.shape[-1] for x in parts), default=0)


def _are_single(parts: Iterable[Array]) -> bool:
    return all(_is_real(x) and x.shape[-1] == 1 for x in parts)


def _are_classes(parts: Iterable[Array]) -> bool:
    return all(x.dtype.kind in "iu" and x.dtype.itemsize >= 4 for x in parts)


def _are_chances(table: Reals) -> bool:
    return bool((table >= 0).all() and (np.abs(table.sum(axis=-1) - 1) <= NEAR_ONE).all())


def _log_chances(table: Reals, *, are: bool) -> Reals:
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(table) if are else table
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _is_real(values: Array) -> bool:
    return values.dtype.kind in "fV"


def _real(values: Array) -> Reals:
    return values.astype(np.float64)


def _described(rows: Sequence[Array]) -> str:
    return f"{len(rows)} arrays" + (f", the first of shape {list(rows[0].shape)}" if rows else "")
