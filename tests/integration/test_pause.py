# SPDX-License-Identifier: Apache-2.0
"""pause and resume: nothing of the container runs in between, and every verb knows."""

import time
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Container, Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2]

COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; usleep 2000; done"


@pytest.fixture
def counting(runtime: Runtime, bundle: Bundle) -> Container:
    container = runtime.start_new(bundle.shell(COUNTER))
    wait_until(lambda: count(container), "the first count")
    return container


def count(container: Container) -> str:
    path = container.in_mount_namespace("/tmp/count")
    return path.read_text() if path.exists() else ""


def moves(container: Container) -> bool:
    before = count(container)
    time.sleep(0.1)
    return count(container) != before


def test_pause_and_resume(runtime: Runtime, counting: Container) -> None:
    assert moves(counting)
    result = runtime("pause", counting.id)
    assert (result.out, result.err) == ("", "") and counting.status == "paused"
    assert not moves(counting)
    runtime("resume", counting.id)
    assert counting.status == "running"
    wait_until(lambda: moves(counting), "the count to go on")


def test_children_too(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.shell(f"({COUNTER}) & wait"))
    wait_until(lambda: count(container), "the first count")
    runtime("pause", container.id)
    assert not moves(container)


def test_a_created_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    runtime("pause", container.id)
    assert container.status == "paused"
    result = container.start(check=False)
    assert result.code == 1 and "cannot start" in result.err
    runtime("resume", container.id)
    assert container.status == "created"
    container.start()


def test_twice(runtime: Runtime, counting: Container) -> None:
    result = runtime("resume", counting.id, check=False)
    assert result.code == 1 and "container not paused" in result.err
    runtime("pause", counting.id)
    assert runtime("pause", counting.id, check=False).code == 1
    assert counting.status == "paused"


@pytest.mark.ours
def test_a_stopped_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    wait_until(lambda: container.status == "stopped", "the end")
    for verb in ("pause", "resume"):
        result = runtime(verb, container.id, check=False)
        assert result.code == 1 and "container not running" in result.err


def test_an_unknown_container(runtime: Runtime) -> None:
    for verb in ("pause", "resume"):
        result = runtime(verb, "nobody", check=False)
        assert result.code == 1 and "does not exist" in result.err


def test_kill_of_a_paused_container(runtime: Runtime, counting: Container) -> None:
    runtime("pause", counting.id)
    counting.kill("KILL")
    wait_until(lambda: counting.status == "stopped", "the end")


def test_delete_force_of_a_paused_container(runtime: Runtime, counting: Container, place: Path) -> None:
    runtime("pause", counting.id)
    result = counting.delete(check=False)
    assert result.code == 1 and "that is not stopped: paused" in result.err
    counting.delete("--force")
    assert not counting.exists()
