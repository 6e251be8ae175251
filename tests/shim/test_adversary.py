# SPDX-License-Identifier: Apache-2.0
"""What nobody should send, to a server that runs: each costs its sender a code or a connection. A container beside it is answered as ever, and when it is
over the server has the descriptors that it had before.

WHERRY_LIVES=200 in the environment: clients that vanish at more moments.
"""

import contextlib
import json
import os
import random
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import make_rootfs
from harness.census import cgroups_with
from wherry.oci import default
from wherry_shim import containerd, ttrpc, wire
from wherry_shim.errors import (
    ALREADY_EXISTS,
    DEADLINE_EXCEEDED,
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    UNKNOWN,
    ShimError,
)

from .daemon import wait_until
from .fakes import FakeContainerd
from .shims import Shim, alive, call, wait_for_end

pytestmark = pytest.mark.requires("root")
TASK = "containerd.task.v2.Task"
PROCESS = {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}
VANISH = max(3, int(os.environ.get("WHERRY_LIVES", "0")) // 10)


class Victim:
    """A server with a neighbour in it. Others are made beside that one."""

    def __init__(self, place: Path) -> None:
        self.place, self.images = place, place / "images"
        self.images.mkdir()
        make_rootfs(self.images, None)
        # its events' address is not there, and nobody reads its log
        self.shim = Shim(place, f"adversary{os.getpid()}", str(place / "containerd.sock"), str(place / "nobody"))
        os.mkfifo(self.shim.bundle / "log")
        self.shim.start()
        self.client = self.shim.client()
        self.pid = call(self.client, "Connect", id="-")["shim_pid"]
        self.make(self.shim.id)
        call(self.client, "Start", id=self.shim.id)
        spec = {"type_url": "Process", "value": json.dumps({**PROCESS, "args": ["/bin/true"]}).encode()}
        for method, more in (("Exec", {"spec": spec}), ("Start", {}), ("Wait", {}), ("Delete", {})):  # what a first one opens for good is open
            call(self.client, method, id=self.shim.id, exec_id="first", **more)

    def request(self, id: str, script: str = "exec sleep 1000") -> dict:
        """Of a Create."""
        bundle = self.place / id
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        config = default.spec()
        config["process"] = {**PROCESS, "terminal": False, "args": ["/bin/sh", "-c", script]}
        config["linux"]["cgroupsPath"] = f"/{id}"
        (bundle / "config.json").write_text(json.dumps(config))
        return {"id": id, "bundle": str(bundle), "rootfs": [{"type": "bind", "source": str(self.images), "options": ["rbind", "ro"]}]}

    def make(self, id: str, script: str = "exec sleep 1000") -> None:
        call(self.client, "Create", **self.request(id, script))

    def remove(self, id: str) -> None:
        for method, more in (("Kill", {"signal": 9}), ("Wait", {}), ("Delete", {})):
            with contextlib.suppress(ShimError):
                call(self.client, method, id=id, **more)

    def descriptors(self) -> int:
        """But for plans of execs, of which it keeps four for a container."""
        found = 0
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found += "memfd:wherry-plan" not in os.readlink(f"/proc/{self.pid}/fd/{name}")
        return found

    def raw(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(self.shim.socket.removeprefix("unix://"))
        peer.settimeout(10)
        return peer

    def answers(self) -> None:
        """The neighbour's."""
        begun = time.monotonic()
        assert call(self.client, "State", id=self.shim.id)["status"] == 2
        assert time.monotonic() - begun < 2  # containerd's patience


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    one = Victim(tmp_path_factory.mktemp("v"))
    yield one
    one.remove(one.shim.id)
    late = FakeContainerd(one.shim.ttrpc_address)
    one.client.close()
    one.shim.call("Shutdown")  # by a new client, as a containerd that has come back
    wait_for_end(one.pid)
    late.stop()
    assert (late.topics[:2], late.topics[-1]) == (["/tasks/create", "/tasks/start"], "/tasks/delete")
    assert not cgroups_with(f"adversary{os.getpid()}")


@pytest.fixture
def victim(running: Victim) -> Iterator[Victim]:
    before = running.descriptors()
    yield running
    assert alive(running.pid)
    running.answers()
    wait_until(lambda: running.descriptors() <= before, f"no more than {before} descriptors")


def reply(peer: socket.socket) -> tuple[int, int]:
    """Stream and code of the next response."""
    data = b""
    while len(data) < 10:
        data += peer.recv(10 - len(data)) or pytest.fail("closed")
    length, stream, kind, _ = struct.unpack(">IIBB", data)
    assert kind == ttrpc.RESPONSE
    body = b""
    while len(body) < length:
        body += peer.recv(length - len(body)) or pytest.fail("closed")
    status = wire.decode("ttrpc.Response", body)["status"]
    return stream, status["code"] if status else 0


def refused(victim: Victim, service: str, method: str, payload: bytes, timeout: float | None = None) -> int:
    with victim.shim.client() as client, pytest.raises(ShimError) as error:
        client.receive(client.send(service, method, payload, timeout), 10)
    return error.value.code


def frame(method: str, stream: int = 1, **request: object) -> bytes:
    return ttrpc.frame(stream, ttrpc.REQUEST, ttrpc.request(TASK, method, wire.encode(containerd.METHODS[method][0], request)))


BAD_FRAMES = {
    "an even stream": (ttrpc.frame(2, ttrpc.REQUEST, b""), 2, INVALID_ARGUMENT),
    "a request that is none": (ttrpc.frame(1, ttrpc.REQUEST, b"\xff" * 50), 1, INVALID_ARGUMENT),
    "a length that lies in a request": (ttrpc.frame(1, ttrpc.REQUEST, b"\x0a\xff\xff\xff\x7fabc"), 1, INVALID_ARGUMENT),
    "data for nobody": (ttrpc.frame(7, ttrpc.DATA, b"x"), 7, INVALID_ARGUMENT),
    "an empty request": (ttrpc.frame(1, ttrpc.REQUEST, b""), 1, UNIMPLEMENTED),
    "five megabytes": (ttrpc.HEADER.pack(5 << 20, 1, ttrpc.REQUEST, 0) + bytes(5 << 20), 1, RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_frames(victim: Victim, name: str) -> None:
    data, stream, code = BAD_FRAMES[name]
    with victim.raw() as peer:
        peer.sendall(data)
        assert reply(peer) == (stream, code)
        peer.sendall(frame("State", 9, id=victim.shim.id))  # its connection is as good as before
        assert reply(peer) == (9, 0)


def test_frames_of_no_type_are_dropped(victim: Victim) -> None:
    with victim.raw() as peer:
        peer.sendall(b"".join(ttrpc.frame(1, kind, b"abc") for kind in (0, 2, 4, 255)) + frame("State", 1, id=victim.shim.id))
        assert reply(peer) == (1, 0)


def test_frames_that_are_cut_off_and_silence(victim: Victim) -> None:
    """After each byte of one, and with all that a length can promise."""
    whole = frame("State", id=victim.shim.id)
    peers = []
    for size in (*range(1, len(whole), 3), 0):
        peers.append(victim.raw())
        peers[-1].sendall(whole[:size] if size else b"\xff\xff\xff\xff" + whole[4:])
    victim.answers()
    victim.make("beside", "exit 4")
    call(victim.client, "Start", id="beside")
    assert call(victim.client, "Wait", id="beside")["exit_status"] == 4
    victim.remove("beside")
    for peer in peers:
        peer.close()


def test_noise(victim: Victim) -> None:
    source = random.Random(8)
    for _ in range(100):
        with victim.raw() as peer, contextlib.suppress(OSError):
            peer.sendall(source.randbytes(source.randrange(1, 3000)))
    whole = frame("Exec", id=victim.shim.id, exec_id="noise", spec={"type_url": "Process", "value": b"{}"})
    for _ in range(200):  # or nearly right
        data = bytearray(whole)
        data[source.randrange(10, len(data))] = source.randrange(256)
        with victim.raw() as peer:
            peer.sendall(data)
            reply(peer)
    with contextlib.suppress(ShimError):
        call(victim.client, "Delete", id=victim.shim.id, exec_id="noise")


def test_ten_thousand_that_say_nothing(victim: Victim) -> None:
    """Those that have said nothing longest are hung up on: descriptors are left for who has work to be done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers: list[socket.socket] = []
    try:
        for count in range(number):
            peers.append(victim.raw())
            if count % 1000 == 999:
                victim.answers()
        assert victim.descriptors() < 2000
        victim.make("beside", "exit 4")
        call(victim.client, "Start", id="beside")
        assert call(victim.client, "Wait", id="beside")["exit_status"] == 4
        victim.remove("beside")
        with victim.shim.client() as client:
            assert call(client, "State", id=victim.shim.id)["status"] == 2
    finally:
        for peer in peers:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_does_not_exist(victim: Victim) -> None:
    state = wire.encode("task.StateRequest", {"id": victim.shim.id})
    assert refused(victim, "containerd.task.v9.Task", "State", state) == UNIMPLEMENTED
    for method in ("Fly", "", "__init__", "_guarded", "drained", "state"):
        assert refused(victim, TASK, method, state) == UNIMPLEMENTED
    assert refused(victim, TASK, "State", b"\xff\xff") == INTERNAL
    with victim.shim.client() as client:  # fields that nobody knows: a number, eight bytes, a text, four bytes
        answer = client.call(TASK, "State", state + b"\xa0\x06\x01" + b"\xa1\x06" + bytes(8) + b"\xa2\x06\x03abc" + b"\xa5\x06" + bytes(4), 10)
    assert wire.decode("task.StateResponse", answer)["status"] == 2


WRONG = [
    *((method, {"id": "nobody"}, NOT_FOUND) for method in containerd.METHODS if method not in ("Create", "Connect", "Shutdown")),
    *((method, {"exec_id": "nobody"}, NOT_FOUND) for method in ("State", "Start", "Wait", "Kill", "Delete", "ResizePty", "CloseIO")),
    ("Create", {"bundle": "/"}, ALREADY_EXISTS),
    ("Create", {"id": "../../etc", "bundle": "/"}, INVALID_ARGUMENT),
    ("Create", {"id": "x" * 5000, "bundle": "/"}, INVALID_ARGUMENT),
    ("Create", {"id": "other", "bundle": "here"}, INVALID_ARGUMENT),
    ("Create", {"id": "other", "bundle": "/nonexistent"}, UNKNOWN),
    ("Create", {"id": "other", "bundle": "/", "options": {"type_url": "some.Thing", "value": b"x"}}, INVALID_ARGUMENT),
    ("Create", {"id": "other", "bundle": "/", "options": {"type_url": "containerd.runc.v1.Options", "value": b"\xff"}}, INVALID_ARGUMENT),
    ("Start", {}, UNKNOWN),
    ("Resume", {}, UNKNOWN),
    ("Delete", {}, UNKNOWN),
    ("Kill", {"signal": 99}, UNKNOWN),
    ("Exec", {}, INVALID_ARGUMENT),
    ("Exec", {"exec_id": "a/b"}, INVALID_ARGUMENT),
    ("Exec", {"exec_id": "twice"}, ALREADY_EXISTS),
    ("Kill", {"exec_id": "twice", "signal": 9}, FAILED_PRECONDITION),
    ("Start", {"exec_id": "twice"}, UNKNOWN),  # it is {"args": 7}
    ("Update", {"resources": {"type_url": "x", "value": b"no JSON"}}, UNKNOWN),
    ("Update", {"resources": {"type_url": "x", "value": b'{"memory": 7}'}}, UNKNOWN),
    ("Checkpoint", {"path": "relative"}, INVALID_ARGUMENT),
]


def test_wrong_calls(victim: Victim) -> None:
    call(victim.client, "Exec", id=victim.shim.id, exec_id="twice", spec={"type_url": "Process", "value": b'{"args": 7}'})
    found, expected = [], []
    for method, request, code in WRONG:
        given = {"id": victim.shim.id, **request}
        found.append((method, request, refused(victim, TASK, method, wire.encode(containerd.METHODS[method][0], given))))
        expected.append((method, request, code))
    call(victim.client, "Delete", id=victim.shim.id, exec_id="twice")
    assert found == expected


def test_a_call_whose_time_is_up(victim: Victim) -> None:
    assert refused(victim, TASK, "Wait", wire.encode("task.WaitRequest", {"id": victim.shim.id}), 0.05) == DEADLINE_EXCEEDED


def test_many_waits_and_no_reader(victim: Victim) -> None:
    """Of one client; its neighbour is answered meanwhile, and when it goes they go with it."""
    with victim.raw() as peer:
        peer.sendall(b"".join(frame("Wait", 2 * number + 1, id=victim.shim.id) for number in range(4096)))
        peer.sendall(frame("Wait", 9001, id=victim.shim.id))
        assert reply(peer) == (9001, RESOURCE_EXHAUSTED)
        for number in range(5000, 10000):
            peer.sendall(frame("Connect", 2 * number + 1, id=victim.shim.id))
            if number % 1000 == 0:
                victim.answers()


# ---- clients that vanish


def vanish(victim: Victim, method: str, **request: object) -> None:
    """In the middle of its call, or as soon as it is sent, or a little later."""
    with victim.raw() as peer:
        peer.sendall(frame(method, **request))
        time.sleep(random.random() * 0.02)


def test_clients_that_vanish_in_each_call(victim: Victim) -> None:
    """What they have asked for is done all the same, and the next client finds it so."""
    spec = {"type_url": "Process", "value": json.dumps({**PROCESS, "args": ["/bin/sh", "-c", "exit 5"]}).encode()}
    for number in range(VANISH):
        id = f"v{number}"
        with contextlib.ExitStack() as stack:
            stack.callback(victim.remove, id)
            life(victim, id, spec)


def life(victim: Victim, id: str, spec: dict) -> None:
    def status(exec_id: str = "") -> int:
        try:
            return call(victim.client, "State", id=id, exec_id=exec_id)["status"]
        except ShimError as error:
            assert error.code == NOT_FOUND
            return -1

    script: list[tuple[str, dict, Callable[[], bool]]] = [
        ("Create", victim.request(id, "trap 'exit 6' TERM; while :; do sleep 0.02; done"), lambda: status() == 1 and call(victim.client, "Connect", id=id)["task_pid"] > 0),
        ("Start", {}, lambda: status() == 2),
        ("Exec", {"exec_id": "e", "spec": spec}, lambda: status("e") == 1),
        ("Start", {"exec_id": "e"}, lambda: status("e") == 3),
        ("Wait", {"exec_id": "e"}, lambda: call(victim.client, "Wait", id=id, exec_id="e")["exit_status"] == 5),
        ("Delete", {"exec_id": "e"}, lambda: status("e") == -1),
        ("Pause", {}, lambda: status() == 4),
        ("Resume", {}, lambda: status() == 2),
        ("Stats", {}, lambda: True),
        ("Update", {"resources": {"type_url": "x", "value": b'{"pids": {"limit": 50}}'}}, lambda: True),
        ("CloseIO", {"stdin": True}, lambda: True),
        ("Pids", {}, lambda: True),
        ("Shutdown", {}, lambda: status() == 2),
        ("Kill", {"signal": 15}, lambda: status() == 3),
        ("Wait", {}, lambda: call(victim.client, "Wait", id=id)["exit_status"] in (6, 143)),
        ("Delete", {}, lambda: status() == -1),
    ]
    for method, request, done in script:
        vanish(victim, method, **{"id": id, **request})
        wait_until(done, f"what {method} {request.get('exec_id', '')} asked for")
        victim.answers()
