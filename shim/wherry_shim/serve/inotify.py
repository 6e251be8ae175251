# SPDX-License-Identifier: Apache-2.0
"""Tells when a file has grown. Where the kernel has no watch left to give, who asks looks again every now and then (streams.py does so in any case)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct

_IN_MODIFY = 2
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_HEAD = struct.Struct("iIII")


class Watcher:
    """One inotify for a server: a file that many follow is one watch."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._library = ctypes.CDLL(None, use_errno=True)
        self._events: dict[int, set[asyncio.Event]] = {}

    def open(self) -> None:
        self._descriptor = self._library.inotify_init1(_FLAGS)
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1

    def watch(self, path: str, event: asyncio.Event) -> int:
        """Sets the event when something was written there. -1: nobody tells."""
        if self._descriptor < 0:
            return -1
        number = int(self._library.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_MODIFY))
        if number >= 0:
            self._events.setdefault(number, set()).add(event)
        return number

    def unwatch(self, number: int, event: asyncio.Event) -> None:
        events = self._events.get(number)
        if events is None:
            return
        events.discard(event)
        if not events:
            del self._events[number]
            if self._descriptor >= 0:
                self._library.inotify_rm_watch(self._descriptor, number)

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, 1 << 14)
        except BlockingIOError:
            return
        at = 0
        while at + _HEAD.size <= len(data):
            number, _, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size + length
            for event in self._events.get(number, ()):
                event.set()
