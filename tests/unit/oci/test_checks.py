# SPDX-License-Identifier: Apache-2.0
"""The rules of a configuration, one broken place at a time: `check` raises at that place, `findings` finds nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.errors import ConfigError
from wherry.oci.checks import check, check_process, check_resources, findings

from .configs import MAPPING, MISSING, broken, full

RESOURCES = "/linux/resources"
SECCOMP = "/linux/seccomp"
NAMESPACES = "/linux/namespaces"


def spaces(without: str, **paths: str) -> list[dict[str, str]]:
    names = [name for name in "pid network mount ipc uts user cgroup time".split() if name not in without.split()]
    return [{"type": name, **({"path": paths[name]} if name in paths else {})} for name in names]


# changes -> the code, and the pointer where it is not the place of the (first) change
ERRORS: list[tuple[dict[str, Any], str, str | None]] = [
    # types, required properties, ranges
    ({"/ociVersion": MISSING}, "REQUIRED", None),
    ({"/ociVersion": 1}, "TYPE", None),
    ({"/root": MISSING}, "REQUIRED", None),
    ({"/root": []}, "TYPE", None),
    ({"/root/path": MISSING}, "REQUIRED", None),
    ({"/root/path": ""}, "VALUE", None),
    ({"/root/readonly": 1}, "TYPE", None),
    ({"/hostname": 5}, "TYPE", None),
    ({"/annotations/x": 5}, "TYPE", None),
    ({"/annotations/a~1b~0c": None}, "TYPE", None),
    ({"/mounts": {}}, "TYPE", None),
    ({"/mounts/0": "x"}, "TYPE", None),
    ({"/process": "sh"}, "TYPE", None),
    ({"/process/terminal": "yes"}, "TYPE", None),
    ({"/process/args/1": 5}, "TYPE", None),
    ({"/process/env": "A=b"}, "TYPE", None),
    ({"/process/user": MISSING}, "REQUIRED", None),
    ({"/process/user/uid": -1}, "RANGE", None),
    ({"/process/user/gid": 2**32}, "RANGE", None),
    ({"/process/user/uid": 2**32 - 1}, "RANGE", None),
    ({"/process/user/gid": 2**32 - 1}, "RANGE", None),
    ({"/process/user/additionalGids/1": 2**32 - 1}, "RANGE", None),
    ({"/process/user/uid": True}, "TYPE", None),
    ({"/process/user/uid": 1.0}, "TYPE", None),
    ({"/process/user/additionalGids/1": "x"}, "TYPE", None),
    ({"/process/user/umask": 4096}, "RANGE", None),
    ({"/process/oomScoreAdj": -1001}, "RANGE", None),
    ({"/process/oomScoreAdj": 1001}, "RANGE", None),
    ({"/process/consoleSize/width": MISSING}, "REQUIRED", None),
    ({"/process/consoleSize/height": 65536}, "RANGE", None),
    ({"/linux": []}, "TYPE", None),
    ({"/linux/resources": []}, "TYPE", None),
    ({"/linux/resources/memory/limit": 2**63}, "RANGE", None),
    ({"/vm/image/format": "x"}, "UNKNOWN-VALUE", None),
    # the version
    ({"/ociVersion": "2.0.0"}, "VERSION", None),
    ({"/ociVersion": "latest"}, "VERSION", None),
    ({"/ociVersion": ""}, "VERSION", None),
    ({"/ociVersion": "1.2.3.4"}, "VERSION", None),
    # process
    ({"/process/cwd": "rel"}, "PATH", None),
    ({"/process/cwd": ""}, "PATH", None),
    ({"/process/args": []}, "REQUIRED", None),
    ({"/process/args": MISSING}, "REQUIRED", None),
    ({"/process/args/0": ""}, "VALUE", None),
    ({"/process/rlimits/0/type": "RLIMIT_FILES"}, "UNKNOWN-VALUE", None),
    ({"/process/rlimits/1/type": "RLIMIT_NOFILE"}, "DUPLICATE", None),
    ({"/process/rlimits/0/soft": 21}, "CONFLICT", None),
    ({"/process/rlimits/0/hard": MISSING}, "REQUIRED", None),
    ({"/process/capabilities/effective": ["CAP_CHOWN"]}, "CONFLICT", "/process/capabilities/effective/0"),
    ({"/process/scheduler/policy": "SCHED_NICE"}, "UNKNOWN-VALUE", None),
    ({"/process/scheduler/priority": 100}, "RANGE", None),
    ({"/process/scheduler/priority": MISSING}, "RANGE", None),
    ({"/process/scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, "RANGE", "/process/scheduler/nice"),
    ({"/process/scheduler": {"policy": "SCHED_OTHER", "priority": 1}}, "CONFLICT", "/process/scheduler/priority"),
    ({"/process/scheduler/runtime": 5}, "CONFLICT", None),
    ({"/process/scheduler": {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4}}, "CONFLICT", "/process/scheduler/deadline"),
    ({"/process/scheduler/flags/0": "x"}, "UNKNOWN-VALUE", None),
    ({"/process/ioPriority/priority": 8}, "RANGE", None),
    ({"/process/ioPriority/class": "IOPRIO_CLASS_NONE"}, "UNKNOWN-VALUE", None),
    ({"/process/execCPUAffinity/final": "0-"}, "VALUE", None),
    # mounts
    ({"/mounts/0/destination": MISSING}, "REQUIRED", None),
    ({"/mounts/0/destination": ""}, "VALUE", None),
    ({"/mounts/0/type": MISSING}, "MOUNT", None),
    ({"/mounts/3/source": MISSING}, "MOUNT", None),
    ({"/mounts/1": {"destination": "/a", "type": "bind", "source": "/b"}}, "MOUNT", "/mounts/1/options"),
    ({"/mounts/0/options": ["tmpcopyup"]}, "MOUNT", None),
    ({"/mounts/3/destination": "/proc/sysrq-trigger"}, "MOUNT", None),
    ({"/mounts/3/destination": "/proc/../proc//sys/./kernel"}, "MOUNT", None),
    ({"/mounts/3/destination": "/x/../proc/1"}, "MOUNT", None),
    ({"/mounts/2/gidMappings": MISSING}, "MAPPINGS", None),
    ({"/mounts/2/uidMappings": []}, "MAPPINGS", None),
    ({"/mounts/2/uidMappings/0/size": 0}, "RANGE", None),
    # hooks
    ({"/hooks/poststop/0/path": "true"}, "HOOK", None),
    ({"/hooks/poststop/0/path": MISSING}, "REQUIRED", None),
    ({"/hooks/createRuntime/0/timeout": 0}, "RANGE", None),
    ({"/hooks/createRuntime/0/timeout": -1}, "RANGE", None),
    # names
    ({"/hostname": "x" * 65}, "RANGE", None),
    ({"/annotations/": "x"}, "VALUE", None),
    # namespaces and what needs them
    ({f"{NAMESPACES}/8": {"type": "pid"}}, "DUPLICATE", f"{NAMESPACES}/8/type"),
    ({f"{NAMESPACES}/0/type": "net"}, "UNKNOWN-VALUE", None),
    ({f"{NAMESPACES}/0/path": "proc/1/ns/pid"}, "PATH", None),
    ({"/linux/uidMappings/1/hostID": 100001}, "MAPPINGS", "/linux/uidMappings/1"),
    ({"/linux/uidMappings/1/containerID": 5}, "MAPPINGS", "/linux/uidMappings/1"),
    ({"/linux/gidMappings/0/size": 2**32 - 1}, "MAPPINGS", None),
    ({"/linux/gidMappings": MISSING}, "MAPPINGS", None),
    ({"/linux/timeOffsets/realtime": {"secs": 1}}, "UNKNOWN-VALUE", None),
    ({"/linux/timeOffsets/boottime/nanosecs": 10**9}, "RANGE", None),
    ({NAMESPACES: spaces("time")}, "MISSING-NAMESPACE", "/linux/timeOffsets"),
    ({NAMESPACES: spaces("", time="/proc/1/ns/time")}, "CONFLICT", "/linux/timeOffsets"),
    # devices
    ({"/linux/devices/0/type": "a"}, "UNKNOWN-VALUE", None),
    ({"/linux/devices/0/path": "dev/fuse"}, "PATH", None),
    ({"/linux/devices/0/major": MISSING}, "REQUIRED", None),
    ({"/linux/devices/0/minor": 1 << 20}, "RANGE", None),
    ({"/linux/devices/0/major": -1}, "RANGE", None),
    ({"/linux/netDevices/eth1/name": "a/b"}, "VALUE", None),
    ({"/linux/netDevices/eth1/name": "sixteen_letters_"}, "VALUE", None),
    ({"/linux/netDevices/eth1/name": "a%s"}, "VALUE", None),
    ({"/linux/netDevices/eth1/name": "eth2"}, "DUPLICATE", "/linux/netDevices/eth2/name"),
    ({"/linux/netDevices/a b": {}}, "VALUE", None),
    ({"/linux/cgroupsPath": "/a/../../b"}, "PATH", None),
    ({"/linux/maskedPaths/0": "proc"}, "PATH", None),
    ({"/linux/readonlyPaths/0": ""}, "PATH", None),
    ({"/linux/rootfsPropagation": "rshare"}, "UNKNOWN-VALUE", None),
    ({"/linux/personality/domain": "BSD"}, "UNKNOWN-VALUE", None),
    ({"/linux/intelRdt/closID": ".."}, "VALUE", None),
    ({"/linux/intelRdt/closID": "a/b"}, "VALUE", None),
    ({"/linux/intelRdt/closID": ""}, "VALUE", None),
    ({"/linux/intelRdt/schemata/0": "L2:0=f\nL3:0=f"}, "VALUE", None),
    ({"/linux/memoryPolicy/mode": "BIND"}, "UNKNOWN-VALUE", None),
    ({"/linux/memoryPolicy/nodes": ""}, "REQUIRED", None),
    ({"/linux/memoryPolicy/nodes": "3-1"}, "VALUE", None),
    ({"/linux/memoryPolicy/mode": "MPOL_DEFAULT"}, "CONFLICT", "/linux/memoryPolicy/nodes"),
    ({"/linux/memoryPolicy/flags/1": "MPOL_F_RELATIVE_NODES"}, "CONFLICT", "/linux/memoryPolicy/flags"),
    # resources
    ({f"{RESOURCES}/devices/0/access": "x"}, "VALUE", None),
    ({f"{RESOURCES}/devices/0/allow": MISSING}, "REQUIRED", None),
    ({f"{RESOURCES}/devices/1/type": "p"}, "UNKNOWN-VALUE", None),
    ({f"{RESOURCES}/memory/limit": -2}, "RANGE", None),
    ({f"{RESOURCES}/memory/swap": 999999}, "CONFLICT", None),
    ({f"{RESOURCES}/memory/limit": MISSING}, "CONFLICT", f"{RESOURCES}/memory/swap"),
    ({f"{RESOURCES}/cpu/cpus": "0-x"}, "VALUE", None),
    ({f"{RESOURCES}/cpu/mems": "/../1"}, "VALUE", None),
    ({f"{RESOURCES}/cpu/burst": 50001}, "CONFLICT", None),
    ({f"{RESOURCES}/cpu/idle": 2}, "RANGE", None),
    ({f"{RESOURCES}/pids/limit": -2}, "RANGE", None),
    ({f"{RESOURCES}/blockIO/weight": 9}, "RANGE", None),
    ({f"{RESOURCES}/blockIO/weightDevice/0/weight": 1001}, "RANGE", None),
    ({f"{RESOURCES}/blockIO/throttleReadBpsDevice/0/rate": MISSING}, "REQUIRED", None),
    ({f"{RESOURCES}/hugepageLimits/0/pageSize": "../x.2MB"}, "VALUE", None),
    ({f"{RESOURCES}/hugepageLimits/0/pageSize": "2M"}, "VALUE", None),
    ({f"{RESOURCES}/hugepageLimits/0/pageSize": "MB"}, "VALUE", None),
    ({f"{RESOURCES}/network/priorities/0/name": ""}, "VALUE", None),
    ({f"{RESOURCES}/rdma/mlx5_1": {}}, "REQUIRED", None),
    ({f"{RESOURCES}/unified/a~1b.c": "1"}, "VALUE", None),
    ({f"{RESOURCES}/unified/memory": "1"}, "VALUE", None),
    ({f"{RESOURCES}/unified/cgroup.procs": "1"}, "VALUE", None),
    # sysctl
    ({"/linux/sysctl/kernel.panic": "1"}, "SYSCTL", None),
    ({"/linux/sysctl/kernel.hostname": "x"}, "SYSCTL", None),
    ({"/linux/sysctl/kernel": "x"}, "SYSCTL", None),
    ({"/linux/sysctl/net~1..~1kernel~1core_pattern": "x"}, "SYSCTL", None),
    ({"/linux/sysctl/net..ipv4": "x"}, "SYSCTL", None),
    ({"/linux/sysctl/net~1.~1ipv4": "x"}, "SYSCTL", None),
    ({"/linux/sysctl/net.ipv4.ip_forward x": "1"}, "SYSCTL", None),
    ({"/linux/sysctl/net.ipv4.ip_forward\nkernel.panic": "1"}, "SYSCTL", None),
    ({"/linux/sysctl/net.ipv4.ip_forward": "1\n2"}, "SYSCTL", None),
    ({"/linux/sysctl/net.ipv4.ip_forward": "1\r2"}, "SYSCTL", None),
    ({"/linux/sysctl/vm.overcommit_memory": "1"}, "SYSCTL", None),
    ({NAMESPACES: spaces("ipc")}, "SYSCTL", "/linux/sysctl/kernel.sem"),
    # seccomp
    ({f"{SECCOMP}/defaultAction": MISSING}, "REQUIRED", None),
    ({f"{SECCOMP}/defaultAction": "SCMP_ACT_NOTIFY", f"{SECCOMP}/defaultErrnoRet": MISSING}, "SECCOMP", None),
    ({f"{SECCOMP}/defaultAction": "SCMP_ACT_ALLOW"}, "SECCOMP", f"{SECCOMP}/defaultErrnoRet"),
    ({f"{SECCOMP}/architectures/0": "X86_64"}, "UNKNOWN-VALUE", None),
    ({f"{SECCOMP}/flags/0": "LOG"}, "UNKNOWN-VALUE", None),
    ({f"{SECCOMP}/syscalls/0/action": "ALLOW"}, "UNKNOWN-VALUE", None),
    ({f"{SECCOMP}/syscalls/0/names": []}, "SECCOMP", None),
    ({f"{SECCOMP}/syscalls/0/names/1": ""}, "SECCOMP", None),
    ({f"{SECCOMP}/syscalls/0/errnoRet": 1}, "SECCOMP", None),
    ({f"{SECCOMP}/syscalls/1/names/1": "write"}, "SECCOMP", None),
    ({f"{SECCOMP}/syscalls/2/args/0/index": 6}, "RANGE", None),
    ({f"{SECCOMP}/syscalls/2/args/0/op": "EQ"}, "UNKNOWN-VALUE", None),
    ({f"{SECCOMP}/syscalls/2/args/0/value": MISSING}, "REQUIRED", None),
    ({f"{SECCOMP}/listenerPath": "listener"}, "PATH", None),
    ({f"{SECCOMP}/listenerPath": MISSING, f"{SECCOMP}/listenerMetadata": MISSING}, "SECCOMP", f"{SECCOMP}/syscalls/1/action"),
    ({f"{SECCOMP}/syscalls/1/action": "SCMP_ACT_TRAP"}, "SECCOMP", f"{SECCOMP}/flags"),
]


@pytest.mark.parametrize(("changes", "code", "pointer"), ERRORS, ids=lambda value: str(list(value)) if isinstance(value, dict) else "")
def test_one_broken_place(changes: dict[str, Any], code: str, pointer: str | None) -> None:
    config: Any = broken(**changes)
    pointer = pointer or next(iter(changes))
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert (caught.value.pointer, caught.value.code) == (pointer, f"WHERRY-CONFIG-{code}")
    errors = [finding for finding in findings(config) if finding.severity == "error"]
    assert {(finding.pointer, finding.code) for finding in errors} == {(pointer, f"WHERRY-CONFIG-{code}")}


def test_missing_namespaces() -> None:
    """Without any namespace, each value that needs one is named."""
    config: Any = broken(**{NAMESPACES: []})
    places = {finding.pointer for finding in findings(config) if finding.code.endswith(("MISSING-NAMESPACE", "SYSCTL", "MAPPINGS"))}
    assert places == {
        "/hostname",
        "/domainname",
        "/linux/maskedPaths",
        "/linux/readonlyPaths",
        "/linux/uidMappings",
        "/linux/timeOffsets",
        "/linux/netDevices",
        "/mounts/4/options",
        *(f"/linux/sysctl/{key.replace('/', '~1')}" for key in config["linux"]["sysctl"]),
    }


WARNINGS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"/process/user/uid": MISSING}, "REQUIRED", None),
    ({"/process/user/gid": MISSING}, "REQUIRED", None),
    ({"/mounts/2/options/3": "size=1"}, "MOUNT", None),
    ({f"{RESOURCES}/devices/0/access": "rwx"}, "VALUE", None),
    ({"/ociVersion": "1.4.0"}, "VERSION", None),
    ({"/ociVersion": "0.2.0"}, "VERSION", None),
    ({"/process/capabilities/bounding/0": "CAP_FLY"}, "CAPABILITY", None),
    ({"/process/capabilities/ambient/0": "CAP_CHOWN"}, "CAPABILITY", None),
    ({"/process/env/1": "EMPTY"}, "VALUE", None),
    ({"/process/env/1": "=x"}, "VALUE", None),
    ({"/mounts/1/destination": "tmp"}, "DEPRECATED", None),
    ({"/mounts/1/options/0": ""}, "MOUNT", None),
    ({"/hooks/prestart": [{"path": "/bin/true"}]}, "DEPRECATED", None),
    ({f"{RESOURCES}/memory/kernel": 5}, "DEPRECATED", None),
    ({f"{RESOURCES}/memory/reservation": 1000001}, "CONFLICT", None),
    ({"/linux/personality/flags": ["x"]}, "VALUE", None),
    ({"/linux/intelRdt/enableCMT": True}, "DEPRECATED", None),
    ({"/process/ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1}}, "VALUE", "/process/ioPriority/priority"),
    ({f"{SECCOMP}/syscalls/2/args/0/op": "SCMP_CMP_EQ"}, "SECCOMP", f"{SECCOMP}/syscalls/2/args/0/valueTwo"),
]


@pytest.mark.parametrize(("changes", "code", "pointer"), WARNINGS, ids=lambda value: str(list(value)) if isinstance(value, dict) else "")
def test_one_dubious_place(changes: dict[str, Any], code: str, pointer: str | None) -> None:
    config: Any = broken(**changes)
    pointer = pointer or next(iter(changes))
    (warning,) = check(config)
    assert warning.startswith(f"{pointer}: ")
    (finding,) = findings(config)
    assert (finding.pointer, finding.code, finding.severity) == (pointer, f"WHERRY-CONFIG-{code}", "warning")


VALID: list[dict[str, Any]] = [
    {},
    {"/process": MISSING},
    {"/linux/resources/pids/limit": 0},
    {"/linux/resources/memory/swap": -1},
    {"/linux/resources/memory/swap": 0},
    {"/linux/resources/memory/limit": -1},
    {"/linux/resources/memory/swap": 1000000},
    {"/linux/resources/cpu/quota": -1},
    {"/linux/resources/cpu/cpus": "0-10:2/4, 12\n"},
    {"/linux/intelRdt/closID": "/"},
    {"/linux/memoryPolicy": {"mode": "MPOL_PREFERRED"}},
    {"/linux/memoryPolicy": {"mode": "MPOL_DEFAULT", "nodes": ""}},
    {"/linux/sysctl/net.ipv4.conf.eth0~1100.forwarding": "1"},
    {"/linux/devices/1/major": 0},
    {"/mounts/0/type": MISSING, "/mounts/0/options": ["remount", "ro"]},
    {"/mounts/3/destination": "/process"},
    {"/mounts/3/destination": "/proc"},
    {"/process/args/1": ""},
    {"/ociVersion": "1.0"},
    {"/ociVersion": "1.0.2-dev+build"},
    {"/hostname": ""},
]


@pytest.mark.parametrize("changes", VALID, ids=lambda changes: str(list(changes)))
def test_valid(changes: dict[str, Any]) -> None:
    config: Any = broken(**changes)
    assert check(config) == []
    assert findings(config) == []


def test_unknown_properties_are_ignored_and_named() -> None:
    config: Any = broken(**{"/linux/maskedPath": [], "/x-mine": 1, "/process/user/UID": 5})
    assert check(config) == []
    found = {finding.pointer: finding.remedy for finding in findings(config)}
    assert found == {"/linux/maskedPath": "did you mean maskedPaths?", "/x-mine": None, "/process/user/UID": "did you mean uid?"}
    assert {finding.severity for finding in findings(config)} == {"warning"}


def test_everything_at_once() -> None:
    """A wrong value hides neither its neighbours nor causes findings about itself."""
    changes = {
        "/process/cwd": MISSING,
        "/process/user/uid": "0",
        "/process/rlimits/1/type": "RLIMIT_NOFILE",
        "/process/args": "sh",
        "/mounts/2/source": 5,
        "/mounts/3/destination": "/proc/1",
        "/linux/uidMappings/0/size": "x",
        "/linux/sysctl/kernel.panic": "1",
        f"{RESOURCES}/memory/limit": "1G",
        f"{SECCOMP}/syscalls/0/names": [],
        "/hooks/poststop/0/path": "true",
    }
    config: Any = broken(**changes)
    assert {finding.pointer for finding in findings(config)} >= changes.keys()
    assert len(findings(config)) <= len(changes) + 1
    assert config["mounts"][2]["source"] == 5, "the document itself is left alone"


def test_pointers_of_other_documents() -> None:
    process: Any = full()["process"]
    assert check_process(process) == []
    process["cwd"] = "x"
    with pytest.raises(ConfigError, match=r"^/cwd: "):
        check_process(process)
    resources: Any = full()["linux"]["resources"]
    assert check_resources(resources) == []
    resources["memory"]["swap"] = 1
    with pytest.raises(ConfigError, match=r"^/memory/swap: "):
        check_resources(resources)


def test_mappings_may_touch() -> None:
    second = {"containerID": 65536, "hostID": 165536, "size": 5}
    config: Any = broken(**{"/linux/uidMappings": [second, MAPPING]})
    assert check(config) == []


@pytest.mark.parametrize("document", [[], None, "x", 5])
def test_what_is_no_object(document: Any) -> None:
    (finding,) = findings(document)
    assert (finding.pointer, finding.code) == ("", "WHERRY-CONFIG-TYPE")


def test_nul_in_a_document_that_was_not_read() -> None:
    config: Any = broken(**{"/process/cwd": "/a\0b", "/mounts/1/options/0": "a\0"})
    assert [finding.pointer for finding in findings(config)] == ["/process/cwd", "/mounts/1/options/0"]


def test_names_in_another_case() -> None:
    """As Go reads them; what is there by its right name is not replaced."""
    config: Any = full()
    config["linux"]["resources"] = {"hugepageLimits": [{"pagesize": "2MB", "limit": 1}], "Pids": {"LIMIT": 5, "limit": 7}}
    warnings = check(config)
    assert config["linux"]["resources"]["hugepageLimits"] == [{"limit": 1, "pageSize": "2MB"}]
    assert config["linux"]["resources"]["pids"] == {"LIMIT": 5, "limit": 7}
    assert [text for text in warnings if "it is taken for" in text] == [
        "/linux/resources/Pids: it is taken for pids",
        "/linux/resources/hugepageLimits/0/pagesize: it is taken for pageSize",
    ]
