"""Sizes that are known only at run time, as products: ``"12*batch"`` is 12 times whatever ``batch`` turns out to be.

The numeric factor is the fast part of such an axis: of ``"12*batch"``, flat index i belongs to index i mod 12. That is
how a reshape lays out batch and heads; one that does otherwise is seen where it is stated, and ties nothing.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

Dim = int | str  # a size, or the name of a size that is known only at run time
Shape = tuple[Dim, ...]
TIMES = "*"


class Product(NamedTuple):
    """A number and the names that it is multiplied by, each as often as it stands here."""

    factor: int
    names: tuple[str, ...]

    @property
    def dim(self) -> Dim:
        """As a size or a name."""
        if not self.names or not self.factor:
            return self.factor
        return TIMES.join([*([str(self.factor)] if self.factor != 1 else []), *self.names])


@lru_cache(maxsize=4096)
def split(dim: Dim) -> Product:
    """The number and the names of which a size is the product."""
    if isinstance(dim, int):
        return Product(dim, ())
    head, *names = dim.split(TIMES)
    return Product(int(head), tuple(names)) if head.isdecimal() and names else Product(1, (head, *names))


def atom(name: str) -> str:
    """A name that a model gives to a size. One that reads like a product, or like a name of ours, proves nothing."""
    plain = TIMES not in name and not name.isdecimal() and settled(name)
    return name if plain else f"?\0{name.replace(TIMES, '·')}"


def times(a: Dim, b: Dim) -> Dim:
    """The product of two sizes."""
    left, right = split(a), split(b)
    return Product(left.factor * right.factor, tuple(sorted(left.names + right.names))).dim


def over(a: Dim, b: Dim) -> Dim | None:
    """The quotient of two sizes, if it leaves no remainder whatever the names turn out to be."""
    left, right = split(a), split(b)
    rest = Counter(left.names)
    rest.subtract(right.names)
    if not right.factor or left.factor % right.factor or any(count < 0 for count in rest.values()):
        return None
    return Product(left.factor // right.factor, tuple(sorted(rest.elements()))).dim


def settled(dim: Dim) -> bool:
    """Whether a size is a number, or made of names that the model gave; inference makes up names for the rest."""
    return not any(name.startswith(("unk__", "?")) for name in split(dim).names)
