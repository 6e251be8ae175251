# SPDX-License-Identifier: Apache-2.0
"""Shapes and rules of sections that few configurations have. Loaded when one of them is there."""

from wherry.oci.checks_resources import is_list, processor_lists
from wherry.oci.shape import I32, I64, U32, U64, Map, Object, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.oci.model import Device, Hook, IntelRdt, IoPriority, Linux, MemoryPolicy, Scheduler
    from wherry.oci.shape import Report

# ---- hooks


def hook_path(hook: "Hook", place: str, report: "Report") -> None:
    if hook["path"][:1] != "/":
        report.error("HOOK", f"{place}/path", f'"{hook["path"]}" is not an absolute path', "begin it with /")


def hook_env(hook: "Hook", place: str, report: "Report") -> None:
    for index, entry in enumerate(hook.get("env", ())):
        if entry.find("=") < 1:
            report.warn("VALUE", f"{place}/env/{index}", "not of the form NAME=value")


def prestart(hooks: "Any", place: str, report: "Report") -> None:
    if hooks.get("prestart"):
        report.warn("DEPRECATED", f"{place}/prestart", "deprecated since 1.0.1", "use createRuntime, createContainer or startContainer")


HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_HOOK = Object({"path": str, "args": [str], "env": [str], "timeout": (1, I32[1])}, ("path",), (hook_path, hook_env))
HOOKS = Object({kind: [_HOOK] for kind in HOOK_KINDS}, rules=(prestart,))

# ---- process

POLICIES = tuple(f"SCHED_{name}" for name in "OTHER FIFO RR BATCH ISO IDLE DEADLINE".split())
SCHEDULER_FLAGS = tuple(
    f"SCHED_FLAG_{name}" for name in "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX".split()
)


def nice(scheduler: "Scheduler", place: str, report: "Report") -> None:
    value = scheduler.get("nice", 0)
    if scheduler["policy"] in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= value <= 19:
        report.error("RANGE", f"{place}/nice", f"{value} is not within -20 to 19")


def realtime_priority(scheduler: "Scheduler", place: str, report: "Report") -> None:
    policy, priority = scheduler["policy"], scheduler.get("priority", 0)
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            report.error("RANGE", f"{place}/priority", f"{policy} needs a priority within 1 to 99, not {priority}")
    elif priority:
        report.error("CONFLICT", f"{place}/priority", f"{policy} has no priority", "remove it, or use SCHED_FIFO or SCHED_RR")


def deadline(scheduler: "Scheduler", place: str, report: "Report") -> None:
    values: "dict[str, Any]" = {name: scheduler.get(name, 0) for name in ("runtime", "deadline", "period")}
    if scheduler["policy"] != "SCHED_DEADLINE":
        for name, value in values.items():
            if value:
                report.error("CONFLICT", f"{place}/{name}", f"only SCHED_DEADLINE has a {name}")
    elif not values["runtime"] <= values["deadline"] <= (values["period"] or values["deadline"]):
        report.error("CONFLICT", f"{place}/deadline", "SCHED_DEADLINE wants runtime <= deadline <= period")


SCHEDULER = Object(
    {
        "policy": frozenset(POLICIES),
        "nice": I32,
        "priority": I32,
        "flags": [frozenset(SCHEDULER_FLAGS)],
        "runtime": U64,
        "deadline": U64,
        "period": U64,
    },
    ("policy",),
    (nice, realtime_priority, deadline),
)

IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")


def idle_priority(priority: "IoPriority", place: str, report: "Report") -> None:
    if priority["class"] == "IOPRIO_CLASS_IDLE" and priority.get("priority"):
        report.warn("VALUE", f"{place}/priority", "IOPRIO_CLASS_IDLE has no levels: it is ignored")


IO_PRIORITY = Object({"class": frozenset(IO_CLASSES), "priority": (0, 7)}, ("class",), (idle_priority,))
CPU_AFFINITY = Object({"initial": str, "final": str}, rules=(processor_lists,))

# ---- linux


def device_numbers(device: "Device", place: str, report: "Report") -> None:
    if device["path"][:1] != "/":
        report.error("PATH", f"{place}/path", f'"{device["path"]}" is not an absolute path', "begin it with /")
    if device["type"] == "p":
        return
    for name, bits in (("major", 12), ("minor", 20)):
        if name not in device:
            report.error("REQUIRED", f"{place}/{name}", f"a device of type {device['type']} needs major and minor")
        elif not 0 <= int(device.get(name, 0)) < 1 << bits:  # type: ignore[call-overload]
            report.error("RANGE", f"{place}/{name}", f"{device.get(name)} is not within 0 to {(1 << bits) - 1}")


DEVICE = Object(
    {"type": frozenset("cbup"), "path": str, "major": I64, "minor": I64, "fileMode": U32, "uid": U32, "gid": U32},
    ("type", "path"),
    (device_numbers,),
)

TIME_OFFSETS = Map(Object({"secs": I64, "nanosecs": (0, 999_999_999)}))


def time_offsets(linux: "Linux", spaces: "dict[str, str]", report: "Report") -> None:
    offsets = linux.get("timeOffsets")
    if not offsets:
        return
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            report.error(
                "UNKNOWN-VALUE", f"/linux/timeOffsets/{escape(clock)}", f'there is no clock "{clock}"', "one of boottime, monotonic"
            )
    if "time" not in spaces:
        report.error("MISSING-NAMESPACE", "/linux/timeOffsets", "needs a time namespace", 'add {"type": "time"} to /linux/namespaces')
    elif spaces["time"]:
        report.error("CONFLICT", "/linux/timeOffsets", "the offsets of a time namespace that is joined by path cannot be changed")


