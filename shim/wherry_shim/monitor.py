# SPDX-License-Identifier: Apache-2.0
"""A server's end of a monitor (csrc/monitor): starts one, or finds the one that is there, asks it and is told by it.

Messages are datagrams of a fixed head, texts and descriptors; csrc/monitor/monitor.h is their definition. What a monitor reports is handed to
callbacks in the loop's thread. Descriptors that come with a report belong to who is called back.
"""

import posix
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SOCK_SEQPACKET,
    socket,
    socketpair,
)
from _struct import Struct

from wherry.kernel import native
from wherry_shim.descriptors import passed, rights
from wherry_shim.loop import EPOLLIN, EPOLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry_shim.loop import Loop
    from wherry_shim.parent import Parent

VERSION = 0x4D4E0001
HEAD = Struct("<IHHIIiiiIqIIQiIiI8I")
MAX_MESSAGE = HEAD.size + (64 << 10)
MAX_META = 3072

CREATE, EXEC, FINISH, ABORT, MARK, CLOSE_INPUT, RELEASE, WATCH, RESTORE = range(1, 10)
WAITING, MADE, FAILED, ENDED, DRAINED, PROCESS, LISTED = range(32, 39)

DESCRIPTORS = (
    *("program", "plan", "config", "target", "stdin", "stdout", "stderr", "input", "output", "hold_in", "hold_out", "hold_err"),
    *("events", "process", "master", "log_out", "log_err"),
)
TEXTS = ("root", "id", "bundle", "bundle_json", "pid_file", "name", "meta", "extra")
_BITS = {name: 1 << index for index, name in enumerate(DESCRIPTORS)}
_RIGHTS = CMSG_SPACE(4 * len(DESCRIPTORS))
_NOTHING = [b""] * len(TEXTS)
_COPIES = 1  # in `value` of LISTED


def packet(
    kind: int,
    process: int = 0,
    *,
    count: int = 0,
    pid: int = 0,
    status: int = 0,
    index: int = 0,
    texts: "dict[str, bytes] | None" = None,
    fds: "dict[str, int] | None" = None,
) -> "tuple[bytes, list[int]]":
    """A message, and the descriptors that go with it."""
    given = sorted([(_BITS[name], fd) for name, fd in fds.items() if fd >= 0]) if fds else []
    bodies = [texts.get(name, b"") for name in TEXTS] if texts else _NOTHING
    bits = sum([bit for bit, _ in given])
    head = HEAD.pack(VERSION, kind, count, process, bits, pid, status, 0, 0, 0, 0, 0, 0, 0, 0, 0, index, *map(len, bodies))
    return head + b"\0".join(bodies) + b"\0", [fd for _, fd in given]


class Report:
    """What a monitor says. `process`: 0 is the container's first, others have the number that they were given."""

    __slots__ = ("call", "error", "fds", "kind", "nanos", "oom", "pid", "process", "seconds", "signal", "status", "step", "texts", "undo", "value")

    def __init__(self, data: bytes, fds: "list[int]") -> None:
        (_, self.kind, _, self.process, bits, self.pid, self.status, self.signal, self.oom, *more) = HEAD.unpack_from(data)
        (self.seconds, self.nanos, self.step, self.value, self.error, self.call, self.undo, _, *lengths) = more
        names = [name for name, bit in _BITS.items() if bits & bit] if fds else ()
        self.fds = dict(zip(names, fds, strict=False))
        self.texts: "dict[str, bytes]" = {}
        if any(lengths):
            self._read_texts(data, lengths)

    def _read_texts(self, data: bytes, lengths: "list[int]") -> None:
        at = HEAD.size
        for name, length in zip(TEXTS, lengths, strict=True):
            if length:
                self.texts[name] = data[at : at + length]
            at += length + 1

    def failure(self) -> native.Failure:
        return native.Failure(self.error, self.step, native.call_name(self.call), self.value, self.undo)

    def close(self) -> None:
        for fd in self.fds.values():
            posix.close(fd)
        self.fds = {}


