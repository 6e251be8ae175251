# SPDX-License-Identifier: Apache-2.0
"""A forced Delete ends a container, whatever goes on in it at that moment: probes, execs that begin, a pause, a restart, a host that is short of time.

WHERRY_SERVE_LOAD=60: so many seconds, with two busy loops for each processor beside it.
"""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .driver import Server

pytestmark = pytest.mark.requires("root")
SECONDS = float(os.environ.get("WHERRY_SERVE_LOAD", "1"))
LONG = SECONDS > 10
KINDS = {
    "quiet": "sleep 1000",
    "deaf": "trap '' TERM; while :; do sleep 0.05; done",
    "family": "(setsid sleep 1001 &); (sleep 1002; sleep 1003) & sleep 1000",
    "short": "sleep 0.1; exit 1",
}


@pytest.fixture
def busy() -> Iterator[None]:
    loops = [subprocess.Popen(["nice", "-n", "5", "sh", "-c", "while :; do :; done"]) for _ in range(2 * (os.cpu_count() or 1) if LONG else 0)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


class Deleter:
    """One container after the other: made, disturbed, deleted."""

    def __init__(self, server: Server, bundles: list[Bundle], number: int) -> None:
        self.server, self.bundles, self.number = server, bundles, number
        self.chance = random.Random(number)
        self.took: list[float] = []
        self.refused: list[str] = []

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            self.once(f"c{self.number}-{len(self.took)}")

    def once(self, id: str) -> None:
        policy = pb.RestartPolicy(when=pb.RestartPolicy.ALWAYS)
        policy.backoff.FromMilliseconds(1)
        probe = pb.Probe(args=["sh", "-c", "sleep 0.02; (setsid sleep 1004 &); sleep 0.2"])
        probe.interval.FromMilliseconds(50)
        probe.timeout.FromMilliseconds(100)
        bundle = self.chance.choice(self.bundles)
        self.server.shim.Create(pb.CreateRequest(id=id, bundle=str(bundle.path), start=True, restart=policy, probe=probe), timeout=120)
        disturb = threading.Thread(target=self.disturb, args=(id,))
        disturb.start()
        time.sleep(self.chance.choice((0, 0.05, 0.3)))
        began = time.monotonic()
        try:
            self.server.shim.Delete(pb.DeleteRequest(id=id, force=True), timeout=120)
        except grpc.RpcError as error:
            self.refused.append(f"{id} ({bundle.path.name}) after {time.monotonic() - began:.1f} s: {error.details()}")  # type: ignore[attr-defined]
        self.took.append(time.monotonic() - began)
        disturb.join()

    def disturb(self, id: str) -> None:
        shim = self.server.shim
        start = pb.ExecRequest(start=pb.ExecRequest.Start(id=id, args=["sh", "-c", "sleep 1005 & sleep 1006"], detach=True))
        calls: list[Callable[[], object]] = [
            lambda: list(shim.Exec(iter([start]), timeout=120)),
            lambda: shim.Pause(pb.PauseRequest(id=id), timeout=120),
            lambda: shim.Kill(pb.KillRequest(id=id), timeout=120),
            lambda: shim.Resume(pb.ResumeRequest(id=id), timeout=120),
        ]
        for call in self.chance.sample(calls, 3):
            try:
                call()
            except grpc.RpcError:  # it has gone, or is not in the state for that
                continue


def test_forced_deletes(server: Server, make_bundle: Callable[[], Bundle], busy: None) -> None:
    bundles = [make_bundle().shell(text).save() for text in KINDS.values()]
    shared = make_bundle().shell(KINDS["family"])
    shared.linux["namespaces"] = [one for one in shared.linux["namespaces"] if one["type"] != "pid"]
    shared.config["mounts"] = [mount for mount in shared.config["mounts"] if mount["type"] != "proc"]
    bundles.append(shared.save())
    deleters = [Deleter(server, [bundles[number % len(bundles)]], number) for number in range(5)]
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=one.run, args=(until,)) for one in deleters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 150)
    slowest = sorted(took for one in deleters for took in one.took)[-5:]
    assert not [text for one in deleters for text in one.refused], server.log[-3000:]
    print(f"{sum(len(one.took) for one in deleters)} deletes, the slowest: {', '.join(f'{took:.2f} s' for took in slowest)}")
    assert not server.shim.List(pb.ListRequest()).containers
