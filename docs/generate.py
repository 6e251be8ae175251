#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the pages of this directory that come from tables in the sources: python docs/generate.py [--check]

Without an option it writes them; with --check it says which of them are out of date, and a test runs it so.
"""

from __future__ import annotations

import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "runtime"))

from wherry.codes import CODES, STATUSES  # noqa: E402
from wherry.errors import _REFUSALS, exists, not_found  # noqa: E402

FAMILIES = {
    "USAGE": "The command line",
    "JSON": "Reading config.json",
    "CONFIG": "What config.json says",
    "BUNDLE": "The bundle",
    "STATE": "The container's state",
    "HOST": "The host",
    "NETDEVICE": "Network devices",
    "SECCOMP": "Compiling a seccomp profile",
    "PLAN": "The launch plan",
    "LAUNCH": "Executing a launch plan",
    "HOOK": "Hooks",
    "DEADLINE": "Time",
    "SHIM": "The gRPC server",
    "INTERNAL": "wherry itself",
}

ERRORS = """\
# Errors

<!-- Printed by docs/generate.py from runtime/wherry/codes.py and errors.py. -->

An error is one line: the place, what is wrong, and what can be done about it.

    /mounts/3: mount tmpfs on /run: operation not permitted (step 12 of 31)

A place in config.json is a JSON pointer (RFC 6901): `/mounts/3` is the fourth mount. Every error has a **code** that is stable: it
is never renamed and never gets another meaning. `--log-format json` writes it as `code`, `wherry validate --format json` lists it
with each finding, and in the library it is `error.code`. The exit code of a command that failed is the one below, and 255 for
`exec`; `run` and an attached `exec` that got as far as the program end with the program's own, and one that `exec --timeout` has ended
with 124. Over an RPC the error becomes the status in the last column (the numbers are those of gRPC, which ttrpc shares).
"""

TEXTS = """\
## Texts that programs search for

Engines recognise these texts, so they do not change.

| verb | state | text |
|---|---|---|
"""


def errors() -> str:
    families = defaultdict(list)
    for code in CODES.values():
        families[code.name.split("-")[1]].append(code)
    parts = [ERRORS]
    for family in sorted(families, key=list(FAMILIES).index):
        parts.append(f"## {FAMILIES[family]}\n\n| code | cause | remedy | exit code | RPC status |\n|---|---|---|---|---|\n")
        for code in families[family]:
            status = f"{code.status} ({STATUSES[code.status]})"
            parts[-1] += f"| `{code.name}` | {code.cause} | {code.remedy} | {code.exit_code} | {status} |\n"
    rows = [(verb, state, text.replace("{id}", "ID")) for (verb, state), (_, text) in _REFUSALS.items()]
    rows += [("any", "no such container", not_found("ID").message), ("create, run", "the id is taken", exists("ID").message)]
    parts.append(TEXTS + "".join(f"| {verb} | {state} | `{text}` |\n" for verb, state, text in rows))
    return "\n".join(parts)


COVERAGE = """\
# Coverage of the specification

<!-- Printed by docs/generate.py from specs/coverage.toml. -->

What becomes of every property of `config.json` in `specs/config.schema.json`, which follows the OCI runtime specification 1.3:
**{done} done, {refused} refused, {ignored} ignored**. `*` is an element of an array or a value of a map. Words in capitals are
operations of the launch plan, names of files are modules of `runtime/wherry`. What is wrong in the value of a property that is done is
refused with a code of its own ([errors](errors.md)). Properties that the specification does not know are ignored, as it wants;
`wherry validate` names them.
"""


def coverage() -> str:
    rows = tomllib.loads((HERE.parent / "specs/coverage.toml").read_text())
    count = {status: sum(row["status"] == status for row in rows.values()) for status in ("done", "refused", "ignored")}
    parts = [COVERAGE.format(**count)]
    sections: dict[str, list[str]] = defaultdict(list)
    for leaf, row in rows.items():
        words = [word for word in leaf.split("/") if word != "*"]
        depth = min(len(words) - 1, 3 if words[1] == "linux" else 2)
        sections["/".join(words[:depth]) or "/"].append(_coverage_row(leaf, row))
    for section, lines in sections.items():
        parts.append(f"## {section}\n\n| property | status | how | shown by |\n|---|---|---|---|\n" + "".join(lines))
    return "\n".join(parts)


def _coverage_row(leaf: str, row: dict[str, str]) -> str:
    how = row.get("reason") or " ".join(f"`{name}`" for name in (row.get("by") or row["code"]).split())
    note = f"; {row['note']}" if "note" in row else ""
    test = f"`{row['test'].removeprefix('tests/')}`" if "test" in row else ""
    return f"| `{leaf}` | {row['status']} | {how}{note} | {test} |\n"


BEGIN = "<!-- From here on: printed by docs/generate.py from the tables that the command line is read by, runtime/wherry/cli. -->\n"


class Absent:
    """Finds, for the verbs' modules, what is not ours and not Python's own, our extension included: something that can do anything, and does
    nothing. So the tables can be read where nothing is installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "wherry._native" and name.partition(".")[0] in ("wherry", *sys.stdlib_module_names):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return MagicMock(name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def command_line() -> str:
    """The page is written by hand down to the mark."""
    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    from wherry.cli import catalogue

    by_hand = (HERE / "command-line.md").read_text().partition(BEGIN)[0]
    parts = [by_hand, BEGIN, "\n## Flags before the verb\n\n", _flags(catalogue.global_flags()), "\n## Verbs\n"]
    for verb in catalogue.verbs():
        words = " ".join(word for word in ("wherry", verb.name, "[FLAGS]" if verb.flags else "", verb.usage) if word)
        more = f" {verb.more}" if verb.more else ""
        parts.append(f"\n### {verb.name}\n\n    {words}\n\n{verb.line[0].upper()}{verb.line[1:]}.{more}\n")
        if verb.flags:
            parts += ["\n", _flags(verb.flags)]
    return "".join(parts)


def _flags(flags: Iterable[Any]) -> str:
    rows = []
    for flag in flags:
        short = f", `-{flag.short}`" if flag.short else ""
        text = flag.text.replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `--{f'{flag.name} {flag.value}'.rstrip()}`{short} | {text} |\n")
    return "| flag | |\n|---|---|\n" + "".join(rows)


PAGES = {"errors.md": errors, "coverage.md": coverage, "command-line.md": command_line}


def main(arguments: list[str]) -> int:
    stale = 0
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if path.exists() and path.read_text() == text:
            continue
        if "--check" in arguments:
            print(f"docs/{name} is out of date: run python docs/generate.py", file=sys.stderr)
            stale = 1
        else:
            path.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
