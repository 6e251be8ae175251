# SPDX-License-Identifier: Apache-2.0
"""The task service without a transport: one coroutine a call, for containers and for the processes that are executed in them.

    service = Service(loop, Setting("default"), emit, unpack)
    task = service.call("Create", request)          a Task, which cannot fail with anything but ShimError or Cancelled
    task.then(answer)

Requests and responses are dicts with the field names of containerd's messages (task.proto); what is missing has its default value. Nested messages are
dicts, repeated fields lists, bytes are bytes. A timestamp is {"seconds": ..., "nanos": ...}. An Any is {"type_url": ..., "value": bytes}; where the
service answers with one that holds a message it is {"type_url": ..., "message": {...}}, and the transport encodes it.

emit(topic, event): events in their order, to be queued by who publishes them; `event` has the fields of the topic's message in EVENTS.
unpack(any): the fields of the message in an Any of a request; ShimError(INVALID_ARGUMENT) where nobody knows the type.

A transport that loses its client cancels what waits (task.cancel() on Wait); all other calls run to their end.
"""

import posix

from wherry.container import pause as freezer
from wherry.container.lifecycle import check_id
from wherry.errors import WherryError
from wherry_shim import clean, monitor, options, processes
from wherry_shim.errors import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
    ShimError,
)
from wherry_shim.keeper import Keeper, now
from wherry_shim.keeper import Setting as Setting
from wherry_shim.loop import Cancelled, Later, Task
from wherry_shim.state import CREATED, PAUSED, PAUSING, RUNNING, STOPPED, Checkpoint, Container, Process
from wherry_shim.stdio import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Message = dict[str, Any]

METHODS = {
    "State": "state",
    "Create": "create",
    "Start": "start",
    "Delete": "delete",
    "Pids": "pids",
    "Pause": "pause",
    "Resume": "resume",
    "Checkpoint": "checkpoint",
    "Kill": "kill",
    "Exec": "exec",
    "ResizePty": "resize_pty",
    "CloseIO": "close_io",
    "Update": "update",
    "Wait": "wait",
    "Stats": "stats",
    "Connect": "connect",
    "Shutdown": "shutdown",
}

EVENTS = {
    "/tasks/create": "containerd.events.TaskCreate",
    "/tasks/start": "containerd.events.TaskStart",
    "/tasks/exit": "containerd.events.TaskExit",
    "/tasks/delete": "containerd.events.TaskDelete",
    "/tasks/oom": "containerd.events.TaskOOM",
    "/tasks/exec-added": "containerd.events.TaskExecAdded",
    "/tasks/exec-started": "containerd.events.TaskExecStarted",
    "/tasks/paused": "containerd.events.TaskPaused",
    "/tasks/resumed": "containerd.events.TaskResumed",
    "/tasks/checkpointed": "containerd.events.TaskCheckpointed",
}

_SIGKILL = 9
_DRAIN_S = 2.0  # how long Delete waits for a terminal that somebody still holds open
_END_S = 10.0
_TIOCSWINSZ = 0x5414
_REMEMBERED = 64


