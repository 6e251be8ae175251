# SPDX-License-Identifier: Apache-2.0
"""Where a process reads and writes, as a client names it: nothing, a fifo, a file, a logging program. Opened here, kept by the monitor.

A fifo goes to the process itself: nobody copies. Beside it one reading end is held for each that it writes to, so that a reader may come late, or go and come
back, and one writing end for stdin, so that it ends only when CloseIO was called too. Nothing here waits for who is at the other end.

A file is never the process's: who may write it may empty it, by `echo >/dev/stdout` even without knowing. It gets a pipe, and what comes there is
copied by a process beside the monitor (csrc/monitor/output.c), to which alone pipe and file belong from then on.
"""

import posix
from _stat import S_ISFIFO, S_ISREG

from wherry_shim.errors import INVALID_ARGUMENT, UNKNOWN, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry_shim.loop import Loop

_READ, _WRITE = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOCTTY, posix.O_WRONLY | posix.O_CLOEXEC | posix.O_NOCTTY
_LOGGER_READY_S = 10.0
_LOGGER_END_S = 12.0
_CLIENT_S = 1.0
_SIGTERM, _SIGKILL = 15, 9
_F_DUPFD_CLOEXEC, _F_GETFL, _F_SETFL = 1030, 3, 4


LOGGERS: "set[int]" = set()
"""Their pids, as long as nobody has waited for them."""


class Logger:
    """A logging program (binary://): reads what the process writes, and says when it is ready to."""

    def __init__(self, path: str, words: "list[str]", namespace: str, id: str, terminal: bool) -> None:
        self.outputs: "list[int]" = []
        self.ready = -1
        readers: "list[int]" = []
        try:
            for _ in range(2):
                reader, writer = posix.pipe2(posix.O_CLOEXEC)
                readers.append(reader)
                self.outputs.append(writer)
            self.ready, ready = posix.pipe2(posix.O_CLOEXEC)
            readers.append(ready)
            self.pid = _spawn(path, words, readers, {"CONTAINER_ID": id, "CONTAINER_NAMESPACE": namespace})
        except BaseException:
            for fd in (*self.outputs, self.ready):
                if fd >= 0:
                    posix.close(fd)
            raise
        finally:
            for fd in readers:
                posix.close(fd)
        LOGGERS.add(self.pid)
        self.pidfd = posix.pidfd_open(self.pid)
        if terminal:
            posix.close(self.outputs.pop())

    async def begun(self, loop: "Loop", strict: bool) -> None:
        """One byte says that it is ready; so does the end, where nobody is strict."""
        events = await loop.readable(self.ready, _LOGGER_READY_S)
        data = posix.read(self.ready, 1) if events else b""
        posix.close(self.ready)
        if not events:
            raise ShimError(UNKNOWN, f"the logging binary did not say within {_LOGGER_READY_S:g} s that it is ready")
        if strict and not data:
            raise ShimError(UNKNOWN, "logging binary did not call ready (it may have crashed or exited prematurely)")

    def end(self, loop: "Loop") -> None:
        """What it reads has come to its end: it may take its time, but not for ever."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd < 0:
            return

        def gone(_: int) -> None:
            loop.unwatch(pidfd)
            late.cancel()
            posix.waitpid(self.pid, 0)
            LOGGERS.discard(self.pid)
            posix.close(pidfd)

        loop.watch(pidfd, gone)
        _signal(self.pid, _SIGTERM)
        late = loop.timer(_LOGGER_END_S, lambda: _signal(self.pid, _SIGKILL))


def _signal(pid: int, number: int) -> None:
    try:
        posix.kill(pid, number)  # our child, not reaped yet
    except ProcessLookupError:
        pass


def _spawn(path: str, words: "list[str]", fds: "list[int]", environment: "dict[str, str]") -> int:
    """fds become 3, 4 and 5."""
    from fcntl import fcntl

    lifted = [fcntl(fd, _F_DUPFD_CLOEXEC, 16) for fd in fds]
    try:
        actions: "list[tuple[int | str, ...]]" = [
            (posix.POSIX_SPAWN_OPEN, number, "/dev/null", posix.O_RDWR, 0) for number in range(3)
        ]
        actions += [(posix.POSIX_SPAWN_DUP2, fd, 3 + index) for index, fd in enumerate(lifted)]
        return posix.posix_spawn(path, [path, *words], environment, file_actions=actions, setpgroup=0, setsigmask=())
    except OSError as error:
        raise ShimError(UNKNOWN, f"failed to start the logging binary {path}: {(error.strerror or '').lower()}") from error
    finally:
        for fd in lifted:
            posix.close(fd)


class Streams:
    """All that is open for one process. `given` go with the request to the monitor and are closed then; `held` are kept as long as the process."""

    def __init__(self) -> None:
        self.given: "dict[str, int]" = {}
        self.held: "dict[str, int]" = {}
        self.logger: "Logger | None" = None
        self.strict = False
        self.copies = True
        """The monitor copies to files."""
        self.copied = False
        """There is one."""

    def give_to(self, owner: "tuple[int, int]") -> None:
        """Who is root in a user namespace may open /dev/stdout once more, though the fifo is another root's."""
        if owner == (0, 0):
            return
        for fd in set(self.given.values()):
            if S_ISFIFO(posix.fstat(fd).st_mode):
                posix.fchown(fd, *owner)

    def give_pipes_to(self, owner: "tuple[int, int]") -> None:
        """Those that are copied from, and nobody else's. (At a create the launcher does it.)"""
        for name in ("hold_out", "hold_err"):
            if name in self.given and owner != (0, 0):
                posix.fchown(self.given[name], *owner)

    def close_given(self) -> None:
        for fd in set(self.given.values()):
            posix.close(fd)
        self.given = {}

    def close_input(self) -> None:
        fd = self.held.pop("hold_in", -1)
        if fd >= 0:
            posix.close(fd)

    def close(self, loop: "Loop") -> None:
        self.close_given()
        for fd in self.held.values():
            posix.close(fd)
        self.held = {}
        if self.logger is not None:
            self.logger.end(loop)


