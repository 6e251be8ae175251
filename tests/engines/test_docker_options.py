# SPDX-License-Identifier: Apache-2.0
"""Docker: what its options come to inside, and its verbs, in few containers."""

import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.console import read_until
from harness.runtime import wait_until

from .conftest import Engine

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]

INSIDE = """
echo user=$(id -u):$(id -g):$(id -G)
echo open=$(ulimit -n)
for set in CapEff CapBnd NoNewPrivs Seccomp; do echo $set=$(sed -n "s/^$set:.//p" /proc/self/status); done
touch /here 2>/dev/null && echo root=writable || echo root=read-only
touch /scratch/here && echo scratch=writable
echo size=$(df -k /scratch | tail -n 1 | awk '{print $2}')
touch /data/here 2>/dev/null && echo volume=writable || echo volume=$(cat /data/note)
head -c 4 /dev/other | od -An -tx1
test -e /dev/null && echo first=$(cat /proc/1/comm)
mkdir /tmp/x 2>/dev/null && echo mkdir=allowed || echo mkdir=refused
echo host=$(hostname) where=$(pwd) colour=$COLOUR
"""


def limit(name: str, v1: str, v2: str) -> str:
    return f"cat /sys/fs/cgroup/{v1}/{name} /sys/fs/cgroup/{v2} 2>/dev/null"


LIMITS = "; ".join((
    limit("memory.limit_in_bytes", "memory", "memory.max"),
    limit("pids.max", "pids", "pids.max"),
    limit("cpu.cfs_quota_us", "cpu", "cpu.max"),
    "true",
))  # fmt: skip


@pytest.fixture(scope="module")
def strict(docker: Engine, home: Path) -> Iterator[str]:
    """A container with all options at once, that runs."""
    (home / "strict").mkdir()
    (home / "strict" / "note").write_text("hello\n")
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}
    (home / "strict" / "seccomp.json").write_text(json.dumps(profile))
    docker(
        "run", "-d", *docker.options, "--name", "strict", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cap-drop", "ALL", "--cap-add", "CHOWN",
        "--read-only", "--tmpfs", "/scratch:size=1m,mode=1777", "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={home}/strict/seccomp.json",
        "--user", "1000:1001", "--group-add", "7", "--ulimit", "nofile=512:512", "--init", "--device", "/dev/zero:/dev/other:r", "-v", f"{home}/strict:/data:ro",
        "--hostname", "strict", "--workdir", "/tmp", "-e", "COLOUR=blue", "box", "sleep", "1000",
    )  # fmt: skip
    yield "strict"
    docker("rm", "--force", "strict", check=False)


