# SPDX-License-Identifier: Apache-2.0
"""What a process that waits for long does with its memory."""

from wherry._native import lib


def rest(seconds: float, *fds: int) -> bool:
    """Until one of two descriptors at most is ready; False: not in this time (below 0 = for ever), or a signal came. The pages of the interpreter's
    and its libraries' files are let go of meanwhile."""
    return bool(lib.native_rest(fds, len(fds), int(seconds * 1000)))


def trim() -> None:
    """What was freed goes back to the kernel."""
    lib.native_trim()
