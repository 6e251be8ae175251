# SPDX-License-Identifier: Apache-2.0
"""Docker, whose default runtime is wherry."""

import json

import pytest

from .conftest import Engine

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


def test_output_and_environment(docker: Engine) -> None:
    done = docker.run("-e", "COLOUR=blue", "box", "sh", "-c", "echo $COLOUR; id -u")
    assert (done.returncode, done.stdout) == (0, "blue\n0\n"), done.stderr


@pytest.mark.parametrize("code", [0, 1, 37])
def test_exit_codes(docker: Engine, code: int) -> None:
    assert docker.run("box", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize(("program", "code"), [("/no/such/program", 127), ("nosuchprogram", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_run(docker: Engine, program: str, code: int) -> None:
    done = docker.run("box", program)
    assert done.returncode == code, done.stderr


def test_limits_are_applied(docker: Engine) -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; grep Seccomp: /proc/self/status"
    done = docker.run("--memory", "64m", "box", "sh", "-c", script)
    assert done.stdout.split() == [str(64 << 20), "Seccomp:", "2"], done.stderr


def test_a_life_in_the_background(docker: Engine) -> None:
    docker("run", "-d", *docker.options, "--name", "life", "box", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done")
    try:
        assert docker("exec", "life", "sh", "-c", "echo inside").stdout == "inside\n"
        assert docker("exec", "life", "sh", "-c", "exit 4", check=False).returncode == 4
        docker("pause", "life")
        assert json.loads(docker("inspect", "life").stdout)[0]["State"]["Status"] == "paused"
        docker("unpause", "life")
        docker("stop", "--time", "10", "life")
        assert json.loads(docker("inspect", "life").stdout)[0]["State"]["ExitCode"] == 5
        assert docker("logs", "life").stdout == "up\n"
    finally:
        docker("rm", "--force", "life")
