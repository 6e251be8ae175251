# SPDX-License-Identifier: Apache-2.0
"""What the client gives and takes: frozen dataclasses, times as datetime (UTC) and timedelta, states as strings that are enums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Status(StrEnum):
    UNKNOWN = "unknown"
    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"  # its restart policy leaves it so
    WAITING = "waiting"  # is started again at `restart_at`


class Health(StrEnum):
    NONE = ""  # no probe
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class When(StrEnum):
    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Channel(StrEnum):
    STDOUT = "stdout"  # a terminal's output, too
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    when: When = When.ALWAYS
    limit: int = 0  # restarts in a row; 0: without end
    backoff: timedelta | None = None  # None: what the server takes
    backoff_limit: timedelta | None = None
    reset_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    args: tuple[str, ...]
    interval: timedelta | None = None
    timeout: timedelta | None = None
    start_period: timedelta | None = None
    retries: int = 0
    restart: bool = False  # what is unhealthy is killed; the restart policy does the rest


@dataclass(frozen=True, slots=True)
class ProbeResult:
    began_at: datetime | None
    took: timedelta | None
    status: int
    error: str  # why there is no status: it took too long, it could not be executed


@dataclass(frozen=True, slots=True)
class Mount:
    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    run: int
    status: int  # 128 + signal where a signal ended it
    signal: int
    oom: bool
    reason: str  # exited signal oom unhealthy stopped lost
    started_at: datetime | None
    exited_at: datetime | None


@dataclass(frozen=True, slots=True)
class ExecState:
    exec_id: str
    pid: int
    status: Status
    exit: Exit | None
    args: tuple[str, ...]
    terminal: bool


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    bundle: str
    status: Status
    pid: int  # 0 where nothing runs
    created_at: datetime | None
    started_at: datetime | None
    restart_at: datetime | None
    run: int
    exit: Exit | None  # of the last run that has ended
    restart: RestartPolicy
    restarts: int
    probe: Probe | None
    health: Health
    labels: Mapping[str, str]
    terminal: bool
    stdin: bool
    execs: tuple[ExecState, ...]
    owner: str  # "": the server; else another's, to be looked at only
    auto_remove: bool
    args: tuple[str, ...] = ()  # of its program; not all where there are many
    exits: tuple[Exit, ...] = ()  # of its last few runs, the newest first
    last_probe: "ProbeResult | None" = None
    probe_failures: int = 0  # in a row


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    exec_id: str


@dataclass(frozen=True, slots=True)
class Event:
    cursor: str
    time: datetime | None
    id: str
    type: str
    run: int
    exec_id: str
    pid: int
    exit: Exit | None
    health: Health
    restart_at: datetime | None
    trace: str = ""  # traceparent of the call that the container was changed by last


@dataclass(frozen=True, slots=True)
class Output:
    channel: Channel
    offset: int  # of the first byte; higher than where the last ended: what is between was given up
    data: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    id: str
    time: datetime | None
    cpu_usec: int
    cpu_user_usec: int
    cpu_system_usec: int
    cpu_throttled_usec: int
    memory_bytes: int
    memory_limit_bytes: int  # 0: none
    memory_peak_bytes: int
    pids: int
    pids_limit: int  # 0: none
    read_bytes: int
    written_bytes: int
    oom_kills: int
    cpu_pressure: float  # PSI, some avg10, per cent
    memory_pressure: float
    io_pressure: float


@dataclass(frozen=True, slots=True)
class Finding:
    pointer: str
    code: str
    message: str
    remedy: str
    warning: bool  # else an error


@dataclass(frozen=True, slots=True)
class Step:
    executor: str  # caller, launcher, init
    operation: str
    text: str
    pointer: str


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[Step, ...]
    warnings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Version:
    version: str
    build_id: str
    specification: str
    api: str
    server_pid: int
    started_at: datetime | None
    role: str  # the caller's


@dataclass(frozen=True, slots=True)
class AuditEntry:
    time: datetime | None
    caller: str
    role: str
    method: str
    id: str
    status: str
    duration: timedelta


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that has ended, with all that it wrote."""

    exit: Exit
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Exec:
    """What is to be executed in a container: the container's own process with these differences, or `process`, a whole one of the specification."""

    args: Sequence[str] = ()
    env: Sequence[str] = ()
    cwd: str = ""
    user: str = ""  # uid[:gid]
    terminal: bool = False
    stdin: bool = False
    size: tuple[int, int] | None = None  # width, height
    timeout: timedelta | None = None  # then it is killed
    process: Mapping[str, object] | None = None
    exec_id: str = ""  # default: one is made up


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM: who vouches for the server, and who the client is."""

    ca: str
    certificate: str
    key: str
    server_name: str = ""  # where the certificate has another name than the address
