# SPDX-License-Identifier: Apache-2.0
"""A host on which every runtime can be measured, and that a bench leaves as it was, however it ends.

Debian's crun refuses a hybrid hierarchy while a controller (hugetlb, usually) stands in the v2 tree: in a mount namespace of the bench's own, the file
that says so reads as empty. No hierarchy is mounted, nothing is changed that anybody else sees.

All that a bench makes carries its tag, `wherry-bench-PID`: its directory, its containers, their cgroups. What carries it is ended and removed when the
bench ends, also by a signal; what a bench left that was killed, the next one removes when it begins.
"""

import ctypes
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from host import empty_unmounted_hierarchies, ended_by_signals

CGROUPS = Path("/sys/fs/cgroup")
PLACES = (Path("/var/tmp"), Path("/run"))
TAG = f"wherry-bench-{os.getpid()}"
TAGS = re.compile(r"wherry-bench-(\d+)(?!\d)")
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC_PRIVATE = 0x1000, 0x44000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@contextmanager
def bed(top: Path = PLACES[0]) -> Iterator[Path]:
    """Yields the directory of this bench. The caller must be root, single-threaded, and stay in this process."""
    for tag in sorted(left_by_others()):
        print(f"# an earlier bench was killed: removing what {tag} left", flush=True)
        remove(tag)
    place = top / TAG
    place.mkdir()
    place.chmod(0o755)
    with ended_by_signals():
        try:
            own_mounts(place)
            yield place
        finally:
            remove(TAG)


def own_mounts(place: Path) -> None:
    """A mount namespace in which a hybrid host's v2 tree has no controllers; they may come back to it at any time, so it matters not whether it has any."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, MS_REC_PRIVATE, None), "make / private")
    empty_unmounted_hierarchies(("wherry-bench*", "*/wherry-bench*"))
    controllers = CGROUPS / "unified" / "cgroup.controllers"
    if controllers.exists():
        with tempfile.NamedTemporaryFile(dir=place) as empty:
            _check(_libc.mount(empty.name.encode(), bytes(controllers), None, MS_BIND, None), "hide the controllers of the v2 tree")


def left_by_others() -> set[str]:
    """Tags of benches that are no more."""
    names = [path.name for place in PLACES for path in place.glob("wherry-bench-*")] + [path.name for path in tagged_cgroups("wherry-bench-")]
    found = {(match[0], match[1]) for name in names if (match := TAGS.search(name))}
    return {tag for tag, pid in found if b"bench" not in _read(f"/proc/{pid}/cmdline")}


def tagged_cgroups(tag: str) -> list[Path]:
    """Innermost first."""
    return [Path(directory) for directory, _, _ in os.walk(CGROUPS, topdown=False) if tag in directory]


def tagged_processes(tag: str) -> list[int]:
    """By their command line, their cgroups, or where their root file system is from. Not this one, which has the tag's directory open at most."""
    word = re.compile(re.escape(tag.encode()) + rb"(?!\d)")
    files = ("cmdline", "cgroup", "mountinfo")
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and any(word.search(_read(f"/proc/{pid}/{file}")) for file in files)]


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""


def remove(tag: str, patience: float = 10.0) -> None:
    """Processes, cgroups, directories."""
    deadline = time.monotonic() + patience
    while (pids := tagged_processes(tag)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)
    word = re.compile(re.escape(tag) + r"(?!\d)")
    while (left := [path for path in tagged_cgroups(tag) if word.search(str(path))]) and time.monotonic() < deadline:
        for path in left:
            with suppress(OSError):  # its last process is about to be gone
                path.rmdir()
        time.sleep(0.02)
    for place in PLACES:
        shutil.rmtree(place / tag, ignore_errors=True)
