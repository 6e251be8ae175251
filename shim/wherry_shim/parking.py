# SPDX-License-Identifier: Apache-2.0
"""A server that has nothing to do becomes a few descriptors and a memfd in its porter's hands, and a server again when something happens.

What is written down: containers, their processes and how they have ended, what was deleted, clients and what they wait for. A client's Wait is asked
again as it came; any other call is answered before. What is only kept for speed is not: plans of execs are on the disk as well. Nothing is guessed to be
idle: each descriptor that the loop watches and each timer must be one that is known here, or the server stays for now.

VERSION changes with what stands in a state. A server reads those of older versions too, from OLDEST on: a pod outlives the program that began it. A porter
gives no state to a worker that does not know it.
"""

import _socket
import marshal
import posix
import time

from wherry_shim import porter as porters
from wherry_shim import ttrpc
from wherry_shim.loop import EPOLLIN, EPOLLPRI, Later
from wherry_shim.monitor import Monitor
from wherry_shim.oom import Watch
from wherry_shim.state import CREATING, PAUSED, PAUSING, RUNNING, STOPPED, Container, Process
from wherry_shim.stdio import LOGGERS, Names, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from wherry_shim.containerd_server import ContainerdServer
    from wherry_shim.porter import Porter

    State = dict[str, Any]

OLDEST = VERSION = 1
REST_S = 0.08
"""Seconds without an event, after which a server parks whose containers all run, and nothing else: between the calls of one command there are fewer."""
LONGEST_S = 1.0
"""That where a call is to be expected, and at rest where a shorter time has not paid."""
_LATER = 16  # times that, between two looks at a server that is quiet and cannot park
_PROCESS = ("exec_id", "number", "spec", "status", "pid", "exit_status", "exited_at", "input_closed", "adopts")
_CONTAINER = ("id", "bundle", "root", "has_rootfs", "io_owner", "root_owner", "marked", "shared_pid", "orphaned", "cut_short", "last_number")


def times_of(text: bytes, before: "State") -> "tuple[float, float]":
    """After how many seconds a server parks: at rest, and where a call is to be expected; 0 = never. text: WHERRY_SHIM_PARK. before: what the last
    worker has written down: where its sleep was a short one, this one waits for twice as long."""
    if text == b"off":
        return 0.0, 0.0
    try:
        return (max(0.001, float(text)),) * 2
    except ValueError:
        paid = time.monotonic() - before.get("parked", 0.0) >= LONGEST_S
        return REST_S if paid else min(2 * before.get("rest", REST_S), LONGEST_S), LONGEST_S


def at_rest(containers: "Iterable[Container]") -> bool:
    """Nothing waits for its Start or its Delete, and nobody for the end of an exec."""
    return all(container.init.status in (RUNNING, PAUSED) and not container.execs for container in containers)


class Busy(Exception):
    """Why it does not park now."""


class _Writer:
    """Places for descriptors. `known`: those that the loop watches and that are accounted for."""

    def __init__(self, watched: "Callable[[int], bool]") -> None:
        self.fds: "list[int]" = []
        self.events: "list[int]" = []
        self._watched = watched

    def place(self, fd: int, events: int = EPOLLIN) -> int:
        if fd < 0:
            return -1
        self.fds.append(fd)
        self.events.append(events if self._watched(fd) else 0)
        return len(self.fds) - 1

    def text(self) -> bytes:
        return b"".join(events.to_bytes(2, "little") for events in self.events)


def write(server: "ContainerdServer", control: int) -> "tuple[State, _Writer, float]":
    """The state, its descriptors, and when it must wake (monotonic time; 0 = by nothing but an event). Busy where it cannot park."""
    loop, service, transport = server.loop, server.service, server.server
    if service.empty or server.sandbox is not None or server.leaving or LOGGERS:
        raise Busy("no container, or a sandbox, or a logging program")
    if loop.threads or loop.pending or server.publisher.sending or len(server.publisher):
        raise Busy("at work")
    assert isinstance(transport, ttrpc.Server)
    writer = _Writer(loop.watches)
    state: "State" = {
        "path": server.path,
        "inode": server.inode,
        "listener": writer.place(transport.listener()),
        "containers": [_container(one, writer) for one in service.containers()],
        "deleted": list(service.deleted().items()),
        "connections": [],
    }
    timers = [server.round]
    for connection in transport.connections:
        state["connections"].append(_connection(connection, writer, timers))
    if loop.watched() - set(writer.fds) - {server.publisher.fileno()} != {control}:
        raise Busy("a descriptor of somebody's is watched")
    if not loop.timers() <= set(timers):
        raise Busy("a timer of somebody's is set")
    if len(writer.fds) >= porters.MOST:
        raise Busy("too many descriptors")
    ends = [timer.at for timer in timers[1:] if timer is not None]
    return state, writer, min(ends, default=0.0)


