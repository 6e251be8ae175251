# SPDX-License-Identifier: Apache-2.0
"""What crashes leave behind: finds it, and finishes or undoes it from the record's journal.

A create or delete in progress holds the container's lock, and a lock ends with its process. So a record that says "creating" or
"deleting" and whose lock is free tells of a crash. A directory without a record was claimed by a create that died at once: nothing
else was done yet. Where a record is damaged, or of another version, state.json says which process and cgroups are meant.
"""

import json
import posix
import time
from errno import EBUSY, ENODATA
from typing import Any

from wherry.container.lifecycle import LOCK_WAIT_MS, check_id, destroy, lock, opened
from wherry.errors import NotFoundError, StateError, WherryError
from wherry.kernel import native
from wherry.kernel.native import Container, constants

_SIGKILL = 9

YOUNG_S = 60
"""A claimed directory without a record that is younger may belong to a create that is just at it."""


_OURS = ("config.json", "plan", "start", "result", "record", "state.json", "monitor", "exit")
"""What a create and a monitor (with `exit-<exec id>`) make in a container's directory. The names of temporary files begin with a dot."""


class Finding:
    """One thing that should not be there. `done` is None until it was tried, then what happened."""

    __slots__ = ("done", "id", "journal", "what")

    def __init__(self, id: str, what: str, journal: "list[str]") -> None:
        self.id, self.what, self.journal = id, what, journal
        self.done: "str | None" = None

    def document(self) -> "dict[str, object]":
        return {"id": self.id, "found": self.what, "journal": self.journal, "done": self.done}


def container_ids(root: str) -> "list[str]":
    """Names of the containers below a state root, sorted; none where there is no such directory."""
    try:
        names = posix.listdir(root)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if is_id(name) and is_directory(f"{root}/{name}"))


def is_id(name: str) -> bool:
    try:
        check_id(name)
    except WherryError:
        return False
    return True


def is_directory(path: str) -> bool:
    try:
        return posix.lstat(path).st_mode & 0o170000 == 0o040000
    except OSError:
        return False


def collect(root: str, dry_run: bool = False) -> "list[Finding]":
    """Looks at every container; what a crash left is finished or undone."""
    findings = []
    for id in container_ids(root):
        finding = _look(root, id, dry_run)
        if finding is not None:
            findings.append(finding)
    return findings + _sockets(root, dry_run)


def _sockets(root: str, dry_run: bool) -> "list[Finding]":
    from wherry.container.notify import forget

    findings = [Finding(id, "the notify socket of a container that is gone", []) for id in forget(root, dry_run)]
    for finding in findings:
        finding.done = None if dry_run else "removed"
    return findings


def _look(root: str, id: str, dry_run: bool) -> "Finding | None":
    try:
        with native.open_container(root, id, damaged=True) as container:
            if container.damage in (0, constants.WHERRY_OTHER_BUILD):
                return _look_at_record(container, id, dry_run)
            return _look_at_directory(container, id, dry_run)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Finding(id, (error.strerror or str(error)).lower(), [])


def _look_at_record(container: Container, id: str, dry_run: bool) -> "Finding | None":
    what = {
        constants.WHERRY_RECORD_CREATING: "a create that did not end",
        constants.WHERRY_RECORD_DELETING: "a delete that did not end",
    }.get(container.record_status)
    if what is None or not is_crashed(container):
        return None
    finding = Finding(id, what, journal_text(container))
    if not dry_run:
        try:
            destroy(container, kill_first=True)
            finding.done = "removed"
        except OSError as error:
            finding.done = f"not removed: {(error.strerror or str(error)).lower()}"
        except WherryError as error:  # systemd's
            finding.done = f"not removed: {error.sentence()}"
    return finding


def is_crashed(container: Container) -> bool:
    """Whether the process that was creating or deleting it is gone. Afterwards the lock is ours."""
    try:
        container.lock(0)
    except (BlockingIOError, FileNotFoundError):
        return False
    # once more: it may have come to its end between the look and the lock
    return container.record_status in (constants.WHERRY_RECORD_CREATING, constants.WHERRY_RECORD_DELETING)


def journal_text(container: Container) -> "list[str]":
    states = {constants.WHERRY_JOURNAL_BEGUN: "begun", constants.WHERRY_JOURNAL_DONE: "done"}
    kinds = {
        constants.WHERRY_JOURNAL_CGROUP_V1: "cgroup",
        constants.WHERRY_JOURNAL_CGROUP_V2: "cgroup",
        constants.WHERRY_JOURNAL_RESCTRL: "resctrl group",
        constants.WHERRY_JOURNAL_UNIT: "systemd unit",
        constants.WHERRY_JOURNAL_MOUNT: "mounts on",
    }
    return [f"{kinds[entry.kind]} {entry.path} ({states[entry.state]})" for entry in container.journal() if entry.state in states]


