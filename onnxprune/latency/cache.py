"""What was measured once on a machine is kept in the user's cache; one that cannot be read is measured again."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from onnxprune.errors import FileError
from onnxprune.model import files

FORMAT = 1


def folder() -> Path:
    """Where this user's measurements lie: ``ONNXPRUNE_CACHE``, or the platform's place for caches."""
    given = os.environ.get("ONNXPRUNE_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "onnxprune" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "onnxprune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxprune"


def place(key: Mapping[str, Any]) -> Path:
    """The file of a measurement that depends on all that the key says."""
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True, default=str)
    return folder() / f"latency-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def load(path: Path) -> Any:
    """What lies there; ``None`` if nothing that can be read does."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def store(path: Path, found: Any) -> None:
    """Keep what was measured, if there is a place where that can be done."""
    with suppress(OSError, FileError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, json.dumps(found).encode())
