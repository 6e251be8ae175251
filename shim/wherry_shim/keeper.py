# SPDX-License-Identifier: Apache-2.0
"""What a server keeps in memory, and how it learns of ends: what a monitor reports becomes states first, then events in their order, then
answers to who waits.

    all execs' exits < init's exit;  start < exit;  oom < the exit that it caused
"""

import posix
from _thread import get_native_id

from wherry.container.execute import cgroups_of
from wherry.container.lifecycle import opened
from wherry.errors import WherryError
from wherry_shim import monitor
from wherry_shim.errors import UNKNOWN, ShimError
from wherry_shim.oom import Watch, memory_cgroup
from wherry_shim.plans import Facts
from wherry_shim.state import STOPPED, Container, Process
from wherry_shim.stdio import LOGGERS, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry_shim.loop import Loop, Timer
    from wherry_shim.monitor import Report
    from wherry_shim.parent import Parent

    Message = dict[str, Any]

_SIGKILL = 9
_EXECS_S = 10.0  # how long the end of init waits for those of its execs, which are dying
_WHOLE_S = (0.02, 2.0)  # how long the end of a process whose monitor is gone waits for its output: a look, and at most
_SWEEP_S = (0.02, 1.0)  # between two looks for orphans: at first, and in the end


class Setting:
    """What a server is told once. root: the containers of this namespace are kept below <root>/<namespace>."""

    __slots__ = ("namespace", "root")

    def __init__(self, namespace: str, root: str = "/run/containerd/wherry") -> None:
        self.namespace, self.root = namespace, root


