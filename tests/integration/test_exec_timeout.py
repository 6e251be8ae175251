# SPDX-License-Identifier: Apache-2.0
"""exec --timeout: at its end nothing is left of what the exec has started, however that tried to get away, and all else in the container goes on."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import wherry
from harness.bundle import Bundle
from harness.console import read_until
from harness.runtime import Container, Runtime, wait_until
from wherry import aio
from wherry.errors import DeadlineError

pytestmark = [pytest.mark.requires("containers"), pytest.mark.ours]

RUNAWAY = """
trap '' TERM HUP INT
sleep 7001 &
(setsid sh -c 'trap "" TERM; sleep 7002 & sleep 7003' &)
(sh -c '(sleep 7004 &)' &)
setsid sh -c '(setsid sh -c "trap \\"\\" TERM; sleep 7005; true" &)'
(exec setsid sh -c 'while :; do sleep 0.01; done; true 7006' &)
echo begun
while :; do wait; sleep 0.1; done
"""
"""Ignores SIGTERM, forks twice with and without a session of its own, and forks on and on."""


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle) -> Container:
    return begin(runtime, bundle)


def begin(runtime: Runtime, bundle: Bundle) -> Container:
    bundle.args("sh", "-c", "sleep 8000 & (sleep 8001 &); while :; do sleep 100; done")
    container = runtime.start_new(bundle)
    wait_until(lambda: running(container, "sleep 8001"), "the container's own processes")
    return container


def running(container: Container, *words: str) -> list[str]:
    """Command lines in the container that hold one of the words, seen from the host."""
    first = world(container.pid)
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if world(pid) == first and any(word in line for word in words):
                found.append(line)
        except OSError:
            continue
    return found


def world(pid: int) -> tuple[int, int]:
    return os.stat(f"/proc/{pid}/ns/pid").st_ino, os.stat(f"/proc/{pid}/ns/mnt").st_ino


def test_all_of_it_is_killed_and_nothing_else(container: Container) -> None:
    begun = time.monotonic()
    done = container.runtime("exec", "--timeout", "1.2", container.id, "sh", "-c", RUNAWAY, check=False)
    assert done.code == 124, done.err
    assert time.monotonic() - begun >= 1.2
    assert done.out == "begun\n"
    assert done.err == "exec: the process did not end within 1.2 s, and was killed with all that it had started\n"
    assert running(container, "700", "0.01") == []
    assert running(container, "sleep 8000") and running(container, "sleep 8001")
    assert container.status == "running"


@pytest.mark.requires("root")
def test_with_a_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    test_all_of_it_is_killed_and_nothing_else(begin(runtime, bundle))


@pytest.mark.requires("root")
def test_with_the_pid_namespace_of_the_host(runtime: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid")
    test_all_of_it_is_killed_and_nothing_else(begin(runtime, bundle))


def test_one_that_ends_in_time_ends_as_without(container: Container) -> None:
    runtime = container.runtime
    done = runtime("exec", "--timeout", "30", container.id, "sh", "-c", "echo out; exit 7", check=False)
    assert (done.code, done.out, done.err) == (7, "out\n", "")
    done = runtime("exec", "--timeout=30", container.id, "sh", "-c", "kill -KILL $$", check=False)
    assert (done.code, done.err) == (137, "")


def test_what_it_leaves_in_time_stays(container: Container) -> None:
    """As with any exec: it is the container's then."""
    container.runtime("exec", "--timeout", "30", container.id, "sh", "-c", "(setsid sleep 7007 </dev/null >/dev/null 2>&1 &)")
    assert running(container, "sleep 7007")


def test_it_is_logged(container: Container, tmp_path: Path) -> None:
    runtime = container.runtime
    log = tmp_path / "log"
    done = runtime("--log", str(log), "--log-format", "json", "exec", "--timeout", "0.3", container.id, "sleep", "7008", check=False)
    assert done.code == 124
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["level"], line["code"]) == ("error", "WHERRY-DEADLINE")
    assert running(container, "7008") == []


def test_with_a_terminal(container: Container) -> None:
    """Which is as it was, afterwards."""
    import pty
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    argv = container.runtime.argv("exec", "-t", "--timeout", "0.8", container.id, "sh", "-c", "echo begun; trap '' TERM HUP; sleep 7009; true")
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=container.runtime.env, start_new_session=True)
    said = read_until(master, "all that it had started")
    assert "begun" in said
    assert process.wait(20) == 124
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    assert running(container, "7009") == []


def test_a_signal_is_forwarded_before(container: Container) -> None:
    argv = container.runtime.argv("exec", "--timeout", "60", container.id, "sh", "-c", "trap 'exit 9' TERM; echo begun; while :; do sleep 0.05; done")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=container.runtime.env) as process:
        assert process.stdout and process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 9


def test_a_process_of_a_file(container: Container, tmp_path: Path) -> None:
    file = tmp_path / "process.json"
    file.write_text(json.dumps({"args": ["sleep", "7010"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}))
    done = container.runtime("exec", "--timeout", "0.3", "--process", str(file), container.id, check=False)
    assert done.code == 124
    assert running(container, "7010") == []


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e10", ""])
def test_values_that_are_refused(container: Container, value: str) -> None:
    done = container.runtime("exec", f"--timeout={value}", container.id, "true", check=False)
    assert done.code == 255
    assert f'invalid value "{value}" for flag -timeout' in done.err


def test_detached_it_is_refused(container: Container) -> None:
    done = container.runtime("exec", "--detach", "--timeout", "1", container.id, "sleep", "7011", check=False)
    assert done.code == 255
    assert "flag -timeout cannot be used with -detach (nobody waits then" in done.err
    assert running(container, "7011") == []


def test_the_library(container: Container) -> None:
    root = container.runtime.root
    inside = wherry.Container.open(container.id, root=root)
    with pytest.raises(DeadlineError):
        inside.exec(["sh", "-c", RUNAWAY], timeout=1.0)
    assert running(container, "700", "0.01") == []

    async def main() -> None:
        twin = await aio.Container.open(container.id, root=root)
        await twin.exec(["sh", "-c", RUNAWAY], timeout=1.0)

    with pytest.raises(DeadlineError):
        asyncio.run(main())
    assert running(container, "700", "0.01") == []
    assert running(container, "sleep 8000")