class Names:
    """As Create and Exec name them."""

    __slots__ = ("stderr", "stdin", "stdout", "terminal")

    def __init__(self, stdin: str, stdout: str, stderr: str, terminal: bool) -> None:
        self.stdin, self.stdout, self.stderr, self.terminal = stdin, stdout, stderr, terminal


def check(names: Names) -> None:
    scheme = names.stdout.partition("://")[0] if "://" in names.stdout else ""
    if scheme not in ("", "fifo", "file", "binary", "binary-v2"):
        raise ShimError(INVALID_ARGUMENT, f"unknown STDIO scheme {scheme}")
    if names.terminal and names.stderr:
        raise ShimError(INVALID_ARGUMENT, "a terminal has no stderr of its own")


async def open_streams(
    loop: "Loop", names: Names, namespace: str, id: str, input_closed: bool = False, owner: "tuple[int, int]" = (0, 0), copies: bool = True
) -> Streams:
    """input_closed: CloseIO has been called already, for a process that is only made now. owner: whose the fifos are to be, but for (0, 0).
    copies: as its monitor does."""
    check(names)
    streams = Streams()
    streams.copies = copies
    try:
        if names.stdout or names.stderr:
            _open_output(streams, names, namespace, id)
        if streams.logger is not None:
            await streams.logger.begun(loop, streams.strict)
        if names.stdin:
            await _open_input(loop, streams, names, input_closed)
        streams.give_to(owner)
        _fill(streams, names.terminal)
        return streams
    except OSError as error:
        streams.close(loop)
        raise ShimError(UNKNOWN, f"failed to open stdio: {error.filename or ''}: {(error.strerror or '').lower()}") from error
    except BaseException:
        streams.close(loop)
        raise


def _fill(streams: Streams, terminal: bool) -> None:
    """What nobody has named is /dev/null, of this process alone."""
    missing = [name for name in ("stdin", "stdout", "stderr") if name not in streams.given]
    if missing and not terminal:
        streams.given |= dict.fromkeys(missing, posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC))


def _open_output(streams: Streams, names: Names, namespace: str, id: str) -> None:
    scheme, separator, rest = names.stdout.partition("://")
    if not separator or scheme == "fifo":
        _open_paths(streams, names)
    elif scheme == "file":
        _give_both(streams, names.terminal, _open_log(rest.partition("?")[0]))
    else:
        path, _, query = rest.partition("?")
        streams.strict = scheme == "binary-v2"
        streams.logger = logger = Logger(_decoded(path), _words(query), namespace, id, names.terminal)
        for name, fd in zip(("output",) if names.terminal else ("stdout", "stderr"), logger.outputs, strict=True):
            streams.given[name] = fd


