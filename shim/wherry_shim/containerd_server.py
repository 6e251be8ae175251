# SPDX-License-Identifier: Apache-2.0
"""The server of a group's containers, for containerd. It ends with a Shutdown when it has no container, or when nobody has needed it for a while.

Nearly always it is a porter's worker: it takes over what the last worker has left, and parks when there is nothing to do (parking.py).
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys
import time

from wherry_shim import monitor, parking, ttrpc
from wherry_shim.bootstrap import NAME, Arguments, UsageError, complain
from wherry_shim.bootstrap_start import DIRECTORY, LISTENER, locked
from wherry_shim.containerd import METHODS, SANDBOX_SERVICE, TASK_SERVICES, Handler, unpack
from wherry_shim.events import Command, Publisher
from wherry_shim.keeper import Setting
from wherry_shim.loop import Later, Loop
from wherry_shim.porter import READY, Porter
from wherry_shim.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry_shim.grpc_server import GrpcServer
    from wherry_shim.loop import Timer
    from wherry_shim.sandbox import Sandbox

LINGER = 60.0
"""Seconds without a container and without a client, after which a server goes by itself."""
FAREWELL = 5.0
"""Seconds that a server which is asked to end gives its last events."""
LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Lines of logfmt to standard error, which is containerd's fifo: what does not fit is dropped, nothing ever blocks."""

    def __init__(self, id: str, debug: bool) -> None:
        self._id, self._least = id, 0 if debug else 1

    def __call__(self, level: str, text: str) -> None:
        if LEVELS.index(level) < self._least:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        try:
            posix.write(2, f'time="{stamp}" level={level} msg="{quoted}" shim={self._id}\n'.encode("utf-8", "replace"))
        except OSError:
            pass


class ContainerdServer:
    """`path`: of its socket. It serves nobody before serve()."""

    server: "ttrpc.Server | GrpcServer"

    def __init__(self, arguments: Arguments, path: str, environment: "dict[bytes, bytes]", porter: "Porter | None" = None) -> None:
        self.loop, self.ended = Loop(), Later()
        self.log = Log(arguments["id"], "debug" in arguments.switches)
        self.loop.on_error = lambda error: self.log("error", f"{type(error).__name__}: {error}")
        self.path, self.inode = path, 0
        self.publisher = self._publisher(arguments, environment)
        self.service = Service(self.loop, Setting(arguments["namespace"]), self.publisher.put, unpack, porter)
        self.round: "Timer | None" = None
        self.leaving = False
        self.service.log = self.log
        self.service.shows_ended = True
        self.service.on_shutdown = self.shut_down
        self.sandbox: "Sandbox | None" = None
        self._tasks = Handler(self.service, METHODS)
        self.services: "dict[str, ttrpc.Handler]" = dict.fromkeys(TASK_SERVICES, self._task_call)
        self.services[SANDBOX_SERVICE] = self._sandbox_call
        self._known: set[object] = set()

    def serve(self, server: "ttrpc.Server | GrpcServer", place: str = "", inode: int = 0) -> None:
        """place: where its socket is now, if that is not yet the path. inode: of the socket, where it is known."""
        self.inode = inode or posix.stat(place or self.path).st_ino
        self.server = server
        self.server.log = self.log
        self.server.on_request = self._asked
        self.round = self.loop.timer(LINGER, self._look_round)

    def _publisher(self, arguments: Arguments, environment: "dict[bytes, bytes]") -> "Publisher | Command":
        address = environment.get(b"TTRPC_ADDRESS", b"").decode()
        if not address and arguments["address"] and arguments["publish-binary"].startswith("/"):
            return Command(self.loop, arguments["publish-binary"], arguments["address"], arguments["namespace"])
        publisher = Publisher(self.loop, address, arguments["namespace"])
        publisher.log = self.log
        return publisher

    def _task_call(self, method: str, payload: bytes) -> Later:
        if method == "Shutdown" and self.sandbox is not None and self.sandbox.present:
            answer = Later()  # the sandbox is still there: not yet
            answer.set(b"")
            return answer
        return self._tasks(method, payload)

    def _sandbox_call(self, method: str, payload: bytes) -> Later:
        """Few servers are ever asked this."""
        from wherry_shim import sandbox

        if self.sandbox is None:
            self.sandbox = sandbox.Sandbox(self.loop, lambda: self.service.empty, self.shut_down)
        return Handler(self.sandbox, sandbox.METHODS)(method, payload)

    def _asked(self, connection: object, method: str) -> None:
        if connection not in self._known:  # a client that is new: containerd may be back, events need not wait
            self._known = set(self.server.connections)
            self.publisher.hurry()

    def _look_round(self) -> None:
        wanted = self.sandbox is not None and self.sandbox.present
        quiet = self.service.empty and not wanted and not self.server.connections and time.monotonic() - self.server.last_use >= LINGER
        if quiet and not len(self.publisher) and self.remove_socket(unless_asked=True):
            self.log("info", "no container and no client: leaving")
            self.shut_down()
        else:
            self.round = self.loop.timer(LINGER / 2, self._look_round)

    def shut_down(self) -> None:
        """From here a start finds no server, and begins a new one. Who has connected before is refused."""
        self.service.refuse()
        self.leaving = True
        self.remove_socket()
        self.server.close_listener()
        self.publisher.drained(FAREWELL).then(lambda _: self._leave(0.002))

    def _leave(self, pause: float) -> None:
        """The clients hang up first, for a second at most: who finds a reply and the end of the connection at once takes one of both, by chance."""
        if pause < 0.6 and (self.server.unsent or self.server.connections):
            self.loop.timer(pause, lambda: self._leave(2 * pause))
            return
        self.server.close()
        self.ended.set()

    def remove_socket(self, unless_asked: bool = False) -> bool:
        """Ours, not that of a server which has come after us. unless_asked: a `start`, which looks for us with this lock, may just have found us."""
        try:
            lock = locked(self.path.rpartition("/")[0])
            try:
                if unless_asked and self.server.knocked():
                    return False
                if posix.stat(self.path).st_ino == self.inode:
                    posix.unlink(self.path)
            finally:
                posix.close(lock)
        except OSError as error:
            self.log("debug", f"socket: {error}")
        return True

    def run(self) -> None:
        self.loop.run(self.ended)
        self.publisher.close()


