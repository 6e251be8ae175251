# SPDX-License-Identifier: Apache-2.0
"""What `wherry doctor` says of hosts that we do not have: each lack by its name, its effect and what mends it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from wherry.api import doctor
from wherry.api.doctor import MISSING, OK, PARTLY, Finding, Report, Seen
from wherry.api.findings import check
from wherry.cli.doctor import head, plain, verdict
from wherry.kernel.hostfacts import HostFacts
from wherry.kernel.trials import SECCOMP_ACTIONS, SECCOMP_FLAGS, TRIALS

SCHEMA = json.loads((Path(__file__).parents[3] / "specs/doctor.schema.json").read_text())
V2 = {
    "version": "v2", "controllers": "cpuset cpu io memory hugetlb pids rdma".split(), "parent": "/sys/fs/cgroup", "made": 0, "enabled": [],
    "writable": True, "freezer": 0, "kill": True, "clone_into": 0, "devices": 0,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "seccomp": {"actions": list(SECCOMP_ACTIONS), "flags": list(SECCOMP_FLAGS)},
    "landlock": 6,
    "idmapped mounts": {"tmpfs": 0, "ext4": 0},
    "cgroups": [V2],
}


def seen(uid: int = 0, refused: dict[str, int] | None = None, **more: Any) -> Seen:
    """A host where everything works, but for what is given."""
    facts = HostFacts()
    facts.uid = facts.gid = uid
    facts.kernel, facts.cgroup_mode, facts.lsms = "6.12.0", "v2", ("apparmor",)
    facts.capabilities = 0 if uid else (1 << 41) - 1
    for name in [name for name in more if name in HostFacts.__slots__ and name not in Seen.__slots__]:
        setattr(facts, name, more.pop(name))
    values = {**VALUES, **more.pop("values", {})}
    results: dict[str, dict[str, Any]] = {name: {"value": values.get(name)} for name in TRIALS}
    results |= {name: {"errno": number, "call": "x"} for name, number in (refused or {}).items()}
    host = Seen(facts, results)
    host.name, host.where, host.systemd = "root" if uid == 0 else "user", "/tmp", True  # where anybody may write
    host.files = {"apparmor": "Y", "selinux": "", "user/max_user_namespaces": "15000"}
    host.limits = {"NOFILE": (1024, 1 << 20)}
    host.subordinate = dict.fromkeys(("/etc/subuid", "/etc/subgid"), 65536)
    host.mappers = dict.fromkeys(("newuidmap", "newgidmap"), "setuid")
    host.criu, host.sockets = ("4.1", ""), {"/run/systemd/private": 0}
    host.ran = [("a container with limits", "", ""), ("a container", "", ""), ("a container by systemd", "", "")]
    for name, value in more.items():
        setattr(host, name, value)
    return host


def found(host: Seen, name: str, group: str = "") -> Finding:
    (finding,) = (one for one in check(host) if one.name == name and group in ("", one.group))
    return finding


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_host_where_everything_works(uid: int) -> None:
    report = Report(seen(uid), check(seen(uid)))
    lacking = [finding for finding in report.findings if finding.status != OK]
    assert [finding.name for finding in lacking] == []
    assert report.usable and "containers can run here" in verdict(report)
    jsonschema.validate(report.document(), SCHEMA)


def test_a_hierarchy_that_nobody_mounts() -> None:
    """As a program leaves it that mounted a controller and was killed: the hierarchy lives on while it has a cgroup."""
    controllers = "#subsys_name hierarchy num_cgroups enabled\nmemory 4 3 1\nhugetlb 44 3 1\npids 0 1 1\n"
    mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n38 31 0:38 / /x rw - tmpfs tmpfs rw,hugetlb\n"
    assert doctor._unmounted(controllers, mounts) == ["hugetlb"]
    finding = found(seen(cgroup_mode="hybrid", unmounted=["hugetlb"]), "hierarchy of hugetlb")
    assert (finding.status, finding.needed) == (PARTLY, False) and "-o hugetlb" in finding.remedy
    assert not [one for one in check(seen(cgroup_mode="hybrid")) if one.name.startswith("hierarchy of")]


def test_a_host_where_nothing_works_has_a_remedy_for_each() -> None:
    refused = dict.fromkeys(TRIALS, errno.ENOSYS)
    for uid in (0, 1000):
        for mode in ("v1", "v2", "none"):
            host = seen(uid, refused, cgroup_mode=mode, criu=None, sockets={"/run/x": 2}, files={}, mappers={}, bounding=0, lsms=())
            host.subordinate = dict.fromkeys(host.subordinate, 0)
            host.ran = [("a container with limits", "no", ""), ("a container", "no", ""), ("a container by systemd", "no", "")]
            report = Report(host, check(host))
            assert not report.usable and verdict(report).startswith("no container can run here")
            jsonschema.validate(report.document(), SCHEMA)
            good = {finding.name for finding in report.findings if finding.status == OK}
            assert good <= {"state directory", "hierarchy"}


def test_without_systemds_container_others_run() -> None:
    host = seen(0)
    host.ran[2] = ("a container by systemd", "unit is not where it was expected", "")
    finding = found(host, "a container by systemd")
    assert (finding.status, finding.effect) == (MISSING, "--systemd-cgroup does not work: use cgroupfs") and finding.remedy
    assert Report(host, check(host)).usable


def test_names_are_unique_in_their_group() -> None:
    for uid in (0, 1000):
        names = [(finding.group, finding.name) for finding in check(seen(uid))]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("files", "number", "remedy"),
    [
        ({"kernel/unprivileged_userns_clone": "0"}, errno.EPERM, "sysctl -w kernel.unprivileged_userns_clone=1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, errno.EPERM, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, errno.EACCES, "`userns,`"),
        ({"user/max_user_namespaces": "0"}, errno.ENOSPC, "sysctl -w user.max_user_namespaces=15000"),
        ({}, errno.EINVAL, "CONFIG_USER_NS"),
        ({}, errno.EPERM, "the container around it refuses"),
    ],
)
def test_what_mends_user_namespaces(files: dict[str, str], number: int, remedy: str) -> None:
    host = seen(1000, {"user namespace": number}, files=files)
    finding = found(host, "user")
    assert (finding.status, finding.needed) == (MISSING, True) and remedy in finding.remedy
    assert not Report(host, check(host)).usable
    assert not found(seen(0, {"user namespace": number}, files=files), "user").needed, "root does without"


def test_restricted_root_has_to_be_allowed_to_map_root() -> None:
    finding = found(seen(0, {"user namespace": errno.EPERM}, capabilities=1 << 5), "user")
    assert "--cap-add SETFCAP" in finding.remedy
    assert Report(seen(0, capabilities=0), ()).who() == "root without CAP_SYS_ADMIN"


def test_namespaces_that_root_can_do_without() -> None:
    host = seen(0, {"time namespace": errno.EINVAL})
    assert found(host, "time").remedy == "a kernel from 5.6 on, built with CONFIG_TIME_NS"
    assert Report(host, check(host)).usable
    host = seen(0, {"pid namespace": errno.ENOSPC})
    assert found(host, "pid").remedy == "sysctl -w user.max_pid_namespaces=15000"
    assert not Report(host, check(host)).usable


def test_idmapped_mounts_by_file_system() -> None:
    finding = found(seen(values={"idmapped mounts": {"tmpfs": errno.EINVAL, "ext4": 0}}), "idmapped")
    assert finding.status == PARTLY and finding.effect == "no mount with uidMappings on tmpfs"
    assert found(seen(1000, values={"idmapped mounts": {"ext4": errno.EPERM}}), "idmapped").remedy.startswith("only the host's root")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({}, "systemd-run --user --scope -p Delegate=yes $SHELL"),
        ({"systemd": False}, "chown -R 1000 /sys/fs/cgroup/user;"),
        ({"cgroup_mode": "hybrid"}, "systemd.unified_cgroup_hierarchy=1"),
        ({"uid": 0, "capabilities": 0, "user_namespace": True}, "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    ],
)
def test_what_mends_a_cgroup_tree_that_is_not_delegated(changes: dict[str, Any], remedy: str) -> None:
    host = seen(**{"uid": 1000, **changes}, values={"cgroups": [{**V2, "made": errno.EACCES}]})
    assert found(host, "own cgroups").status == MISSING
    assert remedy in found(host, "own cgroups").remedy


def test_controllers() -> None:
    poor = {**V2, "controllers": ["memory", "pids"]}
    finding = found(seen(1000, values={"cgroups": [poor]}), "controllers")
    assert finding.status == PARTLY and "Delegate=cpu cpuset io memory pids" in finding.remedy
    assert "no CPU shares and quotas" in finding.effect
    finding = found(seen(0, values={"cgroups": [{**V2, "controllers": ["cpu", "pids"]}]}), "controllers")
    assert "CONFIG_MEMCG" in finding.remedy and "cgroup_disable=memory" in finding.remedy


def test_subordinate_ids() -> None:
    finding = found(seen(1000, subordinate={"/etc/subuid": 65536, "/etc/subgid": 0}), "subordinate ids")
    assert finding.status == MISSING and finding.remedy.endswith("--add-subgids 100000-165535 user")
    finding = found(seen(1000, mappers={"newuidmap": "plain", "newgidmap": "setuid"}), "newuidmap", "users")
    assert finding.remedy == "chmod u+s $(command -v newuidmap)"
    finding = found(seen(1000, {"newuidmap": errno.EPERM}), "newuidmap", "users")
    assert finding.status == MISSING and "nosuid" in finding.remedy


def test_the_plain_text() -> None:
    host = seen(1000, {"landlock": errno.EOPNOTSUPP}, criu=None)
    report = Report(host, check(host))
    text = plain(report)
    assert text.startswith(head(report)) and head(report).endswith("cgroups: v2, as user")
    assert "  missing  landlock" in text and "mend: lsm=landlock,... on the kernel's command line" in text
    assert text.endswith("0 partly, 2 missing\n")
