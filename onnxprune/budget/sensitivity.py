"""How sensitive each group is: what removing more and more of it costs, with and without a refit.

Nothing is cut for this: the weights of every candidate are fed to one session as inputs, zeros where units are gone,
and what comes before the group is run once for all of them. A plan can spend its budget by what was measured here, as
long as model, data and settings are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from onnxprune.algebra.closure import Mask
from onnxprune.budget.curves import FLOOR, Curve, place_of
from onnxprune.budget.heldout import Loss
from onnxprune.budget.study import Study
from onnxprune.data.inputs import Feed
from onnxprune.errors import FileError, RefusedError
from onnxprune.model import files
from onnxprune.recovery.compensation import compensated
from onnxprune.recovery.statistics import Statistics
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal

FORMAT, VERSION = "onnxprune-sensitivity", 1
RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
Score = Callable[[Values, int], float]


@dataclass(frozen=True)
class Outcome:
    """What a candidate does on held-out data.

    Attributes:
        error: the squared error of the outputs as a fraction of their variance.
        agreement: the fraction of rows of the first output whose largest entry is the same.
        score: the user's metric, if there is one.
    """

    error: float
    agreement: float
    score: float | None = None

    @classmethod
    def of(cls, loss: Loss, score: float | None) -> Outcome:
        """A loss, and a metric's number."""
        return cls(loss.error, loss.agreement, score)

    def to_json(self) -> dict[str, Any]:
        """As plain data; an infinite error is written as text."""
        return {**asdict(self), **Loss(self.error, self.agreement).to_json()}


@dataclass(frozen=True)
class Point:
    """A group without so many of its units: as it is then, and once its readers make up for them."""

    removed: int
    plain: Outcome
    refit: Outcome


@dataclass(frozen=True)
class Sensitive:
    """One group.

    Attributes:
        id, kind, units, axes: as `onnxprune inspect` lists it.
        points: what was measured, ascending; the last is all that may go.
    """

    id: int
    kind: str
    units: int
    axes: list[str]
    points: list[Point]

    def at(self, ratio: float) -> Point | None:
        """The point nearest to a ratio, if one is near it."""
        near = min(self.points, key=lambda p: abs(p.removed / self.units - ratio), default=None)
        return near if near is not None and abs(near.removed / self.units - ratio) <= 0.5 / self.units + 1e-9 else None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        points = [
            {"removed": p.removed, "ratio": p.removed / self.units, **p.plain.to_json(), "refit": p.refit.to_json()}
            for p in self.points
        ]
        return {"id": self.id, "kind": self.kind, "units": self.units, "axes": self.axes, "points": points}


def settings(study: Study, criterion: str) -> dict[str, Any]:
    """What a measurement holds for: it is the same if these are."""
    model = study.model
    return {
        "model": model.record.sha256,
        "data": _digest(study.feeds),
        "criterion": criterion,
        "seed": study.seed,
        "protection": json.loads(json.dumps(asdict(model.protection))),
    }


def _digest(feeds: Sequence[Feed]) -> str:
    found = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
            found.update(f"{name} {array.dtype} {array.shape} ".encode() + data)
    return found.hexdigest()


