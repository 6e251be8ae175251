# SPDX-License-Identifier: Apache-2.0
"""What a server does for its first answer, and for an exec, with nobody, and in nobody's way: its client, containerd, the monitor and the porter are this
process, too, and nothing of it touches the host.

The zygote does it so that its bytecode knows its types and its tables are made: that takes the interpreter some calls of each function. Then each spare
does what comes first, so that it has its own copies of the pages that this writes to, before somebody waits for it.
"""

import _socket
import posix

from wherry_shim import containerd, events, monitor, ttrpc, wire
from wherry_shim.bootstrap import Arguments
from wherry_shim.containerd_server import ContainerdServer
from wherry_shim.descriptors import passed, rights
from wherry_shim.errors import ShimError
from wherry_shim.loop import Later
from wherry_shim.plans import Ground
from wherry_shim.porter import Porter
from wherry_shim.state import RUNNING, Container
from wherry_shim.stdio import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.kernel.kinds import Foreseen

_ID = "none"
_SERVICE = containerd.TASK_SERVICES[0]
_STEPS = 100  # of the loop, at most, up to an answer


class _Known:
    """A kind with a plan for any exec."""

    others = ()

    def plan(self, *_: object) -> bytes:
        return b"{}"


class _Ground(Ground):
    __slots__ = ()

    def _foresee(self, container: Container) -> "Foreseen":
        return _Known()  # type: ignore[return-value]


class Rehearsal:
    def __init__(self) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        listener.bind("")  # the kernel finds a name
        listener.listen(2)
        address = "unix://" + listener.getsockname()[1:].decode()
        control, self._porter = _socket.socketpair()
        porter = Porter(control)
        porter.pid = posix.getppid()
        self._server = server = ContainerdServer(Arguments(("-namespace", _ID, "-id", _ID)), "/", {b"TTRPC_ADDRESS": address.encode()}, porter)
        self.loop, self.topics = server.loop, list[str]()
        server.services[events.SERVICE] = self._take_event
        server.serve(ttrpc.Server(self.loop, listener, server.services))
        porter.listen(self.loop)
        self._control = control
        self._client, self._stream = ttrpc.connect(address, 0), 1

    def _take_event(self, method: str, payload: bytes) -> Later:
        """containerd."""
        self.topics.append(wire.decode("forward.ForwardRequest", payload)["envelope"]["topic"])
        answer = Later()
        answer.set(b"")
        return answer

    def call(self, method: str, **request: "Any") -> "wire.Values":
        asked, answered = containerd.METHODS[method]
        payload = wire.encode(asked, {"id": _ID, **request})
        self._client.send(ttrpc.frame(self._stream, ttrpc.REQUEST, ttrpc.request(_SERVICE, method, payload), 1))
        self._stream += 2
        for _ in range(_STEPS):
            self.loop.step(0)
            try:
                data = self._client.recv(ttrpc.CHUNK)
            except BlockingIOError:
                continue
            return wire.decode(answered, ttrpc.payload_of(data[ttrpc.HEADER.size :]))
        raise TimeoutError(method)

    def execute(self) -> int:
        """Exec, Start, Wait and Delete, two times: by a plan that is looked up, and again by one that is known. How it has ended."""
        container = self._container = Container(_ID, "/", "/", Names("", "", "", False))
        ours, self._monitor = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.loop.watch(self._monitor.fileno(), self._play)
        container.init.status, container.init.pid = RUNNING, posix.getpid()
        container.monitor = monitor.Monitor(self.loop, ours)
        self._server.service.adopt_parked(container)
        try:
            container.plans.stands_on = _Ground(container, self._server.service.facts)
            for process in ({"exec_id": "first"}, {"exec_id": "again"}):
                self.call("Exec", **process, spec={"value": b"{}"})
                self.call("Start", **process)
                ended: int = self.call("Wait", **process)["exit_status"]
                self.call("Delete", **process)
        finally:
            container.plans.close()
            container.monitor.close()
            self.loop.unwatch(self._monitor.fileno())
            self._monitor.close()
        for _ in range(_STEPS):
            if self._server.publisher.sending:
                self.loop.step(0)
        return ended

    def _play(self, _: int) -> None:
        """The monitor: what is to be made is made, and has ended."""
        data, ancillary, _, _ = self._monitor.recvmsg(monitor.MAX_MESSAGE, _socket.CMSG_SPACE(64), _socket.MSG_CMSG_CLOEXEC)
        asked = monitor.Report(data, passed(ancillary))
        for kind in (monitor.MADE, monitor.ENDED) if asked.kind == monitor.EXEC else ():
            packet, fds = monitor.packet(kind, asked.process, pid=1, fds={"process": asked.fds["plan"]} if kind == monitor.MADE else None)
            self._monitor.sendmsg([packet], rights(fds))
        asked.close()

    def close(self) -> None:
        """Leaves no descriptor, not even to the collector of garbage: in a spare a server may have the number by then."""
        del self._server.service.facts
        self._server.publisher.close()
        self._server.server.close()
        self.loop.close()
        for one in (self._client, self._control, self._porter):
            one.close()


def rehearse(act: "Callable[[Rehearsal], object]") -> None:
    """It costs time alone where it fails."""
    try:
        rehearsal = Rehearsal()
    except OSError:
        return
    try:
        act(rehearsal)
    except (OSError, ShimError):
        pass
    finally:
        rehearsal.close()


def answer() -> None:
    """By the zygote and by each spare."""
    rehearse(lambda rehearsal: rehearsal.call("State"))


def execute(rounds: int) -> None:
    """By the zygote."""
    rehearse(lambda rehearsal: [rehearsal.execute() for _ in range(rounds)])
