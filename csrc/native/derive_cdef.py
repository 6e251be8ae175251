# SPDX-License-Identifier: Apache-2.0
"""Derives the cffi declarations from the C headers: derive_cdef.py INCLUDE_DIR CDEF_IN OUTPUT.

plan.h is the one definition of every number and struct. Its enums become lists of names, its arrays get open lengths ("..."): the
compiler fills in the values, so nothing can differ. host.h gives its enums; what else of it Python calls stands in cdef.in.
"""

import re
import sys
from pathlib import Path

ENUM = re.compile(r"enum\s*(\w*)\s*\{(.*?)\}\s*;", re.S)
STRUCT = re.compile(r"struct\s+(\w+)\s*\{(.*?)\}\s*;", re.S)


def without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    return re.sub(r"//[^\n]*", " ", text)


def macro_names(text: str, macro: str) -> list[str]:
    """The arguments of X(...) in a list macro."""
    body = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*)", text)
    if body is None:
        raise SystemExit(f"no list macro {macro}")
    return re.findall(r"X\((\w+)\)", body.group(1))


def without_directives(text: str) -> str:
    return re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", text, flags=re.M)


def enum(name: str, names: list[str]) -> str:
    return f"enum {name} {{ {', '.join(names)}, ... }};"


def enums(text: str) -> list[str]:
    calls = [f"WHERRY_CALL_{name}" for name in macro_names(text, "WHERRY_CALLS")] if "WHERRY_CALLS(X)" in text else []
    found = []
    for name, body in ENUM.findall(without_directives(text)):
        names = [word for part in body.split(",") for word in re.findall(r"^\s*(\w+)\s*(?:=|$)", part)]
        if name == "wherry_call":
            names = [*calls, "WHERRY_CALL_COUNT"]
        found.append(enum(name, names))
    return found


def structs(text: str) -> list[str]:
    found = []
    for name, body in STRUCT.findall(without_directives(text)):
        fields = re.sub(r"\[[A-Z]\w*\]", "[...]", " ".join(body.split()))
        found.append(f"struct {name} {{ {fields} }};")
    return found


def main() -> None:
    include, hand_written, output = (Path(argument) for argument in sys.argv[1:4])
    plan = without_comments((include / "wherry/plan.h").read_text())
    host = without_comments((include / "wherry/host.h").read_text())
    parts = [*enums(plan), *structs(plan), *enums(host), without_comments(hand_written.read_text())]
    output.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
