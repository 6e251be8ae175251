# SPDX-License-Identifier: Apache-2.0
"""Servers and monitors that are killed: who is left knows what became of the containers, and nothing stays behind."""

import gc
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.census import Census
from wherry.container import exec_cache, execute, lifecycle
from wherry.container.hooks import config_copy
from wherry.oci.config import load
from wherry_shim import clean
from wherry_shim.errors import NOT_FOUND, ShimError
from wherry_shim.keeper import Setting
from wherry_shim.loop import Task

from .driver import Remote, Server, shell, spec

pytestmark = pytest.mark.requires("root")
RUNNING, STOPPED = 2, 3


@pytest.fixture
def root(place: Path, session_directory: Path) -> Iterator[Path]:
    """A state root; what is left below it, or of its processes, fails the test."""
    census = Census(f"{session_directory.name}-{place.name}", [place / "root/ns"])
    yield place / "root"
    left = census.leftovers()
    assert not left, f"left behind: {left}"


def take_away(root: Path, id: str, bundle: Bundle) -> dict[str, object]:
    """As the command `delete` does it."""
    return clean.destroy(Setting("ns", str(root)), id, str(bundle.path))


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_another_server_finds_all(root: Path, bundle: Bundle, place: Path) -> None:
    bundle.shell("trap 'exit 8' TERM; while :; do sleep 0.02; done").save()
    os.mkfifo(place / "out")
    out = os.open(place / "out", os.O_RDONLY | os.O_NONBLOCK)
    first = Remote(root)
    pid = first.call("Create", id="a", bundle=str(bundle.path), stdout=str(place / "out"))["pid"]
    first.call("Start", id="a")
    for exec_id, script in (("lives", "sleep 1000"), ("dies", "sleep 0.3; exit 5"), ("dead", "exit 6")):
        first.call("Exec", id="a", exec_id=exec_id, spec=shell(script)["value"].decode())
        first.call("Start", id="a", exec_id=exec_id)
    first.call("Wait", id="a", exec_id="dead")
    first.kill()
    time.sleep(0.5)

    server = Server(root)
    server.finish(server.loop.start(server.service.adopt()))
    state = server.call("State", id="a")
    assert (state["pid"], state["status"], state["bundle"], state["stdout"]) == (pid, RUNNING, str(bundle.path), str(place / "out"))
    assert [server.call("Wait", id="a", exec_id=exec_id)["exit_status"] for exec_id in ("dies", "dead")] == [5, 6]
    assert server.call("State", id="a", exec_id="lives")["status"] == RUNNING
    server.call("Exec", id="a", exec_id="new", spec=shell("exit 9"))
    server.call("Start", id="a", exec_id="new")
    assert server.call("Wait", id="a", exec_id="new")["exit_status"] == 9
    server.call("Kill", id="a", signal=15)
    assert server.call("Wait", id="a")["exit_status"] == 8
    assert server.call("Delete", id="a")["exit_status"] == 8
    server.loop.close()
    os.close(out)


