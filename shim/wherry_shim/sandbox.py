# SPDX-License-Identifier: Apache-2.0
"""The sandbox service, for containerd 2 where CRI is told `sandboxer = "shim"`: the pod is this server, and needs no pause container.

The pod's containers join the namespaces of the process whose pid StartSandbox answers: that is the server's holder (holder.py), which is there from
StartSandbox to StopSandbox.
"""

import posix
import time

from wherry_shim import messages_rare
from wherry_shim.errors import ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND, UNIMPLEMENTED, UNKNOWN, ShimError
from wherry_shim.loop import Cancelled, Later, Loop, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry_shim.holder import Holder, Pod

    Message = dict[str, Any]

assert messages_rare.TABLE  # its tables are the service's

METHODS = {
    name: (f"sandbox.{stem}Request", f"sandbox.{stem}Response")
    for name, stem in (
        ("CreateSandbox", "CreateSandbox"),
        ("StartSandbox", "StartSandbox"),
        ("Platform", "Platform"),
        ("StopSandbox", "StopSandbox"),
        ("WaitSandbox", "WaitSandbox"),
        ("SandboxStatus", "SandboxStatus"),
        ("PingSandbox", "Ping"),
        ("ShutdownSandbox", "ShutdownSandbox"),
        ("SandboxMetrics", "SandboxMetrics"),
    )
}

MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le", "riscv64": "riscv64", "s390x": "s390x"}
"""As Go names them."""

_SIGKILL = 9
CREATED, READY, STOPPED = "SANDBOX_NOTREADY created", "SANDBOX_READY", "SANDBOX_NOTREADY"


def now() -> "Message":
    nanoseconds = time.time_ns()
    return {"seconds": nanoseconds // 10**9, "nanos": nanoseconds % 10**9}


class Sandbox:
    """shut_down() ends the server, once no container is left (is_empty)."""

    def __init__(self, loop: Loop, is_empty: "Callable[[], bool]", shut_down: "Callable[[], None]") -> None:
        self.loop, self._is_empty, self._shut_down = loop, is_empty, shut_down
        self._id, self._state, self._ended = "", "", Later()
        self._created: Message = {}
        self._pod: "Pod | None" = None
        self._holder: "Holder | None" = None
        self._watched = -1

    @property
    def present(self) -> bool:
        """A sandbox that has not been stopped: its server stays, whether or not there are containers."""
        return self._state in (CREATED, READY)

    def call(self, method: str, request: "Message") -> Task:
        return self.loop.start(self.answer(method, request))

    async def answer(self, method: str, request: "Message") -> "Message":
        steps = {
            "CreateSandbox": self._create,
            "StartSandbox": self._start,
            "Platform": self._platform,
            "StopSandbox": self._stop,
            "WaitSandbox": self._wait,
            "SandboxStatus": self._status,
            "PingSandbox": self._ping,
            "ShutdownSandbox": self._shutdown,
        }
        step = steps.get(method)
        if step is None:
            raise ShimError(UNIMPLEMENTED, f"method {method}")
        if method not in ("CreateSandbox", "Platform") and (not self._state or request["sandbox_id"] != self._id):
            raise ShimError(NOT_FOUND, f"sandbox {request['sandbox_id']}")
        try:
            return await step(request)
        except (ShimError, Cancelled):
            raise
        except Exception as error:
            raise ShimError(UNKNOWN, str(error) or type(error).__name__) from error

    async def _create(self, request: "Message") -> "Message":
        if self._state:
            raise ShimError(ALREADY_EXISTS, f"sandbox {self._id}")
        from wherry_shim.holder import Pod

        self._pod = Pod(request)
        self._id, self._state = request["sandbox_id"], CREATED
        return {}

    async def _start(self, request: "Message") -> "Message":
        if self._state != CREATED:
            raise ShimError(FAILED_PRECONDITION, f"sandbox {self._id} was started before")
        from wherry_shim.holder import Holder

        assert self._pod is not None
        self._holder = Holder(self._pod)
        self._watched = posix.pidfd_open(self._holder.pid)
        self.loop.watch(self._watched, lambda _: self._end(128 + _SIGKILL))
        self._state, self._created = READY, now()
        return {"pid": self._holder.pid, "created_at": self._created}

    def _end(self, status: int) -> None:
        """Stopped, or its holder was killed."""
        if self._watched >= 0:
            self.loop.unwatch(self._watched)
            posix.close(self._watched)
            self._watched = -1
        if self._holder is not None:
            self._holder.end()
        if self._state != STOPPED:
            self._state = STOPPED
            self._ended.set({"exit_status": status, "exited_at": now()})

    async def _platform(self, request: "Message") -> "Message":
        machine = posix.uname().machine
        return {"platform": {"os": "linux", "architecture": MACHINES.get(machine, machine)}}

    async def _stop(self, request: "Message") -> "Message":
        """Its containers are stopped, each by its own calls, before."""
        self._end(0)
        return {}

    async def _wait(self, request: "Message") -> "Message":
        answer: Message = await self._ended
        return answer

    async def _status(self, request: "Message") -> "Message":
        answer = {"sandbox_id": self._id, "pid": self._holder.pid if self._holder else 0, "state": self._state.split()[0], "created_at": self._created or None}
        if self._state == STOPPED:
            answer["exited_at"] = self._ended.result()["exited_at"]
        return answer

    async def _ping(self, request: "Message") -> "Message":
        return {}

    async def _shutdown(self, request: "Message") -> "Message":
        await self._stop(request)
        if self._is_empty():
            self.loop.soon(self._shut_down)
        return {}
