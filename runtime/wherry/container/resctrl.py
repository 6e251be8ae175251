# SPDX-License-Identifier: Apache-2.0
"""linux.intelRdt: the container's class of service and monitoring group in the resctrl filesystem.

Kernel: Documentation/filesystems/resctrl.rst. A class that we make is removed with the container, one that was there is not. Every function takes the
mount point, so that the logic is tested against a directory that behaves like the filesystem where it matters.
"""

import os
from typing import Any

from ..errors import ConfigError, HostError

POINTER = "/linux/intelRdt"
MOUNT = "/sys/fs/resctrl"


def mounted(mountinfo: str = "/proc/self/mountinfo") -> str:
    """The mount point of resctrl. Raises HostError where there is none."""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            if right.split(" ", 1)[0] == "resctrl":
                return left.split(" ")[4]
    raise HostError(
        "linux.intelRdt needs the resctrl filesystem, which is not mounted",
        code="WHERRY-HOST-RESCTRL",
        pointer=POINTER,
        remedy="mount -t resctrl resctrl /sys/fs/resctrl, on a processor and kernel that have it, or remove linux.intelRdt",
    )


def schemata_of(section: dict[str, Any]) -> list[tuple[str, str]]:
    """(line, pointer) in the order in which they are written."""
    lines = []
    for key, prefix in (("l3CacheSchema", "L3"), ("memBwSchema", "MB")):
        if section.get(key):
            lines += [(line.strip(), f"{POINTER}/{key}") for line in section[key].splitlines() if line.strip().startswith(prefix)]
    lines += [(line, f"{POINTER}/schemata/{number}") for number, line in enumerate(section.get("schemata") or ())]
    return lines


def class_of(section: dict[str, Any], container: str, mount: str) -> str:
    """The directory of the class of service; "/" names the root class."""
    name = section.get("closID")
    if name is None:
        return f"{mount}/{container}"
    return mount if name == "/" else f"{mount}/{name}"


def paths_made(section: dict[str, Any], container: str, mount: str) -> list[str]:
    """Directories that create may make, outermost first: what the journal is told before."""
    group = class_of(section, container, mount)
    paths = [group] if group != mount else []
    if section.get("enableMonitoring"):
        paths.append(f"{group}/mon_groups/{container}")
    return paths


def join(section: dict[str, Any], container: str, pid: int, mount: str, made: "Any") -> None:
    """Makes or takes the class, writes the schemata, moves init there. `made(path)` is called after each directory that we made."""
    group = class_of(section, container, mount)
    lines = schemata_of(section)
    if os.path.isdir(group):
        _compare(section, group, lines)
    else:
        _make_class(section, group, lines)
        made(group)
        for line, pointer in lines:
            _write(f"{group}/schemata", line + "\n", pointer)
    _write(f"{group}/tasks", str(pid), POINTER)
    if section.get("enableMonitoring"):
        monitoring = f"{group}/mon_groups/{container}"
        _mkdir(monitoring, f"{POINTER}/enableMonitoring")
        made(monitoring)
        _write(f"{monitoring}/tasks", str(pid), f"{POINTER}/enableMonitoring")


def _make_class(section: dict[str, Any], group: str, lines: list[tuple[str, str]]) -> None:
    named = section.get("closID") is not None
    if named and not lines:
        raise ConfigError(
            f"closID {section['closID']} does not exist, and no schema is given to make it", code="WHERRY-HOST-RESCTRL", pointer=f"{POINTER}/closID"
        )
    _mkdir(group, f"{POINTER}/closID" if named else POINTER)


def _compare(section: dict[str, Any], group: str, lines: list[tuple[str, str]]) -> None:
    """A class that was there must have what is asked for: its schemata are its owner's."""
    if section.get("closID") is None:
        raise HostError(f"{group} exists already", code="WHERRY-HOST-RESCTRL", pointer=POINTER)
    with open(f"{group}/schemata", encoding="ascii") as file:
        present = {_normal(line) for line in file}
    for line, pointer in lines:
        if not _within(line, present):
            raise ConfigError(f"the class of service has another schema than {line}", code="WHERRY-HOST-RESCTRL", pointer=pointer)


def _normal(line: str) -> str:
    name, _, rest = line.strip().partition(":")
    return f"{name.strip()}:{';'.join(sorted(part.strip().lower() for part in rest.split(';')))}"


def _within(line: str, present: set[str]) -> bool:
    """Whether each domain of `line` stands in a present line of the same resource (a schema may name some domains only)."""
    name, _, rest = _normal(line).partition(":")
    for other in present:
        theirs, _, domains = other.partition(":")
        if theirs == name and set(rest.split(";")) <= set(domains.split(";")):
            return True
    return False


def _mkdir(path: str, pointer: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        raise HostError(f"make {path}: {(error.strerror or '').lower()}", code="WHERRY-HOST-RESCTRL", pointer=pointer) from error


def _write(path: str, value: str, pointer: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"write {value.strip()} to {path}: {(error.strerror or '').lower()}", code="WHERRY-HOST-RESCTRL", pointer=pointer) from error
