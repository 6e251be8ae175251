# SPDX-License-Identifier: Apache-2.0
"""What crashes leave behind: finds it, and finishes or undoes it from the record's journal.

A create or delete in progress holds the container's lock, and a lock ends with its process. So a record that says "creating" or
"deleting" and whose lock is free tells of a crash. A directory without a readable record was claimed by a create that died at
once, or is damaged: nothing else was done yet in the first case, nothing is known in the second, so only empty ones are removed.
"""

import posix
import time

from wherry.container.lifecycle import check_id, opened
from wherry.errors import StateError, WherryError
from wherry.kernel.native import Container, Failure, constants

YOUNG_S = 60
"""A claimed directory without a record that is younger may belong to a create that is just at it."""


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
    return findings


def _look(root: str, id: str, dry_run: bool) -> "Finding | None":
    try:
        with opened(root, id) as container:
            return _look_at_record(container, id, dry_run)
    except StateError as error:
        if error.code == "WHERRY-STATE-NOT-FOUND":
            return _look_at_remains(root, id, dry_run)
        return Finding(id, str(error), [])
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
            container.destroy(kill_first=True)
            finding.done = "removed"
        except OSError as error:
            finding.done = f"not removed: {(error.strerror or str(error)).lower()}"
    return finding


def is_crashed(container: Container) -> bool:
    """Whether the process that was creating or deleting it is gone. Afterwards the lock is ours."""
    try:
        container.lock(0)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def journal_text(container: Container) -> "list[str]":
    states = {constants.WHERRY_JOURNAL_BEGUN: "begun", constants.WHERRY_JOURNAL_DONE: "done"}
    kinds = {
        constants.WHERRY_JOURNAL_CGROUP_V1: "cgroup",
        constants.WHERRY_JOURNAL_CGROUP_V2: "cgroup",
        constants.WHERRY_JOURNAL_RESCTRL: "resctrl group",
        constants.WHERRY_JOURNAL_UNIT: "systemd unit",
    }
    return [f"{kinds[entry.kind]} {entry.path} ({states[entry.state]})" for entry in container.journal() if entry.state in states]


def _look_at_remains(root: str, id: str, dry_run: bool) -> "Finding | None":
    path = f"{root}/{id}"
    try:
        age = time.time() - posix.stat(path).st_mtime
    except FileNotFoundError:
        return None
    if age < YOUNG_S:
        return None
    finding = Finding(id, "a directory without a record", [])
    if not dry_run:
        warnings = remove_remains(root, id)
        finding.done = warnings[0] if warnings else "removed"
    return finding


def remove_remains(root: str, id: str) -> "list[str]":
    """Removes the directory of an id that has no record, if it is empty or absent. Returns warnings."""
    try:
        posix.rmdir(f"{root}/{id}")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        return [f"{root}/{id}: not removed: {(error.strerror or '').lower()}"]
    return []


def undo_crashed_create(root: str, id: str) -> bool:
    """For a create that finds its id taken: True when that was the rest of a crashed one, which is now gone."""
    try:
        with opened(root, id) as container:
            if container.record_status != constants.WHERRY_RECORD_CREATING or not is_crashed(container):
                return False
            container.destroy(kill_first=True)
            return True
    except (StateError, Failure):
        return False
