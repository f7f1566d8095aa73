"""What each operator says about indices, one file per family. A rule only states facts; it never edits."""

from __future__ import annotations

from onnxprune.algebra.registry import RuleTable, add
from onnxprune.rules import (
    attention,
    control,
    convolution,
    einsum,
    fused,
    joining,
    matmul,
    normalization,
    picking,
    pinned,
    pointwise,
    pooling,
    quantized,
    quantized_linear,
    quantized_weights,
    recurrent,
    reduction,
    sequence,
    shape,
    signal,
    spatial,
)

FAMILIES = (
    pointwise,
    convolution,
    matmul,
    normalization,
    pooling,
    reduction,
    recurrent,
    shape,
    joining,
    spatial,
    control,
    einsum,
    picking,
    signal,
    attention,
    sequence,
    fused,
    pinned,
    quantized,
    quantized_linear,
    quantized_weights,
)


def _merge() -> RuleTable:
    merged: RuleTable = {}
    for family in FAMILIES:
        for key, rule in family.RULES.items():
            add(merged, key, rule, "operator rule")
    return merged


RULES = _merge()
