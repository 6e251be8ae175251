# SPDX-License-Identifier: Apache-2.0
"""Times what containerd waits for, under wherry's shim and under containerd-shim-runc-v2 with runc and with crun, interleaved in one run.

    python conformance/bench_shim.py [--rounds 15] [--pods 8] [--markdown FILE]

The client is the same for all: it starts the shim as containerd does and calls the server over ttrpc; a process of its own takes the events. Each
round runs every shim once, in an order that rotates: `start`, Create and Start, State, an exec of its own kind, the same exec again (as a
probe comes), Kill and Wait, Delete, Shutdown, `delete`. `idle` waits 40 ms before each of them, `b2b` does not; a claim quotes both.

Memory is physical: every page that a process of the shim has mapped (servers, and of wherry the monitors and the zygote as well) counts once and in
full, whoever else maps it, so this program and other Pythons on the machine make nobody look smaller, as they do in PSS. It is divided by the pods,
for one pod and for several, each of which has executed ten processes: right after that, and at rest (--rest seconds later).
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from bench import base_config, make_bundle
from bench_bed import TAG, bed

from wherry_shim import containerd, events, ttrpc, wire
from wherry_shim.bootstrap_start import DIRECTORY
from wherry_shim.loop import Later, Loop
from wherry_shim.zygote import socket_path

IDLE = 0.040
NAMESPACE = TAG
EXECS = 10
RUNC_OPTIONS = "containerd.runc.v1.Options"
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
GATES = {"start": 0.4, "create+start": 0.4, "exec": 0.25}
MEMORY_GATE = 0.75
PAGE = os.sysconf("SC_PAGE_SIZE")
KINDS = ("server", "monitor", "zygote")
Times = dict[str, float]
Memory = dict[str, float]


class Shim:
    """One column: a shim's binary, and the runtime that it is to call."""

    def __init__(self, name: str, binary: str, runtime: str = "", **environment: str) -> None:
        self.name, self.binary, self.runtime, self.environment = name, binary, runtime, environment

    @property
    def options(self) -> dict[str, Any] | None:
        return {"type_url": RUNC_OPTIONS, "value": wire.encode("runc.Options", {"binary_name": self.runtime})} if self.runtime else None


