# SPDX-License-Identifier: Apache-2.0
"""events: what a container uses, in the shape that runc prints it, from the files of either cgroup version."""

import time
from typing import TYPE_CHECKING, Any

from wherry.cgroup.files import UNLIMITED, keyed, number, pressure, text
from wherry.container.execute import cgroups_of
from wherry.container.lifecycle import opened
from wherry.errors import NotFoundError, refused
from wherry.kernel.native import STATUS_NAMES
from wherry.plan.execute import Cgroup
from wherry.plan.scheduling import node_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK = 10_000_000  # nanoseconds of USER_HZ, which is 100 on every architecture that we know
_OPERATIONS = {"rbytes": "Read", "wbytes": "Write", "rios": "Read", "wios": "Write"}


def stats(root: str, id: str) -> dict[str, Any]:
    """The document `data` of an event; StateError where the container is not running."""
    with opened(root, id) as container:
        status = STATUS_NAMES[container.status()]
        if status not in ("created", "running", "paused"):
            raise refused("events", status, id)
        return stats_of(cgroups_of(container))


def events(root: str, id: str, interval: float) -> "Iterator[dict[str, Any]]":
    """Statistics at every interval, and each kill by the kernel for want of memory, until the container has stopped."""
    with opened(root, id) as container:
        if STATUS_NAMES[container.status()] == "stopped":
            raise refused("events", "stopped", id)
        cgroups = cgroups_of(container)
        kills, due = oom_kills(cgroups), time.monotonic() + interval
        while True:
            time.sleep(min(max(due - time.monotonic(), 0.01), 0.1))
            try:
                stopped = STATUS_NAMES[container.status()] == "stopped"
            except NotFoundError:
                stopped = True
            now = oom_kills(cgroups)
            for _ in range(now - kills):
                yield {"type": "oom", "id": id}
            kills = max(now, kills)
            if stopped:
                return
            if time.monotonic() >= due:
                due += interval
                yield {"type": "stats", "id": id, "data": stats_of(cgroups)}


def stats_of(cgroups: "list[Cgroup]") -> dict[str, Any]:
    hierarchies = [cgroup for cgroup in cgroups if not cgroup.v2]
    if hierarchies:
        return _v1({name: cgroup.path for cgroup in hierarchies for name in cgroup.mount.rpartition("/")[2].split(",")})
    return _v2(cgroups[0].path) if cgroups else _v2("/nonexistent")


def oom_kills(cgroups: "list[Cgroup]") -> int:
    for cgroup in cgroups:
        if cgroup.v2:
            found = keyed(f"{cgroup.path}/memory.events")
        elif "memory" in cgroup.mount.rpartition("/")[2].split(","):
            found = keyed(f"{cgroup.path}/memory.oom_control")
        else:
            continue
        if "oom_kill" in found:
            return found["oom_kill"]
    return 0


# ---- files


def _number(path: str) -> int:
    return number(path) or 0


def _with_pressure(section: dict[str, Any], path: str) -> dict[str, Any]:
    found = pressure(path)
    return {**section, "psi": found} if found else section


def _list(path: str) -> list[int]:
    found = text(path).strip()
    if not found:
        return []
    mask = node_mask(found)
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def _page_size(name: str) -> str:
    """2MB of "hugetlb.2MB.max"."""
    return name.split(".")[1]


def _hugetlb(path: str, current: str, most: str, failures: str) -> dict[str, Any]:
    import os

    found = {}
    try:
        names = sorted(os.listdir(path))
    except OSError:
        names = []
    for name in names:
        parts = name.split(".", 2)
        if parts[0] == "hugetlb" and len(parts) == 3 and parts[2] == current:
            size = _page_size(name)
            base = f"{path}/hugetlb.{size}."
            found[size] = {
                "usage": _number(base + current),
                "max": _number(base + most) if most else 0,
                "failcnt": _failures(base, failures),
            }
    return found


def _failures(base: str, name: str) -> int:
    return keyed(base + name).get("max", 0) if name == "events" else _number(base + name)


# ---- version 1


