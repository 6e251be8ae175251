# SPDX-License-Identifier: Apache-2.0
"""ps and events: the processes of a container, and what they use."""

import json
import subprocess

import pytest

from harness import requirements
from harness.bundle import Bundle
from harness.runtime import Container, Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2]

M = 1 << 20


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle) -> Container:
    bundle.resources["memory"] = {"limit": 64 * M}
    bundle.resources["pids"] = {"limit": 50}
    container = runtime.start_new(bundle.shell("sleep 1000 & sleep 2000 & wait"))
    wait_until(lambda: len(runtime("ps", "-f", "json", container.id).json()) == 3, "three processes")
    return container


def test_json(runtime: Runtime, container: Container) -> None:
    pids = runtime("ps", "--format", "json", container.id).json()
    assert pids == sorted(pids) and container.pid in pids


def test_json_of_a_stopped_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    wait_until(lambda: container.status == "stopped", "the end")
    assert runtime("ps", "--format=json", container.id).out == "null\n"


@pytest.mark.requires("command:ps")
def test_table(runtime: Runtime, container: Container) -> None:
    if subprocess.run(["ps", "-ef"], capture_output=True).returncode:
        pytest.skip("ps -ef does not work on this machine")
    lines = runtime("ps", container.id).out.splitlines()
    assert lines[0].split()[:3] == ["UID", "PID", "PPID"] and len(lines) == 4
    assert sum("sleep 1000" in line for line in lines) == 1 + ("sleep 1000 &" in "".join(lines))


@pytest.mark.requires("command:ps")
def test_options_of_ps(runtime: Runtime, container: Container) -> None:
    lines = runtime("ps", container.id, "-e", "-o", "pid,comm").out.splitlines()
    assert lines[0].split() == ["PID", "COMMAND"] and sorted(line.split()[1] for line in lines[1:]) == ["sh", "sleep", "sleep"]
    result = runtime("ps", container.id, "-e", "-o", "comm", check=False)
    assert result.code == 1 and "PID" in result.err


def test_processes_of_exec_and_in_cgroups_below(runtime: Runtime, container: Container) -> None:
    process = runtime.popen("exec", container.id, "sh", "-c", "echo ready; exec sleep 3000")
    assert process.stdout and process.stdout.readline() == "ready\n"
    assert len(runtime("ps", "-f", "json", container.id).json()) >= 4
    process.terminate()
    process.communicate(timeout=10)


# ---- events


@pytest.mark.ours
def test_statistics(runtime: Runtime, container: Container) -> None:
    result = runtime("events", "--stats", container.id)
    assert result.out.count("\n") == 1 and result.err == ""
    event = result.json()
    assert event["type"] == "stats" and event["id"] == container.id
    data = event["data"]
    assert {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"} == set(data)
    assert data["pids"] == {"current": 3, "limit": 50}
    assert data["cpu"]["usage"]["total"] > 0
    assert {"periods", "throttledPeriods", "throttledTime"} == set(data["cpu"]["throttling"])
    memory = data["memory"]
    assert memory["usage"]["limit"] == 64 * M and 0 < memory["usage"]["usage"] < 64 * M
    assert memory["raw"] and {"limit", "usage", "max", "failcnt"} == set(memory["usage"])
    if not requirements.missing("controller:cpuset"):
        assert 0 in data["cpuset"]["cpus"]


def test_statistics_grow_with_use(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.shell("while :; do :; done"))
    first = runtime("events", "--stats", container.id).json()["data"]["cpu"]["usage"]["total"]
    wait_until(lambda: runtime("events", "--stats", container.id).json()["data"]["cpu"]["usage"]["total"] > first + 50_000_000, "50 ms of use")


@pytest.mark.ours
def test_a_stream_that_ends_with_the_container(runtime: Runtime, container: Container) -> None:
    process = runtime.popen("events", "--interval", "100ms", container.id)
    assert process.stdout
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [line["type"] for line in lines] == ["stats"] * 3
    container.kill("KILL")
    process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.ours
def test_a_kill_for_want_of_memory(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 16 * M, "swap": 16 * M}
    container = runtime.create(bundle.shell("sleep 0.5; (tail /dev/zero); sleep 1000"))
    process = runtime.popen("events", "--interval=1h", container.id)
    container.start()
    assert process.stdout
    event = json.loads(process.stdout.readline())
    assert event == {"type": "oom", "id": container.id}
    container.kill("KILL")
    process.communicate(timeout=10)


def test_a_stopped_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    wait_until(lambda: container.status == "stopped", "the end")
    for words in (["--stats"], []):
        result = runtime("events", *words, container.id, check=False)
        assert result.code == 1 and f"container with id {container.id} is not running" in result.err


@pytest.mark.parametrize("given", ["x", "0s", "-1s", "1", "1.2.3s"])
@pytest.mark.ours
def test_intervals_that_are_wrong(runtime: Runtime, container: Container, given: str) -> None:
    result = subprocess.run(runtime.argv("events", f"--interval={given}", container.id), capture_output=True, text=True, timeout=10, env=runtime.env)
    assert result.returncode == 1 and "a duration such as 5s" in result.stderr
