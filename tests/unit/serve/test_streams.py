# SPDX-License-Identifier: Apache-2.0
"""Files that are followed, cut and counted, without a container."""

import asyncio
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from wherry_shim.serve import records
from wherry_shim.serve.inotify import Watcher
from wherry_shim.serve.managed import merged
from wherry_shim.serve.streams import Follower, Input, Trimmer, input_count, oldest, tail


def quiet(level: str, text: str, **fields: object) -> None:
    return None


@given(st.lists(st.sampled_from([b"a", b"bb", b"\n"]), max_size=60), st.integers(0, 12))
def test_tail(parts: list[bytes], lines: int) -> None:
    import tempfile

    data = b"".join(parts)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        wanted = b"".join(data.splitlines(keepends=True)[-lines:]) if lines else b""
        assert data[tail(file.name, lines) :] == wanted


def test_holes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes([1]) * 100_000)
    os.sync()
    assert oldest(str(path)) == 0
    Trimmer(quiet).trim_file(str(path), 20_000)
    first = oldest(str(path))
    assert path.stat().st_size == 100_000 and 76_000 <= first <= 80_000 and first % 4096 == 0
    assert tail(str(path), 5) == first


def test_follow(tmp_path: Path) -> None:
    """To the last byte that was written before the end."""
    path = tmp_path / "log"
    path.write_bytes(b"begin ")

    async def everything() -> None:
        watcher, over = Watcher(), False
        watcher.open()
        follower = Follower(watcher, str(path), 0, lambda: (over, None))
        found = b""

        async def read() -> None:
            nonlocal found
            async for offset, data in follower.chunks():
                assert offset == len(found)
                found += data

        task = asyncio.ensure_future(read())
        with open(path, "ab", buffering=0) as file:
            for number in range(50):
                file.write(b"%d " % number)
                await asyncio.sleep(0.001)
            file.write(b"end")
        over = True
        follower.wakened.set()
        await task
        assert found == path.read_bytes()
        watcher.close()

    asyncio.run(everything())


def test_input_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "stdin")
    os.mkfifo(path)

    async def everything() -> None:
        first = Input(path)
        assert not await first.write(b"nobody reads")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        assert await first.write(b"one")
        assert input_count(path) == first.count == 3
        second = Input(path)
        assert await second.write(b"four")
        assert first.count == second.count == 7
        task = asyncio.ensure_future(second.write(b"x" * 200_000))
        got = b""
        while len(got) < 200_007:
            await asyncio.sleep(0.001)
            try:
                got += os.read(reader, 65536)
            except BlockingIOError:
                continue
        assert await task and second.count == 200_007
        for one in (first, second):
            one.close()
        os.close(reader)

    asyncio.run(everything())


def test_records(tmp_path: Path) -> None:
    """Of older and newer servers; cut off; nested."""
    run = records.Run(run=3, exits=[records.Exit(3, 7, reason="exited")])
    path = tmp_path / "run.json"
    records.write(path, run, durable=True)
    assert records.read(path, records.Run) == run
    path.write_text('{"run": 4, "unknown": [1], "exits": [{"status": 1, "new": 2}]}')
    found = records.read(path, records.Run)
    assert found is not None and (found.run, found.exit) == (4, records.Exit(status=1))
    path.write_bytes(b'{"run": 4')
    assert records.read(path, records.Run) is None
    assert not list(tmp_path.glob("*.new"))


def test_environments() -> None:
    assert merged(["A=1", "B=2"], ["B=3", "C=4"]) == ["A=1", "B=3", "C=4"]
