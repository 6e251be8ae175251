# SPDX-License-Identifier: Apache-2.0
"""What a server knows of its containers and their processes. One table says which call each state refuses, and with what words.

    creating -> created -> running -> stopped        init; `paused` and `pausing` beside running
                created -> running -> stopped        an exec; created = registered, there is no process yet
"""

from wherry_shim.errors import FAILED_PRECONDITION, NOT_FOUND, UNKNOWN, ShimError
from wherry_shim.loop import Later
from wherry_shim.plans import Plans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.container.options import CreateOptions
    from wherry_shim.monitor import Monitor
    from wherry_shim.oom import Watch
    from wherry_shim.pump import Pump
    from wherry_shim.stdio import Names, Streams

    Message = dict[str, Any]

CREATING, CREATED, RUNNING, STOPPED, PAUSED, PAUSING = "creating", "created", "running", "stopped", "paused", "pausing"

STATUS_NUMBERS = {CREATING: 1, CREATED: 1, RUNNING: 2, STOPPED: 3, PAUSED: 4, PAUSING: 5}
"""Of containerd.v1.types.Status."""

NOT_EXITED = {"seconds": -62135596800, "nanos": 0}
"""The zero time of Go, which clients test for."""

_FINISHED = (NOT_FOUND, "process already finished")
_BUSY = (FAILED_PRECONDITION, "the container is being created")

_REFUSALS = {
    ("start", CREATING): _BUSY,
    ("start", RUNNING): (UNKNOWN, "cannot start a running {what}"),
    ("start", STOPPED): (UNKNOWN, "cannot start a stopped {what}"),
    ("start", PAUSED): (UNKNOWN, "cannot start a paused {what}"),
    ("start", PAUSING): (UNKNOWN, "cannot start a paused {what}"),
    ("delete", RUNNING): (UNKNOWN, "cannot delete a running process"),
    ("delete", PAUSED): (UNKNOWN, "cannot delete a paused process"),
    ("delete", PAUSING): (UNKNOWN, "cannot delete a running process"),
    ("kill", CREATING): _BUSY,
    ("kill", STOPPED): _FINISHED,
    ("pause", CREATING): _BUSY,
    ("pause", CREATED): (UNKNOWN, "cannot pause task in created state"),
    ("pause", STOPPED): (UNKNOWN, "cannot pause a stopped container"),
    ("pause", PAUSED): (UNKNOWN, "cannot pause a paused container"),
    ("pause", PAUSING): (UNKNOWN, "cannot pause a pausing container"),
    ("resume", CREATING): _BUSY,
    ("resume", CREATED): (UNKNOWN, "cannot resume task in created state"),
    ("resume", RUNNING): (UNKNOWN, "cannot resume a running process"),
    ("resume", STOPPED): (UNKNOWN, "cannot resume a stopped container"),
    ("resume", PAUSING): (UNKNOWN, "cannot resume a pausing container"),
    ("exec", CREATING): _BUSY,
    ("exec", PAUSED): (UNKNOWN, "cannot exec in a paused state"),
    ("exec", PAUSING): (UNKNOWN, "cannot exec in a paused state"),
    ("exec", STOPPED): (UNKNOWN, "cannot exec in a stopped state"),
    ("resize", STOPPED): (UNKNOWN, "cannot resize a stopped {what}"),
    ("update", CREATING): _BUSY,
    ("update", STOPPED): (UNKNOWN, "cannot update a stopped container"),
    ("checkpoint", CREATING): _BUSY,
    ("checkpoint", CREATED): (UNKNOWN, "cannot checkpoint a task in created state"),
    ("checkpoint", STOPPED): (UNKNOWN, "cannot checkpoint a stopped container"),
}


