# SPDX-License-Identifier: Apache-2.0
"""How a caller without a cgroup tree of its own gets one. Loaded where a verb has none to work on, and by doctor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wherry.errors import HostError

if TYPE_CHECKING:
    from wherry.kernel.hostfacts import HostFacts

_ADMIN = 1 << 21  # CAP_SYS_ADMIN
CONTROLLERS = "cpu cpuset io memory pids"


def privileged(facts: HostFacts) -> bool:
    """Over the host."""
    return bool(facts.capabilities & _ADMIN) and not facts.user_namespace


def own_tree(facts: HostFacts, systemd: bool, name: str) -> str:
    """The command or setting that gives the caller a place for cgroups."""
    if privileged(facts):
        return "mount -t cgroup2 cgroup2 /sys/fs/cgroup" if facts.cgroup_mode == "none" else "mount -o remount,rw /sys/fs/cgroup"
    if facts.uid == 0:
        return "start the container around it with its cgroup tree writable (--privileged, or -v /sys/fs/cgroup:/sys/fs/cgroup:rw)"
    if facts.cgroup_mode != "v2":
        return "cgroup version 2: boot with systemd.unified_cgroup_hierarchy=1 (version 1 cannot be delegated safely)"
    if not systemd:
        place = f"/sys/fs/cgroup/{name or 'user'}"
        return f"as root: mkdir {place} {place}/shell; chown -R {facts.uid} {place}; echo PID > {place}/shell/cgroup.procs, PID that of your shell"
    return "systemd-run --user --scope -p Delegate=yes $SHELL (a login session's own cgroup is not the user's)"


def controllers(facts: HostFacts, systemd: bool) -> str:
    """The command that gives ordinary users more controllers; "" where it is not a matter of delegation."""
    if facts.cgroup_mode != "v2" or privileged(facts):
        return ""
    if not systemd:
        return f"as root: echo '{' '.join(f'+{name}' for name in CONTROLLERS.split())}' > the cgroup.subtree_control of each cgroup above yours"
    place = "/etc/systemd/system/user@.service.d"
    return f"as root: mkdir -p {place}; printf '[Service]\\nDelegate={CONTROLLERS}\\n' > {place}/delegate.conf; systemctl daemon-reload; then log in again"


def remedy(controller: str = "") -> str:
    """For this caller on this host."""
    from wherry.kernel.hostfacts import gather

    facts, systemd = gather(), os.path.isdir("/run/systemd/system")
    return (controllers(facts, systemd) if controller else "") or own_tree(facts, systemd, _user_name(facts.uid))


def no_cgroup(message: str, id: str = "") -> HostError:
    """The container was made where its maker had no cgroup tree; it needs another one, made where there is one."""
    text = f"cgroups must be delegated before the container is made: {remedy()}"
    return HostError(f"{message}: it was made without cgroups of its own", code="WHERRY-HOST-CGROUP", id=id, remedy=text)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
