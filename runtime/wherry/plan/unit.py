# SPDX-License-Identifier: Apache-2.0
"""The container's cgroup as a unit of systemd: what is different in a plan. Loaded for the cgroup manager systemd alone.

systemd makes no scope without a process, and a scope ends with its last one. So the first process to be there is init itself, right after its
clone: it asks for OP_UNIT and waits, systemd takes it into the unit, and the limits are set before it does anything else. The files are
written after systemd has been told the same as properties: what it rounds, or has no property for, is then as the configuration says, and a
controller that it has not got is an error instead of silence.

On v1 systemd makes its own hierarchy and those of the controllers that it knows. The directories are made (or taken) in all of them before the
launch, because only there `tasks` can be opened for init; systemd writes its values over ours in the same directories, and ours follow.
"""

from wherry.cgroup.units import (
    Unit,
    annotation_properties,
    base_properties,
    check_name,
    device_properties,
    to_text,
    unit_of,
    v1_properties,
    v2_properties,
)
from wherry.errors import HostError, PlanError
from wherry.kernel.native import constants
from wherry.plan import isolation
from wherry.plan.encode import ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.kernel.hostfacts import Hierarchy
    from wherry.plan.compile import Job

_PATH = "/linux/cgroupsPath"
_OWN_HIERARCHY = "name=systemd"
_DROP_IN = "/etc/systemd/system/user@.service.d"
DELEGATE = (
    f"mkdir -p {_DROP_IN} && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' >{_DROP_IN}/delegate.conf && systemctl daemon-reload, "
    "then log in again"
)


class UnitJob:
    """What is decided once for the two places in the plan."""

    __slots__ = ("hierarchies", "manager", "place", "rules", "unit", "user")

    def __init__(self, job: "Job") -> None:
        self.manager = _manager(job)
        self.user = bool(self.manager["user"])
        path: str = job.linux.get("cgroupsPath") or ""
        self.place = _PATH if path else ""
        self.unit: Unit = unit_of(path, f"wherry-{ID}.scope", self.user)
        self.rules = isolation.device_rules(job)
        self.hierarchies: "list[tuple[Hierarchy, int]]" = []  # v1, with the register of the directory
        if job.cgroup_mode == "none" or (job.cgroup_mode != "v2" and not _has_own_hierarchy(job)):
            raise HostError("systemd has no cgroup hierarchy here", code="WHERRY-HOST-CGROUP", pointer=self.place or None)
        if self.user and job.cgroup_mode != "v2":
            raise HostError(
                "the systemd of a user has no limits on cgroup v1",
                code="WHERRY-HOST-CGROUP",
                remedy="boot with systemd.unified_cgroup_hierarchy=1, or leave --systemd-cgroup out",
            )

    @property
    def journal_name(self) -> str:
        """As systemctl has it."""
        return f"--user {self.unit.name}" if self.user else self.unit.name

    def path(self, mount: str) -> str:
        return f"{mount.rstrip('/')}{self.manager['cgroup']}{self.unit.cgroup}"


def _manager(job: "Job") -> "dict[str, Any]":
    manager = job.facts.systemd
    if manager is None:
        raise PlanError("these host facts say nothing of systemd", code="WHERRY-PLAN-UNSUPPORTED", remedy="use the cgroup manager cgroupfs")
    return manager


def _has_own_hierarchy(job: "Job") -> bool:
    return any(_OWN_HIERARCHY in hierarchy.controllers for hierarchy in job.facts.hierarchies)


# ---- before the launch


