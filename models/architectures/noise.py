"""Take the noise out of a model and make it again.

What does not compress is noise, and noise can be made again: a large float tensor of random weights is replaced by its
mean, standard deviation and range, in the tensor's ``doc_string``. Masks, index tables, shapes and short vectors stay
as they are, bit by bit.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

KEEP = 64  # elements of a tensor that always stays
RATIO = 0.7  # of its bytes that zlib leaves; above this it is noise
MARK = "noise:"  # opens the doc_string of a tensor that is to be made again
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
Bodies = onnx.GraphProto | onnx.FunctionProto


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and constants with their names, also those of subgraphs and functions."""
    yield from _tensors(model.graph)
    for function in model.functions:
        yield from _tensors(function)


def _tensors(body: Bodies) -> Iterator[tuple[str, onnx.TensorProto]]:
    if isinstance(body, onnx.GraphProto):
        yield from ((tensor.name, tensor) for tensor in body.initializer)
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(graph)


def strip(model: onnx.ModelProto) -> None:
    """Replace every tensor of noise by what is needed to make noise like it."""
    for _, tensor in tensors(model):
        if tensor.data_type in FLOATS and np.prod(tensor.dims) > KEEP:
            values = numpy_helper.to_array(tensor)
            data = values.tobytes()
            if len(zlib.compress(data)) > RATIO * len(data):
                _forget(tensor, values.astype(np.float64))


def _forget(tensor: onnx.TensorProto, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    facts = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.ClearField("double_data")
    tensor.ClearField("int32_data")
    tensor.doc_string = MARK + json.dumps({name: float(f"{value:.6g}") for name, value in facts.items()})


def refill(model: onnx.ModelProto, seed: str) -> None:
    """Make the noise again: the same seed gives the same bytes."""
    for name, tensor in tensors(model):
        if tensor.doc_string.startswith(MARK):
            facts = json.loads(tensor.doc_string[len(MARK) :])
            generator = np.random.default_rng([zlib.crc32(seed.encode()), zlib.crc32(name.encode())])
            noise = generator.standard_normal(tuple(tensor.dims), dtype=np.float32) * facts["std"] + facts["mean"]
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.raw_data = noise.clip(facts["min"], facts["max"]).astype(kind).tobytes()
            tensor.ClearField("doc_string")
