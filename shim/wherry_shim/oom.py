# SPDX-License-Identifier: Apache-2.0
"""Tells when the kernel has killed a process of a container because its memory limit was reached.

v2: memory.events is polled for changes. v1: an eventfd that is registered with cgroup.event_control. Both files count, in a line "oom_kill N"; the
monitor gets the same file, and reads it once more when the container's first process ends.
"""

import posix

from wherry_shim.loop import EPOLLIN, EPOLLPRI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.plan.execute import Cgroup
    from wherry_shim.loop import Loop


_AGAIN_S = (0.01, 0.1, 1.0)


class Watch:
    """`on_kill` is called when the counter has risen."""

    def __init__(self, loop: "Loop", cgroup: "Cgroup", on_kill: "Callable[[], None]", count: "int | None" = 0) -> None:
        """count: how many have been told of; None = all that there are."""
        self._loop, self._on_kill, self.event = loop, on_kill, -1
        self.last = 0
        self.count = 1 << 62 if count is None else count
        self.file = posix.open(f"{cgroup.path}/{'memory.events' if cgroup.v2 else 'memory.oom_control'}", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            if cgroup.v2:
                loop.watch(self.file, self._changed, EPOLLPRI)
            else:
                self._register(cgroup.path)
            self._read()
            if count is None:
                self.count = self.last
        except BaseException:
            self.close()
            raise

    @classmethod
    def taken(cls, loop: "Loop", file: int, event: int, count: int, last: int, on: bool, on_kill: "Callable[[], None]") -> "Watch":
        """One that this server had before it parked. on: its descriptors are to be watched."""
        self = cls.__new__(cls)
        self._loop, self._on_kill, self.event, self.file, self.count, self.last = loop, on_kill, event, file, count, last
        if on and event >= 0:
            loop.watch(event, self._signalled, EPOLLIN)
        elif on:
            loop.watch(file, self._changed, EPOLLPRI)
        return self

    def _register(self, path: str) -> None:
        self.event = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        control = posix.open(f"{path}/cgroup.event_control", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(control, b"%d %d" % (self.event, self.file))
        finally:
            posix.close(control)
        self._loop.watch(self.event, self._signalled, EPOLLIN)

    def _signalled(self, events: int) -> None:
        try:
            posix.eventfd_read(self.event)
        except BlockingIOError:
            return
        self._changed(events)
        for seconds in _AGAIN_S:  # v1 tells of the lack, the kill comes after it
            self._loop.timer(seconds, self._once_more)

    def _once_more(self) -> None:
        if self.file >= 0:
            self._read()

    def _changed(self, events: int) -> None:
        if not self._read():
            self._stop()

    def _read(self) -> bool:
        """False where the cgroup is gone: then it would be told for ever."""
        try:
            text = posix.pread(self.file, 512, 0)
        except OSError:
            return False
        for line in text.splitlines():
            key, _, value = line.partition(b" ")
            if key == b"oom_kill" and value.isdigit():
                self.rise(int(value))
        return True

    def rise(self, count: int) -> None:
        """Somebody has read the counter."""
        self.last = count
        if count > self.count:
            self.count = count
            self._on_kill()

    def _stop(self) -> None:
        self._loop.unwatch(self.file)
        if self.event >= 0:
            self._loop.unwatch(self.event)

    def close(self) -> None:
        self._stop()
        for fd in (self.file, self.event):
            if fd >= 0:
                posix.close(fd)
        self.file = self.event = -1


def memory_cgroup(cgroups: "Sequence[Cgroup]") -> "Cgroup | None":
    """Whose limit counts: v1's memory hierarchy, else the v2 tree."""
    for cgroup in cgroups:
        if not cgroup.v2 and "memory" in cgroup.mount.rpartition("/")[2].split(","):
            return cgroup
    return next((cgroup for cgroup in cgroups if cgroup.v2), None)
