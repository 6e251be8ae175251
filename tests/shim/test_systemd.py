# SPDX-License-Identifier: Apache-2.0
"""Tasks whose cgroups systemd keeps (SystemdCgroup = true), on cgroup v2: the scope bears the limits that are asked for, now and by an update, is frozen
by a pause, counts what is used, tells of a lack of memory, and ends with the task; also where the server was killed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.test_systemd import is_gone, show
from harness.bundle import Bundle
from wherry_shim import clean
from wherry_shim.keeper import Setting

from .daemon import PEER, Daemon, wait_until
from .driver import Remote, Server, shell
from .shims import BINARY
from .test_containerd import nothing_left

pytestmark = [pytest.mark.requires("root", "systemd", "cgroup-v2"), pytest.mark.v2]
SYSTEMD = {"type_url": "containerd.runc.v1.Options", "value": json.dumps({"systemd_cgroup": True}).encode()}
RUNNING, PAUSED = 2, 4


@pytest.fixture
def unit(bundle: Bundle) -> Iterator[str]:
    """Of a bundle whose container goes on until it is told to end, with 4."""
    name = f"s{os.getpid()}x{bundle.path.parent.name[-6:]}".replace("-", "")
    bundle.shell("trap 'exit 4' TERM; while :; do sleep 0.05; done")
    bundle.linux["cgroupsPath"] = f"system.slice:wherryshim:{name}"
    bundle.resources["memory"] = {"limit": 64 << 20, "swap": 64 << 20}
    bundle.save()
    one = f"wherryshim-{name}.scope"
    yield one
    wait_until(lambda: is_gone(one), f"the end of {one}")


def cgroup(pid: int) -> Path:
    return Path("/sys/fs/cgroup" + Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::"))


def test_a_life(server: Server, bundle: Bundle, unit: str) -> None:
    pid = server.call("Create", id="a", bundle=str(bundle.path), options=SYSTEMD)["pid"]
    place = cgroup(pid)
    assert place == Path(f"/sys/fs/cgroup/system.slice/{unit}")
    assert show(unit, "MemoryMax", "ActiveState") == {"MemoryMax": str(64 << 20), "ActiveState": "active"}
    server.call("Start", id="a")
    more = {"memory": {"limit": 96 << 20, "swap": 96 << 20}, "pids": {"limit": 44}}
    server.call("Update", id="a", resources={"value": json.dumps(more).encode()})
    assert show(unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(96 << 20), "TasksMax": "44"}
    assert (place / "pids.max").read_text() == "44\n" and (place / "memory.max").read_text() == f"{96 << 20}\n"
    server.call("Exec", id="a", exec_id="e", spec=shell("sleep 1000"))
    inner = server.call("Start", id="a", exec_id="e")["pid"]
    assert cgroup(inner) == place
    server.call("Pause", id="a")
    assert server.call("State", id="a")["status"] == PAUSED and "frozen 1" in (place / "cgroup.events").read_text()
    server.call("Resume", id="a")
    assert server.call("State", id="a")["status"] == RUNNING and "frozen 0" in (place / "cgroup.events").read_text()
    stats = server.call("Stats", id="a")["stats"]
    assert stats["type_url"] == "io.containerd.cgroups.v2.Metrics" and stats["message"]["pids"]["limit"] == 44
    assert stats["message"]["memory"]["usage_limit"] == 96 << 20 and stats["message"]["memory"]["usage"] > 0
    server.call("Exec", id="a", exec_id="hungry", spec=shell("x=a; while :; do x=$x$x; done"))
    server.call("Start", id="a", exec_id="hungry")
    assert server.call("Wait", id="a", exec_id="hungry")["exit_status"] == 137
    server.until(lambda: "oom" in server.topics())
    server.call("Kill", id="a", signal=15)
    assert server.call("Wait", id="a")["exit_status"] in (4, 137)  # the kernel chooses whom it kills
    assert server.call("Delete", id="a")["exit_status"] in (4, 137)


def test_the_server_is_killed(place: Path, bundle: Bundle, unit: str) -> None:
    server = Remote(place / "root")
    server.send("Create", id="a", bundle=str(bundle.path), options={"type_url": SYSTEMD["type_url"], "value": SYSTEMD["value"].decode()})
    server.receive()
    server.call("Start", id="a")
    assert show(unit, "ActiveState") == {"ActiveState": "active"}
    server.kill()
    assert clean.destroy(Setting("ns", str(place / "root")), "a", str(bundle.path))["exit_status"] == 137
    assert not (place / "root/ns/a").exists()


# ---- under containerd


@pytest.fixture(scope="module")
def daemon(daemon: Daemon) -> Iterator[Daemon]:
    """With our shim in the place of runc's: for no other does `ctr` know of systemd."""
    (daemon.place / "bin").mkdir()
    (daemon.place / "bin/containerd-shim-runc-v2").symlink_to(BINARY)
    daemon.stop()
    daemon.path = daemon.place / "bin"
    daemon.start()
    yield daemon


def test_under_containerd(daemon: Daemon, name: str) -> None:
    options = ("--runc-systemd-cgroup", "--cgroup", f"system.slice:wherryctr:{name}", "--memory-limit", str(64 << 20))
    unit = f"wherryctr-{name}.scope"
    done = daemon.run(name, "cat", "/proc/self/cgroup", runtime=PEER, options=options)
    assert (done.returncode, done.stdout) == (0, f"0::/system.slice/{unit}\n"), done.stderr
    wait_until(lambda: is_gone(unit), "the end of the scope")
    daemon.detached(name, "sleep", "1000", runtime=PEER, options=options)
    assert show(unit, "MemoryMax", "ActiveState") == {"MemoryMax": str(64 << 20), "ActiveState": "active"}
    daemon.ctr("task", "pause", name)
    assert daemon.tasks()[name] == "PAUSED"
    daemon.ctr("task", "resume", name)
    assert "memory.usage" in daemon.ctr("task", "metrics", name).stdout
    daemon.ctr("task", "kill", "--signal", "KILL", name)
    wait_until(lambda: daemon.tasks()[name] == "STOPPED", "its end")
    daemon.remove(name)
    nothing_left(daemon, name)
    wait_until(lambda: is_gone(unit), "the end of the scope")
