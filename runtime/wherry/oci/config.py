# SPDX-License-Identifier: Apache-2.0
"""Bytes of a config.json (or process.json, or resources) -> a dict. Strict, and on the way of every create.

The work is done by the C scanner of the standard library's json, without that package: importing it costs more than a create.
Only when the scanner refuses, or a cheap test finds something suspicious, the slow reader (wherry.oci.reader) is loaded. It reads
the text again, knows at every byte where it is, and raises the error with pointer, line and column.

Strict means: UTF-8 without byte order mark; no duplicate keys (the specification forbids them, and peers silently take the
last one); no NUL in any string; no NaN or Infinity; an object at the top. A property whose value is null counts as absent, as
in Go, so nothing behind this module ever sees None.
"""

from _json import make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.oci.model import Config

MAX_SIZE = 16 << 20
_SPACE = " \t\n\r"


class _Suspicious(Exception):
    """The fast way ends here; the slow reader says why."""


def _unique(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Suspicious
    return value


def _unique_without_nulls(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    value = _unique(pairs)
    return {key: item for key, item in value.items() if item is not None}


def _no_constant(name: str) -> "Any":
    raise _Suspicious


class _Context:
    """What the C scanner asks its decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_unique)
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)


class _ContextWithNulls(_Context):
    object_pairs_hook = staticmethod(_unique_without_nulls)


def load(data: bytes, name: str = "config.json") -> "Config":
    """The document, or JsonError. `name` is what the error calls the file."""
    if len(data) <= MAX_SIZE and b"\\u0000" not in data and b"\\ud" not in data and b"\\uD" not in data:
        document = _scan(data)
        if document is not None:
            return document
    from wherry.oci.reader import read

    return read(data, name)


def _scan(data: bytes) -> "Config | None":
    """The document, or None where the slow reader has to look."""
    try:
        text = data.decode()
        start = len(text) - len(text.lstrip(_SPACE))
        value, end = make_scanner(_ContextWithNulls if b"null" in data else _Context)(text, start)  # type: ignore[arg-type]
    except (ValueError, StopIteration, RecursionError, SystemError, _Suspicious):
        return None  # SystemError: Python 3.11's scanner reports a syntax error so when json.decoder was never imported
    complete = value.__class__ is dict and not text[end:].strip(_SPACE)
    return value if complete else None
