# SPDX-License-Identifier: Apache-2.0
"""docs/examples/replicas.py: three replicas, and everybody is killed in turn."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.client import Client, Container, Status

from .deaths import monitor_of
from .driver import Server

EXAMPLE = Path(__file__).parents[2] / "docs/examples/replicas.py"
pytestmark = pytest.mark.requires("root")


class Orchestrator:
    def __init__(self, server: Server, rootfs: Path, place: Path) -> None:
        self.words = [sys.executable, "-W", "error", str(EXAMPLE), str(rootfs), "3"]
        self.environment = {**os.environ, "WHERRY_SHIM_ADDRESS": server.address}
        self.output = place / "said"
        self.start()

    def start(self) -> None:
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(self.words, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def orchestrator(server: Server, bundle: Bundle, place: Path) -> Iterator[Orchestrator]:
    one = Orchestrator(server, bundle.rootfs, place)
    yield one
    one.kill()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as one:
        yield one


def replicas(client: Client) -> dict[str, Container]:
    return {one.id: one for one in client.list(labels={"app": "web"})}


def complete(client: Client, unlike: Set[int] = frozenset()) -> dict[str, Container]:
    """Three that are healthy, of none of these pids."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        there = replicas(client)
        pids = {one.pid for one in there.values() if one.status is Status.RUNNING and one.health == "healthy"}
        if set(there) == {"web-0", "web-1", "web-2"} and len(pids) == 3 and not pids & unlike and all(os.path.exists(f"/proc/{pid}") for pid in pids):
            return there
        time.sleep(0.1)
    raise AssertionError(f"not three replicas: {replicas(client)}")


def pids(there: dict[str, Container]) -> set[int]:
    return {one.pid for one in there.values()}


def test_three_replicas_over_the_deaths_of_everybody(orchestrator: Orchestrator, server: Server, client: Client) -> None:
    first = complete(client)
    for pid in pids(first):
        os.kill(pid, signal.SIGKILL)
    second = complete(client, pids(first))

    server.restart()
    assert pids(complete(client)) == pids(second)  # nothing has happened to them

    for pid in pids(second):  # everybody in a moment when nobody is there to see it
        if server.process:
            server.kill()
        os.kill(pid, signal.SIGKILL)
    server.start()
    third = complete(client, pids(second))

    for id in third:
        os.kill(monitor_of(server, id), signal.SIGKILL)
    fourth = complete(client, pids(third))  # nothing can be executed in them any more: their probes say so

    orchestrator.kill()
    client.delete("web-1", force=True)
    client.stop("web-2", grace=0.1)
    orchestrator.start()
    fifth = complete(client)
    assert fifth["web-0"].created_at == fourth["web-0"].created_at and fifth["web-1"].created_at != fourth["web-1"].created_at

    server.kill()
    orchestrator.kill()
    for id, one in fifth.items():
        os.kill(monitor_of(server, id), signal.SIGKILL)
        os.kill(one.pid, signal.SIGKILL)
    server.start()
    orchestrator.start()
    complete(client, pids(fifth))
    assert "3 of 3 are healthy" in orchestrator.output.read_text()


def test_more_than_wanted(orchestrator: Orchestrator, client: Client, make_bundle: Callable[[], Bundle]) -> None:
    complete(client)
    client.create("web-7", bundle=str(make_bundle().save().path), labels={"app": "web"}, start=True)
    assert client.wait_removed("web-7", timeout=30) is not None
    complete(client)


def test_it_is_short() -> None:
    """The page says sixty lines."""
    code = EXAMPLE.read_text().split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
