"""External data: read where it may lie, refused where not, and never looked at outside the model's directory."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxprune.errors import FileError, RefusedError
from onnxprune.model.record import Record
from tests.material import Change, entry, save, save_external, tiny, within

LENGTH = 8 * 64 * 4  # bytes of `w1`


def expected() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return numpy_helper.to_array(tiny().graph.initializer[0])


def at(location: object, **others: object) -> Change:
    """Say that `w1` lies there."""
    given = {"offset": 7, "length": LENGTH, **others}
    kept = {key: value for key, value in given.items() if value is not None}
    return lambda model: entry(model.graph.initializer[0], location=location, **kept)


def with_entries(*pairs: tuple[str, str]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        entry(tensor)
        for key, value in pairs:
            tensor.external_data.add(key=key, value=value)

    return change


def and_inside(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = bytes(LENGTH)


def as_text(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.STRING


REFUSED: dict[str, tuple[Change, str]] = {
    "outside": (at("../secret"), "not a regular file in the model's directory"),
    "outside, after a detour": (at("sub/../../secret"), "not a regular file in the model's directory"),
    "absolute": (at("/etc/passwd"), "not a regular file in the model's directory"),
    "outside, as Windows writes it": (at("..\\secret"), "not a regular file in the model's directory"),
    "an address": (at("http://localhost/secret"), "not a regular file in the model's directory"),
    "a file address": (at("file:///etc/passwd"), "not a regular file in the model's directory"),
    "a zero byte": (at("weights.bin\0.txt"), "not a regular file in the model's directory"),
    "the model itself": (at("model.onnx"), "not a regular file in the model's directory"),
    "the directory": (at("."), "not a regular file in the model's directory"),
    "memory": (at("*/_ORT_MEM_ADDR_/*"), "not a regular file in the model's directory"),
    "a link to outside": (at("link_out"), "not a regular file in the model's directory"),
    "a link to a device": (at("link_zero"), "not a regular file in the model's directory"),
    "a pipe": (at("pipe"), "not a regular file in the model's directory"),
    "a socket": (at("socket"), "not a regular file in the model's directory"),
    "a subdirectory": (at("sub"), "not a regular file in the model's directory"),
    "no location": (with_entries(("offset", "0")), "missing, repeated or unknown keys"),
    "an empty location": (at(""), "missing, repeated or unknown keys"),
    "two locations": (
        with_entries(("location", "weights.bin"), ("location", "other.bin")),
        "missing, repeated or unknown keys",
    ),
    "an unknown key": (at("weights.bin", magic="1"), "missing, repeated or unknown keys"),
    "a negative offset": (at("weights.bin", offset=-4), "offset '-4' is not"),
    "a hexadecimal offset": (at("weights.bin", offset="0x10"), "offset '0x10' is not"),
    "an Arabic offset": (at("weights.bin", offset="\u0667"), "is not a non-negative integer"),
    "an offset of 5,000 digits": (at("weights.bin", offset="9" * 5000), "is not a non-negative integer"),
    "an offset beyond the end": (at("weights.bin", offset=1 << 20), "too short"),
    "an offset near the end": (at("weights.bin", offset=7 + LENGTH), "too short"),
    "a length that is too short": (at("weights.bin", length=LENGTH - 4), "take 2048 bytes, not 2044"),
    "a length that is too long": (at("weights.bin", length=LENGTH + 4), "take 2048 bytes, not 2052"),
    "data inside as well": (and_inside, "does not fit"),
    "text": (as_text, "does not fit"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a model, beside a secret, with traps in it."""
    (tmp_path / "secret").write_bytes(bytes(LENGTH + 7))
    inside = tmp_path / "models"
    (inside / "sub").mkdir(parents=True)
    (inside / "link_out").symlink_to("../secret")
    (inside / "link_zero").symlink_to("/dev/zero")
    os.mkfifo(inside / "pipe")
    here = Path.cwd()
    os.chdir(inside)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    os.chdir(here)
    return inside


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_reference_is_refused_and_nothing_is_opened(folder: Path, change: Change, words: str) -> None:
    model = save_external(folder, change=change)
    secret = folder.parent / "secret"
    os.utime(secret, ns=(1, 1))  # older than any reading of it, which would show
    with within(5), pytest.raises(RefusedError) as refusal:
        Record(model)
    message = str(refusal.value)
    assert words in message
    assert "'w1'" in message
    assert "\n" not in message
    assert secret.stat().st_atime_ns == 1


