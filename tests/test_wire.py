"""The wire format: what is cut out of a model, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.model import wire
from tests.material import tiny

MODELS = Path(__file__).parents[1] / "models"


def bare() -> bytes:
    """A model of some 300 bytes, all of them structure."""
    model = tiny()
    del model.graph.initializer[:]
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("value", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_numbers_are_encoded_as_protobuf_does(value: int, encoded: bytes) -> None:
    assert wire.varint(value) == encoded


@given(st.integers(0, (1 << 64) - 1))
def test_a_tag_reads_back(length: int) -> None:
    head = wire.tag(wire.RAW_DATA, 5) + bytes(5)
    (field,) = wire.fields(memoryview(head), 0, len(head))
    assert (field.number, field.wire_type, field.end - field.payload) == (wire.RAW_DATA, wire.LENGTH_DELIMITED, 5)
    number = b"\x08" + wire.varint(length)  # field 1, a plain number
    (field,) = wire.fields(memoryview(number), 0, len(number))
    assert (field.number, field.wire_type, field.end) == (1, 0, len(number))


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_structure_and_weights_make_up_the_model(path: Path) -> None:
    data = path.read_bytes()
    whole = onnx.ModelProto.FromString(data)
    weightless = wire.without_weights(memoryview(data))
    model = onnx.ModelProto.FromString(weightless.model)
    assert len(weightless.places) == sum(len(t.raw_data) > wire.SMALL for t in whole.graph.initializer) > 0
    for index, start, end in weightless.places:
        assert not model.graph.initializer[index].HasField("raw_data")
        model.graph.initializer[index].raw_data = data[start:end]
    assert model == whole


def test_small_tensors_stay_in_the_structure() -> None:
    data = tiny().SerializeToString()
    weightless = wire.without_weights(memoryview(data))
    assert [index for index, _, _ in weightless.places] == [0]  # `w1` alone exceeds 1 KiB
    model = onnx.ModelProto.FromString(weightless.model)
    assert [bool(t.raw_data) for t in model.graph.initializer] == [False, True, True, True]


def test_a_tensor_with_long_text_and_little_data_is_not_cut() -> None:
    model = tiny()
    model.graph.initializer[1].doc_string = "b" * 2000
    weightless = wire.without_weights(memoryview(model.SerializeToString()))
    assert [index for index, _, _ in weightless.places] == [0]
    assert onnx.ModelProto.FromString(weightless.model).graph.initializer[1] == model.graph.initializer[1]


def test_a_graph_in_two_fields_counts_its_initializers_through() -> None:
    """Protobuf merges a message that comes in two pieces; so must the places."""
    more = onnx.ModelProto()
    more.graph.initializer.append(numpy_helper.from_array(np.ones(1000, np.float32), "more"))
    data = tiny().SerializeToString() + more.SerializeToString()
    weightless = wire.without_weights(memoryview(data))
    assert [index for index, _, _ in weightless.places] == [0, 4]
    _, start, end = weightless.places[1]
    assert data[start:end] == np.ones(1000, np.float32).tobytes()
    assert onnx.ModelProto.FromString(weightless.model).graph.initializer[4].name == "more"


def test_every_truncation_is_noticed_unless_a_field_ends_there() -> None:
    data = bare()
    ends = {field.end for field in wire.fields(memoryview(data), 0, len(data))} | {0}
    for length in range(len(data)):
        if length in ends:
            assert wire.without_weights(memoryview(data[:length])).model == data[:length]
        else:
            with pytest.raises(ValueError, match="truncated"):
                wire.without_weights(memoryview(data[:length]))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        model, places = wire.without_weights(memoryview(data))
    except ValueError:
        return
    assert len(model) <= len(data) + 20  # lengths may have been written longer than needed, never shorter
    assert all(0 <= start <= end <= len(data) for _, start, end in places)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0b", "wire type 3"),  # a group, which no ONNX message has
        (b"\x0e\0", "wire type 6"),
        (b"\x02\0", "truncated field"),  # field number 0
        (b"\x0a\x05ab", "truncated field"),
        (b"\x09\0\0\0", "truncated field"),
        (b"\x80" * 11, "truncated varint"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(wire.fields(memoryview(data), 0, len(data)))
