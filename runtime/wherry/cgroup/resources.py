# SPDX-License-Identifier: Apache-2.0
"""linux.resources as an ordered list of (controller, file, value, flags, pointer), for cgroup v1 and v2. Pure.

Conversions between the two follow the runtime specification's document on cgroup v2 and, where it is silent, what runc does
(opencontainers/cgroups); each deviation is said beside the rule. Kernel: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from ..errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Write = tuple[str, str, str, int, str]
    Add = Callable[[Write], None]
    Section = dict[str, Any]

POINTER = "/linux/resources"

# enum wherry_write_flags of plan.h; a unit test compares them
MISSING_OK = 1
IGNORE = 2
ALTERNATIVE = 4  # only where the write before it found no such file

DEFAULT_PERIOD = 100000  # microseconds: the kernel's default of cpu.max


def v1_writes(resources: "Section") -> "list[Write]":
    """Files of cgroup v1 in the order in which they are written into a fresh cgroup; device rules are device_writes()."""
    return _collect(resources, _V1)


def v2_writes(resources: "Section") -> "list[Write]":
    """Files of cgroup v2; `unified` comes last, so it wins. The device program is devices.program()."""
    return _collect(resources, _V2)


def controllers_of(writes: "list[Write]") -> "list[str]":
    """The controllers that a list of writes needs, in order of first use."""
    found: "list[str]" = []
    for write in writes:
        if write[0] not in found:
            found.append(write[0])
    return found


def _collect(resources: "Section", table: "tuple[tuple[str, Callable[[Any, Add], None]], ...]") -> "list[Write]":
    writes: "list[Write]" = []
    for section, make in table:
        given = resources.get(section)
        if given:
            make(given, writes.append)
    return writes


def weight_of_shares(shares: int) -> int:
    """cpu.shares (2..262144) as cpu.weight (1..10000), the quadratic formula of runc, crun and youki since 2025; 0 = unset."""
    if shares <= 2:
        return 1 if shares else 0
    if shares >= 262144:
        return 10000
    logarithm = _log2(shares)
    exponent = (logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34
    value = 10.0**exponent
    whole = int(value)
    return whole if whole == value else whole + 1


def io_weight_of(weight: int) -> int:
    """blockIO.weight (10..1000) as io.weight (1..10000)."""
    return 1 + (weight - 10) * 9999 // 990


def swap_of(limit: "int | None", swap: "int | None") -> "str | None":
    """memory.swap (memory and swap together, as v1 counts) as memory.swap.max; None = leave. Raises ConfigError."""
    pointer = f"{POINTER}/memory/swap"
    if not swap:  # unset; 0 is "unset" in runc, and Docker writes it so
        return "max" if limit == -1 else None
    if swap == -1:
        return "max"
    if limit == -1:
        return str(swap)
    if not limit:
        raise ConfigError("memory.swap needs memory.limit on cgroup v2", code="WHERRY-CONFIG-VALUE", pointer=pointer)
    if swap < limit:
        raise ConfigError("memory.swap is memory and swap together, it cannot be less than memory.limit", code="WHERRY-CONFIG-VALUE", pointer=pointer)
    return str(swap - limit)


def _log2(number: int) -> float:
    from math import log2

    return log2(number)


def _unlimited(value: int) -> str:
    return "max" if value < 0 else str(value)


# Each takes its section and `add`, which appends one write. The config has been checked (oci.checks).


def _v1_memory(memory: "dict[str, int]", add: "Add") -> None:
    base = f"{POINTER}/memory/"
    for key, file, flags in (
        ("limit", "memory.limit_in_bytes", 0),
        ("reservation", "memory.soft_limit_in_bytes", 0),
    ):
        if memory.get(key):
            add(("memory", file, str(memory[key]), flags, base + key))
    swap = memory.get("swap")
    if not swap and memory.get("limit") == -1:
        swap = -1
    if swap:  # without swap accounting the file is missing: no limit on what cannot be counted is what is asked with -1 only
        flags = MISSING_OK if swap < 0 else 0
        add(("memory", "memory.memsw.limit_in_bytes", str(swap), flags, base + "swap"))
    if memory.get("swappiness") is not None:
        add(("memory", "memory.swappiness", str(memory["swappiness"]), 0, base + "swappiness"))
    if memory.get("disableOOMKiller"):
        add(("memory", "memory.oom_control", "1", 0, base + "disableOOMKiller"))
    if memory.get("useHierarchy"):  # always on in newer kernels, where the file is gone or refuses
        add(("memory", "memory.use_hierarchy", "1", MISSING_OK | IGNORE, base + "useHierarchy"))


def _v2_memory(memory: "dict[str, int]", add: "Add") -> None:
    base = f"{POINTER}/memory/"
    limit = memory.get("limit")
    swap = swap_of(limit, memory.get("swap"))
    if limit:
        add(("memory", "memory.max", _unlimited(limit), 0, base + "limit"))
    if swap is not None:  # no file without swap accounting: no swap at all and unlimited swap are then as asked
        flags = MISSING_OK if swap in ("max", "0") else 0
        add(("memory", "memory.swap.max", swap, flags, base + "swap"))
    if memory.get("reservation"):
        add(("memory", "memory.low", _unlimited(memory["reservation"]), 0, base + "reservation"))


def _v1_cpu(cpu: "dict[str, int]", add: "Add") -> None:
    for key, controller, file in (
        ("shares", "cpu", "cpu.shares"),
        ("realtimePeriod", "cpu", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu", "cpu.rt_runtime_us"),
        ("period", "cpu", "cpu.cfs_period_us"),
        ("quota", "cpu", "cpu.cfs_quota_us"),
    ):
        if cpu.get(key):
            add((controller, file, str(cpu[key]), 0, f"{POINTER}/cpu/{key}"))
    _burst(cpu, "cpu.cfs_burst_us", add)
    if cpu.get("idle") is not None:
        add(("cpu", "cpu.idle", str(cpu["idle"]), MISSING_OK if not cpu["idle"] else 0, f"{POINTER}/cpu/idle"))
    _cpuset(cpu, add)


def _v2_cpu(cpu: "dict[str, int]", add: "Add") -> None:
    for key in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(key):
            raise ConfigError(
                f"cpu.{key} cannot be applied: cgroup v2 has no realtime limits", code="WHERRY-HOST-CGROUP", pointer=f"{POINTER}/cpu/{key}"
            )
    if cpu.get("idle") is not None:
        add(("cpu", "cpu.idle", str(cpu["idle"]), MISSING_OK if not cpu["idle"] else 0, f"{POINTER}/cpu/idle"))
    if cpu.get("shares") and not cpu.get("idle"):  # the kernel refuses a weight in an idle cgroup
        add(("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"])), 0, f"{POINTER}/cpu/shares"))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        first = str(quota) if quota and quota > 0 else "max"
        place = "quota" if quota else "period"
        add(("cpu", "cpu.max", f"{first} {period or DEFAULT_PERIOD}", 0, f"{POINTER}/cpu/{place}"))
    _burst(cpu, "cpu.max.burst", add)
    _cpuset(cpu, add)


def _burst(cpu: "Section", file: str, add: "Add") -> None:
    """A burst of 0 takes one away; kernels before 5.14 know of none."""
    if cpu.get("burst") is not None:
        add(("cpu", file, str(cpu["burst"]), 0 if cpu["burst"] else MISSING_OK, f"{POINTER}/cpu/burst"))


def _cpuset(cpu: "Section", add: "Add") -> None:
    for key in ("cpus", "mems"):
        if cpu.get(key):
            add(("cpuset", f"cpuset.{key}", str(cpu[key]), 0, f"{POINTER}/cpu/{key}"))


def _pids(pids: "dict[str, int]", add: "Add") -> None:
    limit = pids.get("limit")
    if limit is not None:  # Podman writes 0 for "no limit", and crun reads it so
        add(("pids", "pids.max", str(limit) if limit > 0 else "max", 0, f"{POINTER}/pids/limit"))


_THROTTLE = (  # key, v1 file, v2 name in io.max
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _v1_block(block: "Section", add: "Add") -> None:
    base = f"{POINTER}/blockIO/"
    for key, name in (("weight", "weight"), ("leafWeight", "leaf_weight")):
        if block.get(key):
            _either(add, "blkio", (f"blkio.{name}", f"blkio.bfq.{name}"), str(block[key]), base + key)
    for number, device in enumerate(block.get("weightDevice") or ()):
        for key, name in (("weight", "weight_device"), ("leafWeight", "leaf_weight_device")):
            if device.get(key):
                line = f"{device['major']}:{device['minor']} {device[key]}"
                _either(add, "blkio", (f"blkio.{name}", f"blkio.bfq.{name}"), line, f"{base}weightDevice/{number}/{key}")
    for key, file, _ in _THROTTLE:
        for number, device in enumerate(block.get(key) or ()):
            line = f"{device['major']}:{device['minor']} {device['rate']}"
            add(("blkio", file, line, 0, f"{base}{key}/{number}"))


def _v2_block(block: "Section", add: "Add") -> None:
    base = f"{POINTER}/blockIO/"
    if block.get("leafWeight"):
        raise ConfigError("blockIO.leafWeight cannot be applied: cgroup v2 has none", code="WHERRY-HOST-CGROUP", pointer=base + "leafWeight")
    weight = block.get("weight")
    if weight:
        add(("io", "io.bfq.weight", str(weight), MISSING_OK, base + "weight"))
        add(("io", "io.weight", f"default {io_weight_of(weight)}", ALTERNATIVE, base + "weight"))
    for number, device in enumerate(block.get("weightDevice") or ()):
        pointer = f"{base}weightDevice/{number}"
        if device.get("leafWeight"):
            raise ConfigError("leafWeight cannot be applied: cgroup v2 has none", code="WHERRY-HOST-CGROUP", pointer=pointer + "/leafWeight")
        if device.get("weight"):
            place = f"{device['major']}:{device['minor']}"
            add(("io", "io.bfq.weight", f"{place} {device['weight']}", MISSING_OK, pointer))
            add(("io", "io.weight", f"{place} {io_weight_of(device['weight'])}", ALTERNATIVE, pointer))
    for key, _, name in _THROTTLE:
        for number, device in enumerate(block.get(key) or ()):
            rate = device["rate"] or "max"
            add(("io", "io.max", f"{device['major']}:{device['minor']} {name}={rate}", 0, f"{base}{key}/{number}"))


def _either(add: "Add", controller: str, files: "tuple[str, str]", value: str, pointer: str) -> None:
    add((controller, files[0], value, MISSING_OK, pointer))
    add((controller, files[1], value, ALTERNATIVE, pointer))


def _v1_hugepages(limits: "list[Section]", add: "Add") -> None:
    for number, item in enumerate(limits):
        pointer = f"{POINTER}/hugepageLimits/{number}"
        add(("hugetlb", f"hugetlb.{item['pageSize']}.limit_in_bytes", str(item["limit"]), 0, pointer))
        add(("hugetlb", f"hugetlb.{item['pageSize']}.rsvd.limit_in_bytes", str(item["limit"]), MISSING_OK, pointer))


def _v2_hugepages(limits: "list[Section]", add: "Add") -> None:
    for number, item in enumerate(limits):
        pointer = f"{POINTER}/hugepageLimits/{number}"
        add(("hugetlb", f"hugetlb.{item['pageSize']}.max", str(item["limit"]), 0, pointer))
        add(("hugetlb", f"hugetlb.{item['pageSize']}.rsvd.max", str(item["limit"]), MISSING_OK, pointer))


def _v1_network(network: "Section", add: "Add") -> None:
    if network.get("classID"):
        add(("net_cls", "net_cls.classid", str(network["classID"]), 0, f"{POINTER}/network/classID"))
    for number, item in enumerate(network.get("priorities") or ()):
        line = f"{item['name']} {item['priority']}"
        add(("net_prio", "net_prio.ifpriomap", line, 0, f"{POINTER}/network/priorities/{number}"))


def _v2_network(network: "Section", add: "Add") -> None:
    """No equivalent on v2; the specification's conversion table lets a runtime ignore it, as runc and crun do."""