def test_a_value_in_no_encoding_is_refused(folder: Path) -> None:
    model = save_external(folder, change=at("weightsXbin"))
    data = model.read_bytes().replace(b"weightsXbin", b"weights\xffbin")
    with pytest.raises(RefusedError, match="not UTF-8"):
        Record(save(data, model))


def test_a_missing_data_file_is_named(folder: Path) -> None:
    model = save_external(folder, data="w.bin")
    (folder / "w.bin").unlink()
    with pytest.raises(FileError, match=r"'w1' at 'w\.bin' cannot be read: No such file"):
        Record(model)


def test_a_model_that_did_not_come_from_a_file_has_no_directory(folder: Path) -> None:
    with pytest.raises(RefusedError, match="pass its path"):
        Record(save_external(folder).read_bytes())


def _shared(model: onnx.ModelProto) -> None:
    """`w2` is a piece of `w1`."""
    entry(model.graph.initializer[2], location="weights.bin", offset=7, length=64 * 4 * 4)


TAKEN: dict[str, Change] = {
    "plain": at("weights.bin"),
    "with a dot": at("./weights.bin"),
    "with more dots": at("././weights.bin"),
    "without a length": at("weights.bin", length=None),
    "with a checksum": at("weights.bin", checksum="0" * 40),
    "through a link inside": at("link_in"),
    "overlapping": _shared,
}


@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)
def test_a_right_reference_is_read_bit_by_bit(folder: Path, change: Change) -> None:
    (folder / "link_in").symlink_to("weights.bin")
    record = Record(save_external(folder, change=change))
    assert record.array("w1").tobytes() == expected().tobytes()
    assert record.nbytes == (folder / "model.onnx").stat().st_size + (folder / "weights.bin").stat().st_size


def test_data_may_lie_in_a_folder_below(folder: Path) -> None:
    record = Record(save_external(folder, data="sub/weights.bin"))
    assert list(record.data_files) == ["sub/weights.bin"]
    assert record.array("w1").tobytes() == expected().tobytes()


def test_the_working_directory_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_external(folder)
    monkeypatch.chdir(folder / "sub")
    assert Record("../model.onnx").array("w1").tobytes() == expected().tobytes()
    monkeypatch.chdir(folder)
    assert Record("model.onnx").array("w1").tobytes() == expected().tobytes()


def test_an_empty_tensor_needs_no_bytes(tmp_path: Path) -> None:
    model = tiny()
    empty = model.graph.initializer.add(name="empty", data_type=TensorProto.FLOAT, dims=[4, 0])
    entry(empty, location="empty.bin", offset=0, length=0)
    (tmp_path / "empty.bin").touch()
    record = Record(save(model, tmp_path / "model.onnx"))
    assert record.array("empty").shape == (4, 0)
    assert record.sha256


def test_the_hash_covers_the_data(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    before = Record(model).sha256
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert Record(model).sha256 != before


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model in a cache of links, as the Hugging Face hub lays it out."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_external(tmp_path, data="model.onnx_data")
    for name, blob in (("model.onnx", "a1" * 20), ("model.onnx_data", "b2" * 20)):
        shutil.move(tmp_path / name, blobs / blob)
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / blob)
    return snapshot / "model.onnx"


def test_a_cache_of_links_is_read(cache: Path) -> None:
    record = Record(cache)
    assert record.array("w1").tobytes() == expected().tobytes()
    assert list(record.data_files) == ["model.onnx_data"]


def test_a_link_from_the_cache_to_elsewhere_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(10000))
    data = cache.with_name("model.onnx_data")
    data.unlink()
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="not a regular file in the model's directory"):
        Record(cache)


@pytest.mark.parametrize("remove", ["weights.bin", "model.onnx"])
def test_what_was_mapped_survives_its_removal(tmp_path: Path, remove: str) -> None:
    """A model that is replaced in place is read to its end from the file that it was."""
    record = Record(save_external(tmp_path))
    record.array("w1")
    (tmp_path / remove).unlink()
    assert record.array("w1").tobytes() == expected().tobytes()
