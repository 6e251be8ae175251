# SPDX-License-Identifier: Apache-2.0
"""The event log on its own: what is written is read, in order, once; over restarts, bounds, torn ends and full disks."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry_shim.serve import event_log
from wherry_shim.serve.errors import Refusal
from wherry_shim.serve.event_log import EventLog


def quiet(level: str, text: str, **fields: object) -> None:
    return None


def opened(place: Path, **more: Any) -> EventLog:
    log = EventLog(place, quiet, **more)
    log.open()
    return log


def numbers(log: EventLog, after: int = 0) -> list[int]:
    found = []
    while lines := log.read(after):
        found += [sequence for sequence, _ in lines]
        assert all(json.loads(line)["sequence"] == sequence for sequence, line in lines)
        after = found[-1]
    return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = opened(tmp_path / "events")
    yield log
    log.close()


def test_what_is_written_is_read(log: EventLog) -> None:
    assert [log.append({"id": "a", "number": number}) for number in range(10)] == list(range(1, 11))
    assert numbers(log) == list(range(1, 11)) and numbers(log, 7) == [8, 9, 10] and numbers(log, 10) == []
    log.close()
    again = opened(log.directory)
    assert numbers(again) == list(range(1, 11)) and again.epoch == log.epoch
    assert again.append({"id": "b"}) == 11
    again.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=60), st.integers(0, 5))
def test_bounds(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], restarts: int) -> None:
    """Segments go whole, the oldest first; what is left is without a gap, to the newest."""
    place = tmp_path_factory.mktemp("events")
    log = opened(place, limit=4000, segment=1000)
    for index, size in enumerate(sizes):
        log.append({"text": "x" * size})
        if restarts and index % (len(sizes) // restarts + 1) == 0:
            log.close()
            log = opened(place, limit=4000, segment=1000)
    found = numbers(log, log.oldest)
    assert found == list(range(log.oldest + 1, len(sizes) + 1)) and found
    assert log.size == sum(path.stat().st_size for path in place.iterdir()) <= 4000
    log.close()


def test_a_torn_end(log: EventLog) -> None:
    for _ in range(3):
        log.append({"id": "a"})
    log.close()
    path = next(log.directory.iterdir())
    for torn in (b'{"sequence":4,"id', b'{"sequence":4,"i\0\0\0\n', b"\0" * 50):
        with open(path, "ab") as file:
            file.write(torn)
        again = opened(log.directory)
        assert numbers(again) == [1, 2, 3]
        again.close()
    again = opened(log.directory)
    assert again.append({"id": "b"}) == 4
    again.close()
    path.write_bytes(b"")
    anew = opened(log.directory)
    assert anew.epoch != log.epoch and numbers(anew) == []
    anew.close()


def test_another_boot(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append({"id": "a"})
    log.close()
    monkeypatch.setattr(event_log, "boot_id", lambda: "another")
    again = opened(log.directory)
    assert again.epoch == log.epoch and again.append({"id": "b"}) > 1 << 20
    assert len(numbers(again)) == 2 and again.position(again.cursor(1)) == 1
    again.close()


def test_cursors(tmp_path: Path) -> None:
    log = opened(tmp_path / "events", limit=3000, segment=500)
    for number in range(100):
        log.append({"number": number})
    assert log.position(log.cursor(log.oldest)) == log.oldest
    for cursor in (log.cursor(0), "other-5", f"{log.epoch}-{1 << 50}"):
        with pytest.raises(Refusal) as refused:
            log.position(cursor)
        assert refused.value.code == StatusCode.OUT_OF_RANGE and refused.value.facts["oldest"] == log.cursor(log.oldest)
    for cursor in ("", "x", f"{log.epoch}-", f"{log.epoch}-x", "-".join(["9"] * 99)):
        with pytest.raises(Refusal) as refused:
            log.position(cursor)
        assert refused.value.code == StatusCode.INVALID_ARGUMENT
    log.close()


def test_a_full_disk(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, once there is room; nobody is told before."""
    log.append({"id": "a"})
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "write", full)
    assert [log.append({"id": "b"}), log.append({"id": "c"})] == [2, 3]
    assert log.full and numbers(log) == [1]
    monkeypatch.setattr(os, "write", write)
    assert log.retry() and numbers(log) == [1, 2, 3]
    log.close()
    again = opened(log.directory)
    assert numbers(again) == [1, 2, 3]
    again.close()


def test_replay_and_follow(log: EventLog) -> None:
    """Without a gap or a duplicate, wherever it begins."""

    async def follow(after: int) -> list[int]:
        subscription, found = log.subscribe(after), []
        async for sequence, _ in subscription.follow():
            found.append(sequence)
            await asyncio.sleep(0)
            if sequence == 60:
                break
        subscription.close()
        return found

    async def everything() -> None:
        for _ in range(30):
            log.append({"id": "a"})
        tasks = [asyncio.create_task(follow(after)) for after in (0, 7, 29, 30)]
        for _ in range(30):
            await asyncio.sleep(0.001)
            log.append({"id": "b"})
        assert [await task for task in tasks] == [list(range(after + 1, 61)) for after in (0, 7, 29, 30)]

    asyncio.run(everything())
    assert not log.subscriptions


def test_who_is_slow(tmp_path: Path) -> None:
    async def everything() -> None:
        log = opened(tmp_path / "events", backlog=5, patience=0.05)
        for _ in range(10):
            log.append({"id": "a"})
        cut: list[str] = []
        slow, idle = log.subscribe(0), log.subscribe(log.newest)
        slow.on_slow, idle.on_slow = lambda: cut.append("slow"), lambda: cut.append("idle")
        waits = asyncio.ensure_future(anext(aiter(idle.follow())))
        reader = slow.follow()
        await anext(reader)
        await asyncio.sleep(0.1)
        for _ in range(10):
            log.append({"id": "b"})
        assert cut == ["slow"] and (await waits)[0] == 11
        await reader.aclose()
        log.close()

    asyncio.run(everything())
