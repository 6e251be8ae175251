# SPDX-License-Identifier: Apache-2.0
"""How a container's program ended, as only its parent learns it."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """What the first process and all that it waited for have used: wait4(2)'s rusage, in seconds and bytes."""

    user: float = 0.0
    system: float = 0.0
    max_rss: int = 0
    """Of the largest of them; for all together see Result.memory_peak."""


@dataclass(frozen=True, slots=True)
class Ended:
    """`code` is the exit status, 128 + signal where one ended it; None where somebody else has reaped it (SIGCHLD ignored)."""

    code: int | None
    signal: int | None = None
    usage: Usage = Usage()

    @classmethod
    def reap(cls, pid: int) -> Ended:
        """Of a child that has ended; its pid is its own until this call, which is made once."""
        try:
            _, status, used = os.wait4(pid, 0)
        except ChildProcessError:
            return cls(None)
        usage = Usage(used.ru_utime, used.ru_stime, used.ru_maxrss * 1024)
        if os.WIFSIGNALED(status):
            return cls(128 + os.WTERMSIG(status), os.WTERMSIG(status), usage)
        return cls(os.WEXITSTATUS(status), None, usage)
