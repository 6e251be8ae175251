# SPDX-License-Identifier: Apache-2.0
"""Whose children the monitors are, and who learns how those end that a killed monitor leaves: this process, or its porter (wherry_shim.porter), where
it may park. Both are a Parent.
"""

import posix

from wherry.kernel import native
from wherry_shim.loop import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from wherry_shim.loop import Loop

    class Parent(Protocol):
        pid: int
        """What containerd knows the shim by."""
        leaves_orphans: bool
        """What the monitor was just making when it was killed is for the keeper to find and to reap."""

        def spawn(self, words: "list[str]", first: int, second: int) -> "tuple[int, int]":
            """pid and pidfd of a child in a session of its own: words are a path and arguments, the descriptors become 3 and 4. OSError."""

        def status(self, pid: int, pidfd: int) -> Later:
            """The exit status of one that has ended; 255 where nobody knows."""


_AGAIN_S, _PATIENCE_S = 0.005, 1.0  # between two looks whether a dead process is our child, and in all


class Ourselves:
    leaves_orphans = True

    def __init__(self, loop: "Loop") -> None:
        self.pid = posix.getpid()
        self.files: "tuple[int, int] | None" = None
        """The limit of descriptors that containers begin with, where this process has raised its own."""
        self._loop = loop
        native.subreaper()  # what a killed monitor leaves comes to us

    def spawn(self, words: "list[str]", first: int, second: int) -> "tuple[int, int]":
        lifted = _lifted(second)
        try:
            actions = [
                (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDWR, 0),
                (posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_RDWR, 0),
                (posix.POSIX_SPAWN_DUP2, first, 3),
                (posix.POSIX_SPAWN_DUP2, lifted, 4),
            ]
            pid = posix.posix_spawn(words[0], words[1:], {}, file_actions=actions, setsid=True, setsigmask=())
        finally:
            posix.close(lifted)
        if self.files is not None:
            from resource import RLIMIT_NOFILE, prlimit

            prlimit(pid, RLIMIT_NOFILE, self.files)
        return pid, posix.pidfd_open(pid)

    def status(self, pid: int, pidfd: int) -> Later:
        later = Later()
        self._look(pidfd, later, _PATIENCE_S)
        return later

    def _look(self, pidfd: int, later: Later, left: float) -> None:
        status = _reaped(pidfd)
        if status >= 0 or left <= 0:
            later.set(status if status >= 0 else 255)
        else:
            self._loop.timer(_AGAIN_S, lambda: self._look(pidfd, later, left - _AGAIN_S))


def _reaped(pidfd: int) -> int:
    """Of a child that was its monitor's; -1 = it is nobody's yet: the monitor's connections end some time before its children have another parent.
    Nobody knows better than 255 where it is not ours."""
    try:
        return native.pidfd_reap(pidfd)
    except OSError:
        try:
            native.pidfd_signal(pidfd, 0)
        except OSError:
            return 255
        return -1


def _lifted(fd: int) -> int:
    """Out of the way of what the child's descriptors become."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    return int(fcntl(fd, F_DUPFD_CLOEXEC, 8))
