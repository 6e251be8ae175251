# SPDX-License-Identifier: Apache-2.0
"""A captured configuration for this machine: its root file system, sources, namespaces and cgroups are those of a test; what the machine refuses
every runtime (limits above the caller's, a security module that is not active) is as high as it can be, or gone."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from wherry.oci.checks import CAPABILITIES

FILES = ("/etc/", "/run/.containerenv", "/file", "/dev/init", "/sbin/docker-init", "/run/podman-init", "/dev/termination-log", "/proc/")
NAMESPACES = {"network": "net", "mount": "mnt"}
RLIMITS = {name: number for name, number in vars(resource).items() if name.startswith("RLIMIT_")}


def adapt(config: dict[str, Any], place: Path, cgroups_path: str, holder: int | None = None) -> dict[str, Any]:
    """`holder`: a process whose namespaces stand for the ones that are joined. Sources are made below `place`. Changes `config`."""
    linux = config["linux"]
    config["root"]["path"] = "rootfs"
    linux["cgroupsPath"] = cgroups_path
    _sources(config, place)
    for namespace in linux.get("namespaces", ()):
        if namespace.get("path"):
            kind = NAMESPACES.get(namespace["type"], namespace["type"])
            namespace["path"] = f"/proc/{holder}/ns/{'pid_for_children' if kind == 'pid' else kind}"
    _process(config["process"])
    _resources(linux.get("resources", {}))
    for hooks in config.get("hooks", {}).values():
        for hook in hooks:
            hook["path"], hook["args"] = "/bin/sh", ["sh", "-c", "cat >/dev/null"]  # a runtime may mind if nobody reads
    return config


def _sources(config: dict[str, Any], place: Path) -> None:
    for number, mount in enumerate(config["mounts"]):
        options = mount.get("options") or ()
        if ("bind" not in options and "rbind" not in options) or mount["source"].startswith(("/dev", "/sys", "/proc")):
            continue
        source = place / f"source{number}"
        if not source.exists():
            if mount["destination"].startswith(FILES):
                source.write_text("")
            else:
                source.mkdir()
        mount["source"] = str(source)


def grantable(process: dict[str, Any]) -> None:
    """Capabilities that the caller lacks are left out: some runtimes refuse them."""
    bounding = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")).split()[1], 16)
    for kind, listed in process.get("capabilities", {}).items():
        process["capabilities"][kind] = [name for name in listed if name not in CAPABILITIES or bounding >> CAPABILITIES.index(name) & 1]


def _process(process: dict[str, Any]) -> None:
    process.pop("apparmorProfile", None)
    process.pop("selinuxLabel", None)
    for limit in process.get("rlimits", ()):
        hard = resource.getrlimit(RLIMITS[limit["type"]])[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], limit["hard"])
    if "oomScoreAdj" in process:
        process["oomScoreAdj"] = max(process["oomScoreAdj"], int(Path("/proc/self/oom_score_adj").read_text()))


def _resources(resources: dict[str, Any]) -> None:
    memory = resources.get("memory", {})
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/cgroup.controllers")
    if "swap" in memory and not v2.exists() and not (v1 / "memory.memsw.limit_in_bytes").exists():
        del memory["swap"]
    if v2.exists() and "cpuset" not in v2.read_text().split():
        for name in ("cpus", "mems"):
            resources.get("cpu", {}).pop(name, None)
    if resources.get("cpu", {}).get("shares"):
        resources["cpu"]["shares"] = max(resources["cpu"]["shares"], 512)  # the pause container's 2 starve the probe on a busy machine
    block = resources.get("blockIO", {})
    if not any([*Path("/sys/fs/cgroup").glob("*/io*weight"), *Path("/sys/fs/cgroup/blkio").glob("blkio*.weight")]):
        block.pop("weight", None)
    for name in [name for name in block if name.startswith("throttle")]:
        block[name] = [one for one in block[name] if os.path.exists(f"/sys/dev/block/{one['major']}:{one['minor']}")]