def _rdma(rdma: "dict[str, dict[str, int]]", add: "Add") -> None:
    for name, item in rdma.items():
        parts = [name]
        if item.get("hcaHandles") is not None:
            parts.append(f"hca_handle={item['hcaHandles']}")
        if item.get("hcaObjects") is not None:
            parts.append(f"hca_object={item['hcaObjects']}")
        add(("rdma", "rdma.max", " ".join(parts), 0, f"{POINTER}/rdma/{name.replace('~', '~0').replace('/', '~1')}"))


def _v1_unified(unified: "dict[str, str]", add: "Add") -> None:
    raise ConfigError("invalid configuration: unified needs cgroup v2, this host has cgroup v1", code="WHERRY-HOST-CGROUP", pointer=f"{POINTER}/unified")


def _v2_unified(unified: "dict[str, str]", add: "Add") -> None:
    for file, value in unified.items():
        pointer = f"{POINTER}/unified/{file.replace('~', '~0').replace('/', '~1')}"
        controller = file.partition(".")[0]
        for line in str(value).splitlines() or [""]:  # the kernel takes one entry a write
            add((controller, file, line, 0, pointer))


_V1 = (
    ("cpu", _v1_cpu),
    ("memory", _v1_memory),
    ("pids", _pids),
    ("blockIO", _v1_block),
    ("hugepageLimits", _v1_hugepages),
    ("network", _v1_network),
    ("rdma", _rdma),
    ("unified", _v1_unified),
)
_V2 = (
    ("pids", _pids),
    ("memory", _v2_memory),
    ("blockIO", _v2_block),
    ("cpu", _v2_cpu),
    ("hugepageLimits", _v2_hugepages),
    ("network", _v2_network),
    ("rdma", _rdma),
    ("unified", _v2_unified),
)