class Monitor:
    """`on_report` gets each report; `on_end` is called once when the monitor is gone."""

    def __init__(self, loop: "Loop", connection: "socket | None", pid: int = 0, pidfd: int = -1) -> None:
        """pidfd: where the caller has it already."""
        self.loop, self.pid = loop, pid
        self.on_report: "Callable[[Report], None]" = lambda report: report.close()
        self.on_end: "Callable[[], None]" = lambda: None
        self._socket: "socket | None" = connection
        self._pidfd = posix.pidfd_open(pid) if pid and pidfd < 0 and connection is not None else pidfd
        self._unsent: "list[tuple[bytes, list[int]]]" = []
        self._events = EPOLLIN
        self.copies = bool(pid)
        """It takes output files, and copies what comes to a pipe there: one that an older version has left does not."""
        if connection is not None:
            loop.watch(connection.fileno(), self._ready)
        if self._pidfd >= 0:
            loop.watch(self._pidfd, self._reap)

    @classmethod
    def start(cls, loop: "Loop", parent: "Parent", namespace: str, id: str, lock: int) -> "Monitor":
        """A new one, in a session of its own, out of the reach of what is sent to the server's group. It holds `lock` as long as it lives. OSError."""
        words = ["wherry-monitor", "-namespace", namespace, "-id", id]
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            return cls(loop, ours, *parent.spawn([program(), *words], theirs.fileno(), lock))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    @classmethod
    def find(cls, loop: "Loop", directory: str) -> "Monitor":
        """The one of a container, by the container's directory. It begins with PROCESS for each that lives, and LISTED. OSError: it is gone."""
        connection = socket(AF_UNIX, SOCK_SEQPACKET)
        descriptor = -1
        try:
            descriptor = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
            connection.connect(f"/proc/self/fd/{descriptor}/monitor")  # sun_path is short
        except BaseException:
            connection.close()
            raise
        finally:
            if descriptor >= 0:
                posix.close(descriptor)
        return cls(loop, connection)

    @classmethod
    def taken(cls, loop: "Loop", connection: int, pid: int, pidfd: int) -> "Monitor":
        """One that this server had before it parked; its descriptors, as parts() has given them."""
        return cls(loop, socket(fileno=connection) if connection >= 0 else None, pid, pidfd)

    def parts(self) -> "tuple[int, int, bool]":
        """Connection, pidfd (-1 where there is none any more), and whether something is not sent yet."""
        pidfd = self._pidfd if self._pidfd >= 0 and self.loop.watches(self._pidfd) else -1
        return -1 if self._socket is None else self._socket.fileno(), pidfd, bool(self._unsent)

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def ask(
        self,
        kind: int,
        process: int = 0,
        *,
        count: int = 0,
        status: int = 0,
        index: int = 0,
        texts: "dict[str, bytes] | None" = None,
        fds: "dict[str, int] | None" = None,
    ) -> None:
        """The descriptors stay the caller's. OSError where the monitor is gone."""
        if self._socket is None:
            raise BrokenPipeError(32, "the monitor is gone")
        data, numbers = packet(kind, process, count=count, status=status, index=index, texts=texts, fds=fds)
        if self._unsent:
            self._flush()
        if self._unsent or not self._send(data, numbers):
            self._unsent.append((data, [posix.dup(fd) for fd in numbers]))
            self._watch()

    def tell(self, kind: int, process: int) -> None:
        """What nobody waits for: it goes behind the answer of the call that it comes from, and before what is asked next."""
        if self._socket is not None:
            self._unsent.append(packet(kind, process))
            self.loop.behind(self._flush)

    def _send(self, data: bytes, fds: "list[int]") -> bool:
        """False where the monitor has not read enough yet. We never wait for it: it may be waiting for us."""
        assert self._socket is not None
        try:
            self._socket.sendmsg([data], rights(fds), MSG_NOSIGNAL | MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def _flush(self) -> None:
        while self._unsent and self._socket is not None:
            data, fds = self._unsent[0]
            try:
                if not self._send(data, fds):
                    break
            except OSError:  # it is gone, which its end of the socket tells as well
                pass
            del self._unsent[0]
            for fd in fds:
                posix.close(fd)
        self._watch()

    def _watch(self) -> None:
        wanted = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
        if self._socket is not None and wanted != self._events:
            self._events = wanted
            self.loop.change(self._socket.fileno(), wanted)

    def _ready(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
        if events & ~EPOLLOUT:
            self._read()

    def _read(self) -> bool:
        """One report. False: there is none now."""
        if self._socket is None:
            return False
        try:
            data, ancillary, _, _ = self._socket.recvmsg(MAX_MESSAGE, _RIGHTS, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # said once: it went without having read all. What it had said comes after it
            return True
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._lost()
            return False
        report = Report(data, passed(ancillary))
        if report.kind == LISTED:
            self.copies = bool(report.value & _COPIES)
        self.on_report(report)
        return True

    def _lost(self) -> None:
        self.close()
        self.on_end()

    def _reap(self, events: int) -> None:
        self.loop.unwatch(self._pidfd)
        posix.close(self._pidfd)
        self._pidfd = -1
        try:
            posix.waitpid(self.pid, posix.WNOHANG)
        except ChildProcessError:  # swept up by the keeper, or the porter's
            pass
        while self._read():  # its last words come before its end
            pass
        if self._socket is not None:
            self._lost()

    def close(self) -> None:
        """Lets go of the connection; the monitor lives on."""
        self._flush()
        connection, self._socket = self._socket, None
        for _, fds in self._unsent:
            for fd in fds:
                posix.close(fd)
        self._unsent.clear()
        if connection is not None:
            self.loop.unwatch(connection.fileno())
            connection.close()


_sealed: "list[int]" = []
_shared: "list[int]" = []


def seal_programs() -> None:
    """By a zygote: one copy of them for all of its servers."""
    _shared[:] = sorted((native.program_fd(), program_fd()))


def close_from(first: int) -> None:
    """What was inherited, but for those programs."""
    for program in _shared:
        posix.closerange(first, program)
        first = program + 1
    posix.closerange(first, 1 << 20)


def program_fd() -> int:
    """The file beside the extension, with which it is built, as a sealed memfd: the monitor forks what becomes a process of the container, and
    nobody who looks at that may find a file of the host behind it. Made once per process, or by the zygote for all of its servers."""
    if not _sealed:
        with open(native.__file__.rpartition("/kernel/")[0] + "/wherry-monitor", "rb", 0) as file:
            _sealed.append(native.seal(file.read()))
    return _sealed[0]


def program() -> str:
    """As it can be executed by our children, and by the porter."""
    return f"/proc/{posix.getpid()}/fd/{program_fd()}"
