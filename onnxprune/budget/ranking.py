"""The score of every unit of a model, by the criterion that was asked for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.cost import CostModel
from onnxprune.algebra.registry import load
from onnxprune.criteria.base import Criterion, Numbers, Part, Scores, Slice, Subject
from onnxprune.criteria.combined import parse
from onnxprune.model.record import Array


class Evidence(Protocol):
    """What a criterion may want to know beyond the weights, group by group."""

    def parts(self, group: int) -> Sequence[Part]:
        """The linear layers that read a group's units."""

    def gates(self, group: int) -> Scores:
        """The gradients of losses at the gates of a group's units, (losses, units)."""

    def projections(self, group: int) -> Scores:
        """The gradients of random projections of the outputs at the gates of a group's units, (projections, units)."""

    def labelled(self) -> bool:
        """Whether losses are taken at labels."""


@dataclass(frozen=True)
class Ranking:
    """The score of every unit, the groups that have none, with the reason, and what else the user should know."""

    scores: Scores
    unscored: dict[int, str]
    notes: list[str] = field(default_factory=list)


def rank(
    analysis: Analysis,
    name: str = "l2",
    seed: int = 0,
    *,
    evidence: Evidence | None = None,
    ratio: float | None = None,
    cost: CostModel | None = None,
) -> Ranking:
    """Score every unit, group by group.

    Args:
        analysis: the model's units.
        name: a criterion, or a combination of several: ``vote(l1,obs)``.
        seed: of everything random.
        evidence: what is known beyond the weights.
        ratio: the fraction of units that is to go, where it is known.
        cost: what removing a unit saves, where that counts.

    Raises:
        UsageError: no criterion has this name, or it needs what was not given.
    """
    table: Mapping[str, Criterion] = load("criteria")
    score = parse(name, table)
    rng = np.random.default_rng(seed)
    scores = np.zeros(analysis.units)
    unscored: dict[int, str] = {}
    cache: dict[object, Scores] = {}
    notes: list[str] = []
    slices = _slices(analysis)
    for group in range(analysis.groups):
        units = analysis.members(group)
        subject = Subject(
            len(units),
            slices[group],
            rng,
            ratio=0.5 if ratio is None else ratio,
            read=partial(evidence.parts, group) if evidence else None,
            sense=partial(evidence.gates, group) if evidence else None,
            project=partial(evidence.projections, group) if evidence else None,
            labelled=evidence.labelled if evidence else lambda: False,
            price=partial(_prices, cost, units) if cost else None,
            cache=cache,
        )
        found = score(subject)
        notes += [note for note in subject.notes if note not in notes]
        if np.isfinite(found).all():
            scores[units] = found
        else:
            unscored[group] = _culprit(subject)
    return Ranking(scores, unscored, notes)


def _slices(analysis: Analysis) -> Mapping[int, Sequence[Slice]]:
    """Where the units of each group lie; scales and zero points count in the values of the codes they belong to."""
    local = np.zeros(analysis.units, dtype=np.int64)
    for group in range(analysis.groups):
        units = analysis.members(group)
        local[units] = np.arange(len(units))
    found: dict[int, list[Slice]] = defaultdict(list)
    for (tensor, axis), units in analysis.slices():
        if tensor in analysis.codes.parameters:
            continue
        held = units >= 0
        for group in np.unique(analysis.group_of[units[held]]):
            own = held & (analysis.group_of[units] == group)
            scale = (tensor, axis) in analysis.scales
            found[int(group)].append(
                Slice(tensor, axis, np.where(own, local[units], -1), scale, _reader(analysis, tensor))
            )
    return found


def _prices(cost: CostModel, units: Numbers) -> Scores:
    """The multiply-accumulates that each unit alone saves; parameters where there are none."""
    saved = np.zeros(len(units))
    dense = cost.dense
    mask = np.zeros(cost.units, dtype=bool)
    for place, unit in enumerate(units):
        mask[unit] = True
        less = cost(mask)
        saved[place] = (dense.macs - less.macs) or (dense.params - less.params)
        mask[unit] = False
    return saved


def needs(name: str) -> set[str]:
    """What the criteria of a name, or a combination of names, cannot do without."""
    table: Mapping[str, Criterion] = load("criteria")
    return {table[word].needs for word in re.findall(r"[^\s(),]+", name) if word in table}


def _culprit(subject: Subject) -> str:
    """Why a group cannot be scored."""
    bad = next((s.tensor for s in subject.slices if not np.isfinite(s.load().astype(np.float64)).all()), "")
    return f"{bad!r} holds NaN or infinite values" if bad else "its scores are not finite"


def _reader(analysis: Analysis, tensor: str) -> Callable[[], Array]:
    """Reads a weight's values as a type that numpy computes with."""

    def read() -> Array:
        array = np.asarray(analysis.graph.constant(tensor))
        if tensor in analysis.codes.readings:
            return analysis.codes.decode(tensor, array)
        return array if array.dtype.kind in "fiu" else array.astype(np.float32)

    return read
