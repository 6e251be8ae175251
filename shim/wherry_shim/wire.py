# SPDX-License-Identifier: Apache-2.0
"""Protocol buffers by table, without their library (which costs 5 MB and 40 ms in each server).

A message is a dict: each scalar has its proto3 default where the wire has nothing, a message that is absent is None, a repeated field is a
list, a map a dict. A table's row names a message and its fields, in the order of their numbers:

    "task.StateRequest": "string id 1, string exec_id 2"        repeated: Mount* rootfs 3        map: string% annotations 3

A nested message may be given to encode() as its bytes, so what stays the same need not be encoded each time; nor need a whole message, since the bytes
of some fields and those of others, one behind the other, are the message with all of them.

Rules of decoding are protobuf's: unknown fields are skipped, so is a known one of another wire type; the last scalar wins, messages merge, numbers
may come packed or not. Whatever else is wrong is a DecodeError, before anything has been believed. tests/shim/test_wire.py compares it with protobuf.
"""

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Values = dict[str, Any]

DEPTH = 100  # protobuf's own limit
_MASK = 0xFFFFFFFFFFFFFFFF
_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_DOUBLE = Struct("<d")
_SCALARS: "dict[str, tuple[int, Any, Any]]" = {
    "bool": (_VARINT, False, bool),
    "int32": (_VARINT, 0, lambda value: ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000),
    "int64": (_VARINT, 0, lambda value: (value ^ 1 << 63) - (1 << 63)),
    "uint32": (_VARINT, 0, lambda value: value & 0xFFFFFFFF),
    "uint64": (_VARINT, 0, lambda value: value),
    "double": (_FIXED64, 0.0, lambda raw: _DOUBLE.unpack(raw)[0]),
    "bytes": (_BYTES, b"", bytes),
    "string": (_BYTES, "", bytes.decode),
}
"""Wire type, default, and what makes a value of what stands on the wire."""

_SMALL = [bytes((value,)) for value in range(128)]
"""Numbers and lengths of one byte, which nearly all are."""

_tables: "dict[str, str]" = {}
_messages: "dict[str, Message]" = {}


class DecodeError(ValueError):
    """The bytes are no such message."""


class Field:
    """One field: `kind` is a scalar's name or a message's; `many` is "", "*" (repeated) or "%" (map with string keys)."""

    __slots__ = ("default", "kind", "many", "message", "name", "number", "tag", "value", "wire")

    def __init__(self, row: "str", prefix: "str") -> "None":
        kind, self.name, number = row.split()
        self.number, self.many = int(number), kind[-1] if kind[-1] in "*%" else ""
        self.kind = kind.rstrip("*%")
        scalar = _SCALARS.get(self.kind)
        self.wire: "int"
        self.default: "Any"
        self.value: "Any"
        self.wire, self.default, self.value = scalar or (_BYTES, None, None)
        self.message = None if scalar else self.kind if "." in self.kind else f"{prefix}.{self.kind}"
        self.tag = _varint(self.number << 3 | (_BYTES if self.many == "%" else self.wire))


class Message:
    """A row of a table, taken apart at its first use."""

    __slots__ = ("defaults", "fields", "lists", "numbers", "usual")

    def __init__(self, name: "str") -> "None":
        prefix = name.rpartition(".")[0]
        self.fields = [Field(row, prefix) for row in _tables[name].split(", ") if row]
        self.numbers = {field.number: field for field in self.fields}
        self.defaults = {field.name: field.default for field in self.fields if not field.many}
        self.lists = [field for field in self.fields if field.many]
        self.usual = {field.tag[0]: field for field in self.fields if not field.many and field.number < 16 and field.wire in (_VARINT, _BYTES)}
        """What begins with a byte, and is a number or has a length."""


def add(table: "dict[str, str]") -> "None":
    """Makes the messages of a table known."""
    _tables.update(table)


def known(name: "str") -> "bool":
    return name in _tables


def _message(name: "str") -> "Message":
    found = _messages.get(name)
    if found is None:
        found = _messages[name] = Message(name)
    return found


def _varint(value: "int") -> "bytes":
    if 0 <= value < 128:
        return _SMALL[value]
    value &= _MASK
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(name: "str", values: "Values") -> "bytes":
    """Fields that are not in `values`, and defaults, are left out, as proto3 does."""
    out = b""
    for field in (_messages.get(name) or _message(name)).fields:
        value = values.get(field.name)
        if not value and (value is None or not field.message or field.many):  # an empty message is not an absent one
            continue
        if field.many:
            out += _many(field, value)
        elif field.wire == _BYTES:
            data = _body(field, value)
            size = len(data)
            out += field.tag + (_SMALL[size] if size < 128 else _varint(size)) + data
        else:
            out += field.tag + _number(field, value)
    return out


def _body(field: "Field", value: "Any") -> "bytes":
    """Of what has a length."""
    if isinstance(value, bytes):
        return value
    return encode(field.message, value) if field.message else value.encode("utf-8", "replace")


def _number(field: "Field", value: "Any") -> "bytes":
    return _varint(int(value)) if field.wire == _VARINT else _DOUBLE.pack(value)


def _many(field: "Field", value: "Any") -> "bytes":
    """A map, a list of what has a length, or packed numbers."""
    if field.many == "%":
        pairs = [(key.encode("utf-8", "replace"), _one(field, one)) for key, one in value.items()]
        return b"".join(field.tag + _sized(b"\x0a" + _sized(key) + b"\x12" + one) for key, one in pairs)
    if field.wire == _BYTES:
        return b"".join(field.tag + _one(field, one) for one in value)
    return _varint(field.number << 3 | _BYTES) + _sized(b"".join(_number(field, one) for one in value))


