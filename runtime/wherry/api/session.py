# SPDX-License-Identifier: Apache-2.0
"""One program in a sandbox, from its pipes to its result. Blocking and asyncio callers share it: it never waits for the program."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wherry.api.bundle import Bundle
from wherry.api.cgroups import Cgroups
from wherry.api.container import Caution, Container
from wherry.api.ended import Ended, Usage
from wherry.api.runner import memory_file
from wherry.container import lifecycle
from wherry.errors import StateError

STREAMS = ("stdout", "stderr")
Output = Callable[[str, bytes], Any]
"""Gets the name of a stream and what came on it."""

_CHUNK = 1 << 16
_SIGSYS = 31
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Result:
    """What is left of a program that ran in a sandbox. Nothing of the sandbox is."""

    args: tuple[str, ...]
    code: int
    """Its exit status; 128 + signal where one ended it; -1 where somebody else in this process has taken it (a wait for any child)."""
    signal: int | None
    """What ended it, if a signal did."""
    out: bytes
    err: bytes
    truncated: bool
    """There was more output than `max_output`, and the rest is lost."""
    oom: bool
    """The kernel killed at least one of its processes because the memory limit was reached. Known where a memory cgroup is."""
    timed_out: bool
    wall: float
    """Seconds from the start to the end."""
    usage: Usage
    """Processor time and memory of the first process and all that it waited for."""
    memory_peak: int | None
    """Bytes that all together had at most; None where no memory cgroup tells."""
    denied: dict[str, int] = field(default_factory=dict)
    """How often a limit stood in the way, where that is known: pids (forks refused), memory, cpu (periods spent waiting), seccomp."""
    layers: dict[str, str] = field(default_factory=dict)
    """Each wall by name: "applied", "off" (not asked for), "missing" (asked for, and allowed to miss), "not supported"."""
    warnings: tuple[Caution, ...] = ()
    """What was done otherwise than its configuration says (Sandbox(configure=...) may ask for anything)."""

    @property
    def ok(self) -> bool:
        """It ended by itself, with status 0, within its limits."""
        return self.code == 0 and not self.timed_out and not self.oom

    @property
    def text(self) -> str:
        """Its standard output as UTF-8, what is none replaced."""
        return self.out.decode(errors="replace")


class Session:
    """Made with begin(), read until `ended`, ended with finish(); close() at any time leaves nothing behind."""

    def __init__(self, args: tuple[str, ...], layers: dict[str, str], max_output: int, new_keyring: bool = True) -> None:
        self.args, self.layers, self.max_output, self.new_keyring = args, layers, max_output, new_keyring
        self.readers: dict[int, str] = {}
        self.pidfd = -1
        self.timed_out = self.truncated = False
        self.captured: dict[str, list[bytes]] = {name: [] for name in STREAMS}
        self._sizes = dict.fromkeys(STREAMS, 0)
        self._container: Container | None = None
        self._started = self._wall = 0.0

    def begin(self, bundle: Bundle, id: str, root: str, input: bytes | None) -> None:
        """Makes the container and starts it. Where that fails, nothing is left."""
        ours: list[int] = []
        try:
            ours.append(_stdin(input))
            for name in STREAMS:
                reader, writer = os.pipe()
                self.readers[reader] = name
                ours.append(writer)
                os.set_blocking(reader, False)
                os.fchmod(writer, 0o666)  # the program may open /dev/stdout again, as another user
            self._container = Container.create(bundle, id, root, stdio=(ours[0], ours[1], ours[2]), new_keyring=self.new_keyring)
            self.pidfd = self._container.pidfd()
            self._started = time.monotonic()
            self._container.start()
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in ours:
                os.close(descriptor)

    def read(self, descriptor: int) -> tuple[str, bytes] | None:
        """What there is to read now: (stream, data); None where there is nothing. The end of a stream takes it from `readers`."""
        name = self.readers[descriptor]
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return None
        if not data:
            del self.readers[descriptor]
            os.close(descriptor)
            return None
        return name, data

    def keep(self, name: str, data: bytes) -> None:
        """For the result, up to max_output bytes of each stream."""
        room = self.max_output - self._sizes[name]
        if len(data) > room:
            self.truncated = True
            data = data[:room]
        if data:
            self._sizes[name] += len(data)
            self.captured[name].append(data)

    def kill(self, timed_out: bool = False) -> None:
        """Ends every process of it: the first one's end is that of its pid namespace."""
        self.timed_out = self.timed_out or timed_out
        if self._container is not None:
            try:
                self._container.kill("KILL")
            except StateError:  # it has ended by itself
                pass

    def stopped(self) -> None:
        """To be called when the pidfd has become readable."""
        self._wall = time.monotonic() - self._started

    def finish(self) -> Result:
        """After stopped() and the last read(): deletes the container."""
        assert self._container is not None, "begun"
        ended = self._container.ended() or Ended(None)
        oom, peak, denied = self._told_by_cgroups()
        warnings = self._container.warnings
        self.close()
        if ended.signal == _SIGSYS:
            denied["seccomp"] = 1
        return Result(
            args=self.args,
            code=-1 if ended.code is None else ended.code,
            signal=ended.signal,
            out=b"".join(self.captured["stdout"]),
            err=b"".join(self.captured["stderr"]),
            truncated=self.truncated,
            oom=oom,
            timed_out=self.timed_out,
            wall=self._wall,
            usage=ended.usage,
            memory_peak=peak,
            denied=denied,
            layers=dict(self.layers),
            warnings=warnings,
        )

    def _told_by_cgroups(self) -> tuple[bool, int | None, dict[str, int]]:
        assert self._container is not None
        with lifecycle.opened(self._container.root, self._container.id) as record:
            cgroups = Cgroups.of(record)
        kills, peak, denied = cgroups.oom_kills(), cgroups.memory_peak(), cgroups.denied()
        if self.layers.get("memory") != "applied":  # then the cgroup is one that others are in, too
            return False, None, {}
        return bool(kills), peak, denied

    def close(self) -> None:
        """Kills what runs, deletes the container, closes what is open; idempotent."""
        container, self._container = self._container, None
        try:
            if container is not None:
                container.delete(force=True)
        finally:
            if container is not None:
                container.close()
            descriptors, self.readers = list(self.readers), {}
            if self.pidfd >= 0:
                descriptors.append(self.pidfd)
                self.pidfd = -1
            for descriptor in descriptors:
                os.close(descriptor)


def _stdin(input: bytes | None) -> int:
    """A descriptor to read `input` from, and nothing else to be done with."""
    if not input:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    file = memory_file("stdin", input)
    try:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file
