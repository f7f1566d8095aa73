"""The three questions, each asked by itself: is the surgery right, do the providers agree, what did it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.graph import Graph
from onnxprune.data import runtime
from onnxprune.data.inputs import Feed, Shapes
from onnxprune.data.runtime import LEVELS, Session
from onnxprune.errors import UsageError, unknown
from onnxprune.model.record import Record
from onnxprune.verification.comparison import BY_TYPE, Comparison, Rules, compare, failures, forgive_rounding
from onnxprune.verification.divergence import Divergence, Kept, Side, first_difference
from onnxprune.verification.placement import Placement, placed


@dataclass(frozen=True)
class Setup:
    """A provider, and how far ONNX Runtime may optimise there."""

    provider: str
    optimization: str = "all"

    def __str__(self) -> str:
        return self.provider if self.optimization == "all" else f"{self.provider}/{self.optimization}"

    def load(self, model: Path | bytes) -> Session:
        """A model in this setup.

        Raises:
            ProviderError: the provider is missing, or ONNX Runtime fell back to another.
        """
        return Session(model, self.provider, optimization=self.optimization)


PLAIN = Setup("cpu", "off")
"""What every other setup has to agree with: ONNX Runtime's own kernels, one node at a time."""


def setups(providers: Sequence[str], levels: Sequence[str]) -> list[Setup]:
    """Every provider at every level, each once.

    Raises:
        ProviderError: a provider is missing.
        UsageError: there is no such level, or no provider is named.
    """
    odd = next((level for level in levels if level not in LEVELS), None)
    if odd is not None:
        raise unknown("optimization level", odd, LEVELS)
    if not (providers and levels):
        raise UsageError("Name at least one provider and one optimization level.")
    names = [runtime.short(runtime.provider(name)) for name in providers]
    return [Setup(*pair) for pair in dict.fromkeys(product(names, levels))]


def rules(tolerance: float | None, equal_nan: bool, share: float | None) -> Rules:
    """What may differ.

    Raises:
        UsageError: the tolerance, or the share that a provider must run, is no fraction.
    """
    for name, fraction in (("A tolerance is a fraction of the output's range", tolerance), ("A share", share)):
        if fraction is not None and not (math.isfinite(fraction) and 0 <= fraction <= 1):
            raise UsageError(f"{name}, from 0 to 1, not {fraction!r}.".replace("A share,", "A share is a fraction,"))
    return Rules(tolerance, equal_nan)


@dataclass(frozen=True)
class Answers:
    """What was asked of two models, or of one.

    Attributes:
        surgery: by setup, the candidate against the reference (with a plan: against its zeroed form).
        agreement: by setup, the candidate there against itself on the CPU without optimisations.
        cost: with a plan, the candidate against the dense model: what the cut cost, which nothing has to pass.
        placement: where the candidate's nodes ran, by setup.
        divergence: by question and setup, the first tensor that differs.
    """

    surgery: dict[str, list[Comparison]] = field(default_factory=dict)
    agreement: dict[str, list[Comparison]] = field(default_factory=dict)
    cost: list[Comparison] = field(default_factory=list)
    placement: dict[str, Placement] = field(default_factory=dict)
    divergence: dict[str, dict[str, Divergence]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return all(
            found for part in (self.surgery, self.agreement) for comparisons in part.values() for found in comparisons
        )

    @property
    def reason(self) -> str:
        """The first of what differs, in one line; empty if nothing does."""
        for question, parts in (("surgery", self.surgery), ("agreement", self.agreement)):
            for where, found in parts.items():
                if not all(found):
                    parted = self.divergence.get(question, {}).get(where)
                    return f"on {where}: {failures(found)}{f'; {parted}' if parted else ''}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "providers": {name: [c.to_json() for c in found] for name, found in self.surgery.items()},
            "agreement": {name: [c.to_json() for c in found] for name, found in self.agreement.items()},
            "cost": [c.to_json() for c in self.cost],
            "placement": {name: found.to_json() for name, found in self.placement.items()},
            "divergence": {
                question: {name: found.to_json() for name, found in parts.items()}
                for question, parts in self.divergence.items()
            },
        }


@dataclass
class Questions:
    """Asks.

    Attributes:
        feeds: what models are run on.
        where: the setups.
        rules: what may differ.
        answers: so far.
        problem: what else is wrong.
    """

    feeds: Sequence[Feed]
    where: Sequence[Setup]
    rules: Rules = BY_TYPE
    answers: Answers = field(default_factory=Answers)
    problem: str = ""

    def same(self, reference: Path, candidate: Path, kept: Kept | None = None, dense: Session | None = None) -> None:
        """Whether two models give the same outputs, setup by setup.

        Args:
            reference: what should come out.
            candidate: what came out.
            kept: what of an intermediate tensor of the reference the candidate should have.
            dense: the model before the cut; then differences that the reference's own rounding explains are forgiven.
        """
        for setup in self.where:
            first = setup.load(reference)
            found = compare(first, setup.load(candidate), self.feeds, dense, self.rules)
            if dense and self.rules.tolerance is None and not all(found):
                noise = compare(first, Setup(setup.provider, "off").load(reference), self.feeds, rules=self.rules)
                forgive_rounding(found, noise)
            self.answers.surgery[str(setup)] = found
            self._note("surgery", setup, found, (reference, setup), (candidate, setup), kept)

    def cost(self, dense: Session, candidate: Path) -> None:
        """How far a cut model's outputs are from the dense one's, in the first setup."""
        self.answers.cost.extend(compare(dense, self.where[0].load(candidate), self.feeds, rules=self.rules))

    def agreed(self, model: Path) -> None:
        """Whether a model gives the same outputs everywhere.

        Raises:
            UsageError: there is but one place to run it in.
        """
        if list(self.where) == [PLAIN]:
            raise UsageError(f"One model is compared with itself on {PLAIN}: name another provider or level, too.")
        plain = PLAIN.load(model)
        for setup in self.where:
            if setup != PLAIN:
                found = compare(plain, setup.load(model), self.feeds, rules=self.rules)
                self.answers.agreement[str(setup)] = found
                self._note("agreement", setup, found, (model, PLAIN), (model, setup))

    def placed(self, analysis: Analysis, shapes: Shapes, folder: Path, required: float | None) -> None:
        """Where the nodes of a model ran, and whether the providers ran as much as is required."""
        for setup in self.where:
            found = placed(analysis, setup.provider, setup.optimization, self.feeds[0], shapes, folder)
            self.answers.placement[str(setup)] = found
            if required is not None and found.share < required and not self.problem:
                did = f"{setup.provider} ran {found.share:.1%} of its {found.measure} only"
                self.problem = f"{did}, and {required:.1%} are required"

    def _note(
        self,
        question: str,
        setup: Setup,
        found: Iterable[Comparison],
        reference: tuple[Path, Setup],
        candidate: tuple[Path, Setup],
        kept: Kept | None = None,
    ) -> None:
        """Name the first tensor that differs, if an output does."""
        if all(comparison or comparison.void for comparison in found):
            return
        first, second = (Side(Graph(Record(path)), at.load) for path, at in (reference, candidate))
        parted = first_difference(first, second, self.feeds, kept, self.rules)
        if parted is not None:
            self.answers.divergence.setdefault(question, {})[str(setup)] = parted
