# SPDX-License-Identifier: Apache-2.0
"""A worker's end of its porter (csrc/shim/porter.h): takes what is held, has monitors started, hears how they and their orphans end, gives it all back.

The porter is who containerd knows. Where it ends the worker ends with it, at once: the kernel sends SIGKILL when the lifeline, a pipe that is never
written to, loses its other end.
"""

import _socket
import fcntl
import posix
from _struct import Struct
from time import monotonic

from wherry_shim.descriptors import passed, rights
from wherry_shim.loop import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry_shim.loop import Loop

HEAD = Struct("<IIiiq")
MAGIC = 0x50540001
READY, TAKE, SPAWN, SPAWNED, ENDED, PARK = range(1, 7)
MOST = 240
"""Descriptors that a porter holds."""
_TEXT = 8 << 10
_KEPT_S, _PATIENCE_S = 10.0, 1.0
_F_SETSIG, _SIGKILL = 10, 9


class Message:
    __slots__ = ("a", "b", "fds", "kind")

    def __init__(self, data: bytes, fds: "list[int]") -> None:
        magic, self.kind, self.a, self.b, _ = HEAD.unpack_from(data)
        self.fds = fds
        if magic != MAGIC:
            raise ValueError("not a porter's message")


class Porter:
    """A Parent (wherry_shim.parent)."""

    leaves_orphans = False

    def __init__(self, control: "_socket.socket") -> None:
        self.pid = 0
        self.control = control
        self._lifeline = -1
        self.heard = 0
        """Of how many ends."""
        self._ended: "dict[int, tuple[int, float]]" = {}
        self._wanted: "dict[int, Later]" = {}

    def send(self, kind: int, a: int = 0, b: int = 0, until: int = -1, text: bytes = b"", fds: "list[int] | None" = None) -> None:
        self.control.sendmsg([HEAD.pack(MAGIC, kind, a, b, until) + text], rights(fds or []), _socket.MSG_NOSIGNAL)

    def receive(self, flags: int = 0) -> Message:
        """An end of the porter is ours."""
        data, ancillary, _, _ = self.control.recvmsg(HEAD.size + _TEXT, _socket.CMSG_SPACE(4 * (MOST + 2)), flags | _socket.MSG_CMSG_CLOEXEC)
        if not data:
            posix._exit(1)
        return Message(data, passed(ancillary))

    def take(self) -> "tuple[int, list[int]]":
        """The version of the state and its descriptors, or (0, [the listener])."""
        message = self.receive()
        if message.kind != TAKE or len(message.fds) < 2:
            raise ValueError("the porter gives nothing")
        self.pid, self._lifeline = message.a, message.fds[0]
        _die_with(self._lifeline)
        return message.b, message.fds[1:]

    def listen(self, loop: "Loop") -> None:
        self._loop = loop
        loop.watch(self.control.fileno(), self._readable)

    def _readable(self, _: int) -> None:
        while True:
            try:
                self._hear(self.receive(_socket.MSG_DONTWAIT))
            except BlockingIOError:
                return

    def _hear(self, message: Message) -> None:
        for fd in message.fds:
            posix.close(fd)
        if message.kind != ENDED:
            return
        self.heard += 1
        waiting = self._wanted.pop(message.a, None)
        if waiting is not None:
            waiting.set(message.b)
            return
        now = monotonic()
        self._ended = {pid: end for pid, end in self._ended.items() if end[1] > now - _KEPT_S}
        self._ended[message.a] = (message.b, now)

    def spawn(self, words: "list[str]", first: int, second: int) -> "tuple[int, int]":
        """pid and pidfd of a child of the porter: words are a path and arguments, the descriptors become 3 and 4."""
        text = b"\0".join(word.encode("utf-8", "surrogateescape") for word in words)
        self.send(SPAWN, text=text, fds=[first, second])
        while (message := self.receive()).kind != SPAWNED:
            self._hear(message)
        if message.a < 0 or not message.fds:
            raise OSError(-message.a, posix.strerror(-message.a), words[0])
        self._ended.pop(message.a, None)  # another's, who had this pid before
        return message.a, message.fds[0]

    def unclaimed(self) -> "list[tuple[int, int]]":
        """pid and status of who has ended, and nobody has asked yet."""
        return [(pid, end[0]) for pid, end in self._ended.items()]

    def knows(self, unclaimed: "list[tuple[int, int]]") -> None:
        self._ended = {pid: (status, monotonic()) for pid, status in unclaimed}

    def status(self, pid: int, _: int = -1) -> Later:
        """The exit status of one that has ended and was the porter's child; 255 where nobody knows."""
        later = Later()
        if pid in self._ended:
            later.set(self._ended.pop(pid)[0])
            return later
        self._wanted[pid] = later

        def forget() -> None:
            self._wanted.pop(pid, None)
            later.set(255)

        timer = self._loop.timer(_PATIENCE_S, forget)
        later.then(lambda _: timer.cancel())
        return later


def _die_with(lifeline: int) -> None:
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, posix.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, _SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | posix.O_ASYNC | posix.O_NONBLOCK)
    try:
        posix.read(lifeline, 1)
    except BlockingIOError:
        return
    posix._exit(1)  # it had gone before
