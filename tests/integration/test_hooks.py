# SPDX-License-Identifier: Apache-2.0
"""Hooks of six kinds: when they run, where, what they are told, what their failure does."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("containers")

KINDS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
STATUS = {"prestart": "creating", "createRuntime": "creating", "createContainer": "creating", "startContainer": "created", "poststart": "running", "poststop": "stopped"}
INSIDE = {"createContainer", "startContainer"}


class Log:
    """Where hooks write: a directory that host and container both see under one path."""

    def __init__(self, bundle: Bundle) -> None:
        self.path = bundle.path / "log"
        self.path.mkdir()
        self.path.chmod(0o777)
        bundle.mount(str(self.path), self.path, "bind", ["rbind"])

    def lines(self) -> list[str]:
        file = self.path / "order"
        return file.read_text().split() if file.exists() else []

    def hook(self, name: str, script: str = "", shell: str = "/bin/sh", **more: Any) -> dict[str, Any]:
        """A hook that notes its name and its stdin, then does `script`."""
        text = f"echo {name} >> {self.path}/order; cat > {self.path}/{name}.json; {script}"
        return {"path": shell, "args": ["sh", "-c", text], "env": ["PATH=/bin:/usr/bin"], **more}


@pytest.fixture
def log(bundle: Bundle) -> Log:
    return Log(bundle)


@pytest.mark.v2
@pytest.mark.ours
def test_order_and_state_of_all_hooks(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    bundle.config["annotations"] = {"org.example": "kept"}
    bundle.config["hooks"] = {kind: [log.hook(f"{kind}-1"), log.hook(f"{kind}-2")] for kind in KINDS}
    container = runtime.create(bundle.shell(f"echo program >> {log.path}/order; sleep 1000"))
    assert log.lines() == [f"{kind}-{n}" for kind in KINDS[:3] for n in (1, 2)]
    pid = container.pid
    container.start()
    wait_until(lambda: "program" in log.lines(), "the program")
    container.stop()
    lines = log.lines()
    assert lines.index("startContainer-2") < lines.index("program")
    assert [line for line in lines if line != "program"] == [f"{kind}-{n}" for kind in KINDS for n in (1, 2)]
    for kind in KINDS:
        state = json.loads((log.path / f"{kind}-1.json").read_text())
        if runtime.name == "wherry" or kind not in ("poststart", "startContainer"):
            assert state["status"] == STATUS[kind], kind
        assert state["id"] == container.id
        assert state["bundle"] == str(bundle.path)
        assert state["annotations"] == {"org.example": "kept"}
        assert re.match(r"1\.\d", state["ociVersion"])
        if kind in ("prestart", "createRuntime", "poststart"):
            assert state["pid"] == pid, kind
        if kind in INSIDE:
            assert state["pid"] == 1 or runtime.name != "wherry", kind


@pytest.mark.requires("root")
@pytest.mark.parametrize("kind", KINDS)
def test_namespace_of_a_hook(runtime: Runtime, bundle: Bundle, log: Log, kind: str) -> None:
    bundle.config["hooks"] = {kind: [log.hook(kind, f"readlink /proc/self/ns/uts > {log.path}/ns")]}
    container = runtime.create(bundle.args("true"))
    namespace = os.readlink(f"/proc/{container.pid}/ns/uts")
    container.start()
    container.wait()
    container.delete()
    if kind in INSIDE:
        assert (log.path / "ns").read_text().strip() == namespace
    else:
        assert (log.path / "ns").read_text().strip() == os.readlink("/proc/self/ns/uts")


def test_create_container_hook_is_found_on_the_host_and_may_mount(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    """createContainer runs before the pivot: its path is the host's, its mounts are the container's."""
    bundle.config["hooks"] = {"createContainer": [log.hook("one", f"mount -t tmpfs none {bundle.rootfs}/mnt")]}
    assert " /mnt tmpfs" in runtime.output(bundle, "cat /proc/self/mounts")
    assert str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text()


def test_start_container_hook_is_found_in_the_container(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    script = bundle.rootfs / "only-inside"
    script.write_text(f"#!/bin/sh\necho inside >> {log.path}/order\n")
    script.chmod(0o755)
    bundle.config["hooks"] = {"startContainer": [{"path": "/only-inside"}]}
    runtime.run(bundle.args("true"))
    assert log.lines() == ["inside"]


def test_arguments_and_environment(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    hook = {"path": "/bin/sh", "args": ["name", "-c", f"echo $0 $GIVEN $SECRET > {log.path}/seen", "zero"], "env": ["GIVEN=given"]}
    bundle.config["hooks"] = {"createRuntime": [hook]}
    runtime.create(bundle, env={"SECRET": "secret"})
    assert (log.path / "seen").read_text() == "zero given\n"


@pytest.mark.ours
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "startContainer"])
def test_hook_without_environment_gets_none(runtime: Runtime, bundle: Bundle, log: Log, kind: str) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"/usr/bin/tr '\\0' '\\n' < /proc/self/environ > {log.path}/seen"]}
    bundle.config["hooks"] = {kind: [hook]}
    container = runtime.create(bundle.args("true"), env={"SECRET": "secret"})
    container.start()
    container.wait()
    container.delete()
    seen = [line for line in (log.path / "seen").read_text().split() if not line.startswith(("PWD=", "SHLVL=", "_=", "OLDPWD="))]
    assert seen == []


@pytest.mark.parametrize(("given", "seen"), [({}, "one two /root"), ({"env": []}, ""), ({"env": ["ONE=other"]}, "other")])
@pytest.mark.ours  # runc 1.1 has no HOME there yet
def test_start_container_hook_has_the_environment_of_the_program(runtime: Runtime, bundle: Bundle, log: Log, given: dict[str, Any], seen: str) -> None:
    bundle.process["env"] = ["PATH=/bin", "ONE=one", "TWO=two"]
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo $ONE $TWO $HOME > {log.path}/seen"], **given}]}
    runtime.start_new(bundle.args("true")).wait()
    assert (log.path / "seen").read_text().strip() == seen


@pytest.mark.ours  # crun runs it elsewhere
def test_create_container_hook_stands_in_the_root_file_system(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo made > ./made"]}]}
    runtime.create(bundle)
    assert (bundle.rootfs / "made").read_text() == "made\n"
    assert not Path("/made").exists()


def test_start_container_hook_is_under_the_filter(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    """It is a program of the image, as the container's own."""
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/mkdir", "args": ["mkdir", "/made"]}]}
    started = runtime.create(bundle.shell(f"echo program >> {log.path}/order")).start(check=False)
    assert started.code == 1 or runtime.name != "wherry"
    assert not (bundle.rootfs / "made").exists()
    assert log.lines() == []


