# SPDX-License-Identifier: Apache-2.0
"""Plans of execs, in memory: a probe comes again and again, and its plan need not be looked up each time.

It holds for what names it on the disk as well (wherry.container.exec_cache): the process.json, the first process and its namespaces, the facts of
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


class _Mounts:
    """Tells of a change since it was made, once. Its descriptor is closed with the last who has it."""

    __slots__ = ("_changes", "_file")

    def __init__(self) -> None:
        self._file = posix.open("/proc/self/mountinfo", posix.O_RDONLY | posix.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._file, select.POLLPRI)

    def __del__(self) -> None:
        posix.close(self._file)

    def have_changed(self) -> bool:
        return bool(self._changes.poll(0))


class Facts:
    """The facts of the host and their key, for one process. They hold for an exec; a create may also look at the cgroup that we are in."""

    ours: "HostFacts | None" = None
    """What the zygote has found: most servers are where it is."""

    def __init__(self) -> None:
        self._seen: "tuple[_Mounts, str] | None" = None
        self._whole: "HostFacts | None" = None

    @classmethod
    def gather(cls) -> None:
        """By the zygote. It costs time alone where that fails."""
        try:
            cls.ours = gather()
        except OSError:
            pass

    def whole(self) -> "HostFacts":
        """Without what only some configurations need."""
        key = self.key()
        if self._whole is None or self._whole.key != key:
            self._whole = self.ours if self.ours is not None and self.ours.key == key else gather(key)
        return self._whole

    def key(self) -> str:
        seen = self._seen
        return self.look() if seen is None or seen[0].have_changed() else seen[1]

    def look(self) -> str:
        """The key as it is now. In any thread: an exec has the one before or this one."""
        mounts = _Mounts()  # before the look: a change meanwhile is told
        key = native.facts_key()
        self._seen = mounts, key
        return key


class Plan:
    """In a memfd. The namespaces that the plan joins are named in it by their process; those that init shared with us are to be the same still."""

    __slots__ = ("_init", "_key", "_shared", "file")

    def __init__(self, file: int, init: int, key: str) -> None:
        self.file, self._init, self._key = file, init, key
        links = [(name, _namespace("self", name)) for name in NAMESPACES]
        self._shared = [(name, link) for name, link in links if _namespace(init, name) == link]

    def holds(self, init: int, key: str) -> bool:
        return self._init == init and self._key == key and all(_namespace(init, name) == link for name, link in self._shared)


class Plans:
    """Of one container."""

    def __init__(self) -> None:
        self._kept: "dict[tuple[bytes, bool], Plan]" = {}
        self._closed = False

    def find(self, process: "Process", facts: Facts) -> int:
        """A descriptor, which stays ours; -1 = there is none. OSError: init has gone."""
        plan = self._kept.get((process.spec, process.adopts))
        if plan is None:
            return -1
        if not plan.holds(process.container.init.pid, facts.key()):
            self.drop(process)
            return -1
        return plan.file

    def keep(self, process: "Process", facts: Facts, file: int) -> None:
        """Takes the descriptor of a plan that was executed. OSError: init has gone."""
        self.drop(process)
        if self._closed:
            posix.close(file)
            return
        if len(self._kept) >= MOST:
            posix.close(self._kept.pop(next(iter(self._kept))).file)
        try:
            self._kept[process.spec, process.adopts] = Plan(file, process.container.init.pid, facts.key())
        except OSError:
            posix.close(file)
            raise

    def drop(self, process: "Process") -> None:
        plan = self._kept.pop((process.spec, process.adopts), None)
        if plan is not None:
            posix.close(plan.file)

    def close(self) -> None:
        self._closed = True
        for plan in self._kept.values():
            posix.close(plan.file)
        self._kept.clear()


def _namespace(process: "int | str", name: str) -> str:
    return posix.readlink(f"/proc/{process}/ns/{name}")