def _give_both(streams: Streams, terminal: bool, fd: int) -> None:
    fd = fd if terminal else _copied(streams, fd, "out")
    for name in ("output",) if terminal else ("stdout", "stderr"):
        streams.given[name] = fd


def _open_paths(streams: Streams, names: Names) -> None:
    stdout = names.stdout.removeprefix("fifo://")
    if stdout:
        streams.given["output" if names.terminal else "stdout"] = _open_writer(streams, stdout, "hold_out", names.terminal)
    stderr = names.stderr.removeprefix("fifo://")
    if not stderr or names.terminal:
        return
    if stderr == stdout and "hold_out" not in streams.held:  # one file, one position
        streams.given["stderr"] = streams.given["stdout"]
    else:
        streams.given["stderr"] = _open_writer(streams, stderr, "hold_err", False)


def _open_writer(streams: Streams, path: str, hold: str, pumped: bool) -> int:
    if not _is_fifo(path):
        fd = posix.open(path, _WRITE | posix.O_APPEND)
        return fd if pumped else _copied(streams, fd, hold[-3:])
    streams.held[hold] = posix.open(path, _READ | posix.O_NONBLOCK)
    fd = posix.open(path, _WRITE | posix.O_NONBLOCK)  # there is a reader: it is held
    posix.set_blocking(fd, pumped is False)
    return fd


def _copied(streams: Streams, log: int, name: str) -> int:
    """The writing end of a pipe in its place. Devices and the like are the process's own."""
    if not streams.copies or not S_ISREG(posix.fstat(log).st_mode):
        return log
    from fcntl import fcntl

    streams.given[f"log_{name}"], streams.copied = log, True
    try:
        fcntl(log, _F_SETFL, fcntl(log, _F_GETFL) & ~posix.O_APPEND)  # splice() refuses it
    except OSError:  # chattr +a: copied by hand
        pass
    streams.given[f"hold_{name}"], writer = posix.pipe2(posix.O_CLOEXEC)
    posix.set_blocking(streams.given[f"hold_{name}"], False)
    return writer


def whole(names: Names) -> bool:
    """Nobody copies into its files any more: who does has them locked."""
    from fcntl import LOCK_NB, LOCK_SH, flock

    for text in {names.stdout, names.stderr} if not names.terminal else ():
        path = _decoded(text.removeprefix("file://").partition("?")[0]) if text.startswith("file://") else text
        try:
            if not S_ISREG(posix.stat(path).st_mode):
                continue
            fd = posix.open(path, _READ)
        except OSError:
            continue
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            continue
        finally:
            posix.close(fd)
    return True


async def _open_input(loop: "Loop", streams: Streams, names: Names, closed: bool) -> None:
    path = names.stdin.removeprefix("fifo://")
    if not path:
        return
    name = "input" if names.terminal else "stdin"
    if not _is_fifo(path):
        streams.given[name] = posix.open(path, _READ)
        return
    fd = streams.given[name] = posix.open(path, _READ | posix.O_NONBLOCK)
    if not closed:
        streams.held["hold_in"] = posix.open(path, _WRITE | posix.O_NONBLOCK)
    else:
        await _client(loop, fd)
    posix.set_blocking(fd, not names.terminal)


async def _client(loop: "Loop", fd: int) -> None:
    """Until there is something to read, or the end. A client that has closed its stdin may still be on its way to this end of the fifo;
    a program that read before it came would find the end of the file."""
    await loop.readable(fd, _CLIENT_S)


def _is_fifo(path: str) -> bool:
    return S_ISFIFO(posix.stat(path).st_mode)


def _open_log(text: str) -> int:
    path = _decoded(text)
    parts = path.split("/")
    for depth in range(2, len(parts)):
        try:
            posix.mkdir("/".join(parts[:depth]), 0o755)
        except FileExistsError:
            continue
    return posix.open(path, _WRITE | posix.O_CREAT | posix.O_APPEND, 0o644)


def _words(query: str) -> "list[str]":
    """Key, value, key, value; of a key that comes twice the first."""
    found: "dict[str, str]" = {}
    for part in query.split("&") if query else ():
        key, _, value = part.replace("+", " ").partition("=")
        found.setdefault(_decoded(key), _decoded(value))
    return [word for pair in found.items() for word in pair]


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    head, *parts = text.encode().split(b"%")
    for part in parts:
        try:
            head += bytes([int(part[:2], 16)]) + part[2:]
        except ValueError:
            head += b"%" + part
    return head.decode("utf-8", "surrogateescape")
