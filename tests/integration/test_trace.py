# SPDX-License-Identifier: Apache-2.0
"""--trace: every step that ran is in the timeline, in order, and a container does not notice it."""

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = [pytest.mark.requires("containers"), pytest.mark.ours]

Event = dict[str, Any]


def check_format(document: dict[str, Any]) -> None:
    """The Trace Event Format, as chrome://tracing and ui.perfetto.dev read it: what each event must have, by its phase."""
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        known = {"M": {"ph", "name", "pid", "tid", "args"}, "X": {"ph", "name", "pid", "tid", "ts", "dur", "args"}}[event["ph"]]
        assert set(event) == known, event
        assert isinstance(event["name"], str) and event["name"], event
        assert type(event["pid"]) is type(event["tid"]) is int and isinstance(event["args"], dict), event
        if event["ph"] == "M":
            wanted = {"process_name": {"name": str}, "process_sort_index": {"sort_index": int}}[event["name"]]
            assert {key: type(value) for key, value in event["args"].items()} == wanted, event
        else:
            assert all(type(event[key]) in (int, float) and math.isfinite(event[key]) and event[key] >= 0 for key in ("ts", "dur")), event
    slices = sorted((one for one in document["traceEvents"] if one["ph"] == "X"), key=lambda one: (one["tid"], one["ts"]))
    for one, after in pairwise(slices):  # what is in one row lies apart: half overlapping events are dropped
        assert one["tid"] != after["tid"] or end(one) <= after["ts"] + 0.01, (one, after)


class Trace:
    """A timeline, read back."""

    def __init__(self, file: Path) -> None:
        document = json.loads(file.read_text())
        check_format(document)
        found = document["traceEvents"]
        rows = {event["pid"]: event["args"]["name"] for event in found if event["name"] == "process_name"}
        self.other = document["otherData"]
        self.events: list[Event] = [{**event, "row": rows[event["pid"]]} for event in found if event["ph"] == "X"]
        self.phases = [event["name"] for event in self.events if event["row"] == "python"]
        self.steps = sorted((event for event in self.events if event["row"] != "python"), key=lambda event: int(event["args"]["step"]))

    def step(self, start: str) -> Event:
        (found,) = (event for event in self.steps if event["name"].startswith(start))
        return found

    def check(self) -> None:
        """Nobody does two things at a time, and init's steps lie between its clone and the publishing, as far as that is awaited."""
        for row in ("caller", "launcher", "init"):
            for one, next_one in pairwise(event for event in self.steps if event["row"] == row):
                assert end(one) <= next_one["ts"] + 0.01, (one, next_one)
        clone, publish = self.step("clone init"), self.step("publish")
        for event in self.steps:
            if event["row"] == "init" and event["args"]["step"] < publish["args"]["step"]:
                assert clone["ts"] <= event["ts"], event
                assert end(event) <= publish["ts"], event
            elif event["row"] == "init":
                assert publish["ts"] <= event["ts"], event
        assert min(event["ts"] for event in self.events) == 0
        native = next(event for event in self.events if event["name"].startswith("native "))
        assert native["ts"] <= self.steps[0]["ts"]


def end(event: Event) -> float:
    return float(event["ts"]) + float(event["dur"])


def planned(runtime: Runtime, bundle: Bundle, last: str) -> list[tuple[int, str, str, str]]:
    """(step, executor, text, pointer) of what should have run, up to an operation."""
    bundle.save()
    steps = runtime("plan", "--json", "--bundle", bundle.path).json()["steps"]
    until = next(step["step"] for step in steps if step["operation"] == last)
    return [(step["step"], step["executor"], step["text"], step["pointer"]) for step in steps if step["step"] <= until]


def traced(trace: Trace) -> list[tuple[int, str, str, str]]:
    return [(event["args"]["step"], event["row"], event["name"], event["args"]["pointer"]) for event in trace.steps]


@pytest.fixture
def file(place: Path) -> Path:
    return place / "trace.json"


