# SPDX-License-Identifier: Apache-2.0
"""Single decisions of the compiler: what each section of the configuration becomes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import FILTER, MAPPINGS, bind, config, host, joined, make, namespaces, options, plan, small, steps, texts, with_mounts

from wherry.errors import ConfigError, HostError, PlanError, WherryError
from wherry.plan.compile import wanted
from wherry.plan.describe import Plan
from wherry.plan.process import LANDLOCK

ALL = ("pid", "network", "ipc", "uts", "mount", "cgroup")
SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}
NOTIFY = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "listenerPath": "/run/agent",
    "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}],
}


def order(found: Plan, *names: str) -> list[str]:
    return [step.name for step in found.steps if step.name in names]


def refused(kind: type[WherryError], *arguments: Any, **more: Any) -> WherryError:
    with pytest.raises(kind) as error:
        plan(*arguments, **more)
    return error.value


# ---- the three stretches


@pytest.mark.parametrize("facts", ["v2", "v1", "hybrid", "none", "nested"])
def test_who_may_do_what_when(facts: str) -> None:
    found = plan(config(), host(facts))
    launch, clone, publish = (next(step.number for step in found.steps if step.name == name) for name in ("LAUNCH", "CLONE", "PUBLISH"))
    for step in found.steps:
        assert step.executor == "caller" or step.number > launch
        assert step.executor != "init" or step.number > clone
        assert step.executor == "init" or step.number <= publish


def test_the_order_of_the_sensitive_steps() -> None:
    found = plan(config(linux__seccomp=SECCOMP, linux__sysctl={"net.core.somaxconn": "1"}, process__apparmorProfile="p"))
    wanted_order = (
        "CLAIM CGROUP_DIRECTORY LAUNCH CLONE UNSHARE PROPAGATION ATTACH_ROOTFS SYSCTL READONLY_PATH MASKED_PATH PIVOT WORKING_DIRECTORY "
        "ROOT_ATTRIBUTES PROGRAM SECURITY_LABEL RLIMIT BOUNDING IDENTITY WORKING_DIRECTORY CAPABILITIES NO_NEW_PRIVILEGES PUBLISH "
        "WAIT_START SECCOMP EXECUTE"
    ).split()
    got = order(found, *wanted_order)
    assert [name for index, name in enumerate(got) if got[index - 1 : index] != [name]] == wanted_order


def test_no_side_effect_before_the_claim() -> None:
    assert plan(config()).steps[0].name == "CLAIM"


# ---- state


def test_state_as_runc_prints_it() -> None:
    step = plan(config(annotations={"b": '"', "a": "\x01@"})).steps[0]
    text = step.fields["state_head"] + "7" + step.fields["state_middle"] + "running" + step.fields["state_tail"]
    document = json.loads(text)
    assert text == json.dumps(document, indent=2) + "\n"
    assert document == {
        "ociVersion": "1.2.0",
        "id": "<id>",
        "pid": 7,
        "status": "running",
        "bundle": "<bundle>",
        "rootfs": "<bundle>/rootfs",
        "created": "<created>",
        "annotations": {"a": "\x01@", "b": '"'},
        "owner": "",
    }
    assert list(document) == ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]


def test_state_file_is_json() -> None:
    found = plan(config(linux__cgroupsPath='/quo"te/\u00e9', annotations={"a": "\\"}), host("hybrid"))
    text = steps(found, "PUBLISH")[0].fields["state_file"].replace("<pid>", "1").replace("<start-time>", "2")
    document = json.loads(text)
    assert document["cgroups"]["cpu,cpuacct"] == '/sys/fs/cgroup/cpu,cpuacct/quo"te/\u00e9'
    assert document["cgroups"][""] == '/sys/fs/cgroup/unified/quo"te/\u00e9'
    assert (document["pid"], document["startTime"], document["rootless"], document["annotations"]) == (1, 2, False, {"a": "\\"})


@pytest.mark.parametrize(
    ("path", "shown"), [("rootfs", "<bundle>/rootfs"), ("/abs//x/", "/abs/x"), ("../up", "<bundle>/../up"), (".", "<bundle>/")]
)
def test_rootfs(path: str, shown: str) -> None:
    found = plan(config(root__path=path))
    assert steps(found, "ATTACH_ROOTFS")[0].fields["path"] == shown
    assert json.loads(found.steps[0].fields["state_tail"].replace('",', '{"x":"",', 1))["rootfs"] == shown


@pytest.mark.parametrize("where", ["root__path", "linux__cgroupsPath"])
def test_a_slot_mark_in_a_path_is_refused(where: str) -> None:
    error = refused(ConfigError, config(**{where: "/a\x01A"}))
    assert (error.code, error.pointer) == ("WHERRY-CONFIG-PATH", "/" + where.replace("__", "/"))


def test_slot_marks_elsewhere_are_only_text() -> None:
    found = plan(config(hostname="a\x01A", process__args=["\x01@"]))
    assert steps(found, "HOSTNAME")[0].fields["name"] == "a\x01A"


def test_a_written_bundle() -> None:
    found = plan(config(), bundle='/a "b')
    assert steps(found, "OPEN_TREE")[0].fields["source"] == '/a "b/rootfs'
    assert '"bundle": "/a \\"b"' in found.steps[0].fields["state_tail"]


# ---- flags of the plan


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"linux__namespaces": namespaces(*ALL, "user"), **MAPPINGS}, "new-user"),
        ({"linux__namespaces": namespaces("mount", "uts")}, "shared-pid"),
        ({"linux__namespaces": namespaces("mount", "uts", pid="/p")}, "shared-pid"),
        ({"process__terminal": True}, "terminal"),
        ({"process": None}, "no-process"),
        ({"hooks": {"poststart": [{"path": "/x"}]}}, "poststart"),
        ({"hooks": {"poststop": [{"path": "/x"}]}}, "poststop"),
        ({"linux__netDevices": {"a": {}}}, "interlude"),
        ({"linux__intelRdt": {}}, "interlude"),
    ],
)
def test_flags(changes: dict[str, Any], flag: str) -> None:
    assert flag in plan(config(**changes)).flags
    assert flag not in plan(config()).flags


@pytest.mark.parametrize(
    ("changes", "cacheable"),
    [
        ({}, True),
        ({"linux__namespaces": namespaces(*ALL, "user"), **MAPPINGS}, True),
        ({"linux__namespaces": namespaces("mount", "uts", network="/n")}, True),
        ({"linux__namespaces": namespaces("mount", "uts", "user", network="/n"), **MAPPINGS}, False),
        ({"linux__namespaces": namespaces("mount", "uts", user="/u")}, False),
        ({"linux__namespaces": namespaces("mount", "uts", network="/n"), "linux__sysctl": {"net.a.b": "1"}}, False),
        ({"linux__netDevices": {"a": {}}}, False),
        ({"linux__seccomp": SECCOMP}, True),
        ({"linux__seccomp": NOTIFY}, False),
    ],
)
def test_what_may_be_kept(changes: dict[str, Any], cacheable: bool) -> None:
    assert ("cacheable" in plan(config(**changes)).flags) is cacheable


def test_what_depends_on_the_callers_environment_is_not_kept() -> None:
    found = plan(config(), environment=["LISTEN_FDS=1"])
    assert "cacheable" not in found.flags
    assert steps(found, "PROGRAM")[0].fields["environment"][-1] == "LISTEN_FDS=1"


# ---- cgroups


@pytest.mark.parametrize(
    ("path", "facts", "where"),
    [
        (None, "v2", "/sys/fs/cgroup/wherry/<id>"),
        ("/a//b/", "v2", "/sys/fs/cgroup/a/b"),
        ("a/./b", "v2", "/sys/fs/cgroup/system.slice/a/b"),
        ("a", "nested", "/sys/fs/cgroup/a"),
        (None, "nested", "/sys/fs/cgroup/wherry/<id>"),
        (None, "rootless-v2", "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/wherry/<id>"),
        ("/", "v2", "/sys/fs/cgroup"),
    ],
)
def test_cgroup_path_on_v2(path: str | None, facts: str, where: str) -> None:
    document = config(linux__cgroupsPath=path, linux__namespaces=namespaces(*ALL, "user"), linux__resources=None, **MAPPINGS)
    assert steps(plan(document, host(facts)), "CGROUP_DIRECTORY")[0].fields["path"] == where


@pytest.mark.parametrize(("path", "memory", "pids"), [("/a", "/a", "/a"), ("a", "/caller/a", "/a"), (None, "/wherry/<id>", "/wherry/<id>")])
def test_cgroup_path_on_v1_is_below_the_callers_own_in_each_hierarchy(path: str | None, memory: str, pids: str) -> None:
    found = {step.fields["path"] for step in steps(plan(config(linux__cgroupsPath=path), host("v1")), "CGROUP_DIRECTORY")}
    assert {f"/sys/fs/cgroup/memory{memory}", f"/sys/fs/cgroup/pids{pids}"} <= found


def test_every_hierarchy_is_entered() -> None:
    for name in ("v1", "hybrid"):
        facts = host(name)
        found = plan(config(), facts)
        tasks = [step.fields["out"] for step in steps(found, "OPEN_TASKS")]
        assert tasks == [step.fields["tasks"] for step in steps(found, "ATTACH_TASKS")] == list(range(len(facts.hierarchies)))
        into = steps(found, "CLONE")[0].fields["into_cgroup"]
        assert into == (None if name == "v1" else len(facts.hierarchies))
        assert found.inherited == len(facts.hierarchies) + (name == "hybrid")
        assert any(step.fields["path"].startswith("/sys/fs/cgroup/systemd/") for step in steps(found, "CGROUP_DIRECTORY"))


def test_limits_are_written_before_anything_runs() -> None:
    for name in ("v1", "v2"):
        found = plan(config(linux__resources={"pids": {"limit": 9}}), host(name))
        assert order(found, "CGROUP_DIRECTORY", "CGROUP_WRITE", "LAUNCH")[-2:] == ["CGROUP_WRITE", "LAUNCH"] or name == "v1"
        assert max(step.number for step in steps(found, "CGROUP_WRITE")) < steps(found, "LAUNCH")[0].number


def test_needed_controllers_are_an_error_where_missing_and_others_are_not() -> None:
    found = plan(config(linux__resources={"pids": {"limit": 9}}))
    assert texts(found, "CGROUP_CONTROLLERS") == [
        "enable controllers pids down to /sys/fs/cgroup/wherry/<id>",
        "enable controllers cpuset cpu io memory hugetlb rdma misc down to /sys/fs/cgroup/wherry/<id> [where-possible]",
    ]
    error = refused(HostError, config(linux__resources={"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}), host("nested"))
    assert (error.code, error.pointer, error.facts) == (
        "WHERRY-HOST-CGROUP",
        "/linux/resources/hugepageLimits/0",
        {"controller": "hugetlb"},
    )


@pytest.mark.parametrize("facts", ["v1", "none"])
def test_a_limit_without_its_controller_is_refused(facts: str) -> None:
    host_ = host(facts)
    host_.hierarchies = [h for h in host_.hierarchies if "pids" not in h.controllers]
    assert refused(HostError, config(linux__resources={"pids": {"limit": 9}}), host_).code == "WHERRY-HOST-CGROUP"


def test_on_a_hybrid_host_a_controller_may_be_in_the_v2_tree() -> None:
    found = plan(config(linux__resources={"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}), host("hybrid"))
    unified = steps(found, "CGROUP_DIRECTORY")[0].fields["out"]
    assert [step.fields["file"] for step in steps(found, "CGROUP_WRITE") if step.fields["directory"] == unified] == [
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
    ]
    error = refused(
        HostError, config(linux__resources={"rdma": {"x": {"hcaHandles": 1}}}), host("hybrid", hierarchies=host("hybrid").hierarchies[:3])
    )
    assert error.pointer == "/linux/resources/rdma/x"


def test_unified_on_v1_is_refused() -> None:
    assert (
        refused(ConfigError, config(linux__resources={"unified": {"memory.high": "1"}}), host("v1")).pointer == "/linux/resources/unified"
    )


@pytest.mark.parametrize("rules", [[], [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}]])
def test_v1_denies_every_device_first_unless_the_rules_begin_with_all(rules: list[Any]) -> None:
    found = [step.fields["value"] for step in steps(plan(config(linux__resources={"devices": rules}), host("v1")), "CGROUP_WRITE")]
    assert found[0] == "a"
    all_allowed = steps(plan(config(linux__resources={"devices": [{"allow": True, "access": "rwm"}]}), host("v1")), "CGROUP_WRITE")
    assert (all_allowed[0].fields["file"], all_allowed[0].fields["value"]) == ("devices.allow", "a")


@pytest.mark.parametrize("facts", ["rootless-v2", "nested"])
def test_device_rules_are_left_out_where_nobody_may_set_them(facts: str) -> None:
    document = config(linux__namespaces=namespaces(*ALL, "user"), **MAPPINGS)
    assert steps(plan(document, host(facts)), "CGROUP_DEVICES") == []


@pytest.mark.parametrize(
    ("changes", "optional"),
    [({}, True), ({"linux__cgroupsPath": "mine"}, False), ({"linux__resources": {"pids": {"limit": 1}}}, False)],
)
def test_rootless_cgroups_may_be_missing_unless_they_are_asked_for(changes: dict[str, Any], optional: bool) -> None:
    document = config(linux__namespaces=namespaces(*ALL, "user"), **MAPPINGS, **changes)
    assert ("optional" in texts(plan(document, host("rootless-v2")), "CGROUP_DIRECTORY")[0]) is optional
    assert "optional" not in texts(plan(document, host("v2")), "CGROUP_DIRECTORY")[0]


WRITABLE = [{"destination": "/sys/fs/cgroup/", "type": "cgroup", "options": ["rw"]}]


@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        ({"mounts": WRITABLE, "process__user": {"uid": 7, "gid": 0}}, 7),
        ({"mounts": WRITABLE}, None),  # root's already
        ({"process__user": {"uid": 7, "gid": 0}}, None),  # mounted read-only
        ({"mounts": [{**WRITABLE[0], "destination": "/cgroups"}], "process__user": {"uid": 7, "gid": 0}}, None),  # where nobody looks for it
        ({"mounts": [{**WRITABLE[0], "type": "tmpfs"}], "process__user": {"uid": 7, "gid": 0}}, None),
        ({"mounts": WRITABLE, "process__user": {"uid": 7, "gid": 0}, "linux__namespaces": namespaces("mount", "uts")}, None),
        ({"mounts": WRITABLE, "process__user": {"uid": 7, "gid": 0}, "linux__namespaces": namespaces(*ALL, "user"), **MAPPINGS}, 100007),
        ({"mounts": WRITABLE, "process__user": {"uid": 70000, "gid": 0}, "linux__namespaces": namespaces(*ALL, "user"), **MAPPINGS}, None),
        ({"mounts": WRITABLE, "process__user": {"uid": 7, "gid": 0}, "linux__namespaces": namespaces(*ALL, user="/u")}, None),
    ],
)
def test_who_owns_the_cgroup(changes: dict[str, Any], owner: int | None) -> None:
    found = steps(plan(config(**changes)), "CGROUP_CHOWN")
    assert [step.fields["uid"] for step in found] == ([] if owner is None else [owner])


def test_names_of_delegate_stay_in_the_directory() -> None:
    facts = host("v2", delegate=("cgroup.procs", "../other", "a/b"))
    found = steps(plan(config(mounts=WRITABLE, process__user={"uid": 7, "gid": 0}), facts), "CGROUP_CHOWN")
    assert found[0].fields["files"] == ["cgroup.procs"]


def test_v1_cgroup_mount_shows_the_own_cgroup_under_the_names_of_the_host() -> None:
    found = plan(with_mounts({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}), host("hybrid"))
    binds = {step.fields["destination"]: step.fields["attributes"][0] for step in steps(found, "MOUNT_BIND")}
    assert set(binds.values()) == {3}
    assert {"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} <= set(binds)
    links = [(step.fields["path"], step.fields["target"]) for step in steps(found, "SYMLINK") if "cgroup" in step.fields["path"]]
    assert ("/sys/fs/cgroup/cpu", "cpu,cpuacct") in links and ("/sys/fs/cgroup/net_prio", "net_cls,net_prio") in links
    assert "/sys/fs/cgroup/memory/wherry/<id>" in {step.fields["source"] for step in steps(found, "OPEN_TREE")}
    assert "change the mount on /sys/fs/cgroup: set ro" in texts(found, "MOUNT_ATTRIBUTES")


def test_v1_cgroup_mount_that_is_writable_stays_so() -> None:
    found = plan(with_mounts({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["rw", "nosuid"]}), host("hybrid"))
    assert {step.fields["attributes"][0] for step in steps(found, "MOUNT_BIND")} == {2}
    assert not [text for text in texts(found, "MOUNT_ATTRIBUTES") if "/sys/fs/cgroup" in text]


def test_without_cgroups_the_container_stays_where_the_caller_is() -> None:
    document = with_mounts({"destination": "/sys/fs/cgroup", "type": "cgroup"})
    found = plan(document, host("hybrid"), cgroup_manager="disabled")
    assert order(found, "CGROUP_DIRECTORY", "OPEN_TASKS", "ATTACH_TASKS", "CGROUP_WRITE") == []
    assert steps(found, "CLONE")[0].fields["into_cgroup"] is None
    assert "/sys/fs/cgroup/memory/caller" in {step.fields["source"] for step in steps(found, "OPEN_TREE")}
    assert "cacheable" not in found.flags
    for facts in ("hybrid", "v2"):
        limits = config(linux__resources={"pids": {"limit": 1}})
        assert refused(HostError, limits, host(facts), cgroup_manager="disabled").pointer == "/linux/resources"


def test_systemd_is_not_passed_over_where_the_facts_are_silent() -> None:
    error = refused(PlanError, config(linux__cgroupsPath="a.slice:b:c"), cgroup_manager="systemd")
    assert error.code == "WHERRY-PLAN-UNSUPPORTED"


def test_a_controller_that_the_users_systemd_has_not_got() -> None:
    user = {"linux__namespaces": namespaces("mount", "user"), **MAPPINGS}
    facts = host("rootless-v2", systemd={"version": 252, "user": True, "cgroup": "/a", "controllers": ["memory", "pids"]})
    error = refused(HostError, small(**user, linux__resources={"cpu": {"cpus": "0"}}), facts, cgroup_manager="systemd")
    assert (error.code, error.pointer) == ("WHERRY-HOST-CGROUP", "/linux/resources/cpu/cpus")
    assert "not delegated" in str(error) and "Delegate=cpu cpuset io memory pids" in (error.remedy or "")
    assert steps(plan(small(**user, linux__resources={"memory": {"limit": 5}}), facts, cgroup_manager="systemd"), "UNIT")


def test_what_systemd_cannot_do_here() -> None:
    system, user = {"version": 252, "user": False, "cgroup": ""}, {"version": 252, "user": True, "cgroup": "/a", "controllers": None}
    assert refused(HostError, small(), host("none", systemd=system), cgroup_manager="systemd").code == "WHERRY-HOST-CGROUP"
    assert "no limits on cgroup v1" in str(refused(HostError, small(), host("v1", systemd=user), cgroup_manager="systemd"))
    bare = host("v1", systemd=system)
    bare.hierarchies = [one for one in bare.hierarchies if "name=systemd" not in one.controllers]
    assert "no cgroup hierarchy" in str(refused(HostError, small(), bare, cgroup_manager="systemd"))


def test_ignored_memory_limits_are_warned_of() -> None:
    given = options()
    make(config(linux__resources={"memory": {"limit": 1, "kernel": 5, "swappiness": 7}}), host("v2"), given)
    assert [text.partition(":")[0] for text in given.warnings] == ["/linux/resources/memory/kernel", "/linux/resources/memory/swappiness"]


# ---- namespaces


def test_without_a_mount_namespace_all_is_mounted_on_one_place_of_the_containers() -> None:
    found = plan(small(linux__namespaces=namespaces("pid")))
    assert order(found, "PROPAGATION", "MOUNT_POINT", "LAUNCH", "ATTACH_ROOTFS") == ["MOUNT_POINT", "LAUNCH", "ATTACH_ROOTFS"]
    assert texts(found, "MOUNT_POINT", "ATTACH_ROOTFS", "PIVOT") == [
        "make <directory>/rootfs, to mount there on the host until the container is deleted",
        "attach tree r1 to <directory>/rootfs as the future root [on-host]",
        "change root to the rootfs",
    ]


@pytest.mark.parametrize("more", [{"no_pivot": True}, {"rootless": True}])
def test_a_mount_namespace_that_is_needed(more: dict[str, bool]) -> None:
    error = refused(ConfigError, small(linux__namespaces=namespaces("pid")), **more)
    assert (error.code, error.pointer) == ("WHERRY-CONFIG-MISSING-NAMESPACE", "/linux/namespaces")


def test_a_user_namespace_needs_a_mount_namespace() -> None:
    mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]
    given = small(linux__namespaces=namespaces("user"), linux__uidMappings=mapping, linux__gidMappings=mapping)
    assert refused(ConfigError, given).pointer == "/linux/namespaces"


def test_without_privileges_a_user_namespace_is_needed() -> None:
    error = refused(HostError, small(), host("rootless-v2"))
    assert (error.code, error.pointer) == ("WHERRY-HOST-PERMISSION", "/linux/namespaces")


def test_new_namespaces_are_cloned_but_for_cgroup_and_time() -> None:
    found = plan(small(linux__namespaces=namespaces(*ALL, "time")))
    assert steps(found, "CLONE")[0].fields["flags"] == 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
    assert [(step.executor, step.text) for step in steps(found, "UNSHARE")] == [
        ("launcher", "unshare time namespace"),
        ("init", "unshare cgroup namespace"),
    ]


def test_loopback_comes_up_in_a_new_network_namespace_only() -> None:
    assert steps(plan(small(linux__namespaces=namespaces("mount", "network"))), "LOOPBACK_UP")
    assert not steps(plan(small(linux__namespaces=namespaces("mount", network="/n"))), "LOOPBACK_UP")


def joins(found: Plan) -> list[str]:
    return [f"{step.executor} {step.text.split()[1]}" for step in steps(found, "JOIN")]


def test_joins_are_ordered_by_who_owns_the_namespace() -> None:
    facts = host("v2", namespaces={"/net": joined(0x40000000, owner=9), "/ipc": joined(0x8000000), "/pid": joined(0x20000000, owner=9)})
    document = small(linux__namespaces=namespaces("mount", network="/net", ipc="/ipc", pid="/pid", user="/user"))
    assert joins(plan(document, facts)) == ["launcher ipc", "launcher user", "launcher pid", "launcher network"]


def test_all_joins_come_before_a_new_user_namespace() -> None:
    document = small(linux__namespaces=namespaces("mount", "user", network="/net", ipc="/ipc"), **MAPPINGS)
    found = plan(document, host("v2", namespaces={"/net": joined(0x40000000, owner=9)}))
    assert joins(found) == ["launcher ipc", "launcher network"]
    assert order(found, "JOIN", "CLONE", "WRITE_MAPS", "BECOME_ROOT") == ["JOIN", "JOIN", "CLONE", "WRITE_MAPS", "BECOME_ROOT"]


def test_mount_and_cgroup_namespaces_are_joined_by_init() -> None:
    found = plan(small(linux__namespaces=namespaces(mount="/m", cgroup="/c", uts="/u")))
    assert joins(found) == ["launcher uts", "init mount", "init cgroup"]
    assert {step.executor for step in steps(found, "OPEN_NAMESPACE")} == {"launcher"}


def test_root_of_a_user_namespace_is_helped_by_the_launcher() -> None:
    limits = {"process__rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}]}
    for spaces in (namespaces("mount", "user"), namespaces("mount", user="/u")):
        mappings = MAPPINGS if "path" not in spaces[-1] else {}
        privileged = plan(small(linux__namespaces=spaces, **mappings, **limits))
        assert {step.executor for step in steps(privileged, "OPEN_TREE", "RLIMIT")} == {"launcher"}
        unprivileged = plan(small(linux__namespaces=spaces, **mappings, **limits), host("rootless-v2"))
        assert {step.executor for step in steps(unprivileged, "OPEN_TREE", "RLIMIT")} == {"init"}
    assert {step.executor for step in steps(plan(small(**limits)), "OPEN_TREE", "RLIMIT")} == {"init"}


@pytest.mark.parametrize(
    ("facts", "outside", "size", "text"),
    [
        ("v2", 100000, 65536, "map uids 0 100000 65536; gids 0 100000 65536"),
        ("rootless-v2", 1000, 1, "map uids 0 1000 1; gids 0 1000 1 [deny-setgroups]"),
        ("rootless-v2", 1001, 1, "map uids 0 1001 1; gids 0 1001 1 by /usr/bin/newuidmap and /usr/bin/newgidmap"),
        ("rootless-v2", 1000, 2, "map uids 0 1000 2; gids 0 1000 2 by /usr/bin/newuidmap and /usr/bin/newgidmap"),
        ("nested", 1000, 2, "map uids 0 1000 2; gids 0 1000 2"),
    ],
)
def test_who_writes_the_maps(facts: str, outside: int, size: int, text: str) -> None:
    maps = [{"containerID": 0, "hostID": outside, "size": size}]
    found = plan(small(linux__namespaces=namespaces("mount", "user"), linux__uidMappings=maps, linux__gidMappings=maps), host(facts))
    assert texts(found, "WRITE_MAPS") == [text]
    assert steps(found, "IDENTITY")[0].fields["skip_setgroups"] == ("deny" in text)


def test_what_is_denied_in_a_user_namespace_is_denied_in_those_that_are_made_in_it() -> None:
    facts = host("nested")
    facts.setgroups_denied = True
    maps = [{"containerID": 0, "hostID": 0, "size": 1}]
    for document in (small(linux__namespaces=namespaces("mount", "user"), linux__uidMappings=maps, linux__gidMappings=maps), small()):
        assert steps(plan(document, facts), "IDENTITY")[0].fields["skip_setgroups"]


@pytest.mark.parametrize(
    ("maps", "given", "root"),
    [
        (("0 100000 65536\n", "0 200000 5\n5 1 1\n"), None, " 100000:200000"),
        (("1 100000 65536\n", "0 200000 5\n"), None, ""),  # nobody is root there
        ((), None, ""),
        ((), 7, " 7:7"),
        (("0 7 9\n", "0 7 9\n"), 7, " 7:7"),
    ],
)
def test_who_is_root_of_a_joined_user_namespace_gets_our_pipes(maps: tuple[str, ...], given: int | None, root: str) -> None:
    mappings = [{"containerID": 0, "hostID": given, "size": 9}] if given else []
    document = small(linux__namespaces=namespaces("mount", user="/ns/user"), linux__uidMappings=mappings, linux__gidMappings=mappings)
    found = plan(document, host("v2", namespaces={"/ns/user": joined(0x10000000, maps=maps)}))
    (text,) = [text for text in texts(found, "JOIN") if "user" in text]
    assert text.partition("give our pipes on stdio to")[2] == root


def test_mappings_of_a_joined_user_namespace_must_be_its_own() -> None:
    mappings = [{"containerID": 0, "hostID": 8, "size": 9}]
    document = small(linux__namespaces=namespaces("mount", user="/ns/user"), linux__uidMappings=mappings, linux__gidMappings=mappings)
    error = refused(ConfigError, document, host("v2", namespaces={"/ns/user": joined(0x10000000, maps=("0 8 9\n", "0 7 9\n"))}))
    assert (error.code, error.pointer) == ("WHERRY-CONFIG-MAPPINGS", "/linux/gidMappings")


def test_what_is_left_out_is_said() -> None:
    given = options()
    network = {"classID": 5, "priorities": [{"name": "lo", "priority": 3}]}
    document = with_mounts(bind("bind", "sync", "lazytime"), bind("bind", "async", destination="/b"), linux__resources={"network": network})
    make(document, host("v2"), given)
    assert [warning.partition(": ")[0] for warning in given.warnings] == [f"/linux/resources/network/{key}" for key in network] + ["/mounts/0/options"]
    assert "sync, lazytime" in given.warnings[-1]


def test_missing_mappers_are_named() -> None:
    error = refused(HostError, small(linux__namespaces=namespaces("mount", "user"), **MAPPINGS), host("rootless-v2", newuidmap=""))
    assert error.code == "WHERRY-HOST-PROGRAM" and "newuidmap" in error.message


def test_groups_that_cannot_be_set_are_warned_of() -> None:
    maps = [{"containerID": 0, "hostID": 1000, "size": 1}]
    given = options()
    document = small(
        linux__namespaces=namespaces("mount", "user"),
        linux__uidMappings=maps,
        linux__gidMappings=maps,
        process__user={"uid": 0, "gid": 0, "additionalGids": [5]},
    )
    found = Plan(make(document, host("rootless-v2"), given))
    assert steps(found, "IDENTITY")[0].fields["groups"] == b""
    assert len(given.warnings) == 1 and given.warnings[0].startswith("/process/user/additionalGids")


@pytest.mark.parametrize("facts", ["v2", "rootless-v2"])
def test_time_offsets_are_written_before_the_namespace_is_entered(facts: str) -> None:
    document = small(linux__namespaces=namespaces("mount", "user", "time"), linux__timeOffsets={"boottime": {"secs": -3}}, **MAPPINGS)
    found = plan(document, host(facts))
    executor = "launcher" if facts == "v2" else "init"
    assert [(step.name, step.executor) for step in steps(found, "UNSHARE", "TIME_OFFSETS")] == [
        ("UNSHARE", executor),
        ("TIME_OFFSETS", executor),
    ]
    assert steps(found, "TIME_OFFSETS")[0].fields["lines"] == "boottime -3 0\n"
    assert steps(found, "UNSHARE")[0].number + 1 == steps(found, "TIME_OFFSETS")[0].number


def test_what_the_facts_are_asked_for() -> None:
    assert wanted(config()) == {"lsms": False, "landlock": False, "delegate": True, "mappers": False, "namespaces": ()}
    assert wanted(small()) == {"lsms": False, "landlock": False, "delegate": False, "mappers": False, "namespaces": ()}
    assert wanted({})["namespaces"] == ()
    assert wanted(small(process__selinuxLabel="x"))["lsms"]
    assert wanted(small(annotations={LANDLOCK: "{}"}))["landlock"]
    assert wanted(small(linux__namespaces=namespaces(user="/u", network="/n"))) == {
        "lsms": False,
        "landlock": False,
        "delegate": False,
        "mappers": True,
        "namespaces": ["/u", "/n"],
    }


# ---- devices


def test_default_devices_and_links() -> None:
    found = plan(small())
    assert [step.fields["path"] for step in steps(found, "DEVICE_NODE")] == [
        f"/dev/{name}" for name in "null zero full random urandom tty".split()
    ]
    assert [step.fields["path"] for step in steps(found, "SYMLINK")] == [
        f"/dev/{name}" for name in "ptmx fd stdin stdout stderr core".split()
    ]


def test_a_device_belongs_to_root_unless_said() -> None:
    devices = [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229}, {"type": "p", "path": "/dev/fifo", "uid": 5, "gid": 6, "fileMode": 0o600}]
    found = [step.fields for step in steps(plan(small(linux__devices=devices)), "DEVICE_NODE")][-2:]
    assert [(one["mode"] & 0o7777, one["uid"], one["gid"]) for one in found] == [(0o666, 0, 0), (0o600, 5, 6)]


@pytest.mark.parametrize("how", ["new", "joined", "nested"])
def test_in_a_user_namespace_devices_are_bound_from_the_host(how: str) -> None:
    spaces = {"new": namespaces("mount", "user"), "joined": namespaces("mount", user="/u"), "nested": namespaces("mount")}[how]
    fifo = {"type": "p", "path": "/dev/fifo"}
    document = small(linux__namespaces=spaces, linux__devices=[fifo], **(MAPPINGS if how == "new" else {}))
    found = plan(document, host("nested" if how == "nested" else "v2"))
    assert [step.fields["path"] for step in steps(found, "DEVICE_NODE")] == ["/dev/fifo"]
    assert "/dev/null" in {step.fields["source"] for step in steps(found, "OPEN_TREE")}
    assert {step.fields["destination"] for step in steps(found, "MOUNT_BIND")} == {
        f"/dev/{name}" for name in "null zero full random urandom tty".split()
    }


@pytest.mark.parametrize("words", [["bind"], ["rbind", "ro"]])
def test_nothing_is_made_in_the_hosts_own_dev(words: list[str]) -> None:
    found = plan(with_mounts({"destination": "/dev/", "source": "/dev", "options": words}))
    assert order(found, "DEVICE_NODE", "SYMLINK") == []


def test_device_numbers_modes_and_owners() -> None:
    device = {"type": "u", "path": "/dev/../dev/x", "major": 200, "minor": 300, "fileMode": 0o120640, "uid": 3, "gid": 4}
    step = steps(plan(small(linux__devices=[device])), "DEVICE_NODE")[-1]
    assert step.text == "make /dev/x: character device mode 0640 200:300 owner 3:4"
    assert step.place == "/linux/devices/0"


# ---- hooks


def test_hooks_run_in_order_each_where_it_belongs() -> None:
    given = {kind: [{"path": f"/{kind}"}] for kind in ("startContainer", "createContainer", "prestart", "createRuntime", "poststop")}
    found = plan(small(hooks=given))
    assert [(step.executor, step.fields["path"], step.place) for step in steps(found, "HOOK")] == [
        ("caller", "/prestart", "/hooks/prestart/0"),
        ("caller", "/createRuntime", "/hooks/createRuntime/0"),
        ("init", "/createContainer", "/hooks/createContainer/0"),
        ("init", "/startContainer", "/hooks/startContainer/0"),
    ]
    assert order(found, "HOOK", "PIVOT", "WAIT_START") == ["HOOK", "HOOK", "HOOK", "PIVOT", "WAIT_START", "HOOK"]


def test_what_a_hook_gets() -> None:
    hook = {"path": "/h", "args": ["h", ""], "env": ["A=b"], "timeout": 9}
    step = steps(plan(small(hooks={"createRuntime": [hook, {"path": "/h"}]}, annotations={"k": "v"})), "HOOK")
    first, second = step[0].fields, step[1].fields
    assert (first["arguments"], first["environment"], first["timeout"]) == (["h", ""], ["A=b"], 9)
    assert (second["arguments"], second["environment"], second["timeout"]) == (["/h"], [], 0)
    state = json.loads(first["state"].replace("<pid>", "5"))
    assert state == {"ociVersion": "1.2.0", "id": "<id>", "status": "creating", "pid": 5, "bundle": "<bundle>", "annotations": {"k": "v"}}


def test_a_start_hook_sees_a_created_container() -> None:
    step = steps(plan(small(hooks={"startContainer": [{"path": "/h"}]})), "HOOK")[0]
    assert '"status":"created"' in step.fields["state"]


# ---- the process


def test_environment_later_entries_win() -> None:
    fields = steps(plan(small(process__env=["A=1", "B=2", "A=3", "bare"])), "PROGRAM")[0].fields
    assert fields["environment"] == ["B=2", "A=3", "bare"]
    assert fields["path"] == "/bin:/usr/bin"


@pytest.mark.parametrize(("env", "fill"), [([], 1), (["HOME="], 1), (["HOME=/x"], 0), (["HOME=/x", "HOME="], 1)])
def test_home(env: list[str], fill: int) -> None:
    assert steps(plan(small(process__env=env)), "PROGRAM")[0].fields["flags"] == fill


def test_an_empty_path_is_not_the_default_path() -> None:
    assert steps(plan(small(process__env=["PATH="])), "PROGRAM")[0].fields["path"] == ""


def test_limits_that_bite_come_last_and_after_all_that_needs_descriptors() -> None:
    kinds = ("NOFILE", "CPU", "FSIZE", "NPROC", "AS")
    limits = [{"type": f"RLIMIT_{kind}", "soft": 0, "hard": (1 << 64) - 1} for kind in kinds]
    found = plan(small(process__rlimits=limits, process__apparmorProfile="p"))
    assert [step.fields["resource"] for step in steps(found, "RLIMIT")] == [0, 9, 6, 1, 7]
    assert [step.place for step in steps(found, "RLIMIT")] == [f"/process/rlimits/{index}" for index in (1, 4, 3, 2, 0)]
    assert order(found, "PROGRAM", "SECURITY_LABEL", "RLIMIT", "IDENTITY")[:3] == ["PROGRAM", "SECURITY_LABEL", "RLIMIT"]
    assert "unlimited" in texts(found, "RLIMIT")[0]


def test_capabilities() -> None:
    given = options()
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_NEW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL", "CAP_CHOWN"],
    }
    found = Plan(make(small(process__capabilities=sets), host("v2"), given))
    assert steps(found, "BOUNDING")[0].fields["keep"] == 1 | 1 << 40
    assert list(steps(found, "CAPABILITIES")[0].fields.values()) == [1, 1 | 1 << 5, 1 << 5, 1 << 5]
    assert given.warnings == ["/process/capabilities: unknown or not ours to give: CAP_NEW"]


def test_capabilities_that_the_caller_or_the_kernel_lacks_are_not_granted() -> None:
    document = small(process__capabilities={"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_BPF"]})
    assert steps(plan(document, host("v2", capabilities=1 << 21 | 1)), "BOUNDING")[0].fields["keep"] == 1
    assert steps(plan(document, host("v2", cap_last_cap=37)), "BOUNDING")[0].fields["keep"] == 1 | 1 << 24
    user = {**document, "linux": small(linux__namespaces=namespaces("mount", "user"), **MAPPINGS)["linux"]}
    assert steps(plan(user, host("v2", capabilities=1 << 21)), "BOUNDING")[0].fields["keep"] == 1 | 1 << 24 | 1 << 39


def test_no_capabilities_means_none() -> None:
    found = plan(small())
    assert steps(found, "BOUNDING")[0].fields["keep"] == 0
    assert set(steps(found, "CAPABILITIES")[0].fields.values()) == {0}


def test_without_a_process_nothing_of_it_is_there() -> None:
    found = plan(config(process=None))
    assert order(found, "PROGRAM", "IDENTITY", "EXECUTE", "WORKING_DIRECTORY", "CPU_AFFINITY") == []
    assert [step.name for step in found.steps[-2:]] == ["PUBLISH", "WAIT_START"]


@pytest.mark.parametrize("terminal", [True, False])
def test_terminal(terminal: bool) -> None:
    found = plan(small(process__terminal=terminal, process__consoleSize={"height": 5, "width": 6}, process__user={"uid": 3, "gid": 4}))
    assert [step.fields for step in steps(found, "CONSOLE")] == ([{"height": 5, "width": 6, "uid": 3}] if terminal else [])


@pytest.mark.parametrize("key", ["process__apparmorProfile", "process__selinuxLabel", "linux__mountLabel"])
def test_labels_need_their_module(key: str) -> None:
    document = with_mounts({"destination": "/x", "type": "tmpfs"}, **{key: "label"})
    error = refused(HostError, document, host("v1"))
    assert (error.code, error.pointer) == ("WHERRY-HOST-KERNEL", "/" + key.replace("__", "/"))


def test_no_new_keyring() -> None:
    assert texts(plan(small()), "KEYRING") == ["join a new session keyring _ses.<id>"]
    assert texts(plan(small(), no_new_keyring=True), "KEYRING") == []


@pytest.mark.parametrize(
    ("nodes", "mask", "max_node"),
    [("0", 1, 2), ("0-2,5", 0b100111, 7), ("63", 1 << 63, 65), ("64", 1 << 64, 66), ("1024", 1 << 1024, 1026), ("", 0, 0)],
)
def test_memory_policy(nodes: str, mask: int, max_node: int) -> None:
    mode = "MPOL_PREFERRED"
    fields = steps(plan(small(linux__memoryPolicy={"mode": mode, "nodes": nodes})), "MEMORY_POLICY")[0].fields
    assert (int.from_bytes(fields["nodes"], "little"), fields["max_node"], fields["mode"]) == (mask, max_node, 1)
    assert len(fields["nodes"]) % 8 == 0 and max_node <= len(fields["nodes"]) * 8


# ---- seccomp


@pytest.mark.parametrize("unprivileged", [True, False])
def test_where_the_filter_is_loaded(unprivileged: bool) -> None:
    found = plan(small(linux__seccomp=SECCOMP, process__noNewPrivileges=unprivileged))
    names = order(found, "SECCOMP", "BOUNDING", "NO_NEW_PRIVILEGES", "WAIT_START", "EXECUTE")
    if unprivileged:
        assert names == ["BOUNDING", "NO_NEW_PRIVILEGES", "WAIT_START", "SECCOMP", "EXECUTE"]
    else:
        assert names == ["SECCOMP", "BOUNDING", "WAIT_START", "EXECUTE"]
    assert steps(found, "SECCOMP")[0].fields == {"filter": FILTER, "flags": 4, "listener": None}


@pytest.mark.parametrize("unprivileged", [True, False])
def test_the_listener_is_told_at_once_and_before_the_publication(unprivileged: bool) -> None:
    found = plan(small(linux__seccomp=NOTIFY, process__noNewPrivileges=unprivileged))
    at = steps(found, "SECCOMP")[0].number
    assert found.steps[at].name == "LISTENER"
    assert steps(found, "LISTENER")[0].number < steps(found, "PUBLISH")[0].number
    fields = steps(found, "LISTENER")[0].fields
    assert fields["listener"] == steps(found, "SECCOMP")[0].fields["listener"]
    state = json.loads(fields["state"].replace("<pid>", "4"))
    assert (state["fds"], state["pid"], state["state"]["status"], state["state"]["id"]) == (["seccompFd"], 4, "creating", "<id>")


def test_an_empty_filter_is_none() -> None:
    assert steps(plan(small(linux__seccomp=SECCOMP), seccomp=lambda _: (b"", 0)), "SECCOMP") == []


# ---- restrictions


def test_masked_paths_once_and_cleaned() -> None:
    found = plan(small(linux__maskedPaths=["/a", "/a/", "/b//c", "/a"], linux__readonlyPaths=["/a", "/a"]))
    assert [step.fields["path"] for step in steps(found, "MASKED_PATH")] == ["/a", "/b/c"]


def test_sysctl_of_the_callers_own_namespace_is_refused() -> None:
    document = small(linux__namespaces=namespaces("mount", network="/n"), linux__sysctl={"net.ipv4.ip_forward": "1"})
    assert plan(document, host("v2", namespaces={"/n": joined(0x40000000)}))
    error = refused(ConfigError, document, host("v2", namespaces={"/n": joined(0x40000000, ours=True)}))
    assert (error.code, error.pointer) == ("WHERRY-CONFIG-SYSCTL", "/linux/sysctl/net.ipv4.ip_forward")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/mtu", "net/ipv4/conf/eth0.100/mtu"),
    ],
)
def test_sysctl_names(key: str, path: str) -> None:
    found = plan(small(linux__namespaces=namespaces("mount", "network"), linux__sysctl={key: "1"}))
    assert steps(found, "SYSCTL")[0].fields["path"] == path


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (None, "rslave", None),
        ("slave", "rslave", None),
        ("private", "rprivate", None),
        ("rprivate", "rprivate", None),
        ("shared", "shared", "shared"),
        ("rshared", "rshared", "rshared"),
        ("unbindable", "rslave", "unbindable"),
        ("runbindable", "rslave", "runbindable"),
    ],
)
def test_propagation_of_the_root(name: str | None, before: str, after: str | None) -> None:
    found = plan(small(linux__rootfsPropagation=name))
    assert texts(found, "PROPAGATION") == [f"make every mount {before}"]
    assert texts(found, "ROOT_ATTRIBUTES") == ([f"make / {after}"] if after else [])


# ---- what only Python does


@pytest.mark.parametrize("key", ["netDevices", "intelRdt"])
def test_the_interlude_needs_root(key: str) -> None:
    value = {"eth7": {}} if key == "netDevices" else {}
    document = small(linux__namespaces=namespaces("mount", "user", "network"), **MAPPINGS, **{f"linux__{key}": value})
    assert order(plan(document), "NETWORK_DEVICES", "PIVOT") == ["NETWORK_DEVICES", "PIVOT"]
    assert refused(HostError, document, host("rootless-v2")).pointer == f"/linux/{key}"


def test_a_plan_holds_so_many_descriptors() -> None:
    facts = host("v1")
    facts.hierarchies = facts.hierarchies * 4
    assert refused(PlanError, config(), facts).code == "WHERRY-PLAN-TOO-LARGE"


def test_strings_that_are_no_text() -> None:
    for value, code in (("a\0b", "WHERRY-JSON-NUL"), ("\ud800", "WHERRY-JSON-ENCODING")):
        document = small()
        document["process"]["args"] = [value]
        with pytest.raises(ConfigError) as error:
            make(document)
        assert error.value.code in (code, "WHERRY-CONFIG-VALUE")


# ---- Landlock


@pytest.mark.parametrize(("abi", "handled"), [(3, (1 << 15) - 1), (4, (1 << 15) - 1), (5, (1 << 16) - 1), (99, (1 << 16) - 1)])
def test_landlock_handles_what_the_kernel_knows(abi: int, handled: int) -> None:
    facts = host("v2")
    facts.landlock = abi
    found = plan(config(annotations={LANDLOCK: '{"read": ["/"], "use": ["/dev"], "write": ["/tmp"]}'}), facts)
    (step,) = steps(found, "LANDLOCK")
    allowed = [int.from_bytes(step.fields["allowed"][at : at + 8], "little") for at in (0, 8, 16)]
    assert (step.fields["handled"], step.fields["paths"]) == (handled, ["/", "/dev", "/tmp"])
    assert allowed == [0b1101, (0b1111 | 1 << 14 | 1 << 15) & handled, handled]
    order = [one.name for one in found.steps]
    assert order.index("PIVOT") < order.index("PROGRAM") < order.index("LANDLOCK") < order.index("BOUNDING") < order.index("IDENTITY")


@pytest.mark.parametrize("abi", [0, 1, 2])
def test_landlock_is_never_weaker_than_asked(abi: int) -> None:
    facts = host("v2")
    facts.landlock = abi
    with pytest.raises(HostError) as caught:
        plan(config(annotations={LANDLOCK: '{"read": ["/"]}'}), facts)
    assert caught.value.pointer == f"/annotations/{LANDLOCK}" and caught.value.code == "WHERRY-HOST-KERNEL"
