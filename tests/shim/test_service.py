# SPDX-License-Identifier: Apache-2.0
"""The task service with real containers: what each call answers, and the events that come of it, in their order."""

import gc
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry.container import execute, lifecycle
from wherry.kernel import native
from wherry.kernel.kinds import Foreseen
from wherry_shim import keeper, plans, processes, rootfs
from wherry_shim.errors import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
    ShimError,
)
from wherry_shim.monitor import ENDED, MADE, Monitor

from .driver import Server, shell, spec

pytestmark = pytest.mark.requires("root")
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4


def make(server: Server, bundle: Bundle, id: str = "a", **more: object) -> int:
    bundle.save()
    pid: int = server.call("Create", id=id, bundle=str(bundle.path), **more)["pid"]
    return pid


def test_the_life_of_a_container(server: Server, bundle: Bundle) -> None:
    pid = make(server, bundle.shell("exit 3"))
    assert (bundle.path / "init.pid").read_text() == str(pid)
    state = server.call("State", id="a")
    assert (state["id"], state["bundle"], state["pid"], state["status"]) == ("a", str(bundle.path), pid, CREATED)
    assert state["exited_at"]["seconds"] == -62135596800
    waits = [server.begin("Wait", id="a") for _ in range(3)]
    assert server.call("Start", id="a") == {"pid": pid}
    answers = [server.finish(wait) for wait in waits]
    assert [answer["exit_status"] for answer in answers] == [3, 3, 3]
    assert server.call("Wait", id="a") == answers[0]
    assert server.call("State", id="a")["status"] == STOPPED
    deleted = server.call("Delete", id="a")
    assert deleted == {"pid": pid, **answers[0]}
    assert server.call("Delete", id="a") == deleted
    assert server.refused("State", id="a").code == NOT_FOUND
    assert server.topics() == ["create", "start", "exit", "delete"]
    assert server.events[2][1] == {"container_id": "a", "id": "a", "pid": pid, **answers[0]}
    assert not (bundle.path / "options.json").exists()


def test_execs(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    assert server.call("Exec", id="a", exec_id="e", spec=shell("exit 7")) == {}
    assert server.call("State", id="a", exec_id="e")["status"] == CREATED
    early = server.begin("Wait", id="a", exec_id="e")
    pid = server.call("Start", id="a", exec_id="e")["pid"]
    assert server.finish(early)["exit_status"] == 7
    state = server.call("State", id="a", exec_id="e")
    assert (state["id"], state["pid"], state["status"], state["exit_status"]) == ("e", pid, STOPPED, 7)
    assert server.refused("Kill", id="a", exec_id="e", signal=9).code == NOT_FOUND
    assert server.call("Delete", id="a", exec_id="e")["exit_status"] == 7
    assert server.refused("State", id="a", exec_id="e").code == NOT_FOUND
    assert server.topics("e") == ["exec-added", "exec-started", "exit"]


def test_a_monitor_is_no_file_of_the_host(server: Server, bundle: Bundle) -> None:
    """It forks what becomes an exec's process: who looks at that finds a sealed copy."""
    make(server, bundle)
    monitor = server.monitor("a")
    assert monitor is not None
    assert os.readlink(f"/proc/{monitor.pid}/exe") == "/memfd:wherry (deleted)"
    assert Path(f"/proc/{monitor.pid}/comm").read_text() == "wherry-monitor\n"


def test_who_is_connected_hears_of_an_exec_once(server: Server, bundle: Bundle) -> None:
    """The helper tells the server that has asked, the monitor all others; the end comes behind that to each."""
    make(server, bundle)
    server.call("Start", id="a")
    asking = server.monitor("a")
    assert asking is not None
    other = Monitor.find(server.loop, f"{server.service.setting.root}/ns/a")
    heard: dict[str, list[int]] = {"asking": [], "other": []}

    def listen(name: str, peer: Monitor) -> None:
        before = peer.on_report
        peer.on_report = lambda report: (heard[name].append(report.kind), before(report))[1]

    server.until(lambda: other.copies)
    listen("asking", asking)
    listen("other", other)
    server.call("Exec", id="a", exec_id="e", spec=shell("exit 3"))
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 3
    server.until(lambda: ENDED in heard["other"])
    assert heard == {"asking": [MADE, ENDED], "other": [MADE, ENDED]}
    other.close()


@pytest.mark.parametrize("kind", ["user", "time", "cgroup"])
def test_execs_in_other_namespaces(server: Server, bundle: Bundle, kind: str) -> None:
    """Those of users and of time are joined by a process that does nothing else."""
    if not os.path.exists(f"/proc/self/ns/{kind}"):
        pytest.skip(f"requires {kind} namespaces: this kernel has none")
    if {"type": kind} not in bundle.config["linux"]["namespaces"]:
        bundle.config["linux"]["namespaces"].append({"type": kind})
    if kind == "user":
        maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        bundle.config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    make(server, bundle)
    server.call("Start", id="a")
    init = server.call("State", id="a")["pid"]
    for exec_id in ("e", "f"):
        server.call("Exec", id="a", exec_id=exec_id, spec=shell("exec sleep 1000"))
        pid = server.call("Start", id="a", exec_id=exec_id)["pid"]
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{init}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_the_same_exec_again_and_again(server: Server, bundle: Bundle, place: Path) -> None:
    """Its plan is known by then. What it does not know any more, a program that has gone, is found out all the same."""
    bundle.rootfs.joinpath("probe.sh").write_text("#!/bin/sh\nexit 3\n")
    bundle.rootfs.joinpath("probe.sh").chmod(0o755)
    make(server, bundle)
    server.call("Start", id="a")
    for exec_id in ("e", "f"):
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("/probe.sh"))
        server.call("Start", id="a", exec_id=exec_id)
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3
    for exec_id in ("g", "h"):
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("/probe.sh"))
    server.call("Pause", id="a")
    assert "cannot exec in a paused container" in server.refused("Start", id="a", exec_id="g").text
    server.call("Resume", id="a")
    bundle.rootfs.joinpath("probe.sh").unlink()
    assert "no such file or directory" in server.refused("Start", id="a", exec_id="h").text