@pytest.mark.v2
def test_create(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    runtime.create(bundle, "--trace", file)
    trace = Trace(file)
    trace.check()
    assert traced(trace) == planned(runtime, bundle, "publish")
    assert trace.phases[0] == "read config"
    assert {"parse", "check", "compile", "native create"} <= set(trace.phases)


def test_create_from_the_cache(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    runtime.create(bundle, "--trace", file).delete("--force")
    runtime.create(bundle, "--trace", file)
    trace = Trace(file)
    trace.check()
    assert traced(trace) == planned(runtime, bundle, "publish")
    assert trace.phases == ["read config", "look into the cache", "native create"]


def test_run(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    assert runtime.run(bundle.shell("exit 4"), "--trace", file, check=False).code == 4
    trace = Trace(file)
    trace.check()
    assert traced(trace) == planned(runtime, bundle, "execute")
    assert trace.phases[-1] == "start"


def test_detached_run(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    container = runtime.create(bundle, "--detach", "--trace", file, verb="run")
    assert container.status == "running"
    trace = Trace(file)
    trace.check()
    assert traced(trace) == planned(runtime, bundle, "execute")
    assert trace.step("wait for start")["dur"] > 0


@pytest.mark.requires("root", "userns")
def test_steps_that_the_launcher_does_for_init(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    runtime.create(bundle.user_namespace(), "--trace", file)
    trace = Trace(file)
    trace.check()
    assert traced(trace) == planned(runtime, bundle, "publish")
    maps, clone = trace.step("map uids"), trace.step("clone init")
    assert maps["row"] == "launcher"
    assert maps["ts"] >= end(clone)


@pytest.mark.requires("timens")
def test_a_time_namespace_does_not_move_the_stamps(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    bundle.namespace("time").linux["timeOffsets"] = {"monotonic": {"secs": 86400}, "boottime": {"secs": 86400}}
    runtime.create(bundle, "--trace", file)
    trace = Trace(file)
    trace.check()
    assert max(map(end, trace.events)) < 60e6


def test_hooks_are_in_it(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null; sleep 0.05"]}
    bundle.config["hooks"] = {"createRuntime": [hook], "createContainer": [hook], "startContainer": [hook]}
    runtime.create(bundle, "--detach", "--trace", file, verb="run")
    trace = Trace(file)
    trace.check()
    assert traced(trace) == planned(runtime, bundle, "execute")
    hooks = {event["args"]["pointer"]: event for event in trace.steps if "/hooks/" in event["args"]["pointer"]}
    assert [(name, event["row"]) for name, event in hooks.items()] == [
        ("/hooks/createRuntime/0", "caller"),
        ("/hooks/createContainer/0", "init"),
        ("/hooks/startContainer/0", "init"),
    ]
    assert all(event["dur"] >= 50_000 for event in hooks.values())


# ---- what goes wrong


def test_a_failed_create_shows_where_it_stopped(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    bundle.mount("/data", "none", "no-such-filesystem")
    container = runtime.create(bundle, "--trace", file, check=False)
    assert container.result.code == 1
    trace = Trace(file)
    failed = trace.step("mount no-such-filesystem")
    assert failed["args"]["error"] == "no such device"
    assert [event for event in trace.events if "error" in event["args"]] == [failed]
    assert failed is trace.steps[-1]
    assert "no-such-filesystem" in trace.other["error"]
    assert not container.exists()


def test_a_failed_start(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    (bundle.rootfs / "bin/broken").write_bytes(b"\x7fELF and nothing else")
    (bundle.rootfs / "bin/broken").chmod(0o755)
    result = runtime.run(bundle.args("/bin/broken"), "--trace", file, check=False)
    assert result.code == 1
    trace = Trace(file)
    assert trace.steps[-1]["name"] == "execute the program"
    assert trace.steps[-1]["args"]["error"] == "exec format error"


def test_a_wrong_configuration(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    bundle.process["cwd"] = "relative"
    runtime.create(bundle, "--trace", file, check=False)
    trace = Trace(file)
    assert trace.phases[-1] == "check"
    assert not trace.steps
    assert "/process/cwd" in trace.other["error"]


def test_a_file_that_cannot_be_written_is_refused_first(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.create(bundle, "--trace", place / "no/such/directory", check=False)
    assert container.result.code == 1
    assert "no such file or directory" in container.stderr
    assert not runtime.root.exists()


def test_a_full_disk_does_not_fail_the_create(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle, "--trace", "/dev/full")
    assert container.status == "created"
    assert "no space left on device" in container.stderr


# ---- what the container sees of it


def test_the_program_sees_nothing_of_it(runtime: Runtime, bundle: Bundle, place: Path, file: Path) -> None:
    (place / "given").write_text("given")
    script = "cd /proc/self/fd; for fd in *; do readlink $fd; done; cat /proc/self/maps"
    with open(place / "given") as given:
        container = runtime.create(
            bundle.shell(script), "--preserve-fds", "1", "--trace", file, preexec_fn=lambda: os.dup2(given.fileno(), 3), close_fds=False
        )
    container.start()
    assert container.wait() == 0
    assert str(place / "given") in container.stdout
    assert "trace" not in container.stdout
    assert "memfd" not in container.stdout
    Trace(file).check()


@pytest.mark.requires("root")
def test_a_created_container_holds_no_descriptor_of_it(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    container = runtime.create(bundle, "--trace", file)
    held = [os.readlink(entry) for entry in Path(f"/proc/{container.pid}/fd").iterdir()]
    assert not [target for target in held if "memfd" in target or target == str(file)]


def test_a_gap_among_preserved_descriptors_is_refused(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    container = runtime.create(bundle, "--preserve-fds", "2", "--trace", file, check=False)
    assert container.result.code == 1
    assert "not open" in container.stderr
    assert not file.exists()


# ---- exec


def test_exec(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    container = runtime.start_new(bundle)
    result = runtime("exec", "--trace", file, container.id, "sh", "-c", "exit 6", check=False)
    assert result.code == 6
    trace = Trace(file)
    trace.check()
    assert trace.phases == ["look at the container", "look at the host", "compile", "native exec"]
    assert [event["args"]["step"] for event in trace.steps] == list(range(1, len(trace.steps) + 1))
    assert trace.steps[-1]["name"] == "execute the program"


def test_a_failed_exec(runtime: Runtime, bundle: Bundle, file: Path) -> None:
    container = runtime.start_new(bundle)
    assert runtime("exec", "--trace", file, container.id, "/no/such/program", check=False).code == 255
    trace = Trace(file)
    assert trace.steps[-1]["args"]["error"] == "no such file or directory"
    assert "/no/such/program" in trace.other["error"]


def test_start(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.create(bundle.args("true"))
    runtime("start", "--trace", place / "start.json", container.id)
    wait_until(lambda: container.status == "stopped", "the end of the program")
    assert Trace(place / "start.json").phases == ["open the container", "lock the container", "execute the program"]
    again = runtime("start", "--trace", place / "again.json", container.id, check=False)
    assert again.code == 1 and "stopped" in Trace(place / "again.json").other["error"]
