"""What is refused before anything reads it, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import RefusedError
from onnxprune.model import soundness
from onnxprune.model.record import Record
from tests.broken import BROKEN, Model, doubling, in_branch
from tests.material import changed, within


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_is_refused_with_a_reason(make: Callable[[], Model], words: str) -> None:
    with within(10), pytest.raises(RefusedError) as refusal:
        Record(make())
    message = str(refusal.value)
    assert words in message
    assert "\n" not in message


def _typed(kind: int, field: str, values: list[int], dims: list[int]) -> onnx.ModelProto:
    tensor = TensorProto(name="more", data_type=kind, dims=dims)
    getattr(tensor, field).extend(values)
    return changed(lambda m: m.graph.initializer.append(tensor))


def _more(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnx.ModelProto:
    return changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(array, "more")))


SOUND: dict[str, Callable[[], onnx.ModelProto]] = {
    "nested branches": lambda: in_branch(depth=20),
    "an initializer that shadows an outer one": lambda: in_branch(numpy_helper.from_array(np.ones(4), "w2")),
    "functions that double a few times": lambda: doubling(8),
    "four bits an entry, two a byte": lambda: _typed(TensorProto.INT4, "int32_data", [1, 2], [3]),
    "complex numbers, two entries each": lambda: _typed(TensorProto.COMPLEX64, "float_data", [1, 2, 3, 4], [2]),
    "half precision in whole numbers": lambda: _typed(TensorProto.FLOAT16, "int32_data", [1, 2], [2]),
    "text": lambda: _more(np.array(["a", "b"], dtype=object)),
    "an empty tensor": lambda: _more(np.zeros((4, 0), np.float32)),
    "a scalar": lambda: _more(np.array(3, np.float32)),
    "an unused opset": lambda: changed(lambda m: m.opset_import.append(helper.make_opsetid("x.y", 1))),
    "an input of negative size, meaning any": lambda: changed(
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -1)
    ),
    "the latest opset": lambda: changed(
        lambda m: m.opset_import[0].CopyFrom(helper.make_opsetid("", onnx.defs.onnx_opset_version()))
    ),
}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_what_onnx_allows_is_taken(make: Callable[[], onnx.ModelProto]) -> None:
    assert Record(make()).proto.HasField("graph")


def test_the_limit_on_written_out_functions_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight doublings make 256 nodes, and two more call them."""
    monkeypatch.setattr(soundness, "MOST_NODES", 258)
    Record(doubling(8))
    monkeypatch.setattr(soundness, "MOST_NODES", 257)
    with pytest.raises(RefusedError, match="257 nodes"):
        Record(doubling(8))


def test_weights_on_disk_are_no_concern_of_the_checker() -> None:
    model = changed(lambda m: None)
    proto = onnx.ModelProto.FromString(model.SerializeToString())
    length = len(proto.graph.initializer[0].raw_data)
    proto.graph.initializer[0].ClearField("raw_data")
    soundness.check(proto, "model", {0: length})
    with pytest.raises(RefusedError, match="does not fit"):
        soundness.check(proto, "model", {0: length - 1})
