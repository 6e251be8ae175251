# SPDX-License-Identifier: Apache-2.0
"""Whole lives in which a server, a zygote or a monitor is killed at a moment that nobody chose: what ends tells the code with which it ended, what
is refused says why, and no process, socket, mount, cgroup or file stays.

WHERRY_LIVES=200 in the environment for a long run; WHERRY_LIVES_FROM=N for one from another seed; WHERRY_LIVES_SUITE=trixie or sid for a newer
containerd (newer.py). A failure names its seed.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import make_rootfs
from harness.census import cgroups_with
from wherry.oci import default
from wherry_shim.errors import ShimError

from .daemon import RUNTIME, Daemon, nothing_left, wait_until
from .fakes import FakeContainerd
from .shims import NAMESPACE, Shim, alive, call, wait_for_end
from .test_zygote import zygote_pid

pytestmark = pytest.mark.requires("root")
FIRST = int(os.environ.get("WHERRY_LIVES_FROM", "0"))
LIVES = int(os.environ.get("WHERRY_LIVES", "9"))
VICTIMS = ("server", "zygote", "monitor")
PROCESS = {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    suite = os.environ.get("WHERRY_LIVES_SUITE")
    if suite and "daemon" in metafunc.fixturenames:
        metafunc.parametrize("daemon", [suite], indirect=True, scope="module")


def words_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def find(victim: str, id: str) -> int:
    """Its pid, or 0. Of the shim's processes the server alone has the rest of containerd's words; `start` and `delete` end with themselves."""
    if victim == "zygote":
        return zygote_pid()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words = words_of(pid)
        if f" -id {id} " not in words or not alive(int(pid)):
            continue
        if words.startswith("wherry-monitor ") if victim == "monitor" else "containerd-shim-wherry-v2 " in words and not words.rstrip().endswith((" start", " delete")):
            return int(pid)
    return 0


class Killer(threading.Thread):
    """Kills one of a life's processes after so many seconds, or as soon as it is there."""

    def __init__(self, victim: str, id: str, seconds: float) -> None:
        super().__init__()
        self.victim, self.id, self.seconds, self.killed, self._over = victim, id, seconds, False, False

    def run(self) -> None:
        time.sleep(self.seconds)
        while not self._over and not self.killed:
            pid = find(self.victim, self.id)
            if pid:
                os.kill(pid, signal.SIGKILL)
                self.killed = True
            time.sleep(0.002)

    def over(self) -> str:
        """The life is over: who was killed in it."""
        self._over = True
        self.join()
        return self.victim if self.killed else "nobody"


# ---- under containerd


def life_under_containerd(daemon: Daemon, name: str, killer: Killer) -> tuple[int, str, int, str]:
    """Codes and errors of `ctr run` and of an exec that lets the container end. Where the exec does not come to it, the container is killed."""
    go = daemon.rootfs / f"go-{name}"
    script = f"while [ ! -e /go-{name} ]; do sleep 0.01; done; exit 7"
    argv = [daemon.ctr_command, "-a", daemon.socket, "run", "--rm", "--runtime", RUNTIME, "--rootfs", str(daemon.rootfs), name, "sh", "-c", script]
    killer.start()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: run.poll() is not None or daemon.tasks().get(name) == "RUNNING", "a task that runs, or has ended")
        # it has ended before the container does, which would take it along
        done = daemon.ctr("task", "exec", "--exec-id", "e", name, "sh", "-c", f"(sleep 0.1; touch /go-{name}) >/dev/null 2>&1 & exit 5", check=False)
        wait_quietly(go.exists, 2 if done.returncode == 5 else 0.3)
        if not go.exists():
            daemon.ctr("task", "kill", "--signal", "KILL", name, check=False)
        try:
            _, errors = run.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            run.kill()
            raise
    go.unlink(missing_ok=True)
    return run.returncode, errors, done.returncode, done.stderr


@pytest.mark.parametrize("seed", range(FIRST, FIRST + LIVES))
def test_under_containerd(daemon: Daemon, seed: int) -> None:
    source = random.Random(seed)
    name, victim = f"k{os.getpid()}x{seed}", VICTIMS[seed % len(VICTIMS)]
    killer = Killer(victim, name, source.random() * 0.5)
    before = zygote_pid()
    code, errors, exec_code, exec_errors = life_under_containerd(daemon, name, killer)
    killed = killer.over()
    told = f"seed {seed}, {killed} killed after {killer.seconds:.3f} s: run {code} {errors!r}, exec {exec_code} {exec_errors!r}"
    daemon.remove(name)
    nothing_left(daemon, name)
    path = socket_of(daemon.socket, "default", name)
    if path.exists():  # nobody is left who knows of it where containerd runs no `delete` to its end, and takes the bundle away
        assert not ran_delete(daemon, name), told
        path.unlink()
    if killed in ("nobody", "zygote"):
        assert (code, exec_code) == (7, 5), f"{told}, zygote before: {before}"
    elif killed == "monitor":
        assert code in (7, 137) or "monitor" in errors, told
        assert exec_code == 5 or code != 7 or "monitor" in exec_errors, told
    else:  # containerd tells 137 of what it takes away, and errors of calls whose connection breaks
        assert code in (7, 137) or errors, told
        assert exec_code in (5, 137) or exec_errors, told


def said_of(daemon: Daemon, name: str) -> list[str]:
    return [line for line in daemon.log().splitlines() if f"id={name}" in line]


def ran_delete(daemon: Daemon, name: str) -> bool:
    said = said_of(daemon, name)
    return any("cleaning up after shim disconnected" in line for line in said) and not any("failed to clean up after shim disconnected" in line for line in said)


