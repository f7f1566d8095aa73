"""Three questions, never mixed: is the surgery right, do the providers agree, what did it cost.

Every comparison has a tolerance that follows from the number type: what rounding explains, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import Session
from onnxprune.errors import PruneError
from onnxprune.model.record import Array

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-3, "bfloat16": 8e-3}
"""The largest difference that passes, as a fraction of the output's range, by type; other types must be equal."""

FLAT = 0.01  # of the largest magnitude, added to the range
NOISES = 4  # times a model's own rounding noise that a difference may reach where it exceeds the tolerance …
AT_MOST = 10  # … but never more than so many times the tolerance


@dataclass(frozen=True)
class Rules:
    """What two values may differ by and still be taken for equal.

    An infinite value is equal to one of the same sign in the same place; the finite ones are compared as ever. NaN in
    both proves nothing, since whatever went wrong ends in NaN, too: it is no agreement unless the user says so.

    Attributes:
        tolerance: the largest difference that passes, as a fraction of the output's range; ``None`` follows the type.
        equal_nan: whether NaN is equal to NaN in the same place.
    """

    tolerance: float | None = None
    equal_nan: bool = False

    def allowed(self, dtype: str) -> float:
        """The tolerance for a type; whole numbers and text must be equal."""
        return TOLERANCE.get(dtype, 0.0) if self.tolerance is None or dtype not in TOLERANCE else self.tolerance

    def unlike(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> str:
        """Why NaN and infinite values of two arrays do not agree; empty if they do."""
        nan_a, nan_b = np.isnan(a), np.isnan(b)
        alone = int((nan_a != nan_b).sum())
        if alone:
            return f"{alone} values are NaN in one and not in the other"
        if nan_a.any() and not self.equal_nan:
            return "it holds NaN in both, which proves nothing; give other inputs with --data, or --equal-nan"
        infinite = np.isinf(a) | np.isinf(b)
        wrong = int((a[infinite] != b[infinite]).sum())
        return f"{wrong} values are infinite in one and another in the other" if wrong else ""


BY_TYPE = Rules()


@dataclass
class Comparison:
    """How one output of two models differs, over all runs.

    Attributes:
        output: its name.
        dtype: its type.
        max_abs, mean_abs: the largest, the mean absolute difference.
        range: the reference's largest value less its smallest, over all runs.
        relative: ``max_abs`` as a fraction of the range (plus 1 % of the largest magnitude, the dense model's included,
            so that an output that hardly varies is not judged by its rounding).
        tolerance: what ``relative`` may reach.
        cosine: of the flattened outputs.
        agreement: the fraction of rows whose largest entry (last axis) is the same; ``None`` for single numbers.
        nonfinite: how many values were infinite, or NaN where that was allowed, in both alike.
        noise: the reference's own rounding noise, where it had to be measured (see `forgive_rounding`).
        equal: whether the difference stays within the tolerance, or within the noise.
        problem: why the outputs cannot be compared, if they cannot.
        void: whether there was nothing to compare: neither agreement nor difference.
    """

    output: str
    dtype: str = ""
    max_abs: float = 0.0
    mean_abs: float = 0.0
    range: float = 0.0
    relative: float = 0.0
    tolerance: float = 0.0
    cosine: float = 1.0
    agreement: float | None = None
    nonfinite: int = 0
    noise: float | None = None
    equal: bool = True
    problem: str = ""
    void: bool = False

    def __bool__(self) -> bool:
        return self.equal

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass
class _Sums:
    """Running sums of one output, from which its comparison follows."""

    output: str
    rules: Rules = BY_TYPE
    compared: int = 0
    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    worst: float = 0.0
    largest: float = 0.0
    total: float = 0.0
    products: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    rows: int = 0
    agreeing: int = 0
    mismatches: int = 0
    nonfinite: int = 0
    dtype: str = ""
    problem: str = ""

    def add(self, a: Any, b: Any) -> None:
        """Compare the output of one run."""
        first, second = list(_leaves(a)), list(_leaves(b))
        if len(first) != len(second):
            self.problem = f"one has {len(first)} parts, the other {len(second)}"
            return
        for x, y in zip(first, second, strict=True):
            self._add(x, y)

    def _add(self, a: Array, b: Array) -> None:
        self.dtype = str(a.dtype)
        self.compared += a.size
        if a.shape != b.shape or a.dtype != b.dtype:
            self.problem = f"shape or type differs: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
        elif a.size == 0:
            return
        elif a.dtype.kind in "OUS":
            self.mismatches += int((a != b).sum())
        else:
            if a.dtype.kind in "biu":
                self.mismatches += int((a != b).sum())
            self._add_numbers(_real(a), _real(b))

    def see(self, value: Any) -> None:
        """Note the magnitude of the dense model's output."""
        for array in (leaf for leaf in _leaves(value) if leaf.dtype.kind not in "OUS" and leaf.size):
            magnitude = float(np.abs(_real(array)).max())
            self.largest = max(self.largest, magnitude if np.isfinite(magnitude) else 0.0)

    def _add_numbers(self, a: Array, b: Array) -> None:
        self._add_agreement(a, b)
        finite = np.isfinite(a)
        if not (finite.all() and np.isfinite(b).all()):
            self.problem = self.problem or self.rules.unlike(a, b)
            if self.problem:
                return
            self.nonfinite += int(a.size - finite.sum())
            a, b = a[finite], b[finite]
            if not a.size:
                return
        with np.errstate(over="ignore", invalid="ignore"):
            difference = np.abs(a - b)
            self.total += float(difference.sum())
            self.products += [(a * b).sum(), (a * a).sum(), (b * b).sum()]
        low, high, worst = float(a.min()), float(a.max()), float(difference.max())
        self.count += a.size
        self.low, self.high, self.worst = min(self.low, low), max(self.high, high), max(self.worst, worst)

    def _add_agreement(self, a: Array, b: Array) -> None:
        if a.ndim > 0 and a.shape[-1] > 1:
            same = a.argmax(axis=-1) == b.argmax(axis=-1)
            self.rows += same.size
            self.agreeing += int(same.sum())

    def comparison(self) -> Comparison:
        """What the runs add up to."""
        problem = self.problem or (f"{self.mismatches} values differ" if self.mismatches else "")
        void = not problem and not (self.compared and (self.count or not self.nonfinite))
        if void:
            state = "finite in no run" if self.compared else "empty in every run"
            problem = f"it was {state}, which proves nothing; give other inputs with --data"
        if not (problem or np.isfinite([self.total, *self.products]).all()):
            problem = "its values are too large to compare"
        if problem or not self.count:
            return Comparison(
                self.output, self.dtype, equal=not problem, problem=problem, max_abs=self.worst, void=void
            )
        scale = self.high - self.low + FLAT * max(abs(self.low), abs(self.high), self.largest)
        relative = self.worst / scale if scale else float(self.worst > 0)
        ab, aa, bb = self.products
        return Comparison(
            self.output,
            self.dtype,
            max_abs=self.worst,
            mean_abs=self.total / self.count,
            range=self.high - self.low,
            relative=relative,
            tolerance=self.rules.allowed(self.dtype),
            cosine=float(ab / (np.sqrt(aa) * np.sqrt(bb))) if aa and bb else float(aa == bb),
            agreement=self.agreeing / self.rows if self.rows else None,
            nonfinite=self.nonfinite,
            equal=relative <= self.rules.allowed(self.dtype),
        )


def compare(
    reference: Session, candidate: Session, feeds: Iterable[Feed], dense: Session | None = None, rules: Rules = BY_TYPE
) -> list[Comparison]:
    """Run both on the same feeds and compare every output.

    Args:
        reference: what should come out.
        candidate: what came out.
        feeds: what both are run on.
        dense: the model before the cut, whose outputs tell how large the values are that rounding acts on.
        rules: what may differ.

    Raises:
        PruneError: their outputs are not called the same, or there was nothing to run.
    """
    if reference.outputs != candidate.outputs:
        raise PruneError(f"Outputs differ: {reference.outputs} and {candidate.outputs}.")

    def runs() -> Iterator[tuple[Sequence[Any], ...]]:
        for feed in feeds:
            first = reference.run(feed)
            yield first, candidate.run(feed), dense.run(feed) if dense else first

    found = tallied(reference.outputs, runs(), rules)
    if found is None:
        raise PruneError("There was nothing to compare on.")
    return found


def tallied(
    names: Sequence[str], runs: Iterable[tuple[Sequence[Any], ...]], rules: Rules = BY_TYPE
) -> list[Comparison] | None:
    """Compare values run by run.

    Args:
        names: of the values.
        runs: for each run the reference's values, the candidate's, and those that tell how large values are.
        rules: what may differ.

    Returns:
        One comparison for each name; ``None`` if there was no run.
    """
    sums = [_Sums(name, rules) for name in names]
    ran = False
    for run in runs:
        ran = True
        for total, a, b, c in zip(sums, *run, strict=True):
            total.add(a, b)
            total.see(c)
    return [total.comparison() for total in sums] if ran else None


def forgive_rounding(found: Iterable[Comparison], noise: Iterable[Comparison]) -> None:
    """Let differences pass that the reference's own rounding explains.

    Args:
        found: comparisons of a candidate with a reference.
        noise: comparisons of the reference with itself, run with and without a runtime's optimisations: both are
            right, so what differs is rounding, which an ill-conditioned model can amplify beyond any fixed tolerance.
    """
    for comparison, own in zip(found, noise, strict=True):
        if not comparison and not comparison.problem and not own.problem:
            comparison.noise = own.max_abs
            small = comparison.relative <= AT_MOST * comparison.tolerance
            comparison.equal = small and comparison.max_abs <= NOISES * own.max_abs


def failures(comparisons: Iterable[Comparison]) -> str:
    """One line that names the worst of the outputs that differ; empty if none does."""
    wrong = [c for c in comparisons if not c]
    if not wrong:
        return ""
    worst = max(wrong, key=lambda c: (bool(c.problem), c.relative))
    if worst.problem:
        return f"output {worst.output!r}: {worst.problem}"
    return (
        f"output {worst.output!r} differs by {worst.max_abs:.3g}, {worst.relative:.2g} of its range;"
        f" {worst.tolerance:g} is allowed for {worst.dtype}"
    )


def _leaves(value: Any) -> Iterator[Array]:
    """The arrays of an output: itself, or a sequence's or a map's, keys included."""
    if isinstance(value, Mapping):
        yield np.array([str(key) for key in value])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield np.asarray(value)


def _real(array: Array) -> NDArray[np.float64]:
    """Numbers of any type as float64, a complex one as two."""
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1).astype(np.float64)
    return array.astype(np.float64)
