# SPDX-License-Identifier: Apache-2.0
"""plan.h as cffi understands it without a compiler: the numbers and the layout, read from the header's text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cffi

HEADER = Path(__file__).parents[3] / "csrc/include/wherry/plan.h"


def declarations() -> str:
    text = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)
    calls = re.findall(r"X\((\w+)\)", re.search(r"#define WHERRY_CALLS\(X\)((?:.*\\\n)*.*)", text)[1])  # type: ignore[index]
    text = re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", text, flags=re.M)
    text = re.sub(r"WHERRY_CALLS\(WHERRY_CALL_\)", " ".join(f"WHERRY_CALL_{name}," for name in calls), text)
    for name, value in re.findall(r"(WHERRY_\w+_SIZE) = (\d+)", text):
        text = text.replace(f"[{name}]", f"[{value}]")
    return text.replace("[WHERRY_SLOT_COUNT]", "[7]")


def load() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    return ffi, ffi.dlopen(None)
