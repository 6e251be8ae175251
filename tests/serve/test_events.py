# SPDX-License-Identifier: Apache-2.0
"""The event log: replay and what happens, without a gap or a duplicate; cursors, bounds, slow subscribers, a full disk."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs

from .asks import events, refused, types, wait
from .driver import PATIENCE, Server

pytestmark = pytest.mark.requires("root")
Code = grpc.StatusCode


def test_replay_and_then_what_happens(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    server.run(make_bundle().shell("exit 1"))
    wait(server, condition=pb.WaitRequest.STOPPED)
    stream = server.shim.Subscribe(pb.SubscribeRequest(from_oldest=True), timeout=PATIENCE)
    old = [next(stream) for _ in range(4)]
    assert [event.type for event in old] == ["created", "started", "exit", "stopped"]
    assert [event.exit.status for event in old[2:]] == [1, 1] and old[1].pid == old[0].pid
    server.run(make_bundle().shell("exit 2"), "b")
    new = [next(stream) for _ in range(4)]
    assert [(event.id, event.type) for event in new] == [("b", "created"), ("b", "started"), ("b", "exit"), ("b", "stopped")]
    again = list(server.shim.Subscribe(pb.SubscribeRequest(cursor=old[1].cursor, no_follow=True), timeout=PATIENCE))
    assert again == [*old[2:], *new]
    assert [event.type for event in events(server, ids=["b"], types=["exit"])] == ["exit"]
    for each in (old, new):
        times = [event.time.ToNanoseconds() for event in each]
        assert times == sorted(times)


def test_from_now_on(server: Server, bundle: Bundle) -> None:
    """The subscription holds as soon as there is initial metadata, which say where it begins."""
    server.create(bundle.shell("exit 0"))
    stream = server.shim.Subscribe(pb.SubscribeRequest(types=["exit"]), timeout=PATIENCE)
    begins = dict(stream.initial_metadata())["wherry-cursor"]
    server.shim.Start(pb.StartRequest(id="a"))
    assert next(stream).type == "exit"
    assert [event.type for event in events(server, cursor=begins)] == ["started", "exit", "stopped"]


def test_a_server_that_is_killed(server: Server, bundle: Bundle) -> None:
    """The log goes on, with the same cursors; what happened meanwhile is in it once, with its time."""
    server.run(bundle.shell("sleep 0.3; exit 8"))
    cursor = events(server)[-1].cursor
    server.kill()
    time.sleep(1)
    begun = time.time_ns()
    server.start()
    after = events(server, cursor=cursor)
    assert [(event.type, event.exit.status) for event in after] == [("exit", 8), ("stopped", 8)]
    assert after[0].time.ToNanoseconds() < begun
    for _ in range(2):
        server.restart()
    assert types(server) == ["created", "started", "exit", "stopped"]


def test_cursors(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    newest = events(server)[-1].cursor
    epoch, _, number = newest.partition("-")
    for cursor in ("x", "-", f"{epoch}--1", f"{epoch}-1x", f"{epoch}-{'9' * 19}", "\u0663", "x" * 100_000):
        assert refused(server.shim.Subscribe, pb.SubscribeRequest(cursor=cursor)).code == Code.INVALID_ARGUMENT, cursor
    for cursor in ("00000000-1", f"{epoch}-{int(number) + 1}", f"{epoch}-{int(number) + (1 << 40)}"):  # another log's, and two from the future
        error = refused(server.shim.Subscribe, pb.SubscribeRequest(cursor=cursor))
        assert error.code == Code.OUT_OF_RANGE, cursor
    oldest = error.info.metadata["oldest"]
    assert [event.type for event in events(server, cursor=oldest)] == ["created", "started"]
    server.end()
    for path in (server.data / "events").iterdir():
        path.unlink()
    server.start()
    assert refused(server.shim.Subscribe, pb.SubscribeRequest(cursor=newest)).code == Code.OUT_OF_RANGE


def test_who_does_not_read_is_cut_off(server: Server, bundle: Bundle) -> None:
    """And nobody else waits for it. It comes back with its cursor."""
    server.run(bundle)
    server.end()
    path = next((server.data / "events").iterdir())
    last = json.loads(path.read_bytes().splitlines()[-1])
    with open(path, "ab") as file:
        for number in range(1, 6_001):
            event = {**last, "sequence": last["sequence"] + number, "type": "health", "exec_id": "x" * 3000}
            file.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
    server.start(environment={"WHERRY_SERVE_EVENTS": "33554432,1048576,50,1"})
    stream = server.shim.Subscribe(pb.SubscribeRequest(from_oldest=True))
    found = [next(stream)]
    quick = server.shim.Subscribe(pb.SubscribeRequest(), timeout=PATIENCE)
    list(quick.initial_metadata())
    updates = 0
    while "RESOURCE_EXHAUSTED" not in (server.data / "audit").read_text():
        server.shim.Update(pb.UpdateRequest(id="a", labels={"number": str(updates)}))
        assert next(quick).type == "updated"
        updates += 1
        time.sleep(0.3)
    with pytest.raises(grpc.RpcError) as raised:
        for event in stream:
            found.append(event)
    assert raised.value.code() == Code.RESOURCE_EXHAUSTED
    rest = events(server, cursor=found[-1].cursor)
    assert len(found) < 6_000 and len(found) + len(rest) == 6_002 + updates
    assert sum(event.type == "updated" for event in rest) == updates


@pytest.fixture
def small_disk(make_server: Callable[..., Server]) -> Iterator[Server]:
    server = make_server()
    server.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "wherry-test", server.data], check=True)
    yield server.start()
    server.clean_up()
    server._channel, server._channels = None, []
    subprocess.run(["umount", server.data], check=True)


def fill(path: Path) -> None:
    with open(path, "ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_full_disk(small_disk: Server, make_bundle: Callable[[], Bundle]) -> None:
    """What happens goes on and is told once there is room; nothing new begins meanwhile."""
    server = small_disk
    server.run(make_bundle().shell("sleep 0.5; exit 3"))
    server.run(make_bundle(), "b")
    stream = server.shim.Subscribe(pb.SubscribeRequest(ids=["a"], from_oldest=True), timeout=PATIENCE)
    assert [next(stream).type for _ in range(2)] == ["created", "started"]
    fill(server.data / "full")
    assert wait(server).exit.status == 3
    bundle = make_bundle().save()
    error = refused(server.shim.Create, pb.CreateRequest(id="c", bundle=str(bundle.path)))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "WHERRY-SHIM-DISK") and str(server.data) in error.remedy
    server.shim.Kill(pb.KillRequest(id="b"))
    assert wait(server, "b").exit.signal == 9
    os.truncate(server.data / "full", 0)
    assert [next(stream).type for _ in range(2)] == ["exit", "stopped"]
    assert types(server, "b") == ["created", "started", "exit", "stopped"]
    server.run(make_bundle().shell("exit 0"), "c")
    fill(server.data / "full")
    server.kill()
    os.truncate(server.data / "full", 0)
    server.start()
    for id in ("a", "b"):
        assert types(server, id) == ["created", "started", "exit", "stopped"]


def test_ends_of_many_without_a_server(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """In the order of their times."""
    for number in range(5):
        server.run(make_bundle().shell(f"sleep {0.9 - 0.15 * number}; exit {number}"), f"c{number}")
    server.kill()
    time.sleep(1.2)
    server.start()
    ends = [event for event in events(server) if event.type == "exit"]
    assert sorted(event.exit.status for event in ends) == [0, 1, 2, 3, 4]
    times = [event.time.ToNanoseconds() for event in ends]
    assert times == sorted(times)


CONTAINERS = int(os.environ.get("WHERRY_SERVE_CONTAINERS", "6"))
"""200: what the interface promises."""


def test_many_subscribers(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """50 clients, each with a connection of its own: all see all of it, in the same order, over a kill of the server."""
    bundle = make_bundle().shell("exit 0")
    found: list[list[str]] = [[] for _ in range(50)]
    cursors, last = [""] * 50, f"c{CONTAINERS - 1} deleted"

    def follow(number: int) -> None:
        shim = stubs.ShimStub(server.connect())
        while last not in found[number]:
            request = pb.SubscribeRequest(cursor=cursors[number], from_oldest=not cursors[number])
            try:
                for event in shim.Subscribe(request, timeout=10 * PATIENCE, wait_for_ready=True):
                    found[number].append(f"{event.id} {event.type}")
                    cursors[number] = event.cursor
                    if found[number][-1] == last:
                        break
            except grpc.RpcError as error:
                assert error.code() == Code.UNAVAILABLE

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for number in range(CONTAINERS):
        server.run(bundle, f"c{number}")
        wait(server, f"c{number}", pb.WaitRequest.STOPPED)
        if number % 100 == 3:
            server.restart()
        server.shim.Delete(pb.DeleteRequest(id=f"c{number}"), wait_for_ready=True)
    for thread in threads:
        thread.join(PATIENCE)
    whole = [f"c{number} {type}" for number in range(CONTAINERS) for type in ("created", "started", "exit", "stopped", "deleted")]
    assert found == [whole] * 50
