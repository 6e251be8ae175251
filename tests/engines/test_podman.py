# SPDX-License-Identifier: Apache-2.0
"""Podman through conmon, and its builder, which is Buildah."""

import json
from pathlib import Path

import pytest

from .conftest import Engine

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


def test_output_and_environment(podman: Engine) -> None:
    done = podman.run("-e", "COLOUR=blue", "-w", "/tmp", "box", "sh", "-c", "echo $COLOUR; pwd; id -u")
    assert (done.returncode, done.stdout) == (0, "blue\n/tmp\n0\n")
    assert done.stderr == ""


@pytest.mark.parametrize("code", [0, 1, 37])
def test_exit_codes(podman: Engine, code: int) -> None:
    assert podman.run("box", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143)])
def test_death_by_a_signal(podman: Engine, signal: str, code: int) -> None:
    """PID 1 ignores what it has no handler for: the signal hits its child, whose status it passes on."""
    assert podman.run("box", "sh", "-c", f"sh -c 'kill -{signal} $$'; exit $?").returncode == code


@pytest.mark.parametrize(("program", "code"), [("/no/such/program", 127), ("nosuchprogram", 127), ("/etc/passwd", 126), ("/tmp", 126)])
def test_a_program_that_cannot_run(podman: Engine, program: str, code: int) -> None:
    done = podman.run("box", program)
    assert done.returncode == code, done.stderr


def test_stdin(podman: Engine) -> None:
    assert podman.run("-i", "box", "cat", input="over the wire").stdout == "over the wire"


def test_limits_user_volume_and_read_only_root(podman: Engine, home: Path) -> None:
    (home / "volume").mkdir(exist_ok=True)
    (home / "volume" / "note").write_text("hello\n")
    script = "id -u; cat /data/note; touch /x 2>/dev/null || echo read-only; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    done = podman.run("--user", "1000", "--memory", "64m", "--read-only", "-v", f"{home}/volume:/data:ro", "box", "sh", "-c", script)
    assert done.stdout.split() == ["1000", "hello", "read-only", str(64 << 20)], done.stderr


def test_the_default_seccomp_profile_and_capabilities(podman: Engine) -> None:
    done = podman.run("box", "grep", "-E", "Seccomp:|CapInh|NoNewPrivs", "/proc/self/status")
    facts = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert facts["Seccomp"] == "2"
    assert int(facts["CapInh"], 16) == 0


def test_a_life_in_the_background(podman: Engine) -> None:
    name = podman("run", "-d", *podman.options, "--name", "life", "box", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done").stdout.strip()
    try:
        assert json.loads(podman("inspect", name).stdout)[0]["State"]["Status"] == "running"
        assert podman("exec", "life", "sh", "-c", "echo inside; exit 0").stdout == "inside\n"
        assert podman("exec", "life", "sh", "-c", "exit 4", check=False).returncode == 4
        podman("stop", "--time", "10", "life")
        assert json.loads(podman("inspect", name).stdout)[0]["State"]["ExitCode"] == 5
        assert podman("logs", "life").stdout == "up\n"
    finally:
        podman("rm", "--force", "--time", "0", "life")


def test_build(podman: Engine, home: Path) -> None:
    context = home / "build"
    context.mkdir(exist_ok=True)
    (context / "Containerfile").write_text("FROM box\nRUN echo built >/made && test $(id -u) = 0\nCMD cat /made\n")
    podman("build", "--isolation", "oci", "--network", "none", "-t", "built", *[f"--ulimit={word}" for word in ("nofile=1024:1024", "nproc=1024:1024")], str(context))
    assert podman.run("built").stdout == "built\n"
