# SPDX-License-Identifier: Apache-2.0
"""The slow JSON reader: knows at every value where it stands. Loaded when wherry.oci.config refused a text, and by `validate`.

Two things come out of it: the error with pointer, line, column and a remedy for the usual slips (trailing comma, comment, single
quotes), and `positions`, the place of every value in the text, by JSON pointer.
"""

from __future__ import annotations

import re
from _json import scanstring
from json.decoder import JSONDecodeError
from typing import TYPE_CHECKING, Any, NoReturn

from wherry.errors import JsonError
from wherry.oci.config import MAX_SIZE

if TYPE_CHECKING:
    from wherry.oci.model import Config

MAX_DEPTH = 400

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_$+-][\w$.]*")
_CONSTANTS = {"true": True, "false": False, "null": None}


def escape(key: str) -> str:
    """One reference token of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def read(data: bytes, name: str = "config.json") -> Config:
    return Reader(data, name).document()  # type: ignore[return-value]


class Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.path: list[str] = []
        self.positions: dict[str, int] = {}
        self.text = ""
        if len(data) > MAX_SIZE:
            self._whole("WHERRY-JSON-SIZE", f"{len(data)} bytes, and at most {MAX_SIZE} (16 MiB) are read")
        self.text = self._decode(data)

    def document(self) -> dict[str, Any]:
        """The whole document. Properties whose value is null are left out, as config.load does."""
        start = self._space(0)
        if start == len(self.text):
            self._whole("WHERRY-JSON-ROOT", "the file is empty", "write an object: { ... }")
        value, end = self._value(start)
        end = self._space(end)
        if end < len(self.text):
            self._fail("WHERRY-JSON-SYNTAX", f"{self._here(end)} after the end of the document", end)
        if not isinstance(value, dict):
            self._fail("WHERRY-JSON-ROOT", "the document must be an object", start, "write an object: { ... }")
        return value

    def place(self, pointer: str) -> tuple[int, int]:
        """Line and column of the value at `pointer`, or of the nearest object above it."""
        while pointer and pointer not in self.positions:
            pointer = pointer.rpartition("/")[0]
        return self._line(self.positions.get(pointer, 0))

    # ---- values: each takes the offset of its first character and returns the value and the offset behind it

    def _value(self, at: int) -> tuple[Any, int]:
        self.positions["".join(self.path)] = at
        character = self.text[at : at + 1]
        if character == '"':
            return self._string(at)
        if character in ("{", "["):
            if len(self.path) >= MAX_DEPTH:
                del self.path[4:]
                self._fail("WHERRY-JSON-DEPTH", f"nested deeper than {MAX_DEPTH} levels", at)
            return self._object(at) if character == "{" else self._array(at)
        if number := _NUMBER.match(self.text, at):
            return self._number(number)
        word = _WORD.match(self.text, at)
        if word and word.group() in _CONSTANTS:
            return _CONSTANTS[word.group()], word.end()
        return self._no_value(at, word.group() if word else "")

    def _string(self, at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            self._bad_string(error, at)
        if "\0" in value:
            self._fail("WHERRY-JSON-NUL", "the string holds a NUL character", at, "remove \\u0000")
        if any("\ud800" <= character <= "\udfff" for character in value):
            self._fail(
                "WHERRY-JSON-ENCODING", "the string holds half of a surrogate pair", at, "write the character itself, or both halves"
            )
        return value, end

    def _number(self, match: re.Match[str]) -> tuple[int | float, int]:
        text = match.group()
        try:
            value = float(text) if match.group(1) or match.group(2) else int(text)
        except ValueError:
            self._fail("WHERRY-JSON-NUMBER", f"a number of {len(text)} digits is too long", match.start())
        if _WORD.match(self.text, match.end()) or self.text[match.end() : match.end() + 1].isdigit():
            self._fail(
                "WHERRY-JSON-NUMBER", f"bad number {self._quote(match.start())}", match.start(), "JSON knows plain decimal numbers only"
            )
        return value, match.end()

    def _object(self, at: int) -> tuple[dict[str, Any], int]:
        value: dict[str, Any] = {}
        seen: set[str] = set()
        at = self._space(at + 1)
        if self.text[at : at + 1] == "}":
            return value, at + 1
        while True:
            key, at = self._key(at, seen)
            self.path.append("/" + escape(key))
            item, at = self._value(at)
            self.path.pop()
            if item is not None:
                value[key] = item
            at = self._space(at)
            if self.text[at : at + 1] == "}":
                return value, at + 1
            at = self._comma(at, "}", "a property")

    def _key(self, at: int, seen: set[str]) -> tuple[str, int]:
        if self.text[at : at + 1] != '"':
            remedy = "write the name in double quotes" if re.match(r"['\w]", self.text[at : at + 1]) else None
            self._fail("WHERRY-JSON-SYNTAX", f"expected a property name, found {self._here(at)}", at, remedy)
        start = at
        key, at = self._string(at)
        if key in seen:
            self.path.append("/" + escape(key))
            self._fail("WHERRY-JSON-DUPLICATE-KEY", f'the key "{key}" is there twice', start, "remove one of them")
        seen.add(key)
        at = self._space(at)
        if self.text[at : at + 1] != ":":
            self._fail("WHERRY-JSON-SYNTAX", f'expected ":" after the key "{key}", found {self._here(at)}', at)
        return key, self._space(at + 1)

    def _array(self, at: int) -> tuple[list[Any], int]:
        value: list[Any] = []
        at = self._space(at + 1)
        if self.text[at : at + 1] == "]":
            return value, at + 1
        while True:
            self.path.append(f"/{len(value)}")
            item, at = self._value(at)
            self.path.pop()
            value.append(item)
            at = self._space(at)
            if self.text[at : at + 1] == "]":
                return value, at + 1
            at = self._comma(at, "]", "a value")

    def _comma(self, at: int, end: str, what: str) -> int:
        if self.text[at : at + 1] != ",":
            self._fail("WHERRY-JSON-SYNTAX", f'expected "," or "{end}" after {what}, found {self._here(at)}', at, self._slip(at))
        after = self._space(at + 1)
        if self.text[after : after + 1] == end:
            self._fail("WHERRY-JSON-SYNTAX", f'a comma before "{end}"', at, "remove the comma")
        return after

    def _space(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    # ---- what is wrong

    def _no_value(self, at: int, word: str) -> NoReturn:
        if word.lstrip("+-") in ("NaN", "Infinity", "inf", "nan"):
            self._fail("WHERRY-JSON-NUMBER", f"{word} is no number in JSON", at)
        remedy = None
        if word.lower() in _CONSTANTS or word == "None":
            remedy = f"write {'null' if word == 'None' else word.lower()}"
        elif word or self.text[at : at + 1] == "'":
            remedy = "write strings in double quotes"
        self._fail("WHERRY-JSON-SYNTAX", f"expected a value, found {self._here(at)}", at, remedy or self._slip(at))

    def _bad_string(self, error: JSONDecodeError, at: int) -> NoReturn:
        if error.msg.startswith("Unterminated"):
            self._fail("WHERRY-JSON-SYNTAX", "the string has no end", at, "close it with a double quote")
        if error.msg.startswith("Invalid control"):
            code = "WHERRY-JSON-NUL" if self.text[error.pos : error.pos + 1] == "\0" else "WHERRY-JSON-SYNTAX"
            what = f"control character U+{ord(self.text[error.pos]):04X} in a string"
            self._fail(code, what, error.pos, "write it as an escape, such as \\n" if code == "WHERRY-JSON-SYNTAX" else "remove it")
        self._fail(
            "WHERRY-JSON-SYNTAX",
            f"bad escape {self.text[error.pos : error.pos + 2]} in a string",
            error.pos,
            "a backslash itself is written \\\\",
        )

    def _slip(self, at: int) -> str | None:
        rest = self.text[at : at + 2]
        if rest in ("//", "/*") or rest.startswith("#"):
            return "JSON has no comments"
        return "a comma is missing" if rest[:1] in ('"', "{", "[") else None

    def _here(self, at: int) -> str:
        return "the end of the file" if at >= len(self.text) else self._quote(at)

    def _quote(self, at: int) -> str:
        piece = re.split(r"[\s,\]}]", self.text[at : at + 20], maxsplit=1)[0] or self.text[at : at + 1]
        return ascii(piece) if '"' in piece else f'"{ascii(piece)[1:-1]}"'

    def _decode(self, data: bytes) -> str:
        remedy = "save it as UTF-8 without byte order mark"
        if data.startswith(b"\xef\xbb\xbf"):
            self._whole("WHERRY-JSON-ENCODING", "the file begins with a byte order mark", remedy)
        if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:1] == b"\0" or data[1:2] == b"\0":
            self._whole("WHERRY-JSON-ENCODING", "the file is UTF-16 or UTF-32, not UTF-8", remedy)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            self.text = data.decode(errors="replace")
            before = len(data[: error.start].decode(errors="replace"))
            self._fail("WHERRY-JSON-ENCODING", f"byte 0x{data[error.start]:02x} is not UTF-8", before, remedy)

    def _line(self, at: int) -> tuple[int, int]:
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def _whole(self, code: str, message: str, remedy: str | None = None) -> NoReturn:
        raise JsonError(message, code=code, remedy=remedy, name=self.name)

    def _fail(self, code: str, message: str, at: int, remedy: str | None = None) -> NoReturn:
        line, column = self._line(at)
        raise JsonError(message, code=code, pointer="".join(self.path), remedy=remedy, name=self.name, line=line, column=column)
