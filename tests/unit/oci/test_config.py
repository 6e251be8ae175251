# SPDX-License-Identifier: Apache-2.0
"""Reading config.json: strict, and every error says where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import ConfigError, JsonError
from wherry.oci import config, reader
from wherry.oci.config import MAX_SIZE, load

BROKEN = {
    "empty": (b"", "ROOT", None, None),
    "blank": (b" \n ", "ROOT", None, None),
    "array at the top": (b"[1]", "ROOT", "", (1, 1)),
    "null at the top": (b" null", "ROOT", "", (1, 2)),
    "two documents": (b"{} {}", "SYNTAX", "", (1, 4)),
    "duplicate key": (b'{\n "a": 1,\n "a": 2}', "DUPLICATE-KEY", "/a", (3, 2)),
    "deep duplicate key": (b'{"a": [{}, {"b/c": {"x~": 1, "x~": 2}}]}', "DUPLICATE-KEY", "/a/1/b~1c/x~0", (1, 30)),
    "duplicate key, one of them null": (b'{"a": null, "a": 2}', "DUPLICATE-KEY", "/a", (1, 13)),
    "byte order mark": (b"\xef\xbb\xbf{}", "ENCODING", None, None),
    "UTF-16": ("{}".encode("utf-16"), "ENCODING", None, None),
    "UTF-16 without mark": ("{}".encode("utf-16-le"), "ENCODING", None, None),
    "not UTF-8": (b'{"a": "\xff"}', "ENCODING", "", (1, 8)),
    "half a surrogate pair": (b'{"a": "\\ud800x"}', "ENCODING", "/a", (1, 7)),
    "escaped NUL": (b'{"a": ["x", "y\\u0000z"]}', "NUL", "/a/1", (1, 13)),
    "NUL in a key": (b'{"a\\u0000": 1}', "NUL", "", (1, 2)),
    "raw NUL": (b'{"a": "x\0"}', "NUL", "/a", (1, 9)),
    "control character": (b'{"a": "x\ny"}', "SYNTAX", "/a", (1, 9)),
    "NaN": (b'{"a": NaN}', "NUMBER", "/a", (1, 7)),
    "minus infinity": (b'{"a": -Infinity}', "NUMBER", "/a", (1, 7)),
    "leading zero": (b'{"a": 01}', "NUMBER", "/a", (1, 7)),
    "endless number": (b'{"a": ' + b"9" * 5000 + b"}", "NUMBER", "/a", (1, 7)),
    "comma before }": (b'{"a": 1,\n}', "SYNTAX", "", (1, 8)),
    "comma before ]": (b'{"a": [1,]}', "SYNTAX", "/a", (1, 9)),
    "no comma": (b'{"a": 1\n "b": 2}', "SYNTAX", "", (2, 2)),
    "no colon": (b'{"a" 1}', "SYNTAX", "", (1, 6)),
    "no value": (b'{"a": }', "SYNTAX", "/a", (1, 7)),
    "no end": (b'{"a": {"b": [', "SYNTAX", "/a/b/0", (1, 14)),
    "string without end": (b'{"a": "x', "SYNTAX", "/a", (1, 7)),
    "single quotes": (b"{'a': 1}", "SYNTAX", "", (1, 2)),
    "bad escape": (b'{"a": "\\x"}', "SYNTAX", "/a", (1, 8)),
    "comment": (b'{"a": 1 // one\n}', "SYNTAX", "", (1, 9)),
    "Python's True": (b'{"a": True}', "SYNTAX", "/a", (1, 7)),
    "too deep": (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "DEPTH", "/a/0/0/0", (1, 406)),
    "too large": (b" " * (MAX_SIZE + 1), "SIZE", None, None),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str) -> None:
    data, code, pointer, place = BROKEN[case]
    with pytest.raises(JsonError) as caught:
        load(data, "some/config.json")
    error = caught.value
    assert error.code == f"WHERRY-JSON-{code}"
    assert error.pointer == pointer
    assert (error.facts.get("line"), error.facts.get("column")) == (place or (None, None))
    assert str(error).startswith("some/config.json:")
    assert "\n" not in error.sentence()


def test_a_broken_config_is_a_config_error() -> None:
    assert issubclass(JsonError, ConfigError)


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b'{"a": 1,}', "remove the comma"),
        (b'{"a": 1 /* x */}', "JSON has no comments"),
        (b'{"a": 1 # x\n}', "JSON has no comments"),
        (b"{'a': 1}", "write the name in double quotes"),
        (b"{a: 1}", "write the name in double quotes"),
        (b"{\"a\": 'x'}", "write strings in double quotes"),
        (b'{"a": True}', "write true"),
        (b'{"a": None}', "write null"),
        (b'{"a": "C:\\dir"}', "a backslash itself is written \\\\"),
    ],
)
def test_usual_slips_have_a_remedy(data: bytes, remedy: str) -> None:
    with pytest.raises(JsonError) as caught:
        load(data)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'\t{"a": [1, -2.5e3, "x", true, false, [], {}]}\r\n', {"a": [1, -2500.0, "x", True, False, [], {}]}),
        (b'{"a": "x\\\\u0000"}', {"a": "x\\u0000"}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ('{"schön": "\u2028"}'.encode(), {"schön": "\u2028"}),
        (b'{"a": 18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a": null, "b": {"c": null}}', {"b": {}}),
        (b'{"a": "null"}', {"a": "null"}),
    ],
)
def test_whole(data: bytes, value: dict[str, Any]) -> None:
    assert load(data) == value
    assert reader.read(data) == value


def test_ten_megabytes_are_read() -> None:
    large = {"ociVersion": "1.2.0", "annotations": {f"key{number}": "x" * 1000 for number in range(10_000)}}
    assert load(json.dumps(large).encode()) == large


def test_positions() -> None:
    place = reader.Reader(b'{\n  "a": [1,\n    {"b~": 2}]\n}', "config.json")
    place.document()
    assert place.place("/a") == (2, 8)
    assert place.place("/a/1/b~0") == (3, 12)
    assert place.place("/a/1/missing/deeper") == (3, 5), "the nearest object above"
    assert place.place("/nowhere") == (1, 1)


def test_the_fast_reader_needs_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11's scanner raises SystemError for a syntax error when json.decoder was never imported."""

    def broken(*_: object) -> Any:
        raise SystemError("returned NULL without setting an exception")

    monkeypatch.setattr(config, "make_scanner", lambda context: broken)
    with pytest.raises(JsonError):
        load(b'{"a" 1}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def answer(function: Any, data: bytes) -> Any:
    try:
        return function(data)
    except JsonError:
        return "refused"


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.booleans())
def test_both_readers_read_what_json_writes(document: dict[str, Any], ascii_only: bool) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only, indent=1).encode(errors="surrogatepass")
    expected = without_nulls(document) if "\0" not in repr_of_strings(document) else "refused"
    assert answer(load, data) == expected
    assert answer(reader.read, data) == expected


def repr_of_strings(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(key + repr_of_strings(item) for key, item in value.items())
    if isinstance(value, list):
        return "".join(map(repr_of_strings, value))
    return value if isinstance(value, str) else ""


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}[]":,\\ \nabu0129.-+eEtruefalsn\0\ud800', max_size=30))
def test_any_text_is_read_or_refused_alike(text: str) -> None:
    data = ('{"a":' + text + "}").encode(errors="surrogatepass")
    assert answer(load, data) == answer(reader.read, data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    assert answer(load, data) == answer(reader.read, data)