class Keeper:
    def __init__(
        self,
        loop: "Loop",
        setting: Setting,
        emit: "Callable[[str, Message], None]",
        unpack: "Callable[[Message], Message]",
        parent: "Parent | None" = None,
    ) -> None:
        self.loop, self.setting, self.emit, self.unpack = loop, setting, emit, unpack
        self.on_shutdown: "Callable[[], None]" = loop.stop
        """Called once a Shutdown is accepted, after its answer has been given to the transport's callback: flush, unlink, exit."""
        self.log: "Callable[[str, str], None]" = lambda level, text: None
        """level: debug, info, warning or error."""
        self._containers: "dict[str, Container]" = {}
        self._deleted: "dict[str, Message]" = {}
        """Answers of Delete, for who did not get the first one."""
        self._closing = False
        self.facts = Facts()
        self._sweeper: "Timer | None" = None
        self.parent: "Parent" = parent or _ourselves(loop)
        loop.on_error = lambda error: self.log("error", f"{type(error).__name__}: {error}")

    def _hear(self, container: Container, of: monitor.Monitor) -> None:
        """From now on this monitor speaks for the container."""
        container.monitor = of
        of.on_report = lambda report: self._report(container, report)
        of.on_end = lambda: self._monitor_lost(container, of)

    def _report(self, container: Container, report: "Report") -> None:
        process = container.by_number(report.process)
        if process is None:
            report.close()
        elif report.kind == monitor.ENDED:
            report.close()
            self._ended(process, report.status, {"seconds": report.seconds, "nanos": report.nanos}, report.oom)
        elif report.kind == monitor.DRAINED:
            if process.drained is not None:
                process.drained.set()
        elif report.kind in (monitor.WAITING, monitor.MADE, monitor.FAILED):
            process.answer.set(report)
        else:
            report.close()

    def _ended(self, process: Process, status: int, at: "Message", oom: int) -> None:
        """The state comes first; who waits hears of it when all that must be said before has been said."""
        container = process.container
        process.status, process.exit_status, process.exited_at = STOPPED, status, at
        fd, process.pidfd = process.pidfd, -1
        if fd >= 0:
            self.loop.unwatch(fd)
            posix.close(fd)
        if container.watch is not None:
            container.watch.rise(oom)
        if not process.exec_id:
            if container.shared_pid:
                self._kill_rest(container)
            if container.running_execs():
                self.loop.timer(_EXECS_S, lambda: self._publish(process))
        self._release_exit(process)

    def _kill_rest(self, container: Container) -> None:
        """Where the pid namespace is shared, the death of init takes nobody along."""
        try:
            with opened(container.root, container.id) as record:
                record.signal_all(_SIGKILL)
        except (WherryError, OSError) as error:
            self.log("warning", f"{container.id}: what is left cannot be killed: {error}")

    def _release_exit(self, process: Process) -> None:
        """Publishes an end as soon as its start is out, and that of init after those of its execs."""
        container = process.container
        if process.status == STOPPED and process.exec_id and not process.starting:
            self._publish(process)
        init = container.init
        if init.status == STOPPED and not init.starting and not container.running_execs():
            self._publish(init)

    def _publish(self, process: Process) -> None:
        if process.ended.done:
            return
        event = {"container_id": process.container.id, "id": process.id, "pid": process.pid, **process.result()}
        self.emit("/tasks/exit", event)
        process.ended.set()

    def _monitor_lost(self, container: Container, of: monitor.Monitor) -> None:
        """Killed, or at its end. What lives is now a child of its parent, which is a subreaper."""
        if container.monitor is not of:
            return
        container.orphaned = True
        container.cut_short |= not container.init.answer.done
        everybody = [container.init, *container.execs.values()]
        for process in everybody:
            if not process.answer.done:
                process.answer.fail(ShimError(UNKNOWN, f"the monitor of container {container.id} is gone"))
            if process.drained is not None and not process.drained.done:
                self._pump(process)
            if process.pid and process.status != STOPPED and process.pidfd >= 0:
                self._adopt(process)
        if container.cut_short or container.init.status != STOPPED:
            self._sweep_for_a_while()

    def _sweep_for_a_while(self) -> None:
        if not self.parent.leaves_orphans:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_on(_SWEEP_S[0])

    def _sweep_on(self, pause: float) -> None:
        """What the monitor was just making is a child of ours that nobody knows. Until it is reaped the first process of its pid namespace cannot end."""
        self.sweep()
        orphans = any(container.orphaned and container.init.status != STOPPED for container in self._containers.values())
        again = orphans or pause < _SWEEP_S[1]
        self._sweeper = self.loop.timer(pause, lambda: self._sweep_on(min(2 * pause, _SWEEP_S[1]))) if again else None

    def _pump(self, process: Process) -> None:
        """Its terminal, which we hold open as well."""
        drained = process.drained
        assert drained is not None
        try:
            from wherry_shim.pump import Pump

            process.pump = Pump(self.loop, process.master, process.names.stdin, process.names.stdout, drained.set)
        except OSError as error:
            self.log("warning", f"{process.id}: its terminal is not read any more: {error}")
            drained.set()

    def _adopt(self, process: Process) -> None:
        self.log("warning", f"{process.container.id}: its monitor is gone: process {process.pid} is ours now")
        self.watch_orphan(process)

    def watch_orphan(self, process: Process) -> None:
        def over(_: int) -> None:
            at = now()
            self.loop.unwatch(process.pidfd)
            self.parent.status(process.pid, process.pidfd).then(lambda later: look(later.result(), at, _WHOLE_S[1]))

        def look(status: int, at: "Message", left: float) -> None:
            if left > 0 and not whole(process.names):
                self.loop.timer(_WHOLE_S[0], lambda: look(status, at, left - _WHOLE_S[0]))
                return
            watch = process.container.watch
            self._ended(process, status, at, watch.count if watch else 0)

        self.loop.watch(process.pidfd, over)

    def sweep(self) -> None:
        """Orphans of a killed monitor that nobody else waits for. A thread that is at work may be waiting for a child of its own: then ours alone, and
        those of the first thread, whom the kernel gives them."""
        known = {process.pid for container in self._containers.values() for process in (container.init, *container.execs.values())}
        known |= {container.monitor.pid for container in self._containers.values() if container.monitor is not None}
        threads = posix.listdir("/proc/self/task") if not self.loop.threads else [str(get_native_id()), str(posix.getpid())]
        children = [pid for thread in threads for pid in _children(thread)]
        for pid in children:
            try:
                if pid not in known and pid not in LOGGERS:
                    posix.waitpid(pid, posix.WNOHANG)
            except ChildProcessError:
                continue

    def deleted(self) -> "dict[str, Message]":
        return self._deleted

    def adopt_parked(self, container: Container) -> None:
        """A container that this server had before it parked."""
        self._containers[container.id] = container
        if container.monitor is not None:
            self._hear(container, container.monitor)

    def oom_of(self, id: str) -> "Callable[[], None]":
        return lambda: self.emit("/tasks/oom", {"container_id": id})

    def take(self, container: Container, of: "monitor.Monitor | None") -> None:
        """A container that another server has made; `of`: its monitor, where that lives."""
        self._containers[container.id] = container
        if of is None:
            if container.init.pidfd >= 0:
                self._adopt(container.init)
            return
        self._hear(container, of)
        if of.connected:
            self._watch_memory(container, None)
        else:
            self._monitor_lost(container, of)

    def _watch_memory(self, container: Container, count: "int | None" = 0) -> None:
        if container.init.status == STOPPED:
            return
        try:
            with opened(container.root, container.id) as record:
                cgroup = memory_cgroup(cgroups_of(record))
            if cgroup is not None and container.monitor is not None:
                container.watch = Watch(self.loop, cgroup, self.oom_of(container.id), count)
                container.monitor.ask(monitor.WATCH, fds={"events": container.watch.file})
        except (WherryError, OSError) as error:
            self.log("debug", f"{container.id}: nobody tells of a lack of memory: {error}")


def now() -> "Message":
    from time import time_ns

    seconds, nanos = divmod(time_ns(), 1_000_000_000)
    return {"seconds": seconds, "nanos": nanos}


def _ourselves(loop: "Loop") -> "Parent":
    from wherry_shim.parent import Ourselves

    return Ourselves(loop)


def _children(thread: str) -> "list[int]":
    """What an ended process leaves may come to any thread of a subreaper."""
    try:
        with open(f"/proc/self/task/{thread}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
