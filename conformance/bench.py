# SPDX-License-Identifier: Apache-2.0
"""Times the life of containers under wherry and its peers, interleaved in one run, and prints medians and ratios.

    python conformance/bench.py [--rounds 15] [--row default ...] [--quick]

Each round runs every runtime once, in an order that rotates. `idle` waits 40 ms before each container, which is what a host sees; back to
back (`b2b`) hides the RCU grace period that a write to cgroup.procs waits for. A claim about speed quotes both.

Columns of wherry:
    cached  the same bundle again: the front launches it from the plan cache, without an interpreter
    next    one more container of a kind, as an engine writes them: host name, environment and annotations are its own
    cold    a configuration like none before (an annotation of another name): Python compiles it
    python  as cold, and every verb through Python (WHERRY_FRONT=off)
"""

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_bed import TAG, bed

IDLE = 0.040
PROFILE = Path("/usr/share/containers/seccomp.json")


Change = Callable[[dict[str, Any], str], dict[str, Any]]


def another_of_its_kind(config: dict[str, Any], name: str) -> dict[str, Any]:
    process = {**config["process"], "env": [*config["process"]["env"], f"HOSTNAME={name}"]}
    return {**config, "hostname": name, "process": process, "annotations": {"bench.container": name}}


def another_kind(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {**config, "annotations": {f"bench.{name}": ""}}


class Runtime:
    """One column: how a verb is called, and what changes in the configuration from one container to the next."""

    def __init__(self, name: str, command: str, root: Path, change: Change | None = None, environment: dict[str, str] | None = None) -> None:
        self.name, self.change = name, change
        self.command = [command, "--root", str(root)]
        self.environment = {**os.environ, **(environment or {})}

    def call(self, *words: str) -> float:
        """Milliseconds of one verb; its output is thrown away, a failure ends the bench. Its stdio is a file: runc 1.1.5 gives
        the host's /dev/null to the root of a user namespace when that is its stdin."""
        nothing = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
        try:
            began = time.perf_counter_ns()
            pid = os.posix_spawn(
                self.command[0],
                [*self.command, *words],
                self.environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, nothing, 0), (os.POSIX_SPAWN_DUP2, nothing, 1)],
            )
            _, status = os.waitpid(pid, 0)
            ended = time.perf_counter_ns()
        finally:
            os.close(nothing)
        if status:
            raise SystemExit(f"{self.name} {' '.join(words)} failed with wait status {status}")
        return (ended - began) / 1e6


