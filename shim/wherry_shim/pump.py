# SPDX-License-Identifier: Apache-2.0
"""The pump of a terminal whose monitor was killed: between the master of its pty and two fifos, in the server's loop, which never waits for either."""

import posix

from wherry_shim.loop import EPOLLIN, EPOLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry_shim.loop import Loop

_CHUNK = 1 << 15


class _Way:
    """From one descriptor to another: reads when all is written. Ends by itself; what cannot be written any more is dropped."""

    def __init__(self, loop: "Loop", source: int, sink: int, on_end: "Callable[[], None]") -> None:
        self._loop, self._source, self._sink, self._on_end = loop, source, sink, on_end
        self._data = b""
        loop.watch(source, self._read)

    def _read(self, events: int) -> None:
        try:
            self._data = posix.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last slave is closed
            self._data = b""
        if not self._data:
            self.close()
        elif not self._flush():
            self._loop.unwatch(self._source)
            self._loop.watch(self._sink, self._writable, EPOLLOUT)

    def _flush(self) -> bool:
        """Whether all is written."""
        try:
            self._data = self._data[posix.write(self._sink, self._data) :]
        except BlockingIOError:
            return False
        except OSError:
            self._data = b""
        return not self._data

    def _writable(self, events: int) -> None:
        if self._flush():
            self._loop.unwatch(self._sink)
            self._loop.watch(self._source, self._read, EPOLLIN)

    def close(self) -> None:
        if self._source < 0:
            return
        for fd in (self._source, self._sink):
            self._loop.unwatch(fd)
            posix.close(fd)
        self._source = self._sink = -1
        self._on_end()


class Pump:
    """`master` stays the caller's; `stdin` and `stdout` are the fifos' paths; what is neither that nor a file is lost. on_end: the terminal has ended."""

    def __init__(self, loop: "Loop", master: int, stdin: str, stdout: str, on_end: "Callable[[], None]") -> None:
        self._ways: "list[_Way]" = []
        posix.set_blocking(master, False)
        stdout = stdout.removeprefix("fifo://")
        sink = posix.open(stdout if stdout.startswith("/") else "/dev/null", posix.O_WRONLY | posix.O_APPEND | posix.O_NONBLOCK | posix.O_CLOEXEC)
        self._ways.append(_Way(loop, posix.dup(master), sink, on_end))
        if stdin:
            source = posix.open(stdin, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
            self._ways.append(_Way(loop, source, posix.dup(master), lambda: None))

    def close(self) -> None:
        for way in self._ways:
            way.close()
