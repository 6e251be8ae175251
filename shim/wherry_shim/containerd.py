# SPDX-License-Identifier: Apache-2.0
"""What containerd sees of a service: task.v2 and task.v3 on one socket, with one set of messages; events as containerd names them."""

from wherry_shim import wire
from wherry_shim.errors import INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED, ShimError
from wherry_shim.loop import Later, Task
from wherry_shim.messages import PACKAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, Protocol

    class Calls(Protocol):
        def answer(self, method: str, request: "dict[str, Any]") -> Coroutine[Later, None, "dict[str, Any]"]: ...


TASK_SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
SANDBOX_SERVICE = "containerd.runtime.sandbox.v1.Sandbox"

METHODS = {
    "State": ("task.StateRequest", "task.StateResponse"),
    "Create": ("task.CreateTaskRequest", "task.CreateTaskResponse"),
    "Start": ("task.StartRequest", "task.StartResponse"),
    "Delete": ("task.DeleteRequest", "task.DeleteResponse"),
    "Pids": ("task.PidsRequest", "task.PidsResponse"),
    "Pause": ("task.PauseRequest", "any.Empty"),
    "Resume": ("task.ResumeRequest", "any.Empty"),
    "Checkpoint": ("task.CheckpointTaskRequest", "any.Empty"),
    "Kill": ("task.KillRequest", "any.Empty"),
    "Exec": ("task.ExecProcessRequest", "any.Empty"),
    "ResizePty": ("task.ResizePtyRequest", "any.Empty"),
    "CloseIO": ("task.CloseIORequest", "any.Empty"),
    "Update": ("task.UpdateTaskRequest", "any.Empty"),
    "Wait": ("task.WaitRequest", "task.WaitResponse"),
    "Stats": ("task.StatsRequest", "task.StatsResponse"),
    "Connect": ("task.ConnectRequest", "task.ConnectResponse"),
    "Shutdown": ("task.ShutdownRequest", "any.Empty"),
}

_PREFIXES = {package: prefix for prefix, package in PACKAGES.items()}
_RENAMED = {"cri.runtimeoptions.v1": "engine"}
_METRICS = {"io.containerd.cgroups.v1": "cgroups1", "io.containerd.cgroups.v2": "cgroups2"}


def table_of(type_url: str) -> str:
    """The table's name for the message of an Any, with or without a host in front of it."""
    package, _, name = type_url.rpartition("/")[2].rpartition(".")
    prefix = _PREFIXES.get(package) or _RENAMED.get(package) or _METRICS.get(package)
    if prefix is None:
        return ""
    if prefix.startswith("cgroups"):
        import wherry_shim.messages_rare as _  # noqa: F401 - its tables
    return f"{prefix}.{name}" if wire.known(f"{prefix}.{name}") else ""


def unpack(any_value: "wire.Values") -> "wire.Values":
    """The fields of what is in an Any."""
    type_url = any_value["type_url"]
    table = table_of(type_url)
    if not table:
        raise ShimError(INVALID_ARGUMENT, f"options of an unknown type: {type_url}")
    try:
        return wire.decode(table, any_value["value"])
    except wire.DecodeError as error:
        raise ShimError(INVALID_ARGUMENT, f"options: {error}")


def pack(value: "wire.Values | None") -> None:
    """In place: an Any that carries a message gets its bytes. Its type is the bare full name: containerd compares it as it stands."""
    if value is not None and "message" in value:
        value["value"] = wire.encode(table_of(value["type_url"]), value.pop("message"))


class Call(Task):
    """A call that runs; its value is the response's bytes. Only what waits, and does nothing else, can be cancelled."""

    __slots__ = ("_method", "_table")

    def __init__(self, method: str, table: str, answer: "Coroutine[Later, None, Any]") -> None:
        self._method, self._table = method, table
        Task.__init__(self, answer)

    def set(self, value: "Any" = None) -> None:
        try:
            if "stats" in value:
                pack(value["stats"])
            for process in value.get("processes", ()):
                pack(process.get("info"))
            data = wire.encode(self._table, value)
        except Exception as error:
            self.fail(error)
        else:
            Task.set(self, data)

    def cancel(self) -> None:
        if self._method in ("Wait", "WaitSandbox"):
            Task.cancel(self)


class Handler:
    """One service of the socket, for ttrpc.Server."""

    def __init__(self, service: "Calls", methods: "dict[str, tuple[str, str]]") -> None:
        self._service, self._methods = service, methods

    def __call__(self, method: str, payload: bytes) -> Later:
        tables = self._methods.get(method)
        if tables is None:
            raise ShimError(UNIMPLEMENTED, f"method {method}")
        try:
            request = wire.decode(tables[0], payload)
        except wire.DecodeError as error:
            raise ShimError(INTERNAL, str(error))
        return Call(method, tables[1], self._service.answer(method, request))
