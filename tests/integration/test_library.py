# SPDX-License-Identifier: Apache-2.0
"""wherry.Container and wherry.aio.Container: events, waiting, opening, in threads and event loops, without a leaked descriptor."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.census import Census
from harness.runtime import wait_until
from wherry import Config, Container, Event, aio, run
from wherry.errors import DeadlineError, ExistsError, NotFoundError, StateError, UsageError

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]

Make = Callable[..., Container]


@pytest.fixture
def root(place: Path, session_directory: Path, bundle: Bundle) -> Iterator[Path]:
    root = place / "root"
    run(Config.sandbox(bundle.rootfs, ["true"]), root=root)  # what is opened once for the life of the process
    census, before = Census(f"{session_directory.name}-{place.name}", [root]), len(os.listdir("/proc/self/fd"))
    yield root
    assert census.leftovers() == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def config(bundle: Bundle, place: Path, session_directory: Path) -> Callable[[str], Config]:
    """A shell script, in a cgroup that the census knows."""
    return lambda script: Config.sandbox(bundle.rootfs, ["sh", "-c", script]).cgroup(f"/{session_directory.name}-{place.name}")


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


Script = Callable[[str], Config]


@pytest.mark.v2
def test_events_as_they_happen(root: Path, config: Script) -> None:
    with Container.create(config("exit 7"), "c", root) as container:
        events = container.events(timeout=20)
        assert next(events) == Event("created")
        threading.Timer(0.1, container.start).start()
        assert list(events) == [Event("started"), Event("exited", 7)]
        assert kinds(list(container.events())) == ["created", "started", "exited"]


def test_warnings_of_a_create(root: Path, config: Script) -> None:
    """What the command line logs, each time: the second create of a configuration finds no plan that has forgotten them."""
    dubious = config("true").set("/linux/personality", {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}).capabilities("CAP_OF_TOMORROW")
    for _ in range(3):
        with Container.create(dubious, "c", root) as container:
            assert {warning.pointer for warning in container.warnings} >= {"/linux/personality/flags", "/process/capabilities/bounding/0"}
            assert any("CAP_OF_TOMORROW" in warning for warning in container.warnings)
            assert Container.open("c", root).warnings == ()
            number = len(container.warnings)
    assert len(run(dubious, root=root).warnings) == number
    with Container.create(config("true"), "c", root) as container:
        assert container.warnings == ()

    async def main() -> int:
        async with await aio.Container.create(dubious, "c", root) as container:
            found = len(container.warnings)
        return found + len((await aio.run(dubious, root=root)).warnings)

    assert asyncio.run(main()) == 2 * number


def test_events_of_somebody_else(root: Path, config: Script) -> None:
    with Container.create(config("sleep 0.3"), "c", root) as container:
        container.start()
        assert list(Container.open("c", root).events(20)) == [Event("created"), Event("started"), Event("exited")]


def test_killed_before_its_start(root: Path, config: Script) -> None:
    with Container.create(config("true"), "c", root) as container:
        container.kill("KILL")
        assert list(container.events(20)) == [Event("created"), Event("exited", 137)]


@pytest.mark.v2
@pytest.mark.requires("controller:memory")
def test_event_of_want_of_memory(root: Path, config: Script) -> None:
    script = config("tail -c 100m /dev/zero; sleep 0.3; exit 3").memory("16M")
    with Container.create(script, "c", root) as container:
        container.start()
        assert kinds(list(container.events(20))) == ["created", "started", "oom", "exited"]


def test_nothing_happens(root: Path, config: Script) -> None:
    with Container.create(config("sleep 1000"), "c", root) as container:
        with pytest.raises(DeadlineError):
            list(container.events(timeout=0.1))
        with pytest.raises(DeadlineError):
            container.wait(timeout=0.1)


def test_events_let_go_of(root: Path, config: Script) -> None:
    with Container.create(config("sleep 1000"), "c", root) as container:
        for _ in range(20):
            assert next(container.events()).kind == "created"


def test_usage(root: Path, config: Script) -> None:
    with Container.create(config("exit 3"), "c", root) as container:
        assert container.ended() is None
        container.start()
        assert container.wait(20) == 3
        ended = container.ended()
        assert ended is not None and ended.code == 3 and ended.usage.max_rss > 0


def test_many_threads_wait_for_one(root: Path, config: Script) -> None:
    codes: list[int | None] = []
    with Container.create(config("sleep 0.3; exit 9"), "c", root) as container:
        threads = [threading.Thread(target=lambda: codes.append(container.wait(20))) for _ in range(16)]
        for thread in threads:
            thread.start()
        container.start()
        for thread in threads:
            thread.join()
    assert codes == [9] * 16


def test_deleted_while_threads_wait(root: Path, config: Script) -> None:
    codes: list[int | None] = []
    container = Container.create(config("sleep 1000"), "c", root)
    threads = [threading.Thread(target=lambda: codes.append(container.wait(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    container.start()
    container.delete(force=True)
    for thread in threads:
        thread.join()
    assert codes == [137] * 8
    assert container.wait() == 137
    with pytest.raises(NotFoundError):
        container.state()


def test_list_and_open(root: Path, config: Script) -> None:
    assert [found.id for found in Container.list(root)] == []
    with Container.create(config("true"), "one", root), Container.create(config("true").cgroup(None), "two", root):
        assert [found.id for found in Container.list(root)] == ["one", "two"]
        assert Container.open("two", root).status == "created"
        with pytest.raises(ExistsError):
            Container.create(config("true"), "one", root)
    with pytest.raises(NotFoundError):
        Container.open("one", root)


def test_somebody_elses_status_is_not_ours(root: Path, config: Script) -> None:
    with Container.create(config("exit 3"), "c", root) as container:
        other = Container.open("c", root)
        container.start()
        assert other.wait(20) is None and other.ended() is None
        assert container.wait(20) == 3


def test_let_go_of_without_deleting(root: Path, config: Script) -> None:
    container = Container.create(config("sleep 1000"), "c", root)
    pid = container.pid
    del container
    other = Container.open("c", root)
    assert other.pid == pid
    other.delete(force=True)
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], "the end of a child that nobody waits for")


def test_what_a_state_refuses(root: Path, config: Script) -> None:
    with Container.create(config("true"), "c", root) as container:
        container.start()
        container.wait(20)
        with pytest.raises(StateError):
            container.start()
        with pytest.raises(StateError):
            container.kill()


def test_run_takes_no_args_for_a_config(root: Path, config: Script) -> None:
    with pytest.raises(UsageError):
        run(config("true"), ["other"], root=root)


def test_run_tells_what_was_printed_before_the_deadline(root: Path, config: Script) -> None:
    with pytest.raises(DeadlineError) as caught:
        run(config("echo begun; sleep 1000"), root=root, timeout=0.5)
    assert caught.value.facts["out"] == b"begun\n"


# ---- asyncio


def test_aio_run(root: Path, config: Script) -> None:
    done = asyncio.run(aio.run(config("cat; echo no >&2; exit 4"), input=b"given", root=root))
    assert (done.code, done.out, done.err) == (4, b"given", b"no\n")


def test_aio_run_deadline(root: Path, config: Script) -> None:
    with pytest.raises(DeadlineError) as caught:
        asyncio.run(aio.run(config("echo begun; sleep 1000"), root=root, timeout=0.5))
    assert caught.value.facts["out"] == b"begun\n"


def test_aio_life(root: Path, config: Script) -> None:
    async def main() -> tuple[list[str], list[int | None]]:
        async with await aio.Container.create(config("sleep 0.2; exit 5"), "c", root) as container:
            assert (container.status, [found.id for found in await aio.Container.list(root)]) == ("created", ["c"])
            waiting = [asyncio.create_task(container.wait(20)) for _ in range(5)]
            seen = []
            async for event in container.events(20):
                seen.append(event.kind)
                if event.kind == "created":
                    await container.start()
            return seen, await asyncio.gather(*waiting)

    assert asyncio.run(main()) == (["created", "started", "exited"], [5] * 5)


def test_aio_wait_deadline_and_kill(root: Path, config: Script) -> None:
    async def main() -> int | None:
        async with await aio.Container.create(config("sleep 1000"), "c", root) as container:
            await container.start()
            with pytest.raises(DeadlineError):
                await container.wait(0.1)
            await container.kill("KILL")
            return await container.wait(20)

    assert asyncio.run(main()) == 137


def test_aio_create_cancelled(root: Path, config: Script) -> None:
    async def main() -> None:
        for step in range(10):
            task = asyncio.create_task(aio.Container.create(config("true"), "c", root))
            await asyncio.sleep(step / 1000)
            task.cancel()
            try:
                await (await task).delete(force=True)
            except asyncio.CancelledError:
                continue

    asyncio.run(main())