@pytest.mark.ours
def test_what_a_failing_hook_says_in_the_terminal_is_shown(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["cat", "/no/such/file"]}]}
    failed = runtime.run(bundle, check=False)
    assert failed.code == 1
    assert "can't open '/no/such/file'" in failed.out


@pytest.mark.parametrize("kind", KINDS[:3])
def test_failing_hook_fails_create_and_nothing_remains(runtime: Runtime, bundle: Bundle, log: Log, kind: str) -> None:
    bundle.config["hooks"] = {kind: [log.hook("bad", "echo the reason >&2; exit 3")], "poststop": [log.hook("poststop")]}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert re.search(r"error running (\w+ )?hook #0", container.stderr) or runtime.name == "crun"
    assert not container.exists()
    if runtime.name == "wherry":
        assert log.lines() == ["bad", "poststop"]


def test_failing_start_container_hook(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    bundle.config["hooks"] = {"startContainer": [log.hook("bad", "exit 3")]}
    container = runtime.create(bundle.shell(f"echo program >> {log.path}/order"))
    started = container.start(check=False)
    assert "program" not in log.lines()
    if runtime.name == "wherry":
        assert started.code == 1
        assert "hook" in started.err


def test_failing_poststart_hook_stops_the_container(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    bundle.config["hooks"] = {"poststart": [log.hook("bad", "exit 3")]}
    container = runtime.create(bundle)
    started = container.start(check=False)
    if runtime.name == "wherry":
        assert started.code == 1
        assert "poststart" in started.err
        assert not container.exists() or container.status == "stopped"


def test_failing_poststop_hook_is_a_warning(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    bundle.config["hooks"] = {"poststop": [log.hook("one", "exit 3"), log.hook("two")]}
    container = runtime.create(bundle)
    deleted = container.delete(check=False)
    assert not container.exists()
    if runtime.name == "wherry":
        assert deleted.code == 0
        assert log.lines() == ["one", "two"]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.ours
def test_timeout(runtime: Runtime, bundle: Bundle, log: Log, kind: str) -> None:
    bundle.config["hooks"] = {kind: [log.hook("slow", "sleep 100", timeout=1)]}
    container = runtime.create(bundle, check=False, timeout=20)
    assert container.result.code == 1
    assert not container.exists()


@pytest.mark.parametrize("hook", [{"path": "relative/path"}, {"path": "/bin/true", "timeout": 0}, {"path": "/bin/true", "timeout": -1}, {"args": ["x"]}])
@pytest.mark.ours
def test_broken_hooks_are_refused(runtime: Runtime, bundle: Bundle, hook: dict[str, Any]) -> None:
    bundle.config["hooks"] = {"createRuntime": [hook]}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "/hooks/createRuntime/0" in container.stderr


def test_missing_hook_program(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/no/such/hook"}]}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "/no/such/hook" in container.stderr
    assert not container.exists()


@pytest.mark.requires("root")
def test_limits_are_set_before_hooks(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    """Hooks may adjust the limits: they find the container in its cgroup."""
    script = f"pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' {log.path}/one.json); cat /proc/$pid/cgroup > {log.path}/seen"
    bundle.config["hooks"] = {"createRuntime": [log.hook("one", script)]}
    runtime.create(bundle)
    assert bundle.linux["cgroupsPath"] in (log.path / "seen").read_text()


def test_hook_output_goes_to_stderr_not_into_the_state(runtime: Runtime, bundle: Bundle, log: Log) -> None:
    bundle.config["hooks"] = {"createRuntime": [log.hook("one", "echo noise; exit 1")]}
    container = runtime.create(bundle, check=False)
    assert container.stdout == "" or "noise" in container.stdout


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_hook_that_does_not_read_its_stdin(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    bundle.config["annotations"] = {"big": "x" * 200000}
    bundle.config["hooks"] = {kind: [{"path": "/bin/true"}]}
    assert runtime.run(bundle.args("true")).code == 0
