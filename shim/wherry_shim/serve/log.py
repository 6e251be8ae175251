# SPDX-License-Identifier: Apache-2.0
"""What the server has to say: lines of logfmt on standard error, which is the journal's or a file. Nothing ever waits for who reads them."""

from __future__ import annotations

import os
import time
from typing import Protocol

from wherry_shim.serve import trace

LEVELS = ("debug", "info", "warning", "error")


class Log(Protocol):
    def __call__(self, level: str, text: str, **fields: object) -> None: ...


class StderrLog:
    """`lost` counts the lines that could not be written."""

    def __init__(self, least: str = "info", descriptor: int = 2) -> None:
        self._least, self._descriptor = LEVELS.index(least), descriptor
        self.lost = 0

    def __call__(self, level: str, text: str, **fields: object) -> None:
        if LEVELS.index(level) < self._least:
            return
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos // 1_000_000:03}Z"
        here = trace.current()
        words = [f"time={stamp}", f"level={level}", f"msg={quoted(text)}", *(f"{name}={quoted(str(value))}" for name, value in fields.items())]
        if here:
            words.append(f"trace={here}")
        try:
            os.write(self._descriptor, (" ".join(words) + "\n").encode("utf-8", "replace"))
        except OSError:
            self.lost += 1


def quoted(text: str) -> str:
    """One word of a line, whatever a client has put into it."""
    if text and all(character.isalnum() or character in "-_./:+@" for character in text) and text.isascii():
        return text
    escaped = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
