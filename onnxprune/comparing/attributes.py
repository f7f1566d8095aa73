"""The attributes that two nodes of one operator differ in, however they are written: left to a default, or implied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.graph import Op
from onnxprune.rules.matrices import same_pads

IN_WEIGHTS = frozenset({"alpha", "beta", "group", "kernel_shape", "transA", "transB"})
"""Attributes of linear layers that their matrices hold."""
OF_TRAINING = frozenset({"momentum", "training_mode", "spatial", "is_test", "seed", "ratio"})
OF_LAYOUT = frozenset({"axes", "axis", "keepdims", "perm"})
"""Attributes that may differ where the layouts do."""
OF_PADDING = frozenset({"auto_pad", "pads"})
AT_REST = {"strides": 1, "dilations": 1}
"""Attributes with an entry for each spatial axis, and what each is by default."""


def differences(a: Op, b: Op, *, padded: bool = False) -> Iterator[str]:
    """What two nodes of one operator differ in, in words.

    Args:
        a: a node.
        b: the other model's.
        padded: whether one of them has a node of its own that pads before it.
    """
    ignored = OF_TRAINING | OF_PADDING
    if a.kind in ("Conv", "ConvTranspose", "Gemm"):
        ignored |= IN_WEIGHTS
    if a.ins and b.ins and _sizes(a) != _sizes(b):
        ignored |= OF_LAYOUT
    names = dict.fromkeys(attribute.name for op in (a, b) for attribute in op.node.attribute)
    for name in (name for name in names if name not in ignored):
        values = [_value(op, name) for op in (a, b)]
        if None not in values and not same(*values):
            yield f"{name} differs: {_text(values[0])} and {_text(values[1])}"
    if not padded and not OF_PADDING.isdisjoint(names):
        pads = [_pads(op) for op in (a, b)]
        if None not in pads and not same(*pads):
            yield f"pads differs: {pads[0]} and {pads[1]}"


def same(a: Any, b: Any) -> bool:
    """Whether two attributes are equal up to the rounding of float32."""
    if isinstance(a, float) or isinstance(b, float):
        return bool(np.isclose(a, b, rtol=1e-5, atol=0.0))
    return bool(a == b)


def _sizes(op: Op) -> list[int]:
    return [size for size in op.graph.shapes.get(op.ins[0], ()) if isinstance(size, int)]


def _value(op: Op, name: str) -> Any:
    """An attribute's value, or its default; ``None`` if it has neither."""
    value = op.attr(name)
    if name in AT_REST:
        return "default" if value is None or set(value) == {AT_REST[name]} else list(value)
    if value is None:
        value = _default(op, name)
    if value is None or isinstance(value, int | float | str):
        return value
    plain = not isinstance(value, onnx.GraphProto | onnx.TensorProto) and np.asarray(value).dtype.kind in "fiuSU"
    return list(np.ravel(value)) if plain else None


def _default(op: Op, name: str) -> Any:
    try:
        known = onnx.defs.get_schema(op.kind, op.version, op.domain).attributes.get(name)
    except onnx.defs.SchemaError:
        return None
    if known is None or not known.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(known.default_value)
    return value.decode() if isinstance(value, bytes) else value


def _pads(op: Op) -> list[int] | None:
    """What is padded before and behind each spatial axis; ``None`` if it depends on a size that is not known."""
    auto = op.attr("auto_pad", "NOTSET")
    sizes = op.graph.shapes.get(op.ins[0], ())[2:]
    if auto in ("NOTSET", "VALID"):
        return list(op.attr("pads") or [0] * 2 * len(sizes)) if auto == "NOTSET" else [0] * 2 * len(sizes)
    kernel = op.attr("kernel_shape") or list(op.graph.shapes.get(op.ins[1], ())[2:] if op.has(1) else ())
    known = [size for size in sizes if isinstance(size, int)]
    if op.kind == "ConvTranspose" or not len(kernel) == len(sizes) == len(known):
        return None
    steps, reach = (list(op.attr(name) or [1] * len(sizes)) for name in AT_REST)
    found = same_pads(auto, known, kernel, steps, reach)
    return [before for before, _ in found] + [behind for _, behind in found]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
