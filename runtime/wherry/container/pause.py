# SPDX-License-Identifier: Apache-2.0
"""pause, resume and ps: the container's processes as its cgroup has them."""

import posix
import time

from wherry.container.execute import cgroups_of
from wherry.container.lifecycle import opened
from wherry.errors import DeadlineError, refused
from wherry.kernel.native import STATUS_NAMES, Container
from wherry.plan.execute import Cgroup

FREEZE_WAIT_S = 10.0
_STEP_S = 0.002
_AGAIN_S = 0.05  # a v1 freezer that meets a fork is told again


def pause(root: str, id: str) -> None:
    """Returns once no process runs. What cannot be frozen in time runs on."""
    with opened(root, id) as container:
        status = STATUS_NAMES[container.status()]
        if status not in ("created", "running"):
            raise refused("pause", status, id)
        cgroup = freezer_of(container, id)
        try:
            _set(cgroup, True)
        except BaseException:
            _write(cgroup, False)
            raise


def resume(root: str, id: str) -> None:
    with opened(root, id) as container:
        status = STATUS_NAMES[container.status()]
        if status != "paused":
            raise refused("resume", status, id)
        _set(freezer_of(container, id), False)


def processes(root: str, id: str) -> "list[int]":
    """Host pids, sorted; none of a container that has stopped."""
    with opened(root, id) as container:
        if STATUS_NAMES[container.status()] == "stopped":
            return []
        cgroups = cgroups_of(container)
        if not cgroups:
            return [container.pid]
        return sorted(_members(_main(cgroups).path))


def freezer_of(container: Container, id: str) -> Cgroup:
    found = find_freezer(container)
    if found is None:
        from wherry.container.delegation import no_cgroup

        raise no_cgroup(f'container "{id}" has no cgroup that could be frozen', id)
    return found


def find_freezer(container: Container) -> "Cgroup | None":
    """v1's freezer, else the v2 cgroup."""
    cgroups = cgroups_of(container)
    found = [cgroup for cgroup in cgroups if not cgroup.v2 and _is_freezer(cgroup)] or [cgroup for cgroup in cgroups if cgroup.v2]
    return found[0] if found else None


def _is_freezer(cgroup: Cgroup) -> bool:
    return "freezer" in cgroup.mount.rpartition("/")[2].split(",")


def _main(cgroups: "list[Cgroup]") -> Cgroup:
    """The one that speaks for all: v1's freezer, else v2, else any."""
    return max(cgroups, key=lambda cgroup: 2 if not cgroup.v2 and _is_freezer(cgroup) else 1 if cgroup.v2 else 0)


def _members(path: str) -> "set[int]":
    """Of the cgroup and of all below it; what vanishes meanwhile has no members. 0 stands for who is not in our pid namespace."""
    found: set[int] = set()
    below = [path]
    while below:
        directory = below.pop()
        try:
            with posix.scandir(directory) as entries:
                below += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            with open(f"{directory}/cgroup.procs") as file:
                found.update(int(line) for line in file if int(line))
        except OSError:
            continue  # gone, or a threaded cgroup, whose processes its domain lists
    return found


def _set(cgroup: Cgroup, frozen: bool) -> None:
    deadline = time.monotonic() + FREEZE_WAIT_S
    again = 0.0
    while True:
        now = time.monotonic()
        if now >= again:
            _write(cgroup, frozen)
            again = now + _AGAIN_S
        if _reached(cgroup, frozen):
            return
        if now > deadline:
            raise DeadlineError(f"{cgroup.path}: the freezer did not come to its end within {FREEZE_WAIT_S:g} s", path=cgroup.path)
        time.sleep(_STEP_S)


def _write(cgroup: Cgroup, frozen: bool) -> None:
    name, value = ("cgroup.freeze", b"1" if frozen else b"0") if cgroup.v2 else ("freezer.state", b"FROZEN" if frozen else b"THAWED")
    descriptor = posix.open(f"{cgroup.path}/{name}", posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(descriptor, value)
    finally:
        posix.close(descriptor)


def _reached(cgroup: Cgroup, frozen: bool) -> bool:
    with open(f"{cgroup.path}/{'cgroup.events' if cgroup.v2 else 'freezer.state'}") as file:
        text = file.read()
    return f"frozen {int(frozen)}" in text.splitlines() if cgroup.v2 else text.strip() == ("FROZEN" if frozen else "THAWED")
