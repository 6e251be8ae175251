# SPDX-License-Identifier: Apache-2.0
"""Counts what a test leaves on the host: cgroups, mounts, processes, files of the state root.

Only what carries the tag of this test session is looked at, for other work goes on on the same machine. Processes are ours by
descent: the session is a subreaper. Engines' helpers may end late, so leftovers have ten seconds to go.
"""

import os
import time
from pathlib import Path

PATIENCE = 10.0
KEPT = "@"  # caches below --root begin so and are meant to stay


def children() -> list[int]:
    pids: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            pids += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:  # a thread that has ended meanwhile
            continue
    return pids


def reap_zombies() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def cgroup_mounts() -> list[Path]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] in ("cgroup", "cgroup2"):
            found.append(Path(fields[4]))
    return found


def cgroups_with(tag: str) -> list[str]:
    found: list[str] = []

    def look(directory: str, depth: int) -> None:
        try:
            below = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone meanwhile
            return
        for path in below:
            if tag in path:
                found.append(path)
            if depth < 3 or tag in path:
                look(path, depth + 1)

    for mount in cgroup_mounts():
        look(str(mount), 0)
    return sorted(found)


def mounts_with(tag: str) -> list[str]:
    return sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if tag in line)


def describe(pid: int) -> str:
    try:
        return f"process {pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}".strip()
    except OSError:
        return f"process {pid}"


def state_with(roots: list[Path]) -> list[str]:
    return sorted(str(entry) for root in roots if root.is_dir() for entry in root.iterdir() if not entry.name.startswith(KEPT))


class Census:
    """Taken before a test; `leftovers()` after it."""

    def __init__(self, tag: str, roots: list[Path]) -> None:
        self.tag, self.roots = tag, roots
        self.before = self.count()

    def count(self) -> set[str]:
        reap_zombies()
        return {
            *(f"cgroup {path}" for path in cgroups_with(self.tag)),
            *(f"mount {path}" for path in mounts_with(self.tag)),
            *(f"state {path}" for path in state_with(self.roots)),
            *(describe(pid) for pid in children()),
        }

    def leftovers(self, patience: float = PATIENCE) -> list[str]:
        deadline = time.monotonic() + patience
        while True:
            left = self.count() - self.before
            if not left or time.monotonic() > deadline:
                return sorted(left)
            time.sleep(0.02)
