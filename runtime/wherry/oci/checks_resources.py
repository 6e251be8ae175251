# SPDX-License-Identifier: Apache-2.0
"""Shapes and rules of /linux/resources (what goes beyond devices and pids) and of /linux/sysctl. Loaded when one is there."""

from wherry.oci.shape import I64, U16, U32, U64, Map, Object, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.oci.model import BlockIO, HugepageLimit, Memory
    from wherry.oci.shape import Report

_LIMIT = (-1, I64[1])  # -1 = no limit


def memory_swap(memory: "Memory", place: str, report: "Report") -> None:
    """swap is memory and swap together, so it is never below the memory limit."""
    swap, limit = memory.get("swap", 0), memory.get("limit", 0)
    if swap <= 0 or limit == -1:
        return
    if limit == 0:
        report.error("CONFLICT", f"{place}/swap", "swap (which is memory + swap) needs a memory limit", f"add {place}/limit")
    elif swap < limit:
        message = f"swap {swap} (which is memory + swap) is below the memory limit {limit}"
        report.error("CONFLICT", f"{place}/swap", message, "give their sum, or the limit itself for no swap")


def memory_reservation(memory: "Memory", place: str, report: "Report") -> None:
    reservation, limit = memory.get("reservation", 0), memory.get("limit", 0)
    if 0 < limit < reservation:
        report.warn("CONFLICT", f"{place}/reservation", f"the reservation {reservation} is above the limit {limit}")


def memory_kernel(memory: "Memory", place: str, report: "Report") -> None:
    for name in ("kernel", "kernelTCP"):
        if memory.get(name):
            report.warn("DEPRECATED", f"{place}/{name}", "the kernel has given up this limit: it is ignored")


MEMORY = Object(
    {
        "limit": _LIMIT,
        "reservation": _LIMIT,
        "swap": _LIMIT,
        "kernel": _LIMIT,
        "kernelTCP": _LIMIT,
        "swappiness": (0, 200),
        "disableOOMKiller": bool,
        "useHierarchy": bool,
        "checkBeforeUpdate": bool,
    },
    rules=(memory_swap, memory_reservation, memory_kernel),
)


def processor_lists(cpu: "Any", place: str, report: "Report") -> None:
    for name in ("cpus", "mems", "initial", "final"):
        value = cpu.get(name)
        if value and not is_list(value):
            report.error("VALUE", f"{place}/{name}", f'"{value}" is not a list such as 0-3,7')


MOST_PROCESSORS = 1 << 16


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < MOST_PROCESSORS


def is_list(text: str) -> bool:
    """A list of numbers and ranges as the kernel reads and prints it. It skips blanks around the elements and takes strides. No kernel
    has as many processors or nodes as the bound, and whoever makes a mask of the list must not run out of memory."""
    for element in text.strip().split(","):
        span = element.strip().partition(":")[0]
        low, dash, high = span.partition("-")
        if not is_number(low) or (dash and not (is_number(high) and int(low) <= int(high))):
            return span in ("all", "N")
    return True


def cpu_burst(cpu: "Any", place: str, report: "Report") -> None:
    burst, quota = cpu.get("burst", 0), cpu.get("quota", 0)
    if burst and 0 < quota < burst:
        report.error("CONFLICT", f"{place}/burst", f"the burst {burst} is above the quota {quota}")


CPU = Object(
    {
        "shares": U64,
        "quota": I64,
        "burst": U64,
        "period": U64,
        "realtimeRuntime": I64,
        "realtimePeriod": U64,
        "cpus": str,
        "mems": str,
        "idle": (0, 1),
    },
    rules=(processor_lists, cpu_burst),
)


def weights(block: "BlockIO", place: str, report: "Report") -> None:
    """10 to 1000; 0 = not set, as engines write it."""
    entries: "list[tuple[str, Any]]" = [(place, block)]
    entries += ((f"{place}/weightDevice/{index}", entry) for index, entry in enumerate(block.get("weightDevice", ())))
    for where, entry in entries:
        for name in ("weight", "leafWeight"):
            if name in entry and not (entry[name] == 0 or 10 <= entry[name] <= 1000):
                report.error("RANGE", f"{where}/{name}", f"{entry[name]} is not within 10 to 1000")


_NUMBERS = {"major": I64, "minor": I64}
_THROTTLES = [Object({**_NUMBERS, "rate": U64}, ("major", "minor", "rate"))]
BLOCK_IO = Object(
    {
        "weight": U16,
        "leafWeight": U16,
        "weightDevice": [Object({**_NUMBERS, "weight": U16, "leafWeight": U16}, ("major", "minor"))],
        "throttleReadBpsDevice": _THROTTLES,
        "throttleWriteBpsDevice": _THROTTLES,
        "throttleReadIOPSDevice": _THROTTLES,
        "throttleWriteIOPSDevice": _THROTTLES,
    },
    rules=(weights,),
)


