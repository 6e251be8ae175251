# SPDX-License-Identifier: Apache-2.0
"""Plans of execs, in memory: a probe comes again and again, and its plan need not be looked up each time.

What names a plan on the disk (wherry.container.exec_cache) names it here: the process.json, the first process and its namespaces, the facts of
the host. Of the facts only mounts can change under a server that lives: the kernel tells whether any has, and only then they are read again.
"""

import posix
import select

from wherry.kernel import native
from wherry.kernel.hostfacts import gather

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.kernel.hostfacts import HostFacts
    from wherry_shim.state import Process

MOST = 4  # of one container
NAMESPACES = ("user", "mnt", "pid", "net", "cgroup", "uts", "ipc", "time")


class Facts:
    """The facts of the host and their key, for one process. They hold for an exec; a create may also look at the cgroup that we are in."""

    def __init__(self) -> None:
        self._changes: "select.poll | None" = None
        self._key = ""
        self._whole: "HostFacts | None" = None

    def whole(self) -> "HostFacts":
        """Without what only some configurations need."""
        if self._whole is None or self._whole.key != self.key():
            self._whole = gather()
        return self._whole

    def key(self) -> str:
        if self._changes is None:
            mounts = posix.open("/proc/self/mountinfo", posix.O_RDONLY | posix.O_CLOEXEC)  # before the first look: a change meanwhile is told
            self._changes = select.poll()
            self._changes.register(mounts, select.POLLPRI)
            self._key = native.facts_key()
        elif self._changes.poll(0):
            self._key = native.facts_key()
        return self._key


class Plans:
    """Of one container: memfds."""

    def __init__(self) -> None:
        self._kept: "dict[tuple[bytes, bool], tuple[object, int]]" = {}
        self._closed = False

    def find(self, process: "Process", facts: Facts) -> int:
        """A descriptor, which stays ours; -1 = there is none."""
        name = process.spec, process.adopts
        world, plan = self._kept.get(name, (None, -1))
        if plan >= 0 and world != _world(process, facts):
            self.drop(process)
            return -1
        return plan

    def keep(self, process: "Process", facts: Facts, plan: int) -> None:
        """Takes the descriptor of a plan that was executed."""
        self.drop(process)
        if self._closed:
            posix.close(plan)
            return
        if len(self._kept) >= MOST:
            posix.close(self._kept.pop(next(iter(self._kept)))[1])
        self._kept[process.spec, process.adopts] = _world(process, facts), plan

    def drop(self, process: "Process") -> None:
        _, plan = self._kept.pop((process.spec, process.adopts), (None, -1))
        if plan >= 0:
            posix.close(plan)

    def close(self) -> None:
        self._closed = True
        for _, plan in self._kept.values():
            posix.close(plan)
        self._kept.clear()


def _world(process: "Process", facts: Facts) -> object:
    init = process.container.init.pid
    return facts.key(), init, [posix.readlink(f"/proc/{init}/ns/{name}") for name in NAMESPACES]
