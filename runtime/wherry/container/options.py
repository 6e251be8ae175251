# SPDX-License-Identifier: Apache-2.0
"""Where containers are kept, and what a create or run is asked for. On the hot path."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

    from wherry.container.trace import Timeline

_ALL_IDS = b"4294967295"


class Traced:
    """With --trace or --debug there is a timeline, which is told what comes now, and shares memory with those who execute the plan."""

    __slots__ = ("timeline",)

    def __init__(self) -> None:
        self.timeline: "Timeline | None" = None

    def phase(self, name: str) -> None:
        if self.timeline is not None:
            self.timeline.phase(name)

    def trace(self, plan: bytes) -> "tuple[int, mmap] | None":
        return None if self.timeline is None else self.timeline.memory(plan)


class CreateOptions(Traced):
    """One create or run. Paths are absolute; `config` is the content of config.json where there is no such file."""

    __slots__ = (
        "attached",
        "bundle",
        "cgroup_manager",
        "config",
        "console_as_is",
        "console_socket",
        "facts",
        "fresh",
        "heeds",
        "id",
        "no_new_keyring",
        "no_pivot",
        "notify",
        "pid_file",
        "pidfd_socket",
        "preserve_fds",
        "root",
        "rootless",
        "stdio",
        "verb",
        "warn",
    )

    def __init__(self, root: str, id: str, bundle: str, verb: str = "create") -> None:
        self.timeline = None
        self.root, self.id, self.bundle, self.verb = root, id, bundle, verb
        self.config: "bytes | None" = None
        self.pid_file: "str | None" = None
        self.console_socket: "str | None" = None
        self.pidfd_socket: "str | None" = None
        self.attached = self.no_pivot = self.no_new_keyring = False
        self.console_as_is = False  # attached, and the terminal's bytes go to no terminal of ours
        self.notify: "str | None" = None  # a service manager's socket
        self.preserve_fds = 0
        self.cgroup_manager = "cgroupfs"
        self.rootless: "bool | None" = None
        self.stdio = (-1, -1, -1)
        self.facts: "Callable[[], str]" = str  # the key of the host's, computed now, where somebody else needs it too; "" = by who looks into the cache
        self.fresh = False  # compiled, whatever the cache has: a plan from there has no warnings, they were said when it was compiled
        self.heeds = False  # wants the warnings of a plan from the cache as well, and has it compiled anew for them
        self.warn: "Callable[[list[str]], None] | None" = None  # who wants to know, where run does not come back


def absolute(path: str) -> str:
    """From the working directory on, without `.`, `..` and double slashes; symbolic links stay as they are."""
    parts: "list[str]" = []
    for part in (path if path.startswith("/") else f"{posix.getcwd()}/{path}").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def default_root() -> str:
    """/run/wherry; below XDG_RUNTIME_DIR for anybody but root, and for the root of a user namespace that USER calls otherwise."""
    runtime = posix.environ.get(b"XDG_RUNTIME_DIR")
    if runtime and (posix.geteuid() != 0 or (posix.environ.get(b"USER") != b"root" and in_user_namespace())):
        return runtime.decode("utf-8", "surrogateescape") + "/wherry"
    return "/run/wherry"


def in_user_namespace() -> bool:
    """Whether ids are mapped: the first namespace maps all of them, one to one."""
    try:
        descriptor = posix.open("/proc/self/uid_map", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        return posix.read(descriptor, 4096).split() != [b"0", b"0", _ALL_IDS]
    finally:
        posix.close(descriptor)


def read_file(path: str) -> bytes:
    """The whole file. Never waits: a fifo in its place reads as empty, or is an error."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    try:
        data = posix.read(descriptor, 1 << 16)
        if len(data) < 1 << 16:
            return data
        chunks = [data]
        while chunks[-1]:
            chunks.append(posix.read(descriptor, 1 << 20))
        return b"".join(chunks)
    finally:
        posix.close(descriptor)
