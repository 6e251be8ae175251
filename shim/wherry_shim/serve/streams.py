# SPDX-License-Identifier: Apache-2.0
"""Output files, into which the output of programs is copied: followed by any number of readers, kept below a bound by punching holes, so that offsets
stay. And the fifo of a stdin.

    async for offset, data in Follower(watcher, path, offset, ended).chunks(): ...
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wherry_shim.serve.inotify import Watcher

if TYPE_CHECKING:
    from wherry_shim.serve.log import Log
    from wherry_shim.serve.managed import Managed

CHUNK = 64 << 10
_LOOK_AGAIN_S = 1.0
"""Should no watch tell."""
_POLL_S = 0.05
_PAGE = 4096
_FURTHEST = (1 << 63) - 1 - CHUNK
"""What the kernel takes for an offset."""
_SLACK = 16
"""A hole is punched when a sixteenth more than the bound is there."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_COUNT = struct.Struct("<Q")


def oldest(path: str) -> int:
    """The first byte that has not been given up."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return _first_data(descriptor)
    finally:
        os.close(descriptor)


def _first_data(descriptor: int) -> int:
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return os.fstat(descriptor).st_size if error.errno == errno.ENXIO else 0


def tail(path: str, lines: int) -> int:
    """Where the last lines begin; one that has no end yet is one of them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        first, end = _first_data(descriptor), os.fstat(descriptor).st_size
        return _tail(descriptor, first, end, lines)
    finally:
        os.close(descriptor)


def _tail(descriptor: int, first: int, end: int, lines: int) -> int:
    if lines == 0 or end <= first:
        return end
    at, wanted = end, lines + (os.pread(descriptor, 1, end - 1) == b"\n")
    while at > first:
        begin = max(first, at - CHUNK)
        data = os.pread(descriptor, at - begin, begin)
        position = len(data)
        while (position := data.rfind(b"\n", 0, position)) >= 0:
            wanted -= 1
            if not wanted:
                return begin + position + 1
        at = begin
    return first


class Follower:
    """ended: nothing more will be written, and up to where it counts (None: to the end of the file)."""

    def __init__(self, watcher: Watcher, path: str, offset: int, ended: Callable[[], tuple[bool, int | None]], follow: bool = True) -> None:
        self._watcher, self._path, self._ended, self._follow = watcher, path, ended, follow
        self.offset = min(offset, _FURTHEST)
        self.wakened = asyncio.Event()

    async def chunks(self) -> AsyncIterator[tuple[int, bytes]]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        number = self._watcher.watch(self._path, self.wakened) if self._follow else -1
        try:
            while True:
                self.wakened.clear()
                over, limit = self._ended()  # before reading: then what is read is all
                while data := self._read(descriptor, limit):
                    at, self.offset = self.offset, self.offset + len(data)
                    yield at, data
                if over or not self._follow:
                    return
                try:
                    await asyncio.wait_for(self.wakened.wait(), _LOOK_AGAIN_S if number >= 0 else _POLL_S)
                except TimeoutError:
                    continue
        finally:
            self._watcher.unwatch(number, self.wakened)
            os.close(descriptor)

    def _read(self, descriptor: int, limit: int | None) -> bytes:
        """What has been given up is jumped over."""
        most = CHUNK if limit is None else min(CHUNK, limit - self.offset)
        if most <= 0:
            return b""
        data = os.pread(descriptor, most, self.offset)
        if data and not data[0] and (first := _first_data(descriptor)) > self.offset:
            self.offset = first
            return self._read(descriptor, limit)
        return data


class Trimmer:
    """Gives up the oldest of what is more than the bound, in whole pages."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._library = ctypes.CDLL(None, use_errno=True)
        self._library.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        self._refused = False

    def trim(self, one: Managed) -> None:
        limit = one.asked.log_bytes
        for place in (one.place, *(run.place for run in one.execs.values())):
            for path in (place.stdout, place.stderr):
                try:
                    self.trim_file(path, limit)
                except FileNotFoundError:
                    continue

    def trim_file(self, path: str, limit: int) -> None:
        status = os.stat(path)
        if status.st_blocks * 512 <= limit + max(limit // _SLACK, _PAGE):
            return
        cut = (status.st_size - limit) // _PAGE * _PAGE
        if cut <= 0 or self._refused:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if self._library.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, 0, cut) < 0:
                number = ctypes.get_errno()
                self._refused = True
                self._log("warning", f"logs cannot be bounded: no holes are made in files here: {os.strerror(number).lower()}", file=path)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class NextRun:
    """ready: waits for one behind this that takes input, and tells its number; 0 where there will be none."""

    ready: Callable[[int], Awaitable[int]]
    current: Callable[[], int]


class Input:
    """What is written to a program. The count of it is a page that outlives us: between a write and its count lie microseconds."""

    def __init__(self, path: str, next_run: NextRun | None = None) -> None:
        self._path, self._next = path, next_run
        self._run = self._over = 0
        self._descriptor = -1
        descriptor = os.open(f"{path}.count", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _COUNT.size:
                os.ftruncate(descriptor, _COUNT.size)
            self._map = mmap.mmap(descriptor, _COUNT.size)
        finally:
            os.close(descriptor)

    @property
    def count(self) -> int:
        return int(_COUNT.unpack(self._map[:])[0])

    async def write(self, data: bytes) -> bool:
        """All of it, as fast as the program reads, or the program of the next run. False where nobody reads any more."""
        while data:
            try:
                if self._next is not None and not await self._ready(self._next):
                    return False
                if self._descriptor < 0:
                    self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                await self._writable()
                continue
            except OSError:  # ENXIO, EPIPE: its reader has gone
                if self._next is None:
                    return False
                self._over = self._run
                continue
            self._map[:] = _COUNT.pack(self.count + written)
            data = data[written:]
        return True

    async def _ready(self, next_run: NextRun) -> bool:
        run = await next_run.ready(self._over)
        if run != self._run:
            self.close_writer()
        self._run = run
        return run > 0

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._descriptor)

    def close_writer(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def end(self) -> None:
        """Of this run's."""
        self.close_writer()
        if self._next is not None:
            self._over = self._next.current()

    def close(self) -> None:
        self.close_writer()
        self._map.close()


def input_count(path: str) -> int:
    try:
        data = Path(f"{path}.count").read_bytes()
    except OSError:
        return 0
    return int(_COUNT.unpack(data)[0]) if len(data) == _COUNT.size else 0