def state(docker: Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", name).stdout)[0]["State"]
    return found


def test_what_it_comes_to_inside(docker: Engine, strict: str) -> None:
    lines = docker("exec", strict, "sh", "-c", INSIDE).stdout.splitlines()
    assert lines == [
        "user=1000:1001:1001 7",
        "open=512",
        "CapEff=0000000000000000",  # an ordinary user
        "CapBnd=0000000000000001",
        "NoNewPrivs=1",
        "Seccomp=2",
        "root=read-only",
        "scratch=writable",
        "size=1024",
        "volume=hello",
        " 00 00 00 00",
        "first=docker-init",
        "mkdir=refused",
        "host=strict where=/tmp colour=blue",
    ]


def test_limits_and_their_update(docker: Engine, strict: str) -> None:
    values = docker("exec", strict, "sh", "-c", LIMITS).stdout.split()
    assert values[:3] == [str(64 << 20), "50", "50000"]
    docker("update", "--memory", "96m", "--memory-swap", "96m", "--pids-limit", "60", "--cpus", "0.25", strict)
    values = docker("exec", strict, "sh", "-c", LIMITS).stdout.split()
    assert values[:3] == [str(96 << 20), "60", "25000"]


def test_exec_as_others(docker: Engine, strict: str) -> None:
    assert docker("exec", "--user", "0", "-w", "/data", "-e", "X=y", strict, "sh", "-c", "echo $(id -u) $(pwd) $X").stdout == "0 /data y\n"
    done = docker("exec", "--privileged", "--user", "0", strict, "grep", "CapEff", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) > 1 << 30
    assert docker("exec", "-i", strict, "cat", input="through the pipe").stdout == "through the pipe"
    assert docker("exec", strict, "nosuchprogram", check=False).returncode in (126, 127)
    docker("exec", "-d", strict, "sleep", "777")
    wait_until(lambda: "sleep 777" in docker("top", strict).stdout, "the detached exec")


def test_top_and_stats(docker: Engine, strict: str) -> None:
    table = docker("top", strict, "-o", "pid,args").stdout.splitlines()
    assert table[0].split() == ["PID", "COMMAND"] and any("sleep 1000" in line for line in table)
    found = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", strict).stdout)
    assert int(found["PIDs"]) >= 2 and not found["MemUsage"].startswith("0B")


def test_pause(docker: Engine, strict: str) -> None:
    docker("pause", strict)
    try:
        assert state(docker, strict)["Paused"] is True
        done = docker("exec", strict, "true", check=False)
        assert done.returncode != 0 and "paused" in done.stderr
    finally:
        docker("unpause", strict)
    assert docker("exec", strict, "echo", "again").stdout == "again\n"


def test_restart_kill_and_events(docker: Engine) -> None:
    begun = str(int(time.time()) - 1)
    docker("run", "-d", *docker.options, "--name", "told", "--init", "--stop-signal", "TERM", "box", "sleep", "1000")
    try:
        docker("restart", "--time", "5", "told")
        assert state(docker, "told")["Running"] is True
        docker("stop", "--time", "5", "told")
        assert state(docker, "told")["ExitCode"] == 143
        docker("start", "told")
        docker("exec", "told", "true")
        docker("kill", "--signal", "KILL", "told")
        wait_until(lambda: state(docker, "told")["Status"] == "exited", "the end")
        assert state(docker, "told")["ExitCode"] == 137
    finally:
        docker("rm", "--force", "told")
    words = docker("events", "--since", begun, "--until", str(int(time.time()) + 1), "--filter", "container=told", "--format", "{{.Action}}").stdout
    for action in ("create", "start", "restart", "stop", "exec_start: true", "exec_die", "kill", "die", "destroy"):
        assert action in words, words


def test_out_of_memory(docker: Engine) -> None:
    docker("run", *docker.options, "--name", "greedy", "--memory", "16m", "--memory-swap", "16m", "box", "sh", "-c", "x=a; while :; do x=$x$x; done", check=False)
    try:
        found = state(docker, "greedy")
        assert (found["ExitCode"], found["OOMKilled"]) == (137, True)
    finally:
        docker("rm", "--force", "greedy")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (125, ["--cpus", "1000", "box", "true"]),
        (126, ["box", "/tmp"]),
        (137, ["--init", "box", "sh", "-c", "kill -KILL $$"]),
        (143, ["--init", "box", "sh", "-c", "kill -TERM $$"]),
    ],
)
def test_exit_codes(docker: Engine, code: int, words: list[str]) -> None:
    done = docker.run(*words)
    assert done.returncode == code, done.stderr


def test_a_terminal(docker: Engine) -> None:
    master, slave = pty.openpty()
    argv = [*docker.prefix, "run", "--rm", "-it", *docker.options, "box", "sh", "-c", "tty; read line; echo got $line; stty size; exit 9"]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    read_until(master, "/dev/pts/0", 30)
    os.write(master, b"a line\n")
    read_until(master, "got a line", 30)
    assert process.wait(30) == 9
    os.close(master)
    os.close(slave)


def test_copies_and_the_filesystem(docker: Engine, strict: str, home: Path) -> None:
    (home / "copied").write_text("from the host\n")
    docker("run", "-d", *docker.options, "--name", "copies", "box", "sleep", "1000")
    try:
        docker("cp", str(home / "copied"), "copies:/copied")
        assert docker("exec", "copies", "cat", "/copied").stdout == "from the host\n"
        assert "A /copied" in docker("diff", "copies").stdout
        assert docker("commit", "copies", "changed:latest").returncode == 0
        assert docker.run("changed", "cat", "/copied").stdout == "from the host\n"
    finally:
        docker("rm", "--force", "copies")
