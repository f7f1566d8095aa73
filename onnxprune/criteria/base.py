"""What a criterion is, and what it sees: one group of units, its weights, and what its consumers read.

A criterion gives every unit of a group a score: the higher, the more the unit matters. It knows neither operators nor
graphs. Scores are float64 whatever the weights' type, so that half precision does not overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.registry import add
from onnxprune.errors import UsageError
from onnxprune.model.record import Array
from onnxprune.recovery.moments import Layer

Scores = NDArray[np.float64]
Numbers = NDArray[np.int64]
Needs = Literal["nothing", "data", "labels", "gradients"]
SliceScore = Callable[[Array, int, np.random.Generator], Scores]


class Slice(NamedTuple):
    """An axis of a constant tensor on which units of a group lie.

    Attributes:
        tensor: the tensor's name.
        axis: which of its axes.
        units: for each index of the axis the unit, counted within the group, or -1.
        scale: whether the tensor is what a normalisation multiplies its result by (BN's gamma).
        load: the tensor's values.
    """

    tensor: str
    axis: int
    units: Numbers
    scale: bool
    load: Callable[[], Array]


class Part(NamedTuple):
    """A linear layer that reads units of a group.

    Attributes:
        layer: the layer.
        units: (D), for each column of its weight the unit, counted within the group, or -1.
    """

    layer: Layer
    units: Numbers

    def columns(self, unit: int) -> Numbers:
        """The columns of one unit."""
        return np.flatnonzero(self.units == unit)


@dataclass
class Subject:
    """One group of units, as a criterion sees it.

    Attributes:
        size: how many units it has.
        slices: where its units lie in constant tensors.
        rng: of everything random.
        ratio: the fraction of units that is to go, where it is known; a half otherwise.
        read: gathers what its consumers read; ``None`` without data.
        sense: gathers the gradient of the loss at a gate of 1 behind every unit, (losses, units).
        project: gathers the same of the outputs, projected on random signs, as parts of their spread.
        labelled: tells whether losses are taken at labels, not at the model's own answers.
        price: for each unit, what removing it alone saves (parameters or MACs).
        cache: of scores per index, shared by the groups of a model.
        notes: what the user should know of how it was scored: a criterion that fell back to another one, and why.
    """

    size: int
    slices: Sequence[Slice]
    rng: np.random.Generator
    ratio: float = 0.5
    read: Callable[[], Sequence[Part]] | None = None
    sense: Callable[[], Scores] | None = None
    project: Callable[[], Scores] | None = None
    labelled: Callable[[], bool] = lambda: True
    price: Callable[[], Scores] | None = None
    cache: dict[object, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The linear layers that read its units.

        Raises:
            UsageError: there is no data to know what they read.
        """
        if self.read is None:
            raise UsageError("This criterion needs data: give --data.")
        return self.read()

    @cached_property
    def gates(self) -> Scores:
        """The gradient of each loss at a gate of 1 behind each unit, (losses, units).

        Raises:
            UsageError: there is no data to take gradients on.
        """
        if self.sense is None:
            raise UsageError("This criterion needs gradients: give --data, and --labels unless they are label-free.")
        return self.sense()

    @cached_property
    def projections(self) -> Scores:
        """The gradient of each random projection of the outputs at a gate of 1 behind each unit, (projections, units).

        Raises:
            UsageError: there is no data to take gradients on.
        """
        if self.project is None:
            raise UsageError("This criterion needs gradients: give --data.")
        return self.project()

    def summed(self, score: SliceScore, slices: Sequence[Slice] | None = None) -> Scores:
        """Σ of a score of indices over all slices (or over these), per unit."""
        total = np.zeros(self.size)
        for piece in self.slices if slices is None else slices:
            key = (score, piece.tensor, piece.axis)
            if key not in self.cache:
                self.cache[key] = score(piece.load(), piece.axis, self.rng)
            held = piece.units >= 0
            np.add.at(total, piece.units[held], self.cache[key][held])
        return total


Score = Callable[[Subject], Scores]


@dataclass(frozen=True)
class Criterion:
    """A way to score units.

    Attributes:
        name: as practitioners know it.
        score: scores a group, higher is better; may raise `onnxprune.errors.UsageError`.
        formula: what it computes, in one line.
        needs: what it cannot do without.
        source: author and year.
        combine: makes one score of the criteria named in parentheses: ``vote(l1,obs)``.
        tune: makes a score of the text in parentheses: ``threshold(2std)``.
    """

    name: str
    score: Score
    formula: str
    needs: Needs
    source: str
    combine: Callable[[Sequence[Score]], Score] | None = None
    tune: Callable[[str], Score] | None = None


CRITERIA: dict[str, Criterion] = {}


def criterion(
    name: str,
    formula: str,
    needs: Needs,
    source: str,
    *,
    combine: Callable[[Sequence[Score]], Score] | None = None,
    tune: Callable[[str], Score] | None = None,
) -> Callable[[Score], Score]:
    """Enter a function into the table of criteria."""

    def enter(function: Score) -> Score:
        add(CRITERIA, name, Criterion(name, function, formula, needs, source, combine, tune), "criterion")
        return function

    return enter
