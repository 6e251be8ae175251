# SPDX-License-Identifier: Apache-2.0
"""What a container uses, as io.containerd.cgroups.v1.Metrics or v2.Metrics. A file that is not there leaves its field out; "max" is 2^64-1."""

import posix

from wherry.cgroup.files import UNLIMITED, keyed, number, pressure, text
from wherry.container.execute import cgroups_of
from wherry.container.lifecycle import opened
from wherry.errors import NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from wherry.plan.execute import Cgroup

    Message = dict[str, Any]

_TICK = 10_000_000  # nanoseconds of USER_HZ

_V2_MEMORY = """anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon inactive_file active_file
unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree
pglazyfreed thp_fault_alloc thp_collapse_alloc workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file""".split()

_V1_MEMORY = """cache rss rss_huge mapped_file dirty writeback inactive_anon active_anon inactive_file active_file unevictable total_cache total_rss
total_rss_huge total_mapped_file total_dirty total_writeback total_inactive_anon total_active_anon total_inactive_file total_active_file
total_unevictable""".split()
_V1_FAULTS = {"pgpgin": "pg_pg_in", "pgpgout": "pg_pg_out", "pgfault": "pg_fault", "pgmajfault": "pg_maj_fault"}
_V1_LIMITS = {"hierarchical_memory_limit": "hierarchical_memory_limit", "hierarchical_memsw_limit": "hierarchical_swap_limit"}
_V1_ENTRIES = {"usage": "memory", "swap": "memory.memsw", "kernel": "memory.kmem", "kernel_tcp": "memory.kmem.tcp"}
_V1_BLKIO = {
    "io_service_bytes_recursive": ("throttle.io_service_bytes_recursive", "io_service_bytes_recursive", "throttle.io_service_bytes"),
    "io_serviced_recursive": ("throttle.io_serviced_recursive", "io_serviced_recursive", "throttle.io_serviced"),
    "io_queued_recursive": ("io_queued_recursive",),
    "io_service_time_recursive": ("io_service_time_recursive",),
    "io_wait_time_recursive": ("io_wait_time_recursive",),
    "io_merged_recursive": ("io_merged_recursive",),
    "io_time_recursive": ("time_recursive",),
    "sectors_recursive": ("sectors_recursive",),
}


def metrics(root: str, id: str) -> "tuple[str, Message] | None":
    """The name of the message and its fields; None where there is no cgroup (any more). Reads files: may take its time."""
    try:
        with opened(root, id) as container:
            cgroups = [cgroup for cgroup in cgroups_of(container) if _exists(cgroup.path)]
    except NotFoundError:
        return None
    return of_cgroups(cgroups)


def of_cgroups(cgroups: "Iterable[Cgroup]") -> "tuple[str, Message] | None":
    places = {name: cgroup.path for cgroup in cgroups if not cgroup.v2 for name in cgroup.mount.rpartition("/")[2].split(",")}
    if places:
        return "io.containerd.cgroups.v1.Metrics", _v1(places)
    unified = next((cgroup.path for cgroup in cgroups if cgroup.v2), None)
    return ("io.containerd.cgroups.v2.Metrics", _v2(unified)) if unified else None


# ---- files


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def _some(fields: "Message") -> "Message":
    """What is known."""
    return {name: value for name, value in fields.items() if value is not None and value != {} and value != []}


# ---- cgroup v2


def _v2(path: str) -> "Message":
    events = keyed(f"{path}/memory.events")
    return _some(
        {
            "pids": _some({"current": number(f"{path}/pids.current"), "limit": number(f"{path}/pids.max")}),
            "cpu": _v2_cpu(path),
            "memory": _v2_memory(path),
            "rdma": _rdma(path),
            "io": _v2_io(path),
            "hugetlb": _v2_hugetlb(path),
            "memory_events": {name: events[name] for name in ("low", "high", "max", "oom", "oom_kill", "oom_group_kill") if name in events},
        }
    )


def _v2_cpu(path: str) -> "Message":
    stat = keyed(f"{path}/cpu.stat")
    names = ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec", "nr_bursts", "burst_usec")
    return _some({**{name: stat[name] for name in names if name in stat}, "psi": pressure(f"{path}/cpu.pressure")})


def _v2_memory(path: str) -> "Message":
    stat = keyed(f"{path}/memory.stat")
    files = {"usage": "current", "usage_limit": "max", "max_usage": "peak"}
    files |= {"swap_usage": "swap.current", "swap_limit": "swap.max", "swap_max_usage": "swap.peak"}
    found = {name: stat[name] for name in _V2_MEMORY if name in stat}
    found |= {name: number(f"{path}/memory.{file}") for name, file in files.items()}  # type: ignore[misc]
    return _some({**found, "psi": pressure(f"{path}/memory.pressure")})


def _v2_io(path: str) -> "Message":
    entries = []
    for line in text(f"{path}/io.stat").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if major.isdigit() and minor.isdigit():
            numbers = {name: int(values[name]) for name in ("rbytes", "wbytes", "rios", "wios") if values.get(name, "").isdigit()}
            entries.append({"major": int(major), "minor": int(minor), **numbers})
    return _some({"usage": entries, "psi": pressure(f"{path}/io.pressure")})


