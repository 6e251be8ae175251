# SPDX-License-Identifier: Apache-2.0
"""update: other limits for a container that is there. linux.resources becomes the same writes as in a create; the order may differ."""

import posix
from errno import EBUSY, EINVAL, ENOENT
from typing import Any

from wherry.cgroup.resources import ALTERNATIVE, IGNORE, MISSING_OK, v1_writes, v2_writes
from wherry.container.execute import cgroups_of
from wherry.container.lifecycle import lock, opened
from wherry.errors import HostError, WherryError, refused
from wherry.kernel.native import STATUS_NAMES, Container, constants
from wherry.oci.checks import check_resources
from wherry.plan.execute import Cgroup

_NOT_HERE = ("devices", "network")
"""What create decides for good."""

Write = tuple[str, str, str, int, str]


def update(root: str, id: str, resources: dict[str, Any]) -> list[str]:
    """Applies what is given and leaves the rest; returns warnings."""
    warnings = [f"/{name}: not changed by an update" for name in _NOT_HERE if resources.get(name)]
    wanted = {name: section for name, section in resources.items() if name not in _NOT_HERE}
    with opened(root, id) as container:
        lock(container, "update", id)
        status = STATUS_NAMES[container.status()]
        if status not in ("created", "running", "paused"):
            raise refused("update", status, id)
        cgroups = cgroups_of(container)
        wanted = _completed(wanted, cgroups)
        check_resources(wanted)  # type: ignore[arg-type]
        check_usage(container, cgroups, wanted.get("memory") or {})
        if container.flags & constants.WHERRY_PLAN_UNIT:
            from wherry.container import unit

            unit.update(container, wanted, all(cgroup.v2 for cgroup in cgroups))
        apply(cgroups, wanted)
    memory = wanted.get("memory") or {}
    warnings += [f"/memory/{name}: ignored: the kernel has given it up" for name in ("kernel", "kernelTCP") if memory.get(name)]
    return warnings


def check_usage(container: Container, cgroups: "list[Cgroup]", memory: dict[str, Any]) -> None:
    """checkBeforeUpdate, of the update or else of the configuration: cgroup v2 would take a limit below what is used, and kill. v1 refuses it."""
    limits = {name: memory[name] for name in ("swap", "limit") if (memory.get(name) or 0) > 0}
    unified = next((cgroup for cgroup in cgroups if cgroup.v2), None) if all(cgroup.v2 for cgroup in cgroups) else None
    if not limits or unified is None:
        return
    if memory.get("checkBeforeUpdate") is None:
        from wherry.container.hooks import config_copy
        from wherry.oci.config import load

        config: Any = load(config_copy(container))
        memory = ((config.get("linux") or {}).get("resources") or {}).get("memory") or {}
    if memory.get("checkBeforeUpdate"):
        refuse_below(limits, _read_number(f"{unified.path}/memory.current") or 0)


def refuse_below(limits: dict[str, int], used: int) -> None:
    for name, limit in limits.items():
        if limit <= used:
            raise HostError(
                f"rejecting memory{'+swap' if name == 'swap' else ''} limit {limit} <= usage {used}",
                code="WHERRY-HOST-CGROUP",
                pointer=f"/memory/{name}",
                remedy="free memory first, or leave checkBeforeUpdate out",
            )


def apply(cgroups: "list[Cgroup]", resources: dict[str, Any]) -> None:
    """To the v1 hierarchies, or to the v2 tree where there are none."""
    hierarchies = [cgroup for cgroup in cgroups if not cgroup.v2]
    unified = next((cgroup for cgroup in cgroups if cgroup.v2), None)
    if hierarchies:
        _perform_v1(hierarchies, _ordered_v1(v1_writes(resources), hierarchies))
    elif unified is not None:
        _perform_all(unified, v2_writes(resources))
    elif any(resources.values()):
        from wherry.container.delegation import no_cgroup

        raise no_cgroup("the container has no cgroup whose limits could change")


def _perform_v1(hierarchies: "list[Cgroup]", writes: "list[Write]") -> None:
    """Below a parent with a quota, a new period may fit with the new quota alone, and a new quota with the new period alone."""
    quota = next((write for write in writes if write[1] == "cpu.cfs_quota_us"), None)
    for write in writes:
        cgroup = _of_controller(hierarchies, write)
        try:
            _perform(cgroup, write)
        except HostError as error:
            if write[1] != "cpu.cfs_period_us" or quota is None or error.facts.get("errno") != EINVAL:
                raise
            _perform(cgroup, quota)
            _perform(cgroup, write)


def _perform_all(cgroup: Cgroup, writes: "list[Write]") -> None:
    missing = False
    for write in writes:
        if write[3] & ALTERNATIVE and not missing:
            continue
        missing = _perform(cgroup, write)


