# SPDX-License-Identifier: Apache-2.0
"""Who did what: one line of JSON a call, in <data>/audit, readable for the server's user alone, rotated and bounded.

A disk that is full stops nobody: what cannot be written is counted, and said in the log.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wherry_shim.serve.log import Log

SIZE = 4 << 20
"""Of one file; there are at most KEPT + 1."""
KEPT = 3
RECENT = 1000
_SILENCE_S = 10.0


@dataclass(frozen=True)
class Entry:
    """`time` in nanoseconds since the epoch, `duration` in seconds."""

    time: int
    caller: str
    role: str
    method: str
    id: str
    status: str
    duration: float
    trace: str = ""


class Audit:
    def __init__(self, path: str, log: Log, size: int = SIZE) -> None:
        self.path, self._log, self._size = path, log, size
        self._descriptor = -1
        self._written = 0
        self._complained = 0.0
        self.lost = 0
        """Entries that no file has."""
        self.recent: deque[Entry] = deque(maxlen=RECENT)
        self._read()

    def add(self, entry: Entry) -> None:
        self.recent.append(entry)
        line = json.dumps(asdict(entry), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        try:
            if self._descriptor < 0 or self._written + len(line) > self._size:
                self._turn(len(line))
            written = os.write(self._descriptor, line)
            self._written += written
            if written < len(line):  # half a line: its rest is lost, and the next one begins at its own
                os.ftruncate(self._descriptor, self._written - written)
                self._written -= written
                raise OSError("no space for a whole line")
        except OSError as error:
            self._failed(error)

    def _turn(self, needed: int) -> None:
        """Opens the file; where it is full the older ones are moved on, and the oldest is gone."""
        self._open()
        if self._written and self._written + needed > self._size:
            for number in range(KEPT - 1, 0, -1):
                if os.path.exists(f"{self.path}.{number}"):
                    os.rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")
            os.rename(self.path, f"{self.path}.1")
            self._open()

    def _open(self) -> None:
        self.close()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(self._descriptor, 0o600)
        self._written = os.fstat(self._descriptor).st_size

    def _failed(self, error: OSError) -> None:
        self.lost += 1
        self.close()
        if time.monotonic() - self._complained > _SILENCE_S or not self._complained:
            self._complained = time.monotonic()
            self._log("error", f"the audit log cannot be written: {error.strerror or error}", path=self.path, lost=self.lost)

    def _read(self) -> None:
        """What an earlier server has written last."""
        lines: list[bytes] = []
        for path in (f"{self.path}.1", self.path):
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 19)))
                    lines += file.read().splitlines()
            except OSError:
                continue
        for line in lines[-RECENT:]:
            try:
                self.recent.append(Entry(**json.loads(line)))
            except (ValueError, TypeError):
                continue

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
