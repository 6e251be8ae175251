# SPDX-License-Identifier: Apache-2.0
"""What is written about a container and its execs, so that another server goes on where this one was killed.

    container.json   Asked    what was asked, the desired state, the step that is under way. Counts after a reboot: fsync before it is answered
    run.json         Run      the run, its phase, timers, health. Written with each event, without fsync: a killed server loses nothing of it, and
                     after a reboot all has ended
    exec.json        ExecRecord

Times are nanoseconds since 1970, 0 where there is none. Durations are seconds. What a field of an older version lacks has its default; what is
unknown is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

NO, ON_FAILURE, ALWAYS = "no", "on-failure", "always"

# phases
CREATING, CREATED, RUNNING, PAUSED = "creating", "created", "running", "paused"
ENDED = "ended"
"""What is to come of it is not decided yet."""
WAITING, RESTARTING, STOPPED = "waiting", "restarting", "stopped"

# steps that take several
CREATE, DELETE = "create", "delete"
REMOVED = "removed"
"""Nothing but its output and its ends is there any more, for a while."""


@dataclass
class Policy:
    when: str = NO
    limit: int = 0
    backoff: float = 0.1
    backoff_limit: float = 60.0
    reset_after: float = 10.0


@dataclass
class Probe:
    args: list[str] = field(default_factory=list)
    interval: float = 10.0
    timeout: float = 5.0
    start_period: float = 0.0
    retries: int = 3
    restart: bool = False


@dataclass
class Exit:
    run: int = 0
    status: int = 0
    signal: int = 0
    oom: bool = False
    started: int = 0
    exited: int = 0
    reason: str = ""


@dataclass
class Probed:
    at: int = 0
    seconds: float = 0.0
    status: int = 0
    error: str = ""
    """Why there is no status."""


@dataclass
class Asked:
    id: str = ""
    bundle: str = ""
    mounts: list[dict[str, Any]] = field(default_factory=list)
    stdin: bool = False
    terminal: bool = False
    policy: Policy = field(default_factory=Policy)
    probe: Probe = field(default_factory=Probe)
    labels: dict[str, str] = field(default_factory=dict)
    log_bytes: int = 16 << 20
    auto_remove: bool = False
    created: int = 0
    desired: str = CREATED
    """created, running or stopped: what a client wants of it."""
    step: str = ""
    args: list[str] = field(default_factory=list)
    """Of its program, for people: the first ones."""
    keeps: bool = False
    """It goes by itself: what it has written stays for a while."""
    removed: int = 0
    since: int = 0
    """Sequence of the newest event when it was made: older ones of this id are another container's."""


@dataclass
class Run:
    run: int = 1
    phase: str = CREATING
    pid: int = 0
    started: int = 0
    restarts: int = 0
    restart_at: int = 0
    step: str = ""
    """remove (what is there is the old run's), create (it is the new one's), start (it may have been started)."""
    intent: str = ""
    """The reason of the end that is to come: stopped, unhealthy."""
    kill_at: int = 0
    oom: bool = False
    health: str = ""
    failures: int = 0
    probed: Probed | None = None
    """The last probe, of whichever run."""
    sequence: int = 0
    """Of the last event that this record knows of."""
    boot: str = ""
    exits: list[Exit] = field(default_factory=list)
    """The last few, the newest first."""
    ends: list[list[int]] = field(default_factory=list)
    """Of the same runs: number, and how long stdout and stderr had become."""

    @property
    def exit(self) -> Exit | None:
        return self.exits[0] if self.exits else None


@dataclass
class ExecRecord:
    id: str = ""
    args: list[str] = field(default_factory=list)
    terminal: bool = False
    stdin: bool = False
    pid: int = 0
    phase: str = CREATED
    run: int = 0
    started: int = 0
    kill_at: int = 0
    intent: str = ""
    exit: Exit | None = None


_NESTED: dict[tuple[type, str], type] = {
    (Asked, "policy"): Policy,
    (Asked, "probe"): Probe,
    (Run, "probed"): Probed,
    (Run, "exits"): Exit,
    (ExecRecord, "exit"): Exit,
}


def from_dict(kind: type[T], data: Mapping[str, Any]) -> T:
    values: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in data:
            values[one.name] = _value(_NESTED.get((kind, one.name)), data[one.name])
    return kind(**values)


def _value(nested: type | None, value: Any) -> Any:
    if nested and isinstance(value, dict):
        return from_dict(nested, value)
    if nested and isinstance(value, list):
        return [from_dict(nested, item) for item in value]
    return value


def write(path: Path, record: object, durable: bool = False) -> None:
    """Whole or not at all. OSError where it cannot be written; then the old one is still there."""
    data = json.dumps(asdict(record), separators=(",", ":")).encode()  # type: ignore[call-overload]
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    if durable:
        sync(path.parent)


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, kind: type[T]) -> T | None:
    """None where it is not there, or cut off by a reboot: what has none is taken away, so that what cannot be read at the moment (EMFILE, EIO) is an error."""
    try:
        data = json.loads(path.read_bytes())
        return from_dict(kind, data)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def to_dict(record: Exit) -> dict[str, Any]:
    return asdict(record)