class Process:
    """A container's first process (exec_id ""), or one that is executed in it. `number`: its name to the monitor."""

    def __init__(self, container: "Container", exec_id: str, number: int, names: "Names", spec: bytes = b"") -> None:
        self.container, self.exec_id, self.number, self.names, self.spec = container, exec_id, number, names, spec
        self.status = CREATED if exec_id else CREATING
        self.pid = 0
        self.pidfd = self.master = -1
        self.exit_status = 0
        self.exited_at = NOT_EXITED
        self.starting = False  # its end is published after its start
        self.input_closed = False
        self.adopts = False  # an exec's program gets what its descendants leave, so that all of them can be ended with it (kill_tree)
        self.streams: "Streams | None" = None
        self.answer = Later()  # of the monitor: a Report
        self.ended = Later()  # published
        self.drained: "Later | None" = None  # the pump of its terminal has come to an end
        self.pump: "Pump | None" = None  # ours, when its monitor was killed

    @property
    def id(self) -> str:
        return self.exec_id or self.container.id

    def check(self, verb: str) -> None:
        refusal = _REFUSALS.get((verb, self.status))
        if refusal:
            raise ShimError(refusal[0], refusal[1].replace("{what}", "process" if self.exec_id else "container"))

    def seen(self) -> str:
        """An exec in a paused container is paused as well."""
        init = self.container.init.status
        return init if self.status == RUNNING and init in (PAUSED, PAUSING) else self.status

    def state(self) -> "Message":
        names, stopped = self.names, self.status == STOPPED
        return {
            "id": self.id,
            "bundle": self.container.bundle,
            "pid": self.pid,
            "status": STATUS_NUMBERS[self.seen()],
            "stdin": names.stdin,
            "stdout": names.stdout,
            "stderr": names.stderr,
            "terminal": names.terminal,
            "exit_status": self.exit_status if stopped else 0,
            "exited_at": self.exited_at if stopped else NOT_EXITED,
        }

    def result(self) -> "Message":
        return {"exit_status": self.exit_status, "exited_at": self.exited_at}


class Turn:
    """Start, delete, pause, resume and update of one container come one after the other. Nobody waits for it who answers from memory."""

    def __init__(self) -> None:
        self.held = False
        self._queue: "list[Later]" = []

    async def take(self) -> None:
        if self.held:
            later = Later()
            self._queue.append(later)
            await later
        self.held = True

    def give(self) -> None:
        self.held = False
        if self._queue:
            self.held = True
            self._queue.pop(0).set()


class Checkpoint:
    """work: where CRIU's log goes. options: as Create had them."""

    __slots__ = ("images", "options", "work")

    def __init__(self, images: str, work: str, options: "CreateOptions") -> None:
        self.images, self.work, self.options = images, work, options


class Container:
    def __init__(self, id: str, bundle: str, root: str, names: "Names") -> None:
        self.id, self.bundle, self.root = id, bundle, root
        self.init = Process(self, "", 0, names)
        self.execs: "dict[str, Process]" = {}
        self.monitor: "Monitor | None" = None
        self.watch: "Watch | None" = None
        self.has_rootfs = False
        self.io_owner = (0, 0)
        self.root_owner: "tuple[int, int] | None" = None  # root of its user namespace, as the host sees it; None = nobody has looked
        self.lock = -1  # of the marker in the bundle, during a create
        self.checkpoint: "Checkpoint | None" = None  # what Start is to restore: until then there is no process
        self.marked = False  # the marker is ours
        self.shared_pid = False
        self.abandoned = False  # deleted while it was being created
        self.orphaned = False  # its monitor has ended before it
        self.cut_short = False  # ... in the middle of its create
        self.turn = Turn()
        self.plans = Plans()
        self.last_number = 0

    def next_number(self) -> int:
        self.last_number += 1
        return self.last_number

    def by_number(self, number: int) -> "Process | None":
        if number == 0:
            return self.init
        for process in self.execs.values():
            if process.number == number:
                return process
        return None

    def process(self, exec_id: str) -> Process:
        if not exec_id:
            return self.init
        process = self.execs.get(exec_id)
        if process is None:
            raise ShimError(NOT_FOUND, f"process does not exist {exec_id}")
        return process

    def running_execs(self) -> "list[Process]":
        return [process for process in self.execs.values() if process.starting or process.status == RUNNING]