def socket_of(address: str, namespace: str, id: str) -> Path:
    return Path("/run/containerd/s") / hashlib.sha256(f"{address}/{namespace}/{id}".encode()).hexdigest()


# ---- one shim, its calls one by one


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[FakeContainerd]:
    one = FakeContainerd(str(tmp_path / "ttrpc"))
    yield one
    one.stop()


class Life:
    """Calls in the order of containerd; what they answer, or how they are refused."""

    def __init__(self, place: Path, images: Path, id: str) -> None:
        self.shim = Shim(place, id, str(place / "containerd.sock"), str(place / "ttrpc"))
        self.mounts = [{"type": "bind", "source": str(images), "options": ["rbind", "ro"]}]
        self.go = images / "go"
        config = default.spec()
        config["process"] = {**PROCESS, "terminal": False, "args": ["/bin/sh", "-c", "while [ ! -e /go ]; do sleep 0.01; done; exit 3"]}
        config["linux"]["cgroupsPath"] = f"/{id}"
        (self.shim.bundle / "config.json").write_text(json.dumps(config))
        self.answers: dict[str, dict] = {}
        self.errors: dict[str, str] = {}

    def play(self) -> None:
        self.shim.start()
        spec = {"type_url": "Process", "value": json.dumps({**PROCESS, "args": ["/bin/sh", "-c", "exit 5"]}).encode()}
        script: list[tuple[str, str, dict]] = [
            ("create", "Create", {"bundle": str(self.shim.bundle), "rootfs": self.mounts}),
            ("start", "Start", {}),
            ("exec", "Exec", {"exec_id": "e", "spec": spec}),
            ("start exec", "Start", {"exec_id": "e"}),
            ("wait exec", "Wait", {"exec_id": "e"}),
            ("delete exec", "Delete", {"exec_id": "e"}),
            ("wait", "Wait", {}),
            ("delete", "Delete", {}),
            ("shutdown", "Shutdown", {}),
        ]
        try:
            with self.shim.client() as client:
                for title, method, request in script:
                    self.one(client, title, method, request)
        except OSError as error:
            self.errors["connection"] = str(error)

    def one(self, client: object, title: str, method: str, request: dict) -> None:
        if title == "wait":
            self.go.touch()
        try:
            self.answers[title] = call(client, method, id=self.shim.id, **request)
        except ShimError as error:
            self.errors[title] = str(error)

    @property
    def code(self) -> object:
        return self.answers["wait"]["exit_status"] if "wait" in self.answers else None


def left_by(life: Life) -> list[str]:
    id = life.shim.id
    found = [words for pid in filter(str.isdigit, os.listdir("/proc")) if f" -id {id} " in (words := words_of(pid)) and alive(int(pid))]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if id in line] + cgroups_with(id)
    places = [Path(f"/run/containerd/wherry/{NAMESPACE}/{id}"), socket_of(life.shim.address, NAMESPACE, id)]
    return found + [str(place) for place in places if place.exists()]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + LIVES))
def test_a_shim(tmp_path: Path, containerd: FakeContainerd, seed: int) -> None:
    source = random.Random(seed)
    images = tmp_path / "images"
    images.mkdir()
    make_rootfs(images, None)
    life = Life(tmp_path, images, f"k{os.getpid()}s{seed}")
    killer = Killer(VICTIMS[seed % len(VICTIMS)], life.shim.id, source.random() * 0.16)
    killer.start()
    life.play()
    killed = killer.over()
    ended = life.shim.command("-bundle", str(life.shim.bundle), "delete")
    wait_quietly(lambda: not left_by(life))
    told = f"seed {seed}, {killed} killed after {killer.seconds:.3f} s: {life.answers} {life.errors} {ended.stdout!r}"
    assert not left_by(life), f"{told}; left: {left_by(life)}"
    events = [envelope["topic"].rpartition("/")[2] for envelope in containerd.envelopes]
    if killed in ("nobody", "zygote"):
        assert not life.errors, told
        assert (life.code, life.answers["wait exec"]["exit_status"]) == (3, 5), told
        assert (events[0], events[-1], events.count("exit")) == ("create", "delete", 2), told
    elif killed == "monitor":
        check_without_monitor(life, told)
    else:
        assert set(life.errors) <= {"connection"}, told
        assert life.code in (None, 3), told


def check_without_monitor(life: Life, told: str) -> None:
    if "create" in life.errors:
        assert "monitor" in life.errors["create"], told
        return
    assert "connection" not in life.errors, told
    assert "start" not in life.errors and life.code == 3, told
    if "start exec" in life.errors:
        assert "monitor" in life.errors["start exec"], told
    else:
        assert life.answers["wait exec"]["exit_status"] == 5, told
    assert life.answers["delete"]["exit_status"] == 3, told


def wait_quietly(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_killed_zygote_is_followed_by_another(tmp_path: Path, containerd: FakeContainerd) -> None:
    """The start after it makes a cold server, which leaves one behind; the sockets of the dead one are in nobody's way."""
    first = Shim(tmp_path, "first", str(tmp_path / "containerd.sock"), str(tmp_path / "ttrpc"))
    first.start()
    wait_until(zygote_pid, "a zygote")
    old = zygote_pid()
    os.kill(old, signal.SIGKILL)
    wait_for_end(old)
    second = Shim(tmp_path, "second", str(tmp_path / "containerd.sock"), str(tmp_path / "ttrpc"))
    second.start()
    wait_until(lambda: zygote_pid() not in (0, old), "another zygote")
    for one in (first, second):
        one.call("Shutdown")
