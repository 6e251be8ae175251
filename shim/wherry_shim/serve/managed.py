# SPDX-License-Identifier: Apache-2.0
"""A container, and an exec, in the memory of the supervisor: the records, and who waits for a change."""

from __future__ import annotations

import asyncio
import copy
import errno
import json
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wherry.oci.config import load
from wherry_shim.serve import records, trace
from wherry_shim.serve.records import Asked, ExecRecord, Exit, Run

SERVER, TASK = "", "task"
LARGEST_CONFIG = 16 << 20


class Changes:
    """Who waits is woken by each change, and looks for itself."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    async def changed(self) -> None:
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._future)

    def change(self) -> None:
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)


class Place:
    """A directory of files that a process writes into and reads from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stdout, self.stderr, self.stdin = (str(directory / name) for name in ("stdout", "stderr", "stdin"))

    def make(self, terminal: bool) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.stdout,) if terminal else (self.stdout, self.stderr):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))

    def make_input(self) -> None:
        """A new one: what the last run has not read is not for this one."""
        Path(self.stdin).unlink(missing_ok=True)
        os.mkfifo(self.stdin, 0o600)

    def names(self, terminal: bool, stdin: bool) -> dict[str, Any]:
        return {
            "stdin": self.stdin if stdin or terminal else "",
            "stdout": self.stdout,
            "stderr": "" if terminal else self.stderr,
            "terminal": terminal,
        }

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def put_aside(self, number: int) -> "Place":
        """Its name is free at once; to be removed. Should nobody come to that, the next server does: there is no container of that name."""
        aside = self.directory.with_name(f".{self.directory.name}.{number}")
        try:
            os.rename(self.directory, aside)
        except OSError:
            return self
        return Place(aside)

    def strip(self) -> None:
        """Down to what was written."""
        shutil.rmtree(self.directory / "bundle", ignore_errors=True)
        for name in ("stdin", "stdin.count"):
            (self.directory / name).unlink(missing_ok=True)

    def bytes(self) -> int:
        """On disk."""
        return sum(path.lstat().st_blocks * 512 for path in self.directory.rglob("*"))


class ManagedExec(Changes):
    def __init__(self, record: ExecRecord, directory: Path) -> None:
        super().__init__()
        self.record, self.place = record, Place(directory)
        self.drained = record.phase == records.ENDED
        self.timer: asyncio.TimerHandle | None = None
        self.streams = 0

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def ended(self) -> bool:
        return self.record.phase == records.ENDED

    def save(self) -> None:
        """Where it cannot be written the exit record of the monitor is still there."""
        try:
            records.write(self.place.directory / "exec.json", self.record)
        except OSError:
            pass


@dataclass(frozen=True)
class ExecAsked:
    id: str
    process: bytes
    terminal: bool
    stdin: bool
    args: list[str]
    timeout: float = 0.0


class Turn(asyncio.Lock):
    """`cause`: the trace of the call that had it last, where its client had one."""

    cause = ""

    async def acquire(self) -> Literal[True]:
        await super().acquire()
        self.cause = trace.given() or self.cause
        return True


class Managed(Changes):
    def __init__(self, asked: Asked, run: Run, directory: Path, owner: str = SERVER) -> None:
        super().__init__()
        self.asked, self.run, self.place, self.owner = asked, run, Place(directory), owner
        self.turn = Turn()
        self.execs: dict[str, ManagedExec] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.killer: asyncio.TimerHandle | None = None
        self.probe: asyncio.Task[None] | None = None
        self.asked_at = 0
        """When it was to start: before it has ended in any case."""
        self.begun: Run | None = None
        """The run as it was when it had just been started: what who asked for the start is told, however short it is."""
        self.dirty = self.dirty_asked = False
        self.gone = False

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def phase(self) -> str:
        return self.run.phase

    @property
    def running(self) -> bool:
        return self.run.phase in (records.RUNNING, records.PAUSED)

    @property
    def paused(self) -> bool:
        return self.run.phase == records.PAUSED

    @property
    def ended(self) -> bool:
        """Nothing of it runs, or waits for its start."""
        return self.run.phase in (records.ENDED, records.WAITING, records.RESTARTING, records.STOPPED)

    @property
    def stopped(self) -> bool:
        return self.run.phase == records.STOPPED

    def exit_of(self, run: int) -> Exit | None:
        return next((one for one in self.run.exits if one.run == run), None)

    # ---- records

    def save(self) -> None:
        """Of what is of another's nothing is kept."""
        if self.owner != SERVER or self.gone:
            return
        try:
            records.write(self.place.directory / "run.json", self.run)
            self.dirty = False
        except OSError:
            self.dirty = True

    def save_asked(self) -> None:
        records.write(self.place.directory / "container.json", self.asked, durable=True)
        self.dirty_asked = False

    def note_asked(self) -> None:
        """Of what ends something: a disk that is full does not stop it, and learns of it later."""
        try:
            self.save_asked()
        except OSError:
            self.dirty_asked = not self.gone

    def cancel(self) -> None:
        """All that would be done later."""
        for timer in (self.timer, self.killer, *(one.timer for one in self.execs.values())):
            if timer is not None:
                timer.cancel()
        self.timer = self.killer = None
        self.end_probe()

    def end_probe(self) -> None:
        probe, self.probe = self.probe, None
        if probe is not None:
            probe.cancel()

    def note_sizes(self) -> None:
        """How long its outputs are at the end of this run."""
        run, most = self.run, len(self.run.exits)
        sizes = [run.run, size_of(self.place.stdout), size_of(self.place.stderr)]
        run.ends = [sizes, *(one for one in run.ends if one[0] != run.run)][:most]

    def sizes_of(self, run: int) -> tuple[int, int] | None:
        return next(((one[1], one[2]) for one in self.run.ends if one[0] == run), None)

    # ---- its configuration

    def config(self) -> dict[str, Any]:
        document: Any = load(config_bytes(self.asked.bundle), f"{self.asked.bundle}/config.json")
        return dict(document)

    def process(self, args: Sequence[str], env: Sequence[str] = (), cwd: str = "", user: str = "", terminal: bool = False) -> bytes:
        """`process` of an exec: the container's own, with something else to execute."""
        process: dict[str, Any] = copy.deepcopy(self.config().get("process") or {})
        for name in ("consoleSize", "commandLine"):
            process.pop(name, None)
        process |= {"args": list(args), "terminal": terminal}
        process["env"] = merged([*(process.get("env") or ())], env)
        if cwd:
            process["cwd"] = cwd
        if user:
            uid, _, gid = user.partition(":")
            process["user"] = {"uid": int(uid), "gid": int(gid or 0)}
        return json.dumps(process).encode()


def config_bytes(bundle: str) -> bytes:
    """Never waits, and never ends later than a file does: a client has named the bundle, and a fifo would hold the thread, a device all memory."""
    path = f"{bundle}/config.json"
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        if found.st_size > LARGEST_CONFIG:
            raise OSError(errno.EFBIG, f"has more than {LARGEST_CONFIG} bytes", path)
        return file.read(LARGEST_CONFIG)


def merged(base: list[str], more: Sequence[str]) -> list[str]:
    """The last one of a name is the one that counts."""
    names = {one.partition("=")[0] for one in more}
    return [one for one in base if one.partition("=")[0] not in names] + list(more)


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
