# SPDX-License-Identifier: Apache-2.0
"""Which walls stand around a sandbox on this host. One that was asked for and cannot be built is an error, unless its absence is allowed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from wherry.api.config import Config
from wherry.errors import HostError, UsageError
from wherry.kernel.hostfacts import HostFacts
from wherry.oci.landlock import KEY
from wherry.plan.landlock import FLOOR

APPLIED, OFF, MISSING, NOT_SUPPORTED = "applied", "off", "missing", "not supported"
"""In force; not asked for; asked for, not to be had here, and its absence allowed; left to the host, which has not got it."""

LIMITS = ("memory", "pids", "cpu")
ASKABLE = (*LIMITS, "user namespace", "landlock")
"""What `allow_missing` may name."""

_CODES = {"user namespace": "WHERRY-HOST-PERMISSION", "landlock": "WHERRY-HOST-KERNEL"}
_REMEDY = {"landlock": "use a kernel from Linux 6.2 on that was started with Landlock"}

_KERNELS = ("proc", "sysfs", "cgroup", "cgroup2")
"""Filesystems that show the kernel: nothing of theirs is written to."""

_ADMIN = 1 << 21  # CAP_SYS_ADMIN


def privileged(facts: HostFacts) -> bool:
    """Over the host: what the plan compiler calls so."""
    return bool(facts.capabilities & _ADMIN) and not facts.user_namespace


def decide(wanted: Collection[str], facts: HostFacts, allow_missing: Iterable[str]) -> set[str]:
    """Those of the wanted layers that cannot be had and need not; HostError for one that must."""
    allowed = set(allow_missing)
    unknown = allowed - set(ASKABLE)
    if unknown:
        raise UsageError(f"allow_missing: no such layer: {', '.join(sorted(unknown))}", remedy=f"one of: {', '.join(ASKABLE)}")
    missing = set(wanted) - available(facts)
    refused = sorted(missing - allowed, key=ASKABLE.index)
    if refused:
        raise HostError(
            f"the sandbox was asked for what this host does not give: {', '.join(refused)}",
            code="WHERRY-HOST-CGROUP" if refused[0] in LIMITS else _CODES[refused[0]],
            remedy=f"{_REMEDY.get(refused[0], 'run as root or with a delegated cgroup')}, or accept it: allow_missing={{{', '.join(map(repr, refused))}}}",
            missing=refused,
        )
    return missing


def layers(
    facts: HostFacts, limits: Mapping[str, object], user_namespace: bool, allow_missing: Iterable[str], landlock: bool | None = False
) -> dict[str, str]:
    """How each wall comes on this host. `limits` are by name, None = not asked for; `landlock`: None = where the host has it."""
    wanted = {name for name, limit in limits.items() if limit is not None}
    if user_namespace or not privileged(facts):
        wanted.add("user namespace")
    unavailable = landlock is None and "landlock" not in available(facts)
    if landlock is not False and not unavailable:
        wanted.add("landlock")
    missing = decide(wanted, facts, allow_missing)
    if "user namespace" in missing and not privileged(facts):
        raise HostError("an ordinary user's sandbox is made of a user namespace, and this host allows none", code="WHERRY-HOST-PERMISSION")
    rules = facts.cgroup_mode == "v2" or any("devices" in hierarchy.controllers for hierarchy in facts.hierarchies)
    return {
        **{name: MISSING if name in missing else APPLIED if name in wanted else OFF for name in ASKABLE},
        "devices": APPLIED if privileged(facts) and rules else NOT_SUPPORTED,  # the host's own nodes are all that opens in a user namespace
        **({"landlock": NOT_SUPPORTED} if unavailable else {}),
    }


def seen(config: Config) -> dict[str, bool]:
    """Which walls a finished configuration has: a create makes all that it says, or fails."""
    spaces = {one["type"] for one in config.get("/linux/namespaces") or ()}
    return {
        "memory": config.get("/linux/resources/memory/limit") is not None,
        "pids": config.get("/linux/resources/pids/limit") is not None,
        "cpu": config.get("/linux/resources/cpu/quota") is not None,
        "user namespace": "user" in spaces,
        "pid namespace": "pid" in spaces,
        "network": "network" in spaces,
        "read-only root": bool(config.get("/root/readonly")),
        "seccomp": config.get("/linux/seccomp") is not None,
        "no capabilities": not any((config.get("/process/capabilities") or {}).values()),
        "no new privileges": bool(config.get("/process/noNewPrivileges")),
        "landlock": KEY in (config.get("/annotations") or {}),
    }


def landlock(config: Config) -> Config:
    """Everything can be read and executed, devices can be used, and only what is mounted to be written can be changed."""
    write = ["/"] if not config.get("/root/readonly") else []
    for mount in config.get("/mounts") or ():
        kind, options = mount.get("type"), mount.get("options") or ()
        if mount["destination"] == "/dev" or kind in _KERNELS or "ro" in options:
            continue
        write.append(mount["destination"])
    return config.landlock(read=["/"], use=["/dev"], write=write)


def available(facts: HostFacts) -> set[str]:
    found = {name for name in LIMITS if name in _controllers(facts)}
    if facts.landlock >= FLOOR:
        found.add("landlock")
    if _number("/proc/sys/user/max_user_namespaces") != 0:
        found.add("user namespace")
    return found


def _controllers(facts: HostFacts) -> set[str]:
    """Controllers below whose directories a container of ours may get one of its own."""
    host = privileged(facts)
    found: set[str] = set()
    for hierarchy in facts.hierarchies:
        if _writable(hierarchy.mount if host else hierarchy.mount + hierarchy.own):
            found.update(hierarchy.controllers)
    if facts.v2_mount:
        beside = facts.v2_own if facts.cgroup_mode == "hybrid" else facts.v2_own.rpartition("/")[0]
        directory = facts.v2_mount if host else facts.v2_mount + beside
        if _writable(directory):
            found.update(_text(f"{directory}/cgroup.controllers").split())
    return found


def _writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None
