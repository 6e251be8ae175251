# SPDX-License-Identifier: Apache-2.0
"""stats: samples of containers, from the same files as events, and what is made of them: rows of a table, Prometheus text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from wherry.container.execute import cgroups_of
from wherry.container.gc import container_ids
from wherry.container.lifecycle import opened
from wherry.container.stats import oom_kills, stats_of
from wherry.errors import WherryError, refused
from wherry.kernel.native import STATUS_NAMES

RUNNING = ("created", "running", "paused")
_UNLIMITED = 1 << 62  # v1 says a little less than 2^63 where there is no limit
COLUMNS = ("ID", "STATUS", "CPU %", "CPU TIME", "MEMORY", "LIMIT", "MEM %", "PIDS", "READ", "WRITTEN", "OOM KILLS")


class Sample:
    """One container at one moment. `data` is what `events --stats` prints."""

    __slots__ = ("at", "data", "id", "oom_kills", "status")

    def __init__(self, id: str, status: str, data: dict[str, Any], kills: int, at: float) -> None:
        self.id, self.status, self.data, self.oom_kills, self.at = id, status, data, kills, at

    def document(self) -> dict[str, Any]:
        return {"type": "stats", "id": self.id, "status": self.status, "oomKills": self.oom_kills, "data": self.data}

    def cpu_seconds(self) -> float:
        return float(self.data["cpu"]["usage"]["total"]) / 1e9

    def block(self, key: str, operation: str) -> int:
        return sum(entry["value"] for entry in self.data["blkio"].get(key, ()) if entry["op"] == operation)


def sample(root: str, id: str) -> Sample:
    """StateError where the container is not running."""
    with opened(root, id) as container:
        status = STATUS_NAMES[container.status()]
        if status not in RUNNING:
            raise refused("events", status, id)
        cgroups = cgroups_of(container)
        return Sample(id, status, stats_of(cgroups), oom_kills(cgroups), time.monotonic())


def samples(root: str, ids: Iterable[str]) -> list[Sample]:
    """Of the named containers, or of all that run where none is named. Who has ended meanwhile is left out."""
    found = []
    for id in list(ids) or container_ids(root):
        try:
            found.append(sample(root, id))
        except WherryError:
            continue
    return found


def follow(root: str, ids: list[str], interval: float) -> Iterator[list[Sample]]:
    """Samples at every interval; ends when the last of the named containers has, or never where none is named."""
    due = time.monotonic()
    while True:
        found = samples(root, ids)
        if ids and not found:
            return
        yield found
        due += interval
        time.sleep(max(due - time.monotonic(), 0))


def require(root: str, ids: Iterable[str]) -> None:
    """The error of the first named container that does not exist or does not run."""
    for id in ids:
        sample(root, id)


# ---- a table


def row(now: Sample, before: Sample | None) -> list[str]:
    """`before`: an earlier sample of the same container, for what is used at this moment."""
    memory = now.data["memory"]["usage"]
    limited = 0 < memory["limit"] < _UNLIMITED
    share = (now.cpu_seconds() - before.cpu_seconds()) / (now.at - before.at) if before and now.at > before.at else None
    return [
        now.id,
        now.status,
        "" if share is None else f"{share * 100:.1f}",
        duration(now.cpu_seconds()),
        size(memory["usage"]),
        size(memory["limit"]) if limited else "none",
        f"{memory['usage'] * 100 / memory['limit']:.1f}" if limited else "",
        f"{now.data['pids']['current']}/{now.data['pids']['limit'] or 'none'}",
        size(now.block("ioServiceBytesRecursive", "Read")),
        size(now.block("ioServiceBytesRecursive", "Write")),
        str(now.oom_kills),
    ]


def size(value: int) -> str:
    """1.5M of 1572864."""
    number, unit = float(value), ""
    for unit in ("", "K", "M", "G", "T", "P"):
        if number < 1024 or unit == "P":
            break
        number /= 1024
    return f"{number:.1f}{unit}" if unit and number < 100 else f"{number:.0f}{unit}"


def duration(seconds: float) -> str:
    """0.25s, 12.5s, 3m07s, 5h02m."""
    if seconds < 60:
        return f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.1f}s"
    minutes = int(seconds // 60)
    return f"{minutes}m{int(seconds % 60):02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


# ---- Prometheus

_SOURCES: tuple[tuple[str, str, str, tuple[str, ...], float], ...] = (
    # name, type, help, path in the document, factor
    ("cpu_usage_seconds_total", "counter", "Processor time.", ("cpu", "usage", "total"), 1e-9),
    ("cpu_user_seconds_total", "counter", "Processor time in user mode.", ("cpu", "usage", "user"), 1e-9),
    ("cpu_system_seconds_total", "counter", "Processor time in kernel mode.", ("cpu", "usage", "kernel"), 1e-9),
    ("cpu_periods_total", "counter", "Periods of the quota.", ("cpu", "throttling", "periods"), 1),
    ("cpu_throttled_periods_total", "counter", "Periods in which it was throttled.", ("cpu", "throttling", "throttledPeriods"), 1),
    ("cpu_throttled_seconds_total", "counter", "Time that it was throttled.", ("cpu", "throttling", "throttledTime"), 1e-9),
    ("memory_usage_bytes", "gauge", "Memory in use.", ("memory", "usage", "usage"), 1),
    ("memory_peak_bytes", "gauge", "Most memory that was in use.", ("memory", "usage", "max"), 1),
    ("memory_limit_bytes", "gauge", "Memory limit; absent where there is none.", ("memory", "usage", "limit"), 1),
    ("memory_limit_hits_total", "counter", "How often the limit was met.", ("memory", "usage", "failcnt"), 1),
    ("memory_cache_bytes", "gauge", "Memory that caches files.", ("memory", "cache"), 1),
    ("memory_swap_usage_bytes", "gauge", "Memory and swap in use.", ("memory", "swap", "usage"), 1),
    ("pids_current", "gauge", "Processes and threads.", ("pids", "current"), 1),
    ("pids_limit", "gauge", "Most processes and threads; absent where there is no limit.", ("pids", "limit"), 1),
)
_BLOCK = (
    ("io_bytes_total", "Bytes read and written.", "ioServiceBytesRecursive"),
    ("io_operations_total", "Reads and writes.", "ioServicedRecursive"),
)


def prometheus(found: list[Sample]) -> str:
    """The text exposition format: each metric with all containers below it."""
    lines: list[str] = []
    _metric(lines, "info", "gauge", "Its status.", [({"id": one.id, "status": one.status}, 1) for one in found])
    for name, kind, text, path, factor in _SOURCES:
        _metric(lines, name, kind, text, [({"id": one.id}, value * factor) for one in found if (value := _at(one.data, path)) is not None])
    _metric(lines, "oom_kills_total", "counter", "Processes killed for want of memory.", [({"id": one.id}, one.oom_kills) for one in found])
    for name, text, key in _BLOCK:
        _metric(lines, name, "counter", text, [entry for one in found for entry in _devices(one, key)])
    _metric(
        lines, "pressure_seconds_total", "counter", "Time that processes waited for it.", [entry for one in found for entry in _waits(one)]
    )
    huge = [({"id": one.id, "size": size}, entry["usage"]) for one in found for size, entry in one.data["hugetlb"].items()]
    _metric(lines, "hugetlb_usage_bytes", "gauge", "Huge pages in use.", huge)
    return "".join(f"{line}\n" for line in lines)


def _at(data: dict[str, Any], path: tuple[str, ...]) -> float | None:
    """None: not told by this host, or no limit."""
    value: Any = data
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None or (path[-1] == "limit" and not 0 < value < _UNLIMITED):
        return None
    return float(value)


def _devices(one: Sample, key: str) -> Iterator[tuple[dict[str, str], float]]:
    for entry in one.data["blkio"].get(key, ()):
        if entry["op"] in ("Read", "Write"):
            yield {"id": one.id, "device": f"{entry['major']}:{entry['minor']}", "operation": entry["op"].lower()}, entry["value"]


def _waits(one: Sample) -> Iterator[tuple[dict[str, str], float]]:
    for resource, section in (("cpu", "cpu"), ("memory", "memory"), ("io", "blkio")):
        for kind, values in (one.data[section].get("psi") or {}).items():
            yield {"id": one.id, "resource": resource, "kind": kind}, values["total"] / 1e6


def _metric(lines: list[str], name: str, kind: str, text: str, entries: list[tuple[dict[str, str], float]]) -> None:
    if entries:
        lines += [f"# HELP wherry_{name} {text}", f"# TYPE wherry_{name} {kind}"]
        lines += [f"wherry_{name}{{{_labels(labels)}}} {value:.15g}" for labels, value in entries]


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())  # ids and devices hold nothing that needs escaping