def _look_at_directory(container: Container, id: str, dry_run: bool) -> "Finding | None":
    """One without a record that we can read."""
    claimed = container.damage == ENODATA
    if claimed and time.time() - posix.fstat(container.directory).st_mtime < YOUNG_S:
        return None
    finding = Finding(id, "a directory without a record" if claimed else "a record that cannot be read", [])
    alien = _alien(container)
    if alien:
        finding.what, finding.done = f"a directory that is not ours: {alien}", "left as it is"
        return finding
    pid = _living(_state_file(container))
    if pid:
        finding.done = f"left: its process {pid} lives; wherry delete --force {id} ends it"
    elif not dry_run:
        try:
            container.lock(0)
            _destroy_by_state_file(container)
            finding.done = "removed"
        except OSError as error:
            finding.done = f"not removed: {(error.strerror or str(error)).lower()}"
    return finding


def remove_without_record(root: str, id: str) -> "list[str]":
    """delete --force of an id that has no record, or one that cannot be read. Returns warnings."""
    try:
        with native.open_container(root, id, damaged=True) as container:
            lock(container, "delete", id)
            if container.damage in (0, constants.WHERRY_OTHER_BUILD):  # its create was just about to write it
                destroy(container, kill_first=True)
            elif alien := _alien(container):
                message = f"{root}/{id} was not made by wherry: there is {alien}"
                raise StateError(message, code="WHERRY-STATE-FOREIGN", remedy="the runtime that has made it can delete it; check --root", id=id)
            else:
                _destroy_by_state_file(container)
    except (FileNotFoundError, NotADirectoryError, NotFoundError):
        pass
    return []


def _alien(container: Container) -> str:
    """A file by which another runtime shows itself where there is no record, "" for none."""
    if container.damage != ENODATA:
        return ""
    names = posix.listdir(container.directory)
    if "state.json" in names and "startTime" not in _state_file(container):
        return "a state.json of another kind"
    return next((name for name in sorted(names) if name not in _OURS and name[:1] not in ".@" and name[:5] != "exit-"), "")


def _state_file(container: Container) -> "dict[str, Any]":
    """What create wrote for those who cannot read the record; {} where it did not come so far."""
    try:
        document: "dict[str, Any]" = json.loads(container.kept("state.json"))
        return document
    except (OSError, ValueError):
        return {}


def _living(state: "dict[str, Any]") -> int:
    """The pid of init where it still is that process, else 0."""
    pid = int(state.get("pid") or 0)
    try:
        return pid if pid > 0 and native.start_time(pid) == state.get("startTime") else 0
    except OSError:
        return 0


def _destroy_by_state_file(container: Container) -> None:
    state = _state_file(container)
    pid = _living(state)
    if pid:
        pidfd = posix.pidfd_open(pid)
        try:
            if _living(state):
                native.pidfd_signal(pidfd, _SIGKILL)
                native.pidfd_wait(pidfd, LOCK_WAIT_MS)
        finally:
            posix.close(pidfd)
    if state.get("unit"):
        from wherry.container.unit import end_named

        end_named(str(state["unit"]), container.directory)
    for controllers, path in (state.get("cgroups") or {}).items():
        _remove_cgroup(path, v2=not controllers)
    container.destroy()


def _remove_cgroup(path: str, v2: bool) -> None:
    try:
        native.cgroup_kill(path, v2)
        for _ in range(100):
            try:
                posix.rmdir(path)
                break
            except OSError as error:
                if error.errno != EBUSY:
                    return
                time.sleep(0.01)
        while (path := path.rpartition("/")[0]) and _is_marked(path):
            posix.rmdir(path)
    except OSError:
        pass


def _is_marked(path: str) -> bool:
    """A parent that a create made, perhaps another container's: the last one in it takes it along (csrc/host/cgroup_end.c)."""
    names = posix.listxattr(path)
    return "trusted.wherry.parent" in names or "user.wherry.parent" in names


def undo_crashed_create(root: str, id: str) -> bool:
    """For a create that finds its id taken: True when that was the rest of a crashed one, which is now gone."""
    try:
        with opened(root, id) as container:
            if container.record_status != constants.WHERRY_RECORD_CREATING or not is_crashed(container):
                return False
            destroy(container, kill_first=True)
            return True
    except (StateError, OSError):
        return False
