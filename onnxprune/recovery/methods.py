"""The ways to make up for what went, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from threadpoolctl import threadpool_limits

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.data.inputs import Feed
from onnxprune.errors import unknown
from onnxprune.recovery.merging import Merge
from onnxprune.recovery.recalibration import Recalibration
from onnxprune.recovery.sequence import Means, Pass, Refit, Step
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal

METHODS: Mapping[str, type[Pass] | None] = {
    "auto": Refit,
    "refit": Refit,
    "merge": Merge,
    "bn": Recalibration,
    "mean": Means,
    "none": None,
}
"""``auto`` is the refit, taken back where held-out data say that it does harm."""


def recovered(
    analysis: Analysis,
    removed: Mask,
    feeds: Sequence[Feed],
    method: str,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
    least_ridge: float = 0.0,
    *,
    thorough: bool = True,
) -> tuple[Values, list[Step]]:
    """What constants hold once the units are zeroed and what is left makes up for them, and what was done.

    Args:
        analysis: of the model, its layers with biases.
        removed: the units that go.
        feeds: the calibration data, in batches.
        method: one of `METHODS`.
        seed: of the rows that are sampled.
        progress: called with what is being done.
        least_ridge: the least ρ that is tried.
        thorough: whether to repeat fits behind rectifiers; rankings of candidates can do without.

    Results do not depend on the number of threads: linear algebra is done by one, batches by as many as there are.

    Raises:
        UsageError: there is no such method.
    """
    if method not in METHODS:
        raise unknown("recovery", method, METHODS)
    kind = METHODS[method]
    if kind is None or not removed.any():
        return removal.zeroed(analysis, removed), []
    steps = []
    with threadpool_limits(1):
        run = kind(analysis, removed, feeds, seed)
        run.least_ridge = least_ridge
        run.rounds = run.rounds if thorough else 0
        for step in run.run():
            progress(f"refitting {step.layer}")
            steps.append(step)
    return run.values, steps