def base_config(*args: str) -> dict[str, Any]:
    """What `runc spec` writes, the terminal switched off."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["runc", "spec"], cwd=place, check=True)
        config: dict[str, Any] = json.loads((Path(place) / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = list(args)
    return config


def docker_profile() -> dict[str, Any]:
    """The default profile of Docker and Podman as their engines resolve it for a container without extra capabilities."""
    rules = []
    source = json.loads(PROFILE.read_text())
    for rule in source["syscalls"]:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        if wanted.get("caps") or (wanted.get("arches") and "amd64" not in wanted["arches"]) or "amd64" in (unwanted.get("arches") or ()):
            continue
        kept = {"names": rule["names"], "action": rule["action"], "args": rule.get("args") or []}
        if rule.get("errnoRet"):
            kept["errnoRet"] = rule["errnoRet"]
        rules.append(kept)
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    return {"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures, "syscalls": rules}


def with_seccomp() -> dict[str, Any]:
    config = base_config("/bin/true")
    config["linux"]["seccomp"] = docker_profile()
    return config


def with_userns() -> dict[str, Any]:
    config = base_config("/bin/true")
    config["linux"]["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    return config


def with_hooks() -> dict[str, Any]:
    config = base_config("/bin/true")
    config["hooks"] = {kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "createContainer")}
    return config


ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "default": lambda: base_config("/bin/true"),
    "seccomp": with_seccomp,
    "userns": with_userns,
    "hooks": with_hooks,
}


def make_bundle(place: Path, config: dict[str, Any]) -> None:
    shell = shutil.which("busybox") or "/bin/busybox"
    binaries = place / "rootfs" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(shell, binaries / "busybox")
    for name in ("sh", "true", "sleep"):
        (binaries / name).symlink_to("busybox")
    for name in ("proc", "sys", "dev"):
        (place / "rootfs" / name).mkdir()
    (place / "config.json").write_text(json.dumps(config))
    for directory in (place, place / "rootfs", binaries):  # init of a user namespace walks here
        directory.chmod(0o755)


def wait_end(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        select.select([fd], [], [], 10)
    finally:
        os.close(fd)
    os.waitpid(pid, 0)  # ours: the bench is a subreaper


def life(runtime: Runtime, bundle: Path, name: str, idle: float) -> dict[str, float]:
    """create, start, state, kill and delete of one container, in ms; the program ends by itself between start and delete."""
    pid_file = bundle / f"{name}.pid"
    time.sleep(idle)
    times = {"create": runtime.call("create", "--bundle", str(bundle), "--pid-file", str(pid_file), name)}
    pid = int(pid_file.read_text())
    times["start"] = runtime.call("start", name)
    wait_end(pid)
    times["delete"] = runtime.call("delete", name)
    pid_file.unlink()
    times["create+start+delete"] = sum(times.values())
    return times


def attached(runtime: Runtime, bundle: Path, name: str, idle: float) -> dict[str, float]:
    time.sleep(idle)
    return {"run": runtime.call("run", "--bundle", str(bundle), name)}


def questions(runtime: Runtime, bundle: Path, name: str, idle: float) -> dict[str, float]:
    """state and kill of a running container."""
    runtime.call("run", "--detach", "--bundle", str(bundle), "--pid-file", str(bundle / f"{name}.pid"), name)
    pid = int((bundle / f"{name}.pid").read_text())
    time.sleep(idle)
    times = {"state": runtime.call("state", name)}
    time.sleep(idle)
    times["kill"] = runtime.call("kill", name, "KILL")
    wait_end(pid)
    runtime.call("delete", name)
    return times


def another_exec(runtime: Runtime, number: int) -> str:
    """A variable for the environment: the same each time, of another value, or of another name."""
    if runtime.change is None:
        return "BENCH=same"
    return f"BENCH={number}" if runtime.change is another_of_its_kind else f"BENCH{number}=1"


def execs(runtime: Runtime, bundle: Path, name: str, idle: float) -> dict[str, float]:
    """exec in a running container, attached, by flags and by a process.json. The container is the same for all rounds."""
    variable = another_exec(runtime, time.perf_counter_ns())
    process = {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin", variable], "user": {"uid": 0, "gid": 0}}
    (bundle / "process.json").write_text(json.dumps(process))
    time.sleep(idle)
    times = {"exec": runtime.call("exec", "--env", variable, f"{TAG}-{runtime.name}", "/bin/true")}
    time.sleep(idle)
    times["exec --process"] = runtime.call("exec", "--process", str(bundle / "process.json"), f"{TAG}-{runtime.name}")
    return times


@contextmanager
def lasting(runtimes: list[Runtime], bundles: dict[str, tuple[Path, dict[str, Any]]]) -> Iterator[None]:
    """A running container for each runtime."""
    pids = []
    try:
        for runtime in runtimes:
            bundle, _ = bundles[runtime.name]
            runtime.call("run", "--detach", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), f"{TAG}-{runtime.name}")
            pids.append((runtime, int((bundle / "pid").read_text())))
        yield
    finally:
        for runtime, pid in pids:
            runtime.call("kill", f"{TAG}-{runtime.name}", "KILL")
            wait_end(pid)
            runtime.call("delete", f"{TAG}-{runtime.name}")


def measure(runtimes: list[Runtime], bundles: dict[str, tuple[Path, dict[str, Any]]], what: Any, rounds: int, idle: float) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {runtime.name: {} for runtime in runtimes}
    for number in range(-2, rounds):
        for turn in range(len(runtimes)):
            runtime = runtimes[(turn + number) % len(runtimes)]
            bundle, config = bundles[runtime.name]
            if runtime.change:
                (bundle / "config.json").write_text(json.dumps(runtime.change(config, f"c{time.perf_counter_ns()}")))
            times = what(runtime, bundle, f"{TAG}-{number}", idle)
            if number >= 0:  # the first two rounds fill caches
                for key, value in times.items():
                    found[runtime.name].setdefault(key, []).append(value)
    return found


def report(row: str, mode: str, found: dict[str, dict[str, list[float]]], runtimes: list[Runtime]) -> None:
    verbs = list(next(iter(found.values())))
    for verb in verbs:
        medians = {runtime.name: statistics.median(found[runtime.name][verb]) for runtime in runtimes}
        cells = []
        for runtime in runtimes:
            ratio = "".join(f" {medians[runtime.name] / medians[peer]:5.2f} of {peer}" for peer in ("crun", "runc") if peer in medians and runtime.name not in ("crun", "runc"))
            cells.append(f"{runtime.name} {medians[runtime.name]:6.2f} ms{ratio}")
        print(f"{row:8} {mode:4} {verb:20} " + " | ".join(cells), flush=True)


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--rounds", type=int, default=15)
    reader.add_argument("--row", action="append", choices=list(ROWS), help="only these rows (default: all)")
    reader.add_argument("--wherry", default=shutil.which("wherry", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"))
    reader.add_argument("--quick", action="store_true", help="only create+start+delete, without the column python")
    given = reader.parse_args()
    if os.geteuid() or not given.wherry:
        raise SystemExit("bench: needs root, and wherry on PATH")
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    with bed() as top:
        print(f"# {os.uname().release}, {os.cpu_count()} processors")
        runtimes = [
            Runtime("cached", given.wherry, top / "r1"),
            Runtime("next", given.wherry, top / "r2", another_of_its_kind),
            Runtime("cold", given.wherry, top / "r3", another_kind),
            *([] if given.quick else [Runtime("python", given.wherry, top / "r4", another_kind, environment={"WHERRY_FRONT": "off"})]),
            *[Runtime(peer, found, top / peer) for peer in ("crun", "runc") if (found := shutil.which(peer))],
        ]
        for row in given.row or list(ROWS):
            config = ROWS[row]()
            bundles = {}
            for runtime in runtimes:
                bundle = top / f"{row}-{runtime.name}"
                make_bundle(bundle, config)
                bundles[runtime.name] = (bundle, config)
            tasks = [life] if given.quick or row != "default" else [life, attached]
            for mode, idle in (("idle", IDLE), ("b2b", 0.0)):
                for task in tasks:
                    report(row, mode, measure(runtimes, bundles, task, given.rounds, idle), runtimes)
            if row == "default" and not given.quick:
                sleeping = {**config, "process": {**config["process"], "args": ["/bin/sleep", "60"]}}
                for name, (bundle, _) in bundles.items():
                    (bundle / "config.json").write_text(json.dumps(sleeping))
                    bundles[name] = (bundle, sleeping)
                for mode, idle in (("idle", IDLE), ("b2b", 0.0)):
                    report(row, mode, measure(runtimes, bundles, questions, given.rounds, idle), runtimes)
                with lasting(runtimes, bundles):
                    for mode, idle in (("idle", IDLE), ("b2b", 0.0)):
                        report(row, mode, measure(runtimes, bundles, execs, given.rounds, idle), runtimes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