def _one(field: "Field", value: "Any") -> "bytes":
    return _sized(_body(field, value)) if field.wire == _BYTES else _number(field, value)


def _sized(data: "bytes") -> "bytes":
    return _varint(len(data)) + data


def decode(name: "str", data: "bytes | bytearray | memoryview") -> "Values":
    """Raises DecodeError, and nothing else, whatever the bytes are."""
    try:
        return _decode(_messages.get(name) or _message(name), bytes(data), 0, len(data), None, 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise DecodeError(f"malformed {name}: {error}") from None


def _decode(message: "Message", data: "bytes", at: "int", end: "int", into: "Values | None", depth: "int") -> "Values":
    if depth > DEPTH:
        raise DecodeError("nested too deeply")
    values = into
    if values is None:
        values = dict(message.defaults)
        for one in message.lists:
            values[one.name] = {} if one.many == "%" else []
    usual = message.usual
    while at < end:
        field = usual.get(data[at])
        if field is None:
            at = _unusual(message, values, data, at, end, depth)
            continue
        value = data[at + 1]  # the number, or a length
        at += 2
        if value > 127:
            value, at = _read_varint(data, at - 1, end)
        stop = at if field.wire == _VARINT else at + value
        if stop > end:
            raise DecodeError("the end inside a field")
        if field.wire == _VARINT:
            values[field.name] = field.value(value)
        elif field.message:
            values[field.name] = _decode(_message(field.message), data, at, stop, values[field.name], depth + 1)
        else:
            values[field.name] = field.value(data[at:stop])
        at = stop
    return values


def _unusual(message: "Message", values: "Values", data: "bytes", at: "int", end: "int", depth: "int") -> "int":
    """A field that is many, or has a high number, or is not what we think, or not known. Where it ends."""
    tag, at = _read_tag(data, at, end)
    known = message.numbers.get(tag >> 3)
    wire = tag & 7
    if wire == _BYTES:
        size, at = _read_varint(data, at, end)
        if size > end - at:
            raise DecodeError("a length beyond the end")
        if known is not None:
            _take(known, values, data, at, at + size, depth)
        return at + size
    if known is None or wire != known.wire:
        return _skip(data, at, end, tag, depth)
    value, at = _read_number(known, data, at, end)
    if known.many:
        values[known.name].append(value)
    else:
        values[known.name] = value
    return at


def _take(field: "Field", values: "Values", data: "bytes", at: "int", end: "int", depth: "int") -> "None":
    """A length and that many bytes: a string, a message, an entry of a map or packed numbers."""
    if field.many == "%":
        key, value = _entry(field, data, at, end, depth)
        values[field.name][key] = value
    elif field.wire != _BYTES:
        while field.many and at < end:
            value, at = _read_number(field, data, at, end)
            values[field.name].append(value)
    elif field.message:
        old = None if field.many else values[field.name]
        value = _decode(_message(field.message), data, at, end, old, depth + 1)
        if field.many:
            values[field.name].append(value)
        else:
            values[field.name] = value
    elif field.many:
        values[field.name].append(field.value(data[at:end]))
    else:
        values[field.name] = field.value(data[at:end])


def _entry(field: "Field", data: "bytes", at: "int", end: "int", depth: "int") -> "tuple[str, Any]":
    name = f"entry.{field.kind}"
    if name not in _tables:
        _tables[name] = f"string key 1, {field.message or field.kind} value 2"
    values = _decode(_message(name), data, at, end, None, depth + 1)
    return values["key"], values["value"]


def _read_varint(data: "bytes", at: "int", end: "int") -> "tuple[int, int]":
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _MASK, at
        shift += 7
        if shift > 63:
            raise DecodeError("a number of more than ten bytes")
    raise DecodeError("the end inside a number")


def _read_tag(data: "bytes", at: "int", end: "int") -> "tuple[int, int]":
    tag, after = _read_varint(data, at, end)
    if tag >> 32 or after - at > 5 or not tag >> 3:
        raise DecodeError("no field has this number")
    return tag, after


def _read_number(field: "Field", data: "bytes", at: "int", end: "int") -> "tuple[Any, int]":
    if field.wire == _VARINT:
        raw, at = _read_varint(data, at, end)
        return field.value(raw), at
    if end - at < 8:
        raise DecodeError("the end inside a number")
    return field.value(data[at : at + 8]), at + 8


def _skip(data: "bytes", at: "int", end: "int", tag: "int", depth: "int") -> "int":
    """Past an unknown field that has no length: a number, or a group, which ends with its own number."""
    wire = tag & 7
    if wire == _VARINT:
        return _read_varint(data, at, end)[1]
    if wire in (_FIXED64, _FIXED32):
        at += 8 if wire == _FIXED64 else 4
        if at > end:
            raise DecodeError("the end inside a number")
        return at
    if wire != _START or depth >= DEPTH:
        raise DecodeError("no such wire type here")
    while True:
        inner, at = _read_tag(data, at, end)
        if inner & 7 == _END:
            if inner >> 3 != tag >> 3:
                raise DecodeError("the end of another group")
            return at
        if inner & 7 == _BYTES:
            size, at = _read_varint(data, at, end)
            at += size
        else:
            at = _skip(data, at, end, inner, depth + 1)
