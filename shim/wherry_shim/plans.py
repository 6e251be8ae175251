# SPDX-License-Identifier: Apache-2.0
"""Plans of execs, in memory: a probe comes again and again, and its plan need not be looked up each time.

It holds for what names it on the disk as well (wherry.container.exec_cache): the process.json, the first process and its namespaces, the facts of
the host. Of the facts only mounts can change under a server that lives: the kernel tells whether any has, and only then they are read again.

What a container itself brings to the name of a plan on the disk, which is nearly all, is read before there is an exec: behind its Start.
"""

import posix
import select

from wherry.container import execute, lifecycle
from wherry.errors import WherryError
from wherry.kernel import native
from wherry.kernel.hostfacts import gather
from wherry.kernel.kinds import NAMESPACES, Foreseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.container.execute import ExecOptions
    from wherry.kernel.hostfacts import HostFacts
    from wherry_shim.state import Container, Process

MOST = 4  # of one container


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
    _links: "tuple[str, dict[str, str]]" = "", {}

    def __init__(self) -> None:
        self._seen: "tuple[_Mounts, str] | None" = None
        self._whole: "HostFacts | None" = None

    @classmethod
    def gather(cls) -> None:
        """By the zygote. It costs time alone where that fails."""
        try:
            cls.ours = gather()
            cls._links = cls.ours.key, _namespaces()
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

    def namespaces(self, key: str) -> "dict[str, str]":
        """Ours: the key covers them."""
        if self._links[0] != key:
            self._links = key, _namespaces()
        return self._links[1]

    def look(self) -> str:
        """The key as it is now. In any thread: an exec has the one before or this one."""
        mounts = _Mounts()  # before the look: a change meanwhile is told
        key = native.facts_key()
        self._seen = mounts, key
        return key


class Ground:
    """What plans of execs in a container stand on: its first process, the facts, and which namespaces that process shares with us. The others are joined
    by their paths, wherever they lead. OSError: init has gone."""

    __slots__ = ("_foreseen", "_init", "_key", "_ours", "_shared")

    def __init__(self, container: "Container", facts: Facts) -> None:
        self._init, self._key = container.init.pid, facts.key()
        self._ours = facts.namespaces(self._key)
        self._foreseen = self._foresee(container)
        others = self._others() if self._foreseen is None else self._foreseen.others
        self._shared = [(name, link) for name, link in self._ours.items() if name not in others]

    def _foresee(self, container: "Container") -> "Foreseen | None":
        """None: it is like no other container."""
        try:
            with lifecycle.opened(container.root, container.id) as record:
                return Foreseen(record, self._key) if record.pid == self._init and not record.damage else None
        except (WherryError, OSError):
            return None

    def _others(self) -> "list[str]":
        return [name for name, link in self._ours.items() if _namespace(self._init, name) != link]

    def holds(self, init: int, key: str) -> bool:
        return self._init == init and self._key == key and all(_namespace(init, name) == link for name, link in self._shared)

    def bears(self) -> bool:
        """A plan that comes from another look at the namespaces, this moment."""
        shared = [name for name, _ in self._shared]
        return [name for name in self._ours if name not in shared] == self._others()

    def plan(self, options: "ExecOptions") -> "bytes | None":
        """What is on the disk, of a container of this kind or in its own directory."""
        if self._foreseen is not None and not posix.access(f"{options.root}/{options.id}/@plans", posix.F_OK):
            return self._foreseen.plan(options.root, execute.named(options))
        with lifecycle.opened(options.root, options.id) as record:
            found = execute.known(record, options, self._key) if record.pid == self._init else None
        return found if found and self.bears() else None


class Plans:
    """Of one container, in memfds. All stand on one ground."""

    def __init__(self) -> None:
        self.stands_on: "Ground | None" = None
        self._kept: "dict[tuple[bytes, bool], int]" = {}
        self._closed = False

    def foresee(self, container: "Container", facts: Facts) -> None:
        """It costs time alone where that fails."""
        try:
            self.ground(container, facts)
        except OSError:
            pass

    def ground(self, container: "Container", facts: Facts) -> Ground:
        """As it is now: what stood on another is dropped. OSError: init has gone."""
        if self._closed:
            raise ProcessLookupError(3, "the container was deleted")
        ground = self.stands_on
        if ground is None or not ground.holds(container.init.pid, facts.key()):
            self._drop_all()
            ground = self.stands_on = Ground(container, facts)
        return ground

    def find(self, process: "Process") -> int:
        """On the ground as it is now. A descriptor, which stays ours; -1 = there is none."""
        return self._kept.get((process.spec, process.adopts), -1)

    def keep(self, process: "Process", file: int) -> int:
        """Takes the descriptor of a plan that stands on the ground. It is to be dropped where it cannot be executed."""
        self.drop(process)
        self._kept[process.spec, process.adopts] = file
        return file

    def may_keep(self) -> bool:
        """One that has been compiled this moment."""
        try:
            return not self._closed and self.stands_on is not None and self.stands_on.bears()
        except OSError:
            return False

    def trim(self) -> None:
        while len(self._kept) > MOST:
            posix.close(self._kept.pop(next(iter(self._kept))))

    def drop(self, process: "Process") -> None:
        file = self._kept.pop((process.spec, process.adopts), -1)
        if file >= 0:
            posix.close(file)

    def _drop_all(self) -> None:
        self.stands_on = None
        for file in self._kept.values():
            posix.close(file)
        self._kept.clear()

    def close(self) -> None:
        self._closed = True
        self._drop_all()


def _namespaces() -> "dict[str, str]":
    """Those that this kernel has."""
    return {name: _namespace("self", name) for name in NAMESPACES if posix.access(f"/proc/self/ns/{name}", posix.F_OK)}


def _namespace(process: "int | str", name: str) -> str:
    return posix.readlink(f"/proc/{process}/ns/{name}")
