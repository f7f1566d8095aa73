"""Einsum: a letter names an index; what the output lacks is summed over the product of all operands that have it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from onnxprune.algebra.facts import Batch, Fact, Macs, Pin, Sum, same
from onnxprune.algebra.graph import Op
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.registry import RuleTable, Terms, rule_for

RULES: RuleTable = {}

Labels = list[str]  # one for each axis: a letter, or the number of an axis that the ellipsis hides
TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


def _any_factor(op: Op) -> Terms:
    """A product is zero where any factor is."""
    return (tuple(range(len(op.ins))),)


@rule_for(RULES, "Einsum", zero=_any_factor)
def einsum(op: Op) -> Iterator[Fact]:
    """A letter is one index wherever it stands; a letter that the output lacks is summed."""
    terms, result = labels(op)
    twice = {label for term in terms for label, count in Counter(term).items() if count > 1}
    places = _places(op, terms)
    for label in twice:
        yield from (Pin(axis, f"{op.label} takes a diagonal along it") for axis in places[label])
    for label in places.keys() - twice:
        axes, output = places[label], (op.out, result.index(label)) if label in result else None
        yield from (same(*axes[0], *axis) for axis in axes[1:])
        if output is None:
            yield Sum(axes[0], tuple(axes[1:]))
        else:
            yield same(*axes[0], *output)
            yield from _batch(op, axes)
    if len(terms) > 1:
        yield Macs(tuple(axes[0] for axes in places.values()))


def _batch(op: Op, axes: Sequence[Axis]) -> Iterator[Fact]:
    moving = [axis for axis in axes if not op.graph.is_constant(axis[0])]
    if len(moving) > 1:
        yield from (Batch(axis) for axis in moving)


def _places(op: Op, terms: Sequence[Labels]) -> Mapping[str, list[Axis]]:
    """The operands' axes of each label; one of size 1 is stretched, so it is no place of its own."""
    places: dict[str, list[Axis]] = {}
    for x, term in zip(op.ins, terms, strict=True):
        for axis, label in enumerate(term):
            if op.shape(x)[axis] != 1:
                places.setdefault(label, []).append((x, axis))
    return places


def labels(op: Op) -> tuple[list[Labels], Labels]:
    """The label of every axis of the operands, and of the output.

    Raises:
        ValueError: the equation does not fit the operands.
    """
    left, arrow, right = str(op.attr("equation", "")).replace(" ", "").partition("->")
    written = left.split(",")
    if len(written) != len(op.ins):
        raise ValueError("its equation has another number of terms than it has inputs")
    terms = [_term(text, op.rank(x)) for text, x in zip(written, op.ins, strict=True)]
    hidden = {sum(map(str.isdigit, term)) for text, term in zip(written, terms, strict=True) if "..." in text}
    if len(hidden) > 1:
        raise ValueError("its ellipses stand for different numbers of axes")
    dots = max(hidden, default=0)
    if not arrow:
        count = Counter(letter for letter in left if letter.isalpha())
        right = "..." * bool(dots) + "".join(sorted(letter for letter, times in count.items() if times == 1))
    elif dots and "..." not in right:
        raise ValueError("its output lacks the ellipsis")
    return terms, _term(right, sum(map(str.isalpha, right)) + dots)


def _term(text: str, rank: int) -> Labels:
    if not TERM.fullmatch(text):
        raise ValueError(f"{text!r} is no term of an equation")
    before, dots, after = text.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise ValueError(f"{text!r} does not fit {rank} axes")
    return [*before, *(map(str, range(hidden))), *after]
