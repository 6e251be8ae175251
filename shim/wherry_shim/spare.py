# SPDX-License-Identifier: Apache-2.0
"""A server that is there before anybody asks for one: a fork of the zygote, which has done what every server does first, and waits at the zygote's
socket in its place. Who asks waits for no fork, and hardly for a page to be copied: the spare has those already that a server writes to, as another
fork has found out. Zygote and spare let go of all files' pages while they wait.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import select
from _struct import error as StructError  # type: ignore[attr-defined]

from wherry.kernel import memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry_shim.zygote import Zygote

_TAKEN = b"t"
_LESSON_S = 2  # it takes some milliseconds


class Lesson:
    """A fork does once, with nobody, what a server does, and says which pages it has written to."""

    def __init__(self, live: "Callable[[], None]") -> None:
        self._pages = b""
        self._file, theirs = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self.pid = posix.fork()
        if not self.pid:
            try:
                _signal.alarm(_LESSON_S)
                live()
                posix.write(theirs, memory.own_pages())
            finally:
                posix._exit(0)
        posix.close(theirs)

    def pages(self) -> bytes:
        """Nothing, as long as it has not come to its end."""
        if self._file >= 0:
            try:
                self._pages = posix.read(self._file, 1 << 16)
            except BlockingIOError:
                return b""
            posix.close(self._file)
            self._file = -1
        return self._pages


class Spare:
    """The zygote's end of one. pages: that it is to take."""

    def __init__(self, listener: "_socket.socket", zygote: "Zygote", pages: bytes) -> None:
        self._line, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.pid = posix.fork()
        if not self.pid:
            try:
                self._line.close()
                memory.take_pages(pages)
                wait(listener, theirs, zygote)
            finally:
                posix._exit(1)
        theirs.close()

    def taken(self, seconds: float) -> bool:
        """Somebody has come for it. False: it has ended, by itself or after so long. What has come meanwhile waits for the zygote."""
        if memory.rest(seconds, self._line.fileno()):
            told = self._line.recv(1)
        else:
            self._line.shutdown(_socket.SHUT_WR)
            told = self._farewell()
        self._line.close()
        return told == _TAKEN

    def _farewell(self) -> bytes:
        self._line.settimeout(1)
        try:
            return self._line.recv(1)
        except TimeoutError:  # it is stopped
            posix.kill(self.pid, 9)
            return b""


def wait(listener: "_socket.socket", line: "_socket.socket", zygote: "Zygote") -> None:
    """As a spare. It returns when the zygote has gone, or wants it to go."""
    from wherry_shim.zygote import Prepared, accepted

    prepared = Prepared()
    zygote.rehearse()
    listener.settimeout(0)
    ready = select.poll()
    ready.register(listener, select.POLLIN)
    ready.register(line, select.POLLIN)
    while True:
        memory.rest(-1, listener.fileno(), line.fileno())
        if line.fileno() in dict(ready.poll()):
            return
        try:
            request, peer, fds = accepted(listener)
        except (OSError, ValueError, StructError):
            continue  # a client that has gone, or none that we know
        try:
            zygote.answer(request, peer, fds, prepared, lambda: _tell(line))
        except OSError:  # it has gone meanwhile
            pass
        for fd in fds:
            posix.close(fd)
        peer.close()


def _tell(line: "_socket.socket") -> None:
    """From here on we are a server, which outlives its zygote."""
    try:
        line.send(_TAKEN, _socket.MSG_NOSIGNAL)
    except OSError:
        pass