def page_size(limit: "HugepageLimit", place: str, report: "Report") -> None:
    """It becomes part of a file name: digits, then KB, MB or GB, nothing else."""
    size = limit["pageSize"]
    number = size[:-2]
    if size[-2:] not in ("KB", "MB", "GB") or not (number.isascii() and number.isdigit()) or number[0] == "0":
        report.error("VALUE", f"{place}/pageSize", f'"{size}" is not a page size', "write a number and KB, MB or GB, such as 2MB")


HUGEPAGE_LIMIT = Object({"pageSize": str, "limit": U64}, ("pageSize", "limit"), (page_size,))


def interface_names(network: "Any", place: str, report: "Report") -> None:
    for index, entry in enumerate(network.get("priorities", ())):
        if not entry["name"] or any(character.isspace() for character in entry["name"]):
            report.error("VALUE", f"{place}/priorities/{index}/name", f'"{entry["name"]}" is not the name of a network interface')


NETWORK = Object(
    {"classID": U32, "priorities": [Object({"name": str, "priority": U32}, ("name", "priority"))]},
    rules=(interface_names,),
)


def rdma_values(devices: "dict[str, dict[str, int]]", place: str, report: "Report") -> None:
    for device, limits in devices.items():
        if "hcaHandles" not in limits and "hcaObjects" not in limits:
            report.error("REQUIRED", f"{place}/{escape(device)}", "needs hcaHandles or hcaObjects")
        if not device or any(character.isspace() for character in device):
            report.error("VALUE", f"{place}/{escape(device)}", f'"{device}" is not the name of a device')


RDMA = Map(Object({"hcaHandles": U32, "hcaObjects": U32}), (rdma_values,))

# Files of a cgroup that are the runtime's own business.
_OWN_FILES = ("cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.subtree_control", "cgroup.type")


def unified_keys(files: "dict[str, str]", place: str, report: "Report") -> None:
    for name in files:
        controller, dot, parameter = name.partition(".")
        if "/" in name or not (controller and dot and parameter):
            report.error("VALUE", f"{place}/{escape(name)}", f'"{name}" is not a file of the form CONTROLLER.PARAMETER')
        elif name in _OWN_FILES:
            report.error("VALUE", f"{place}/{escape(name)}", f"{name} is the runtime's own, a configuration may not write it")


UNIFIED = Map(str, (unified_keys,))


# ---- sysctl

_IPC = frozenset(f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split())


def sysctl_path(key: str) -> "str | None":
    """The path below /proc/sys, or None where the key is none. As in sysctl(8): the first separator of the key is the one that
    counts, the other one stands for itself (net.ipv4.conf.eth0/100.forwarding = net/ipv4/conf/eth0.100/forwarding)."""
    dot, slash = key.find("."), key.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        key = key.translate({ord("."): "/", ord("/"): "."})
    parts = key.split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") or not part.isprintable() or " " in part for part in parts):
        return None
    return key


def sysctl_namespace(path: str) -> "str | None":
    """The namespace type that confines the sysctl at this path, or None where nothing does."""
    first, _, rest = path.partition("/")
    if first == "net":
        return "network"
    if first == "user":
        return "user"
    if path.startswith("fs/mqueue/") or (first == "kernel" and f"kernel.{rest}" in _IPC):
        return "ipc"
    return "uts" if path == "kernel/domainname" else None


def sysctls(settings: "dict[str, str]", spaces: "dict[str, str]", report: "Report") -> None:
    for key, value in settings.items():
        place = f"/linux/sysctl/{escape(key)}"
        path = sysctl_path(key)
        if path is None:
            report.error("SYSCTL", place, f'"{key}" is not the name of a sysctl')
            continue
        if path == "kernel/hostname":
            report.error("SYSCTL", place, "the host name is not set by a sysctl", "use /hostname")
            continue
        space = sysctl_namespace(path)
        if space is None:
            report.error("SYSCTL", place, f"{key} is not confined by a namespace: it would change the host")
        elif space not in spaces:
            report.error(
                "SYSCTL",
                place,
                f"{key} needs a {space} namespace of the container's own",
                f'add {{"type": "{space}"}} to /linux/namespaces',
            )
        if "\n" in value or "\r" in value:
            report.error("SYSCTL", place, "the value holds a line break")
