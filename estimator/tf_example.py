"""tf.train.Example records, read without TensorFlow.

    parse_examples(records, fc.make_parse_example_spec(columns))    # features, as an input_fn gives

A record is a protocol buffer: Example { features { feature: map<string, Feature> } }, and a Feature
one of three lists: of bytes, floats or integers.
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto)
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def parse_examples(records: Sequence[bytes], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the features of records, one row for each.

    >>> record = example_record({"age": [30.0], "city": [b"Rome", b"Oslo"]})
    >>> from feature_columns import FixedLenFeature, VarLenFeature
    >>> spec = {"age": FixedLenFeature((1,), np.float32), "city": VarLenFeature(np.dtype(str))}
    >>> parse_examples([record], spec)
    {'age': array([[30.]], dtype=float32), 'city': [['Rome', 'Oslo']]}

    Args:
        records: serialised `tf.train.Example`s.
        spec: by name what to read, as `feature_columns.make_parse_example_spec` gives it:
            `FixedLenFeature(shape, dtype, default_value)` or `VarLenFeature(dtype)`.

    Returns:
        Arrays of shape (records, *shape) for features of a fixed length (lists, of strings), and a
        list for each record for the others.

    Raises:
        ValueError: if a record is none, lacks a feature without a default, or holds another number
            or kind of values.
    """
    if isinstance(records, bytes | str) or not all(isinstance(r, bytes) for r in records):
        raise ValueError("tf.train.Examples must be a list of bytes, one for each example.")
    rows = [_features(record, number) for number, record in enumerate(records)]
    return {name: _column(name, kind, rows) for name, kind in spec.items()}


def example_record(features: Mapping[str, Sequence[Any]]) -> bytes:
    """Returns a serialised `tf.train.Example` of bytes, floats or integers by name.

    >>> len(example_record({"age": [30.0]}))
    19
    """
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _list_of(values)))
        for name, values in features.items()
    )
    return _field(1, entries)


def _column(name: str, kind: Any, rows: Sequence[Mapping[str, list[Any]]]) -> Any:
    dtype = np.dtype(kind.dtype)
    shape = getattr(kind, "shape", None)
    values = [_typed(name, number, row.get(name), dtype) for number, row in enumerate(rows)]
    if shape is None:
        return [[] if row is None else row for row in values]
    size, default = int(np.prod(shape)), getattr(kind, "default_value", None)
    for number, row in enumerate(values):
        if row is None and default is None:
            raise ValueError(f'Example {number} lacks the feature "{name}", which has no default.')
        if row is None:
            values[number] = np.broadcast_to(np.asarray(default, object), shape).ravel().tolist()
        elif len(row) != size:
            raise ValueError(
                f'Example {number} has {len(row)} values of the feature "{name}", wanted {size}.'
            )
    made = np.array(values, object).reshape(len(rows), *shape)
    return made.tolist() if dtype.kind in "USO" else made.astype(dtype)


def _typed(name: str, number: int, values: list[Any] | None, dtype: np.dtype) -> Any:
    """Returns the values of one example, checked against the dtype; None: there are none."""
    if values is None:
        return None
    kinds: dict[str, type | tuple[type, ...]] = {"f": float, "i": int, "u": int, "b": int}
    wanted = kinds.get(dtype.kind, bytes)
    if not all(isinstance(value, wanted) for value in values):
        raise ValueError(
            f'Example {number} holds {type(values[0]).__name__} values of the feature "{name}", '
            f"wanted {dtype}."
        )
    return [_text(value) for value in values] if dtype.kind in "USO" else values


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _features(record: bytes, number: int) -> dict[str, list[Any]]:
    """Returns the values of a record by name."""
    found: dict[str, list[Any]] = {}
    try:
        for entries in _fields_of(record, 1):
            for entry in _fields_of(entries, 1):
                names, features = _fields_of(entry, 1), _fields_of(entry, 2)
                name = names[-1].decode() if names else ""
                values = _values(features[-1]) if features else None
                if values is not None:
                    found[name] = values
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"Example {number} is no serialised tf.train.Example: {error}.") from None
    return found


def _values(feature: bytes) -> list[Any] | None:
    """Returns the values of a Feature; None, if no list is set."""
    found: list[Any] | None = None
    for field, wire, content in _parts(feature):
        if wire != _BYTES:
            continue
        if field == 1:
            found = _fields_of(content, 1)
        elif field == 2:
            found = _floats(content)
        elif field == 3:
            found = _integers(content)
    return found


def _floats(content: bytes) -> list[float]:
    made: list[float] = []
    for field, wire, data in _parts(content):
        if field == 1 and wire in (_BYTES, _FIXED32):
            made += struct.unpack(f"<{len(data) // 4}f", data)
    return made


def _integers(content: bytes) -> list[int]:
    made: list[int] = []
    for field, wire, data in _parts(content):
        if field != 1:
            continue
        if wire == _VARINT:
            made.append(_signed(data))
        elif wire == _BYTES:
            place = 0
            while place < len(data):
                value, place = _varint(data, place)
                made.append(_signed(value))
    return made


def _fields_of(message: bytes, number: int) -> list[bytes]:
    return [data for field, wire, data in _parts(message) if field == number and wire == _BYTES]


def _parts(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yields number, wire type and content of each field of a message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield field, wire, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, place = _varint(message, place)
        if size is None:
            raise ValueError(f"there is no wire type {wire}")
        if place + size > len(message):
            raise ValueError("it is cut off")
        yield field, wire, message[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns a number, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is too long")


def _signed(value: int) -> int:
    """Returns a 64-bit number whose highest bit is its sign."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _list_of(values: Sequence[Any]) -> bytes:
    if not values:
        return b""  # of no kind
    if isinstance(values[0], bytes | str):
        texts = [v.encode() if isinstance(v, str) else v for v in values]
        return _field(1, b"".join(_field(1, text) for text in texts))
    if isinstance(values[0], float):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(3, _field(1, b"".join(_as_varint(int(value)) for value in values)))


def _field(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    value &= 2**64 - 1
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
