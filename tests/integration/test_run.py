# SPDX-License-Identifier: Apache-2.0
"""Attached runs: exit codes, signals passed on, nothing left."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("containers")


@pytest.mark.v2
@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code(runtime: Runtime, bundle: Bundle, code: int) -> None:
    assert runtime.run(bundle.shell(f"exit {code}"), check=False).code == code


@pytest.mark.requires("root")
def test_exit_code_of_a_signal(runtime: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid")  # PID 1 of a namespace cannot kill itself
    assert runtime.run(bundle.shell("kill -KILL $$"), check=False).code == 137


def test_nothing_is_left_after_a_run(runtime: Runtime, bundle: Bundle) -> None:
    runtime.run(bundle.args("true"))
    assert runtime("list", "-q").out == ""


def test_keep(runtime: Runtime, bundle: Bundle) -> None:
    runtime.run(bundle.args("true"), "--keep")
    assert runtime.containers[-1].status == "stopped"


def test_children_of_pid_1_end_with_the_run(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.run(bundle.shell("sleep 1000 & exit 4"), check=False).code == 4


@contextmanager
def attached(runtime: Runtime, bundle: Bundle) -> "Iterator[subprocess.Popen[str]]":
    """A run whose program has said that it is ready; ended with the test, whatever happens."""
    bundle.save()
    container = runtime.new_id()
    process = runtime.popen("run", "--bundle", bundle.path, container)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
    finally:
        if process.poll() is None:
            runtime("delete", "--force", container, check=False)
        process.communicate(timeout=10)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "CONT"])
def test_signals_are_passed_on(runtime: Runtime, bundle: Bundle, name: str) -> None:
    with attached(runtime, bundle.shell(f"trap 'exit 7' {name}; echo ready; while :; do sleep 0.05; done")) as process:
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.wait(10) == 7


def test_two_signals_one_after_the_other(runtime: Runtime, bundle: Bundle) -> None:
    script = "trap 'echo usr1' USR1; trap 'exit 8' TERM; echo ready; while :; do sleep 0.05; done"
    with attached(runtime, bundle.shell(script)) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stdout and process.stdout.readline() == "usr1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 8


def test_kill_from_outside_ends_the_run(runtime: Runtime, bundle: Bundle) -> None:
    with attached(runtime, bundle.shell("echo ready; sleep 1000")) as process:
        (name,) = runtime("list", "-q").out.split()
        runtime("kill", name, "KILL")
        assert process.wait(10) == 137


def test_run_of_a_missing_program(runtime: Runtime, bundle: Bundle) -> None:
    result = runtime.run(bundle.args("/no/such/program"), check=False)
    assert result.code != 0
    assert "no such file or directory" in result.err.lower()


def test_run_waits_for_the_pid_file_reader(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.shell("sleep 0.2").save()
    process = runtime.popen("run", "--bundle", bundle.path, "--pid-file", place / "pid", runtime.new_id())
    wait_until((place / "pid").exists, "the pid file")
    assert (place / "pid").read_text().isdigit()
    process.communicate()
    assert process.returncode == 0
