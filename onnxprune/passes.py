"""What a pass is: a frozen set of options, a name, and one function from a valid model to a draft of a valid one.

A pass prints nothing and writes nothing. Its fields are its options on the command line. Others add passes with the
entry point ``onnxprune.passes``, which names a dict from pass names to classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.registry import load
from onnxprune.errors import unknown
from onnxprune.surgery.removal import Draft


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        draft: the new model; ``None`` if nothing changed.
        numbers: what to tell the user, by name.
    """

    draft: Draft | None
    numbers: dict[str, Any] = field(default_factory=dict)


class Pass(Protocol):
    """A transformation of a model; a frozen dataclass whose fields are its options."""

    name: ClassVar[str]

    def run(self, model: Model) -> PassResult:
        """Make a draft of the transformed model."""
        ...


def find(name: str) -> type[Pass]:
    """A pass by its name.

    Raises:
        UsageError: no pass has this name.
    """
    table: dict[str, type[Pass]] = load("passes")
    if name not in table:
        raise unknown("pass", name, table)
    return table[name]
