"""Files: what may be read, where one may be put, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxprune.errors import FileError
from onnxprune.model import files
from tests.material import snapshot, within


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def _circle(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def _below_a_file(path: Path) -> Path:
    path.touch()
    return path / "x"


NO_PLACE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a directory": (_directory, "is a directory. Name a file in it"),
    "a pipe": (_pipe, "not a regular file is there"),
    "a circle of links": (_circle, "symbolic links"),
    "below a file": (_below_a_file, "Not a directory"),
    "in a missing directory": (lambda path: path / "x", "there is no directory"),
    "a name that is too long": (lambda path: path.with_name("x" * 300), "File name too long"),
    "a zero byte": (lambda path: path.with_name("a\0b"), "null byte"),
}


@pytest.mark.parametrize(("make", "words"), NO_PLACE.values(), ids=NO_PLACE)
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    target = make(tmp_path / "there")
    before = snapshot(tmp_path)
    with within(5), pytest.raises(FileError, match=words):
        files.check_place(target)
    with within(5), pytest.raises(FileError, match=words):
        files.write_bytes(target, b"new")
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="you may not write in"):
        files.check_place(tmp_path / "x")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("make", [_directory, _pipe, _circle, _below_a_file, lambda path: path])
def test_only_a_regular_file_is_readable(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with within(5), pytest.raises(FileError, match="Cannot read"):
        files.check_readable(make(tmp_path / "there"))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    files.write_bytes(target, b"new")
    assert snapshot(tmp_path) == {"x": b"new"}


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    files.write_bytes(tmp_path / "link", b"new")
    assert snapshot(tmp_path) == {"link": b"new", "real": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "x"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(FileError, match="No space left on device"):
        files.write_bytes(target, b"new")
    assert snapshot(tmp_path) == {"x": b"old"}


def test_one_file_is_recognised_under_all_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    real.touch()
    (tmp_path / "soft").symlink_to("real")
    os.link(real, tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    names = [Path("real"), Path("./real"), tmp_path / "soft", tmp_path / "hard", tmp_path / "x" / ".." / "real"]
    (tmp_path / "x").mkdir()
    assert all(files.same_file(real, name) for name in names)
    assert not files.same_file(real, tmp_path / "other")
    assert files.same_file(tmp_path / "other", Path("./other"))  # neither exists
    assert not files.same_file(Path("a\0b"), real)
