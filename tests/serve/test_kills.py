# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the server at random moments of many lives, and of monitors: no end, event or byte of output is lost, and nothing is left.

WHERRY_SWEEP=200 WHERRY_SWEEP_SEED=7: so many lives, and which moments.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.bundle import Bundle
from harness.census import reap_zombies
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import events, get, types, wait
from .driver import PATIENCE, Server

pytestmark = [pytest.mark.requires("root"), pytest.mark.timeout(1800)]
Code = grpc.StatusCode
LIVES = int(os.environ.get("WHERRY_SWEEP", "12"))
SEED = int(os.environ.get("WHERRY_SWEEP_SEED", "1"))
AT_ONCE = 4
LINES = 300
SCRIPT = "i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; [ $((i %% 60)) = 0 ] && usleep 40000; done; exit %d"
UNTIL_GO = "while [ ! -e /tmp/go ]; do sleep 0.02; done"


@dataclass
class Life:
    """One container, followed by a client that comes back as often as it takes."""

    server: Server
    id: str
    bundle: Bundle
    status: int
    random: random.Random
    errors: list[str] = field(default_factory=list)
    output: bytes = b""
    exec_output: bytes = b""
    exec_status: int = -1

    def ask(self, method: str, request: Any, known: tuple[Code, ...] = ()) -> Any:
        """`known`: what is answered to a second attempt, when the first one's answer was lost."""
        deadline, again = time.monotonic() + 60, False
        while True:
            try:
                return getattr(self.server.shim, method)(request, timeout=PATIENCE, wait_for_ready=True)
            except grpc.RpcError as error:
                if again and error.code() in known:
                    return None
                if error.code() != Code.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                again = True
                time.sleep(0.02)

    def live(self) -> None:
        try:
            self._live()
        except Exception as error:
            self.errors.append(f"{self.id}: {type(error).__name__}: {error}")

    def _live(self) -> None:
        self.ask("Create", pb.CreateRequest(id=self.id, bundle=str(self.bundle.path)), (Code.ALREADY_EXISTS,))
        self.ask("Start", pb.StartRequest(id=self.id, run=1))
        reader = threading.Thread(target=self._guarded, args=(self._read,))
        executor = threading.Thread(target=self._guarded, args=(self._execute,))
        for thread in (reader, executor):
            thread.start()
        exit = self.ask("Wait", pb.WaitRequest(id=self.id, condition=pb.WaitRequest.STOPPED)).exit
        if (exit.status, exit.reason) != (self.status, "exited"):
            self.errors.append(f"{self.id}: ended with {exit.status} ({exit.reason}), not {self.status}")
        for thread in (reader, executor):
            thread.join(PATIENCE * 2)
        if self.output != "".join(f"{line}\n" for line in range(1, LINES + 1)).encode():
            self.errors.append(f"{self.id}: output is {len(self.output)} bytes, ends with {self.output[-20:]!r}")
        self.ask("Delete", pb.DeleteRequest(id=self.id), (Code.NOT_FOUND,))

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            self.errors.append(f"{self.id}: {function.__name__}: {type(error).__name__}: {error}")

    def _read(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            request = pb.LogsRequest(id=self.id, follow=True, stdout_offset=len(self.output), no_stderr=True)
            try:
                for part in self.server.shim.Logs(request, timeout=PATIENCE, wait_for_ready=True):
                    assert part.offset == len(self.output), f"offset {part.offset}, not {len(self.output)}"
                    self.output += part.data
                return
            except grpc.RpcError as error:
                if error.code() != Code.UNAVAILABLE:
                    raise
                time.sleep(0.02)

    def _execute(self) -> None:
        """Where the container is still there for it."""
        start = pb.ExecRequest.Start(id=self.id, exec_id="e", args=["sh", "-c", SCRIPT % (100, self.status + 1)])
        request, deadline = pb.ExecRequest(start=start), time.monotonic() + 60
        while time.monotonic() < deadline:
            close = threading.Event()
            try:
                if self._converse(request, close):
                    return
            except grpc.RpcError as error:
                if error.code() == Code.FAILED_PRECONDITION or "already finished" in str(error.details()) or "not running" in str(error.details()):
                    return  # too late for it
                if error.code() == Code.NOT_FOUND:  # it was not begun
                    if request.HasField("start"):
                        return
                    request = pb.ExecRequest(start=start)
                elif error.code() in (Code.UNAVAILABLE, Code.ALREADY_EXISTS):
                    request = pb.ExecRequest(resume=pb.ExecRequest.Resume(id=self.id, exec_id="e", stdout_offset=len(self.exec_output)))
                else:
                    raise
                time.sleep(0.02)
            finally:
                close.set()

    def _converse(self, request: Any, close: threading.Event) -> bool:
        def requests() -> Any:
            yield request
            close.wait(PATIENCE)

        call = self.server.shim.Exec(requests(), timeout=PATIENCE, wait_for_ready=True)
        for message in call:
            if message.WhichOneof("message") == "output" and message.output.channel == pb.STDOUT:
                assert message.output.offset == len(self.exec_output), f"exec: offset {message.output.offset}, not {len(self.exec_output)}"
                self.exec_output += message.output.data
            elif message.WhichOneof("message") == "exit":
                self.exec_status = message.exit.status
                close.set()
        return self.exec_status >= 0

    def check_events(self, found: list[str]) -> None:
        own = [type for type in found if not type.startswith("exec-")]
        if own != ["created", "started", "exit", "stopped", "deleted"]:
            self.errors.append(f"{self.id}: events {found}")
        execs = [type for type in found if type.startswith("exec-")]
        if execs not in ([], ["exec-added", "exec-started", "exec-exit"]) or (self.exec_status >= 0 and not execs):
            self.errors.append(f"{self.id}: events {found}")
        if execs and found.index("exec-exit") > found.index("exit"):
            self.errors.append(f"{self.id}: the end of its exec is told after its own")
        whole = "".join(f"{line}\n" for line in range(1, 101)).encode()
        if self.exec_status == self.status + 1 and self.exec_output != whole:
            self.errors.append(f"{self.id}: its exec's output is {self.exec_output!r}")
        if self.exec_status not in (-1, self.status + 1, 137):
            self.errors.append(f"{self.id}: its exec ended with {self.exec_status}")


def test_the_server_is_killed_again_and_again(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    chance = random.Random(SEED)
    bundles = [make_bundle() for _ in range(AT_ONCE)]
    lives: list[Life] = []
    kills = 0
    for first in range(0, LIVES, AT_ONCE):
        batch = []
        for number in range(first, min(first + AT_ONCE, LIVES)):
            status = chance.randrange(1, 100)
            bundle = bundles[number - first].shell(SCRIPT % (LINES, status))
            bundle.save()
            batch.append(Life(server, f"life{number}", bundle, status, chance))
        threads = [threading.Thread(target=life.live) for life in batch]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(chance.uniform(0.05, 0.9))
            server.restart()
            kills += 1
        lives += batch
        errors = [error for life in batch for error in life.errors]
        assert not errors, (errors, server.log[-2000:])
    kinds: dict[str, list[str]] = {}
    for event in events(server):
        kinds.setdefault(event.id, []).append(event.type)
    for life in lives:
        life.check_events(kinds.get(life.id, []))
    errors = [error for life in lives for error in life.errors]
    assert not errors, errors
    assert kills >= LIVES // AT_ONCE and not list((server.data / "containers").iterdir())
    done = sum(life.exec_status == life.status + 1 for life in lives)
    print(f"{len(lives)} lives, {kills} kills, {done} execs to their end, seed {SEED}")


def monitor_of(server: Server, id: str) -> int:
    """By its words, among what belongs to this server's root."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"wherry-monitor" and words[3:5] == [b"-id", id.encode()] and str(server.root) in os.readlink(entry / "fd/7"):
                return int(entry.name)
        except (OSError, IndexError):
            continue
    raise AssertionError(f"no monitor of {id}")


def test_a_monitor_is_killed(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """What runs becomes the server's: its end is known."""
    bundle = make_bundle().shell(f"{UNTIL_GO}; echo last; exit 7")
    server.run(bundle)
    os.kill(monitor_of(server, "a"), signal.SIGKILL)
    (bundle.rootfs / "tmp/go").touch()
    exit = wait(server, condition=pb.WaitRequest.STOPPED).exit
    assert (exit.status, exit.reason) == (7, "exited")
    assert server.output() == "last\n" and types(server) == ["created", "started", "exit", "stopped"]


def test_both_are_killed(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """Nobody was there to see the end: lost. One that runs on is seen to its end, which nobody can tell the code of."""
    bundles = [make_bundle().shell(f"{UNTIL_GO}; exit 7"), make_bundle()]
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ON_FAILURE, limit=1)
    first = server.run(bundles[0], restart=policy).pid
    pid = server.run(bundles[1], "b").pid
    monitors = [monitor_of(server, id) for id in "ab"]
    server.kill()
    for monitor in monitors:
        os.kill(monitor, signal.SIGKILL)
    (bundles[0].rootfs / "tmp/go").touch()
    server.until(lambda: reap_zombies() or not os.path.exists(f"/proc/{first}"))
    server.start()
    assert (get(server, "b").status, get(server, "b").pid) == (pb.RUNNING, pid)
    exit = wait(server, "a", run=1).exit
    assert (exit.status, exit.reason) == (255, "lost")
    assert wait(server, condition=pb.WaitRequest.STOPPED).exit.run == 2, "its policy decides"
    server.shim.Kill(pb.KillRequest(id="b"))
    reaper = threading.Timer(0.5, reap_zombies)  # its parent is the test's process
    reaper.start()
    exit = wait(server, "b").exit
    assert (exit.status, exit.reason) == (255, "lost")


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
def test_a_create_that_is_cut_short(server: Server, bundle: Bundle, delay: float) -> None:
    """Finished, or undone: then it can be made again at once."""
    bundle.save()
    future = server.shim.Create.future(pb.CreateRequest(id="a", bundle=str(bundle.path)), timeout=PATIENCE)
    time.sleep(delay)
    server.restart()
    try:
        future.result()
    except grpc.RpcError as error:
        assert error.code() == Code.UNAVAILABLE
    found = [one.status for one in server.shim.List(pb.ListRequest(), wait_for_ready=True).containers]
    if not found:
        assert types(server) == []
        assert server.run(bundle).status == pb.RUNNING
    else:
        assert found == [pb.CREATED] and types(server) == ["created"]
        server.shim.Start(pb.StartRequest(id="a"))


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_a_delete_and_a_stop_that_are_cut_short(server: Server, make_bundle: Callable[[], Bundle], delay: float) -> None:
    """Are finished by the next server."""
    for id in "ab":
        server.run(make_bundle(), id)
    delete = server.shim.Delete.future(pb.DeleteRequest(id="a", force=True), timeout=PATIENCE)
    request = pb.StopRequest(id="b")
    request.grace.FromMilliseconds(300)
    server.shim.Stop.future(request, timeout=PATIENCE)
    time.sleep(delay)
    server.restart()
    left = [one.id for one in server.shim.List(pb.ListRequest(), wait_for_ready=True).containers]
    told = types(server)
    assert told in (["created", "started"], ["created", "started", "exit", "stopped", "deleted"])
    assert ("a" in left) == (told[-1] == "started")
    if json.loads((server.data / "containers/b/container.json").read_text())["desired"] == "stopped":
        assert wait(server, "b", pb.WaitRequest.STOPPED).exit.reason == "stopped"
    delete.cancel()


def test_a_reload_mid_way(server: Server, bundle: Bundle) -> None:
    """An upgrade in place is a new program on the same sockets: streams come back, and nothing is lost."""
    server.run(bundle.shell(SCRIPT % (LINES, 5)))
    life = Life(server, "a", bundle, 5, random.Random(SEED))
    reader = threading.Thread(target=life._read)
    reader.start()
    time.sleep(0.1)
    server.admin.Reload(pb.ReloadRequest(), timeout=PATIENCE)
    assert life.ask("Wait", pb.WaitRequest(id="a")).exit.status == 5
    reader.join(PATIENCE)
    assert life.output.endswith(b"299\n300\n") and not life.errors
    assert types(server) == ["created", "started", "exit", "stopped"]


def test_restarts_while_the_server_is_killed(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """Each run is begun once, ends once, and has written what it writes."""
    chance = random.Random(SEED)
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ALWAYS)
    policy.backoff.FromMilliseconds(20)
    policy.backoff_limit.FromMilliseconds(30)
    for id in "abc":
        server.run(make_bundle().shell("echo x; exit 5"), id, restart=policy)
    for _ in range(max(4, LIVES // 10)):
        time.sleep(chance.uniform(0.05, 0.6))
        server.restart()
    for id in "abc":
        server.shim.Stop(pb.StopRequest(id=id), wait_for_ready=True)
        found = events(server, ids=[id])
        ends = [event.exit for event in found if event.type == "exit"]
        assert [end.run for end in ends] == list(range(1, len(ends) + 1))
        begun = [event.run for event in found if event.type == "started"]
        assert begun == [end.run for end in ends[: len(begun)]] and len(begun) >= len(ends) - 1, "the last one may have been stopped before its start"
        assert {end.status for end in ends[:-1]} <= {5} and ends[-1].reason in ("exited", "stopped")
        assert server.output(id).count("x") in (len(begun), len(begun) - 1)
        assert [event.type for event in found].count("restarting") in (len(ends) - 1, len(ends)) and found[-1].type == "stopped"