def before_launch(job: "Job") -> None:
    given = job.unit = UnitJob(job)
    job.flags = (job.flags | constants.WHERRY_PLAN_INTERLUDE | constants.WHERRY_PLAN_UNIT) & ~constants.WHERRY_PLAN_CACHEABLE
    if job.cgroup_mode == "v2":
        return
    b, facts = job.b, job.facts
    tasks = [job.register() for _ in facts.hierarchies]
    job.inherited = job.registers
    for hierarchy, out in zip(facts.hierarchies, tasks, strict=True):
        if _OWN_HIERARCHY in hierarchy.controllers:
            given.hierarchies.append((hierarchy, -1))
            continue  # systemd's alone; the register stays empty, and nobody attaches
        path, names = given.path(hierarchy.mount), ",".join(hierarchy.controllers)
        directory = isolation.directory(job, path, hierarchy.mount, 0, given.place, names)
        given.hierarchies.append((hierarchy, directory))
        if "cpuset" in hierarchy.controllers:
            b.cgroup_cpuset(path, len(hierarchy.mount), 0, given.place)
        b.open_tasks(directory, "tasks", out, 0, given.place)


# ---- after the clone


def after_clone(job: "Job") -> None:
    """init waits meanwhile; on v1 it attaches itself afterwards, to what systemd has not moved it to."""
    given = job.unit
    assert given is not None
    version = int(given.manager["version"])
    resources = job.linux.get("resources") or {}
    v2 = job.cgroup_mode == "v2"
    writes = isolation.v2_writes(job) if v2 else isolation.v1_writes(job)
    _check_delegated(given, writes)
    properties = base_properties(given.unit, v2, version)
    properties += v2_properties(resources, version) if v2 else v1_properties(resources, version)
    if given.rules is not None and not given.unit.is_slice:
        properties += device_properties(given.rules)
    properties = _replaced(properties, annotation_properties(job.annotations))
    flags = (constants.WHERRY_UNIT_USER if given.user else 0) | (constants.WHERRY_UNIT_SLICE if given.unit.is_slice else 0)
    cgroup = f"{given.manager['cgroup']}{given.unit.cgroup}"
    job.b.unit(given.unit.name, cgroup, given.unit.slice, [to_text(item) for item in properties], flags, given.place)
    if v2:
        _v2(job, given, writes)
    else:
        _v1(job, given, writes)


def _check_delegated(given: UnitJob, writes: "list[Any]") -> None:
    """What the user's systemd has not been given it leaves out without a word."""
    controllers = given.manager.get("controllers")
    for name, file, _, flags, pointer in writes:
        if controllers is not None and name not in controllers and name != "cgroup" and not flags:
            raise HostError(
                f"{file} cannot be written: the {name} controller is not delegated to the user's systemd (it has {' '.join(controllers) or 'none'})",
                code="WHERRY-HOST-CGROUP",
                pointer=pointer,
                remedy=f"as root: {DELEGATE}",
                controller=name,
            )


def _replaced(properties: "list[Any]", by: "list[Any]") -> "list[Any]":
    """An annotation replaces what it names."""
    named = {item[0] for item in by}
    return [item for item in properties if item[0] not in named] + by


def _v2(job: "Job", given: UnitJob, writes: "list[Any]") -> None:
    path = given.path(job.facts.v2_mount)
    isolation.v2_limits(job, path, given.place, writes, given.rules, constants.WHERRY_CGROUP_EXISTING)


def _v1(job: "Job", given: UnitJob, writes: "list[Any]") -> None:
    b, facts = job.b, job.facts
    by_hierarchy = isolation.by_hierarchy(job, writes)
    if job.cgroup_mode == "hybrid":
        path = given.path(facts.v2_mount)
        unified = isolation.directory(job, path, facts.v2_mount, constants.WHERRY_CGROUP_V2 | constants.WHERRY_CGROUP_EXISTING, given.place, "")
        isolation.hybrid_writes(job, path, unified, by_hierarchy.pop("", []))
    for hierarchy, directory in given.hierarchies:
        names = ",".join(hierarchy.controllers)
        if directory < 0:
            isolation.directory(job, given.path(hierarchy.mount), hierarchy.mount, constants.WHERRY_CGROUP_EXISTING, given.place, names)
        for _, file, value, flags, pointer in by_hierarchy.get(names, ()):
            b.cgroup_write(directory, file, value, flags, pointer)


def check_id(id: str, path: str) -> None:
    """An id may hold what a unit's name may not ("+"), and both together may be too long."""
    if not path:
        check_name(f"wherry-{id}.scope")
