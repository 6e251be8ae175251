# SPDX-License-Identifier: Apache-2.0
"""How the kernel is to run the process: personality, scheduler, I/O priority, memory policy. Loaded where one of them is given."""

from wherry.oci.checks_rare import MODES, POLICIES, SCHEDULER_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.plan.compile import Job

PER_LINUX32 = 0x8
# linux/sched.h. SCHED_ISO is reserved and never was implemented: the kernel refuses it.
POLICY = {name: number for number, name in enumerate(POLICIES)}
SCHEDULER_FLAG = {name: 1 << number for number, name in enumerate(SCHEDULER_FLAGS)}
IO_CLASS = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
# linux/mempolicy.h
MODE = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MODE_FLAG = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}
assert MODE.keys() == set(MODES)


def add(job: "Job", process: "dict[str, Any]") -> None:
    b = job.b
    personality = job.linux.get("personality")
    if personality:
        b.personality(PER_LINUX32 if personality["domain"] == "LINUX32" else 0, "/linux/personality")
    scheduler = process.get("scheduler")
    if scheduler:
        b.scheduler(
            POLICY[scheduler["policy"]],
            scheduler.get("nice", 0),
            sum(SCHEDULER_FLAG[name] for name in set(scheduler.get("flags") or ())),
            scheduler.get("priority", 0),
            scheduler.get("runtime", 0),
            scheduler.get("deadline", 0),
            scheduler.get("period", 0),
            "/process/scheduler",
        )
    io_priority = process.get("ioPriority")
    if io_priority:
        kind = IO_CLASS[io_priority["class"]]
        level = 0 if kind == 3 else io_priority.get("priority", 0)
        b.io_priority(kind << 13 | level, "/process/ioPriority")
    policy = job.linux.get("memoryPolicy")
    if policy:
        nodes = node_mask(policy.get("nodes") or "")
        mode = MODE[policy["mode"]] | sum(MODE_FLAG[name] for name in set(policy.get("flags") or ()))
        b.memory_policy(mode, nodes.bit_length() + 1 if nodes else 0, _mask_bytes(nodes), "/linux/memoryPolicy")


def node_mask(text: str) -> int:
    """A list such as "0-3,7" as bits."""
    mask = 0
    for part in text.replace("\n", ",").split(","):
        if part.strip():
            first, _, last = part.partition("-")
            mask |= (2 << int(last or first)) - (1 << int(first))
    return mask


def _mask_bytes(mask: int) -> bytes:
    """unsigned long[], and one bit more than there are nodes: the kernel takes max_node - 1 bits."""
    return mask.to_bytes((mask.bit_length() // 64 + 1) * 8, "little") if mask else b""
