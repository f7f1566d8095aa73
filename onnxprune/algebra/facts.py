"""The words in which a rule speaks about indices. A rule only states facts; the solver and the surgeon act on them.

About indices:

* `Tie`: index j of one axis lives or dies with index ``picks[j]`` of another (`same`, `window`, `mapped`,
  `repeat`, `tile` are its spellings); with ``sums`` set, the operator sums over it, so a removed index must
  contribute exactly zero;
* `Product`: one axis is the row-major product of others (Reshape);
* `Pin`: indices that may not go, and why;
* `Normalized`: statistics are taken over this axis: pinned, unless the user gives it free;
* `Sum`: the operator sums over this axis alone, or over its product with others that are tied to it;
* `Pole`: the operator is not finite where this operand is zero;
* `Batch`: an axis along which two activations are multiplied, i.e. attention heads;
* `Free`: an axis that the rule has looked at and claims nothing about;
* `Quantized`: a tensor holds codes; which value each stands for;
* `Scale`: what the operator multiplies its normalised input by.

About the numbers that a node carries, which must follow a cut:

* `Count`: how many indices of a range survive (sizes, bounds, pads, ``group``);
* `Positions`: where picked indices come to lie (Gather);
* `Strided`: a Slice whose step is not 1: a Gather in disguise, once the axis is cut.

`Macs` lists the axes whose sizes multiply to the node's multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune.algebra.integers import Axis

Index = NDArray[np.int64]


class Slot(NamedTuple):
    """Where a node keeps a number: the attribute of this name if it has one, else this input.

    ``instead_of`` names an attribute that must go when the number is written out.
    """

    name: str
    slot: int | None = None
    instead_of: str | None = None


class Tie(NamedTuple):
    """``y[j]`` lives or dies with ``x[picks[j]]``; ``picks`` ``None`` means j itself."""

    x: Axis
    y: Axis
    picks: Index | None = None
    sums: bool = False


class Product(NamedTuple):
    """``flat`` runs over all combinations of the factors' indices, the last factor fastest."""

    flat: Axis
    factors: tuple[Axis, ...]


class Pin(NamedTuple):
    """These indices (all, if ``None``) of an axis may not go."""

    axis: Axis
    why: str
    indices: Sequence[int] | None = None


class Normalized(NamedTuple):
    """Each index changes the others, through a mean or a variance over the axis: removing is not zeroing here."""

    axis: Axis
    why: str


class Sum(NamedTuple):
    """The operator adds up this axis, each index multiplied by the same index of ``times``."""

    axis: Axis
    times: tuple[Axis, ...] = ()


class Pole(NamedTuple):
    """The operator divides by, or takes the logarithm of, what lies on this axis."""

    axis: Axis


class Batch(NamedTuple):
    """A batch axis of a product of two activations."""

    axis: Axis


class Free(NamedTuple):
    """Looked at; nothing claimed."""

    axis: Axis


class Quantized(NamedTuple):
    """The node reads or writes codes, which stand for ``(code - zero)`` times all scales.

    ``scales`` and ``zero`` name tensors; without ``zero``, code 0 stands for 0. Their axis d has one entry per index of
    the codes' axis ``axes[d]``, or one per ``block`` indices. Codes of a few ``bits`` are packed into bytes.
    """

    codes: str
    scales: tuple[str, ...] = ()
    zero: str | None = None
    axes: tuple[int, ...] = ()
    block: int = 0
    bits: int = 0


class Scale(NamedTuple):
    """The node normalises its input and multiplies each index of it by this one's."""

    axis: Axis


class Count(NamedTuple):
    """Element ``element`` of a node's number is the count of kept indices in ``[low, high)`` of an axis.

    Where ``per`` of them live or die together, it may count these runs.
    """

    slot: Slot
    element: int | None
    axis: Axis
    low: int
    high: int
    per: int = 1


class Positions(NamedTuple):
    """A node's number holds indices into ``x``, one for each index of ``y`` (for one, if ``y`` is ``None``)."""

    slot: Slot
    x: Axis
    picks: Index
    y: Axis | None


class Strided(NamedTuple):
    """``y[j]`` is ``x[picks[j]]``, and the node says so by element ``element`` of its starts, ends and steps."""

    x: Axis
    y: Axis
    picks: Index
    element: int


class Macs(NamedTuple):
    """The product of these axes' sizes is the node's multiply-accumulates."""

    axes: tuple[Axis, ...]


Fact = (
    Tie
    | Product
    | Pin
    | Normalized
    | Sum
    | Pole
    | Batch
    | Free
    | Quantized
    | Scale
    | Count
    | Positions
    | Strided
    | Macs
)


def ties(fact: Fact) -> Iterator[tuple[Axis, Axis]]:
    """The pairs of axes whose indices a fact relates."""
    if isinstance(fact, Tie):
        yield fact.x, fact.y
    elif isinstance(fact, Product):
        yield from ((fact.flat, factor) for factor in fact.factors)


def same(x: str, a: int, y: str, b: int, *, sums: bool = False) -> Tie:
    """Index i of x's axis a is index i of y's axis b."""
    return Tie((x, a), (y, b), None, sums)


def mapped(x: str, a: int, picks: Any, y: str, b: int, *, sums: bool = False) -> Tie:
    """Index j of y's axis b is index ``picks[j]`` of x's axis a."""
    return Tie((x, a), (y, b), np.asarray(picks, dtype=np.int64), sums)


def window(part: str, a: int, whole: str, b: int, start: int, size: int) -> Tie:
    """Index i of the part is index ``start + i`` of the whole (Concat, Split, Slice, Pad)."""
    return mapped(whole, b, np.arange(start, start + size), part, a)


def repeat(x: str, a: int, y: str, b: int, times: int, size: int) -> Tie:
    """Each of x's ``size`` indices stands ``times`` times in a row in y."""
    return mapped(x, a, np.repeat(np.arange(size), times), y, b)


def tile(x: str, a: int, y: str, b: int, times: int, size: int, *, sums: bool = False) -> Tie:
    """The run of x's ``size`` indices stands ``times`` times in y."""
    return mapped(x, a, np.tile(np.arange(size), times), y, b, sums=sums)