def _container(container: Container, writer: _Writer) -> "State":
    busy = container.lock >= 0 or container.checkpoint is not None or container.abandoned or container.turn.held
    if busy or container.init.status in (CREATING, PAUSING):
        raise Busy("a container is being made or changed")
    state: "State" = {name: getattr(container, name) for name in _CONTAINER}
    state["init"] = _process(container.init, writer)
    state["execs"] = [_process(process, writer) for process in container.execs.values()]
    if container.monitor is not None:
        state["monitor"] = _monitor(container.monitor, writer)
    if container.watch is not None:
        watch = container.watch
        kept = (watch.file, EPOLLPRI if watch.event < 0 else EPOLLIN)
        state["watch"] = {"file": writer.place(*kept), "event": writer.place(watch.event), "count": watch.count, "last": watch.last}
        state["watch"]["on"] = any(writer.events[state["watch"][name]] for name in ("file", "event") if state["watch"][name] >= 0)
    return state


def _process(process: Process, writer: _Writer) -> "State":
    streams = process.streams
    if process.starting or process.pump is not None or (streams is not None and (streams.given or streams.logger is not None)):
        raise Busy("a process is being started, or written for")
    state: "State" = {name: getattr(process, name) for name in _PROCESS}
    names = process.names
    state["names"] = (names.stdin, names.stdout, names.stderr, names.terminal)
    state["pidfd"], state["master"] = writer.place(process.pidfd), writer.place(process.master)
    state["adopted"] = state["pidfd"] >= 0 and bool(writer.events[state["pidfd"]])
    state["answered"], state["ended"] = process.answer.done, process.ended.done
    state["drained"] = None if process.drained is None else process.drained.done
    state["held"] = None if streams is None else {name: writer.place(fd) for name, fd in streams.held.items()}
    return state


def _monitor(monitor: Monitor, writer: _Writer) -> "State":
    connection, pidfd, unsent = monitor.parts()
    if unsent:
        raise Busy("a monitor does not read")
    return {"pid": monitor.pid, "copies": monitor.copies, "socket": writer.place(connection), "pidfd": writer.place(pidfd)}


def _connection(connection: "ttrpc.Connection", writer: _Writer, timers: "list[Any]") -> "State":
    if not connection.at_rest:
        raise Busy("a client is in the middle of a message")
    waits = []
    for stream, (_, timer, call) in connection.active.items():
        if call[1] != "Wait":
            raise Busy("a call is under way")
        timers.append(timer)
        waits.append((stream, *call, None if timer is None else timer.at))
    return {"peer": writer.place(connection.fileno()), "last": connection.last, "waits": waits}


# ---- from a state


class Reader:
    """`fds`: in the order of their places."""

    def __init__(self, state: "State", fds: "Sequence[int]") -> None:
        self.state, self._fds = state, fds

    def fd(self, place: int) -> int:
        return self._fds[place] if place >= 0 else -1


def read(descriptor: int, fds: "Sequence[int]") -> Reader:
    size = posix.fstat(descriptor).st_size
    data = posix.pread(descriptor, size, 0)
    posix.close(descriptor)
    return Reader(marshal.loads(data), fds)


