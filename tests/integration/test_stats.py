# SPDX-License-Identifier: Apache-2.0
"""wherry stats: the same numbers as events --stats, in each of its formats."""

import json
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable

import pytest

from harness.bundle import Bundle
from harness.console import read_until
from harness.runtime import Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2, pytest.mark.ours]

M = 1 << 20


def limited(bundle: Bundle) -> Bundle:
    bundle.resources["memory"] = {"limit": 64 * M}
    bundle.resources["pids"] = {"limit": 50}
    return bundle


@pytest.fixture
def bundle(bundle: Bundle) -> Bundle:
    return limited(bundle)


def test_json_lines_of_all_that_run(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    one, two = runtime.start_new(limited(make_bundle())), runtime.create(make_bundle())
    ended = runtime.start_new(make_bundle().args("true"))
    wait_until(lambda: ended.status == "stopped", "the end")
    events = [json.loads(line) for line in runtime("stats").out.splitlines()]
    assert {event["id"]: event["status"] for event in events} == {one.id: "running", two.id: "created"}
    (event,) = (event for event in events if event["id"] == one.id)
    same = runtime("events", "--stats", one.id).json()
    assert event["data"].keys() == same["data"].keys() and event["type"] == same["type"]
    assert event["data"]["memory"]["usage"]["limit"] == 64 * M and event["data"]["pids"] == {"current": 1, "limit": 50}
    assert event["oomKills"] == 0


def test_a_table_and_prometheus(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    head, line = runtime("stats", "--format", "table", container.id).out.splitlines()
    assert head.split()[:2] == ["ID", "STATUS"] and line.split()[:2] == [container.id, "running"] and "64.0M" in line and "1/50" in line
    assert f'wherry_memory_limit_bytes{{id="{container.id}"}} {64 * M}\n' in runtime("stats", "-f", "prometheus").out


def test_follow_ends_with_the_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    process = runtime.popen("stats", "--follow", "--interval", "50ms", container.id)
    assert process.stdout
    for _ in range(3):
        assert json.loads(process.stdout.readline())["id"] == container.id
    runtime("kill", container.id, "KILL")
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_follow_on_a_terminal(runtime: Runtime, bundle: Bundle) -> None:
    pytest.importorskip("rich")
    container = runtime.start_new(bundle)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (25, 160))
    argv = [runtime.command, "--root", str(runtime.root), "stats", "--follow", "--interval=50ms"]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm", "COLUMNS": "120"})
    os.close(slave)
    read_until(master, container.id, 30)
    read_until(master, container.id, 30)
    process.send_signal(signal.SIGTERM)
    read_until(master, "\x1b[?25h", 30)  # the cursor is back
    assert process.wait(20) == 0
    os.close(master)


def test_what_is_not_there(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime("stats").out == ""
    result = runtime("stats", "nobody", check=False)
    assert (result.code, result.out) == (1, "") and "container does not exist" in result.err
    container = runtime.start_new(bundle.args("true"))
    wait_until(lambda: container.status == "stopped", "the end")
    result = runtime("stats", container.id, check=False)
    assert result.code == 1 and f"container with id {container.id} is not running" in result.err
    result = runtime("stats", "--format", "xml", check=False)
    assert result.code == 1 and "table, json or prometheus" in result.err
