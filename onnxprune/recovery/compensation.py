"""Recovery in closed form, from moments alone: every layer that reads removed units, refitted as if all else stayed.

Cheaper than `onnxprune.recovery.sequence`, which walks through the pruned network; loss curves are measured with it.
"""

from __future__ import annotations

import numpy as np

from onnxprune.algebra.closure import Mask
from onnxprune.algebra.linear import Bias, Linear
from onnxprune.recovery.moments import Layer, Matrix
from onnxprune.recovery.refit import ridge
from onnxprune.recovery.statistics import Statistics
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal

RIDGE = 0.01


def compensated(statistics: Statistics, removed: Mask) -> Values:
    """The constants' values once these units are zeroed and their readers make up for them."""
    values = removal.zeroed(statistics.analysis, removed, statistics.values)
    for linear, pairs in statistics.read:
        gone = [(units >= 0) & removed[units] for _, units in pairs]
        news = [mask & layer.weight.any(0) for mask, (layer, _) in zip(gone, pairs, strict=True)]
        if linear.bias is None or not any(mask.any() for mask in news):
            continue
        found = [_solved(layer, ~mask) for (layer, _), mask in zip(pairs, gone, strict=True)]
        kept = statistics.analysis.kept(linear.y, removed)
        _write(
            statistics,
            values,
            linear,
            linear.bias,
            [weight for weight, _ in found],
            [shift for _, shift in found],
            kept,
        )
    return values


def _solved(layer: Layer, kept: Mask) -> tuple[Matrix, Matrix]:
    """The matrix with zeros in place of what is gone, and what its outputs' means have lost."""
    covariance, weight = layer.covariance, layer.weight
    found = ridge(
        covariance[np.ix_(kept, kept)][None], (weight @ covariance[:, kept])[None], weight[:, kept][None], RIDGE
    )
    whole = np.zeros_like(weight)
    if found is None:
        whole[:, kept] = weight[:, kept]
    else:
        whole[:, kept] = found[0]
    return whole, (weight - whole) @ layer.mean


def _write(
    statistics: Statistics,
    values: Values,
    linear: Linear,
    added: Bias,
    weights: list[Matrix],
    shifts: list[Matrix],
    kept: Mask,
) -> None:
    weight, bias = statistics.value(linear.w), statistics.value(added.name)
    whole = linear.matrix(np.zeros(weight.shape))
    outputs = whole.shape[1]
    for number, (matrix, shift) in enumerate(zip(weights, shifts, strict=True)):
        if len(matrix) > outputs:  # taken channel by channel: every tap is a row
            taps = len(matrix) // outputs
            matrix = matrix.reshape(outputs, taps, -1).transpose(0, 2, 1).reshape(outputs, -1)
            shifts[number] = shift.reshape(outputs, taps).sum(1)
        whole[number] = matrix
    whole[~kept.reshape(len(whole), outputs)] = 0
    values[linear.w] = linear.tensor(whole).astype(weight.dtype)
    moved = bias.astype(np.float64).ravel() + np.concatenate(shifts) / added.factor
    values[added.name] = np.where(kept, moved, 0).reshape(bias.shape).astype(bias.dtype)
