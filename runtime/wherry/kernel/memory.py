# SPDX-License-Identifier: Apache-2.0
"""What a process that waits for long does with its memory."""

from wherry._native import ffi, lib

_RANGES = 512  # in a pipe that nobody reads yet as well


def rest(seconds: float, *fds: int) -> bool:
    """Until one of two descriptors at most is ready; False: not in this time (below 0 = for ever), or a signal came. The pages of the interpreter's
    and its libraries' files are let go of meanwhile."""
    return bool(lib.native_rest(fds, len(fds), int(seconds * 1000)))


def trim() -> None:
    """What was freed goes back to the kernel."""
    lib.native_trim()


def own_pages() -> bytes:
    """Those that this process has to itself, which is what it has written to since it was forked: for take_pages() of another fork. Nothing where the
    kernel does not tell."""
    ranges = ffi.new("uint64_t[]", _RANGES)
    count = lib.native_own_pages(ranges, _RANGES)
    return bytes(ffi.buffer(ranges)[: 8 * count])


def take_pages(ranges: bytes) -> None:
    """What a write would take a page fault for, each."""
    lib.native_take_pages(ranges, len(ranges) // 8)