NET_DEVICES = Map(Object({"name": str}))


def interface_error(name: str, template: bool = False) -> "str | None":
    """Why this cannot be the name of a network interface. A new name may hold one %d, which the kernel replaces."""
    if not name:
        return "the name is empty"
    if len(name.encode(errors="replace")) > 15:
        return f'"{name}" is longer than 15 bytes'
    if name in (".", "..") or "/" in name or ":" in name or any(character.isspace() for character in name):
        return f'"{name}" is not the name of a network interface'
    if template and "%" in name and (name.count("%") > 1 or "%d" not in name):
        return f'"{name}" may hold one %d and no other %'
    return None


def net_devices(linux: "Linux", spaces: "dict[str, str]", report: "Report") -> None:
    devices = linux.get("netDevices")
    if not devices:
        return
    if "network" not in spaces:
        report.error("MISSING-NAMESPACE", "/linux/netDevices", "needs a network namespace", 'add {"type": "network"} to /linux/namespaces')
    taken: "dict[str, str]" = {}
    for host_name, device in devices.items():
        place = f"/linux/netDevices/{escape(host_name)}"
        if reason := interface_error(host_name):
            report.error("VALUE", place, reason)
        name = device.get("name") or host_name
        if device.get("name") and (reason := interface_error(name, template=True)):
            report.error("VALUE", f"{place}/name", reason)
        if name in taken and "%" not in name:
            report.error("DUPLICATE", f"{place}/name", f'{taken[name]} is called "{name}" in the container already')
        taken[name] = host_name


def personality_flags(personality: "Any", place: str, report: "Report") -> None:
    if personality.get("flags"):
        report.warn("VALUE", f"{place}/flags", "no flag of a personality is supported: they are ignored")


PERSONALITY = Object({"domain": frozenset(("LINUX", "LINUX32")), "flags": [str]}, ("domain",), (personality_flags,))


def class_of_service(rdt: "IntelRdt", place: str, report: "Report") -> None:
    name = rdt.get("closID")
    if name is None or name == "/":
        return
    if name in ("", ".", "..") or "/" in name or "\n" in name:
        report.error(
            "VALUE", f"{place}/closID", f'"{name}" is not the name of a class of service', 'write a plain name, or "/" for the root class'
        )


def schemata(rdt: "IntelRdt", place: str, report: "Report") -> None:
    for index, line in enumerate(rdt.get("schemata", ())):
        if "\n" in line or ":" not in line:
            report.error("VALUE", f"{place}/schemata/{index}", f'"{line}" is not one line of the form RESOURCE:SCHEMA')


def old_monitoring(rdt: "Any", place: str, report: "Report") -> None:
    for name in ("enableCMT", "enableMBM"):
        if rdt.get(name):
            report.warn("DEPRECATED", f"{place}/{name}", "gone since 1.3: it is ignored", "use enableMonitoring")


INTEL_RDT = Object(
    {
        "closID": str,
        "l3CacheSchema": str,
        "memBwSchema": str,
        "schemata": [str],
        "enableMonitoring": bool,
        "enableCMT": bool,
        "enableMBM": bool,
    },
    rules=(class_of_service, schemata, old_monitoring),
)

MODES = tuple(f"MPOL_{name}" for name in "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY LOCAL".split())
MODE_FLAGS = tuple(f"MPOL_F_{name}" for name in "NUMA_BALANCING RELATIVE_NODES STATIC_NODES".split())


def _count(nodes: str) -> int:
    spans = [element.partition(":")[0].partition("-") for element in nodes.split(",")]
    return sum(int(high or low) - int(low) + 1 for low, _, high in spans if low.strip().isdigit())


def memory_nodes(policy: "MemoryPolicy", place: str, report: "Report") -> None:
    mode, nodes = policy["mode"], policy.get("nodes", "").strip()
    if nodes and not is_list(nodes):
        report.error("VALUE", f"{place}/nodes", f'"{nodes}" is not a list such as 0-3,7')
    elif nodes and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        report.error("CONFLICT", f"{place}/nodes", f"{mode}: mode requires 0 nodes but got {_count(nodes)}")
    elif not nodes and mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        report.error("REQUIRED", f"{place}/nodes", f"{mode} needs at least one node")


def memory_flags(policy: "MemoryPolicy", place: str, report: "Report") -> None:
    flags = policy.get("flags", ())
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        report.error("CONFLICT", f"{place}/flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other")


MEMORY_POLICY = Object({"mode": frozenset(MODES), "nodes": str, "flags": [frozenset(MODE_FLAGS)]}, ("mode",), (memory_nodes, memory_flags))

# For runtimes that start virtual machines: read, and ignored.
VM = Object(
    {
        "hypervisor": Object({"path": str, "parameters": [str]}, ("path",)),
        "kernel": Object({"path": str, "parameters": [str], "initrd": str}, ("path",)),
        "image": Object({"path": str, "format": frozenset(("raw", "qcow2", "vdi", "vmdk", "vhd"))}, ("path", "format")),
        "hwConfig": Object(
            {
                "deviceTree": str,
                "vcpus": U32,
                "memory": U64,
                "dtdevs": [str],
                "iomems": [Object({"firstGFN": U64, "firstMFN": U64, "nrMFNs": U64}, ("firstMFN", "nrMFNs"))],
                "irqs": [U32],
            }
        ),
    }
)
