# SPDX-License-Identifier: Apache-2.0
"""The cases whose whole plan is kept as text: together they use every operation and every part of the specification."""

from __future__ import annotations

from typing import Any

from support import BASE, FILTER, MAPPINGS, bind, config, host, joined, namespaces, options, small

from wherry.kernel.hostfacts import HostFacts
from wherry.plan.options import Options

Case = tuple[dict[str, Any], HostFacts, Options]
ALL = ("pid", "network", "ipc", "uts", "mount", "cgroup")
SECCOMP = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
NOTIFY = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "listenerPath": "/run/agent.sock",
    "listenerMetadata": 'who "asks"',
    "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}],
}
RESOURCES: dict[str, Any] = {
    "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
    "memory": {"limit": 268435456, "reservation": 134217728, "swap": 536870912, "kernel": 1},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0-1", "mems": "0", "idle": 0},
    "pids": {"limit": 100},
    "blockIO": {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 300}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
    "network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 5}]},
    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
}
LIMITS: dict[str, Any] = {
    **{name: RESOURCES[name] for name in ("devices", "memory", "cpu", "pids", "blockIO")},
    "unified": {"memory.high": "200000000", "cpu.weight": "77", "memory.oom.group": "1", "hugetlb.2MB.max": "0"},
}
PROPERTIES = {"org.systemd.property.TimeoutStopSec": "2.5", "org.systemd.property.Description": "'some words'", "other": "kept"}
WRITABLE_CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
SYSTEM = {"version": 252, "user": False, "cgroup": ""}
USER = {"version": 255, "user": True, "cgroup": "/user.slice/user-1000.slice/user@1000.service", "controllers": ["cpu", "memory", "pids"]}
RARE = {
    "process__scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], "runtime": 1, "deadline": 2, "period": 3},
    "process__ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
    "process__oomScoreAdj": -500,
    "process__user": {"uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5, 44]},
    "process__cwd": "/work",
    "process__env": ["A=1", "A=2", "PATH=/bin", "HOME="],
    "linux__personality": {"domain": "LINUX32"},
    "linux__memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0-1,65", "flags": ["MPOL_F_STATIC_NODES"]},
    "linux__sysctl": {"net.ipv4.ip_forward": "1", "kernel.domainname": "example"},
    "linux__devices": [
        {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o100600, "uid": 1, "gid": 2},
        {"type": "b", "path": "/dev/sda", "major": 8, "minor": 0},
        {"type": "p", "path": "/dev/pipe", "fileMode": 0o600},
        {"type": "c", "path": "/dev/null", "major": 1, "minor": 3, "fileMode": 0o600},
        {"type": "c", "path": "/dev/ptmx", "major": 5, "minor": 2},
    ],
    "domainname": "example.org",
    "linux__mountLabel": "system_u:object_r:container_file_t:s0:c1,c2",
    "process__selinuxLabel": "system_u:system_r:container_t:s0:c1,c2",
}
HOOKS = {
    kind: [{"path": f"/hooks/{kind}", "args": [kind, "a b"], "env": ["X=1"], "timeout": 5}, {"path": "/hooks/other"}]
    for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
}
ANNOTATIONS = {"z.last": 'quotes " and \\ and \u00e9', "a.first": "line\nbreak \x01A"}
MOUNTS = [
    bind("bind"),
    bind("rbind", "ro", "nosuid", "noatime", "rslave", destination="/a"),
    bind("rbind", "rro", "rnoatime", "rexec", "rsuid", "rw", destination="/b", source="below/bundle"),
    bind("bind", "suid", "dev", "exec", "atime", "nodiratime", "nosymfollow", "private", "unbindable", destination="/c"),
    bind("bind", "idmap", destination="/d", uidMappings=[{"containerID": 0, "hostID": 1000, "size": 1}], gidMappings=[{"containerID": 0, "hostID": 1000, "size": 1}]),
    {"destination": "/mapped", "type": "tmpfs", "source": "none", "options": ["ro", "size=1m"], "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]},
    bind("rbind", destination="/proc/meminfo", source="/var/lib/lxcfs/proc/meminfo"),
    bind("bind", "remount", "ro", destination="/a"),
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro", "size=1m", "noexec"]},
    {"destination": "/run", "type": "tmpfs", "source": "run", "options": ["mode=700", "lazytime", "silent", "shared"]},
    {"destination": "/ext", "type": "ext4", "source": "/dev/sdb", "options": ["ro", "sync", "dirsync", "mand", "iversion", "data=ordered"]},
    {"destination": "/ext", "options": ["remount", "rw", "nolazytime", "commit=5"]},
    {"destination": "/ov", "type": "overlay", "source": "overlay", "options": ["lowerdir=/l1:/l2", "defaults", "relatime", "loud", "nostrictatime"]},
    {"destination": "rel//./ative/", "type": "proc", "options": ["rrelatime"]},
]  # fmt: skip


LANDLOCK = {"org.wherry.landlock": '{"read": ["/"], "use": ["/dev"], "write": ["/tmp", "/work"]}'}


def with_selinux(facts: HostFacts) -> HostFacts:
    facts.lsms = ("selinux",)
    return facts


def with_landlock(facts: HostFacts, abi: int) -> HostFacts:
    facts.landlock = abi
    return facts


def cases() -> dict[str, Case]:
    user = {"linux__namespaces": namespaces(*ALL, "user"), **MAPPINGS}
    own = {name: [{"containerID": 0, "hostID": 1000, "size": 1}] for name in ("linux__uidMappings", "linux__gidMappings")}
    many = {name: [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 65536}] for name in own}
    writable = [*BASE["mounts"][:-1], {**BASE["mounts"][-1], "options": ["nosuid", "rw"]}]
    pod = {"/ns/user": joined(0x10000000, 9), "/ns/net": joined(0x40000000, 8, owner=9), "/ns/uts": joined(0x4000000, 7)}
    return {
        "default-v2": (config(), host("v2"), options()),
        "default-v1": (config(), host("v1"), options()),
        "default-hybrid": (config(), host("hybrid"), options()),
        "no-cgroups": (config(), host("none"), options()),
        "resources-v2": (config(linux__resources=RESOURCES, linux__cgroupsPath="/pods/one"), host("v2"), options()),
        "resources-v1": (config(linux__resources=RESOURCES, linux__cgroupsPath="pods//./one"), host("v1"), options()),
        "resources-hybrid": (config(linux__resources=RESOURCES), host("hybrid"), options()),
        "unified": (config(linux__resources={"unified": {"memory.high": "1", "cgroup.max.depth": "2"}}), host("v2"), options()),
        "user-namespace": (config(**user, mounts=writable, process__user={"uid": 5, "gid": 6}), host("v2"), options()),
        "user-namespace-v1": (config(**user), host("v1"), options()),
        "nested": (config(linux__resources=None), host("nested"), options()),
        "pod": (
            config(linux__namespaces=namespaces("mount", "pid", "cgroup", user="/ns/user", network="/ns/net", uts="/ns/uts")),
            host("v2", namespaces=pod),
            options(),
        ),
        "joined-with-new-user": (
            config(
                **{
                    **user,
                    "linux__namespaces": namespaces("user", "mount", "pid", "uts", network="/ns/net", ipc="/ns/ipc", time="/ns/time"),
                }
            ),
            host("v2"),
            options(),
        ),
        "joined": (
            config(
                linux__namespaces=namespaces("uts", pid="/proc/1/ns/pid", network="/ns/net", mount="/ns/mnt", cgroup="/ns/cgroup"),
                linux__sysctl={"net.core.somaxconn": "9"},
            ),
            host("hybrid", namespaces={"/ns/net": joined(0x40000000)}),
            options(),
        ),
        "rootless-own-id": (
            config(**{**user, **own}, linux__resources=None, process__user={"uid": 0, "gid": 0, "additionalGids": [1]}),
            host("rootless-v2"),
            options(),
        ),
        "rootless-subids-time": (
            config(
                **{**user, **many, "linux__namespaces": namespaces(*ALL, "user", "time")},
                linux__timeOffsets={"monotonic": {"secs": -5}},
                linux__resources={"pids": {"limit": 3}},
                linux__cgroupsPath="one",
            ),
            host("rootless-v2"),
            options(),
        ),
        "rootless-v1": (config(**{**user, **own}, linux__resources=None), host("rootless-v1"), options()),
        "time": (
            config(
                linux__namespaces=namespaces(*ALL, "time"),
                linux__timeOffsets={"monotonic": {"secs": 5, "nanosecs": 7}, "boottime": {"secs": -9}},
            ),
            host("v2"),
            options(),
        ),
        "terminal": (
            config(process__terminal=True, process__consoleSize={"height": 25, "width": 80}),
            host("v2"),
            options(attached_terminal=True),
        ),
        "seccomp-no-new-privileges": (config(linux__seccomp=SECCOMP), host("v2"), options()),
        "seccomp-privileged": (config(linux__seccomp=SECCOMP, process__noNewPrivileges=None), host("v2"), options()),
        "seccomp-notify": (config(linux__seccomp=NOTIFY, annotations=ANNOTATIONS), host("v2"), options(seccomp=lambda _: (FILTER, 12))),
        "seccomp-notify-privileged": (config(linux__seccomp=NOTIFY, process__noNewPrivileges=False), host("v2"), options()),
        "hooks": (config(hooks=HOOKS, annotations=ANNOTATIONS), host("v2"), options()),
        "rare": (config(**RARE), host("v2"), options()),
        "landlock": (config(annotations=LANDLOCK), with_landlock(host("v2"), 7), options()),
        "selinux": (
            config(process__selinuxLabel="system_u:system_r:container_t:s0:c1,c2", linux__mountLabel="system_u:object_r:container_file_t:s0:c1,c2"),
            with_selinux(host("v2")),
            options(),
        ),
        "apparmor": (config(process__apparmorProfile="docker-default"), host("v2"), options()),
        "mounts": (small(mounts=MOUNTS), host("v2"), options()),
        "mounts-user-namespace": (
            small(mounts=MOUNTS[:8], **{**user, "linux__namespaces": namespaces("mount", "user")}),
            host("v2"),
            options(),
        ),
        "mounts-old-kernel": (small(mounts=MOUNTS[:4]), host("v1"), options()),
        "host-dev": (small(mounts=[bind("rbind", destination="/dev", source="/dev")]), host("v2"), options()),
        "shared": (
            small(linux__rootfsPropagation="rshared", root={"path": "/var/lib/x/../rootfs", "readonly": False}),
            host("v2"),
            options(no_pivot=True, no_new_keyring=True),
        ),
        "on-the-host": (small(linux__namespaces=namespaces("pid"), mounts=[bind("rbind", destination="/data", source="/srv")]), host("v2"), options()),
        "unbindable": (small(linux__rootfsPropagation="unbindable"), host("v2"), options(bundle="/a bundle", environment=["LISTEN_FDS=1"])),
        "no-process": (config(process=None), host("v2"), options()),
        "systemd": (
            config(linux__cgroupsPath="a-b.slice:wherry:one", linux__resources=LIMITS, annotations=PROPERTIES),
            host("v2", systemd=SYSTEM),
            options(cgroup_manager="systemd"),
        ),
        "systemd-devices": (
            config(linux__netDevices={"eth7": {}}, process__user={"uid": 5, "gid": 0}, mounts=[*BASE["mounts"][:-1], WRITABLE_CGROUP]),
            host("v2", systemd=SYSTEM),
            options(cgroup_manager="systemd"),
        ),
        "systemd-slice": (config(linux__cgroupsPath=":wherry:a-b.slice"), host("v2", systemd=SYSTEM), options(cgroup_manager="systemd")),
        "systemd-v1": (config(linux__resources=RESOURCES), host("v1", systemd=SYSTEM), options(cgroup_manager="systemd")),
        "systemd-hybrid": (config(linux__resources=RESOURCES), host("hybrid", systemd=SYSTEM), options(cgroup_manager="systemd")),
        "systemd-user": (
            config(**{**user, **own}, linux__resources={"memory": {"limit": 67108864}, "pids": {"limit": 3}}),
            host("rootless-v2", systemd=USER),
            options(cgroup_manager="systemd"),
        ),
        "interlude": (config(linux__netDevices={"eth7": {"name": "eth0"}}, linux__intelRdt={"closID": "gold"}), host("v2"), options()),
    }
