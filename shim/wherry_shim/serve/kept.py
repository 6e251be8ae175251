# SPDX-License-Identifier: Apache-2.0
"""What has gone by itself (auto_remove): its id is free, and whoever was reading when it went finds its output and its ends for a while.

The files stay where they were, until the id is used again, the time is over, there is too much of it, or the disk is full.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wherry_shim.serve import records

if TYPE_CHECKING:
    from wherry_shim.serve.managed import Managed

SECONDS = 600.0
MOST, MOST_BYTES = 256, 256 << 20


class Kept:
    """In the order in which they went."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.table: dict[str, Managed] = {}
        self._bytes: dict[str, int] = {}

    def add(self, one: Managed) -> None:
        """One that is gone; another server may have begun with it."""
        asked, place = one.asked, one.place
        asked.removed, asked.step = asked.removed or time.time_ns(), records.REMOVED
        self.table[one.id] = one
        try:
            place.strip()
            records.write(place.directory / "run.json", one.run)
            records.write(place.directory / "container.json", asked)
            self._bytes[one.id] = place.bytes()
        except OSError:  # what cannot be written down now is done again by the next server
            self._bytes[one.id] = 0

    def drop(self, id: str) -> None:
        one = self.table.pop(id, None)
        self._bytes.pop(id, None)
        if one is not None:
            one.place.remove()

    def expire(self, everything: bool = False) -> None:
        """The oldest first; the newest one stays, however much it has written."""
        limit = time.time_ns() - int(self.seconds * 1e9)
        for id, one in list(self.table.items()):
            many = len(self.table) > MOST or (len(self.table) > 1 and sum(self._bytes.values()) > MOST_BYTES)
            if not (everything or many or one.asked.removed < limit):
                return
            self.drop(id)
