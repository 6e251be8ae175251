# SPDX-License-Identifier: Apache-2.0
"""Reads arguments as engines write them, which is Go's flag syntax: one dash or two, `--k v` or `--k=v`, `--b` or `--b=false`,
flags also after positional arguments, `--` ends them, no abbreviations.

A table of flags maps each name to its kind, or to the name that it is short for:

    FLAGS = {"bundle": TEXT, "b": "bundle", "no-pivot": BOOL}
"""

from wherry.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOOL, TEXT, NUMBER, MANY = 1, 2, 3, 4  # MANY: may be given again and again, a list

_TRUTH = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class Values:
    """What the flags said; a flag that was not given reads as None, [] or False by its kind."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: "dict[str, bool | int | str | list[str]]" = {}

    def put(self, name: "str", value: "bool | int | str | list[str]") -> "None":
        self._given[name] = value

    def given(self, name: "str") -> "bool":
        return name in self._given

    def on(self, name: "str") -> "bool":
        return bool(self._given.get(name))

    def text(self, name: "str") -> "str | None":
        value = self._given.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: "str", default: "int" = 0) -> "int":
        value = self._given.get(name)
        return value if isinstance(value, int) else default

    def many(self, name: "str") -> "list[str]":
        value = self._given.get(name)
        return value if isinstance(value, list) else []


def read(
    flags: "Mapping[str, int | str]", argv: "Sequence[str]", globals_only: "bool" = False, verb: "str" = ""
) -> "tuple[Values, list[str], list[str]]":
    """Values, the positional arguments, and what stood after `--`. With globals_only the first positional ends the flags.
    An error names the help of `verb`."""
    values, at = Values(), 0
    positional: "list[str]" = []
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            return values, positional, list(argv[at:])
        if len(word) < 2 or word[0] != "-":
            positional.append(word)
            if globals_only:
                positional += argv[at:]
                break
            continue
        at = _flag(values, flags, word, argv, at, verb)
    return values, positional, []


def _flag(values: "Values", flags: "Mapping[str, int | str]", word: "str", argv: "Sequence[str]", at: "int", verb: "str") -> "int":
    """Takes one flag, and its value from argv[at] where it needs one; returns where the next word stands."""
    shown, has_value, text = word[2 if word[1] == "-" else 1 :].partition("=")
    name, kind = shown, flags.get(shown)
    if isinstance(kind, str):
        name, kind = kind, flags[kind]
    if kind is None:
        if shown in ("h", "help"):
            values.put("help", True)
            return at
        from wherry.cli.help import unknown_flag

        raise unknown_flag(shown, flags, verb)
    if kind == BOOL:
        if has_value and text not in _TRUTH:
            raise UsageError(f'invalid boolean value "{text}" for -{shown}: true or false')
        values.put(name, _TRUTH[text] if has_value else True)
        return at
    if not has_value:
        if at >= len(argv):
            raise UsageError(f"flag needs an argument: -{shown}")
        text, at = argv[at], at + 1
    _take(values, name, shown, kind, text)
    return at


def _take(values: "Values", name: "str", shown: "str", kind: "int | str", text: "str") -> "None":
    if kind == MANY:
        values.put(name, [*values.many(name), text])
    elif kind == NUMBER:
        try:
            values.put(name, int(text, 0))
        except ValueError:
            raise UsageError(f'invalid value "{text}" for flag -{shown}: not a whole number') from None
    else:
        values.put(name, text)
