# SPDX-License-Identifier: Apache-2.0
"""What `wherry doctor` makes of what it has seen: each check is a pure function from Seen to findings. No check touches the host."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from wherry.api.doctor import MISSING, OK, PARTLY, Finding, Seen
from wherry.container.delegation import controllers as delegated_controllers
from wherry.container.delegation import own_tree

Check = Callable[[Seen], Iterator[Finding]]

DEFAULT_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
).split()
"""What engines give a container unless they are told otherwise."""

_CAP_SETFCAP = 31
_LIMIT_FILES = {"mount": "mnt", "network": "net"}
_NESTED = "the container around it refuses: start that one with --privileged, or with a seccomp profile and capabilities that allow it"


def check(seen: Seen) -> Iterator[Finding]:
    for one in CHECKS:
        yield from one(seen)


def reason(number: int) -> str:
    return os.strerror(number).lower() if number else ""


def _config(option: str, since: str = "") -> str:
    newer = f"a kernel from {since} on, " if since else "a kernel "
    return f"{newer}built with {option}"


# ---- namespaces


def user_namespaces(seen: Seen) -> Iterator[Finding]:
    number = seen.errno("user namespace")
    needed = not seen.privileged
    effect = "no container without root" if needed else "no container whose root is not the host's"
    yield Finding("namespaces", "user", MISSING if number else OK, reason(number), effect, _user_remedy(seen, number), needed)


def _user_remedy(seen: Seen, number: int) -> str:
    files = seen.files
    if files.get("kernel/unprivileged_userns_clone") == "0":
        return "sysctl -w kernel.unprivileged_userns_clone=1"
    if files.get("kernel/apparmor_restrict_unprivileged_userns", "0") != "0" and number in (errno.EPERM, errno.EACCES):
        return (
            "an AppArmor profile for wherry that has the rule `userns,` below /etc/apparmor.d, or "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if files.get("user/max_user_namespaces") == "0":
        return "sysctl -w user.max_user_namespaces=15000"
    if seen.facts.uid == 0 and not seen.privileged and not seen.facts.capabilities >> _CAP_SETFCAP & 1:
        return "start the container around it with CAP_SETFCAP (--cap-add SETFCAP): without it nobody may map root"
    if number == errno.ENOSPC:
        return "sysctl -w user.max_user_namespaces=15000 (all that are allowed are in use)"
    return _config("CONFIG_USER_NS") if number in (errno.EINVAL, errno.ENOSYS) else _NESTED


def namespaces(seen: Seen) -> Iterator[Finding]:
    for kind, option, since, needed in (
        ("mount", "CONFIG_NAMESPACES", "", True),
        ("pid", "CONFIG_PID_NS", "", True),
        ("ipc", "CONFIG_IPC_NS", "", True),
        ("uts", "CONFIG_UTS_NS", "", True),
        ("network", "CONFIG_NET_NS", "", False),
        ("cgroup", "CONFIG_CGROUPS", "4.6", False),
        ("time", "CONFIG_TIME_NS", "5.6", False),
    ):
        number = seen.errno(f"{kind} namespace")
        effect = f"no container with a {kind} namespace of its own"
        remedy = _config(option, since) if number in (errno.EINVAL, errno.ENOSYS) else _NESTED
        sysctl = f"user/max_{_LIMIT_FILES.get(kind, kind)}_namespaces"
        if seen.files.get(sysctl) == "0" or number == errno.ENOSPC:
            remedy = f"sysctl -w {sysctl.replace('/', '.')}=15000"
        elif not seen.privileged and seen.errno("user namespace"):
            remedy = "user namespaces first: an ordinary user makes the others in one"
        yield Finding("namespaces", kind, MISSING if number else OK, reason(number), effect, remedy, needed)


# ---- mounts


def mount_calls(seen: Seen) -> Iterator[Finding]:
    for name, since, effect, needed in (
        ("fsopen", "5.2", "no mount of a new filesystem", True),
        ("open_tree", "5.2", "no root filesystem, no bind mount", True),
        ("move_mount", "5.2", "no mount at all", True),
        ("mount_setattr", "5.12", "no recursive options (rro, rnosuid ...), no idmapped mounts, no read-only bind mounts of trees", True),
        ("nosymfollow", "5.10", "the mount option nosymfollow is refused", False),
    ):
        number = seen.errno(name)
        remedy = _config("CONFIG_NAMESPACES", since) if number in (errno.ENOSYS, errno.EINVAL) else _NESTED
        yield Finding("mounts", name, MISSING if number else OK, reason(number), effect, remedy, needed)


def fresh_filesystems(seen: Seen) -> Iterator[Finding]:
    hidden = (
        "mounts over parts of it hide them, and the kernel shows no more to a nested container: start the container around it with "
        "--security-opt systempaths=unconfined (Docker) or --security-opt unmask=ALL (Podman), or bind the existing one"
    )
    for kind, needed in (("proc", True), ("sysfs", False), ("mqueue", False), ("devpts", False)):
        number = seen.errno(f"fresh {kind}")
        remedy = hidden if kind in ("proc", "sysfs") and number == errno.EPERM else f"a kernel that has {kind}, in /proc/filesystems"
        effect = f"no container with a {kind} of its own"
        yield Finding("mounts", f"new {kind}", MISSING if number else OK, reason(number), effect, remedy, needed)


def idmapped_mounts(seen: Seen) -> Iterator[Finding]:
    number, kinds = seen.errno("idmapped mounts"), seen.value("idmapped mounts") or {}
    refused = sorted(kind for kind, code in kinds.items() if code)
    detail = ", ".join(f"{kind}: {reason(code) or 'yes'}" for kind, code in sorted(kinds.items())) or reason(number)
    effect = f"no mount with uidMappings on {', '.join(refused)}" if kinds else "no mount with uidMappings"
    if not seen.privileged and errno.EPERM in (number, *kinds.values()):
        remedy = "only the host's root may map the ids of the host's filesystems"
    else:
        remedy = "ext4 and xfs can from Linux 5.12 on, btrfs 5.15, tmpfs 6.3; overlay and nfs cannot: keep the files on one that can"
    status = MISSING if number or (refused and len(refused) == len(kinds)) else PARTLY if refused else OK
    yield Finding("mounts", "idmapped", status, detail, effect, remedy)


# ---- cgroups


def cgroup_tree(seen: Seen) -> Iterator[Finding]:
    mode = seen.facts.cgroup_mode
    text = {"v1": "version 1", "hybrid": "version 1, with an empty version 2 tree", "v2": "version 2", "none": "not mounted"}[mode]
    remedy = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    yield Finding("cgroups", "hierarchy", MISSING if mode == "none" else OK, text, "no limits, no pause, no statistics", remedy)
    for options in seen.unmounted if seen.facts.cgroup_mode in ("v1", "hybrid") else ():
        effect = "engines find no such statistics, and the controller is in no other tree; it stays so until its last cgroup is removed"
        remedy = f"mount -t cgroup -o {options} cgroup /mnt && find /mnt -mindepth 1 -depth -type d -exec rmdir {{}} + ; sleep 1; umount /mnt"
        yield Finding("cgroups", f"hierarchy of {options}", PARTLY, "mounted nowhere here, and left behind", effect, remedy)
    places = seen.value("cgroups") or []
    if not places:
        return
    refused = [place for place in places if place["made"]]
    number = refused[0]["made"] if refused else 0
    status = MISSING if len(refused) == len(places) else PARTLY if refused else OK
    detail = f"{refused[0]['parent']}: {reason(number)}" if refused else "may be made"
    yield Finding("cgroups", "own cgroups", status, detail, "no limits, no pause, no statistics for containers", delegation_remedy(seen))


def delegation_remedy(seen: Seen) -> str:
    return own_tree(seen.facts, seen.systemd, seen.name)


_CONTROLLERS = {
    "memory": "memory limits", "pids": "limits on the number of processes", "cpu": "CPU shares and quotas", "cpuset": "CPU and NUMA node sets",
    "io": "block I/O limits", "hugetlb": "limits on huge pages", "rdma": "RDMA limits",
}  # fmt: skip


def controllers(seen: Seen) -> Iterator[Finding]:
    places = [place for place in seen.value("cgroups") or [] if not place["made"]]
    if seen.facts.cgroup_mode == "none" or not places:
        return
    v2 = seen.facts.cgroup_mode == "v2"
    have = {"io" if name == "blkio" else name for place in places for name in place["controllers"] if v2 or place["version"] == "v1"}
    lacking = [name for name in _CONTROLLERS if name not in have]
    detail = " ".join(name for name in _CONTROLLERS if name in have) or "none"
    everyday = [name for name in lacking if name in ("memory", "pids", "cpu")]
    remedy = delegated_controllers(seen.facts, seen.systemd)
    if not remedy:
        remedy = _config(", ".join(f"CONFIG_{_OPTIONS[name]}" for name in everyday or lacking))
        remedy += "; memory may be off by cgroup_disable=memory on the kernel's command line" if "memory" in lacking else ""
    effect = "no " + ", no ".join(_CONTROLLERS[name] for name in lacking)
    status = MISSING if len(everyday) == 3 else PARTLY if everyday else OK
    yield Finding("cgroups", "controllers", status, detail, effect, remedy)


_OPTIONS = {
    "memory": "MEMCG", "pids": "CGROUP_PIDS", "cpu": "CGROUP_SCHED", "cpuset": "CPUSETS", "io": "BLK_CGROUP", "hugetlb": "CGROUP_HUGETLB",
    "rdma": "CGROUP_RDMA",
}  # fmt: skip


def cgroup_features(seen: Seen) -> Iterator[Finding]:
    places = [place for place in seen.value("cgroups") or [] if not place["made"]]
    v2 = next((place for place in places if place["version"] == "v2"), None)
    freezers = [place for place in places if "freezer" in place and (place["version"] == "v1" or seen.facts.cgroup_mode == "v2")]
    if places:
        number = freezers[0]["freezer"] if freezers else errno.ENOENT
        remedy = _config("CONFIG_CGROUP_FREEZER", "5.2" if seen.facts.cgroup_mode == "v2" else "")
        yield Finding("cgroups", "freezer", MISSING if number else OK, reason(number), "no pause and resume", remedy)
    if v2:
        number = v2["clone_into"]
        effect = "create and exec take some milliseconds longer, and a process is for a moment outside of its limits"
        yield Finding("cgroups", "clone into a cgroup", MISSING if number else OK, reason(number), effect, "a kernel from 5.7 on")
        effect = "processes are killed one by one"
        yield Finding("cgroups", "cgroup.kill", OK if v2["kill"] else MISSING, "", effect, "a kernel from 5.14 on")
    yield from devices(seen, places)


def devices(seen: Seen, places: list[dict[str, Any]]) -> Iterator[Finding]:
    """v1: the devices controller. v2: a BPF program."""
    if seen.facts.cgroup_mode == "v2":
        found = [place["devices"] for place in places if "devices" in place]
        effect = "device rules are not enforced: only the nodes in /dev keep devices away"
        remedy = _config("CONFIG_CGROUP_BPF", "4.15")
        if not seen.privileged:
            remedy = "only root may load BPF programs; in a user namespace the kernel opens no device node anyway"
    else:
        found = [place["devices"] for place in places if "devices" in place and place["version"] == "v1"]
        effect, remedy = "device rules are not enforced: only the nodes in /dev keep devices away", _config("CONFIG_CGROUP_DEVICE")
        remedy = (
            remedy if seen.privileged else "only root has them on version 1; in a user namespace the kernel opens no device node anyway"
        )
    number = found[0] if found else errno.ENOENT
    status = OK if not number else MISSING if seen.privileged else PARTLY
    yield Finding("cgroups", "device rules", status, reason(number) if found else "", effect, remedy)


# ---- processes


def processes(seen: Seen) -> Iterator[Finding]:
    for name, since, effect, needed in (
        ("clone3", "5.3", "containers are cloned the old way, and join their cgroups afterwards", False),
        ("openat2", "5.6", "paths inside a root filesystem cannot be resolved safely", True),
        ("pidfd", "5.4", "no process can be watched or killed without a race", True),
    ):
        number = seen.errno(name)
        remedy = f"a kernel from {since} on" if number == errno.ENOSYS else _NESTED
        if name == "clone3" and number == errno.ENOSYS:
            remedy = "a kernel from 5.3 on; in a container: an engine whose seccomp profile lets clone3 through"
        yield Finding("processes", name, MISSING if number else OK, reason(number), effect, remedy, needed)
    number, noexec = seen.errno("executable memfd"), seen.files.get("vm/memfd_noexec", "0")
    effect = "a container's first process is started from a copy on a tmpfs that is mounted nowhere, which takes longer"
    detail = reason(number) or (f"vm.memfd_noexec={noexec}" if noexec != "0" else "")
    yield Finding("processes", "executable memfd", PARTLY if number else OK, detail, effect, "sysctl -w vm.memfd_noexec=1")


def limits(seen: Seen) -> Iterator[Finding]:
    number = seen.errno("raise hard limits")
    detail = ", ".join(f"{name.lower()} {_limit(soft)}/{_limit(hard)}" for name, (soft, hard) in seen.limits.items())
    effect = "a configuration whose rlimits are above these hard limits is refused"
    remedy = "CAP_SYS_RESOURCE for root; LimitNOFILE= and LimitNPROC= of the unit, or /etc/security/limits.conf, for others"
    yield Finding("processes", "rlimits", PARTLY if number else OK, detail + (": they cannot be raised" if number else ""), effect, remedy)
    number = seen.errno("lower oom_score_adj")
    effect = "a configuration whose oomScoreAdj is below the caller's own is refused"
    detail, remedy = "it cannot be lowered" if number else "", "CAP_SYS_RESOURCE, or a higher oomScoreAdj"
    yield Finding("processes", "oom_score_adj", PARTLY if number else OK, detail, effect, remedy)
    number, most = seen.errno("keyring"), seen.files.get("kernel/keys/maxkeys", "")
    remedy = (
        "sysctl -w kernel.keys.maxkeys=20000" if number == errno.EDQUOT else "wherry create --no-new-keyring, or " + _config("CONFIG_KEYS")
    )
    effect = "no container with a session keyring of its own"
    few = not number and most.isdecimal() and int(most) < 1000 and not seen.privileged
    detail = reason(number) or (f"kernel.keys.maxkeys={most}: one for each container" if few else "")
    yield Finding("processes", "keyrings", MISSING if number else OK, detail, effect, remedy)


def _limit(value: int) -> str:
    return "unlimited" if value < 0 or value >= 1 << 62 else str(value)


# ---- security


def seccomp(seen: Seen) -> Iterator[Finding]:
    number, known = seen.errno("seccomp"), seen.value("seccomp") or {"actions": [], "flags": []}
    remedy = _config("CONFIG_SECCOMP_FILTER") if number else ""
    yield Finding("security", "seccomp", MISSING if number else OK, reason(number), "a configuration with linux.seccomp is refused", remedy)
    for name, key, since, effect in (
        ("NOTIFY", "actions", "5.0", "no seccomp agent: a profile with listenerPath is refused"),
        ("LOG", "actions", "4.14", "what a filter would refuse cannot be logged"),
        (
            "WAIT_KILLABLE_RECV",
            "flags",
            "5.19",
            "a profile with this flag is refused; calls that an agent handles may be interrupted by signals",
        ),
        ("SPEC_ALLOW", "flags", "4.17", "filters switch speculation off, which makes programs slower"),
    ):
        yield Finding("security", f"seccomp {name}", OK if name in known[key] else MISSING, "", effect, f"a kernel from {since} on")


def modules(seen: Seen) -> Iterator[Finding]:
    number, version = seen.errno("landlock"), seen.value("landlock")
    effect = "no Landlock rules around a sandbox"
    remedy = "lsm=landlock,... on the kernel's command line" if number == errno.EOPNOTSUPP else _config("CONFIG_SECURITY_LANDLOCK", "5.13")
    yield Finding("security", "landlock", MISSING if number else OK, reason(number) or f"ABI {version}", effect, remedy)
    active = ", ".join(seen.facts.lsms) or "none"
    apparmor, selinux = seen.files.get("apparmor") == "Y", seen.files.get("selinux", "") != ""
    detail = active + (", selinux is permissive" if seen.files.get("selinux") == "0" else "")
    effect = "process.apparmorProfile and process.selinuxLabel are refused: neither of them is active"
    remedy = "apparmor=1 security=apparmor (Debian, Ubuntu, SUSE) or selinux=1 security=selinux (Fedora) on the kernel's command line"
    yield Finding("security", "modules", OK if apparmor or selinux else PARTLY, detail, effect, remedy)


def capabilities(seen: Seen) -> Iterator[Finding]:
    from wherry.oci.checks import CAPABILITIES

    lacking = [name for name in DEFAULT_CAPABILITIES if not seen.bounding >> CAPABILITIES.index(f"CAP_{name}") & 1]
    effect = f"containers do not get {', '.join(lacking)}"
    yield Finding(
        "security", "capabilities", PARTLY if lacking else OK, "", effect, "start what runs wherry with these in its bounding set"
    )


# ---- ids of ordinary users


def subordinate_ids(seen: Seen) -> Iterator[Finding]:
    if seen.facts.uid == 0:  # of a user namespace: who is root there maps its ids
        return
    name, least = seen.name or str(seen.facts.uid), min(seen.subordinate.values(), default=0)
    detail = ", ".join(f"{file}: {count or 'none'}" for file, count in seen.subordinate.items())
    effect = "a rootless container has one user and one group: images with more cannot be unpacked, nor su, sudo and apt be used"
    remedy = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
    yield Finding("users", "subordinate ids", MISSING if not least else PARTLY if least < 65536 else OK, detail, effect, remedy)
    detail = ", ".join(f"{program}: {seen.mappers.get(program, 'not installed')}" for program in ("newuidmap", "newgidmap"))
    poor = [program for program in ("newuidmap", "newgidmap") if seen.mappers.get(program, "plain") == "plain"]
    remedy = "apt install uidmap, dnf install shadow-utils" if len(seen.mappers) < 2 else f"chmod u+s $(command -v {' '.join(poor)})"
    number = seen.errno("newuidmap")
    if number and not poor and least:
        detail = f"{detail}; tried: {seen.results['newuidmap'].get('call')} refuses"
        remedy = "mount the filesystem of newuidmap without nosuid; no_new_privs must be off"
    failed = bool(poor) or (bool(number) and bool(least))
    yield Finding("users", "newuidmap", MISSING if failed else OK, detail, "only one user and one group in a rootless container", remedy)


# ---- programs


def services(seen: Seen) -> Iterator[Finding]:
    reached = [address for address, number in seen.sockets.items() if not number]
    detail = f"{reached[0]} answers" if reached else ", ".join(f"{address}: {reason(number)}" for address, number in seen.sockets.items())
    effect = "--systemd-cgroup does not work: use cgroupfs"
    remedy = "systemctl start dbus.socket" if seen.systemd else "a host with systemd as PID 1"
    if seen.systemd and seen.facts.uid:
        remedy = f"loginctl enable-linger {seen.name}, apt install dbus-user-session, and XDG_RUNTIME_DIR=/run/user/{seen.facts.uid}"
    yield Finding(
        "programs", "systemd", OK if reached and seen.systemd else MISSING, detail if seen.systemd else "not running", effect, remedy
    )
    if seen.criu is None:
        yield Finding("programs", "criu", MISSING, "not installed", "no checkpoint, no restore", "apt install criu, dnf install criu")
        return
    version, complaint = seen.criu
    remedy = "a newer CRIU (https://criu.org/Installation); `criu check --all` says more"
    yield Finding(
        "programs", "criu", PARTLY if complaint else OK, version + (f": {complaint}" if complaint else ""), "checkpoints may fail", remedy
    )


# ---- at last


def containers(seen: Seen) -> Iterator[Finding]:
    place = seen.where
    while not os.path.isdir(place) and place != "/":
        place = os.path.dirname(place)
    writable = os.access(place, os.W_OK)
    remedy = (
        "wherry --root DIR, or XDG_RUNTIME_DIR=/run/user/$(id -u)"
        if seen.facts.uid or not seen.privileged
        else f"mount -o remount,rw {place}"
    )
    yield Finding(
        "container", "state directory", OK if writable else MISSING, seen.where, "no container can be kept there", remedy, needed=True
    )
    worked = {what: not error for what, error, _ in seen.ran}
    for what, error, remedy in seen.ran:
        if what == "a container by systemd":
            effect, status = "--systemd-cgroup does not work: use cgroupfs", MISSING if error else OK
            yield Finding("container", what, status, error or "was run", effect, remedy or "systemctl status; journalctl -b say more")
            continue
        limited = what == "a container with limits"
        status = OK if not error else PARTLY if limited and worked.get("a container") else MISSING
        if limited and error and not seen.privileged:
            remedy = delegation_remedy(seen)
        effect = "containers run without limits only" if limited else "no container can be run"
        yield Finding("container", what, status, error or "was run", effect, remedy or "see what is missing above", needed=not limited)


CHECKS: tuple[Check, ...] = (
    user_namespaces, namespaces, mount_calls, fresh_filesystems, idmapped_mounts, cgroup_tree, controllers, cgroup_features, processes,
    limits, seccomp, modules, capabilities, subordinate_ids, services, containers,
)  # fmt: skip
