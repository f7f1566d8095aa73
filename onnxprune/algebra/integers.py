"""Small tensors of numbers, evaluated element by element: how exporters compute shapes.

Every element is a `Number`: its value, if it is known before running, and the axes whose width it was read from.
Evaluating once with the model's widths tells what a ``Reshape`` target is and where it came from; evaluating again
with the pruned widths tells which targets follow by themselves and which must be rewritten.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra import symbols
from onnxprune.algebra.symbols import Dim

Axis = tuple[str, int]
Numbers = NDArray[Any]  # of Number objects

LARGEST = 256  # elements; what is larger is data, not a shape


@dataclass(frozen=True, slots=True)
class Number:
    """A value (a product of names if symbolic, ``None`` if unknown), and the axes whose widths it is read from."""

    value: Any
    reads: frozenset[Axis] = frozenset()

    @property
    def known(self) -> bool:
        """Whether the value is a plain number."""
        return self.value is not None and not isinstance(self.value, str)


def numbers(values: NDArray[Any]) -> Numbers:
    """Constants as numbers."""
    out = np.empty(values.shape, dtype=object)
    for index, value in zip(np.ndindex(values.shape), values.ravel().tolist(), strict=True):
        out[index] = Number(value)
    return out


def widths(tensor: str, shape: Sequence[Dim]) -> Numbers:
    """What ``Shape`` returns: known where the dimension is static, and read from its axis."""
    out = np.empty(len(shape), dtype=object)
    for axis, size in enumerate(shape):
        out[axis] = Number(size, frozenset({(tensor, axis)}))
    return out


def size(tensor: str, shape: Sequence[int | str]) -> Numbers:
    """What ``Size`` returns, read from all axes."""
    dims = [d for d in shape if isinstance(d, int)]
    value = math.prod(dims) if len(dims) == len(shape) else None
    return _scalar(Number(value, frozenset((tensor, axis) for axis in range(len(shape)))))


def known(values: Numbers | None) -> NDArray[Any] | None:
    """The plain values, or ``None`` if any is unknown."""
    if values is None or not all(n.known for n in values.ravel()):
        return None
    return np.array([n.value for n in values.ravel()]).reshape(values.shape)


def _arithmetic(function: Callable[..., Any], symbolic: Callable[..., Any] | None = None) -> Callable[..., Numbers]:
    """Lift a scalar function to arrays of numbers: unknown in, unknown out; reads add up.

    ``symbolic`` is what to do where some are symbolic, all others being whole numbers.
    """

    def one(*args: Number) -> Number:
        reads = frozenset[Axis]().union(*(a.reads for a in args))
        if not all(a.known for a in args):
            whole = symbolic is not None and all(isinstance(a.value, int | str) for a in args)
            return Number(symbolic(*(a.value for a in args)) if symbolic and whole else None, reads)
        return Number(function(*(a.value for a in args)), reads)

    def apply(*arrays: Numbers) -> Numbers:
        broadcast = np.broadcast_arrays(*arrays)
        out = np.empty(broadcast[0].shape, dtype=object)
        for index in np.ndindex(out.shape):
            elements: list[Any] = [array[index] for array in broadcast]
            out[index] = one(*elements)
        return out

    return apply


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if b else None
    return a / b if b else None


def _differs_from_negative(a: Dim, b: Dim) -> bool | None:
    """Sizes are never negative, whatever they turn out to be."""
    return False if any(isinstance(value, int) and value < 0 for value in (a, b)) else None


def _multiply(a: Dim, b: Dim) -> Dim | None:
    """The product, if it is a size: a negative one would be taken for a name."""
    return _multiply_all(a, b)


def _multiply_all(*sizes: Dim) -> Dim | None:
    negative = any(isinstance(size, int) and size < 0 for size in sizes)
    return None if negative else reduce(symbols.times, sizes)


def _add(a: Dim, b: Dim) -> Dim | None:
    return b if a == 0 else a if b == 0 else None


class Call(NamedTuple):
    """What an evaluator sees of a node."""

    inputs: list[Numbers | None]
    attribute: Callable[[str, Any], Any]

    def ints(self, name: str, slot: int) -> list[int] | None:
        """Integers that older opsets keep in an attribute and newer ones in an input."""
        found = self.attribute(name, None)
        if found is None and slot < len(self.inputs):
            found = known(self.inputs[slot])
            found = None if found is None else found.ravel().tolist()
        return None if found is None else list(found)


Evaluator = Callable[[Call], Numbers | None]


def _literal(call: Call) -> Numbers | None:
    """A Constant that holds its numbers in an attribute of their own, not in a tensor."""
    names = ("value_int", "value_ints", "value_float", "value_floats")
    found = next((value for name in names if (value := call.attribute(name, None)) is not None), None)
    return None if found is None else numbers(np.asarray(found))


def _cast(call: Call) -> Numbers | None:
    floating = call.attribute("to", 0) in (1, 10, 11, 16)
    data = call.inputs[0]
    if data is None:
        return None
    if not floating and not any(isinstance(n.value, float) for n in data.ravel()):
        return data  # whole numbers stay what they are, symbolic ones included
    return _arithmetic(float if floating else int)(data)


def _gather(call: Call) -> Numbers | None:
    data, index = call.inputs[0], known(call.inputs[1])
    if data is None or index is None:
        return None
    picked = np.take(data, index.astype(np.int64), axis=call.attribute("axis", 0))
    return picked if isinstance(picked, np.ndarray) else _scalar(picked)


def _scalar(value: Any) -> Numbers:
    out = np.empty((), dtype=object)
    out[()] = value
    return out


def _slice(call: Call) -> Numbers | None:
    data, starts, ends = call.inputs[0], call.ints("starts", 1), call.ints("ends", 2)
    if data is None or starts is None or ends is None:
        return None
    axes = call.ints("axes", 3) or list(range(len(starts)))
    steps = call.ints("steps", 4) or [1] * len(starts)
    window = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        window[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(window)]


def _reshape(call: Call) -> Numbers | None:
    data, target = call.inputs[0], known(call.inputs[1])
    if data is None or target is None:
        return None
    shape = [data.shape[i] if t == 0 else int(t) for i, t in enumerate(target.ravel())]
    return data.reshape(shape)


def _squeeze(call: Call) -> Numbers | None:
    data, axes = call.inputs[0], call.ints("axes", 1)
    return None if data is None else np.squeeze(data, tuple(axes) if axes is not None else None)


def _unsqueeze(call: Call) -> Numbers | None:
    data, axes = call.inputs[0], call.ints("axes", 1)
    return None if data is None or axes is None else np.expand_dims(data, tuple(axes))


def _transpose(call: Call) -> Numbers | None:
    data = call.inputs[0]
    return None if data is None else np.transpose(data, call.attribute("perm", None))


def _concat(call: Call) -> Numbers | None:
    parts = [part for part in call.inputs if part is not None]
    if len(parts) < len(call.inputs):
        return None
    return np.concatenate(parts, axis=call.attribute("axis", 0))


def _filled(call: Call) -> Numbers | None:
    shape = known(call.inputs[0])
    if shape is None or math.prod(int(s) for s in shape) > LARGEST:
        return None
    value = call.attribute("value", None)
    out = np.empty(tuple(int(s) for s in shape), dtype=object)
    out.fill(Number(0 if value is None else value.ravel()[0].item()))
    return out


def _expand(call: Call) -> Numbers | None:
    data, shape = call.inputs[0], known(call.inputs[1])
    if data is None or shape is None:
        return None
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(int(s) for s in shape)))


def _reduced(function: Callable[..., Any], symbolic: Callable[..., Any] | None = None) -> Evaluator:
    def evaluate(call: Call) -> Numbers | None:
        data = call.inputs[0]
        axes = call.ints("axes", 1)
        if data is None or data.ndim != 1 or (axes is not None and axes not in ([0], [-1])):
            return None
        total = _arithmetic(lambda *items: function(items), symbolic)(*(_scalar(d) for d in data))
        return total.reshape(1) if call.attribute("keepdims", 1) else total

    return evaluate


def _lifted(function: Callable[..., Any], symbolic: Callable[..., Any] | None = None) -> Evaluator:
    def evaluate(call: Call) -> Numbers | None:
        arrays = [a for a in call.inputs if a is not None]
        return _arithmetic(function, symbolic)(*arrays) if len(arrays) == len(call.inputs) else None

    return evaluate


def _where(call: Call) -> Numbers | None:
    """Known conditions pick, whatever is known of what they pick."""
    given = [array for array in call.inputs if array is not None]
    if len(given) < len(call.inputs):
        return None
    condition, yes, no = np.broadcast_arrays(*given)
    out = np.empty(condition.shape, dtype=object)
    for index in np.ndindex(out.shape):
        decided: Number = condition.item(index)
        pair: tuple[Number, Number] = (no.item(index), yes.item(index))
        picked = [pair[bool(decided.value)]] if decided.known else pair
        reads = decided.reads.union(*(number.reads for number in picked))
        out[index] = Number(picked[0].value if decided.known else None, reads)
    return out


EVALUATORS: dict[str, Evaluator] = {
    "Constant": _literal,
    "Identity": lambda call: call.inputs[0],
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "ReduceProd": _reduced(math.prod, _multiply_all),
    "ReduceSum": _reduced(sum),
    "ReduceMax": _reduced(max),
    "ReduceMin": _reduced(min),
    "Add": _lifted(operator.add, _add),
    "Sub": _lifted(operator.sub),
    "Mul": _lifted(operator.mul, _multiply),
    "Div": _lifted(_divide, symbols.over),
    "Mod": _lifted(lambda a, b: a % b if b else None),
    "Neg": _lifted(operator.neg),
    "Floor": _lifted(math.floor),
    "Ceil": _lifted(math.ceil),
    "Max": _lifted(max),
    "Min": _lifted(min),
    "Equal": _lifted(operator.eq, _differs_from_negative),
    "Greater": _lifted(operator.gt),
    "Less": _lifted(operator.lt),
    "Not": _lifted(operator.not_),
    "Where": _where,
}
