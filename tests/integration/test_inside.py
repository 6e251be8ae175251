# SPDX-License-Identifier: Apache-2.0
"""The container as its first process sees it: the probe is PID 1 and reports."""

import os
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.requirements import missing
from harness.runtime import Runtime

pytestmark = pytest.mark.requires("containers", "probe")

SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def report(runtime: Runtime, bundle: Bundle, *sections: str, **more: Any) -> dict[str, Any]:
    bundle.args("/probe", "report", *sections)
    return runtime.run(bundle, **more).json()  # type: ignore[no-any-return]


def test_first_process(runtime: Runtime, bundle: Bundle) -> None:
    seen = report(runtime, bundle, "process", "argv", "cwd", "signals", "umask")
    assert seen["process"]["pid"] == 1
    assert seen["process"]["ppid"] == 0
    assert seen["process"]["sid"] == 1
    assert seen["argv"] == ["/probe", "report", "process", "argv", "cwd", "signals", "umask"]
    assert seen["cwd"] == "/"
    assert seen["umask"] == 0o022
    assert {name: int(mask, 16) for name, mask in seen["signals"].items()} == dict.fromkeys(("ignored", "blocked", "caught", "pending"), 0)


def test_environment_is_the_given_one_and_home(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["env"] = ["B=2", "A=1", "EMPTY="]
    assert report(runtime, bundle, "environ")["environ"] == ["B=2", "A=1", "EMPTY=", "HOME=/root"]


def test_only_stdio_is_open(runtime: Runtime, bundle: Bundle) -> None:
    fds = report(runtime, bundle, "fds")["fds"]
    assert [one["fd"] for one in fds] == [0, 1, 2]


@pytest.mark.requires("root")
def test_init_is_hidden_until_it_is_the_program(runtime: Runtime, bundle: Bundle) -> None:
    """Whoever is in the container sees nothing of what wherry's own process holds, though it has the same ids and capabilities."""
    container = runtime.create(bundle.shell("sleep 1000"))
    look = ("exec", container.id, "sh", "-c", "readlink /proc/1/exe || echo refused; readlink /proc/1/fd/0 || echo refused")
    assert runtime(*look).out.split() == ["refused", "refused"]
    container.start()
    assert "refused" not in runtime(*look).out


def test_nothing_privileged_remains(runtime: Runtime, bundle: Bundle) -> None:
    seen = report(runtime, bundle, "capabilities", "privileges")
    sets = {name: int(seen["capabilities"][name], 16) for name in SETS}
    wanted = 1 << 5 | 1 << 10 | 1 << 29
    assert sets == {"bounding": wanted, "effective": wanted, "permitted": wanted, "inheritable": 0, "ambient": 0}
    assert seen["privileges"]["no_new_privs"] == 1
    assert seen["privileges"]["securebits"] == 0
    assert seen["privileges"]["keepcaps"] == 0


@pytest.mark.requires("root")
def test_ordinary_user(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8]}
    seen = report(runtime, bundle, "user", "capabilities", "environ")
    assert seen["user"]["uid"] == [1000] * 3
    assert seen["user"]["gid"] == [1001] * 3
    assert sorted(seen["user"]["groups"]) == [7, 8]
    assert int(seen["capabilities"]["effective"], 16) == int(seen["capabilities"]["permitted"], 16) == 0
    assert "HOME=/home/user" in seen["environ"]


@pytest.mark.requires("root")
def test_namespaces_are_new_and_others_are_the_hosts(runtime: Runtime, bundle: Bundle) -> None:
    seen = report(runtime, bundle.without_namespace("cgroup"), "namespaces")["namespaces"]
    for name in ("pid", "net", "ipc", "uts", "mnt"):
        assert seen[name] != os.stat(f"/proc/self/ns/{name}").st_ino, name
    for name in ("user", "cgroup", "time"):
        if os.path.exists(f"/proc/self/ns/{name}"):
            assert seen[name] == os.stat(f"/proc/self/ns/{name}").st_ino, name


def test_scheduling_is_the_callers(runtime: Runtime, bundle: Bundle) -> None:
    seen = report(runtime, bundle, "scheduler", "cpus", "personality", "io_priority", "memory_policy")
    assert seen["scheduler"]["policy"] == 0
    assert seen["scheduler"]["nice"] == 0
    assert seen["cpus"] == sorted(os.sched_getaffinity(0))
    assert seen["personality"] == 0
    if not missing("numa"):
        assert seen["memory_policy"]["mode"] == 0


@pytest.mark.ours
def test_io_priority(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    assert report(runtime, bundle, "io_priority")["io_priority"] == 2 << 13 | 6


@pytest.mark.requires("numa")
@pytest.mark.ours
def test_memory_policy(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    assert report(runtime, bundle, "memory_policy")["memory_policy"] == {"mode": 2, "nodes": [0]}


def test_no_terminal(runtime: Runtime, bundle: Bundle) -> None:
    assert report(runtime, bundle, "terminal")["terminal"] == {"stdio": [False] * 3, "controlling": False}


def test_session_keyring_is_a_new_one(runtime: Runtime, bundle: Bundle) -> None:
    assert "_ses." in report(runtime, bundle, "keyring")["keyring"]["description"] or runtime.tag in report(runtime, bundle, "keyring")["keyring"]["description"]


@pytest.mark.requires("root", "userns")
@pytest.mark.v2
def test_everything_at_once(runtime: Runtime, bundle: Bundle) -> None:
    """One configuration that asks for much: nothing of it gets in the way of anything else."""
    bundle.user_namespace().namespace("cgroup")
    bundle.config["hostname"] = "all-at-once"
    bundle.config["root"]["readonly"] = True
    bundle.process.update(
        {
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
            "cwd": "/home/user",
            "oomScoreAdj": 100,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        }
    )
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.mount("/scratch", "tmpfs", "tmpfs", ["size=64k", "mode=1777"])
    seen = report(runtime, bundle, "user", "cwd", "names", "rlimits", "oom_score_adj", "root", "maps", "privileges", "mounts", "cgroup")
    assert seen["user"]["uid"] == [1000] * 3
    assert seen["cwd"] == "/home/user"
    assert seen["names"]["hostname"] == "all-at-once"
    assert seen["rlimits"]["RLIMIT_NOFILE"] == [64, 128]
    assert seen["rlimits"]["RLIMIT_CORE"] == [0, 0]
    assert int(seen["oom_score_adj"]) == 100
    assert seen["root"]["readonly"] is True
    assert seen["maps"]["uid"][0].split() == ["0", "100000", "65536"]
    assert seen["privileges"]["no_new_privs"] == 1
    assert any(line.split()[4] == "/scratch" for line in seen["mounts"])
    assert {line.split(":", 2)[2] for line in seen["cgroup"] if "hugetlb" not in line} == {"/"}
