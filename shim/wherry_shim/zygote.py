# SPDX-License-Identifier: Apache-2.0
"""The zygote: an interpreter that has everything loaded and forks a server in a millisecond. It holds no state and no container.

The first cold server of a kind leaves one behind, which goes when nobody has asked it for a while. One fork of it waits in its place (spare.py). A fork
inherits its parent's world, so there is one zygote for each installation, build, user, set of namespaces and cgroup: all of that is in its socket's
name. What differs from one start to the next comes with the request, and the server applies it before it accepts anybody: standard error,
environment, umask, limits, oom_score_adj.

Request, one packet: header, then argv and environment, each text with a NUL; descriptors: the listening socket, the log. Answer: the server's pid, and
a last word to the server, GO: without it the server ends. Whoever gets no answer at once closes the socket and starts a cold server instead: a zygote
that is gone, slow or hung costs a few milliseconds and nothing else, and two servers never share a socket.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import gc
import posix
import sys
from _struct import Struct
from _struct import error as StructError  # type: ignore[attr-defined]
from time import monotonic

from wherry_shim import monitor
from wherry_shim.descriptors import passed, rights
from wherry_shim.spare import Lesson, Spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = Struct("<IIiII")  # magic, umask, oom_score_adj or KEEP, number of arguments, number of variables; then 16 limits, soft and hard
LIMITS = Struct("<32Q")
MAGIC = 0x575A0001
KEEP = -10000
REHEARSALS = 16  # so many calls make the interpreter specialize a function
GO = b"g"
LARGEST = 192 << 10
PATIENCE = 0.02
"""Seconds that a start waits for the answer."""
IDLE = 30.0  # probes come every ten seconds, and keep it
SETTLE = 0.05  # without a request, before a spare is made: what was asked for has the processor first
TITLE = "containerd-shim-wherry-v2 zygote"
REHEARSAL = "containerd-shim-wherry-v2 rehearsal"
"""Its title before, and that of the child that is no spare."""
NAMESPACES = ("mnt", "pid", "user", "net", "ipc", "uts", "cgroup")
CREDENTIALS = (b"Uid:", b"Gid:", b"Groups:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"NoNewPrivs:", b"Seccomp:")
_PEER = Struct("3i")


def _read(path: str) -> bytes:
    from wherry_shim.bootstrap import read_file

    return read_file(path)


def world(directory: str) -> bytes:
    """All that a fork would inherit and cannot change; csrc/shim/world.c writes the same. directory: where the shim is installed."""
    from wherry.kernel import native

    lines = [native.build_id().hex().encode(), directory.encode("utf-8", "surrogateescape")]
    for name in NAMESPACES:
        try:
            lines.append(posix.readlink(f"/proc/self/ns/{name}").encode())
        except OSError:
            lines.append(b"-")
    lines += [line for line in _read("/proc/self/status").split(b"\n") if line.startswith(CREDENTIALS)]
    return b"\n".join(lines) + b"\n" + _read("/proc/self/cgroup") + _read("/proc/self/attr/current")


def socket_path(directory: str, program: str) -> str:
    from wherry_shim.bootstrap_start import sha256

    return f"{directory}/zygote-{sha256(world(program.rpartition('/')[0]))[:32]}"


# ---- asking


def ask(path: str, argv: "list[str]", environment: "dict[bytes, bytes]", oom_score: int, fds: "list[int]") -> int:
    """The pid of a new server; 0 = there is no zygote, or none that answers."""
    import resource

    from wherry_shim.ttrpc import may_connect

    limits = [value & (1 << 64) - 1 for number in range(16) for value in resource.getrlimit(number)]
    mask = posix.umask(0o077)
    posix.umask(mask)
    texts = [word.encode("utf-8", "surrogateescape") for word in argv] + [name + b"=" + value for name, value in environment.items()]
    packet = HEADER.pack(MAGIC, mask, oom_score, len(argv), len(environment)) + LIMITS.pack(*limits) + b"".join(text + b"\0" for text in texts)
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        peer.settimeout(PATIENCE)
        peer.connect(path)
        if not may_connect(peer) or len(packet) > LARGEST:
            return 0
        peer.sendmsg([packet], rights(fds), _socket.MSG_NOSIGNAL)
        pid = int.from_bytes(peer.recv(4), "little")
        return pid if pid and peer.send(GO) else 0
    except OSError:
        return 0
    finally:
        peer.close()


# ---- being one


class Zygote:
    """serve(arguments) is what a forked child goes on as; it does not return. rehearse() is what a spare does before."""

    def __init__(self, path: str, serve: "Callable[[list[str]], None]", rehearse: "Callable[[], None]" = lambda: None) -> None:
        self.path, self._serve, self.rehearse = path, serve, rehearse
        self._lesson: "Lesson | None" = None
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)

    def bind(self) -> bool:
        """False: somebody is there already."""
        from wherry_shim.bootstrap_start import locked

        lock = locked(self.path.rpartition("/")[0])
        try:
            try:
                self._listener.bind(self.path)
            except OSError:
                if self._is_served():
                    self._listener.close()
                    return False
                posix.unlink(self.path)
                self._listener.bind(self.path)
            posix.chmod(self.path, 0o600)
            self._listener.listen(64)
        finally:
            posix.close(lock)
        return True

    def _is_served(self) -> bool:
        peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            peer.settimeout(0.1)
            peer.connect(self.path)
            return True
        except OSError:
            return False
        finally:
            peer.close()

    def learn(self, execute: "Callable[[], None]") -> None:
        """Which pages a spare is to take. execute: what servers do after what rehearse() does. It holds nobody up: a child finds out. It costs time alone
        where that fails."""

        def live() -> None:
            prepared = Prepared()
            self.rehearse()
            prepared.title.set(REHEARSAL)
            execute()

        try:
            self._lesson = Lesson(live)
        except OSError:
            pass

    def run(self) -> None:
        """Until nobody has asked for IDLE seconds."""
        asked = monotonic()
        while True:
            if self._asked(SETTLE):
                asked = monotonic()
                continue
            pages = b"" if self._lesson is None else self._lesson.pages()
            if Spare(self._listener, self, pages).taken(IDLE):
                asked = monotonic()
            elif monotonic() - asked >= IDLE and self._leave():
                self._listener.close()
                return

    def _asked(self, seconds: float) -> bool:
        """False: by nobody in this time."""
        self._listener.settimeout(seconds)
        try:
            request, peer, fds = accepted(self._listener)
        except TimeoutError:
            return False
        except (OSError, ValueError, StructError):
            return True  # a client that has gone, or none that we know
        try:
            pid = posix.fork()
            if pid:
                return True
            try:
                self.answer(request, peer, fds, Prepared())
            finally:
                posix._exit(1)
        finally:
            for fd in fds:
                posix.close(fd)
            peer.close()

    def _leave(self) -> bool:
        from wherry_shim.bootstrap_start import locked

        lock = locked(self.path.rpartition("/")[0])
        try:
            if self._asked(0):
                return False
            posix.unlink(self.path)
            return True
        finally:
            posix.close(lock)

    def answer(self, request: "Request", peer: "_socket.socket", fds: "list[int]", prepared: "Prepared", taken: "Callable[[], None]" = lambda: None) -> None:
        """In the child. It returns where nobody waits for a server any more; else it ends as one."""
        peer.send(posix.getpid().to_bytes(4, "little"))
        if peer.recv(1) != GO:
            return
        try:
            taken()
            become(request, fds, prepared)
            self._serve(request.argv)
        finally:
            posix._exit(1)


def accepted(listener: "_socket.socket") -> "tuple[Request, _socket.socket, list[int]]":
    """Who asks, and what for. ValueError, OSError and struct.error: nobody that we know; TimeoutError: nobody."""
    from wherry_shim.ttrpc import may_connect

    try:
        descriptor, _ = listener._accept()  # type: ignore[attr-defined]
    except BlockingIOError as error:
        raise TimeoutError from error
    peer = _socket.socket(fileno=descriptor)
    fds: list[int] = []
    try:
        if not may_connect(peer):
            raise ValueError("of another user")
        peer.settimeout(1)
        try:
            packet, ancillary, _, _ = peer.recvmsg(LARGEST, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as error:
            raise ValueError("it says nothing") from error
        fds = passed(ancillary)
        request = Request(packet)
        if len(fds) != 2:
            raise ValueError("two descriptors belong to a request")
        return request, peer, fds
    except BaseException:
        for fd in fds:
            posix.close(fd)
        peer.close()
        raise


class Request:
    """Taken apart; whatever is wrong with it is a ValueError or a struct.error."""

    def __init__(self, packet: bytes) -> None:
        magic, self.umask, self.oom_score, count, variables = HEADER.unpack_from(packet)
        self.limits = LIMITS.unpack_from(packet, HEADER.size)
        texts = packet[HEADER.size + LIMITS.size :].split(b"\0")
        if magic != MAGIC or len(texts) != count + variables + 1 or not count:
            raise ValueError("not a request")
        self.argv = [text.decode("utf-8", "surrogateescape") for text in texts[:count]]
        self.environment = dict(text.split(b"=", 1) for text in texts[count:-1] if b"=" in text)


class Prepared:
    """What a child can do before it knows who asks."""

    def __init__(self) -> None:
        import resource

        posix.setpgid(0, 0)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self.limits = tuple(value & (1 << 64) - 1 for number in range(16) for value in resource.getrlimit(number))
        self.oom_score = _read("/proc/self/oom_score_adj").strip()
        self.title = Title()


def become(request: Request, fds: "list[int]", prepared: Prepared) -> None:
    """In the child: what an exec and its parent would have given to a cold server."""
    from wherry_shim.bootstrap_start import LISTENER

    low = [fcntl.fcntl(fd, fcntl.F_DUPFD, LISTENER + 1) for fd in fds]
    posix.dup2(low[1], 2)
    posix.dup2(low[0], LISTENER)
    posix.umask(request.umask)
    _set_environment(request.environment)
    if request.limits != prepared.limits:
        _set_limits(request.limits)
    score = str(request.oom_score).encode()
    if request.oom_score != KEEP and score != prepared.oom_score:
        _write("/proc/self/oom_score_adj", score)
    sys.argv = list(request.argv)
    prepared.title.set(" ".join(request.argv))
    monitor.close_from(LISTENER + 1)


def _set_environment(environment: "dict[bytes, bytes]") -> None:
    for name in [name for name in posix.environ if name not in environment]:
        posix.unsetenv(name)
        del posix.environ[name]
    for name, value in environment.items():
        if posix.environ.get(name) != value:
            posix.putenv(name, value)
            posix.environ[name] = value
    if "os" in sys.modules:
        copy = sys.modules["os"].environ
        copy.clear()
        copy.update({name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape") for name, value in environment.items()})


def _set_limits(limits: "tuple[int, ...]") -> None:
    import resource

    for number in range(16):
        wanted = tuple(-1 if value == (1 << 64) - 1 else value for value in limits[2 * number : 2 * number + 2])
        if resource.getrlimit(number) != wanted:
            resource.setrlimit(number, (wanted[0], wanted[1]))


def _write(path: str, data: bytes) -> None:
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError:
        return
    try:
        posix.write(fd, data)
    except OSError:
        pass
    finally:
        posix.close(fd)


class Title:
    """What `ps` shows: over our arguments, and over the environment behind them where it is longer."""

    def __init__(self) -> None:
        self._memory = -1
        try:
            fields = _read("/proc/self/stat").rpartition(b")")[2].split()
            self._start, self._end, self._last = int(fields[45]), int(fields[46]), int(fields[48])
            self._memory = posix.open("/proc/self/mem", posix.O_WRONLY | posix.O_CLOEXEC)
        except (OSError, ValueError, IndexError):
            pass

    def set(self, text: str) -> None:
        """Once."""
        data = text.encode("utf-8", "replace")
        if self._memory < 0:
            return
        data = data[: self._last - self._start - 1]
        # a byte that is not NUL at the end of the arguments says that they go on
        data += b"\0" * max(1, self._end - self._start - len(data))
        try:
            posix.pwrite(self._memory, data, self._start)
        except OSError:
            pass
        posix.close(self._memory)


def set_title(text: str) -> None:
    Title().set(text)


def load() -> None:
    """What a server may need beside what it has imported; no more: it is in memory for as long as the zygote lives (tests/shim/test_lean.py)."""
    import resource

    from wherry_shim import messages_rare, metrics, plans, rehearsal

    assert resource and metrics and messages_rare.TABLE and plans and rehearsal


def tidy() -> None:
    """Before the first fork."""
    from wherry.kernel import memory

    for finder in sys.meta_path:
        if hasattr(finder, "forget"):
            finder.forget()
    gc.collect()
    memory.trim()
    gc.freeze()


def leave_behind(directory: str, serve: "Callable[[list[str]], None]", rehearse: "Callable[[], None]") -> None:
    """By a cold server, before it has done anything: a copy of it becomes the zygote for those that come after."""
    if posix.environ.get(b"WHERRY_ZYGOTE") == b"off":
        return
    load()
    between = posix.fork()
    if between:  # the zygote is nobody's child: no server has to wait for it
        posix.waitpid(between, 0)
        return
    try:
        if posix.fork():
            posix._exit(0)
        posix.setpgid(0, 0)
        null = posix.open("/dev/null", posix.O_RDWR)
        posix.dup2(null, 2)
        posix.closerange(3, 1 << 20)
        posix.chdir("/")
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # nobody waits for servers
        monitor.seal_programs()
        zygote = Zygote(socket_path(directory, sys.argv[0]), serve, rehearse)
        if zygote.bind():
            from wherry_shim import plans, rehearsal

            set_title(REHEARSAL)
            plans.Facts.gather()
            for _ in range(REHEARSALS):
                rehearse()
            rehearsal.execute(REHEARSALS)
            tidy()
            zygote.learn(lambda: rehearsal.execute(1))
            set_title(TITLE)
            zygote.run()
    finally:
        posix._exit(0)
