"""Both models side by side: what they are made of, what they cost, what can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune import api
from onnxprune.comparing.meeting import Meeting
from onnxprune.comparing.results import Side
from onnxprune.comparing.subjects import Subject
from onnxprune.data.inputs import Feed
from onnxprune.latency.bench import versus
from onnxprune.latency.timing import Limits
from onnxprune.model.record import Source

Measures = Mapping[str, Callable[[Source], float]]
"""More rows for the table of both models, by name: what a function makes of a model; its sensitivity, say."""


def sides(meeting: Meeting, seconds: float, seed: int, measures: Measures) -> tuple[Side, Side]:
    """Look at both models.

    Args:
        meeting: the models, and what they are run on.
        seconds: how long to time them; 0 does not.
        seed: of the order in which they are timed.
        measures: what else to measure.
    """
    feeds = meeting.both(meeting.one_row)
    times: list[float | None] = [None, None]
    if seconds:
        files = [subject.file for subject in meeting.pair]
        limits = Limits(seconds=seconds)
        times = [timing.median for timing in versus(files, feeds, meeting.pair[0].provider, limits, seed)]
    one, other = (_side(*each, measures) for each in zip(meeting.pair, feeds, times, strict=True))
    return one, other


def _side(subject: Subject, feed: Feed, latency: float | None, measures: Measures) -> Side:
    found = api.inspect(subject.source, input_shapes={name: array.shape for name, array in feed.items()})
    return Side(
        name=subject.name,
        producer=found.model["producer"],
        opset=found.model["opsets"].get("ai.onnx", 0),
        bytes=subject.model.record.nbytes,
        params=found.cost.params,
        macs=found.cost.macs,
        latency_ms=latency,
        operators=found.model["operators"],
        groups=len(found.groups),
        units=sum(group["units"] for group in found.groups),
        least=found.least.macs / found.cost.macs if found.cost.macs else 1.0,
        staying=found.staying[0][0] if found.staying else "",
        measures={name: float(measure(subject.source)) for name, measure in measures.items()},
    )