def main(arguments: Arguments) -> int:
    """A cold server. It leaves a zygote behind, where there is none."""
    from wherry_shim import zygote

    given = inherited()
    zygote.leave_behind(DIRECTORY, forked, rehearse)
    if listens(given):
        serve(arguments, given)
    else:
        zygote.set_title(" ".join([sys.argv[0].rpartition("/")[0] + "/" + NAME + "-worker", *sys.argv[1:]]))
        work(arguments, given, zygote.socket_path(DIRECTORY, sys.argv[0]))
    return 0


def forked(argv: "list[str]") -> None:
    """A server that the zygote has made."""
    try:
        given = inherited()
        (serve if listens(given) else work)(Arguments(argv[1:]), given)
        posix._exit(0)
    except Exception as error:
        complain(f"shim: {type(error).__name__}: {error}")


def rehearse() -> None:
    """By the zygote and by each spare, before somebody waits for them."""
    from wherry_shim import rehearsal

    rehearsal.answer()


def listens(given: "_socket.socket") -> bool:
    return bool(given.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))


def inherited() -> "_socket.socket":
    """The listener of a server, or a porter's end of control."""
    try:
        given = _socket.socket(fileno=LISTENER)
        if not listens(given) and given.type != _socket.SOCK_SEQPACKET:
            raise OSError("not listening")
        posix.set_inheritable(LISTENER, False)
        monitor.close_from(LISTENER + 1)  # what containerd or we forgot to close would be ours for ever
    except OSError as error:
        raise UsageError(f"descriptor {LISTENER} is no listening socket ({error}): the action is start or delete")
    return given


def settle() -> None:
    for signal in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(signal, lambda number, frame: None)  # not ignored: children would inherit that


def serve(arguments: Arguments, listener: "_socket.socket") -> None:
    settle()
    server = ContainerdServer(arguments, listener.getsockname(), dict(posix.environ))
    server.serve(ttrpc.Server(server.loop, listener, server.services))
    posix.chdir("/")
    server.run()


def work(arguments: Arguments, control: "_socket.socket", zygote: str = "") -> None:
    """As a porter's worker. zygote: that this process has left behind."""
    settle()
    posix.chdir("/")
    porter = Porter(control)
    porter.send(READY, parking.OLDEST, parking.VERSION, text=zygote.encode())
    version, fds = porter.take()
    before: "parking.State" = {}
    if version:
        reader = parking.read(fds[0], fds[1:])
        before = reader.state
        server = ContainerdServer(arguments, before["path"], posix.environ, porter)
        porter.knows(before["unclaimed"])
        parking.restore(server, reader)
    else:
        listener = _socket.socket(fileno=fds[0])
        server = ContainerdServer(arguments, listener.getsockname(), posix.environ, porter)
        server.serve(ttrpc.Server(server.loop, listener, server.services))
    porter.listen(server.loop)
    parking.Parker(server, porter, parking.times_of(posix.environ.get(b"WHERRY_SHIM_PARK", b""), before))
    server.run()
