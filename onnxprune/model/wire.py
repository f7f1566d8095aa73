"""The protobuf wire format, as far as it takes to leave a model's weights on disk.

A model file is one message: ``ModelProto { graph = 7 { initializer = 5 { raw_data = 9 } } }``. Cutting the
``raw_data`` fields out of the byte string gives a *weightless* model that protobuf parses in milliseconds,
and the place of every weight in the file, from which it can be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
LENGTH_DELIMITED = 2
SMALL = 1024  # bytes; tensors up to this size stay in the weightless model: shapes, axes, scalars

Buffer = memoryview


class Field(NamedTuple):
    """One field of a message: its number, and where it and its payload lie in the buffer."""

    number: int
    wire_type: int
    start: int
    payload: int
    end: int


class Weightless(NamedTuple):
    """A model's bytes without its weights, and the weights' places: ``(initializer index, start, end)``."""

    model: bytes
    places: list[tuple[int, int, int]]


def varint(value: int) -> bytes:
    """Encode a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, length: int) -> bytes:
    """The head of a length-delimited field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length)


def _read_varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    if at < end and buffer[at] < 0x80:  # nearly all of them
        return buffer[at], at + 1
    value = shift = 0
    while at < end and shift < 70:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("truncated varint")


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``buffer[start:end]``.

    Raises:
        ValueError: the bytes are not a message, or stop in the middle of one.
    """
    at = start
    while at < end:
        key, payload = buffer[at], at + 1
        if key > 0x7F:
            key, payload = _read_varint(buffer, at, end)
        wire_type = key & 7
        if wire_type == 0:
            stop = _read_varint(buffer, payload, end)[1]
        elif wire_type == LENGTH_DELIMITED:
            length, payload = _read_varint(buffer, payload, end)
            stop = payload + length
        elif wire_type in (1, 5):
            stop = payload + (8 if wire_type == 1 else 4)
        else:
            raise ValueError(f"wire type {wire_type}")
        if stop > end or key < 8:
            raise ValueError("truncated field")
        yield Field(key >> 3, wire_type, at, payload, stop)
        at = stop


def without_weights(buffer: Buffer) -> Weightless:
    """Split a serialized ``ModelProto`` into its structure and the places of its weights.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    places: list[tuple[int, int, int]] = []
    counter = iter(range(1 << 62))
    pieces = []
    for field in fields(buffer, 0, len(buffer)):
        if field.number == GRAPH and field.wire_type == LENGTH_DELIMITED:
            graph = b"".join(_graph(buffer, field, counter, places))
            pieces += [tag(GRAPH, len(graph)), graph]
        else:
            pieces.append(bytes(buffer[field.start : field.end]))
    return Weightless(b"".join(pieces), places)


def _graph(buffer: Buffer, graph: Field, counter: Iterator[int], places: list[tuple[int, int, int]]) -> Iterator[bytes]:
    copied = graph.payload  # up to here; what needs no change is copied in long runs
    for number, _, start, payload, end in fields(buffer, graph.payload, graph.end):
        if number != INITIALIZER:
            continue
        index = next(counter)
        if end - payload <= SMALL:
            continue
        kept = []
        for part in fields(buffer, payload, end):
            if part.number == RAW_DATA and part.end - part.payload > SMALL:
                places.append((index, part.payload, part.end))
            else:
                kept.append(bytes(buffer[part.start : part.end]))
        tensor = b"".join(kept)
        yield bytes(buffer[copied:start])
        yield tag(INITIALIZER, len(tensor))
        yield tensor
        copied = end
    yield bytes(buffer[copied : graph.end])
