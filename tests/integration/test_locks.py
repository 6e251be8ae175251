# SPDX-License-Identifier: Apache-2.0
"""Several verbs at once on one id, and on many."""

import threading
from collections.abc import Callable

import pytest

from harness.bundle import Bundle
from harness.runtime import Container, Runtime, wait_until

pytestmark = pytest.mark.requires("containers")


def at_once(count: int, action: Callable[[int], None]) -> None:
    """Runs action(0..count-1) in threads, and raises what one of them raised."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            action(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_parallel_creates_of_one_id(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    """Exactly one wins, and it is whole."""
    bundles = [make_bundle() for _ in range(6)]
    made: list[Container] = []
    at_once(6, lambda n: made.append(runtime.create(bundles[n], id="one-" + runtime.tag, check=False)))
    winners = [container for container in made if container.result.code == 0]
    assert len(winners) == 1
    losers = [container for container in made if container.result.code]
    assert all("already exists" in container.stderr for container in losers)
    winners[0].start()
    assert winners[0].status == "running"


def test_parallel_containers(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    bundles = [make_bundle().shell("exit 11") for _ in range(8)]
    codes: list[int] = []
    at_once(8, lambda n: codes.append(runtime.run(bundles[n], id=f"{runtime.tag}-p{n}", check=False).code))
    assert codes == [11] * 8


def test_parallel_starts(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    codes: list[int] = []
    at_once(5, lambda _: codes.append(runtime("start", container.id, check=False).code))
    assert sorted(codes) == [0, 1, 1, 1, 1]
    assert container.status == "running"


def test_parallel_deletes(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    at_once(5, lambda _: runtime("delete", "--force", container.id, check=False))
    assert not container.exists()


def test_state_and_kill_while_hooks_hold_create(runtime: Runtime, bundle: Bundle) -> None:
    """state answers at any time, even while create is busy."""
    gate = bundle.path / "gate"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"while ! [ -e {gate} ]; do sleep 0.02; done"], "env": ["PATH=/bin"]}]}
    bundle.save()
    name = runtime.new_id()
    with runtime.popen("create", "--bundle", bundle.path, name, stdin=None) as process:
        try:
            wait_until((runtime.root / name).exists, "the claim")
            answer = runtime("state", name, check=False)
            assert answer.err or answer.json()["status"] in ("creating", "created")
            assert answer.code == 0 or "does not exist" in answer.err
        finally:
            gate.touch()
            process.wait(20)
            runtime("delete", "--force", name, check=False)


def test_state_in_a_loop_against_a_life(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    """Whoever watches sees created, running, stopped or nothing, never a torn answer."""
    seen: set[str] = set()
    done = threading.Event()
    name = f"{runtime.tag}-watched"

    def watch() -> None:
        while not done.is_set():
            answer = runtime("state", name, check=False)
            seen.add(str(answer.json()["status"]) if answer.code == 0 else answer.err.strip())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(3):
            container = runtime.start_new(make_bundle().args("true"), id=name)
            container.wait()
            container.delete()
    finally:
        done.set()
        watcher.join()
    odd = {one for one in seen if one not in ("creating", "created", "running", "stopped") and "does not exist" not in one}
    assert not odd
