"""Which files an ONNX file has its weights in, read without the onnx library: protobuf's wire format, down to the tensors."""

from __future__ import annotations

from collections.abc import Iterator

# Message → field → message, of onnx.proto: the ways from a model to its tensors.
MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
LOCATION = b"location"
LARGE = 64 << 20  # bytes


def external_files(content: bytes) -> set[str]:
    """The names in the entries `location` of a serialised model's tensors, as they are written.

    Raises:
        ValueError: this is not a protobuf message.
    """
    if len(content) < LARGE and LOCATION not in content:  # a larger file is searched faster from message to message
        return set()
    found: set[str] = set()
    pending = [("Model", memoryview(content))]
    while pending:
        message, data = pending.pop()
        fields = list(_fields(data))
        if message == "Entry":
            values = {number: bytes(value) for number, value in fields}
            if values.get(1) == LOCATION:
                found.add(values.get(2, b"").decode("utf-8", "backslashreplace"))
        below = MESSAGES.get(message, {})
        pending += [(below[number], value) for number, value in fields if number in below]
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and content of every field that has a length; others are skipped."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield key >> 3, data[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number without an end")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
