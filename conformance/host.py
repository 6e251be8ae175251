# SPDX-License-Identifier: Apache-2.0
"""What cases may change of the host is not the host's: mounts and network devices of this process's own.

Suites run as root, some of their containers share the host's namespaces, and a case that fails leaves what it made.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x2000, 0x4000, 0x40000, 0x100000
MNT_DETACH = 2
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
CGROUPS = Path("/sys/fs/cgroup")
WANTED = ("hugetlb", "net_cls", "net_prio")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def own_namespaces() -> None:
    """The propagation of / stays what it was, among peers of its own. The network has lo and one pair of devices."""
    shared = any(line.split()[4] == "/" and " shared:" in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
    _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
    _own_hierarchies()
    if shared:
        _check(_libc.mount(None, b"/", None, MS_REC | MS_SHARED, None), "make / shared")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    if shutil.which("ip"):
        subprocess.run(["ip", "link", "add", "suite0", "type", "veth", "peer", "name", "suite1"], stderr=subprocess.DEVNULL)


def own_null() -> None:
    """runc 1.1 gives its stdin to the root of a user namespace. That is /dev/null, often; so it gets a /dev/null of ours."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
    place = Path(tempfile.mkdtemp())
    _check(_libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"mode=755"), "mount a tmpfs")
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (place / "null").chmod(0o666)
    _check(_libc.mount(bytes(place / "null"), b"/dev/null", None, MS_BIND, None), "bind /dev/null")
    _check(_libc.umount2(bytes(place), MNT_DETACH), "unmount")
    place.rmdir()


def _own_hierarchies() -> None:
    """On cgroup v1, the directory of the hierarchies: cases make directories in it for controllers that have none."""
    if not (CGROUPS / "memory/tasks").exists():
        return
    place = Path(tempfile.mkdtemp())
    _check(_libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"mode=755"), "mount a tmpfs")
    for entry in CGROUPS.iterdir():
        if entry.is_symlink():
            (place / entry.name).symlink_to(entry.readlink())
        elif entry.is_mount():
            (place / entry.name).mkdir()
            _check(_libc.mount(bytes(entry), bytes(place / entry.name), None, MS_MOVE, None), f"move {entry}")
    _check(_libc.mount(bytes(place), bytes(CGROUPS), None, MS_MOVE, None), f"move a tmpfs to {CGROUPS}")
    place.rmdir()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP unwind, so that what cleans up does; the first one, once."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def end(number: int, _: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def remove_cgroups(names: Sequence[str]) -> None:
    """The parents of cgroups that a suite makes and leaves: empty ones of these names, in every hierarchy."""
    for top in [CGROUPS, *(entry for entry in CGROUPS.iterdir() if entry.is_dir())]:
        for name in names:
            _remove_empty(top / name)
            with suppress(OSError):
                os.rmdir(top / name)


def _remove_empty(top: Path) -> None:
    """Cgroups below it that nobody is in."""
    for directory, _, _ in os.walk(top, topdown=False):
        if directory != str(top):
            with suppress(OSError):
                os.rmdir(directory)


def empty_unmounted_hierarchies(patterns: Sequence[str]) -> list[str]:
    """A cgroup v1 hierarchy that nothing mounts lives on while it has a cgroup, as after a suite that was killed, and takes its controller away from
    the v2 tree: engines then look for statistics that they cannot find. Empty cgroups of these names are removed in such hierarchies, and the last
    one takes its hierarchy along. Gives the controllers of those that were looked into."""
    mounted = {option for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup " in line for option in line.split()[-1].split(",")}
    together: dict[str, list[str]] = {}
    for name, hierarchy, *_ in (line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]):
        if hierarchy != "0" and name not in mounted:
            together.setdefault(hierarchy, []).append(name)
    found = [",".join(names) for names in together.values()]
    for options in found:
        place = Path(tempfile.mkdtemp())
        try:
            if _libc.mount(b"cgroup", bytes(place), b"cgroup", 0, options.encode()) == 0:
                for top in sorted((path for pattern in patterns for path in place.glob(pattern)), reverse=True):
                    _remove_empty(top)
                    with suppress(OSError):
                        top.rmdir()
                time.sleep(1)  # a cgroup that has been removed is one for a moment longer
                _libc.umount2(bytes(place), MNT_DETACH)
        finally:
            place.rmdir()
    return found


@contextmanager
def v1_controllers() -> Iterator[list[str]]:
    """On a cgroup v1 host, each controller that some case wants and no hierarchy has is mounted as one, for as long as this lasts. The host
    knows of it: a controller is in one tree at a time."""
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    lacking = [name for name, _, _, enabled in rows if name in WANTED and enabled == "1" and not (CGROUPS / name).exists()]
    made: list[Path] = []
    try:
        for name in lacking if (CGROUPS / "memory").exists() else ():
            place = CGROUPS / name
            place.mkdir()
            if _libc.mount(b"cgroup", bytes(place), b"cgroup", 0, name.encode()) < 0:
                place.rmdir()  # EBUSY: the v2 tree uses it
            else:
                made.append(place)
        yield [place.name for place in made]
    finally:
        for place in made:
            _remove_empty(place)  # else the hierarchy outlives its mount, and every process on the host has one cgroup more
        if made:
            time.sleep(1)  # a cgroup that has been removed is one for a moment longer
        for place in made:
            _libc.umount2(bytes(place), MNT_DETACH)
            place.rmdir()