def test_what_ended_while_nobody_was_there(root: Path, bundle: Bundle, place: Path) -> None:
    bundle.shell("sleep 0.3; echo late; exit 7").save()
    os.mkfifo(place / "out")
    first = Remote(root)
    first.call("Create", id="a", bundle=str(bundle.path), stdout=str(place / "out"))
    first.call("Start", id="a")
    first.kill()
    eventually((root / "ns/a/exit").exists)
    server = Server(root)
    server.finish(server.loop.start(server.service.adopt()))
    out = os.open(place / "out", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(out, 100) == b"late\n"
    os.close(out)
    assert server.call("State", id="a")["status"] == STOPPED
    assert server.call("Delete", id="a")["exit_status"] == 7
    server.loop.close()


def test_a_plan_that_is_kept_while_its_container_is_deleted(server: Server, bundle: Bundle) -> None:
    """The directory is gone, and stays so."""
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    root = f"{server.service.setting.root}/ns"
    options = execute.ExecOptions(root, "a")
    options.process, options.process_name, options.verb = spec("true")["value"], "process", "exec"
    planned = execute.prepare(options)
    os.close(planned.pidfd)
    with lifecycle.opened(root, "a") as container:
        config = load(config_copy(container))
        exec_cache.remember(container, config, options, planned.plan, elsewhere=True)  # so that no other container can use it
        assert len(os.listdir(f"{root}/a/@plans")) == 2  # so it is kept where it can be
        server.call("Delete", id="a")
        exec_cache.remember(container, config, options, planned.plan, elsewhere=True)
    assert not os.path.exists(f"{root}/a")


def test_what_delete_takes_away(root: Path, make_bundle: Callable[[], Bundle]) -> None:
    """The server is dead: the code is the one that the monitor wrote, before or because of the delete."""
    lives, ended = make_bundle().save(), make_bundle().shell("exit 3").save()
    server = Remote(root)
    pids = {}
    for id, bundle in (("lives", lives), ("ended", ended)):
        pids[id] = server.call("Create", id=id, bundle=str(bundle.path))["pid"]
        server.call("Start", id=id)
    server.call("Wait", id="ended")
    server.kill()
    assert not clean.is_gone(str(lives.path))
    for id, bundle, status in (("lives", lives, 137), ("ended", ended, 3)):
        answer = take_away(root, id, bundle)
        assert (answer["pid"], answer["exit_status"]) == (pids[id], status)
        assert clean.is_gone(str(bundle.path))
        assert take_away(root, id, bundle)["exit_status"] == 137


def test_a_monitor_that_is_killed(server: Server, bundle: Bundle) -> None:
    """The server is next of kin: it gets the processes, and with them how they end."""
    bundle.shell("trap 'exit 8' TERM; while :; do sleep 0.02; done").save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=shell("sleep 1; exit 4"))
    server.call("Start", id="a", exec_id="e")
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    server.until(lambda: not monitor.connected)
    assert server.call("State", id="a")["status"] == RUNNING
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 4
    server.call("Exec", id="a", exec_id="f", spec=spec("true"))
    with pytest.raises(ShimError, match="monitor"):
        server.call("Start", id="a", exec_id="f")
    server.call("Kill", id="a", signal=15)
    assert server.call("Wait", id="a")["exit_status"] == 8
    assert server.call("Delete", id="a")["exit_status"] == 8


def test_a_death_before_the_monitor_s(server: Server, bundle: Bundle) -> None:
    """The connection of a killed monitor ends while what has died in it is still its child: how that ended is known a moment later."""
    bundle.shell("while :; do sleep 0.02; done").save()
    pid = server.call("Create", id="a", bundle=str(bundle.path))["pid"]
    server.call("Start", id="a")
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    monitor._lost()
    server.loop.step(0.05)
    assert server.call("State", id="a")["status"] == RUNNING
    os.kill(monitor.pid, signal.SIGKILL)
    assert server.call("Wait", id="a")["exit_status"] == 128 + signal.SIGKILL
    server.call("Delete", id="a")


