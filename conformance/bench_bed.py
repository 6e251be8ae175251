# SPDX-License-Identifier: Apache-2.0
"""A host on which every runtime can be measured: Debian's crun refuses a hybrid hierarchy while a controller stands in the v2 tree.

In a mount namespace of its own, each controller that is left in the v2 tree (hugetlb, usually) is mounted as a v1 hierarchy. Nothing
of the host's mounts is changed; the hierarchies and the directories made for them are gone when the bench ends.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x44000
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@contextmanager
def bed() -> Iterator[list[str]]:
    """Yields the controllers that were mounted. The caller must be root, single-threaded, and stay in this process."""
    left = CGROUPS / "unified" / "cgroup.controllers"
    controllers = left.read_text().split() if left.exists() else []
    if not controllers:
        yield []
        return
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, MS_REC_PRIVATE, None), "make / private")
    made: list[Path] = []
    mounted: list[Path] = []
    try:
        for name in controllers:
            place = CGROUPS / name
            if not place.exists():  # or another bed's, which is not ours to remove
                place.mkdir()
                made.append(place)
            mounted.append(place)
            _check(_libc.mount(b"cgroup", bytes(place), b"cgroup", 0, name.encode()), f"mount {name}")
        yield controllers
    finally:
        for place in mounted:
            _libc.umount2(bytes(place), MNT_DETACH)
        for place in made:
            place.rmdir()
