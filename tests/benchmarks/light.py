"""The classic networks that the onnx package ships without weights, given random ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def names() -> list[str]:
    """The networks, without the prefix of their files."""
    return sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))


def network(name: str) -> onnx.ModelProto:
    """A network whose weights, constants filled at run time in the package's file, are seeded random initializers."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph, rng = model.graph, np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        weight = _weight(tuple(shapes[node.input[0]].tolist()), rng)
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, weight.shape))
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _weight(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    weight: NDArray[np.float32]
    if len(shape) < 2:
        weight = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    else:
        weight = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return weight


def write_all(folder: Path) -> Iterator[Path]:
    """Write the networks one by one."""
    for name in names():
        path = folder / f"light_{name}.onnx"
        onnx.save(network(name), path)
        yield path
