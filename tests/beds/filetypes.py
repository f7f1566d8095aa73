"""Files on this machine for magika, labelled by what their names end in."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np

from tests.beds import data
from tests.beds.bed import Array, Bed, Context, Factory, Feed, Goal, Metrics, draw, macs, run

ENDS, BLOCK, PADDING = 1024, 4096, 256  # bytes of each end, of where they are looked for, and what stands for none
ROOTS = (Path("/usr"), Path(sys.base_prefix))  # what is installed, and does not change from run to run
VAGUE = {"txt", "crt", "pem", "gpg", "pub", "o", "pyc"}  # names that say too little, and files that come and go
MOST = 40  # files of a type, in each half
SMALLEST = 64  # bytes
LARGEST_WALK = 200_000  # files looked at


def ends(path: Path) -> Array:
    """The first and last bytes of a file, without the blanks around it."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
        file.seek(max(path.stat().st_size - BLOCK, 0))
        tail = file.read(BLOCK)
    found = np.full(2 * ENDS, PADDING, dtype=np.int32)
    first, last = head.lstrip()[:ENDS], tail.rstrip()[-ENDS:]
    found[: len(first)] = np.frombuffer(first, dtype=np.uint8)
    found[2 * ENDS - len(last) :] = np.frombuffer(last, dtype=np.uint8)
    return found


@cache
def labels() -> dict[str, int]:
    """The class of each file name extension that only one of magika's types has."""
    folder = data.package("magika")
    targets = json.loads((folder / "config.min.json").read_text(encoding="utf-8"))["target_labels_space"]
    kinds = json.loads((folder / "content_types_kb.min.json").read_text(encoding="utf-8"))
    found: dict[str, list[int]] = {}
    for number, target in enumerate(targets):
        for extension in kinds[target]["extensions"]:
            found.setdefault(extension, []).append(number)
    return {
        extension: numbers[0] for extension, numbers in found.items() if len(numbers) == 1 and extension not in VAGUE
    }


@cache
def halves() -> dict[str, tuple[Array, Array]]:
    """Files to calibrate on and files to measure on, told apart by the hash of what the model sees of them."""
    known = labels()
    found: dict[str, dict[bytes, tuple[Array, int]]] = {"calibration": {}, "test": {}}
    count: dict[tuple[str, int], int] = {}
    for path in _walk():
        label = known.get(path.suffix[1:].lower())
        if label is None or all(count.get((part, label), 0) >= MOST for part in found):
            continue
        try:
            if path.is_symlink() or path.stat().st_size < SMALLEST:
                continue
            seen = ends(path)
        except OSError:
            continue
        digest = hashlib.sha256(seen.tobytes()).digest()
        part = "test" if digest[0] % 2 else "calibration"
        if digest not in found[part] and count.get((part, label), 0) < MOST:
            found[part][digest] = seen, label
            count[part, label] = count.get((part, label), 0) + 1
    return {part: _arrays(files) for part, files in found.items()}


def _arrays(files: dict[bytes, tuple[Array, int]]) -> tuple[Array, Array]:
    ordered = [files[digest] for digest in sorted(files)]
    return np.stack([seen for seen, _ in ordered]), np.array([label for _, label in ordered])


def _walk() -> list[Path]:
    """Files under the roots, in an order that the file system has no part in."""
    found: list[Path] = []
    roots = {root.resolve() for root in ROOTS}
    for root in sorted(root for root in roots if not roots & set(root.parents)):
        for folder, folders, names in os.walk(root):
            folders.sort()
            found += [Path(folder, name) for name in sorted(names)]
            if len(found) > LARGEST_WALK:
                return found
    return found


def _samples(seed: int) -> Feed:
    seen, _ = halves()["calibration"]
    return {"bytes": seen[draw(seed, len(seen))]}


def _tell(path: Path, items: int) -> Metrics:
    seen, known = halves()["test"]
    return {"accuracy": float((run(path, {"bytes": seen[:items]}).argmax(1) == known[:items]).mean())}


def magika(context: Context) -> Bed:
    """magika: the type of a file from its bytes."""
    model = data.model("magika/model.onnx", context)
    items = min(context.items, len(halves()["test"][1]))
    budgets = [macs(0.5, Goal("accuracy", drop=0.02))]
    return Bed("magika", model, _samples, partial(_tell, items=items), budgets, items, {"bytes": (1, 2 * ENDS)})


BEDS: dict[str, Factory] = {"magika": magika}