def _v1(path: dict[str, str]) -> dict[str, Any]:
    none = "/nonexistent"
    cpu, account, memory = path.get("cpu", none), path.get("cpuacct", none), path.get("memory", none)
    stat = keyed(f"{memory}/memory.stat")
    pids = path.get("pids", none)
    return {
        "cpu": {"usage": _v1_usage(account), "throttling": _v1_throttling(cpu)},
        "cpuset": _v1_cpuset(path.get("cpuset", none)),
        "memory": {
            "cache": stat.get("cache", 0),
            "usage": _v1_entry(f"{memory}/memory."),
            "swap": _v1_entry(f"{memory}/memory.memsw."),
            "kernel": _v1_entry(f"{memory}/memory.kmem."),
            "kernelTCP": _v1_entry(f"{memory}/memory.kmem.tcp."),
            "raw": stat,
        },
        "pids": _pids(pids),
        "blkio": _v1_block(path.get("blkio", none)),
        "hugetlb": _hugetlb(path.get("hugetlb", none), "usage_in_bytes", "max_usage_in_bytes", "failcnt"),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _v1_usage(account: str) -> dict[str, Any]:
    parts = keyed(f"{account}/cpuacct.stat")
    rows = [[int(word) for word in line.split()] for line in text(f"{account}/cpuacct.usage_all").splitlines()[1:]]
    return {
        "total": _number(f"{account}/cpuacct.usage"),
        "percpu": [int(word) for word in text(f"{account}/cpuacct.usage_percpu").split()],
        "percpu_kernel": [row[2] for row in rows if len(row) > 2],
        "percpu_user": [row[1] for row in rows if len(row) > 2],
        "kernel": parts.get("system", 0) * _TICK,
        "user": parts.get("user", 0) * _TICK,
    }


def _v1_throttling(cpu: str) -> dict[str, int]:
    stat = keyed(f"{cpu}/cpu.stat")
    return {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get("throttled_time", 0),
    }


def _v1_entry(base: str) -> dict[str, int]:
    names = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    return {key: _number(base + name) for key, name in names.items()}


def _v1_cpuset(path: str) -> dict[str, Any]:
    switches = ("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
                "memory_pressure", "sched_load_balance", "sched_relax_domain_level")  # fmt: skip
    numbers = {name: _number(f"{path}/cpuset.{name}") for name in switches}
    return {"cpus": _list(f"{path}/cpuset.cpus"), "mems": _list(f"{path}/cpuset.mems"), **numbers}


_V1_BLOCK = {
    "ioServiceBytesRecursive": ("bfq.io_service_bytes_recursive", "throttle.io_service_bytes_recursive", "throttle.io_service_bytes"),
    "ioServicedRecursive": ("bfq.io_serviced_recursive", "throttle.io_serviced_recursive", "throttle.io_serviced"),
    "ioQueueRecursive": ("bfq.io_queued_recursive",),
    "ioServiceTimeRecursive": ("bfq.io_service_time_recursive",),
    "ioWaitTimeRecursive": ("bfq.io_wait_time_recursive",),
    "ioMergedRecursive": ("bfq.io_merged_recursive",),
    "ioTimeRecursive": ("bfq.time_recursive",),
    "sectorsRecursive": ("bfq.sectors_recursive",),
}


def _v1_block(path: str) -> dict[str, Any]:
    found = {}
    for key, names in _V1_BLOCK.items():
        for name in names:
            entries = list(_v1_lines(text(f"{path}/blkio.{name}")))
            if entries:
                found[key] = entries
                break
    return found


def _v1_lines(text: str) -> "Iterator[dict[str, Any]]":
    """ "8:0 Read 4096", or "8:0 4096"."""
    for line in text.splitlines():
        device, *rest = line.split()
        if ":" in device and rest and rest[-1].isdigit():
            major, minor = device.split(":")
            yield {"major": int(major), "minor": int(minor), "op": rest[0] if len(rest) > 1 else "", "value": int(rest[-1])}


# ---- version 2


def _v2(path: str) -> dict[str, Any]:
    stat, memory = keyed(f"{path}/cpu.stat"), keyed(f"{path}/memory.stat")
    usage = {
        "total": stat.get("usage_usec", 0) * 1000,
        "kernel": stat.get("system_usec", 0) * 1000,
        "user": stat.get("user_usec", 0) * 1000,
    }
    throttling = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get("throttled_usec", 0) * 1000,
    }
    return {
        "cpu": _with_pressure({"usage": usage, "throttling": throttling}, f"{path}/cpu.pressure"),
        "cpuset": {"cpus": _list(f"{path}/cpuset.cpus.effective"), "mems": _list(f"{path}/cpuset.mems.effective")},
        "memory": _with_pressure(_v2_memory(path, memory), f"{path}/memory.pressure"),
        "pids": _pids(path),
        "blkio": _with_pressure(_v2_block(path), f"{path}/io.pressure"),
        "hugetlb": _hugetlb(path, "current", "", "events"),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _v2_memory(path: str, stat: dict[str, int]) -> dict[str, Any]:
    """Swap is told as v1 counts it: memory and swap together."""
    usage = {
        "limit": _number(f"{path}/memory.max"),
        "usage": _number(f"{path}/memory.current"),
        "max": _number(f"{path}/memory.peak"),
        "failcnt": keyed(f"{path}/memory.events").get("max", 0),
    }
    swap_limit, limit = _number(f"{path}/memory.swap.max"), usage["limit"]
    swap = {
        "limit": UNLIMITED if UNLIMITED in (swap_limit, limit) else swap_limit + limit,
        "usage": _number(f"{path}/memory.swap.current") + usage["usage"],
        "max": _number(f"{path}/memory.swap.peak"),
        "failcnt": keyed(f"{path}/memory.swap.events").get("fail", 0),
    }
    nothing = {"limit": 0, "failcnt": 0}
    return {"cache": stat.get("file", 0), "usage": usage, "swap": swap, "kernel": nothing, "kernelTCP": nothing, "raw": stat}


def _v2_block(path: str) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in text(f"{path}/io.stat").splitlines():
        device, *pairs = line.split()
        if ":" not in device:
            continue
        major, minor = (int(part) for part in device.split(":"))
        for name, value in (pair.split("=", 1) for pair in pairs if "=" in pair):
            if name in _OPERATIONS:
                key = "ioServiceBytesRecursive" if name.endswith("bytes") else "ioServicedRecursive"
                found.setdefault(key, []).append({"major": major, "minor": minor, "op": _OPERATIONS[name], "value": int(value)})
    return found


def _pids(path: str) -> dict[str, int]:
    limit = _number(f"{path}/pids.max")
    return {"current": _number(f"{path}/pids.current"), "limit": 0 if limit == UNLIMITED else limit}
