"""Control flow: what a node hands to its bodies, and what they hand out, is the same thing under two names."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, Pin, same
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.inference import carried, handed
from onnxprune.algebra.registry import RuleTable, rule_for

RULES: RuleTable = {}


def _alike(op: Op, x: str, y: str, skipped: int | None = None) -> Iterator[Fact]:
    """Index by index the same tensor, but for an axis of x that y does not have."""
    if x not in op.graph.shapes or y not in op.graph.shapes:
        return
    axes = [axis for axis in range(op.rank(x)) if axis != skipped]
    if len(axes) != op.rank(y):
        why = f"{op.label} hands it on with another number of axes"
        yield from (Pin((tensor, axis), why) for tensor in (x, y) for axis in range(op.rank(tensor)))
        return
    for place, axis in enumerate(axes):
        yield same(x, axis, y, place)


def _if_shapes(op: Op) -> Iterator[Shape]:
    for y, *branches in zip(op.outs, *(body.outputs for body in op.bodies), strict=True):
        sizes = list(zip(*(op.shape(branch) for branch in branches), strict=True))
        yield tuple(size[0] if len(set(size)) == 1 else f"?{y}.{axis}" for axis, size in enumerate(sizes))


@rule_for(RULES, "If", shapes=_if_shapes)
def branches(op: Op) -> Iterator[Fact]:
    """An output is what either branch hands out."""
    for body in op.bodies:
        for inner, y in zip(body.outputs, op.outs, strict=True):
            yield from _alike(op, inner, y)


def _loop_shapes(op: Op) -> Iterator[Shape]:
    outputs, states = op.bodies[0].outputs[1:], len(op.ins) - 2
    yield from (op.shape(inner) for inner in outputs[:states])
    yield from ((f"?{y}.0", *op.shape(inner)) for inner, y in zip(outputs[states:], op.outs[states:], strict=True))


@rule_for(RULES, "Loop", shapes=_loop_shapes)
def loop(op: Op) -> Iterator[Fact]:
    """A state is one tensor before, within and after the turns; what each turn hands out besides is stacked."""
    outputs, states = op.bodies[0].outputs[1:], len(op.ins) - 2
    for x, inner, _ in handed(op):
        yield from _alike(op, x, inner)
    for inner, following in carried(op):
        yield from _alike(op, inner, following)
    for place, (inner, y) in enumerate(zip(outputs, op.outs, strict=True)):
        yield from _alike(op, y, inner, skipped=None if place < states else 0)


def _scan_axes(op: Op) -> list[int | None]:
    """For each output the axis that the turns are stacked along, if any."""
    states = len(op.ins) - int(op.attr("num_scan_inputs", 0))
    scanned = len(op.outs) - states
    return [None] * states + list(op.attr("scan_output_axes") or [0] * scanned)


def _scan_shapes(op: Op) -> Iterator[Shape]:
    for inner, y, axis in zip(op.bodies[0].outputs, op.outs, _scan_axes(op), strict=True):
        shape = list(op.shape(inner))
        if axis is not None:
            shape.insert(axis if axis >= 0 else axis + len(shape) + 1, f"?{y}.{axis}")
        yield tuple(shape)


@rule_for(RULES, "Scan", shapes=_scan_shapes)
def scan(op: Op) -> Iterator[Fact]:
    """As a loop; some inputs are handed in slice by slice."""
    for x, inner, axis in handed(op):
        yield from _alike(op, x, inner, skipped=axis)
    for inner, following in carried(op):
        yield from _alike(op, inner, following)
    for inner, y, axis in zip(op.bodies[0].outputs, op.outs, _scan_axes(op), strict=True):
        if y in op.graph.shapes:
            yield from _alike(op, y, inner, skipped=axis + op.rank(y) if axis is not None and axis < 0 else axis)
