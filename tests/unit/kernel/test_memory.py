# SPDX-License-Identifier: Apache-2.0
"""Pages that a fork has written to, and that another one has before it does."""

import ctypes
import marshal
import mmap
import os
import struct
from collections.abc import Callable

import pytest

from wherry.kernel import memory

PAGE = mmap.PAGESIZE
PAGES = 8
WRITTEN = (2, 3, 5)


def in_fork(act: Callable[[], object]) -> object:
    reader, writer = os.pipe()
    pid = os.fork()  # noqa: TID251 - what a fork has is what this is about
    if not pid:
        try:
            os.write(writer, marshal.dumps(act()))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        found = marshal.loads(file.read())
    os.waitpid(pid, 0)
    return found


@pytest.fixture
def area() -> mmap.mmap:
    made = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    made[:] = b"x" * len(made)
    return made


def own(area: mmap.mmap) -> list[int]:
    """Which pages of it are this process's alone."""
    begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ranges = [range_ for (range_,) in struct.iter_unpack("Q", memory.own_pages())]
    pages = {(one & ~0xFFF) + number * PAGE for one in ranges for number in range((one & 0xFFF) + 1)}
    return [number for number in range(PAGES) if begin + number * PAGE in pages]


def test_a_fork_takes_what_another_has_written_to(area: mmap.mmap) -> None:
    def write() -> bytes:
        for number in WRITTEN:
            area[number * PAGE] = 1
        return memory.own_pages()

    def take(pages: bytes) -> list[int]:
        memory.take_pages(pages)
        return own(area)

    pages = in_fork(write)
    assert isinstance(pages, bytes)
    assert in_fork(lambda: take(b"")) == []
    assert in_fork(lambda: take(pages)) == list(WRITTEN)
    assert area[:] == b"x" * len(area)


def test_pages_that_are_not_there(area: mmap.mmap) -> None:
    """Of another process, or of this one before."""
    memory.take_pages((7 << 12 | 3).to_bytes(8, "little") + b"\xff" * 8)
    memory.take_pages(b"")
    assert area[:] == b"x" * len(area)
