# SPDX-License-Identifier: Apache-2.0
"""The values of org.systemd.property.* annotations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cgroup.gvariant import RANGES, Malformed, parse

GOOD = [
    ("true", "b", True),
    ("false", "b", False),
    ("5", "i", 5),
    ("-5", "i", -5),
    ("+5", "i", 5),
    ("0x1F", "i", 31),
    ("010", "i", 8),
    ("1.5", "d", 1.5),
    ("1e3", "d", 1000.0),
    ("uint64 18446744073709551615", "t", (1 << 64) - 1),
    ("  int16 -3 ", "n", -3),
    ("byte 0xff", "y", 255),
    ("double 5", "d", 5.0),
    ("@t 5", "t", 5),
    ("boolean true", "b", True),
    ("'a b'", "s", "a b"),
    ('"a\'b"', "s", "a'b"),
    (r"'a\'\n\\é'", "s", "a'\n\\é"),
    ("objectpath '/a/b'", "o", "/a/b"),
    ("signature 'a{sv}'", "g", "a{sv}"),
    ("['a', 'b']", "as", ["a", "b"]),
    ("[1, 2]", "ai", [1, 2]),
    ("[uint32 1, 2]", "au", [1, 2]),
    ("@as []", "as", []),
    ("@a(ss) []", "a(ss)", []),
    ("@ay [1, 2]", "ay", [1, 2]),
    ("('a', uint64 5)", "(st)", ("a", 5)),
    ("(1,)", "(i)", (1,)),
    ("[('/dev/sda', uint64 5), ('/dev/sdb', 6)]", "a(st)", [("/dev/sda", 5), ("/dev/sdb", 6)]),
    ("@a(st) [('/dev/sda', 5)]", "a(st)", [("/dev/sda", 5)]),
    ("[['a'], ['b']]", "aas", [["a"], ["b"]]),
]
BAD = [
    "", " ", "ten", "5 6", "'a", "\"", "[", "[1", "[1,", "[1 2]", "[1,]x", "[]", "()", "(1", "(1,,2)", "[1, 'a']", "byte 256", "byte -1", "uint64 -1", "2147483648",
    "uint64 1.5", "@ 5", "@t", "@q '5'", "@as 5", "@(ss) ('a',)", "@(s) ('a', 'b')", "{'a': 1}", "<5>", "@a{sv} {}", "just 5", "nothing", "true false", r"'\ud8'", r"'\U00110000'",
    "uint32 'a'", "string 5", "@b 1", "1.2.3", "5x", "[" * 100, "@v <1>", "@a 5", "@aa 5", "@() ()", "--5",
]  # fmt: skip


@pytest.mark.parametrize(("text", "signature", "value"), GOOD)
def test_values(text: str, signature: str, value: object) -> None:
    found = parse(text)
    assert found == (signature, value) and type(found[1]) is type(value)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(Malformed, match=r"\(at character \d+\)"):
        parse(text)


@given(st.text(alphabet="'\"[](){}<>@, atsbiuyxnq0123456789.-\\+eE", max_size=40))
def test_any_text_has_a_value_or_a_place(text: str) -> None:
    try:
        signature, _ = parse(text)
    except Malformed:
        return
    assert signature


@pytest.mark.parametrize("kind", sorted(RANGES))
def test_ranges(kind: str) -> None:
    low, high = RANGES[kind]
    assert parse(f"@{kind} {low}") == (kind, low) and parse(f"@{kind} {high - 1}") == (kind, high - 1)
    for value in (low - 1, high):
        with pytest.raises(Malformed):
            parse(f"@{kind} {value}")
