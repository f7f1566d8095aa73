"""A small model that a study can tell more of than its weights do: loud units that repeat, quiet ones that matter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.model.record import Array
from tests.laws import parse
from tests.linears import replaced
from tests.material import save

QUIET, LOUD, COPIES = range(4), range(4, 8), range(8, 12)
INPUT, HIDDEN, OUTPUT = 8, 12, 4
REDUNDANT: Mapping[str, Any] = {"ratio": 1 / 3, "align": 1}
"""A budget that takes what repeats and no more."""
DEEPER: Mapping[str, Any] = {"ratio": 0.5, "align": 1}
"""One that takes more, so that biases have to move."""

HEAD = (
    f"g (float[N,{INPUT}] x) => (float[N,{OUTPUT}] y) <float[{INPUT},{HIDDEN}] u, float[{HIDDEN}] c,"
    f" float[{HIDDEN},{OUTPUT}] w"
)
NETS = {
    "biases": f"{HEAD}, float[{OUTPUT}] b> {{ q = Gemm(x, u, c)  h = Relu(q)  y = Gemm(h, w, b) }}",
    "no biases": f"{HEAD}> {{ q = Gemm(x, u, c)  h = Relu(q)  y = Gemm(h, w) }}",
    "products": f"{HEAD}> {{ p = MatMul(x, u)  q = Add(p, c)  h = Relu(q)  y = MatMul(h, w) }}",
}


def redundant(net: str = "biases", ir: int = 8, opset: int = 17) -> onnx.ModelProto:
    """Twelve hidden units: four that are quiet and unique, four that are loud, and those once more."""
    model = parse(NETS[net], ir=ir, opset=opset)
    for name in ("u", "c"):
        replaced(model, name, _repeat)
    replaced(model, "w", lambda array: _repeat(array.T))
    return model


def _repeat(array: NDArray[np.float32]) -> None:
    array[..., list(QUIET)] *= 0.6
    array[..., list(COPIES)] = array[..., list(LOUD)]


def rows(count: int = 200, seed: int = 0, size: int = INPUT) -> Array:
    """Normal noise."""
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def placed(folder: Path, model: onnx.ModelProto, **data: Array) -> tuple[Path, Path]:
    """A model and its data as files."""
    np.savez(folder / "data.npz", allow_pickle=False, **(data or {"x": rows()}))
    return save(model, folder / "model.onnx"), folder / "data.npz"
