"""Every error that this package raises on purpose, and the exit code of each.

    PruneError                    1  a check or a threshold failed
    ├── UsageError                2  an option, a name or a data file is wrong
    ├── RefusedError              3  this model, or this plan, cannot be taken
    ├── ProviderError             4  an execution provider is missing or fell back
    └── FileError                 5  reading or writing failed

A message says what is wrong, where, and what to do, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class PruneError(Exception):
    """A check or a threshold failed."""

    exit_code: ClassVar[int] = 1


class UsageError(PruneError):
    """An option, a name or a data file is wrong."""

    exit_code: ClassVar[int] = 2


class RefusedError(PruneError):
    """The model or the plan cannot be taken; nothing was written."""

    exit_code: ClassVar[int] = 3


class ProviderError(PruneError):
    """A requested execution provider is missing, or ONNX Runtime fell back to another."""

    exit_code: ClassVar[int] = 4


class FileError(PruneError):
    """A file could not be read or written."""

    exit_code: ClassVar[int] = 5


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for a name that is not in the table of its kind, with the nearest one that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"No {kind} is called {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
