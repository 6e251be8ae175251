# SPDX-License-Identifier: Apache-2.0
"""What has happened, in order, on disk before anybody is told of it: segments of lines of JSON, the oldest removed first.

    log.append({"id": "a", "type": "started", ...})    gives it the next sequence number
    subscription = log.subscribe(after)                whatever comes after this number: first what is kept, then what happens
    async for lines in subscription: ...

A write() is enough: the page cache outlives a killed server. What a power cut takes away were events of a host whose containers have all ended; so
that their numbers are not given
to others, the numbers make a leap with each boot.

A subscription holds a position and nothing else: it reads from the last few events in memory, or from the segment where it is. So nobody's slowness
costs memory or anybody else's time.

Where the disk is full the events stay in memory, in order, and nobody is told of them before they could be written.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from wherry_shim.serve.errors import Refusal
from wherry_shim.serve.records import boot_id

if TYPE_CHECKING:
    from wherry_shim.serve.log import Log

Event = dict[str, Any]
Line = tuple[int, bytes]
"""Sequence and JSON."""

LIMIT, SEGMENT = 16 << 20, 1 << 20
_IN_MEMORY = 4096
_PENDING = 20_000
_LEAP = 1 << 20
_AGAIN_S = 1.0
_TAIL = 2
"""Segments that recent() looks at."""


class Segment:
    def __init__(self, path: Path, first: int, size: int) -> None:
        self.path, self.first, self.size = path, first, size


class EventLog:
    """`patience`: seconds in which a subscriber that has `backlog` events before it must take one."""

    def __init__(self, directory: Path, log: Log, limit: int = LIMIT, segment: int = SEGMENT, backlog: int = 2000, patience: float = 15.0) -> None:
        self.directory, self._log, self._limit, self._segment_size = directory, log, limit, segment
        self.backlog, self.patience = backlog, patience
        self.epoch = ""
        self.newest = 0
        self._next = 1
        self._segments: list[Segment] = []
        self._descriptor = -1
        self._memory: deque[Line] = deque(maxlen=_IN_MEMORY)
        self._pending: deque[list[Line]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.subscriptions: set[Subscription] = set()
        self.lost = 0

    # ---- begin and end

    def open(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        boot = boot_id()
        for path in sorted(self.directory.glob("*.events")):
            self._look(path, boot)
        if self._segments:
            self._descriptor = os.open(self._segments[-1].path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if not self._segments or self._boot != boot:
            self._next += _LEAP if self._segments else 0
            self.epoch = self.epoch or secrets.token_hex(4)
            self._boot = boot
            self._begin()

    _boot = ""

    def _look(self, path: Path, boot: str) -> None:
        """One segment; what a power cut has left at its end is cut off."""
        data = path.read_bytes()
        lines, good = _whole(data)
        if good < len(data):
            os.truncate(path, good)
        head = lines[0] if lines else {}
        if "epoch" not in head or (self.epoch and head["epoch"] != self.epoch):
            path.unlink()
            return
        self.epoch, self._boot = head["epoch"], head["boot"]
        self._segments.append(Segment(path, head["first"], good))
        last = lines[-1]["sequence"] if len(lines) > 1 else head["first"] - 1
        self.newest, self._next = last, last + 1

    def close(self) -> None:
        self._write_pending()
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    # ---- writing

    def append(self, *events: Event) -> int:
        """Never fails: where it cannot be written now, that is tried again. Several at once are all there, or none of them. The sequence of the last one."""
        lines = []
        for event in events:
            lines.append((self._next, json.dumps({"sequence": self._next, **event}, separators=(",", ":")).encode() + b"\n"))
            self._next += 1
        self._pending.append(lines)
        if len(self._pending) > _PENDING:
            self._pending.popleft()
            self.lost += 1
        self._write_pending()
        return lines[-1][0]

    @property
    def full(self) -> bool:
        """There are events that the disk does not take."""
        return bool(self._pending) or self._descriptor < 0

    def retry(self) -> bool:
        """Whether all is written now."""
        self._write_pending()
        return not self.full

    def _write_pending(self) -> None:
        try:
            while self._pending:
                self._write(b"".join(line for _, line in self._pending[0]))
                lines = self._pending.popleft()
                self._memory.extend(lines)
                self.newest = lines[-1][0]
        except OSError as error:
            if self._timer is None:
                self._log("error", f"the event log cannot be written: {error.strerror}", waiting=len(self._pending))
            self._later()
        for subscription in list(self.subscriptions):
            subscription.wake()

    def _later(self) -> None:
        def again() -> None:
            self._timer = None
            self._write_pending()

        if self._timer is not None:
            self._timer.cancel()
        try:
            self._timer = asyncio.get_running_loop().call_later(_AGAIN_S, again)
        except RuntimeError:  # nothing runs yet, or any more
            self._timer = None

    def _write(self, line: bytes) -> None:
        last = self._segments[-1] if self._segments else None
        if last is None or self._descriptor < 0 or last.size + len(line) > self._segment_size:
            self._begin()
            last = self._segments[-1]
        _write_whole(self._descriptor, line, last.size)
        last.size += len(line)

    def _begin(self) -> None:
        """A new segment; the oldest go."""
        first = self._pending[0][0][0] if self._pending else self._next
        head = json.dumps({"epoch": self.epoch, "boot": self._boot, "first": first}, separators=(",", ":")).encode() + b"\n"
        path = self.directory / f"{first:016x}.events"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_whole(descriptor, head, 0)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        if self._segments and self._segments[-1].path == path:  # it had none but its head
            self._segments.pop()
        self._segments.append(Segment(path, first, len(head)))
        while len(self._segments) > 1 and sum(one.size for one in self._segments) + self._segment_size > self._limit:
            self._segments.pop(0).path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        return sum(one.size for one in self._segments)

    # ---- cursors

    @property
    def oldest(self) -> int:
        """The number before the oldest event that is kept: where who wants everything begins."""
        return self._segments[0].first - 1 if self._segments else self.newest

    def cursor(self, sequence: int) -> str:
        return f"{self.epoch}-{sequence}"

    def position(self, cursor: str) -> int:
        """OUT_OF_RANGE where what follows is not kept any more, or the log is another one."""
        epoch, _, number = cursor.partition("-")
        if not number.isdecimal() or len(number) > 18:
            text = f"{cursor[:60]!r} is no cursor"
            raise Refusal(StatusCode.INVALID_ARGUMENT, text, "WHERRY-USAGE", field="cursor", remedy="that of an event, or none")
        sequence = int(number)
        if epoch == self.epoch and self.oldest <= sequence < max(self._next, self.newest + 1):
            return sequence
        oldest = self.cursor(self.oldest)
        known = "no event had this cursor yet" if sequence > self.newest else "the events behind this cursor are not kept any more"
        text = known if epoch == self.epoch else "the cursor is of another event log"
        remedy = f"look at the containers (List), then subscribe from the oldest event that is kept, {oldest}"
        raise Refusal(StatusCode.OUT_OF_RANGE, text, "WHERRY-SHIM-CURSOR", remedy=remedy, field="cursor", facts={"oldest": oldest})

    # ---- reading

    def read(self, after: int) -> list[Line]:
        """Some of what comes after this number, at most a segment of it; nothing where that is all."""
        if after >= self.newest:
            return []
        if self._memory and self._memory[0][0] <= after + 1:
            return [line for line in self._memory if line[0] > after]
        index = max(bisect.bisect_right([one.first for one in self._segments], after + 1) - 1, 0)
        for segment in self._segments[index:]:
            lines = [line for line in _lines(segment.path) if after < line[0] <= self.newest]
            if lines:
                return lines
        return []

    def recent(self) -> list[Event]:
        """The last ones, decoded: at least as many as a killed server can have left without its records."""
        return [json.loads(line) for one in self._segments[-_TAIL:] for _, line in _lines(one.path)]

    def subscribe(self, after: int) -> Subscription:
        subscription = Subscription(self, after)
        self.subscriptions.add(subscription)
        return subscription


class Subscription:
    """`on_slow` is called once, where its owner does not come for more though there is much."""

    def __init__(self, log: EventLog, after: int) -> None:
        self._log, self.position = log, after
        self.on_slow: Callable[[], None] = lambda: None
        self._wakened = asyncio.Event()
        self._taken = time.monotonic()
        self._idle = False
        self.slow = False

    def wake(self) -> None:
        self._wakened.set()
        behind = self._log.newest - self.position
        if not self._idle and not self.slow and behind > self._log.backlog and time.monotonic() - self._taken > self._log.patience:
            self.slow = True
            self.on_slow()

    async def follow(self, wait: bool = True) -> AsyncIterator[Line]:
        """`position` is that of the last one that was taken. wait: goes on with what happens."""
        try:
            while True:
                self._wakened.clear()
                lines = self._log.read(self.position)
                if not lines and not wait:
                    return
                if self.position < self._log.oldest:
                    raise too_slow()
                for sequence, line in lines:
                    self.position, self._taken = sequence, time.monotonic()
                    yield sequence, line
                if not lines:
                    self._idle = True
                    await self._wakened.wait()
                    self._idle, self._taken = False, time.monotonic()
        finally:
            self.close()

    def close(self) -> None:
        self._log.subscriptions.discard(self)


def too_slow() -> Refusal:
    text, remedy = "the subscriber did not take its events in time", "subscribe again with the cursor of the last event that was taken"
    return Refusal(StatusCode.RESOURCE_EXHAUSTED, text, "WHERRY-SHIM-SLOW", remedy=remedy, retry=0.0)


def _write_whole(descriptor: int, data: bytes, size: int) -> None:
    """All of it or nothing: a part of a line is taken away again."""
    try:
        written = os.write(descriptor, data)
        if written < len(data):
            os.write(descriptor, data[written:])  # says why
            if os.fstat(descriptor).st_size != size + len(data):
                raise OSError(28, "no space left on device")
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _whole(data: bytes) -> tuple[list[Event], int]:
    """The lines that are whole, and where they end. Only the first, the last and damage are looked at closely."""
    end = data.rfind(b"\n") + 1
    raw = data[:end].splitlines()
    while raw:
        try:
            last = json.loads(raw[-1])
            head = json.loads(raw[0])
            return ([head, last] if len(raw) > 1 else [head]), sum(len(line) + 1 for line in raw)
        except ValueError:
            raw.pop()
    return [], 0


def _lines(path: Path) -> list[Line]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [(int(line[12 : line.index(b",")]), line) for line in data.splitlines() if line.startswith(b'{"sequence":')]
