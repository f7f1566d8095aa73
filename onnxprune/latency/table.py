"""What a model will take once units are gone, predicted from what variants of it take on this machine.

The whole model is cut to a few widths at random and profiled as ONNX Runtime runs it: fused, reordered and blocked as
it will be. That is faithful where timing layers one by one is not, and each variant measures all layers at once. Times
of single nodes are short enough to escape what other processes do; what profiling costs is measured and taken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.data import runtime
from onnxprune.data.inputs import Feed
from onnxprune.errors import PruneError
from onnxprune.latency import apart, cache, hardware, variants
from onnxprune.latency.fit import Times, fit
from onnxprune.latency.profile import profiled
from onnxprune.latency.segments import Segments
from onnxprune.surgery import removal, saving

Progress = Callable[[str], None]
AT_ONCE = 256 << 20  # bytes of variants that lie on disk at a time
LEAST = 5  # variants without which nothing can be said
WINDOW = 96  # units of a group that alignment is looked for in
GAIN = 0.25  # of what a unit takes on average: a wider layer that takes no more than this more is the better one


class Part(NamedTuple):
    """A segment of the model: the operator that leads it, its milliseconds, and its share of the whole."""

    operator: str
    time: float
    share: float


class LatencyModel:
    """The latency of a model as a function of which units are gone, on one machine, provider and number of threads.

    Args:
        analysis: the model's units.
        feed: what it is run on.
        provider: an execution provider by name.
        threads: how many work on one operator; 0: one per core.
        seed: of the widths that are measured.
        cached: whether what was measured before may be used, and what is measured now is kept.
        progress: called with the name of each stage.

    Raises:
        ProviderError: the provider is missing.
        PruneError: the model, or too many of its variants, cannot be run.
    """

    def __init__(
        self,
        analysis: Analysis,
        feed: Feed,
        provider: str = "cpu",
        threads: int = 0,
        *,
        seed: int = 0,
        cached: bool = True,
        progress: Progress = lambda stage: None,
    ) -> None:
        self.analysis, self.provider, self.threads = analysis, provider, threads
        shapes = {name: array.shape for name, array in feed.items()}
        self._segments = Segments(analysis, Graph(analysis.graph.record, shapes))
        masks = variants.masks(analysis, seed)
        path = cache.place(self._key(shapes, seed))
        times = self._checked(cache.load(path), len(masks)) if cached else None
        if times is None:
            times = list(self._measure(masks, feed, progress))
            if cached:
                cache.store(path, [None if each is None else each.tolist() for each in times])
        known = [(mask, each) for mask, each in zip(masks, times, strict=True) if each is not None]
        if times[0] is None or len(known) < min(LEAST, len(masks)):
            raise PruneError("Too few pruned variants of this model run, so its latency cannot be predicted.")
        self._dense: Times = np.min([each for mask, each in known if not mask.any()], axis=0)
        cut = [(mask, each) for mask, each in known if mask.any()]
        widths = [self._full, *(analysis.widths(mask) for mask, _ in cut)]
        self._fit = fit(self._segments, widths, [self._dense, *(each for _, each in cut)])

    def __call__(self, removed: Mask) -> float:
        """The predicted milliseconds of a run once these units are gone, when nothing else disturbs it."""
        return float(self._times(self.analysis.widths(removed)).sum())

    @property
    def dense(self) -> float:
        """The milliseconds of the model as it is."""
        return float(self._dense.sum())

    def where(self) -> list[Part]:
        """Where the time of the model as it is goes, the most expensive part first."""
        ops, total = self.analysis.graph.ops, max(self.dense, 1e-9)
        labels = [ops[leader].label if leader >= 0 else "before the first layer" for leader in self._segments.leaders]
        found = [Part(label, taken, taken / total) for label, taken in zip(labels, self._dense.tolist(), strict=True)]
        return sorted(found, key=lambda part: -part.time)

    def steps(self, group: int) -> list[int]:
        """The numbers of units that a group does well to keep: any wider one takes longer, as measured here."""
        units = len(self.analysis.members(group))
        step = self._step(group)
        return sorted({*range(step, units + 1, step), units})

    def _step(self, group: int) -> int:
        """The largest number of units that all good widths in the middle of a group are multiples of."""
        units = len(self.analysis.members(group))
        high = min(units, -(-units // 2) + WINDOW)
        low = max(1, high - WINDOW)
        taken = self._curve(group, range(low, high + 1))
        good: list[int] = []
        best, gain = math.inf, GAIN * self._per_unit(group)
        for kept, time in zip(range(high, low - 1, -1), taken[::-1].tolist(), strict=True):
            if time < best - gain:
                best = time
                good.append(kept)
        return math.gcd(*good[1:]) or units

    def _per_unit(self, group: int) -> float:
        """The milliseconds that a unit of a group takes on average."""
        before, after = (float(self._times(widths).sum()) for widths in self._ends(group))
        return (before - after) / len(self.analysis.members(group))

    def _curve(self, group: int, kept: Sequence[int]) -> NDArray[np.float64]:
        """The milliseconds when a group keeps so many units, and all others all of theirs."""
        units = len(self.analysis.members(group))
        every, none = self._ends(group)
        lost = (every - none) / units
        return np.array([self._times(np.rint(none + lost * count).astype(np.int64)).sum() for count in kept])

    def _ends(self, group: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The widths of all axes when every unit of a group is there, and when none is."""
        return self._full, self.analysis.widths(self.analysis.group_of == group)

    @cached_property
    def _full(self) -> NDArray[np.int64]:
        return self.analysis.widths(np.zeros(self.analysis.units, dtype=bool))

    def _times(self, widths: NDArray[np.int64]) -> Times:
        return self._fit(self._segments, widths)

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _key(self, shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Any]:
        """All that the times depend on."""
        return {
            "model": self.analysis.graph.record.sha256,
            "units": sha256(self.analysis.unit_of.tobytes() + self.analysis.group_of.tobytes()).hexdigest(),
            "segments": self._segments.anchor,
            "shapes": shapes,
            "machine": hardware.describe(runtime.provider(self.provider)),
            "threads": self.threads,
            "seed": seed,
        }

    def _measure(self, masks: Sequence[Mask], feed: Feed, progress: Progress) -> Iterator[Times | None]:
        """The times of each variant; ``None`` for one that cannot be made or run."""
        together = max(1, AT_ONCE // max(self.analysis.graph.record.nbytes, 1))
        remaining, done = iter(masks), 0
        while batch := list(islice(remaining, together)):
            progress(f"measuring widths {done + 1} to {done + len(batch)} of {len(masks)}")
            yield from self._profiled(batch, feed)
            done += len(batch)

    def _profiled(self, masks: Sequence[Mask], feed: Feed) -> list[Times | None]:
        with TemporaryDirectory(prefix="onnxprune-") as folder:
            try:
                paths = [self._written(mask, Path(folder) / str(number)) for number, mask in enumerate(masks)]
                found = apart.call(profiled, paths, feed, self.provider, self.threads)
            except PruneError:
                if len(masks) == 1 and masks[0].any():
                    return [None]
                if len(masks) == 1:
                    raise
                return [times for mask in masks for times in self._profiled([mask], feed)]
        return [self._segments.times(nodes) for nodes in found]

    def _written(self, removed: Mask, folder: Path) -> Path:
        draft = removal.remove(self.analysis, removed)
        self._segments.tag(draft.proto)
        return saving.write(draft, folder, "variant.onnx")

    def _checked(self, found: Any, variants: int) -> list[Times | None] | None:
        """The times that a cache holds, if they can be those of this model."""
        if not isinstance(found, list) or len(found) != variants:
            return None
        try:
            times = [None if each is None else np.asarray(each, dtype=np.float64) for each in found]
        except (TypeError, ValueError):
            return None
        whole = (len(self._segments.leaders),)
        good = all(
            each is None or (each.shape == whole and bool((np.isfinite(each) & (each >= 0)).all())) for each in times
        )
        return times if good else None
