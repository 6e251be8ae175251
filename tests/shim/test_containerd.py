# SPDX-License-Identifier: Apache-2.0
"""containerd with our shim, end to end: the life of tasks, what a restart of containerd finds, pods on one server, servers that are killed."""

import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from .daemon import Daemon, nothing_left, wait_until
from .shims import alive, wait_for_end

pytestmark = pytest.mark.requires("root")
LIFE = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


def test_output_and_exit_code(daemon: Daemon, name: str) -> None:
    since = len(daemon.log())
    done = daemon.run(name, "sh", "-c", "echo hello; echo wrong >&2; sleep 0.3; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "wrong\n")
    assert daemon.events(since) == LIFE


def test_standard_input(daemon: Daemon, name: str) -> None:
    # not `cat`: ctr keeps its end open, under every shim
    done = daemon.run(name, "sh", "-c", "head -n 2; sleep 0.3", stdin=None, input="some\nlines\n")
    assert (done.returncode, done.stdout) == (0, "some\nlines\n")


def test_much_output(daemon: Daemon, name: str) -> None:
    done = daemon.run(name, "sh", "-c", "seq 1 200000; sleep 0.5")
    assert done.stdout.count("\n") == 200000


def test_a_program_that_is_not_there(daemon: Daemon, name: str) -> None:
    done = daemon.run(name, "nosuchprogram")
    assert done.returncode != 0
    assert "OCI runtime create failed" in done.stderr and "executable file not found in $PATH" in done.stderr


def on_a_terminal(argv: list[str], until: bytes, seconds: float = 30) -> bytes:
    """What a command prints on a terminal of its own, up to some words or its end."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)
    got = b""
    deadline = time.monotonic() + seconds
    try:
        while until not in got and time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    got += os.read(master, 4096)
                except OSError:
                    break
    finally:
        os.close(master)
    _, status = os.waitpid(pid, 0)
    return got + b"[%d]" % os.waitstatus_to_exitcode(status) if b"[" not in until else got


def test_a_terminal(daemon: Daemon, name: str) -> None:
    argv = [daemon.ctr_command, "-a", daemon.socket, "run", "--rm", "--tty", "--runtime", "io.containerd.wherry.v2", "--rootfs", str(daemon.rootfs), name]
    out = on_a_terminal([*argv, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty; sleep 0.3; exit 5"], b"never")
    assert b"/dev/pts/0\r" in out and out.endswith(b"[5]")


def test_exec(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sleep", "1000")
    since = len(daemon.log())
    done = daemon.ctr("task", "exec", "--exec-id", "e1", name, "sh", "-c", "echo inside; sleep 0.3; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "inside\n")
    done = daemon.ctr("task", "exec", "--exec-id", "e2", name, "nosuchprogram", check=False)
    assert done.returncode != 0 and "OCI runtime exec failed" in done.stderr
    assert daemon.events(since)[:3] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_exec_on_a_terminal(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sleep", "1000")
    out = on_a_terminal([daemon.ctr_command, "-a", daemon.socket, "task", "exec", "--tty", "--exec-id", "t", name, "sh", "-c", "tty; sleep 0.3; exit 6"], b"never")
    assert b"/dev/pts/0\r" in out and out.endswith(b"[6]")


def test_pause_and_resume(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sleep", "1000")
    since = len(daemon.log())
    daemon.ctr("task", "pause", name)
    assert daemon.tasks()[name] == "PAUSED"
    done = daemon.ctr("task", "exec", "--exec-id", "e", name, "true", check=False)
    assert done.returncode != 0 and "cannot exec in a paused" in done.stderr
    daemon.ctr("task", "resume", name)
    assert daemon.tasks()[name] == "RUNNING"
    assert daemon.events(since) == ["/tasks/paused", "/tasks/resumed"]


def test_metrics_and_processes(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    wait_until(lambda: len(daemon.ctr("task", "ps", name).stdout.splitlines()) == 4, "three processes")
    metrics = daemon.ctr("task", "metrics", name).stdout
    assert re.search(r"^pids\.current +3", metrics, re.M), metrics
    assert re.search(r"^(memory\.usage_in_bytes|memory\.usage) +[1-9]", metrics, re.M), metrics


@pytest.mark.parametrize(("number", "expected"), [("TERM", 128 + 15), ("KILL", 128 + 9)])
def test_kill(daemon: Daemon, name: str, number: str, expected: int) -> None:
    since = len(daemon.log())
    waiting: list[int] = []
    # a shell is PID 1 here: it gets TERM only because it has a handler for it
    thread = threading.Thread(target=lambda: waiting.append(daemon.run(name, "sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done").returncode))
    thread.start()
    wait_until(lambda: daemon.tasks().get(name) == "RUNNING", "a running task")
    time.sleep(0.3)
    daemon.ctr("task", "kill", "--signal", number, name)
    thread.join(30)
    assert waiting == [expected]
    assert daemon.events(since) == LIFE
    assert "not found" in daemon.ctr("task", "kill", name, check=False).stderr


def test_a_stopped_task_waits_for_its_delete(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sh", "-c", "exit 9")
    wait_until(lambda: daemon.tasks().get(name) == "STOPPED", "a stopped task")
    assert "exit_status" not in (done := daemon.ctr("task", "rm", name, check=False)).stdout
    assert done.returncode == 9 or "9" in done.stderr
    assert name not in daemon.tasks()


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_containerd_restarts(daemon: Daemon, name: str, count: int, how: int) -> None:
    names = [f"{name}-{number}" for number in range(count)]
    for one in names:
        daemon.detached(one, "sh", "-c", "sleep 1000")
    pids = {one: daemon.pid(one) for one in names}
    shims = {one: daemon.shim(one) for one in names}
    daemon.stop(how)
    daemon.start()
    try:
        assert {one: state for one, state in daemon.tasks().items() if one in names} == dict.fromkeys(names, "RUNNING")
        for one in names:
            assert (daemon.pid(one), daemon.shim(one)) == (pids[one], shims[one])
            assert daemon.ctr("task", "exec", "--exec-id", "e", one, "sh", "-c", "echo on; sleep 0.3").stdout == "on\n"
    finally:
        for one in names:
            daemon.remove(one)
            nothing_left(daemon, one)


def test_an_exit_while_containerd_is_away(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sh", "-c", "sleep 1000")
    pid = daemon.pid(name)
    since = len(daemon.log())
    daemon.stop()
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    time.sleep(0.5)
    daemon.start()
    wait_until(lambda: "/tasks/exit" in daemon.events(since), "the exit event")
    assert daemon.tasks()[name] == "STOPPED"
    assert "exit code 137" in daemon.ctr("task", "rm", name, check=False).stderr


def test_a_pod_has_one_server(daemon: Daemon, name: str) -> None:
    names = [f"{name}-{number}" for number in range(3)]
    annotations = ("--annotation", f"io.kubernetes.cri.sandbox-id={names[0]}")
    try:
        for one in names:
            daemon.detached(one, "sleep", "1000", options=annotations)
        assert len({daemon.shim(one) for one in names}) == 1
        server = daemon.shim(names[0])
        daemon.remove(names[1])
        nothing_left(daemon, names[1])
        assert {one: state for one, state in daemon.tasks().items() if one in names} == {names[0]: "RUNNING", names[2]: "RUNNING"}
        assert alive(server)
        daemon.ctr("task", "exec", "--exec-id", "e", names[2], "true")
    finally:
        for one in names:
            daemon.remove(one)
    wait_for_end(server)
    for one in names:
        nothing_left(daemon, one)


def test_a_killed_server_takes_its_container_along(daemon: Daemon, name: str) -> None:
    """containerd's rule: no shim, no task. It ends with the right code, and nothing stays."""
    daemon.detached(name, "sleep", "1000")
    pid, server = daemon.pid(name), daemon.shim(name)
    socket = (daemon.bundle(name) / "address").read_text().removeprefix("unix://")
    with subprocess.Popen([daemon.ctr_command, "-a", daemon.socket, "events"], stdout=subprocess.PIPE, text=True) as events:
        time.sleep(0.5)
        os.kill(server, signal.SIGKILL)
        wait_for_end(pid)
        wait_until(lambda: not daemon.bundle(name).exists(), "the bundle is taken away")
        wait_until(lambda: name not in daemon.tasks(), "the task is forgotten")
        events.terminate()
        lines = [line for line in events.stdout if name in line]
    assert [line.split()[5] for line in lines] == ["/tasks/exit", "/tasks/delete"]
    assert all('"exit_status":137' in line and f'"pid":{pid}' in line for line in lines)
    assert not Path(socket).exists()


def test_a_killed_pod_server_takes_its_containers_along(daemon: Daemon, name: str) -> None:
    names = [f"{name}-{number}" for number in range(2)]
    for one in names:
        daemon.detached(one, "sleep", "1000", options=("--annotation", f"io.kubernetes.cri.sandbox-id={names[0]}"))
    pids = [daemon.pid(one) for one in names]
    os.kill(daemon.shim(names[0]), signal.SIGKILL)
    for pid in pids:
        wait_for_end(pid)
    wait_until(lambda: not set(names) & set(daemon.tasks()), "the tasks are forgotten")
    for one in names:
        daemon.remove(one)
        nothing_left(daemon, one)


def test_the_same_id_again_and_again(daemon: Daemon, name: str) -> None:
    for number in range(5):
        done = daemon.run(name, "sh", "-c", f"sleep 0.1; exit {number}")
        assert done.returncode == number, done.stderr


def test_many_at_one_time(daemon: Daemon, name: str) -> None:
    codes: dict[int, int] = {}

    def run(number: int) -> None:
        codes[number] = daemon.run(f"{name}-{number}", "sh", "-c", f"sleep 0.2; exit {number}").returncode

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == {number: number for number in range(5)}
    for number in range(5):
        nothing_left(daemon, f"{name}-{number}")
