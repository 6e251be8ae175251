# SPDX-License-Identifier: Apache-2.0
"""The whole command line as data, from the tables that the verbs and the help read: what completions and man pages are printed from."""

from __future__ import annotations

from dataclasses import dataclass

from wherry.cli import GLOBAL_FLAGS, VERBS
from wherry.cli.arguments import BOOL, MANY
from wherry.cli.help import FLAG_TEXT, SUMMARY

IDS, NOTHING, DIRECTORY, FILE = "@ids", "@nothing", "@directory", "@file"
"""What a word may be: containers that exist; free text; a path. Anything else is a list of words."""

SIGNALS = "TERM KILL INT HUP QUIT USR1 USR2 STOP CONT WINCH".split()
SHELLS = ("bash", "zsh", "fish")

# What the names in usage lines and in FLAG_TEXT stand for.
_WORDS = {
    "DIR": DIRECTORY, "BUNDLE": DIRECTORY, "FILE": FILE, "PATH": FILE, "ID": IDS, "ID...": IDS, "SIGNAL": " ".join(SIGNALS),
    "VERB": " ".join(VERBS), "ENGINE": "docker podman containerd crio buildah", "SHELL": " ".join(SHELLS),
}  # fmt: skip
_FLAG_WORDS = {
    "log-format": "text json", "log-level": "debug info warning error", "cgroup-manager": "cgroupfs systemd disabled",
    "rootless": "true false auto", "network": "none host", "manage-cgroups-mode": "soft full strict ignore",
}  # fmt: skip
_FORMATS = {"list": "table json", "ps": "table json", "doctor": "table json", "stats": "table json prometheus"}
_NEW_ID = ("create", "run", "restore")
"""The container does not exist yet."""


@dataclass(frozen=True)
class Flag:
    name: str
    short: str  # "" = none
    value: str  # what is shown for it; "" = a switch
    text: str
    many: bool
    words: str  # what its value may be


@dataclass(frozen=True)
class Verb:
    name: str
    usage: str  # positional arguments
    line: str
    more: str
    flags: tuple[Flag, ...]
    flags_first: bool
    positional: tuple[str, ...]  # what each may be; the last one again and again where `repeats`
    repeats: bool


def global_flags() -> tuple[Flag, ...]:
    return _flags("", GLOBAL_FLAGS)


def verbs() -> list[Verb]:
    return [_verb(name) for name in VERBS]


def _verb(name: str) -> Verb:
    module = __import__(f"wherry.cli.{name}", fromlist=("FLAGS",))
    usage, line, more = SUMMARY[name]
    words = [word.strip("[]") for word in usage.split()]
    positional = tuple(_positional(name, word) for word in words)
    return Verb(name, usage, line, more, _flags(name, module.FLAGS), getattr(module, "FLAGS_FIRST", False), positional, "..." in usage)


def _positional(verb: str, word: str) -> str:
    return NOTHING if word == "ID" and verb in _NEW_ID else _WORDS.get(word, NOTHING)


def _flags(verb: str, table: dict[str, int | str]) -> tuple[Flag, ...]:
    found = []
    for name, kind in table.items():
        if isinstance(kind, str):
            continue
        short = next((other for other, meant in table.items() if meant == name and len(other) == 1), "")
        value, text = FLAG_TEXT[name]
        value = value if kind != BOOL else ""
        found.append(Flag(name, short, value, text, kind == MANY, _value_words(verb, name, value)))
    return tuple(found)


def _value_words(verb: str, name: str, value: str) -> str:
    if name == "format":
        return _FORMATS.get(verb, "text json")
    return _FLAG_WORDS.get(name) or _WORDS.get(value, NOTHING)
