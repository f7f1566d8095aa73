"""The tables that others may add to: operator rules, criteria and passes, each found by one entry point per table.

A distribution adds to a table by naming a dict in its metadata, for instance::

    [project.entry-points."onnxprune.rules"]
    mine = "my_package:RULES"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from onnxprune.algebra.facts import Fact
from onnxprune.errors import PruneError

if TYPE_CHECKING:
    from onnxprune.algebra.graph import Op
    from onnxprune.algebra.linear import Linear

Terms = tuple[tuple[int, ...], ...]
ALWAYS: Terms = ()
"""Zero whatever the inputs are."""
FIRST: Terms = ((0,),)
"""Zero where the first input is."""


@dataclass(frozen=True)
class Rule:
    """What is known of one operator.

    Attributes:
        facts: states the facts of one node.
        zero: when an index of the output is zero wherever the inputs' tied indices are: a sum of products, each
            term a tuple of input slots of which one zero suffices, all terms needed. ``None``: never.
        sizes: input slots that take sizes or positions; a width may be read as a number into these.
        shapes: the shapes of the outputs, in order, for an operator that ONNX's own inference does not know.
        typed_by: of such an operator, the input of the outputs' element type, where it is not the first of floats.
        pins: why nodes of this operator are kept whole on purpose, whatever else is known of them.
        linear: how a node is a matrix product with a constant, if it is one; for statistics and recovery.
    """

    facts: Callable[[Op], Iterable[Fact]]
    zero: Callable[[Op], Terms | None] | Terms | None = None
    sizes: tuple[int, ...] = ()
    shapes: Callable[[Op], Iterable[tuple[int | str, ...]]] | None = None
    pins: str | None = None
    typed_by: int | None = None
    linear: Callable[[Op], Linear | None] | None = None

    def zero_terms(self, op: Op) -> Terms | None:
        """The ``zero`` of one node."""
        return self.zero(op) if callable(self.zero) else self.zero


RuleTable = dict[tuple[str, str], Rule]
FactFunction = Callable[["Op"], Iterable[Fact]]


def rule_for(
    table: RuleTable,
    *kinds: str,
    domain: str = "",
    zero: Callable[[Op], Terms | None] | Terms | None = None,
    sizes: tuple[int, ...] = (),
    shapes: Callable[[Op], Iterable[tuple[int | str, ...]]] | None = None,
    typed_by: int | None = None,
    linear: Callable[[Op], Linear | None] | None = None,
) -> Callable[[FactFunction], FactFunction]:
    """Enter a function into a table as the rule of these operators.

    Raises:
        PruneError: one of them has a rule already.
    """

    def enter(facts: FactFunction) -> FactFunction:
        for kind in kinds:
            add(
                table,
                (domain, kind),
                Rule(facts, zero, sizes, shapes, typed_by=typed_by, linear=linear),
                "operator rule",
            )
        return facts

    return enter


def add(table: dict[Any, Any], key: Any, value: Any, kind: str) -> None:
    """Enter a value under a new key.

    Raises:
        PruneError: the key is taken.
    """
    if key in table:
        raise PruneError(f"The {kind} {key!r} is registered twice: {table[key]!r} and {value!r}.")
    table[key] = value


@cache
def load(group: str) -> dict[Any, Any]:
    """All tables of one entry point group, merged.

    Raises:
        PruneError: none is installed, or two define the same name.
    """
    merged: dict[Any, Any] = {}
    for point in sorted(entry_points(group=f"onnxprune.{group}"), key=lambda p: p.name):
        for key, value in point.load().items():
            add(merged, key, value, group)
    if not merged:
        raise PruneError(
            f"No {group} are registered: onnxprune is not installed here. Run `pip install -e .` in the checkout."
        )
    return merged
