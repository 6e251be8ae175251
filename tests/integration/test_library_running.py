# SPDX-License-Identifier: Apache-2.0
"""wherry.Container: processes in it, pauses, limits and statistics of a container that runs."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.census import Census
from wherry import Config, Container, aio
from wherry.errors import DeadlineError, LaunchError, StateError

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2, pytest.mark.ours]


@pytest.fixture
def container(place: Path, session_directory: Path, bundle: Bundle) -> Iterator[Container]:
    root = place / "root"
    census = Census(f"{session_directory.name}-{place.name}", [root])
    config = Config.sandbox(bundle.rootfs, ["sleep", "1000"]).cgroup(f"/{session_directory.name}-{place.name}")
    with Container.create(config, "one", root) as container:
        container.start()
        before = len(os.listdir("/proc/self/fd"))
        yield container
        assert len(os.listdir("/proc/self/fd")) == before
    assert census.leftovers() == []


def test_exec(container: Container) -> None:
    done = container.exec(["sh", "-c", "cat; echo $A >&2; pwd; exit 3"], env={"A": "b"}, cwd="/tmp", input=b"in ")
    assert (done.code, done.out, done.err) == (3, b"in /tmp\n", b"b\n")
    assert container.exec(["id", "-u"], user=7).out == b"7\n"
    assert container.exec(["id", "-g"], user=(7, 8)).out == b"8\n"


def test_exec_fails(container: Container) -> None:
    with pytest.raises(LaunchError, match="executable file not found"):
        container.exec(["nonexistent"])
    with pytest.raises(DeadlineError) as caught:
        container.exec(["sh", "-c", "echo begun; exec sleep 1000"], timeout=1)
    assert caught.value.facts["out"] == b"begun\n"


def test_pause(container: Container) -> None:
    container.pause()
    assert container.status == "paused"
    with pytest.raises(StateError, match="paused container"):
        container.exec(["true"])
    container.resume()
    assert container.status == "running"


def test_processes_limits_and_statistics(container: Container) -> None:
    assert container.pid in container.processes()
    assert container.update({"pids": {"limit": 77}}) == []
    assert container.stats()["pids"]["limit"] == 77


# ---- the same for an event loop


def test_asyncio(container: Container) -> None:
    async def all_of_it() -> None:
        twin = aio.Container(container)
        done = await asyncio.gather(*(twin.exec(["sh", "-c", "cat; exit 4"], input=b"%d" % number) for number in range(4)))
        assert [(one.code, one.out) for one in done] == [(4, b"%d" % number) for number in range(4)]
        await twin.pause()
        assert twin.status == "paused"
        await twin.resume()
        assert await twin.processes() == [twin.pid]
        assert await twin.update({"pids": {"limit": 77}}) == []
        assert (await twin.stats())["pids"]["limit"] == 77

    asyncio.run(all_of_it())


def test_asyncio_exec_that_is_given_up(container: Container) -> None:
    async def cancelled() -> None:
        twin = aio.Container(container)
        with pytest.raises(DeadlineError) as caught:
            await twin.exec(["sh", "-c", "echo begun; exec sleep 1000"], timeout=1)
        assert caught.value.facts["out"] == b"begun\n"
        with pytest.raises(LaunchError, match="executable file not found"):
            await twin.exec(["nonexistent"])
        task = asyncio.ensure_future(twin.exec(["sleep", "1000"]))
        while len(await twin.processes()) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await twin.processes() == [twin.pid]

    asyncio.run(cancelled())
