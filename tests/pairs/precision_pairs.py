"""A model in half precision and with 8-bit codes: ``python precision_pairs.py MODEL.onnx FOLDER``.

Needs onnxruntime's own tools. Writes ``<name>.fp16.onnx`` and ``<name>.qdq.onnx``, calibrated on seeded noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import Feed, synthesise
from onnxprune.model.record import Record


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """A few seeded inputs."""

    def __init__(self, path: Path) -> None:
        graph = Graph(Record(path))
        self.feeds = iter([synthesise(graph, {}, 4 * seed) for seed in range(8)])

    def get_next(self) -> Feed | None:
        """The next one."""
        return next(self.feeds, None)


def main(path: Path, folder: Path) -> None:
    """Write both."""
    onnx.save(convert_float_to_float16(onnx.load(path)), folder / f"{path.stem}.fp16.onnx")
    coded = folder / f"{path.stem}.qdq.onnx"
    quantize_static(str(path), str(coded), Noise(path), quant_format=QuantFormat.QDQ, per_channel=True)


if __name__ == "__main__":
    np.random.seed(0)  # noqa: NPY002 - the quantiser draws from it
    main(Path(sys.argv[1]), Path(sys.argv[2]))
