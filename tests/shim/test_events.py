# SPDX-License-Identifier: Apache-2.0
"""Events reach containerd in their order: when it is slow, unwilling, not there, or comes back as another process."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry_shim import events, wire
from wherry_shim.loop import Loop

from .fakes import FakeContainerd


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "c.sock")


@pytest.fixture
def publisher(loop: Loop, path: str) -> Iterator[events.Publisher]:
    one = events.Publisher(loop, path, "default")
    yield one
    one.close()


@pytest.fixture
def containerd(path: str) -> Iterator[Callable[..., FakeContainerd]]:
    started = []

    def start(**more: object) -> FakeContainerd:
        started.append(FakeContainerd(path, **more))
        return started[-1]

    yield start
    for one in started:
        if one.thread.is_alive():
            one.stop()


def until(loop: Loop, condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        loop.step(0.05)


def put(publisher: events.Publisher, *topics: str) -> None:
    for topic in topics:
        publisher.put(topic, {"container_id": "c", "pid": 1})


def test_an_event_as_containerd_wants_it(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    there = containerd()
    publisher.put("/tasks/exit", {"container_id": "c", "id": "e", "pid": 7, "exit_status": 137, "exited_at": {"seconds": 5, "nanos": 6}})
    until(loop, lambda: bool(there.envelopes))
    envelope = there.envelopes[0]
    assert (envelope["namespace"], envelope["topic"], envelope["event"]["type_url"]) == ("default", "/tasks/exit", "containerd.events.TaskExit")
    assert abs(envelope["timestamp"]["seconds"] - time.time()) < 60
    event = wire.decode("events.TaskExit", envelope["event"]["value"])
    assert event == {"container_id": "c", "id": "e", "pid": 7, "exit_status": 137, "exited_at": {"seconds": 5, "nanos": 6}}


def test_the_golden_forward_request() -> None:
    exit = bytes.fromhex("0a0374743412037474341889ae012089012a0b08f1cf88d80610bfbe841c")
    event = {"type_url": "containerd.events.TaskExit", "value": exit}
    stamp = {"seconds": 1795303409, "nanos": 441744165}
    golden = "0a630a610a0b08f1cf88d80610a5fed120120764656661756c741a0b2f7461736b732f65786974223c0a1a636f6e7461696e6572642e6576656e74732e5461736b45786974121e" + exit.hex()
    nanos = wire.decode("forward.ForwardRequest", bytes.fromhex(golden[4:]))["envelope"]["timestamp"]["nanos"]
    envelope = {"timestamp": stamp | {"nanos": nanos}, "namespace": "default", "topic": "/tasks/exit", "event": event}
    assert wire.encode("forward.ForwardRequest", {"envelope": envelope}).hex() == golden[4:]


def test_order(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    there = containerd()
    topics = ["/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/delete"] * 20
    put(publisher, *topics)
    until(loop, lambda: not len(publisher))
    assert there.topics == topics


def test_containerd_comes_later(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    put(publisher, "/tasks/create", "/tasks/start")
    for _ in range(10):
        loop.step(0.02)
    there = containerd()
    publisher.hurry()
    until(loop, lambda: not len(publisher))
    assert there.topics == ["/tasks/create", "/tasks/start"]


def test_containerd_restarts(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    first = containerd()
    put(publisher, "/tasks/create")
    until(loop, lambda: not len(publisher))
    first.stop()
    put(publisher, "/tasks/start", "/tasks/exit")
    for _ in range(10):
        loop.step(0.02)
    second = containerd()
    until(loop, lambda: not len(publisher))
    assert (first.topics, second.topics) == (["/tasks/create"], ["/tasks/start", "/tasks/exit"])


def test_a_connection_that_broke_meanwhile_costs_no_pause(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    first = containerd()
    put(publisher, "/tasks/create")
    until(loop, lambda: not len(publisher))
    first.stop()
    second = containerd()
    put(publisher, "/tasks/exit")
    publisher._wait = None  # a pause would fail
    until(loop, lambda: not len(publisher))
    assert second.topics == ["/tasks/exit"]


def test_an_answer_that_may_pass_is_tried_again_and_one_that_stays_is_dropped(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    there = containerd(refuse=2)
    put(publisher, "/tasks/create", "/tasks/start")
    until(loop, lambda: not len(publisher))
    assert there.topics == ["/tasks/create", "/tasks/start"]
    there.refuse = events.TRIES
    put(publisher, "/tasks/paused", "/tasks/exit")
    until(loop, lambda: not len(publisher))
    assert there.topics[2:] == ["/tasks/exit"]


def test_containerd_that_hangs_gets_it_again(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PATIENCE", 0.2)
    there = containerd(silent=True)
    put(publisher, "/tasks/exit")
    for _ in range(20):
        loop.step(0.02)
    assert len(publisher) == 1
    there.silent = False
    until(loop, lambda: not len(publisher))
    assert set(there.topics) == {"/tasks/exit"}


def test_a_full_queue_keeps_what_cannot_be_asked_for_again(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BOUND", 10)
    put(publisher, *["/tasks/exit", "/tasks/start"] * 10, "/tasks/oom")
    there = containerd()
    until(loop, lambda: not len(publisher))
    assert there.topics.count("/tasks/exit") == 10
    assert there.topics[-1] == "/tasks/oom"
    assert publisher.dropped == 21 - len(there.topics) > 0


def test_drained(loop: Loop, publisher: events.Publisher, containerd: Callable[..., FakeContainerd]) -> None:
    assert publisher.drained(5).done
    put(publisher, "/tasks/exit")
    later = publisher.drained(0.2)
    assert not later.done
    until(loop, lambda: later.done)
    assert len(publisher) == 1  # nobody was there: the time was up
    there = containerd()
    later = publisher.drained(20)
    until(loop, lambda: later.done)
    assert there.topics == ["/tasks/exit"]


def test_no_address(loop: Loop) -> None:
    publisher = events.Publisher(loop, "", "default")
    put(publisher, "/tasks/exit")
    assert not len(publisher) and publisher.drained(5).done


def test_a_socket_with_nobody_behind_it(loop: Loop, publisher: events.Publisher, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    put(publisher, "/tasks/exit")
    for _ in range(10):
        loop.step(0.02)
    assert len(publisher) == 1


def test_a_command_for_engines_without_such_a_socket(loop: Loop, tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "engine"
    script.write_text(f'#!/bin/sh\necho "$@" >>{log}\nwc -c >>{log}\n')
    script.chmod(0o755)
    command = events.Command(loop, str(script), "/a.sock", "k8s.io")
    put(command, "/tasks/start", "/tasks/exit")
    later = command.drained(20)
    until(loop, lambda: later.done)
    lines = log.read_text().splitlines()
    assert lines[::2] == [f"--address /a.sock publish --namespace k8s.io --topic /tasks/{topic}" for topic in ("start", "exit")]
    assert all(int(size) > 20 for size in lines[1::2])


def test_a_command_that_is_not_there(loop: Loop) -> None:
    before = len(os.listdir("/proc/self/fd"))
    command = events.Command(loop, "/nonexistent", "/a.sock", "k8s.io")
    put(command, "/tasks/start")
    later = command.drained(20)
    until(loop, lambda: later.done)
    assert len(os.listdir("/proc/self/fd")) == before
