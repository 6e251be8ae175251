# SPDX-License-Identifier: Apache-2.0
"""What a container's cgroups tell of it: kills for want of memory, its peak, forks refused. Files that are not there tell nothing."""

from __future__ import annotations

import os

from wherry.kernel.native import Container, constants


class Cgroups:
    """The directories in the record of a container. They are gone once it has been deleted: ask before."""

    def __init__(self, paths: list[tuple[str, bool]]) -> None:
        self._paths = paths  # (directory, is it v1?)
        self.v1_memory = self._find("memory.oom_control") != ""

    @classmethod
    def of(cls, record: Container) -> Cgroups:
        kinds = (constants.WHERRY_JOURNAL_CGROUP_V1, constants.WHERRY_JOURNAL_CGROUP_V2)
        states = (constants.WHERRY_JOURNAL_DONE, constants.WHERRY_JOURNAL_FOREIGN)
        entries = [entry for entry in record.journal() if entry.kind in kinds and entry.state in states]
        return cls([(entry.path, entry.kind == constants.WHERRY_JOURNAL_CGROUP_V1) for entry in entries])

    def _find(self, name: str) -> str:
        """The first path of a file of that name."""
        for directory, _ in self._paths:
            if os.path.exists(f"{directory}/{name}"):
                return f"{directory}/{name}"
        return ""

    def _read(self, name: str) -> str:
        path = self._find(name)
        try:
            with open(path or "/dev/null") as file:
                return file.read()
        except OSError:
            return ""

    def _number(self, *names: str) -> int | None:
        for name in names:
            text = self._read(name).strip()
            if text.isdecimal():
                return int(text)
        return None

    def _field(self, name: str, field: str) -> int | None:
        for line in self._read(name).splitlines():
            key, _, value = line.partition(" ")
            if key == field and value.isdecimal():
                return int(value)
        return None

    def oom_kills(self) -> int | None:
        """Processes that the kernel killed because the cgroup had no memory left; None where no memory cgroup tells."""
        found = self._field("memory.events", "oom_kill")
        return self._field("memory.oom_control", "oom_kill") if found is None else found

    def memory_peak(self) -> int | None:
        """Bytes that all processes had at most, page cache included."""
        return self._number("memory.peak", "memory.max_usage_in_bytes")

    def processor_seconds(self) -> float | None:
        """User and system time of all processes."""
        micro = self._field("cpu.stat", "usage_usec")
        if micro is not None:
            return micro / 1e6
        nano = self._number("cpuacct.usage")
        return None if nano is None else nano / 1e9

    def denied(self) -> dict[str, int]:
        """How often a limit stood in the way: forks refused, allocations that met the memory limit, periods without a processor."""
        memory = self._field("memory.events", "max")
        if self.v1_memory:
            memory = max(self._number(name) or 0 for name in ("memory.failcnt", "memory.memsw.failcnt"))
        counts = {
            "pids": self._field("pids.events", "max"),
            "memory": memory,
            "cpu": self._field("cpu.stat", "nr_throttled"),
        }
        return {name: count for name, count in counts.items() if count}

    def watch_memory(self) -> int:
        """A descriptor that is woken at a kill: memory.events itself (priority data), or for v1 an eventfd. -1 = none tells."""
        try:
            if not self.v1_memory:
                path = self._find("memory.events")
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1
            return _eventfd(self._find("memory.oom_control"))
        except OSError:
            return -1


def _eventfd(path: str) -> int:
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            line = f"{event} {control}".encode()
            request = os.open(os.path.dirname(path) + "/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(request, line)
            finally:
                os.close(request)
        finally:
            os.close(control)
    except BaseException:
        os.close(event)
        raise
    return event