def _v2_hugetlb(path: str) -> "list[Message]":
    found = []
    for name in _names(path, "hugetlb.", ".current"):
        prefix = f"{path}/hugetlb.{name}"
        fields = {"current": number(f"{prefix}.current"), "max": number(f"{prefix}.max"), "pagesize": name}
        found.append(_some({**fields, "failcnt": keyed(f"{prefix}.events").get("max")}))
    return found


def _names(path: str, head: str, tail: str) -> "list[str]":
    """What stands between in the names of files: of hugetlb.2MB.current 2MB."""
    try:
        files = posix.listdir(path)
    except OSError:
        return []
    return sorted(
        middle
        for file in files
        if file.startswith(head) and file.endswith(tail) and "." not in (middle := file[len(head) : len(file) - len(tail)]) and middle
    )


def _rdma(path: str) -> "Message":
    return _some({name: _rdma_entries(f"{path}/rdma.{file}") for name, file in (("current", "current"), ("limit", "max"))})


def _rdma_entries(path: str) -> "list[Message]":
    found = []
    for line in text(path).splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        numbers = {key: 0xFFFFFFFF if values[name] == "max" else int(values[name]) for key, name in _RDMA.items() if name in values}
        found.append({"device": device, **numbers})
    return found


_RDMA = {"hca_handles": "hca_handle", "hca_objects": "hca_object"}


# ---- cgroup v1


def _v1(places: "dict[str, str]") -> "Message":
    memory, pids = places.get("memory"), places.get("pids")
    control = keyed(f"{memory}/memory.oom_control") if memory else {}
    return _some(
        {
            "hugetlb": _v1_hugetlb(places["hugetlb"]) if "hugetlb" in places else [],
            "pids": _some({"current": number(f"{pids}/pids.current"), "limit": _limit(f"{pids}/pids.max")}) if pids else {},
            "cpu": _v1_cpu(places),
            "memory": _v1_memory(memory) if memory else {},
            "blkio": _v1_blkio(places["blkio"]) if "blkio" in places else {},
            "rdma": _rdma(places["rdma"]) if "rdma" in places else {},
            "memory_oom_control": {name: control[name] for name in ("oom_kill_disable", "under_oom", "oom_kill") if name in control},
        }
    )


def _limit(path: str) -> "int | None":
    """Of pids, where 0 says that there is none."""
    found = number(path)
    return 0 if found == UNLIMITED else found


def _v1_cpu(places: "dict[str, str]") -> "Message":
    usage: "Message" = {}
    if "cpuacct" in places:
        path = places["cpuacct"]
        ticks = keyed(f"{path}/cpuacct.stat")
        usage = {"total": number(f"{path}/cpuacct.usage"), "per_cpu": [int(word) for word in text(f"{path}/cpuacct.usage_percpu").split()]}
        usage |= {field: ticks[name] * _TICK for field, name in (("kernel", "system"), ("user", "user")) if name in ticks}
    stat = keyed(f"{places['cpu']}/cpu.stat") if "cpu" in places else {}
    names = {"periods": "nr_periods", "throttled_periods": "nr_throttled", "throttled_time": "throttled_time"}
    return _some({"usage": _some(usage), "throttling": {field: stat[name] for field, name in names.items() if name in stat}})


def _v1_memory(path: str) -> "Message":
    stat = keyed(f"{path}/memory.stat")
    found: "Message" = {name: stat[name] for name in _V1_MEMORY if name in stat}
    for file, field in _V1_FAULTS.items():
        found |= {prefix + field: stat[prefix + file] for prefix in ("", "total_") if prefix + file in stat}
    found |= {field: stat[name] for name, field in _V1_LIMITS.items() if name in stat}
    for field, prefix in _V1_ENTRIES.items():
        files = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
        found[field] = _some({name: number(f"{path}/{prefix}.{file}") for name, file in files.items()})
    return _some(found)


def _v1_blkio(path: str) -> "Message":
    """8:0 Read 4096; the sum at the end of a file is left out."""
    found: "Message" = {}
    for field, files in _V1_BLKIO.items():
        lines = next((whole for file in files if (whole := text(f"{path}/blkio.{file}"))), "").splitlines()
        entries = []
        for line in lines:
            words = line.replace(":", " ").split()
            if len(words) >= 3 and words[0].isdigit() and words[1].isdigit() and words[-1].isdigit():
                entry = {"op": words[2] if len(words) == 4 else "", "major": int(words[0]), "minor": int(words[1]), "value": int(words[-1])}
                entries.append({**entry, "device": _device(int(words[0]), int(words[1]))})
        found[field] = entries
    return _some(found)


def _device(major: int, minor: int) -> str:
    for line in text(f"/sys/dev/block/{major}:{minor}/uevent").splitlines():
        if line.startswith("DEVNAME="):
            return "/dev/" + line[8:]
    return ""


def _v1_hugetlb(path: str) -> "list[Message]":
    found = []
    for name in _names(path, "hugetlb.", ".usage_in_bytes"):
        files = {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
        found.append(_some({field: number(f"{path}/hugetlb.{name}.{file}") for field, file in files.items()}) | {"pagesize": name})
    return found
