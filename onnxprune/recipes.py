"""Recipes: a TOML file that says everything that the command line of `onnxprune prune` can say.

A key is an option's name, with dashes or underscores. Tables are headings for people: a key means the same in each, and
above them all. Relative paths start where the recipe lies.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import FileError, UsageError
from onnxprune.model import files
from onnxprune.wishes import Effort, Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Request = Mapping[str, Any]
"""Options by name, without their dashes, as plain data; ``model`` is the argument."""
TABLES = ("budget", "protection", "recovery", "data", "evaluation", "output")
DEFAULTS = {**asdict(Recipe()), **asdict(Effort())}
LARGEST = 1 << 20  # bytes
_BARE = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Key:
    """What a key may hold.

    Attributes:
        kinds: the types of its value.
        words: these in words.
        path: whether it names a file.
        many: whether it may be given several times, which is a list.
    """

    kinds: tuple[type, ...]
    words: str
    path: bool = False
    many: bool = False


def read(path: str, keys: Mapping[str, Key]) -> dict[str, Any]:
    """What a recipe says, by key, its relative paths joined to where it lies.

    Raises:
        FileError: it cannot be read.
        UsageError: it is no TOML, or a key is unknown, given twice or of a wrong type.
    """
    found: dict[str, Any] = {}
    for key, value in _flat(path, _parsed(path), keys):
        if key in found:
            raise UsageError(f"Recipe {path!r} gives {key!r} twice.")
        found[key] = _value(path, key, value, keys[key])
    return found


def _parsed(path: str) -> dict[str, Any]:
    files.check_readable(Path(path))
    try:
        if os.path.getsize(path) > LARGEST:
            raise UsageError(f"Recipe {path!r} exceeds {LARGEST >> 20} MiB.")
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FileError(f"Cannot read recipe {path!r}: {files.reason(error)}.") from error
    except RecursionError as error:
        raise UsageError(f"Recipe {path!r} is nested too deeply.") from error
    except ValueError as error:  # TOML's own, and text that is not UTF-8
        raise UsageError(f"Recipe {path!r} is no TOML: {error}.") from error


def _flat(path: str, document: Mapping[str, Any], keys: Mapping[str, Key]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict) and name in TABLES:
            for inner, each in value.items():
                yield _known(path, inner, keys), each
        elif isinstance(value, dict):
            raise _unknown(path, "table", name, TABLES)
        else:
            yield _known(path, name, keys), value


def _known(path: str, name: str, keys: Mapping[str, Key]) -> str:
    key = name.replace("_", "-")
    if key not in keys:
        raise _unknown(path, "key", name, keys)
    return key


def _unknown(path: str, kind: str, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> UsageError:
    near = difflib.get_close_matches(name.replace("_", "-"), sorted(known), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(sorted(known))}."
    return UsageError(f"Recipe {path!r} has no {kind} {name!r} to offer. {hint}")


def _value(path: str, name: str, value: Any, key: Key) -> Any:
    several = value if isinstance(value, list) and key.many else [value]
    if any(type(each) not in key.kinds for each in several):
        words = f"{key.words}, or a list of it" if key.many else key.words
        raise UsageError(f"Recipe {path!r}: {name!r} must be {words}, not {_shown(value)}.")
    if key.path:
        several = [each if each == "-" else os.path.join(os.path.dirname(path), each) for each in several]
    return several if key.many else several[0]


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else toml_value(value) if isinstance(value, bool | int | float) else ""
    kinds: dict[type, str] = {dict: "a table", list: "a list"}
    return text[:40] or kinds.get(type(value), "a date or a time")


def request_of(document: Mapping[str, Any]) -> Request:
    """What was asked for: as the command line recorded it, else as far as a plan's recipe tells."""
    if document.get("request"):
        return dict(document["request"])
    asked = {"model": document["source"]["name"] or "model.onnx", "out": document["out"] or "pruned.onnx"}
    found = {}
    for name, value in document["recipe"].items():
        if value != DEFAULTS.get(name) and value not in ([], {}):
            found[name.replace("_", "-")] = value
    shapes = found.pop("input-shapes", {})
    if isinstance(shapes, dict) and shapes:
        found["input-shape"] = [f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in shapes.items()]
    return {**asked, **found}


def dumps(request: Request) -> str:
    """A recipe that asks for the same."""
    return "".join(f"{_toml_key(name)} = {toml_value(value)}\n" for name, value in request.items())


def _toml_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)


def toml_value(value: Any) -> str:
    """A value as TOML: text, a truth value, a number, or a list of such."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return f'"{"".join(map(_escaped, str(value)))}"'


def _escaped(character: str) -> str:
    if "\ud800" <= character <= "\udfff":  # a byte of a file name that is no Unicode, which TOML cannot say
        return "?"
    if character in '\\"':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def command(request: Request) -> str:
    """The command line that asks for the same, quoted for a POSIX shell."""
    words = ["onnxprune", "prune", str(request.get("model", ""))]
    for name, value in request.items():
        if name == "model" or value is False:
            continue
        option = "-o" if name == "out" else f"--{name}"
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [option] if each is True else [option, str(each)]
    return shlex.join(words)