def test_a_monitor_that_does_not_read(server: Server, bundle: Bundle) -> None:
    """The server waits for nobody: what cannot be sent now is sent later, in order."""
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    monitor = server.monitor("a")
    assert monitor is not None
    server.call("Exec", id="a", exec_id="first", spec=shell("exit 5"))
    server.call("Start", id="a", exec_id="first")
    server.call("Wait", id="a", exec_id="first")
    server.call("Delete", id="a", exec_id="first")
    server.loop.step(0)  # its plan is kept
    gc.collect()  # what servers before this one had open
    before = len(os.listdir("/proc/self/fd"))
    os.kill(monitor.pid, signal.SIGSTOP)
    starts = []
    for number in range(20):
        server.call("Exec", id="a", exec_id=f"e{number}", spec=shell("exit 5"))
        starts.append(server.begin("Start", id="a", exec_id=f"e{number}"))
    for _ in range(2000):
        server.call("CloseIO", id="a", stdin=True)
    assert monitor._unsent
    assert server.call("State", id="a")["status"] == RUNNING
    os.kill(monitor.pid, signal.SIGCONT)
    for number, start in enumerate(starts):
        server.finish(start)
        assert server.call("Wait", id="a", exec_id=f"e{number}")["exit_status"] == 5
        server.call("Delete", id="a", exec_id=f"e{number}")
    server.until(lambda: not monitor._unsent)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_terminal_of_a_killed_monitor(server: Server, bundle: Bundle, place: Path) -> None:
    """The server holds it open too, and goes on pumping."""
    bundle.process["terminal"] = True
    bundle.shell("while read line; do echo got $line; done").save()
    names = {"std" + end: str(place / end) for end in ("in", "out")}
    for path in names.values():
        os.mkfifo(path)
    out = os.open(place / "out", os.O_RDONLY | os.O_NONBLOCK)
    server.call("Create", id="a", bundle=str(bundle.path), terminal=True, **names)
    server.call("Start", id="a")
    writer = os.open(place / "in", os.O_WRONLY | os.O_NONBLOCK)
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    server.until(lambda: not monitor.connected)
    os.write(writer, b"word\n")
    got = b""

    def arrived() -> bool:
        nonlocal got
        try:
            got += os.read(out, 1000)
        except BlockingIOError:
            pass
        return b"got word\r\n" in got

    server.until(arrived)
    server.call("ResizePty", id="a", width=20, height=10)
    server.call("Kill", id="a", signal=9)
    assert server.call("Wait", id="a")["exit_status"] == 137
    server.call("Delete", id="a")
    os.close(out)
    os.close(writer)


def test_a_monitor_that_is_killed_in_a_create(server: Server, bundle: Bundle, place: Path) -> None:
    hook = place / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {place}/begun\nexec sleep 2\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    bundle.save()
    create = server.begin("Create", id="a", bundle=str(bundle.path))
    server.until((place / "begun").exists)
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    with pytest.raises(ShimError, match="monitor"):
        server.finish(create)
    assert server.refused("State", id="a").code == NOT_FOUND
    bundle.config["hooks"] = {}
    bundle.save()
    time.sleep(2)
    server.call("Create", id="a", bundle=str(bundle.path))  # what the first one left is undone


def test_a_server_that_is_killed_at_any_moment(root: Path, make_bundle: Callable[[], Bundle]) -> None:
    """Whatever it was doing, delete takes all of it away, and tells 0 or 137, the two ways in which this container can end."""
    source = random.Random(4)
    for _ in range(12):
        bundle = make_bundle().shell("sleep 0.05").save()
        server = Remote(root)
        server.send("Create", id="a", bundle=str(bundle.path))
        server.send("Start", id="a")
        server.send("Exec", id="a", exec_id="e", spec=spec("sleep", "1000")["value"].decode())
        server.send("Start", id="a", exec_id="e")
        time.sleep(source.random() * 0.15)
        server.kill()
        assert take_away(root, "a", bundle)["exit_status"] in (0, 137)
        assert clean.is_gone(str(bundle.path))


def quietly(server: Server, task: Task) -> Any:
    try:
        return server.finish(task)
    except ShimError:
        return None


def life_without_its_monitor(server: Server, bundle: Bundle, seconds: float) -> None:
    """The monitor is killed so many seconds after it began."""
    tasks = [server.begin("Create", id="a", bundle=str(bundle.path))]
    tasks[0].then(lambda _: tasks.append(server.begin("Start", id="a")))
    server.until(lambda: server.monitor("a") is not None or tasks[0].done)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server.loop.step(0.01)
    monitor = server.monitor("a")
    if monitor is not None and monitor.connected:
        os.kill(monitor.pid, signal.SIGKILL)
    quietly(server, tasks[0])
    quietly(server, tasks[-1])
    if server.service.empty:  # the create has failed
        return
    if server.call("State", id="a")["status"] == RUNNING:
        assert server.call("Wait", id="a")["exit_status"] == 3
    assert server.call("Delete", id="a")["exit_status"] in (3, 137)


def test_a_monitor_that_is_killed_at_any_moment(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """The codes are right all the same, and nothing is left behind (the fixture looks)."""
    source = random.Random(5)
    for _ in range(12):
        life_without_its_monitor(server, make_bundle().shell("sleep 0.05; exit 3").save(), source.random() * 0.12)
