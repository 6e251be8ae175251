# SPDX-License-Identifier: Apache-2.0
"""A pod's server that sleeps: what is said, asked and ended meanwhile is as if it had not; and porters, workers, monitors and zygotes that are killed.

WHERRY_PARKS=500 in the environment: so many calls around the moment of a park, not 20. WHERRY_SHIM_PARK=0.02 for all of tests/shim: servers park all the time.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bundle import make_rootfs
from wherry.oci import default
from wherry_shim import bootstrap_start, parking, porter, ttrpc, wire
from wherry_shim.errors import DEADLINE_EXCEEDED, ShimError
from wherry_shim.loop import Loop
from wherry_shim.state import Container, Process
from wherry_shim.stdio import Names, Streams

from .daemon import wait_until
from .fakes import FakeContainerd
from .shims import BINARY, Shim, alive, call, wait_for_end
from .test_killed import PROCESS, left_by, wait_quietly, words_of
from .test_zygote import zygote_pid

pytestmark = pytest.mark.requires("root")
PARK = "0.1"
TASK = "containerd.task.v2.Task"


class Pod:
    """One container, whose program ends with 3 once `go` is there. Its server parks after a tenth of a second."""

    def __init__(self, place: Path, images: Path, id: str, script: str = "", memory: int = 0) -> None:
        self.shim = Shim(place, id, str(place / "containerd.sock"), str(place / "ttrpc"))
        self.go = images / "go"
        self.id, self.bundle = id, self.shim.bundle
        config = default.spec()
        config["process"] = {**PROCESS, "terminal": False, "args": ["/bin/sh", "-c", script or "while [ ! -e /go ]; do sleep 0.01; done; exit 3"]}
        config["linux"]["cgroupsPath"] = f"/{id}"
        if memory:
            config["linux"]["resources"]["memory"] = {"limit": memory, "swap": memory}
        (self.shim.bundle / "config.json").write_text(json.dumps(config))
        self.mounts = [{"type": "bind", "source": str(images), "options": ["rbind", "ro"]}]

    def begin(self, park: str = PARK, **names: str) -> None:
        self.shim.start(WHERRY_SHIM_PARK=park)
        self.call("Create", bundle=str(self.shim.bundle), rootfs=self.mounts, **names)
        self.call("Start")

    def call(self, method: str, **request: object) -> dict:
        return self.shim.call(method, **request)

    def execute(self, exec_id: str, script: str, **names: str) -> None:
        spec = {"type_url": "Process", "value": json.dumps({**PROCESS, "args": ["/bin/sh", "-c", script]}).encode()}
        self.call("Exec", exec_id=exec_id, spec=spec, **names)

    def workers(self) -> list[int]:
        return [int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if "-worker -namespace" in (words := words_of(pid)) and f" -id {self.id} " in words and alive(int(pid))]

    def parked(self) -> "Pod":
        wait_until(lambda: not self.workers(), "it parks")
        return self

    def monitor(self) -> int:
        return next(int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if (words := words_of(pid)).startswith("wherry-monitor ") and words.endswith(f" -id {self.id} "))

    def end(self) -> None:
        """With nothing left."""
        try:
            self.call("Kill", signal=9)
            self.call("Wait")
        except (ShimError, OSError):
            pass
        try:
            self.call("Delete")
            self.call("Shutdown")
        except (ShimError, OSError):
            pass
        self.shim.command("-bundle", str(self.shim.bundle), "delete", check=False)
        wait_quietly(lambda: not left_by(self))
        assert not left_by(self)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[FakeContainerd]:
    one = FakeContainerd(str(tmp_path / "ttrpc"))
    yield one
    one.stop()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    make_rootfs(place, None)
    return place


@pytest.fixture
def make(tmp_path: Path, images: Path, events: FakeContainerd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pod]]:
    monkeypatch.delenv("WHERRY_ZYGOTE", raising=False)
    made: list[Pod] = []

    def one(**more: object) -> Pod:
        made.append(Pod(tmp_path, images, f"p{os.getpid()}x{time.monotonic_ns()}", **more))
        return made[-1]

    yield one
    for pod in made:
        pod.end()


@pytest.fixture
def pod(make: Callable[..., Pod]) -> Pod:
    one = make()
    one.begin()
    return one.parked()


def short(events: FakeContainerd) -> list[str]:
    return [topic.rpartition("/")[2] for topic in events.topics]


# ---- asleep and awake


def test_a_quiet_pod_has_no_interpreter(pod: Pod) -> None:
    first = pod.shim.pid
    assert [pod.call("State")["status"], pod.parked().call("State")["status"]] == [2, 2]
    assert pod.parked().shim.pid == first and alive(first)
    title = words_of(str(first))
    assert f"/{BINARY.name} -namespace " in title and f" -id {pod.id} " in title
    assert os.getpgid(first) == first and os.readlink(f"/proc/{first}/cwd") == "/"


def test_it_holds_what_it_has_got_and_nothing_else(pod: Pod) -> None:
    pid = pod.parked().shim.pid

    def size() -> tuple[int, int]:
        pod.parked()
        return len(os.listdir(f"/proc/{pid}/fd")), int(re.search(r"^Anonymous: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])

    before = size()
    for number in range(8):
        pod.execute(f"e{number}", "exit 5")
        pod.call("Start", exec_id=f"e{number}")
        assert pod.call("Wait", exec_id=f"e{number}")["exit_status"] == 5
        pod.parked().call("Delete", exec_id=f"e{number}")
    after = size()
    assert after[0] == before[0] and after[1] <= before[1] + 16


def test_a_wait_goes_on_over_parks(pod: Pod, events: FakeContainerd) -> None:
    with pod.shim.client() as client:
        stream = client.send(TASK, "Wait", wire.encode("task.WaitRequest", {"id": pod.id}))
        for _ in range(3):
            pod.parked()
            assert call(client, "State", id=pod.id)["status"] == 2
        pod.parked()
        pod.go.touch()
        assert wire.decode("task.WaitResponse", client.receive(stream, 20))["exit_status"] == 3
        pod.parked()
        assert call(client, "Wait", id=pod.id)["exit_status"] == 3
        assert call(client, "Delete", id=pod.id)["exit_status"] == 3
    wait_until(lambda: short(events) == ["create", "start", "exit", "delete"], f"its events: {events.topics}")


def test_the_time_of_a_call_is_up_in_its_sleep(pod: Pod) -> None:
    with pod.shim.client() as client:
        stream = client.send(TASK, "Wait", wire.encode("task.WaitRequest", {"id": pod.id}), 1.0)
        time.sleep(0.5)
        with pytest.raises(ShimError) as refused:
            client.receive(stream, 20)
        assert refused.value.code == DEADLINE_EXCEEDED


def test_an_exit_wakes_it_where_nobody_waits(pod: Pod, events: FakeContainerd) -> None:
    pod.go.touch()
    wait_until(lambda: "exit" in short(events), "the event of the exit")
    assert pod.parked().call("State")["exit_status"] == 3


def test_an_exec_over_parks(pod: Pod, tmp_path: Path, events: FakeContainerd) -> None:
    names = {name: str(tmp_path / name) for name in ("stdin", "stdout")}
    for path in names.values():
        os.mkfifo(path)
    output, input = (os.open(names[name], os.O_RDWR | os.O_NONBLOCK) for name in ("stdout", "stdin"))
    pod.execute("cat", "read a; echo got $a; cat; exit 6", **names)
    pod.parked().call("Start", exec_id="cat")
    pod.parked()
    os.write(input, b"one\n")
    wait_until(lambda: os.read(output, 100) == b"got one\n" if ready(output) else False, "what it says")
    assert not pod.workers()  # its stdio is nothing of the server's
    os.close(input)
    pod.call("CloseIO", exec_id="cat", stdin=True)
    assert pod.parked().call("Wait", exec_id="cat")["exit_status"] == 6
    assert pod.parked().call("Delete", exec_id="cat")["exit_status"] == 6
    wait_until(lambda: short(events) == ["create", "start", "exec-added", "exec-started", "exit"], "its events")
    os.close(output)


def ready(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


def test_a_client_that_goes_in_its_sleep_is_let_go(pod: Pod) -> None:
    pid = pod.shim.pid
    pod.parked()
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(3):
        client = pod.shim.client()
        call(client, "State", id=pod.id)
        wait_until(lambda: not pod.workers() and len(os.listdir(f"/proc/{pid}/fd")) == before + 1, "it holds the connection")
        client.close()
        wait_until(lambda: not pod.workers() and len(os.listdir(f"/proc/{pid}/fd")) == before, "it has let go")


def test_half_a_request_keeps_it_awake(pod: Pod) -> None:
    body = ttrpc.request(TASK, "State", wire.encode("task.StateRequest", {"id": pod.id}))
    data = ttrpc.frame(1, ttrpc.REQUEST, body, 1)
    peer = ttrpc.connect(pod.shim.socket, 10)
    try:
        peer.sendall(data[:15])
        time.sleep(0.5)
        assert pod.workers()
        peer.sendall(data[15:])
        assert peer.recv(100)
        pod.parked()
    finally:
        peer.close()


def test_a_lack_of_memory_in_its_sleep(make: Callable[..., Pod], events: FakeContainerd) -> None:
    script = "while [ ! -e /go ]; do sleep 0.01; done; x=a; while :; do x=$x$x; done"
    one = make(script=script, memory=16 << 20)
    one.begin()
    one.parked().go.touch()
    wait_until(lambda: "exit" in short(events), "its end")
    assert short(events) == ["create", "start", "oom", "exit"]
    assert one.call("Wait")["exit_status"] == 137


def test_calls_at_every_moment_of_a_park(pod: Pod) -> None:
    """Each comes a little later after the one before: some of them while the worker writes itself down."""
    for step in range(int(os.environ.get("WHERRY_PARKS", "20"))):
        time.sleep(0.08 + step % 50 * 0.001)
        assert pod.call("State")["status"] == 2


def test_many_at_once(pod: Pod) -> None:
    answers: list[int] = []

    def one() -> None:
        for _ in range(5):
            answers.append(pod.call("State")["status"])
            time.sleep(0.15)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [2] * 30


# ---- deaths


def test_a_porter_that_is_killed_in_its_sleep(pod: Pod) -> None:
    pid = pod.shim.pid
    pod.parked()
    with pod.shim.client() as client:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError):
            call(client, "State", id=pod.id)
    done = pod.shim.command("-bundle", str(pod.bundle), "delete")
    assert wire.decode("task.DeleteResponse", done.stdout)["exit_status"] == 137
    wait_until(lambda: not left_by(pod), "nothing is left")


@pytest.mark.parametrize("who", ["porter", "worker"])
def test_one_dies_with_the_other(pod: Pod, who: str) -> None:
    with pod.shim.client() as client:
        pid = call(client, "Connect", id=pod.id)["shim_pid"]
        both = [pid, *pod.workers()]
        os.kill(both[0 if who == "porter" else 1], signal.SIGKILL)
        for one in both:
            wait_for_end(one, 5)
        with pytest.raises(OSError):
            call(client, "State", id=pod.id)
    pod.shim.command("-bundle", str(pod.bundle), "delete")
    assert not left_by(pod)


def test_a_monitor_that_is_killed_in_its_sleep(pod: Pod, events: FakeContainerd) -> None:
    pod.execute("e", "while [ ! -e /go5 ]; do sleep 0.01; done; exit 5")
    pod.call("Start", exec_id="e")
    pod.parked()
    monitor = pod.monitor()
    os.kill(monitor, signal.SIGKILL)
    wait_for_end(monitor)
    time.sleep(0.3)
    pod.parked()  # it watches the orphans itself
    pod.go.with_name("go5").touch()
    assert pod.call("Wait", exec_id="e")["exit_status"] == 5
    pod.parked().go.touch()
    assert pod.call("Wait")["exit_status"] == 3
    assert not Path(f"/proc/{monitor}").exists()  # it is reaped
    wait_until(lambda: short(events)[-2:] == ["exit", "exit"], "both ends")


def test_a_zygote_that_is_killed_in_its_sleep(pod: Pod) -> None:
    old = zygote_pid()
    if old:
        os.kill(old, signal.SIGKILL)
        wait_for_end(old)
    assert pod.call("State")["status"] == 2
    wait_until(lambda: zygote_pid() not in (0, old), "another zygote")
    assert pod.parked().call("State")["status"] == 2


# ---- the porter alone, with workers that this test plays


class Porterage:
    """A porter whose `Python` hands us the control that it gets."""

    def __init__(self, place: Path) -> None:
        self.place = place
        shutil.copy(BINARY, place / BINARY.name)
        script = place / "containerd-shim-wherry-python"
        hand = f"s = socket.socket(socket.AF_UNIX)\ns.connect({str(place / 'hand')!r})\nsocket.send_fds(s, [b'x'], [3])\ns.recv(1)\n"
        script.write_text(f"#!{sys.executable}\nimport socket\n{hand}")
        script.chmod(0o755)
        self.hands = socket.socket(socket.AF_UNIX)
        self.hands.bind(str(place / "hand"))
        self.hands.listen(8)
        self.hands.settimeout(20)
        self.listener = bootstrap_start.bind(str(place / "s"))
        assert self.listener is not None
        actions = [(os.POSIX_SPAWN_DUP2, self.listener.fileno(), 3)]
        words = [str(place / BINARY.name), "-namespace", "n", "-id", "alone", "-address", "a"]
        self.pid = os.posix_spawn(words[0], words, {"PATH": "/bin"}, file_actions=actions)
        self.listener.close()
        self.workers: list[porter.Porter] = []
        self.kept: list[int] = []

    def worker(self, oldest: int = 1, newest: int = 1) -> porter.Porter:
        """The next one that it asks for, which says what it can read."""
        peer, _ = self.hands.accept()
        _, fds, _, _ = socket.recv_fds(peer, 1, 1)
        peer.close()
        one = porter.Porter(socket.socket(fileno=fds[0]))
        one.control.settimeout(20)
        one.send(porter.READY, oldest, newest)
        self.workers.append(one)
        return one

    def taken(self, one: porter.Porter) -> porter.Message:
        message = one.receive()
        assert message.kind == porter.TAKE
        self.kept.append(message.fds[0])  # the lifeline
        return message

    def knock(self) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.place / "s"))

    def ended(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid

    def close(self) -> None:
        self.hands.close()
        for worker in self.workers:
            worker.control.close()
        for fd in self.kept:
            os.close(fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Porterage]:
    one = Porterage(tmp_path)
    yield one
    one.close()


def park(one: porter.Porter, fds: list[int], version: int = 1, events: bytes | None = None, until: int = -1) -> None:
    memory = os.memfd_create("state")
    os.write(memory, b"state of %d" % version)
    one.send(porter.PARK, one.heard, version, until, text=b"\1\0" * len(fds) if events is None else events, fds=[memory, *fds])
    for fd in (memory, *fds):
        os.close(fd)
    one.control.close()


def test_a_state_goes_to_who_knows_it(alone: Porterage) -> None:
    """A pod outlives an upgrade, and waits for one where a version that is too old has come back."""
    first = alone.worker()
    message = alone.taken(first)
    assert (message.a, message.b, len(message.fds)) == (alone.pid, 0, 2)
    park(first, message.fds[1:], version=7)
    alone.knock()
    refused = alone.worker(1, 6)
    assert refused.control.recv(100) == b""
    message = alone.taken(alone.worker(6, 8))
    assert message.b == 7 and os.pread(message.fds[1], 100, 0) == b"state of 7"
    listener = socket.socket(fileno=message.fds[2])
    assert listener.getsockname() == str(alone.place / "s")
    listener.close()
    assert not alone.ended()


def test_the_time_that_was_named(alone: Porterage) -> None:
    one = alone.worker()
    message = alone.taken(one)
    began = time.monotonic()
    park(one, message.fds[1:], until=int(began * 1000) + 300)
    alone.taken(alone.worker())
    assert time.monotonic() - began >= 0.299


def test_a_worker_that_dies_before_its_first_word_is_followed_by_another(alone: Porterage) -> None:
    one = alone.worker()
    message = alone.taken(one)
    park(one, message.fds[1:])
    alone.knock()
    for _ in range(2):
        peer, _ = alone.hands.accept()
        peer.close()
    assert alone.taken(alone.worker()).b == 1


def test_a_worker_that_ends_is_the_end(alone: Porterage) -> None:
    one = alone.worker()
    alone.taken(one)
    one.control.close()
    wait_until(alone.ended, "the porter's end")


def test_children(alone: Porterage) -> None:
    one = alone.worker()
    message = alone.taken(one)
    reading, writing = os.pipe()
    pid, pidfd = one.spawn(["/bin/sh", "sh", "-c", "echo here >&3; exit 9"], writing, reading)
    os.close(writing)
    assert os.read(reading, 100) == b"here\n" and os.read(reading, 1) == b""
    assert os.stat(f"/proc/self/fd/{pidfd}")
    while (ended := one.receive()).a != pid:
        assert ended.kind == porter.ENDED
    assert (ended.kind, ended.b) == (porter.ENDED, 9)
    with pytest.raises(FileNotFoundError):
        one.spawn(["/nowhere", "x"], reading, reading)
    dying, others = one.spawn(["/bin/sh", "sh", "-c", "kill -9 $$"], reading, reading)
    wait_until(lambda: not Path(f"/proc/{dying}").exists(), "it is reaped")
    park(one, message.fds[1:])  # and nobody has heard of it
    alone.knock()
    other = alone.worker()
    alone.taken(other)
    while (ended := other.receive()).a != dying:
        assert ended.kind == porter.ENDED
    assert ended.b == 137
    for fd in (reading, pidfd, others):
        os.close(fd)


def test_noise_from_a_worker(alone: Porterage) -> None:
    """What is no message is nothing: no descriptor of it is kept, and the next message is heard."""
    one = alone.worker()
    message = alone.taken(one)
    null = os.open("/dev/null", os.O_RDWR)
    size = len(os.listdir(f"/proc/{alone.pid}/fd"))

    @settings(deadline=None, max_examples=150)
    @given(noise=st.binary(min_size=1, max_size=300), kind=st.integers(0, 9), count=st.integers(0, 12), good=st.booleans())
    def play(noise: bytes, kind: int, count: int, good: bool) -> None:
        # a PARK that is one is no noise
        kind = kind if kind != porter.PARK or len(noise) != 2 * (count - 1) else 0
        head = porter.HEAD.pack(porter.MAGIC, kind, 1, 1, -1) if good else b""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{count}i", *[null] * count))] if count else []
        one.control.sendmsg([head + noise], rights)
        if good and kind == porter.SPAWN:
            while (answer := one.receive()).kind != porter.SPAWNED:
                pass
            assert answer.a < 0

    play()
    park(one, message.fds[1:])
    alone.knock()
    alone.taken(alone.worker())
    wait_until(lambda: len(os.listdir(f"/proc/{alone.pid}/fd")) <= size, "it keeps nothing")
    os.close(null)


@settings(deadline=None, max_examples=100)
@given(noise=st.binary(min_size=1, max_size=200), good=st.booleans())
def test_noise_from_a_porter(noise: bytes, good: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one = porter.Porter(ours)
    theirs.send((struct.pack("<I", porter.MAGIC) if good else b"") + noise)
    try:
        one._hear(one.receive())
    except (ValueError, struct.error):
        pass
    finally:
        ours.close()
        theirs.close()


# ---- what is written down


def test_nothing_is_forgotten() -> None:
    """Who gives a container or a process another attribute says here what becomes of it when its server parks."""
    names = Names("", "", "", False)
    container = Container("a", "/a", "/r", names)
    elsewhere = {"init", "execs", "monitor", "watch", "lock", "checkpoint", "abandoned", "turn", "plans"}
    assert set(vars(container)) == set(parking._CONTAINER) | elsewhere
    elsewhere = {"container", "names", "pidfd", "master", "starting", "streams", "answer", "ended", "drained", "pump"}
    assert set(vars(Process(container, "", 0, names))) == set(parking._PROCESS) | elsewhere
    assert set(vars(Streams())) == {"given", "held", "logger", "strict", "copies", "copied"}
    assert set(Names.__slots__) == {"stdin", "stdout", "stderr", "terminal"}


def test_the_statuses_of_the_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(porter, "_PATIENCE_S", 0.1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, loop = porter.Porter(ours), Loop()
    one.listen(loop)
    for pid, status in ((7, 1), (8, 2)):
        theirs.send(porter.HEAD.pack(porter.MAGIC, porter.ENDED, pid, status, -1))
    loop.step(1)
    assert one.status(7).result() == 1
    later = one.status(9)
    theirs.send(porter.HEAD.pack(porter.MAGIC, porter.ENDED, 9, 137, -1))
    while not later.done:
        loop.step(1)
    assert later.result() == 137
    unknown = one.status(10)
    while not unknown.done:
        loop.step(0.2)
    assert unknown.result() == 255
    loop.close()
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"", parking.REST_S), (b"off", 0.0), (b"0.5", 0.5), (b"much", parking.REST_S), (b"-3", 0.001), (b"0.02", 0.02)]
)
def test_the_switch(text: bytes, seconds: float) -> None:
    assert parking.times_of(text, {}) == (seconds, parking.LONGEST_S if seconds == parking.REST_S else seconds)


def test_a_sleep_that_was_short_is_not_had_again_at_once() -> None:
    before: dict = {}
    found = []
    for slept in (60, 0.2, 0.5, 0.1, 0.1, 0.1, 2):
        before = {"rest": parking.times_of(b"", before)[0], "parked": time.monotonic() - slept}
        found.append(before["rest"])
    assert found == [0.08, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0] and parking.times_of(b"", before) == (0.08, 1.0)
    assert parking.times_of(b"0.02", {"rest": 0.64, "parked": time.monotonic()}) == (0.02, 0.02)


def test_it_stays_awake_where_a_call_is_to_come(make: Callable[..., Pod]) -> None:
    """For a moment: a second is long enough to see it and its end."""
    one = make()
    one.begin(park="")
    one.parked().execute("e", "exit 5")
    container = Container("c", "/b", "/r", Names("", "", "", False))
    assert not parking.at_rest([container])
    for status, rests in (("created", False), ("running", True), ("paused", True), ("stopped", False)):
        container.init.status = status
        assert parking.at_rest([container]) is rests and parking.at_rest([])
    container.init.status = "running"
    container.execs["e"] = Process(container, "e", 1, Names("", "", "", False))
    assert not parking.at_rest([container])
    one.call("Start", exec_id="e")
    assert one.call("Wait", exec_id="e")["exit_status"] == 5
    one.parked().call("Delete", exec_id="e")
    one.parked()
