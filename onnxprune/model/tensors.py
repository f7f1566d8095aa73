"""What the description of a tensor says of its bytes: how many there are, and in which field they may lie."""

from __future__ import annotations

import math
from functools import cache

import onnx

KNOWN_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
WHOLE_TYPES = {getattr(onnx.TensorProto, name): name for name in ("INT64", "BOOL", "STRING", "COMPLEX64", "COMPLEX128")}
"""Of constants that are no weights."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
COMPLEX = frozenset({onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})
BITS = {
    getattr(onnx.TensorProto, name): bits
    for bits, names in {
        2: ("INT2", "UINT2"),
        4: ("INT4", "UINT4", "FLOAT4E2M1"),
        8: ("FLOAT8E8M0",),
    }.items()
    for name in names
    if hasattr(onnx.TensorProto, name)
}


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's bytes lie outside the model file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


@cache
def _itemsize(data_type: int) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize


def bits(tensor: onnx.TensorProto) -> int:
    """The bits that one element of a tensor takes."""
    return BITS.get(tensor.data_type) or 8 * _itemsize(tensor.data_type)


def nbytes(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor of this type and shape takes, packed types rounded up."""
    count = math.prod(tensor.dims)
    if tensor.data_type in BITS:
        return int(count * BITS[tensor.data_type] + 7) // 8
    return int(count * _itemsize(tensor.data_type))


def entries(tensor: onnx.TensorProto) -> int:
    """The entries that a tensor of this type and shape takes in the typed field that may hold it."""
    count = math.prod(tensor.dims)
    if BITS.get(tensor.data_type, 8) < 8:
        return nbytes(tensor)
    return int(2 * count if tensor.data_type in COMPLEX else count)
