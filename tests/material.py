"""What the tests about files and refusals share: a small model, ways to break it, and ways to look at a folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.laws import parse

MLP = """
mlp (float[batch, 8] x) => (float[batch, 4] y)
<float[8, 64] w1, float[64] b1, float[64, 4] w2, float[4] b2>
{ h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }
"""
Change = Callable[[onnx.ModelProto], object]


def tiny() -> onnx.ModelProto:
    """Two linear layers; `w1` takes 2 KiB and is left on disk, `b1` takes 256 bytes and is not."""
    return parse(MLP)


def changed(change: Change) -> onnx.ModelProto:
    """The small model after a change."""
    model = tiny()
    change(model)
    return model


def save(model: onnx.ModelProto | bytes, path: Path) -> Path:
    """Write a model as it is, however broken."""
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def entry(tensor: onnx.TensorProto, **entries: object) -> None:
    """Say where a tensor's bytes lie."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def save_external(
    folder: Path, name: str = "model.onnx", data: str = "weights.bin", change: Change | None = None
) -> Path:
    """The small model with the data of `w1` and `w2` in another file, 7 bytes of something else before it."""
    model = tiny()
    offset, chunks = 7, [b"padding"]
    for tensor in (model.graph.initializer[0], model.graph.initializer[2]):
        raw = tensor.raw_data
        chunks.append(raw)
        entry(tensor, location=data, offset=offset, length=len(raw))
        offset += len(raw)
    if change:
        change(model)
    (folder / data).parent.mkdir(parents=True, exist_ok=True)
    (folder / data).write_bytes(b"".join(chunks))
    return save(model, folder / name)


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Every initializer of a model file, external data included."""
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: the bytes of files, the targets of links, the kind of what is neither."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_bytes() if path.is_file() else "directory" if path.is_dir() else "special"
    return found


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail what does not return in time, even while it waits for a pipe."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"still running after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
