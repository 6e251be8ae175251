# SPDX-License-Identifier: Apache-2.0
"""Plans of exec as text, and what must hold in each of them. `pytest tests/unit/plan --update-golden` writes them anew."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
from support import config, host, joined, namespaces, options

from wherry.container.execute import ExecOptions as Given
from wherry.container.execute import _move_below, process_of
from wherry.errors import UsageError
from wherry.kernel import native
from wherry.kernel.hostfacts import HostFacts
from wherry.plan.describe import Plan, describe
from wherry.plan.execute import Cgroup, Target, compile
from wherry.plan.options import Options

FOLDER = Path(__file__).parent / "golden-exec"
FILES = {"mount": "mnt", "uts": "uts", "ipc": "ipc", "pid": "pid", "network": "net", "cgroup": "cgroup"}
SECCOMP = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
NOTIFY = {**SECCOMP, "listenerPath": "/run/agent.sock", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]}

Case = tuple[dict[str, Any], dict[str, Any], Target, HostFacts, Options]


def paths(**more: str) -> dict[str, str]:
    return {kind: f"/proc/77/ns/{name}" for kind, name in {**FILES, **more}.items()}


def target(facts: HostFacts, namespaces: dict[str, str] | None = None, **more: Any) -> Target:
    cgroups = [Cgroup(f"{hierarchy.mount}/wherry/one", len(hierarchy.mount), False) for hierarchy in facts.hierarchies]
    if facts.v2_mount:
        cgroups.append(Cgroup(f"{facts.v2_mount}/wherry/one", len(facts.v2_mount), True))
    return Target(77, paths() if namespaces is None else namespaces, cgroups, **more)


def case(host_name: str = "v2", document: dict[str, Any] | None = None, process: dict[str, Any] | None = None, **more: Any) -> Case:
    facts = host(host_name)
    document = document or config()
    return document, {**document["process"], "args": ["true"], **(process or {})}, target(facts, **more), facts, options()


def pod() -> Case:
    """A container in a user namespace that does not own all it lives in."""
    document = config(linux__namespaces=namespaces("user", "mount", "pid", "ipc", "uts", network="/run/net"))
    facts = host("v2", namespaces={path: joined(0, owner=9) for path in paths().values()})
    facts.namespaces["/proc/77/ns/net"] = joined(0x40000000)
    facts.namespaces["/proc/77/ns/user"] = joined(0x10000000, 9)
    return document, {**document["process"], "args": ["true"]}, target(facts, paths(user="user")), facts, options()


def cases() -> dict[str, Case]:
    rich = {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "cwd": "/work",
        "oomScoreAdj": 5,
        "execCPUAffinity": {"initial": "0", "final": "1,3"},
        "user": {"uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5]},
        "apparmorProfile": "docker-default",
    }
    return {
        "default-v1": case("v1"),
        "default-v2": case(),
        "time-namespace": case(namespaces=paths(time="time")),
        "hybrid": case("hybrid"),
        "no-cgroups": case("none"),
        "rich": case(process=rich),
        "user-namespace": pod(),
        "seccomp": case(document=config(linux__seccomp=SECCOMP)),
        "seccomp-privileged": case(document=config(linux__seccomp=SECCOMP, process__noNewPrivileges=False)),
        "notify": case(document=config(linux__seccomp=NOTIFY)),
        "same-namespaces": case(namespaces={"mount": "/proc/77/ns/mnt"}, keyring=False),
    }


CASES = cases()


@pytest.mark.parametrize("name", sorted(CASES))
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    text = describe(compile(*CASES[name]))
    path = FOLDER / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    kept = path.read_text() if path.exists() else ""
    if text != kept:
        difference = "\n".join(difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "now", lineterm="", n=1))
        pytest.fail(f"the plan has changed; if that is meant: pytest tests/unit/plan --update-golden\n{difference}", pytrace=False)


def test_no_golden_plan_without_a_case() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_decoder_takes_it(name: str) -> None:
    document, process, where, facts, given = CASES[name]
    mine = Options(seccomp=given.seccomp)
    native.check_plan(compile(document, process, where, facts, mine))


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_every_exec_is(name: str) -> None:
    plan = Plan(compile(*CASES[name]))
    names = [step.name for step in plan.steps]
    assert "exec" in plan.flags and "cacheable" not in plan.flags
    assert not {"CLAIM", "WAIT_START", "ATTACH_ROOTFS", "PIVOT", "HOOK", "CGROUP_WRITE"} & set(names)
    assert names.index("LAUNCH") < names.index("CLONE") < names.index("PUBLISH") < names.index("EXECUTE")
    assert all(step.executor != "caller" or step.name in ("CGROUP_DIRECTORY", "OPEN_TASKS", "OPEN_TARGET", "LAUNCH", "PUBLISH", "LISTENER") for step in plan.steps)
    # the caller enters nothing, and opens nothing but cgroup files and the process that it has already
    assert all(step.fields["path"].startswith("/sys/fs/cgroup") for step in plan.steps if step.name == "CGROUP_DIRECTORY")
    assert all("join" in step.text for step in plan.steps if step.name == "CGROUP_DIRECTORY")
    for step in plan.steps:
        if step.name == "OPEN_TASKS":
            file = step.fields["file"]
            assert step.fields["directory"] is None and file.startswith("/sys/fs/cgroup/") and file.endswith("/tasks")
    mounts = [step for step in plan.steps if step.name == "JOIN" and step.fields["type"] & 0x20000]
    assert len(mounts) == 1 and all(step.executor == "init" for step in mounts)
    clone = next(step for step in plan.steps if step.name == "CLONE")
    assert clone.fields["flags"] == 0


# ---- how the namespaces are joined


def joins(host_name: str, kernel: str, namespaces: dict[str, str]) -> tuple[int, list[tuple[str, int, int]]]:
    """Numbers of namespaces that are opened by path; who joins what, and whether the descriptor is kept."""
    given = case(host_name, namespaces=namespaces)
    given[3].kernel = kernel
    steps = Plan(compile(*given)).steps
    targets = [step.fields["out"] for step in steps if step.name == "OPEN_TARGET"]
    found = [step for step in steps if step.name == "JOIN"]
    assert all(step.fields["from"] == targets[0] for step in found if targets)
    return [step.name for step in steps].count("OPEN_NAMESPACE"), [(step.executor, step.fields["type"], step.fields["keep"]) for step in found]


def test_by_the_process_in_two_steps() -> None:
    assert joins("v2", "5.8.0", paths()) == (0, [("launcher", 0x6C000000, 1), ("init", 0x2020000, 0)])
    assert joins("v1", "6.1.0-18-amd64", {"network": "/proc/77/ns/net"}) == (0, [("launcher", 0x40000000, 0)])
    assert joins("v2", "6.1.0", {"mount": "/proc/77/ns/mnt"}) == (0, [("init", 0x20000, 0)])
    assert joins("v2", "6.1.0", {}) == (0, [])


@pytest.mark.parametrize("kernel", ["5.7.19", "5.4.0-100-generic", "strange"])
def test_an_older_kernel_joins_by_path(kernel: str) -> None:
    number, found = joins("v2", kernel, paths())
    assert number == len(found) == len(FILES) and not any(keep for _, _, keep in found)


@pytest.mark.parametrize("kind", ["user", "time"])
def test_what_makes_the_order_matter_is_joined_by_path(kind: str) -> None:
    number, found = joins("v2", "6.1.0", paths(**{kind: kind}))
    assert number == len(found) == len(FILES) + 1


# ---- the process


def process(base: dict[str, Any], content: bytes | None = None, **choices: Any) -> dict[str, Any]:
    given = Given("/root", "one", choices.pop("args", ["true"]))
    given.process = content
    for name, value in choices.items():
        setattr(given, name, value)
    return process_of({"process": base}, given)


BASE = {
    "args": ["init"],
    "cwd": "/",
    "env": ["A=1"],
    "user": {"uid": 3, "gid": 4, "additionalGids": [5]},
    "terminal": True,
    "capabilities": {"bounding": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    "noNewPrivileges": True,
    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
}


def test_flags_change_the_containers_process() -> None:
    made = process(BASE, env=["B=2"], uid=7, groups=[8], capabilities=["CAP_CHOWN"])
    assert made["env"] == ["A=1", "B=2"] and made["user"] == {"uid": 7, "gid": 4, "additionalGids": [5, 8]}
    assert not made.get("terminal") and made["noNewPrivileges"] is True
    assert made["capabilities"] == {
        "bounding": ["CAP_KILL", "CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "effective": ["CAP_CHOWN"],
        "ambient": [],
    }
    assert process(BASE, capabilities=["CAP_CHOWN", "CAP_KILL"])["capabilities"]["ambient"] == ["CAP_KILL"]  # inheritable already
    assert BASE["capabilities"]["permitted"] == ["CAP_KILL"]  # type: ignore[index]


def test_a_process_of_its_own_takes_what_it_does_not_say() -> None:
    made = process(BASE, b'{"args": ["a"], "cwd": "/", "user": {"uid": 1, "gid": 1}}')
    assert made["capabilities"] == BASE["capabilities"] and made["rlimits"] == BASE["rlimits"]
    assert "env" not in made and "noNewPrivileges" not in made
    assert process(BASE, b'{"args": ["a"], "cwd": "/", "user": {"uid": 1, "gid": 1}, "capabilities": {}}')["capabilities"] == {}


def test_no_command() -> None:
    with pytest.raises(UsageError, match="process args cannot be empty"):
        process(BASE, args=[])


# ---- --cgroup


@pytest.mark.parametrize("given", ["..", "a/../..", "/..", "cpu:../x", "a\0b"])
def test_a_cgroup_outside(given: str) -> None:
    cgroups = [Cgroup("/sys/fs/cgroup/cpu/one", len("/sys/fs/cgroup/cpu"), False)]
    with pytest.raises(UsageError, match="sub cgroup"):
        _move_below(cgroups, given)
    assert cgroups[0].path == "/sys/fs/cgroup/cpu/one"


def test_a_cgroup_of_some_controllers() -> None:
    cpu, pids = (Cgroup(f"/sys/fs/cgroup/{name}/one", len(f"/sys/fs/cgroup/{name}"), False) for name in ("cpu,cpuacct", "pids"))
    _move_below([cpu, pids], "cpuacct:/a//b/.")
    assert (cpu.path, pids.path) == ("/sys/fs/cgroup/cpu,cpuacct/one/a/b", "/sys/fs/cgroup/pids/one")
    with pytest.raises(UsageError, match="unknown controller memory"):
        _move_below([cpu, pids], "memory:a")