def _of_controller(hierarchies: "list[Cgroup]", write: Write) -> Cgroup:
    for cgroup in hierarchies:
        if write[0] in cgroup.mount.rpartition("/")[2].split(","):
            return cgroup
    message = f"{write[1]} cannot be written: the cgroup hierarchy has no {write[0]} controller"
    raise HostError(message, code="WHERRY-HOST-CGROUP", pointer=_pointer(write))


def _perform(cgroup: Cgroup, write: Write) -> bool:
    """True where there is no such file, and there need not be."""
    _, file, value, flags, _ = write
    try:
        descriptor = posix.open(f"{cgroup.path}/{file}", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(descriptor, value.encode())
        finally:
            posix.close(descriptor)
    except OSError as error:
        if error.errno == ENOENT and flags & (MISSING_OK | ALTERNATIVE):
            return True
        if not flags & IGNORE:
            raise _refused(cgroup, write, error) from error
    return False


def _refused(cgroup: Cgroup, write: Write, error: OSError) -> WherryError:
    text, remedy = (error.strerror or "").lower(), None
    if error.errno == ENOENT and cgroup.v2:
        from wherry.container import delegation

        text, remedy = f"the {write[0]} controller is not enabled there", delegation.remedy(write[0])
    elif error.errno == EBUSY and write[1].startswith("memory."):
        remedy = "the container uses more than that"
    elif error.errno == EINVAL and "memsw" in write[1]:
        remedy = "memory and swap together cannot be less than memory"
    message = f"write {write[2]} to {cgroup.path}/{write[1]}: {text}"
    return HostError(message, code="WHERRY-HOST-CGROUP", pointer=_pointer(write), remedy=remedy, errno=error.errno)


def _pointer(write: Write) -> str:
    """Relative to the resources."""
    return write[4].removeprefix("/linux/resources")


def _ordered_v1(writes: "list[Write]", hierarchies: "list[Cgroup]") -> "list[Write]":
    """The kernel keeps memory <= memory and swap at every moment: who raises both begins with the greater."""
    limit = next((write for write in writes if write[1] == "memory.limit_in_bytes"), None)
    both = next((write for write in writes if write[1] == "memory.memsw.limit_in_bytes"), None)
    if limit is None or both is None:
        return writes
    now = _read_number(f"{_of_controller(hierarchies, both).path}/memory.memsw.limit_in_bytes")
    if int(limit[2]) < 0 or (now is not None and int(limit[2]) > now):
        rest = [write for write in writes if write is not both]
        rest.insert(rest.index(limit), both)
        return rest
    return writes


def _completed(resources: dict[str, Any], cgroups: "list[Cgroup]") -> dict[str, Any]:
    """What belongs together is given together: the half that is not said is as it is now. (v2 keeps in one file what v1 has in two.)"""
    cpu, memory = resources.get("cpu"), resources.get("memory")
    unified = next((cgroup.path for cgroup in cgroups if cgroup.v2), None) if all(cgroup.v2 for cgroup in cgroups) else None
    if unified and isinstance(cpu, dict) and (cpu.get("quota") or cpu.get("period")):
        quota, period = (_read(f"{unified}/cpu.max").split() or ["max", ""])[:2]
        now = {"quota": int(quota) if quota.isdigit() else None, "period": int(period) if period.isdigit() else None}
        cpu = {**cpu, **{key: value for key, value in now.items() if value and not cpu.get(key)}}
        resources = {**resources, "cpu": cpu}
    if isinstance(memory, dict) and memory.get("swap") and not memory.get("limit"):
        limit = _read_number(f"{unified}/memory.max" if unified else _v1_limit(cgroups))
        # what v1 shows where there is no limit is more than any swap
        resources = {**resources, "memory": {**memory, "limit": -1 if limit is None or limit >= 1 << 62 else limit}}
    return resources


def _v1_limit(cgroups: "list[Cgroup]") -> str:
    mounts = [cgroup.path for cgroup in cgroups if "memory" in cgroup.mount.rpartition("/")[2].split(",")]
    return f"{mounts[0]}/memory.limit_in_bytes" if mounts else ""


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _read_number(path: str) -> "int | None":
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


# ---- linux.intelRdt


def update_resctrl(root: str, id: str, schemata: list[str]) -> None:
    """--l3-cache-schema, --mem-bw-schema: other schemata for the class of service that the container is in."""
    from wherry.container import resctrl
    from wherry.container.hooks import config_copy
    from wherry.oci.config import load

    with opened(root, id) as container:
        lock(container, "update", id)
        section: Any = (load(config_copy(container)).get("linux") or {}).get("intelRdt")
        if not section:
            raise HostError(
                "the container has no class of its own in resctrl", code="WHERRY-HOST-RESCTRL", remedy="create it with linux.intelRdt"
            )
        path = f"{resctrl.class_of(section, id, resctrl.mounted())}/schemata"
        for line in schemata:
            try:
                with open(path, "w") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise HostError(f"write {line} to {path}: {(error.strerror or '').lower()}", code="WHERRY-HOST-RESCTRL") from error
