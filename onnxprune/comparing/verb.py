"""The verb `compare`: two exports of one network, from their signatures to the first node where they part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onnxprune.comparing import inside
from onnxprune.comparing.meeting import Meeting
from onnxprune.comparing.results import Compared
from onnxprune.comparing.sides import Measures, sides
from onnxprune.comparing.subjects import Subject
from onnxprune.data.inputs import Data
from onnxprune.errors import UsageError
from onnxprune.metrics.evidence import rows
from onnxprune.model.record import Source


def compare(
    first: Source,
    second: Source,
    *,
    mapping: Mapping[str, str] | None = None,
    data: Data | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    provider: str = "cpu",
    tolerance: float | None = None,
    seed: int = 0,
    seconds: float = 1.0,
    measures: Measures | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Compared:
    """Compare two exports of one network.

    Args:
        first: a model.
        second: another export of it.
        mapping: names of the second model's inputs and outputs by those of the first, where they cannot be guessed; an
            empty name leaves one out.
        data: inputs for the first model; seeded ones without.
        input_shapes: for inputs of the first model whose shape is open.
        provider: an execution provider by name.
        tolerance: the largest difference that passes, as a fraction of an output's range; by default rounding of the
            coarser of the two models' number types. What quantisation costs never passes by default.
        seed: of the generated inputs.
        seconds: how long to time both; 0 does not.
        measures: what else to put side by side.
        progress: called with the name of each stage.

    Raises:
        RefusedError: a model cannot be taken, or their inputs or outputs do not correspond.
        UsageError: the data, the shapes or the names do not fit.
        PruneError: there is nothing to compare on.
    """
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise UsageError(f"The tolerance is a fraction of an output's range, not {tolerance:g}.")
    with TemporaryDirectory(prefix="onnxprune-") as name:
        progress("reading")
        one, other = (Subject(source, Path(name) / word, provider) for word, source in (("a", first), ("b", second)))
        meeting = Meeting((one, other), dict(mapping or {}))
        progress("running both")
        meeting.prepare(data, input_shapes or {}, seed)
        comparisons = meeting.outputs(tolerance)
        progress("comparing layer by layer")
        found = inside.look(meeting, differ=not all(comparisons))
        progress("timing both")
        side = sides(meeting, seconds, seed, measures or {})
    return Compared(
        sides=side,
        precision=meeting.precision,
        inputs=meeting.ins,
        outputs=meeting.outs,
        comparisons=comparisons,
        rows=rows(meeting.feeds),
        real=meeting.real,
        layers=found.layers,
        alone=found.alone,
        divergence=found.divergences[0] if found.divergences else None,
        others=max(0, len(found.divergences) - 1),
        note=found.note,
    )
