"""What criteria of data share: the linear layers that read a group, each counting by the variance of what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import numpy as np

from onnxprune.criteria.base import Numbers, Part, Score, Scores, Subject
from onnxprune.criteria.weights import group_norm
from onnxprune.recovery.moments import Matrix

DIGITS = 9
"""Decimals of an error, relative to an output's variance, that decide who goes: what is beyond them differs with the
number of threads."""

ReaderScore = Callable[[Subject, Sequence[Part]], Scores]


def of_readers(score: ReaderScore) -> Score:
    """A criterion of the layers that read a group; where there are none, ``group-norm`` takes its place."""

    @wraps(score)
    def call(subject: Subject) -> Scores:
        if not subject.parts:
            subject.note("no linear layer reads these units: scored by group-norm")
            return group_norm(subject)
        if not all(np.isfinite(part.layer.spread) for part in subject.parts):
            return np.full(subject.size, np.nan)
        read = np.unique(np.concatenate([part.units for part in subject.parts]))
        if unread := subject.size - (read >= 0).sum():
            subject.note(f"{unread} of {subject.size} units are read by no linear layer: they score 0")
        return score(subject, [part for part in subject.parts if part.layer.spread > 0])

    return call


def per_unit(values: Matrix, part: Part, size: int) -> Scores:
    """Σ of a number of each column, per unit."""
    held = part.units >= 0
    return np.bincount(part.units[held], values[held], minlength=size).astype(np.float64)


def energies(part: Part, size: int, second: Matrix) -> Matrix:
    """E⟨U_p x_p, U_q x_q⟩ of what every two units give the layer's output, from the (D, D) second moments of x."""
    held = np.flatnonzero(part.units >= 0)
    held = held[np.argsort(part.units[held], kind="stable")]
    weight = part.layer.weight[:, held]
    own = (weight.T @ weight) * second[np.ix_(held, held)]
    present, starts = np.unique(part.units[held], return_index=True)
    found = np.zeros((size, size))
    if len(held):
        found[np.ix_(present, present)] = np.add.reduceat(np.add.reduceat(own, starts, axis=0), starts, axis=1)
    return found


def joint_energies(parts: Sequence[Part], size: int, *, centred: bool) -> Matrix:
    """The `energies` of all layers together, each divided by its spread."""
    total = np.zeros((size, size))
    for part in parts:
        layer = part.layer
        total += energies(part, size, layer.covariance if centred else layer.gram) / layer.spread
    return total


def along(order: Numbers, values: Scores) -> Scores:
    """Scores that ascend strictly in the order in which units go: their values, raised where they do not ascend."""
    scores = np.zeros(len(order))
    last = -np.inf
    for unit, value in zip(order, np.round(values, DIGITS), strict=True):
        last = max(float(value), float(np.nextafter(last, np.inf))) if np.isfinite(last) else float(value)
        scores[unit] = last
    return scores
