"""Two models and what both are run on: inputs that correspond, feeds that both take, outputs that correspond."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np

from onnxprune.comparing import signature
from onnxprune.comparing.signals import CEILING, EXACT, level
from onnxprune.comparing.signature import Bound
from onnxprune.comparing.subjects import Aligned, Subject
from onnxprune.comparing.views import as_floats
from onnxprune.data import inputs
from onnxprune.data.inputs import Data, Feed, Shapes
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.errors import RefusedError, UsageError, unknown
from onnxprune.metrics.evidence import attempt
from onnxprune.verification.comparison import TOLERANCE, Comparison, Rules, compare, forgive_rounding

MOST_ROWS = 16  # of a feed that are tried one by one
FINE = ("float64", "float32", "int8")  # whose tolerance is that of the outputs' own type


class Meeting:
    """Two models that are to be compared.

    Args:
        pair: the models.
        mapping: names of the second's inputs and outputs by those of the first.

    Raises:
        UsageError: a name is unknown.
        RefusedError: the inputs do not correspond.
    """

    def __init__(self, pair: tuple[Subject, Subject], mapping: dict[str, str]) -> None:
        self.pair, self.mapping = pair, mapping
        ports = [signature.declared(subject.graph) for subject in pair]
        for side, names in enumerate((mapping, [name for name in mapping.values() if name])):
            known = [*(port.name for port in ports[side]), *pair[side].session.outputs]
            for name in names:
                if name not in known:
                    raise unknown(f"input or output of {pair[side].name!r}", name, known)
        self.ins = signature.match("input", ports[0], ports[1], mapping)
        self.outs: list[Bound] = []
        self.feeds: list[Feed] = []
        self.shapes: Shapes = {}
        self.real = False
        self.precision = min((subject.precision for subject in pair), key=lambda name: CEILING[name])

    def prepare(self, data: Data | None, given: Mapping[str, Sequence[int]], seed: int) -> None:
        """Find inputs that both run on, and which output is which.

        Raises:
            RefusedError: a model does not run.
        """
        graph = self.pair[0].graph
        inputs.check_given(graph, given)
        self.real = data is not None
        feeds = [] if data is None else [part for feed in inputs.load_data(graph, data) for part in self._cut(feed)]
        known = {**self._fixed(), **given}
        try:
            self.shapes = inputs.bind(graph, known, feeds, self._attempt)
        except UsageError:  # the second model may be to blame, which shows on what the first one takes
            self.shapes = inputs.bind(graph, known, feeds, lambda feed: attempt(self.pair[0].session, feed))
        self.one_row = inputs.synthesise(graph, self.shapes, seed)
        self.feeds = feeds or inputs.seeded(graph, self.shapes, seed, self._attempt)
        feed = self.feeds[0] if self.feeds else self.one_row
        found = [self._run(subject, feed, second=n == 1) for n, subject in enumerate(self.pair)]
        ports = [
            signature.given(subject.session.outputs, [np.asarray(value) for value in values])
            for subject, values in zip(self.pair, found, strict=True)
        ]
        self.outs = signature.match("output", ports[0], ports[1], self.mapping)
        if not self.outs:
            raise UsageError("No output is left to compare.")

    def _cut(self, feed: Feed) -> Iterator[Feed]:
        """A feed in parts of as many rows as the second model takes."""
        fixed = {bound.second.shape[0] for bound in self.ins if bound.view.axes[:1] == (0,)}
        sizes = {size for size in fixed if isinstance(size, int)}
        many = {array.shape[0] for array in feed.values() if array.ndim}
        if len(sizes) != 1 or len(many) != 1 or not min(many) > min(sizes) > 0:
            yield feed
            return
        size = min(sizes)
        for start in range(0, min(many) - size + 1, size):
            yield {name: array[start : start + size] if array.ndim else array for name, array in feed.items()}

    def _fixed(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the first model's inputs that the second one's tell in full."""
        found = {}
        for bound in self.ins:
            shape = list(bound.first.shape)
            for axis, size in zip(bound.view.axes, bound.second.shape, strict=True):
                if axis is not None and isinstance(size, int):
                    shape[axis] = size
            sizes = [size for size in shape if isinstance(size, int)]
            if len(sizes) == len(shape) and list(bound.first.shape) != shape:
                found[bound.first.name] = tuple(sizes)
        return found

    def _run(self, subject: Subject, feed: Feed, *, second: bool) -> list[Any]:
        try:
            return subject.session.run(Aligned(subject.session, second, self.ins, ()).feed(feed))
        except ExecutionError as error:
            raise RefusedError(f"{subject.name!r} does not run on the other's inputs: {error}") from error

    def _attempt(self, feed: Feed) -> list[Any] | None:
        """What the first model gives, if both run."""
        try:
            found = [self._run(subject, feed, second=n == 1) for n, subject in enumerate(self.pair)]
        except RefusedError:
            return None
        return found[0]

    def _aligned(self, optimization: str = "all") -> tuple[Session, Session]:
        """Both as models of one signature."""
        sessions = [s.session if optimization == "all" else s.load(optimization) for s in self.pair]
        pair = [Aligned(session, n == 1, self.ins, self.outs) for n, session in enumerate(sessions)]
        return cast(Session, pair[0]), cast(Session, pair[1])

    def outputs(self, tolerance: float | None) -> list[Comparison]:
        """How each output differs."""
        if tolerance is None and self.precision not in FINE:
            tolerance = TOLERANCE[self.precision]
        one, other = self._aligned()
        rules = Rules(tolerance=tolerance)
        found = compare(one, other, self.feeds, rules=rules)
        if not all(found):
            forgive_rounding(found, compare(one, self._aligned("off")[0], self.feeds, rules=rules))
        return found

    def both(self, feed: Feed) -> tuple[Feed, Feed]:
        """A feed of the first model as each of them takes it."""
        one, other = (Aligned(s.session, n == 1, self.ins, ()).feed(feed) for n, s in enumerate(self.pair))
        return one, other

    @cached_property
    def telling(self) -> Feed:
        """One row, if it may be alone, of the feed on which the outputs differ most.

        Of seeded feeds for codes it is that on which they differ least: codes are clipped to what they were calibrated
        for, which seeded inputs may lie far outside of.
        """
        one, other = self._aligned()
        levels = [min(map(_level, one.run(feed), other.run(feed))) for feed in self.feeds]
        clipped = self.precision == "int8" and not self.real
        pick = np.argmax if clipped else np.argmin
        feed = self.feeds[int(pick(levels))]
        many = _rows(feed)
        rows = [{name: array[n : n + 1] for name, array in feed.items()} for n in range(many)] if many > 1 else []
        if not rows or self._attempt(rows[0]) is None:
            return feed
        return rows[int(pick([min(map(_level, one.run(row), other.run(row))) for row in rows]))]


def _rows(feed: Feed) -> int:
    """How many rows a feed has, `MOST_ROWS` at most; 1 if its arrays do not have equally many."""
    sizes = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    return min(MOST_ROWS, *sizes) if len(sizes) == 1 and 0 not in sizes else 1


def _level(a: Any, b: Any) -> float:
    """How far two outputs agree, in decibels; fully, where they are no arrays of one shape."""
    if not isinstance(a, np.ndarray) or a.shape != np.shape(b) or a.dtype.kind not in "fiubV" or not a.size:
        return EXACT
    return level(as_floats(a), as_floats(b))
