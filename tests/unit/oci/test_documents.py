# SPDX-License-Identifier: Apache-2.0
"""The documents that wherry writes: default configurations, features, state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wherry.oci import default, state
from wherry.oci.checks import findings
from wherry.oci.config import load
from wherry.oci.validate import schema_findings

MAPPINGS: Any = ([{"containerID": 0, "hostID": 1000, "size": 1}], [{"containerID": 0, "hostID": 1000, "size": 1}])
DEFAULTS = {
    "spec": default.spec(),
    "spec without cgroup namespace": default.spec(cgroup_namespace=False),
    "rootless spec": default.spec(rootless=True, uid=1000, gid=1000),
    "sandbox": default.sandbox("/rootfs", ["true"]),
    "rootless sandbox": default.sandbox("/rootfs", ["true"], mappings=MAPPINGS, limits=False),
    "sandbox with network": default.sandbox("/rootfs", ["true"], network=True, mappings=MAPPINGS),
    "terminal sandbox": default.sandbox("/rootfs", ["sh"], terminal=True, env={"A": "b"}, processors=0.5, readonly=False),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_valid(name: str) -> None:
    config = DEFAULTS[name]
    assert findings(config) == []
    assert schema_findings(config) == []
    assert load(json.dumps(config).encode()) == config


def test_defaults_share_nothing() -> None:
    """Who changes one does not change the next."""
    first = default.spec()
    first["linux"]["maskedPaths"].append("/x")
    first["process"]["capabilities"]["bounding"].append("CAP_SYS_ADMIN")
    first["mounts"][1]["options"].append("x")
    assert default.spec() == DEFAULTS["spec"]
    assert "CAP_SYS_ADMIN" not in first["process"]["capabilities"]["effective"]


def test_spec_is_what_runtimes_print() -> None:
    config = default.spec()
    assert list(config) == ["ociVersion", "process", "root", "hostname", "mounts", "linux"]
    assert config["process"]["args"] == ["sh"] and config["process"]["terminal"]
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert [mount["destination"] for mount in config["mounts"]] == [
        "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup",
    ]  # fmt: skip
    assert config["linux"]["resources"] == {"devices": [{"allow": False, "access": "rwm"}]}
    assert "inheritable" not in config["process"]["capabilities"], "programs with file capabilities would gain them"


def test_rootless_spec() -> None:
    linux = default.spec(rootless=True, uid=5, gid=6)["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 5, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 6, "size": 1}]
    assert {"type": "user"} in linux["namespaces"] and {"type": "network"} not in linux["namespaces"]
    assert "resources" not in linux
    options = {mount["destination"]: mount.get("options", []) for mount in default.spec(rootless=True)["mounts"]}
    assert "gid=5" not in options["/dev/pts"], "the group is not mapped"
    assert "rbind" in options["/sys"], "sysfs needs a network namespace"


def test_the_sandbox_is_tight() -> None:
    config = default.sandbox("/rootfs", ["true"])
    assert config["root"] == {"path": "/rootfs", "readonly": True}
    assert {space["type"] for space in config["linux"]["namespaces"]} == {"pid", "ipc", "uts", "mount", "cgroup", "network"}
    process = config["process"]
    assert process["noNewPrivileges"] and process["capabilities"] == {}
    resources = config["linux"]["resources"]
    assert resources["memory"]["limit"] == resources["memory"]["swap"] == 1 << 30
    assert resources["pids"] == {"limit": 512}
    assert {mount["destination"] for mount in config["mounts"] if mount["type"] == "tmpfs"} == {
        "/dev", "/dev/shm", "/tmp", "/var/tmp", "/run",
    }  # fmt: skip
    assert "/sys/fs/cgroup" not in {mount["destination"] for mount in config["mounts"]}


DANGEROUS = (
    "mount umount2 pivot_root chroot unshare setns clone3 open_tree move_mount fsopen fsconfig fsmount mount_setattr init_module finit_module "
    "delete_module kexec_load kexec_file_load reboot bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register ptrace "
    "process_vm_readv process_vm_writev kcmp pidfd_getfd add_key request_key keyctl open_by_handle_at name_to_handle_at quotactl swapon "
    "swapoff settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl ioperm syslog acct vhangup lookup_dcookie "
    "nfsservctl uselib fanotify_init move_pages mbind set_mempolicy migrate_pages modify_ldt"
).split()


def test_the_profile_of_the_sandbox() -> None:
    profile = default.profile()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO" and profile["defaultErrnoRet"] == 1
    always = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule for name in rule["names"]}
    assert not always & {*DANGEROUS, "clone", "socket", "personality"}
    assert always >= set("read write openat execve mmap futex exit_group wait4 rt_sigreturn prctl close_range sendmsg recvmsg".split())
    (clone,) = (rule for rule in profile["syscalls"] if rule["names"] == ["clone"])
    (condition,) = clone["args"]
    namespaces = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
    assert condition == {"index": 0, "value": namespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    (clone3,) = (rule for rule in profile["syscalls"] if rule["names"] == ["clone3"])
    assert clone3["errnoRet"] == 38, "C libraries fall back to clone on ENOSYS only"


def test_state() -> None:
    config = default.spec()
    config["annotations"] = {"a": "b"}
    assert state.document(config, "box", "running", 5, "/bundle", created="now", owner="root") == {
        "ociVersion": "1.3.0",
        "id": "box",
        "pid": 5,
        "status": "running",
        "bundle": "/bundle",
        "rootfs": "/bundle/rootfs",
        "created": "now",
        "annotations": {"a": "b"},
        "owner": "root",
    }
    del config["annotations"]
    config["root"]["path"] = "/elsewhere"
    stopped = state.document(config, "box", "stopped", 5, "/bundle")
    assert stopped["pid"] == 0 and stopped["rootfs"] == "/elsewhere" and "annotations" not in stopped