class Pod:
    """One container, from `start` to `delete`; a call's time is that of the call alone."""

    def __init__(self, shim: Shim, place: Path, rootfs: Path, id: str, idle: float) -> None:
        self.shim, self.place, self.id, self.idle = shim, place, id, idle
        self.bundle = place / id
        self.bundle.mkdir()
        config = base_config("/bin/sleep", "1000") | {"hostname": id, "annotations": {"bench.container": id}}
        config["root"] = {"path": str(rootfs)}
        config["process"]["env"] = [*config["process"]["env"], f"HOSTNAME={id}"]
        config["linux"]["cgroupsPath"] = f"/{NAMESPACE}/{id}"
        (self.bundle / "config.json").write_text(json.dumps(config))
        os.mkfifo(self.bundle / "log")
        self._log = os.open(self.bundle / "log", os.O_RDWR | os.O_NONBLOCK)  # as containerd holds it
        self.client: ttrpc.Client | None = None

    def command(self, *words: str) -> tuple[str, float]:
        """What it prints, and milliseconds up to the end of its output, for which containerd waits."""
        argv = [self.shim.binary, "-namespace", NAMESPACE, "-address", f"{self.place}/containerd.sock", "-publish-binary", "", "-id", self.id, *words]
        environment = {"PATH": os.environ["PATH"], "TTRPC_ADDRESS": f"{self.place}/ttrpc", "GOMAXPROCS": "2", **self.shim.environment}
        options = self.shim.options
        given = wire.encode("any.Any", options) if options else b""
        time.sleep(self.idle)
        began = time.perf_counter_ns()
        done = subprocess.run(argv, input=given, capture_output=True, timeout=60, cwd=self.bundle, env=environment)
        took = (time.perf_counter_ns() - began) / 1e6
        if done.returncode:
            raise SystemExit(f"{self.shim.name} {words[-1]}: {done.stdout!r} {done.stderr!r}")
        return done.stdout.decode(errors="replace"), took

    def call(self, method: str, **request: object) -> tuple[dict[str, Any], float]:
        assert self.client is not None
        asked, answered = containerd.METHODS[method]
        payload = wire.encode(asked, {"id": self.id, **request})
        time.sleep(self.idle)
        began = time.perf_counter_ns()
        answer = self.client.call("containerd.task.v2.Task", method, payload, 60)
        took = (time.perf_counter_ns() - began) / 1e6
        return wire.decode(answered, answer), took

    def begin(self) -> Times:
        address, took = self.command("start")
        self.client = ttrpc.Client(address.strip())
        times = {"start": took, "create": self.call("Create", bundle=str(self.bundle), options=self.shim.options)[1]}
        times["start (RPC)"] = self.call("Start")[1]
        times["create+start"] = times["create"] + times["start (RPC)"]
        return times

    def execute(self, exec_id: str, *words: str) -> float:
        """Exec, Start, Wait and Delete of one process."""
        process = {"args": ["/bin/true", *words], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        spec = {"type_url": PROCESS_TYPE, "value": json.dumps(process).encode()}
        idle, self.idle = self.idle, 0.0
        time.sleep(idle)
        took = [self.call("Exec", exec_id=exec_id, spec=spec)[1], self.call("Start", exec_id=exec_id)[1]]
        answer, waited = self.call("Wait", exec_id=exec_id)
        took += [waited, self.call("Delete", exec_id=exec_id)[1]]
        self.idle = idle
        if answer["exit_status"]:
            raise SystemExit(f"{self.shim.name}: an exec ended with {answer['exit_status']}")
        return sum(took)

    def end(self) -> Times:
        assert self.client is not None
        times = {"kill+wait": self.call("Kill", signal=9)[1] + self.call("Wait")[1], "delete (RPC)": self.call("Delete")[1]}
        with contextlib.suppress(ConnectionError):
            self.call("Shutdown")
        self.client.close()
        times["delete"] = self.command("-bundle", str(self.bundle), "delete")[1]
        os.close(self._log)
        shutil.rmtree(self.bundle)
        return times


def life(pod: Pod) -> Times:
    times = pod.begin()
    times["state"] = pod.call("State")[1]
    times["exec"] = pod.execute("first", f"{pod.id}")
    for number in range(3):
        times["exec again"] = pod.execute(f"again{number}")
    return times | pod.end()


def pages_of(pid: int) -> set[int]:
    """Numbers of the page frames that it has mapped. Those of the kernel's own making, which every process maps, are left out."""
    found: set[int] = set()
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if line.endswith(("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")):
                continue
            first, last = (int(address, 16) // PAGE for address in line.split(" ", 1)[0].split("-"))
            pagemap.seek(first * 8)
            data = pagemap.read((last - first) * 8)
            found.update(entry & (1 << 55) - 1 for (entry,) in struct.iter_unpack("Q", data) if entry >> 63)
    return found - {0}


def pss_of(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def shim_processes(place: Path, shim: Shim, zygote: int) -> dict[int, str]:
    """Servers of this bench, and what they have beside them."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if f" {place}/" in words and Path(shim.binary).name in words.split(" ", 1)[0]:
                found[int(name)] = "server"
            elif not shim.runtime and words.startswith(f"wherry-monitor -namespace {NAMESPACE} "):
                found[int(name)] = "monitor"
    if zygote and Path(f"/proc/{zygote}").exists():
        found |= {one: "zygote" for one in (zygote, *spares_of(zygote))}
    return found


def zygote_of(shim: Shim) -> int:
    """There may be others, of other installations. 0: there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        try:
            peer.connect(socket_path(DIRECTORY, shim.binary))
        except OSError:
            return 0
        pid: int = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


def spares_of(zygote: int) -> list[int]:
    """What it has forked in advance, and nobody has asked for yet."""
    children = map(int, Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split())
    return [pid for pid in children if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def weigh(shim: Shim, place: Path, pods: int, zygote: int) -> Memory:
    """MiB for each pod, by kind of process; what a server shares with the zygote that it was forked from is the server's."""
    processes = shim_processes(place, shim, zygote)
    counted: set[int] = set()
    found: Memory = {}
    for kind in KINDS:
        pages = {page for pid, one in processes.items() if one == kind for page in pages_of(pid)}
        found[kind] = len(pages - counted) * PAGE / 2**20 / pods
        counted |= pages
    found["all"] = len(counted) * PAGE / 2**20 / pods
    found["PSS"] = sum(map(pss_of, processes)) / pods
    return found


def memory(shim: Shim, place: Path, rootfs: Path, pods: int, rest: float) -> tuple[Memory, Memory]:
    """With so many pods at one time: after their execs, and at rest."""
    running = [Pod(shim, place, rootfs, f"mem-{os.getpid()}-{number}", 0.0) for number in range(pods)]
    for pod in running:
        pod.begin()
        for number in range(EXECS):
            pod.execute(f"e{number}")
    zygote = 0 if shim.runtime else zygote_of(shim)  # not while it is weighed: who asks wakes its spare
    time.sleep(0.1)  # the last delete's helpers
    after = weigh(shim, place, pods, zygote)
    time.sleep(rest)
    quiet = weigh(shim, place, pods, zygote)
    for pod in running:
        pod.end()
    return after, quiet


@contextlib.contextmanager
def sink(path: Path) -> Iterator[None]:
    """Takes events, in a process of its own."""
    taker = subprocess.Popen([sys.executable, __file__, "--sink", str(path)])
    try:
        while not path.exists():
            time.sleep(0.01)
        yield
    finally:
        taker.kill()
        taker.wait()


def take_events(path: Path) -> None:
    loop = Loop()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def take(method: str, payload: bytes) -> Later:
        later = Later()
        later.set(b"")
        return later

    ttrpc.Server(loop, listener, {events.SERVICE: take})
    loop.run()


def measure(shims: list[Shim], place: Path, rootfs: Path, rounds: int, idle: float) -> dict[str, dict[str, float]]:
    """Medians."""
    found: dict[str, dict[str, list[float]]] = {shim.name: {} for shim in shims}
    for number in range(-2, rounds):
        for turn in range(len(shims)):
            shim = shims[(turn + number) % len(shims)]
            times = life(Pod(shim, place, rootfs, f"b-{os.getpid()}-{time.perf_counter_ns()}", idle))
            if number >= 0:  # the first two rounds fill caches, and leave a zygote
                for key, value in times.items():
                    found[shim.name].setdefault(key, []).append(value)
    return {name: {key: statistics.median(values) for key, values in rows.items()} for name, rows in found.items()}


VERBS = ("start", "create+start", "create", "start (RPC)", "state", "exec", "exec again", "kill+wait", "delete (RPC)", "delete")


EXPLAINED = (
    "MiB of physical memory for each pod, after ten execs in each: every page that a process of the shim has mapped counts once, whoever else on the machine maps it.\n"
    "What a server shares with the zygote that it was forked from is counted as the server's; *the zygote beside them* is what it has alone.\n"
    "Pages of files that nobody has mapped any more, which the kernel keeps as a cache, are nobody's."
)


class Report:
    """Rows of Markdown tables, and what became of the gates."""

    def __init__(self, shims: list[Shim]) -> None:
        self.names = [shim.name for shim in shims]
        self.peers = [shim.name for shim in shims if shim.runtime]
        self.rows = [f"| wait before | what | {' | '.join(self.names)} | {' | '.join(f'of {peer}' for peer in self.peers)} |"]
        self.rows.append("|" + "---|" * (2 + len(self.names) + len(self.peers)))
        self.weights: list[str] = []
        self.missed: list[str] = []

    def memory(self, pods: int, when: str, shares: dict[str, Memory]) -> None:
        if not self.weights:
            self.weights = [f"| pods | when | wherry | {' | '.join(f'its {kind}s' for kind in KINDS[:2])} | the zygote beside them | {' | '.join(self.peers)} | {' | '.join(f'of {peer}' for peer in self.peers)} |"]
            self.weights.append("|" + "---|" * (6 + 2 * len(self.peers)))
        ours = shares["wherry"]
        ratios = {peer: ours["all"] / shares[peer]["all"] for peer in self.peers}
        cells = [ours["all"], *(ours[kind] for kind in KINDS), *(shares[peer]["all"] for peer in self.peers)]
        self.weights.append(f"| {pods} | {when} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {' | '.join(f'**{ratio:.2f}**' for ratio in ratios.values())} |")
        print(self.weights[-1], flush=True)
        pss = ", ".join(f"{name} {share['PSS']:.2f}" for name, share in shares.items())
        print(f"# PSS, MiB: {pss}", flush=True)
        self.missed += [f"memory, {pods} pods, {when}: {ratio:.2f} of {peer}, not {MEMORY_GATE}" for peer, ratio in ratios.items() if ratio > MEMORY_GATE]

    @property
    def text(self) -> list[str]:
        return [*self.rows, "", EXPLAINED, "", *self.weights]

    def row(self, wait: str, what: str, values: dict[str, float], gate: float | None = None) -> None:
        ratios = [values["wherry"] / values[peer] for peer in self.peers]
        cells = [f"{values[name]:.2f}" if name in values else "" for name in self.names] + [f"**{ratio:.2f}**" for ratio in ratios]
        self.rows.append(f"| {wait} | {what} | {' | '.join(cells)} |")
        print(self.rows[-1], flush=True)
        if gate is not None:
            self.missed += [f"{wait}, {what}: {ratio:.2f} of {peer}, not {gate}" for peer, ratio in zip(self.peers, ratios, strict=True) if ratio > gate]


def found_shims() -> list[Shim]:
    ours = Path(sys.executable).parent / "containerd-shim-wherry-v2"
    theirs = shutil.which("containerd-shim-runc-v2")
    if not ours.exists() or not theirs:
        raise SystemExit("bench: needs containerd-shim-wherry-v2 beside this interpreter, and containerd-shim-runc-v2 on PATH")
    peers = [Shim(name, theirs, name) for name in ("runc", "crun") if shutil.which(name)]
    return [Shim("wherry", str(ours)), Shim("without zygote", str(ours), WHERRY_ZYGOTE="off"), *peers]


def everything(report: Report, shims: list[Shim], place: Path, given: argparse.Namespace) -> None:
    make_bundle(place / "images", base_config("/bin/true"))
    rootfs = place / "images/rootfs"
    for mode, idle in (("40 ms idle", IDLE), ("none", 0.0)):
        medians = measure(shims, place, rootfs, given.rounds, idle)
        for verb in VERBS:
            report.row(mode, f"{verb}, ms", {name: rows[verb] for name, rows in medians.items()}, GATES.get(verb))
    for count in (1, given.pods):
        shares = {shim.name: memory(shim, place, rootfs, count, given.rest) for shim in shims if shim.runtime or not shim.environment}
        for number, when in enumerate(("after the last exec", f"{given.rest:g} s later")):
            report.memory(count, when, {name: share[number] for name, share in shares.items()})


def write(file: Path, rows: list[str]) -> None:
    """Between its two marks, or at the end."""
    begin, end = "<!-- bench_shim -->", "<!-- /bench_shim -->"
    text = file.read_text() if file.exists() else ""
    table = f"{begin}\n" + "\n".join(rows) + f"\n{end}"
    before, found, rest = text.partition(begin)
    file.write_text(before + table + rest.partition(end)[2] if found else f"{text.rstrip()}\n\n{table}\n")


def end_zygote(place: Path, shim: Shim) -> None:
    """The one of this mount namespace."""
    for pid, kind in shim_processes(place, shim, zygote_of(shim)).items():
        if kind == "zygote":
            os.kill(pid, signal.SIGTERM)


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--rounds", type=int, default=15)
    reader.add_argument("--pods", type=int, default=8, help="so many at one time, for the second half of what is said of memory")
    reader.add_argument("--rest", type=float, default=3.0, help="seconds without a call, for the second look at memory")
    reader.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    reader.add_argument("--sink", type=Path, help=argparse.SUPPRESS)
    given = reader.parse_args()
    if given.sink:
        take_events(given.sink)
        return 0
    if os.geteuid():
        raise SystemExit("bench: needs root")
    shims = found_shims()
    with bed() as place:
        print(f"# {os.uname().release}, {os.cpu_count()} processors")
        report = Report(shims)
        try:
            with sink(place / "ttrpc"):
                everything(report, shims, place, given)
        finally:
            end_zygote(place, shims[0])
    if given.markdown:
        write(given.markdown, report.text)
    print("\n".join(f"MISSED: {line}" for line in report.missed) or "# every gate is passed")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
