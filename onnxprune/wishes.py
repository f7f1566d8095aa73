"""What the user asks for: how much goes, what stays, and what is done for accuracy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxprune.algebra.pins import ATTENTION, Protection
from onnxprune.budget.allocation import Budget, auto_align
from onnxprune.errors import UsageError, unknown
from onnxprune.recovery.methods import METHODS

SCHEDULES = ("auto", "scores", "one-shot", "iterative", "dynamic")


@dataclass(frozen=True)
class Recipe:
    """What the user asked for.

    Attributes:
        ratio, params, macs, bytes, latency, max_drop: the budget; exactly one is given
            (see `onnxprune.budget.allocation.Budget`).
        speedup: the same as a latency of 1 / speedup.
        criterion: the name of a criterion, or a combination of several (`onnxprune criteria` lists them); ``"auto"``
            tries several and keeps the one whose result differs least on held-out data; by default ``obs`` where what
            is left is recovered, else ``l2``.
        step: ``"K/N"``: only the K-th of N equal steps towards the budget, for whoever trains in between.
        align: kept widths are multiples of this; ``"auto"`` is 16 on CPUs with AVX-512, else 8.
        min_keep: the units that every group keeps at least.
        protect: names or globs of nodes and tensors that stay whole.
        protect_first, protect_last: whether the first, the last layers stay whole.
        attention: what of an attention goes, ``"heads"`` or ``"dims"``.
        normalized_axes: whether axes that a normalisation runs over may go; removing is not zeroing there.
        seed: of everything random.
    """

    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None
    speedup: float | None = None
    max_drop: float | None = None
    criterion: str | None = None
    step: str | None = None
    align: int | str = "auto"
    min_keep: int = 1
    protect: tuple[str, ...] = ()
    protect_first: bool = False
    protect_last: bool = False
    attention: str = "heads"
    normalized_axes: bool = False
    seed: int = 0

    @property
    def protection(self) -> Protection:
        """What stays whole.

        Raises:
            UsageError: a name is empty.
        """
        if not all(self.protect):
            raise UsageError("A name to protect is empty. Name a node or a tensor.")
        if self.attention not in ATTENTION:
            raise unknown("way to cut attention", self.attention, ATTENTION)
        choices = self.attention, self.normalized_axes
        return Protection(tuple(self.protect), self.protect_first, self.protect_last, *choices)

    @property
    def timed(self) -> bool:
        """Whether the budget is time."""
        return self.latency is not None or self.speedup is not None

    @property
    def budget(self) -> Budget:
        """How much goes.

        Raises:
            UsageError: a number is out of range, or not exactly one budget is given.
        """
        if self.align != "auto" and not isinstance(self.align, int):
            raise UsageError(f"align must be a whole number or 'auto', not {self.align!r}.")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, not {self.seed!r}.")
        align = auto_align() if self.align == "auto" else int(self.align)
        whole = Budget(
            self.ratio, self.params, self.macs, self.bytes, self._latency, self.max_drop, align, self.min_keep
        )
        return whole if self.step is None else whole.part(*_fraction(self.step))

    @property
    def _latency(self) -> float | None:
        if self.speedup is None:
            return self.latency
        if self.latency is not None:
            raise UsageError("Give one of latency and speedup.")
        if not self.speedup >= 1:  # NaN fails too
            raise UsageError(f"speedup must be at least 1, not {self.speedup!r}.")
        return 1 / self.speedup


def _fraction(text: str) -> tuple[int, int]:
    """K and N of ``K/N``.

    Raises:
        UsageError: it is written otherwise.
    """
    found = re.fullmatch("([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", text)
    if not found or int(found[1]) > int(found[2]):
        raise UsageError(f"A step is written K/N, the K-th of N, not {text!r}.")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Effort:
    """What is done for accuracy.

    Attributes:
        recover: how what is left makes up for what went (see `onnxprune.recovery.methods.METHODS`);
            ``"none"`` leaves every kept weight as it is, bit for bit.
        schedule: ``"scores"`` spends the budget by scores alone, ``"one-shot"`` by loss curves measured once,
            ``"iterative"`` by curves measured anew after each part of it; ``"dynamic"`` goes in steps that held-out
            data accept or roll back; ``"auto"`` tries the two in the middle.
        samples: how many rows of the data calibrate, at most.
        sensitivity: a file of loss curves that `onnxprune.sensitivity` measured, so that they need not be again.
    """

    recover: str = "auto"
    schedule: str = "auto"
    samples: int = 256
    sensitivity: str | None = None

    def __post_init__(self) -> None:
        if self.recover not in METHODS:
            raise unknown("recovery", self.recover, METHODS)
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.samples < 1:
            raise UsageError(f"samples must be at least 1, not {self.samples!r}.")