def restore(server: "ContainerdServer", reader: Reader) -> None:
    """Into a server that has nothing yet."""
    state = reader.state
    for one in state["containers"]:
        container = _restored(server, one, reader)
        server.service.adopt_parked(container)
    server.service.deleted().update(dict(state["deleted"]))
    listener = _socket.socket(fileno=reader.fd(state["listener"]))
    transport = ttrpc.Server(server.loop, listener, server.services)
    server.serve(transport, inode=state["inode"])
    for one in state["connections"]:
        connection = ttrpc.Connection(transport, _socket.socket(fileno=reader.fd(one["peer"])))
        connection.last = one["last"]
        transport.add(connection)
        if connection.last:
            transport.silent.pop(connection, None)
        for stream, service, method, payload, at in one["waits"]:
            connection.ask(stream, service, method, payload, None if at is None else max(0.0, at - time.monotonic()))


def _restored(server: "ContainerdServer", state: "State", reader: Reader) -> Container:
    container = Container(state["id"], state["bundle"], state["root"], Names(*state["init"]["names"]))
    for name in _CONTAINER:
        setattr(container, name, state[name])
    _fill(container.init, state["init"], reader)
    for one in state["execs"]:
        process = container.execs[one["exec_id"]] = Process(container, one["exec_id"], one["number"], Names(*one["names"]))
        _fill(process, one, reader)
    if "monitor" in state:
        kept = state["monitor"]
        container.monitor = Monitor.taken(server.loop, reader.fd(kept["socket"]), kept["pid"], reader.fd(kept["pidfd"]))
        container.monitor.copies = kept["copies"]
    if "watch" in state:
        kept, id = state["watch"], container.id
        on_kill = server.service.oom_of(id)
        container.watch = Watch.taken(server.loop, reader.fd(kept["file"]), reader.fd(kept["event"]), kept["count"], kept["last"], kept["on"], on_kill)
    for process, one in zip((container.init, *container.execs.values()), (state["init"], *state["execs"]), strict=True):
        if one["adopted"] and process.status != STOPPED:
            server.service.watch_orphan(process)
    return container


def _fill(process: Process, state: "State", reader: Reader) -> None:
    for name in _PROCESS:
        setattr(process, name, state[name])
    process.pidfd, process.master = reader.fd(state["pidfd"]), reader.fd(state["master"])
    if state["answered"]:
        process.answer.set()
    if state["ended"]:
        process.ended.set()
    if state["drained"] is not None:
        process.drained = Later()
        if state["drained"]:
            process.drained.set()
    if state["held"] is not None:
        process.streams = Streams()
        process.streams.held = {name: reader.fd(place) for name, place in state["held"].items()}


# ---- when


class Parker:
    """Looks now and then whether a server has been quiet for long enough, and parks it: then this process has come to its end."""

    def __init__(self, server: "ContainerdServer", porter: "Porter", times: "tuple[float, float]") -> None:
        """times: as of times_of()."""
        self._server, self._porter = server, porter
        self._rest, self._longest = times
        self._pause = self._rest
        if self._rest:
            server.loop.timer(self._rest, self._look)

    def _look(self) -> None:
        loop = self._server.loop
        quiet = time.monotonic() - loop.active
        if quiet < self._rest:
            self._pause = self._rest
            loop.timer(max(0.001, self._rest - quiet), self._look)
        elif quiet < self._longest and not at_rest(self._server.service.containers()):
            loop.timer(min(self._rest, self._longest - quiet + 0.001), self._look)
        else:
            self._park()
            loop.timer(self._pause, self._look)
            self._pause = min(2 * self._pause, _LATER * self._rest)

    def _park(self) -> None:
        try:
            state, writer, until = write(self._server, self._porter.control.fileno())
            state |= {"unclaimed": self._porter.unclaimed(), "rest": self._rest, "parked": time.monotonic()}
            data = marshal.dumps(state)
            memory = posix.memfd_create("wherry-pod", posix.MFD_CLOEXEC)
            try:
                if posix.write(memory, data) == len(data):
                    at = int(until * 1000) if until else -1
                    fds = [memory, *writer.fds]
                    self._porter.send(porters.PARK, self._porter.heard, VERSION, at, writer.text(), fds)
                    posix.closerange(3, 1 << 20)
                    posix._exit(0)
            finally:
                posix.close(memory)
        except Busy as busy:
            self._server.log("debug", f"does not park: {busy}")
        except (OSError, ValueError) as error:
            self._server.log("warning", f"does not park: {error}")
