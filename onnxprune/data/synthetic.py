"""Calibration without data: inputs that look like what the model was made for, as far as the model itself tells.

Signals and pictures are smooth: Gaussian noise, blurred by a random width, of random contrast and offset. Where the
model normalises batches, the level and the contrast are chosen whose means and variances come closest to the ones that
it remembers from training (the forward half of DeepInversion; Yin et al., 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import Feed, Shapes, synthesise
from onnxprune.data.runtime import ExecutionError
from onnxprune.data.sampling import batch_rows, batched, is_open
from onnxprune.model.record import Array
from onnxprune.model.tensors import FLOATS
from onnxprune.recovery.recalibration import MEAN, VARIANCE, normalisations
from onnxprune.recovery.walk import Walk

LEAST, MOST = 256, 768  # samples: the least; and, of a model that is run quickly, the most
WORK = 3e10  # multiply-accumulates that more than the least may take
FEW = 64  # runs of a model whose batch is fixed
TRIED = 16  # samples that a level is judged by
LEVELS = ((0.0, 1.0), (0.5, 0.25), (0.0, 0.5), (0.0, 2.0), (127.5, 64.0))  # mean and deviation: what inputs come as
BLURS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of pictures; one in ten stays as it is
CLIP = 2.5  # deviations


def synthetic(graph: Graph, shapes: Shapes, seed: int, macs: int = 0) -> list[Feed]:
    """Seeded calibration batches.

    Args:
        graph: the model.
        shapes: of its inputs.
        seed: of everything random.
        macs: of one row; the fewer, the more rows there are.

    Raises:
        ExecutionError: the model does not run on them.
    """
    best = min(LEVELS, key=lambda level: _distance(graph, shapes, seed, level)) if normalisations(graph) else LEVELS[0]
    return _feeds(graph, shapes, seed, best, min(MOST, max(LEAST, int(WORK / max(macs, 1)))))


def _feeds(graph: Graph, shapes: Shapes, seed: int, level: tuple[float, float], samples: int) -> list[Feed]:
    count = samples if is_open(graph) else min(samples, FEW)
    units = [_unit(graph, shapes, (seed, number), level) for number in range(count)]
    return batched(graph, units, batch_rows(graph, shapes))


def _unit(graph: Graph, shapes: Shapes, seed: tuple[int, int], level: tuple[float, float]) -> Feed:
    rng = np.random.default_rng(seed)
    feed = synthesise(graph, shapes, int(rng.integers(1 << 30)))
    for value in graph.inputs:
        if value.type.tensor_type.elem_type in FLOATS and feed[value.name].ndim > 1:
            shape = feed[value.name].shape
            feed[value.name] = _smooth(rng, shape, level).astype(feed[value.name].dtype)
    return feed


def _smooth(rng: np.random.Generator, shape: Sequence[int], level: tuple[float, float]) -> Array:
    """Noise of unit deviation, blurred along all long axes but the first two, at a level of its own."""
    from scipy.ndimage import gaussian_filter  # takes a tenth of a second, which only a run without data should pay

    noise = rng.standard_normal(shape)
    blur = float(rng.choice(BLURS[1:]) if rng.random() > 0.1 else BLURS[0])
    widths = [0.0 if axis < min(2, len(shape) - 1) or size < 4 else blur for axis, size in enumerate(shape)]
    smooth = gaussian_filter(noise, widths) if any(widths) else noise
    deviation = smooth.std()
    found = smooth / deviation if deviation > 0 else smooth
    contrast, offset = rng.uniform(0.3, 1.2), rng.normal(0, 0.5)
    return np.asarray(level[0] + level[1] * np.clip(contrast * found + offset, -CLIP, CLIP))


def _distance(graph: Graph, shapes: Shapes, seed: int, level: tuple[float, float]) -> float:
    """How far batch statistics are from the remembered ones."""
    found = normalisations(graph)
    walk = Walk(graph, _feeds(graph, shapes, seed, level, TRIED))

    def look(number: int, values: Mapping[str, Array]) -> list[Array]:
        wide = [
            np.moveaxis(values[op.ins[0]].astype(np.float64), 1, 0).reshape(values[op.ins[0]].shape[1], -1)
            for op in found
        ]
        return [np.stack([rows.mean(1), rows.var(1)]) for rows in wide]

    try:
        batches = list(walk.map([op.ins[0] for op in found], look))
    except ExecutionError:
        return np.inf
    total = 0.0
    for number, op in enumerate(found):
        mean, variance = np.mean([batch[number] for batch in batches], axis=0)
        was, spread = (np.asarray(graph.constant(op.ins[slot])).astype(np.float64) for slot in (MEAN, VARIANCE))
        spread = spread + 1e-6
        total += float(np.mean((mean - was) ** 2 / spread + np.log((variance + 1e-6) / spread) ** 2))
    return total if np.isfinite(total) else np.inf