def test_the_same_exec_again_needs_no_disk(server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever it is to leave behind; and what is kept for that goes with the container."""
    make(server, bundle)
    server.call("Start", id="a")
    before = len(os.listdir("/proc/self/fd"))
    compiled = []
    prepare, known = execute.prepare, plans.Ground.plan
    monkeypatch.setattr(execute, "prepare", lambda *given: (compiled.append("prepare"), prepare(*given))[1])
    monkeypatch.setattr(plans.Ground, "plan", lambda *given: (compiled.append("known"), known(*given))[1])

    def run(name: str, **more: object) -> None:
        server.call("Exec", id="a", exec_id=name, spec=shell("exit 3"), **more)
        server.call("Start", id="a", exec_id=name)
        assert server.call("Wait", id="a", exec_id=name)["exit_status"] == 3
        server.call("Delete", id="a", exec_id=name)
        server.loop.step(0)  # what comes afterwards

    run("first")
    assert compiled == ["known", "prepare"]
    run("second")
    run("third")
    assert compiled == ["known", "prepare"]
    run("adopting", adopts=True)
    assert compiled[2:3] == ["known"]
    compiled.clear()
    run("adopting-again", adopts=True)
    run("fourth")
    assert not compiled
    server.call("Kill", id="a", signal=9)
    server.call("Wait", id="a")
    server.call("Delete", id="a")
    server.loop.step(0)
    assert len(os.listdir("/proc/self/fd")) < before + 2  # the mount table


def test_an_exec_of_the_same_kind_needs_no_compiler(server: Server, bundle: Bundle, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third one on, with other arguments and values of the environment; for a server that comes later as well."""
    make(server, bundle)
    server.call("Start", id="a")

    def run(server: Server, name: str, code: int) -> None:
        server.call("Exec", id="a", exec_id=name, spec=shell(f'test $NAME = {name} && exit {code}', env=["PATH=/bin", f"NAME={name}"]))
        server.call("Start", id="a", exec_id=name)
        assert server.call("Wait", id="a", exec_id=name)["exit_status"] == code
        time.sleep(processes.KEEP_S)
        server.loop.step(0)
        server.call("Delete", id="a", exec_id=name)

    run(server, "first", 11)
    run(server, "second", 12)
    monkeypatch.setattr(execute, "prepare", lambda *_: pytest.fail("an interpreter's work"))
    run(server, "third", 13)
    later = Server(place / "root")
    later.finish(later.loop.start(later.service.adopt()))
    later.call("Exec", id="a", exec_id="never", spec=spec("true"))
    ground = ground_of(later)
    run(later, "fourth", 14)
    assert ground_of(later) is ground  # foreseen behind an Exec
    monitor = later.monitor("a")
    assert monitor is not None
    monitor.close()
    os.close(later.service.containers()[0].init.pidfd)
    later.loop.close()


def ground_of(server: Server, id: str = "a") -> plans.Ground:
    server.loop.step(0)
    server.loop.step(0)  # nobody is waited for
    ground = next(one for one in server.service.containers() if one.id == id).plans.stands_on
    assert ground is not None
    return ground


def leave_a_plan(server: Server, bundle: Bundle) -> None:
    """By a container of the kind of `bundle`, which goes."""
    make(server, bundle, "before")
    server.call("Start", id="before")
    server.call("Exec", id="before", exec_id="e", spec=shell("exit 3"))
    server.call("Start", id="before", exec_id="e")
    time.sleep(processes.KEEP_S)
    server.loop.step(0)
    for method, words in (("Kill", {"signal": 9}), ("Wait", {}), ("Delete", {})):
        server.call(method, id="before", **words)


def test_a_first_exec_opens_nothing_of_its_container(server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What that brings to the name of a plan was read behind the answer to its Start."""
    leave_a_plan(server, bundle)
    make(server, bundle)
    server.call("Start", id="a")
    ground = ground_of(server)
    before = len(os.listdir("/proc/self/fd"))
    for where, name in ((execute, "prepare"), (execute, "known"), (lifecycle, "opened"), (native, "facts_key")):
        monkeypatch.setattr(where, name, lambda *_, name=name: pytest.fail(name))
    server.call("Exec", id="a", exec_id="e", spec=shell("exit 4"))
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 4
    server.call("Delete", id="a", exec_id="e")
    assert ground_of(server) is ground
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the plan
    monkeypatch.undo()
    for method, words in (("Kill", {"signal": 9}), ("Wait", {}), ("Delete", {})):
        server.call(method, id="a", **words)


@pytest.mark.parametrize("change", ["namespace", "facts", "own plans"])
def test_what_was_foreseen_is_not_taken_where_it_holds_no_more(
    server: Server, bundle: Bundle, place: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = [*bundle.process["capabilities"][kind], "CAP_SYS_ADMIN"]
    bundle.rootfs.joinpath("go").unlink(missing_ok=True)
    make(server, bundle.without_namespace("ipc").shell("until test -e /go; do sleep 0.02; done; exec /bin/busybox unshare -i sleep 1000"))
    server.call("Start", id="a")
    ground, (container,) = ground_of(server), server.service.containers()
    if change == "namespace":
        bundle.rootfs.joinpath("go").touch()
        server.until(lambda: os.readlink(f"/proc/{container.init.pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc"))
    elif change == "facts":
        key = native.facts_key()
        monkeypatch.setattr(native, "facts_key", lambda: key[::-1])
        server.service.facts.look()
    else:
        (place / "root" / "ns" / "a" / "@plans").mkdir()
    monkeypatch.setattr(Foreseen, "plan", lambda one, *_: None if one is not ground._foreseen else pytest.fail("from what was foreseen"))
    server.call("Exec", id="a", exec_id="e", spec=shell("exit 5"))
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 5
    assert (ground_of(server) is ground) == (change == "own plans")


def test_signals(server: Server, bundle: Bundle) -> None:
    make(server, bundle.shell("trap 'exit 9' USR1; while :; do sleep 0.02; done"))
    server.call("Start", id="a")
    server.call("Kill", id="a", signal=0)
    server.call("Exec", id="a", exec_id="e", spec=spec("sleep", "1000"))
    assert server.refused("Kill", id="a", exec_id="e", signal=9).code == FAILED_PRECONDITION
    server.call("Start", id="a", exec_id="e")
    server.call("Kill", id="a", exec_id="e", signal=int(signal.SIGRTMIN) + 3)
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 128 + int(signal.SIGRTMIN) + 3
    wait = server.begin("Wait", id="a")
    while not wait.done:
        try:
            server.call("Kill", id="a", signal=10)
        except Exception as error:
            assert "process already finished: not found" in str(error)
        server.loop.step(0.05)
    assert wait.result()["exit_status"] == 9


def test_kill_of_a_created_container(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    server.call("Kill", id="a", signal=15)
    assert server.call("Wait", id="a")["exit_status"] == 143
    assert server.call("Delete", id="a")["exit_status"] == 143
    assert server.topics() == ["create", "exit", "delete"]


def test_delete_of_a_created_container(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    assert server.call("Delete", id="a")["exit_status"] == 137
    assert server.topics() == ["create", "exit", "delete"]


def test_kill_all_where_the_pid_namespace_is_shared(server: Server, bundle: Bundle) -> None:
    """The death of init takes nobody along there: the service does, and the ends of execs come before that of init."""
    make(server, bundle.without_namespace("pid").shell("sleep 1000 & sleep 1000 & exec sleep 1000"))
    pid = server.call("Start", id="a")["pid"]
    server.call("Exec", id="a", exec_id="e", spec=spec("sleep", "1000"))
    server.call("Start", id="a", exec_id="e")
    server.until(lambda: len(server.call("Pids", id="a")["processes"]) == 4)
    os.kill(pid, 9)
    assert server.call("Wait", id="a")["exit_status"] == 137
    assert [event["id"] for topic, event in server.events if topic == "/tasks/exit"] == ["e", "a"]
    assert server.call("Delete", id="a", exec_id="e")["exit_status"] == 137


def test_ends_of_execs_come_before_that_of_init(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    for exec_id in ("e", "f"):
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("sleep", "1000"))
        server.call("Start", id="a", exec_id=exec_id)
    server.call("Kill", id="a", signal=9)
    server.call("Wait", id="a")
    ends = [event["id"] for topic, event in server.events if topic == "/tasks/exit"]
    assert sorted(ends[:2]) == ["e", "f"] and ends[2:] == ["a"]


def test_pids_name_execs(server: Server, bundle: Bundle) -> None:
    pid = make(server, bundle.shell("sleep 1000 & wait"))
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=spec("sleep", "1000"))
    exec_pid = server.call("Start", id="a", exec_id="e")["pid"]
    server.until(lambda: len(server.call("Pids", id="a")["processes"]) == 3)
    found = {entry["pid"]: entry.get("info") for entry in server.call("Pids", id="a")["processes"]}
    assert found[pid] is None
    assert found[exec_pid] == {"type_url": "containerd.runc.v1.ProcessDetails", "message": {"exec_id": "e"}}


def test_pause_and_resume(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    assert server.refused("Pause", id="a").text == "cannot pause task in created state"
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=spec("sleep", "1000"))
    server.call("Start", id="a", exec_id="e")
    server.call("Pause", id="a")
    assert server.call("State", id="a")["status"] == server.call("State", id="a", exec_id="e")["status"] == PAUSED
    for verb, text in (("Exec", "cannot exec in a paused state"), ("Pause", "cannot pause a paused container"), ("Delete", "cannot delete a paused process")):
        error = server.refused(verb, id="a", **({"exec_id": "f", "spec": spec("true")} if verb == "Exec" else {}))
        assert (error.code, error.text) == (UNKNOWN, text)
    server.call("Resume", id="a")
    assert server.call("State", id="a")["status"] == RUNNING
    assert server.refused("Resume", id="a").text == "cannot resume a running process"
    assert server.topics()[-2:] == ["paused", "resumed"]


def test_the_death_of_a_paused_container(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    server.call("Pause", id="a")
    server.call("Kill", id="a", signal=9)
    assert server.call("Wait", id="a")["exit_status"] == 137
    assert server.call("Delete", id="a")["exit_status"] == 137


def test_refusals(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    unknown = server.refused("Start", id="nobody")
    assert (unknown.code, str(unknown)) == (NOT_FOUND, "container not created: not found")
    for verb in ("State", "Wait", "Pids", "Kill", "Exec", "Delete", "Pause", "Resume", "Update", "Stats", "ResizePty", "CloseIO", "Checkpoint"):
        assert server.refused(verb, id="nobody").code == NOT_FOUND
    assert server.refused("Paint", id="a").code == UNIMPLEMENTED
    bundle = make_bundle()
    make(server, bundle)
    assert server.refused("Create", id="a", bundle=str(bundle.path)).code == ALREADY_EXISTS
    assert server.refused("Create", id="../b", bundle=str(bundle.path)).code == INVALID_ARGUMENT
    assert server.refused("Create", id="b", bundle="relative").code == INVALID_ARGUMENT
    assert server.refused("Checkpoint", id="a").text == "cannot checkpoint a task in created state"
    server.call("Start", id="a")
    assert server.refused("Start", id="a").text == "cannot start a running container"
    assert server.refused("Delete", id="a").text == "cannot delete a running process"
    server.call("Exec", id="a", exec_id="e", spec=spec("sleep", "1000"))
    assert server.refused("Exec", id="a", exec_id="e", spec=spec("true")).code == ALREADY_EXISTS
    assert server.refused("Exec", id="a", exec_id="a/b", spec=spec("true")).code == INVALID_ARGUMENT
    missing = server.refused("State", id="a", exec_id="f")
    assert (missing.code, missing.text) == (NOT_FOUND, "process does not exist f")
    server.call("Start", id="a", exec_id="e")
    assert server.refused("Start", id="a", exec_id="e").text == "cannot start a running process"
    assert server.refused("Delete", id="a", exec_id="e").text == "cannot delete a running process"
    server.call("Exec", id="a", exec_id="late", spec=spec("true"))
    server.call("Kill", id="a", signal=9)
    server.call("Wait", id="a")
    assert server.refused("Start", id="a").text == "cannot start a stopped container"
    late = server.refused("Start", id="a", exec_id="late")
    assert (late.code, late.text) == (FAILED_PRECONDITION, "container a init process is not running")
    assert server.refused("Exec", id="a", exec_id="g", spec=spec("true")).text == "cannot exec in a stopped state"
    assert server.refused("ResizePty", id="a").text == "cannot resize a stopped container"
    assert str(server.refused("Kill", id="a", signal=9)) == "process already finished: not found"


def test_a_create_that_fails_leaves_nothing(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    wrong = make_bundle().args("/nowhere")
    wrong.save()
    error = server.refused("Create", id="a", bundle=str(wrong.path))
    assert error.code == UNKNOWN
    assert error.text.startswith("OCI runtime create failed: ") and "no such file or directory" in error.text
    assert server.refused("Delete", id="a").code == NOT_FOUND
    assert server.service.empty and server.topics() == []
    bad = make_bundle()
    bad.save()
    (bad.path / "config.json").write_text("{")
    assert "OCI runtime create failed" in server.refused("Create", id="a", bundle=str(bad.path)).text
    assert make(server, make_bundle())


def test_two_servers_and_one_bundle(server: Server, bundle: Bundle, place: Path) -> None:
    """The second one is refused, and takes nothing of the first one's away."""
    other = Server(place / "other")
    make(server, bundle)
    error = other.refused("Create", id="b", bundle=str(bundle.path))
    assert "already exists" in error.text
    other.loop.close()
    server.call("Start", id="a")
    assert (bundle.path / "options.json").exists()


def test_an_exec_that_cannot_start(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=spec("/nowhere"))
    wait = server.begin("Wait", id="a", exec_id="e")
    error = server.refused("Start", id="a", exec_id="e")
    assert error.code == UNKNOWN and error.text.startswith("OCI runtime exec failed: ") and "no such file or directory" in error.text
    server.finish(wait)
    assert server.call("State", id="a", exec_id="e")["status"] == STOPPED
    server.call("Delete", id="a", exec_id="e")
    server.call("Exec", id="a", exec_id="e", spec=spec("true"))
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 0


def test_nobody_waits_for_a_create(server: Server, bundle: Bundle, place: Path) -> None:
    """A hook keeps it busy; State, Connect and Wait answer all the same, and so does what another container is asked."""
    hook = place / "hook"
    hook.write_text(f"#!/bin/sh\nwhile [ ! -e {place}/go ]; do sleep 0.02; done\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    bundle.save()
    create = server.begin("Create", id="a", bundle=str(bundle.path))
    server.until((place / "root/ns/a").exists)
    state = server.begin("State", id="a")
    assert state.done and state.result()["status"] == CREATED
    assert server.begin("Connect", id="a").result()["shim_pid"] == os.getpid()
    assert server.begin("Pids", id="a").done
    wait = server.begin("Wait", id="a")
    assert server.refused("Start", id="a").code == FAILED_PRECONDITION
    assert not create.done
    (place / "go").touch()
    pid = server.finish(create)["pid"]
    assert server.call("State", id="a")["pid"] == pid
    assert not wait.done
    wait.cancel()


def test_a_create_that_nobody_wants_any_more(server: Server, bundle: Bundle, place: Path) -> None:
    hook = place / "hook"
    hook.write_text("#!/bin/sh\nsleep 30\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    bundle.save()
    create = server.begin("Create", id="a", bundle=str(bundle.path))
    server.until((place / "root/ns/a").exists)
    server.loop.step(0.1)
    assert server.call("Delete", id="a")["exit_status"] == 137
    with pytest.raises(Exception, match="monitor"):
        server.finish(create)
    assert server.service.empty


def test_shutdown(server: Server, bundle: Bundle) -> None:
    ended: list[bool] = []
    server.service.on_shutdown = lambda: ended.append(True)
    make(server, bundle)
    server.call("Shutdown", id="a")
    server.loop.step(0.05)
    assert not ended
    server.call("Delete", id="a")
    server.call("Shutdown", id="a")
    server.until(lambda: bool(ended))
    assert server.refused("State", id="a").code == UNAVAILABLE
    server.call("Shutdown", id="a")


def test_update_and_stats(server: Server, bundle: Bundle) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    server.call("Update", id="a", resources={"value": json.dumps({"pids": {"limit": 77}}).encode()})
    stats = server.call("Stats", id="a")["stats"]
    assert stats["type_url"] in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
    assert stats["message"]["pids"] == {"current": 1, "limit": 77}
    bad = server.refused("Update", id="a", resources={"value": b'{"pids": {"limit": "many"}}'})
    assert bad.code == UNKNOWN
    server.call("Kill", id="a", signal=9)
    server.call("Wait", id="a")
    assert server.refused("Update", id="a").text == "cannot update a stopped container"


def test_a_hundred_execs_leave_no_descriptor(server: Server, bundle: Bundle, place: Path) -> None:
    make(server, bundle)
    server.call("Start", id="a")

    def once(number: int) -> None:
        server.call("Exec", id="a", exec_id=f"e{number}", spec=spec("true"))
        server.call("Start", id="a", exec_id=f"e{number}")
        assert server.call("Wait", id="a", exec_id=f"e{number}")["exit_status"] == 0
        server.call("Delete", id="a", exec_id=f"e{number}")

    monitor = server.monitor("a")
    assert monitor is not None
    once(0)
    server.loop.step(0)  # its plan is kept
    time.sleep(0.1)
    gc.collect()  # what servers before this one had open
    before = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{monitor.pid}/fd"))  # numbers change where somebody mounts
    for number in range(1, 100):
        once(number)
    server.loop.step(0)  # the last one is let go of behind its Delete's answer
    time.sleep(0.1)  # the last helper may be about to end
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{monitor.pid}/fd"))) == before
    assert not [path for path in (place / "root" / "ns" / "a").iterdir() if path.name.startswith("exit-")]
    assert sorted(name for name in os.listdir(server.service.setting.root + "/ns/a") if name.startswith("exit")) == []


def test_where_hooks_run(server: Server, bundle: Bundle, place: Path) -> None:
    hook = place / "hook"
    hook.write_text(f"#!/bin/sh\npwd >{place}/where\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    make(server, bundle)
    assert (place / "where").read_text() == f"{bundle.path}\n"
    monitor = server.monitor("a")
    assert monitor is not None and os.readlink(f"/proc/{monitor.pid}/cwd") == "/"


def test_a_delete_while_the_root_filesystem_is_mounted(server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no monitor yet that could be told: the create gives up as soon as it hears of it."""
    bundle.save()
    mounted = threading.Event()
    monkeypatch.setattr(rootfs, "mount_all", lambda *_: mounted.wait(10))
    create = server.begin("Create", id="a", bundle=str(bundle.path))
    delete = server.begin("Delete", id="a")
    server.loop.step(0.05)
    assert not create.done and not delete.done
    mounted.set()
    assert server.finish(delete)["exit_status"] == 137
    with pytest.raises(ShimError, match="deleted while it was being created"):
        server.finish(create)
    assert server.service.empty
    assert server.topics() == []


def test_a_delete_while_an_exec_is_started(server: Server, bundle: Bundle, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Start is answered, though nobody is left who could tell how it went."""
    make(server, bundle)
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=spec("sleep", "1000"), stdout=str(place / "out"))
    (place / "out").touch()
    monkeypatch.setattr(processes, "_ask", lambda *_, **__: None)  # the monitor never gets it
    monkeypatch.setattr(keeper, "_EXECS_S", 0.1)
    start = server.begin("Start", id="a", exec_id="e")
    monitor = server.monitor("a")
    assert monitor is not None
    monitor.on_end = lambda: None  # nor is its end heard of in time
    server.call("Kill", id="a", signal=9)
    server.until(lambda: server.call("State", id="a")["status"] == STOPPED)
    server.call("Delete", id="a")
    with pytest.raises(ShimError, match="process e was deleted"):
        server.finish(start)
