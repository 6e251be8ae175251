#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the gRPC server costs: latency of its calls, events to many clients, memory. Prints a table in Markdown, for RESULTS.md.

    python conformance/bench_serve.py [--containers 200] [--clients 50]

Starts a server of its own below /run, with containers of busybox, and ends it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from bench_bed import bed

from harness.bundle import base_config, make_rootfs
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs

PROGRAM = str(Path(sys.executable).parent / "wherry-shim")


class Bench:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.rootfs = make_rootfs(place / "a/b/rootfs", None)
        self.address = f"unix:{place}/s/shim.sock"
        self.channels: list[grpc.Channel] = []
        words = [PROGRAM, "serve", "--root", f"{place}/r", "--data", f"{place}/d", "--listen", f"unix://{place}/s/shim.sock"]
        words += ["--max-rate", "100000", "--max-connections", "1000"]
        with open(place / "log", "wb") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        grpc.channel_ready_future(self.connect()).result(30)
        self.shim = stubs.ShimStub(self.channels[0])

    def connect(self) -> grpc.Channel:
        self.channels.append(grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]))
        return self.channels[-1]

    def create(self, id: str, *args: str) -> None:
        config = copy.deepcopy(base_config())
        config["root"]["path"] = str(self.rootfs)
        config["process"]["args"] = list(args)
        config["linux"]["cgroupsPath"] = f"/{self.place.name}-{id}"
        self.shim.Create(pb.CreateRequest(id=id, config=json.dumps(config).encode()), timeout=60)

    def memory(self) -> tuple[int, int]:
        """RSS and PSS, in bytes."""
        found = {}
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            found[name] = int(value.split()[0]) * 1024
        return found["Rss"], found["Pss"]

    def close(self) -> None:
        for one in self.shim.List(pb.ListRequest(), timeout=60).containers:
            self.shim.Delete(pb.DeleteRequest(id=one.id, force=True), timeout=60)
        for channel in self.channels:
            channel.close()
        self.process.terminate()
        self.process.wait(30)


def timed(function: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median and 99th per cent, in milliseconds."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        found.append((time.perf_counter() - begun) * 1e3)
    found.sort()
    return statistics.median(found), found[min(len(found) - 1, int(len(found) * 0.99))]


def lives(bench: Bench, count: int) -> dict[str, tuple[float, float]]:
    """One after the other: each call of a short life."""
    steps: dict[str, list[float]] = {}

    def step(name: str, function: Callable[[], Any]) -> None:
        steps.setdefault(name, []).append(timed(function, 1)[0])

    for number in range(count):
        id = f"short{number}"
        step("Create", lambda id=id: bench.create(id, "true"))
        begun = time.perf_counter()
        step("Start", lambda id=id: bench.shim.Start(pb.StartRequest(id=id), timeout=60))
        bench.shim.Wait(pb.WaitRequest(id=id, condition=pb.WaitRequest.STOPPED), timeout=60)
        steps.setdefault("Start of `true` to the answer of Wait", []).append((time.perf_counter() - begun) * 1e3)
        step("Delete", lambda id=id: bench.shim.Delete(pb.DeleteRequest(id=id), timeout=60))
    return {name: (statistics.median(times), sorted(times)[int(len(times) * 0.99)]) for name, times in steps.items()}


def fan_out(bench: Bench, clients: int, containers: int) -> tuple[float, int, bool]:
    """Seconds from the first kill to the last client's last event; events in all; each client has seen the same."""
    found: list[list[str]] = [[] for _ in range(clients)]
    ready = threading.Barrier(clients + 1)
    wanted = 2 * containers

    def follow(number: int) -> None:
        stream = stubs.ShimStub(bench.connect()).Subscribe(pb.SubscribeRequest(types=["exit", "stopped"]), timeout=300)
        list(stream.initial_metadata())
        ready.wait()
        for event in stream:
            found[number].append(event.cursor)
            if len(found[number]) == wanted:
                stream.cancel()
                return

    threads = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = time.perf_counter()
    for number in range(containers):
        bench.shim.Kill(pb.KillRequest(id=f"long{number}"), timeout=60)
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, clients * wanted, all(each == found[0] for each in found)


def table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| What | Measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def measure(bench: Bench, containers: int, clients: int) -> list[tuple[str, str]]:
    rows = []
    for name, (median, worst) in lives(bench, 50).items():
        rows.append((name, f"{median:.1f} ms, 99 %: {worst:.1f} ms"))
    before = bench.memory()
    begun = time.perf_counter()
    for number in range(containers):
        bench.create(f"long{number}", "sleep", "10000")
        bench.shim.Start(pb.StartRequest(id=f"long{number}"), timeout=60)
    rows.append((f"{containers} containers created and started, one after the other", f"{time.perf_counter() - begun:.1f} s"))
    after = bench.memory()
    for name, request in (("Get", pb.GetRequest(id="long0")), ("List", pb.ListRequest())):
        median, worst = timed(lambda name=name, request=request: getattr(bench.shim, name)(request, timeout=60), 200)
        rows.append((f"{name} with {containers} containers", f"{median:.2f} ms, 99 %: {worst:.2f} ms"))
    rows.append(("Memory of the server, idle", f"RSS {before[0] / 1e6:.1f} MB, PSS {before[1] / 1e6:.1f} MB"))
    rows.append((f"Memory of the server with {containers} containers", f"RSS {after[0] / 1e6:.1f} MB, PSS {after[1] / 1e6:.1f} MB"))
    rows.append(("Memory of the server for a container", f"{(after[1] - before[1]) / containers / 1e3:.0f} kB"))
    seconds, events, same = fan_out(bench, clients, containers)
    rows.append((f"{containers} ends, told to {clients} clients: {events} events", f"{seconds:.1f} s, {'all the same, in order' if same else 'NOT THE SAME'}"))
    peak = bench.memory()
    rows.append((f"Memory of the server behind that, with {clients} clients", f"RSS {peak[0] / 1e6:.1f} MB, PSS {peak[1] / 1e6:.1f} MB"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--clients", type=int, default=50)
    given = parser.parse_args()
    with bed(Path("/run")) as place:
        bench = Bench(place)
        try:
            print(table(measure(bench, given.containers, given.clients)))
        finally:
            bench.close()


if __name__ == "__main__":
    main()
