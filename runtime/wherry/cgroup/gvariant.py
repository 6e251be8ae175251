# SPDX-License-Identifier: Apache-2.0
"""GVariant's text format, in which the annotations org.systemd.property.* are written, without dictionaries and variants: no property is one. Pure.

https://docs.gtk.org/glib/gvariant-text-format.html. What says nothing of its type has the format's own: a whole number is an int32, one with
a point or an exponent a double, a quoted text a string.
"""

import re

_KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t", "double": "d",
    "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
RANGES = {
    "y": (0, 1 << 8), "n": (-1 << 15, 1 << 15), "q": (0, 1 << 16), "i": (-1 << 31, 1 << 31), "u": (0, 1 << 32), "x": (-1 << 63, 1 << 63),
    "t": (0, 1 << 64),
}  # fmt: skip
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NUMBER = re.compile(r"[+-]?(0x[0-9a-fA-F]+|\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan)(?![\w.])", re.ASCII)
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[a-z][a-z0-9]*")
_TYPE = re.compile(r"@([a-z()]+)\s+")
_DEPTH = 16


class Malformed(ValueError):
    """Not in the format; the text says what is wrong, and where."""


def parse(text: str) -> "tuple[str, object]":
    """(D-Bus signature, value): bool, int, float, str, list or tuple."""
    reader = _Reader(text)
    signature, value = reader.value("", 0)
    reader.skip()
    if reader.at != len(text):
        raise reader.wrong("something follows the value")
    return signature, value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def wrong(self, why: str) -> Malformed:
        return Malformed(f"{why} (at character {self.at + 1})")

    def skip(self) -> None:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]

    def peek(self) -> str:
        self.skip()
        return self.text[self.at : self.at + 1]

    def take(self, mark: str) -> bool:
        if self.peek() != mark:
            return False
        self.at += 1
        return True

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            raise self.wrong(f"{mark} is missing")

    def value(self, wanted: str, depth: int) -> "tuple[str, object]":
        """One value, of the type that is wanted where that is known ("" = its own)."""
        if depth > _DEPTH:
            raise self.wrong("nested too deeply")
        mark = self.peek()
        if mark == "@":
            return self._typed(wanted, depth)
        if mark in "'\"" and mark:
            return self._string(wanted or "s", mark)
        if mark == "[":
            return self._array(wanted, depth)
        if mark == "(":
            return self._tuple(wanted, depth)
        if mark in ("{", "<"):
            raise self.wrong("no property is a dictionary or a variant")
        if _NUMBER.match(self.text, self.at):
            return self._number(wanted)
        return self._keyword(wanted, depth)

    def _agree(self, wanted: str, found: str) -> str:
        if wanted and wanted != found:
            raise self.wrong(f"a value of type {found} where one of type {wanted} belongs")
        return found

    def _typed(self, wanted: str, depth: int) -> "tuple[str, object]":
        match = _TYPE.match(self.text, self.at)
        if match is None or _complete(match[1]) != len(match[1]):
            raise self.wrong("no type")
        self.at = match.end()
        return self.value(self._agree(wanted, match[1]), depth + 1)

    def _keyword(self, wanted: str, depth: int) -> "tuple[str, object]":
        match = _WORD.match(self.text, self.at)
        word = match[0] if match else ""
        if word in ("true", "false"):
            self.at += len(word)
            return self._agree(wanted, "b"), word == "true"
        if word not in _KEYWORDS:
            raise self.wrong(f"{word or self.peek() or 'nothing'} is no value")
        self.at += len(word)
        return self.value(self._agree(wanted, _KEYWORDS[word]), depth + 1)

    def _number(self, wanted: str) -> "tuple[str, object]":
        match = _NUMBER.match(self.text, self.at)
        assert match is not None
        word = match[0]
        whole = word.lstrip("+-").isdecimal() or "0x" in word
        kind = wanted or ("i" if whole else "d")
        if kind not in RANGES and kind != "d":
            raise self.wrong(f"a number where a value of type {kind} belongs")
        if kind == "d":
            value: object = float(int(word, 0)) if "0x" in word else float(word)
        elif not whole:
            raise self.wrong("a fraction where a whole number belongs")
        else:
            digits = word.lstrip("+-")
            value = int(word, 16) if "0x" in word else int(word, 8) if digits[0] == "0" and set(digits) <= set("01234567") else int(word)
            low, high = RANGES[kind]
            if not low <= int(value) < high:
                raise self.wrong(f"{word} is out of the range of type {kind}")
        self.at = match.end()
        return kind, value

    def _string(self, wanted: str, mark: str) -> "tuple[str, object]":
        if wanted not in ("s", "o", "g"):
            raise self.wrong(f"a text where a value of type {wanted} belongs")
        pieces, at, text = [], self.at + 1, self.text
        while at < len(text) and text[at] != mark:
            if text[at] != "\\":
                pieces.append(text[at])
                at += 1
                continue
            letter = text[at + 1 : at + 2]
            length = {"u": 4, "U": 8}.get(letter, 0)
            code = text[at + 2 : at + 2 + length]
            if length:
                self.at = at
                if len(code) != length or not re.fullmatch("[0-9a-fA-F]+", code) or int(code, 16) > 0x10FFFF:
                    raise self.wrong("no character")
                pieces.append(chr(int(code, 16)))
            else:
                pieces.append(_ESCAPES.get(letter, letter))
            at += 2 + length
        if at >= len(text):
            raise self.wrong("a text without an end")
        self.at = at + 1
        return wanted, "".join(pieces)

    def _items(self, wanted: str, end: str, depth: int) -> "tuple[str, list[object]]":
        """Values of one type, up to `end`."""
        items: "list[object]" = []
        while not self.take(end):
            if items:
                self.expect(",")
            wanted, item = self.value(wanted, depth + 1)
            items.append(item)
        return wanted, items

    def _array(self, wanted: str, depth: int) -> "tuple[str, object]":
        if wanted and wanted[0] != "a":
            raise self.wrong(f"an array where a value of type {wanted} belongs")
        self.expect("[")
        inner, items = self._items(wanted[1:], "]", depth)
        if not inner:
            raise self.wrong("an empty array needs its type before it (@as [])")
        return "a" + inner, items

    def _tuple(self, wanted: str, depth: int) -> "tuple[str, object]":
        if wanted and wanted[0] != "(":
            raise self.wrong(f"a tuple where a value of type {wanted} belongs")
        self.expect("(")
        signature, rest = "", wanted[1:-1]
        items: "list[object]" = []
        while not self.take(")"):
            if items:
                self.expect(",")
                if self.take(")"):
                    break
            length = _complete(rest) if wanted else 0
            if wanted and not length:
                raise self.wrong("too many values in a tuple")
            found, item = self.value(rest[:length], depth + 1)
            rest = rest[length:]
            signature += found
            items.append(item)
        if rest or not items:
            raise self.wrong("too few values in a tuple")
        return f"({signature})", tuple(items)


def _complete(signature: str, depth: int = 0) -> int:
    """The length of the first complete type; 0 where there is none."""
    if not signature or depth > _DEPTH:
        return 0
    if signature[0] in "bynqiuxtdsog":
        return 1
    if signature[0] == "a":
        inner = _complete(signature[1:], depth + 1)
        return 1 + inner if inner else 0
    if signature[0] == "(":
        at = 1
        while signature[at : at + 1] not in ("", ")"):
            inner = _complete(signature[at:], depth + 1)
            if not inner:
                return 0
            at += inner
        return at + 1 if signature[at : at + 1] == ")" and at > 1 else 0
    return 0
