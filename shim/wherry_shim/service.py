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

from wherry_shim.errors import NOT_FOUND, UNIMPLEMENTED, UNKNOWN, ShimError
from wherry_shim.loop import Cancelled, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry_shim.loop import Loop

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

NOT_EXITED = {"seconds": -62135596800, "nanos": 0}
"""The zero time of Go, which clients test for."""


class Setting:
    """What a server is told once. root: the containers of this namespace are kept below <root>/<namespace>."""

    __slots__ = ("namespace", "root", "shim_pid")

    def __init__(self, namespace: str, root: str = "/run/containerd/wherry") -> None:
        self.namespace, self.root = namespace, root
        self.shim_pid = posix.getpid()


class Service:
    def __init__(
        self, loop: "Loop", setting: Setting, emit: "Callable[[str, Message], None]", unpack: "Callable[[Message], Message]"
    ) -> None:
        self.loop, self.setting, self.emit, self.unpack = loop, setting, emit, unpack
        self.on_shutdown: "Callable[[], None]" = loop.stop
        """Called once a Shutdown is accepted, after its answer has been given to the transport's callback: flush, unlink, exit."""
        self.log: "Callable[[str, str], None]" = lambda level, text: None
        """level: debug, info, warning or error."""

    def call(self, method: str, request: "Message") -> Task:
        return self.loop.start(self._guarded(method, request))

    async def _guarded(self, method: str, request: "Message") -> "Message":
        name = METHODS.get(method)
        if name is None:
            raise ShimError(UNIMPLEMENTED, f"method {method}")
        try:
            answer: "Message" = await getattr(self, name)(request)
            return answer
        except (ShimError, Cancelled):
            raise
        except Exception as error:
            raise ShimError(UNKNOWN, str(error) or type(error).__name__) from error

    @property
    def empty(self) -> bool:
        """No container is here: a server that nobody has asked for a while may go."""
        return True

    async def adopt(self) -> None:
        """Finds the containers that another server of this namespace has left with their monitors. Before the first call."""

    async def state(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def create(self, request: "Message") -> "Message":
        raise ShimError(UNIMPLEMENTED, "method Create")

    async def start(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def delete(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def pids(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def pause(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def resume(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def checkpoint(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def kill(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def exec(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def resize_pty(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def close_io(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def update(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def wait(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def stats(self, request: "Message") -> "Message":
        raise _unknown(request)

    async def connect(self, request: "Message") -> "Message":
        return {"shim_pid": self.setting.shim_pid, "task_pid": 0}

    async def shutdown(self, request: "Message") -> "Message":
        self.loop.soon(self.on_shutdown)
        return {}


def _unknown(request: "Message") -> ShimError:
    return ShimError(NOT_FOUND, "container not created")


def destroy(setting: Setting, id: str, bundle: str) -> "Message":
    """For the command `delete`, in a process of its own, when no server answers for this container: kills and takes away whatever is there of
    it (nothing may be: created never, deleted already, a file missing), unmounts <bundle>/rootfs, and blocks meanwhile (a second or two at most).
    The DeleteResponse's fields; exit_status is 137 where nobody knows better.
    """
    raise ShimError(UNIMPLEMENTED, "destroy")


def is_gone(setting: Setting, id: str, bundle: str) -> bool:
    """For `delete` on the normal path: the service has deleted this container, nothing is left to be done. Imports and costs next to nothing."""
    return False