def measured(
    study: Study, statistics: Statistics, plain: Sequence[Curve], ratios: Sequence[float], score: Score | None = None
) -> list[Sensitive]:
    """Every group's curve.

    Args:
        study: of the model.
        statistics: of the dense model, on data other than the held-out.
        plain: the order in which units go, and how many may.
        ratios: fractions of each group's units to remove.
        score: the user's metric of a model with these values, given the first node that reads one of them.
    """
    analysis, held_out = study.analysis, study.held_out
    starts = [place_of(statistics, curve) for curve in plain]
    makers: tuple[Callable[[Mask], Values], ...] = (
        lambda mask: removal.zeroed(analysis, mask, statistics.values),
        lambda mask: compensated(statistics, mask),
    )
    found: dict[int, Sensitive] = {}
    held_out.start(statistics.values)
    with threadpool_limits(1):
        for group in np.argsort(starts, kind="stable").tolist():
            study.progress(f"group {group}, {len(found) + 1} of {len(plain)}")
            counts = _counts(plain[group], len(analysis.members(group)), ratios)
            outcomes: list[list[Outcome]] = []
            for make in makers:  # one after the other, so that each needs one session
                outcomes.append([])
                for count in counts:
                    values = make(_gone(study.none, plain[group], count))
                    loss = held_out.loss(values, starts[group], fed=True)
                    outcomes[-1].append(Outcome.of(loss, score(values, starts[group]) if score else None))
            points = [Point(*each) for each in zip(counts, *outcomes, strict=True)]
            found[group] = Sensitive(
                group,
                analysis.kind(group),
                len(analysis.members(group)),
                [f"{name}:{axis}" for name, axis in analysis.weight_axes_of(group)],
                points,
            )
    return [found[group] for group in range(len(plain))]


def _counts(curve: Curve, units: int, ratios: Sequence[float]) -> list[int]:
    """For each ratio the nearest number of units that may go, and all that may."""
    near = [int(curve.counts[np.abs(curve.counts - ratio * units).argmin()]) for ratio in ratios]
    return sorted({*near, int(curve.counts[-1])} - {0})


def _gone(none: Mask, curve: Curve, count: int) -> Mask:
    mask = none.copy()
    mask[curve.order[:count]] = True
    return mask


@dataclass(frozen=True)
class Known:
    """Curves that were measured before.

    Attributes:
        name: of their file.
        settings: what they hold for.
        points: for each group how many units go, and what that costs with a refit.
    """

    name: str
    settings: Mapping[str, Any]
    points: Sequence[tuple[list[int], list[float]]]

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Whether they hold here.

        Raises:
            RefusedError: they were measured with something else.
        """
        for name, value in wanted.items():
            if self.settings.get(name) != value:
                raise RefusedError(
                    f"{self.name!r} was measured with another {name}. Measure again with what the plan is made with."
                )

    def curves(self, plain: Sequence[Curve]) -> list[Curve]:
        """The measured losses, between the points on straight lines.

        Raises:
            RefusedError: there are other groups.
        """
        if len(plain) != len(self.points):
            raise RefusedError(f"{self.name!r} has {len(self.points)} groups, the model {len(plain)}. Measure again.")
        return [self._curve(curve, *points) for curve, points in zip(plain, self.points, strict=True)]

    @staticmethod
    def _curve(curve: Curve, counts: list[int], errors: list[float]) -> Curve:
        losses = np.maximum.accumulate([0.0, *np.nan_to_num(errors, posinf=1e6)])
        every = np.interp(curve.counts, [0, *counts], losses)
        return Curve(curve.order, curve.counts, every + FLOOR * curve.counts / max(1, curve.counts[-1]))


def known(path: str, study: Study, criterion: str) -> Known:
    """What was measured before, if it holds for this study.

    Raises:
        FileError: the file cannot be read.
        RefusedError: it is something else, or was measured with other settings.
    """
    found = read(path)
    found.check(settings(study, criterion))
    return found


def read(path: str) -> Known:
    """Read what `onnxprune sensitivity --json` wrote.

    Raises:
        FileError: it cannot be read.
        RefusedError: it is something else.
    """
    files.check_readable(Path(path))
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise ValueError("another format")
        points = [
            ([int(p["removed"]) for p in group["points"]], [float(p["refit"]["error"]) for p in group["points"]])
            for group in document["groups"]
        ]
        if any(counts != sorted(set(counts)) or min([1, *counts]) < 1 for counts, _ in points):
            raise ValueError("points out of order")
        return Known(path, dict(document["settings"]), points)
    except OSError as error:
        raise FileError(f"Cannot read {path!r}: {files.reason(error)}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"{path!r} is not what `onnxprune sensitivity --json FILE` writes.") from error
