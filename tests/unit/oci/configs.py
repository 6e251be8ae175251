# SPDX-License-Identifier: Apache-2.0
"""Configurations for tests: a valid one that uses every section, and a way to break it at one place."""

from __future__ import annotations

import json
from typing import Any

MISSING = object()
MAPPING = {"containerID": 0, "hostID": 100000, "size": 65536}


def full() -> dict[str, Any]:
    """Valid, without a warning, and every property of the specification for Linux that can stand beside the others."""
    config: dict[str, Any] = json.loads(_FULL)
    return config


def broken(**places: Any) -> dict[str, Any]:
    """full(), with values put at JSON pointers (MISSING removes). Keyword arguments, so ** of a dict."""
    config = full()
    for pointer, value in places.items():
        put(config, pointer, value)
    return config


def put(document: Any, pointer: str, value: Any) -> None:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for part in parts[:-1]:
        document = document[int(part)] if isinstance(document, list) else document.setdefault(part, {})
    last = int(parts[-1]) if isinstance(document, list) else parts[-1]
    if value is MISSING:
        del document[last]
    elif isinstance(document, list) and last == len(document):
        document.append(value)
    else:
        document[last] = value


def get(document: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


_HOOK = {"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}
_RATE = {"major": 8, "minor": 0, "rate": 1000}
_FULL = json.dumps({
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "host",
    "domainname": "domain",
    "annotations": {"org.example/key": "value"},
    "process": {
        "terminal": False,
        "consoleSize": {"height": 24, "width": 80},
        "cwd": "/",
        "env": ["PATH=/bin", "EMPTY="],
        "args": ["sh", "-c", ""],
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5, 6]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}],
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "permitted": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "noNewPrivileges": True,
        "oomScoreAdj": -5,
        "apparmorProfile": "profile",
        "selinuxLabel": "system_u:system_r:svirt_lxc_net_t:s0:c124,c675",
        "scheduler": {"policy": "SCHED_FIFO", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
        "execCPUAffinity": {"initial": "0", "final": "0-3,7"},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/tmp", "type": "tmpfs", "options": ["nosuid", "size=64k", "tmpcopyup"]},
        {"destination": "/data", "source": "data", "options": ["rbind", "ro", "rprivate"], "uidMappings": [MAPPING], "gidMappings": [MAPPING]},
        {"destination": "/proc/meminfo", "type": "none", "source": "/lxcfs/meminfo", "options": ["bind"]},
        {"destination": "/ids", "source": "/srv", "options": ["bind", "ridmap"]},
    ],
    "hooks": {kind: [_HOOK] for kind in ("createRuntime", "createContainer", "startContainer", "poststart", "poststop")},
    "linux": {
        "namespaces": [{"type": name} for name in "pid network mount ipc uts user cgroup time".split()],
        "uidMappings": [MAPPING, {"containerID": 65536, "hostID": 1000, "size": 1}],
        "gidMappings": [MAPPING],
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 1}, "boottime": {"secs": 2}},
        "devices": [
            {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"type": "p", "path": "/dev/pipe"},
        ],
        "netDevices": {"eth1": {"name": "lan"}, "eth2": {}, "eth3": {"name": "net%d"}},
        "cgroupsPath": "/group/of/mine",
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": -1, "access": "rw"}],
            "memory": {"limit": 1000000, "reservation": 500000, "swap": 2000000, "swappiness": 60, "disableOOMKiller": False,
                       "useHierarchy": True, "checkBeforeUpdate": True, "kernel": 0, "kernelTCP": 0},
            "cpu": {"shares": 1024, "quota": 50000, "burst": 1000, "period": 100000, "realtimeRuntime": 0, "realtimePeriod": 0,
                    "cpus": "0-1,3", "mems": "0", "idle": 0},
            "pids": {"limit": -1},
            "blockIO": {
                "weight": 0,
                "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": [_RATE],
                "throttleWriteBpsDevice": [_RATE],
                "throttleReadIOPSDevice": [_RATE],
                "throttleWriteIOPSDevice": [_RATE],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 1}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}},
            "unified": {"memory.high": "900000", "cgroup.max.depth": "3"},
        },
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.sem": "1 2 3 4", "net/core/somaxconn": "5", "kernel.domainname": "x", "user.max_uts_namespaces": "1"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "listenerPath": "/run/listener",
            "listenerMetadata": "x",
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"},
                {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}]},
            ],
        },
        "rootfsPropagation": "rslave",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "label",
        "personality": {"domain": "LINUX32"},
        "intelRdt": {"closID": "guaranteed", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=50", "schemata": ["L2:0=f"], "enableMonitoring": True},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
    },
    "vm": {
        "hypervisor": {"path": "/hv", "parameters": ["a"]},
        "kernel": {"path": "/kernel", "parameters": ["b"], "initrd": "/initrd"},
        "image": {"path": "/image", "format": "raw"},
        "hwConfig": {"deviceTree": "/tree", "vcpus": 1, "memory": 1, "dtdevs": ["d"], "irqs": [1],
                     "iomems": [{"firstGFN": 1, "firstMFN": 2, "nrMFNs": 3}]},
    },
})  # fmt: skip
