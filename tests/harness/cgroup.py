# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a container's cgroups, in either version."""

from pathlib import Path

from .census import cgroup_mounts
from .requirements import cgroup_mode


def memberships(pid: int | str) -> dict[str, str]:
    """{controller: path}; "" is the version 2 hierarchy."""
    found: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def directory(pid: int | str, controller: str) -> Path:
    """The cgroup directory of a process for a controller."""
    paths = memberships(pid)
    if cgroup_mode() == "v2":
        return Path("/sys/fs/cgroup" + paths[""])
    mount = next(mount for mount in cgroup_mounts() if controller in mount.name.split(","))
    return Path(str(mount) + paths[controller])


def read(pid: int | str, controller: str, v1: str, v2: str) -> str:
    """The file's content, without the newline, by the version of this host."""
    return (directory(pid, controller) / (v2 if cgroup_mode() == "v2" else v1)).read_text().strip()
