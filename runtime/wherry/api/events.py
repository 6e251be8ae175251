# SPDX-License-Identifier: Apache-2.0
"""What happens to a container, told by the kernel: no polling, and nobody has to be its parent.

    created     it waits for start
    started     its program runs: the fifo that init kept open until execve has no writer any more
    oom         the kernel has killed for want of memory: cgroup v2 wakes who polls memory.events, v1 writes to an eventfd
    exited      its pidfd says so; with the exit status where the asking process is the parent

All four are descriptors in one epoll, which is a descriptor itself: a thread blocks on it, an event loop adds it as a reader.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass

from wherry.api.cgroups import Cgroups
from wherry.container import lifecycle
from wherry.errors import StateError
from wherry.kernel.native import STATUS_NAMES


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is created, started, oom or exited; `code` the exit status (exited), `count` how often the kernel has killed (oom)."""

    kind: str
    code: int | None = None
    count: int = 0


class Source:
    """The events of one container, for one reader. next() gives what has happened since the last call and never waits.

    `begun` decides about a container that had ended before anybody looked: has it been started, or killed as it waited for that?
    """

    def __init__(self, root: str, id: str, pidfd: Callable[[], int], code: Callable[[], int | None], begun: Callable[[], bool]) -> None:
        self.finished = False
        self._root, self._id = root, id
        self._code, self._begun = code, begun
        self._pidfd = self._result = self._memory = -1
        self._kills, self._running, self._told_created = 0, False, False
        self._epoll = select.epoll()
        try:
            self._open(root, id, pidfd)
        except BaseException:
            self.close()
            raise

    def _open(self, root: str, id: str, pidfd: Callable[[], int]) -> None:
        with lifecycle.opened(root, id) as record:
            try:
                self._pidfd = pidfd()
            except ProcessLookupError:
                pass
            else:
                self._epoll.register(self._pidfd, select.EPOLLIN)
            # before the status is asked for: who is "created" then has the other end open, and closes it at the start
            self._result = os.open("result", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=record.directory)
            self._running = STATUS_NAMES[record.status()] in ("running", "paused")
            self._epoll.register(self._result, 0)  # the hangup alone: what stands in it is for who calls start
            self._cgroups = Cgroups.of(record)
        self._memory = self._cgroups.watch_memory()
        if self._memory >= 0:
            self._epoll.register(self._memory, select.EPOLLIN if self._cgroups.v1_memory else select.EPOLLPRI)

    def fileno(self) -> int:
        """Readable when next() may have something."""
        return self._epoll.fileno()

    def wait(self, timeout: float | None = None) -> bool:
        """Until something may have happened; False at the timeout."""
        return bool(self._epoll.poll(timeout, 1))

    def next(self) -> list[Event]:
        found: list[Event] = []
        if not self._told_created:
            self._told_created = True
            found.append(Event("created"))
        ready = dict(self._epoll.poll(0))
        ended = self._pidfd < 0 or self._pidfd in ready
        if self._result >= 0 and (self._running or (self._begun() if ended else self._result in ready and self._executes())):
            os.close(self._result)  # leaves the epoll with it
            self._result = -1
            found.append(Event("started"))
        if self._memory in ready or ended:
            self._oom(found)
        if ended:
            self.finished = True
            found.append(Event("exited", self._code()))
        return found

    def _executes(self) -> bool:
        """Its end of the fifo is closed: it executes its program, or dies before that, and its pidfd says so in a moment."""
        try:
            with lifecycle.opened(self._root, self._id) as record:
                return STATUS_NAMES[record.status()] in ("running", "paused")
        except (StateError, OSError):
            return False

    def _oom(self, found: list[Event]) -> None:
        if self._memory >= 0:
            try:  # so that it wakes us again at the next one only
                _ = os.eventfd_read(self._memory) if self._cgroups.v1_memory else os.pread(self._memory, 4096, 0)
            except OSError:
                pass
        kills = self._cgroups.oom_kills() or 0
        if kills > self._kills:
            self._kills = kills
            found.append(Event("oom", count=kills))

    def close(self) -> None:
        self._epoll.close()
        for descriptor in (self._pidfd, self._result, self._memory):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._result = self._memory = -1

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
