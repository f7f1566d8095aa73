"""Files: which may be read, where one may be put, and how it gets there so that nothing is ever lost."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from onnxprune.errors import FileError


def check_readable(path: Path) -> None:
    """Refuse what is no regular file: opening a pipe or a device may never return.

    Raises:
        FileError: it is missing, or something else.
    """
    cannot = f"Cannot read {str(path)!r}"
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise FileError(f"{cannot}: {reason(error)}.") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{cannot}: it is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}.")


def check_place(target: Path) -> None:
    """Refuse a place where no file can be put, or where something other than a file is.

    Raises:
        FileError: nothing can be written there.
    """
    cannot = f"Cannot write {str(target)!r}"
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise FileError(f"{cannot}: {reason(error)}.") from error
    if stat.S_ISDIR(mode):
        raise FileError(f"{cannot}: it is a directory. Name a file in it.")
    if not stat.S_ISREG(mode):
        raise FileError(f"{cannot}: something that is not a regular file is there. Choose another name.")
    if not target.parent.is_dir():
        raise FileError(f"{cannot}: there is no directory {str(target.parent)!r}. Make it first.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise FileError(f"{cannot}: you may not write in {str(target.parent)!r}.")


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths name one file, links followed, or would if it existed."""
    try:
        return a.samefile(b)
    except (OSError, ValueError):
        return os.path.abspath(a) == os.path.abspath(b)


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A directory beside the target, gone at the end whatever happens.

    Raises:
        FileError: the disk is full, or may not be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".onnxprune-", dir=target.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise FileError(f"Cannot write {str(target)!r}: {reason(error)}.") from error


def write_bytes(target: Path, data: bytes) -> None:
    """Write a small file, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    check_place(target)
    with workspace(target) as folder:
        staged = folder / "staged"
        with staged.open("wb") as file:
            file.write(data)
            sync(file)
        os.replace(staged, target)


def sync(file: IO[bytes]) -> None:
    """Bring a file's bytes to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a directory's names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def native(path: Path) -> str:
    """A path as C++ libraries take it: UTF-8, whatever the locale is.

    Raises:
        FileError: its name is in another encoding.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{str(path)!r} is no UTF-8 name, which ONNX Runtime needs. Rename the file.") from error


def reason(error: Exception) -> str:
    """Why the system refused, in its own words, without the path."""
    return getattr(error, "strerror", None) or str(error)