class Service(Keeper):
    shows_ended = False
    """Pids names the first process of a container that has ended, until it is deleted: containerd from 1.7 on, coming back, takes a task without a
    process for leaked, deletes it, and nobody learns of its exit code."""

    def call(self, method: str, request: "Message") -> Task:
        return self.loop.start(self.answer(method, request))

    async def answer(self, method: str, request: "Message") -> "Message":
        name = METHODS.get(method)
        if name is None:
            raise ShimError(UNIMPLEMENTED, f"method {method}")
        if self._closing and name != "shutdown":
            raise ShimError(UNAVAILABLE, "the shim is shutting down")
        try:
            found: "Message" = await getattr(self, name)(request)
            return found
        except (ShimError, Cancelled):
            raise
        except Exception as error:
            self.log("error", f"{method}: {type(error).__name__}: {error}")
            raise ShimError(UNKNOWN, str(error) or type(error).__name__) from error

    @property
    def empty(self) -> bool:
        """No container is here: a server that nobody has asked for a while may go."""
        return not self._containers

    def containers(self) -> "list[Container]":
        return list(self._containers.values())

    async def drained(self, id: str, exec_id: str = "") -> None:
        """What a terminal's process has written has come to where its output goes, or a bounded time has passed. For others at once."""
        await self._drained(self._process({"id": id, "exec_id": exec_id}))

    async def kill_tree(self, id: str, exec_id: str) -> None:
        """An exec and all that has come of it."""
        from wherry.kernel import native

        process = self._process({"id": id, "exec_id": exec_id})
        if process.pidfd < 0:
            return
        descriptor = posix.dup(process.pidfd)
        try:
            await self.loop.in_thread(lambda: native.kill_tree(process.pid, descriptor))
        except OSError as error:  # it has ended meanwhile, or /proc cannot be read
            self.log("debug", f"{process.id}: {error}")
            if process.pidfd >= 0:
                native.pidfd_signal(process.pidfd, _SIGKILL)
        finally:
            posix.close(descriptor)

    # ---- from memory

    def _container(self, request: "Message") -> Container:
        container = self._containers.get(request.get("id") or "")
        if container is None:
            raise ShimError(NOT_FOUND, "container not created")
        return container

    def _process(self, request: "Message") -> Process:
        return self._container(request).process(request.get("exec_id") or "")

    async def state(self, request: "Message") -> "Message":
        return self._process(request).state()

    async def wait(self, request: "Message") -> "Message":
        process = self._process(request)
        await process.ended
        return process.result()

    async def connect(self, request: "Message") -> "Message":
        container = self._containers.get(request.get("id") or "")
        return {"shim_pid": self.parent.pid, "task_pid": container.init.pid if container else 0}

    async def pids(self, request: "Message") -> "Message":
        container = self._container(request)
        if container.checkpoint is not None:  # no empty list: containerd, coming back, would take that for leaked
            raise ShimError(UNKNOWN, f"container {container.id} has no process before it is restored")
        found = self._pids(container)
        names = {process.pid: process.exec_id for process in container.execs.values() if process.status == RUNNING}
        answer: "list[Message]" = []
        for pid in found:
            answer.append({"pid": pid})
            if pid in names:
                answer[-1]["info"] = {"type_url": "containerd.runc.v1.ProcessDetails", "message": {"exec_id": names[pid]}}
        return {"processes": answer}

    def _pids(self, container: Container) -> "list[int]":
        """A container that lives has at least its first process: who reads an empty list takes it for leaked."""
        init = container.init
        if not init.pid or init.status == STOPPED:
            return [init.pid] if init.pid and self.shows_ended else []
        try:
            return freezer.processes(container.root, container.id) or [init.pid]
        except (WherryError, OSError):
            return [init.pid]

    # ---- create and start

    async def create(self, request: "Message") -> "Message":
        id, bundle = request.get("id") or "", request.get("bundle") or ""
        self._check_create(id, bundle)
        given = options.read(request.get("options"), self.unpack)
        checkpoint = request.get("checkpoint") or ""
        if checkpoint and not checkpoint.startswith("/"):
            raise ShimError(INVALID_ARGUMENT, f"checkpoint path {checkpoint!r} is not absolute")
        root = given.root or self.setting.root
        container = Container(id, bundle, f"{root}/{self.setting.namespace}", _names(request))
        container.io_owner = given.io_owner
        self._containers[id] = container
        self._deleted.pop(id, None)
        mounts = request.get("rootfs") or []
        try:
            await self._create(container, given, mounts, checkpoint)
        except BaseException:
            self._containers.pop(id, None)
            if container.monitor is not None:
                container.monitor.close()
            container.init.ended.set()
            raise
        event = {"container_id": id, "bundle": bundle, "rootfs": mounts, "checkpoint": checkpoint, "pid": container.init.pid}
        names = container.init.names
        event["io"] = {"stdin": names.stdin, "stdout": names.stdout, "stderr": names.stderr, "terminal": names.terminal}
        self.emit("/tasks/create", event)
        container.init.starting = False
        self._release_exit(container.init)
        return {"pid": container.init.pid}

    def _check_create(self, id: str, bundle: str) -> None:
        if id in self._containers:
            raise ShimError(ALREADY_EXISTS, f"container {id}")
        try:
            check_id(id)
        except WherryError as error:
            raise ShimError(INVALID_ARGUMENT, str(error)) from error
        if not bundle.startswith("/"):
            raise ShimError(INVALID_ARGUMENT, f"bundle {bundle!r} is not an absolute path")

    async def _create(self, container: Container, given: options.RuntimeOptions, mounts: "list[Message]", images: str) -> None:
        choices = processes.create_options(container, given)
        choices.facts = self.facts.look
        checkpoint = Checkpoint(images, given.criu_work_path or f"{container.bundle}/criu-work", choices) if images else None
        container.init.starting = True  # its end, should it come now, is published after the event of its creation
        await processes.create(self.loop, container, choices, mounts, self.setting.namespace, self._begin_monitor, checkpoint)
        if container.init.status != STOPPED:
            container.init.status = CREATED
        if checkpoint is None:
            self._watch_memory(container)

    def _begin_monitor(self, container: Container) -> None:
        self._hear(container, processes.started(self.loop, container, self.parent, self.setting.namespace))

    async def start(self, request: "Message") -> "Message":
        process = self._process(request)
        if process.exec_id:
            await self._start_exec(process)
        else:
            await self._start_init(process.container)
        return {"pid": process.pid}

    async def _start_init(self, container: Container) -> None:
        init = container.init
        await container.turn.take()
        try:
            init.check("start")
            init.starting = True
            if container.checkpoint is None:
                await self.loop.in_thread(lambda: processes.start_init(container))
            else:
                await processes.restore(self.loop, container, self._begin_monitor)
                self._watch_memory(container)
            if init.status != STOPPED:
                init.status = RUNNING
            self.emit("/tasks/start", {"container_id": container.id, "pid": init.pid})
            self.loop.afterwards(lambda: container.plans.foresee(container, self.facts))
        finally:
            init.starting = False
            self._release_exit(init)
            container.turn.give()

    async def _start_exec(self, process: Process) -> None:
        container = process.container
        if container.init.status == STOPPED:
            raise ShimError(FAILED_PRECONDITION, f"container {container.id} init process is not running")
        if process.starting:
            raise ShimError(UNKNOWN, "cannot start a running process")
        process.check("start")
        process.starting = True
        try:
            await processes.start_exec(self.loop, process, self.setting.namespace, self.facts)
        except BaseException:
            process.status = STOPPED
            process.starting = False
            process.ended.set()
            self._release_exit(container.init)
            raise
        if process.status != STOPPED:
            process.status = RUNNING
            if container.shared_pid and container.init.status == STOPPED:  # it came behind the signal for everybody
                self._kill_rest(container)
        self.emit("/tasks/exec-started", {"container_id": container.id, "exec_id": process.exec_id, "pid": process.pid})
        process.starting = False
        self._release_exit(process)

    async def exec(self, request: "Message") -> "Message":
        container, exec_id = self._container(request), request.get("exec_id") or ""
        if exec_id in container.execs:
            raise ShimError(ALREADY_EXISTS, f"id {exec_id}")
        try:
            check_id(exec_id)
        except WherryError as error:
            raise ShimError(INVALID_ARGUMENT, f"invalid exec id {exec_id!r}") from error
        if len(exec_id) > 120:
            raise ShimError(INVALID_ARGUMENT, "the exec id is too long")
        container.init.check("exec")
        if container.checkpoint is not None:
            raise ShimError(UNKNOWN, "cannot exec in a created state")
        spec = (request.get("spec") or {}).get("value") or b""
        process = container.execs[exec_id] = Process(container, exec_id, container.next_number(), _names(request), spec)
        process.adopts = bool(request.get("adopts"))  # of callers in this process: no message has it
        self.emit("/tasks/exec-added", {"container_id": container.id, "exec_id": exec_id})
        if container.plans.stands_on is None:  # it was started before this server was
            self.loop.afterwards(lambda: container.plans.foresee(container, self.facts))
        return {}

    # ---- to a process

    async def kill(self, request: "Message") -> "Message":
        process = self._process(request)
        if process.exec_id and process.status == CREATED:
            raise ShimError(FAILED_PRECONDITION, "process not started" if not process.starting else "process is being started")
        process.check("kill")
        if not processes.kill(process, request.get("signal") or 0, bool(request.get("all")) and not process.exec_id):
            raise ShimError(NOT_FOUND, "process already finished")
        return {}

    async def resize_pty(self, request: "Message") -> "Message":
        process = self._process(request)
        process.check("resize")
        if process.master >= 0:
            from fcntl import ioctl

            size = (request.get("height") or 0, request.get("width") or 0)
            ioctl(process.master, _TIOCSWINSZ, b"".join(min(side, 65535).to_bytes(2, "little") for side in (*size, 0, 0)))
        return {}

    async def close_io(self, request: "Message") -> "Message":
        process = self._process(request)
        if request.get("stdin"):
            process.input_closed = True
            if process.streams is not None:
                process.streams.close_input()
            asked = process.container.monitor
            if process.pid and process.status != STOPPED and asked is not None and asked.connected:
                asked.ask(monitor.CLOSE_INPUT, process.number)
        return {}

    # ---- to a container

    async def pause(self, request: "Message") -> "Message":
        container = self._container(request)
        await container.turn.take()
        try:
            container.init.check("pause")
            container.init.status = PAUSING
            try:
                await self._runtime("pause", lambda: freezer.pause(container.root, container.id))
            except BaseException:
                if container.init.status == PAUSING:
                    container.init.status = RUNNING
                raise
            if container.init.status == PAUSING:
                container.init.status = PAUSED
            self.emit("/tasks/paused", {"container_id": container.id})
        finally:
            container.turn.give()
        return {}

    async def resume(self, request: "Message") -> "Message":
        container = self._container(request)
        await container.turn.take()
        try:
            container.init.check("resume")
            await self._runtime("resume", lambda: freezer.resume(container.root, container.id))
            if container.init.status == PAUSED:
                container.init.status = RUNNING
            self.emit("/tasks/resumed", {"container_id": container.id})
        finally:
            container.turn.give()
        return {}

    async def update(self, request: "Message") -> "Message":
        container = self._container(request)
        container.init.check("update")
        body = (request.get("resources") or {}).get("value") or b"{}"
        await container.turn.take()
        try:
            from wherry.container.update import update
            from wherry.oci.config import load

            await self._runtime("update", lambda: update(container.root, container.id, load(body, "resources")))  # type: ignore[arg-type]
        finally:
            container.turn.give()
        return {}

    async def checkpoint(self, request: "Message") -> "Message":
        container = self._container(request)
        container.init.check("checkpoint")
        given = request.get("options") or {}
        fields = self.unpack(given) if given.get("type_url") else {}
        await container.turn.take()
        try:
            await self._runtime("checkpoint", lambda: processes.checkpoint(container, request.get("path") or "", fields))
        finally:
            container.turn.give()
        return {}

    async def stats(self, request: "Message") -> "Message":
        container = self._container(request)
        from wherry_shim.metrics import metrics

        found = await self._runtime("stats", lambda: metrics(container.root, container.id))
        if found is None:
            raise ShimError(NOT_FOUND, "cgroup does not exist")
        return {"stats": {"type_url": found[0], "message": found[1]}}

    async def _runtime(self, verb: str, function: "Callable[[], Any]") -> "Any":
        try:
            return await self.loop.in_thread(function)
        except (WherryError, OSError) as error:
            raise processes.failed(verb, error) from error

    # ---- the end

    async def delete(self, request: "Message") -> "Message":
        id, exec_id = request.get("id") or "", request.get("exec_id") or ""
        if id not in self._containers and not exec_id and id in self._deleted:
            return self._deleted[id]
        process = self._process(request)
        if exec_id:
            return await self._delete_exec(process)
        container = process.container
        if process.status == "creating":
            return await self._abandon(container)
        await container.turn.take()
        try:
            if self._containers.get(id) is not container:  # another Delete was first
                return self._deleted.get(id) or process.result()
            process.check("delete")
            return await self._delete(container)
        finally:
            container.turn.give()

    async def _delete(self, container: Container) -> "Message":
        init = container.init
        if init.status == STOPPED:
            await self._drained(init)
        await self.loop.in_thread(lambda: processes.remove(container))
        processes.unlock(container)
        if container.checkpoint is not None:  # it has never been a process, whose end could be told
            init.status, init.exit_status, init.exited_at = STOPPED, 128 + _SIGKILL, now()
            init.ended.set()
        if not init.ended.done:
            self.loop.timer(_END_S, lambda: self._publish(init))
            await init.ended
        for process in (*container.execs.values(), init):
            self._let_go(process)
        container.plans.close()
        if container.watch is not None:
            container.watch.close()
        if container.monitor is not None:
            container.monitor.close()
        answer = {"pid": init.pid, **init.result()}
        del self._containers[container.id]
        self._remember(container.id, answer)
        if container.orphaned:
            self._sweep_for_a_while()
        self.emit("/tasks/delete", {"container_id": container.id, "id": "", **answer})
        return answer

    def _remember(self, id: str, answer: "Message") -> None:
        self._deleted[id] = answer
        if len(self._deleted) > _REMEMBERED:
            del self._deleted[next(iter(self._deleted))]

    async def _abandon(self, container: Container) -> "Message":
        """Nobody waits for this create any more: without a server its monitor ends it, and it undoes itself."""
        container.abandoned = True
        lost, ended = container.monitor, Later()
        container.init.ended.then(lambda _: ended.set())
        if lost is not None:
            lost.close()
            self._monitor_lost(container, lost)
        timer = self.loop.timer(_END_S, ended.set)
        await ended
        timer.cancel()
        await self.loop.in_thread(lambda: processes.remove(container))
        return {"pid": 0, "exit_status": 128 + _SIGKILL, "exited_at": now()}

    async def _delete_exec(self, process: Process) -> "Message":
        process.check("delete")
        if process.starting:
            raise ShimError(UNKNOWN, "cannot delete a running process")
        await self._drained(process)
        if process.container.execs.pop(process.exec_id, None) is not None:
            self._let_go(process)
        return {"pid": process.pid, **process.result()}

    async def _drained(self, process: Process) -> None:
        """A terminal's last words are on their way; somebody in the background may hold it open for ever."""
        if process.drained is None or process.drained.done:
            return
        both = Later()
        process.drained.then(both.set)
        timer = self.loop.timer(_DRAIN_S, both.set)
        await both
        timer.cancel()

    def _let_go(self, process: Process) -> None:
        if process.exec_id and process.container.monitor is not None:
            process.container.monitor.tell(monitor.RELEASE, process.number)
        for name in ("pidfd", "master"):
            fd = getattr(process, name)
            if fd >= 0:
                self.loop.unwatch(fd)
                posix.close(fd)
                setattr(process, name, -1)
        if process.pump is not None:
            process.pump.close()
        if process.streams is not None:
            process.streams.close(self.loop)
            process.streams = None
        if not process.ended.done:
            process.status = STOPPED
            process.ended.set()
        process.answer.fail(ShimError(NOT_FOUND, f"process {process.id} was deleted"))  # where one waits for it, which its monitor cannot tell any more

    async def shutdown(self, request: "Message") -> "Message":
        if not self._containers and not self._closing:
            self.refuse()
            self.loop.soon(self.on_shutdown)
        return {}

    def refuse(self) -> None:
        """All calls from now on: whose container would come now would lose it with this server."""
        self._closing = True

    # ---- another server's containers

    async def adopt(self) -> None:
        """Finds the containers that another server of this namespace has left with their monitors. Before the first call."""
        from wherry_shim.adopt import adopt

        await adopt(self)


def _names(request: "Message") -> Names:
    texts = [request.get(name) or "" for name in ("stdin", "stdout", "stderr")]
    return Names(texts[0], texts[1], texts[2], bool(request.get("terminal")))


def destroy(setting: Setting, id: str, bundle: str) -> "Message":
    return clean.destroy(setting, id, bundle)


def is_gone(setting: Setting, id: str, bundle: str) -> bool:
    return clean.is_gone(bundle)
