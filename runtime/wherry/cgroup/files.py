# SPDX-License-Identifier: Apache-2.0
"""What stands in the files of a cgroup. One that is not there, or cannot be read any more, has nothing to say: a kernel without it, a controller
that is not enabled, a cgroup that has gone."""

import posix

UNLIMITED = (1 << 64) - 1


def text(path: str) -> str:
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        chunks = []
        while chunk := posix.read(descriptor, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks).decode("ascii", "replace")
    except OSError:  # no such statistics on this device
        return ""
    finally:
        posix.close(descriptor)


def number(path: str) -> "int | None":
    found = text(path).strip()
    if found == "max":
        return UNLIMITED
    return int(found) if found.removeprefix("-").isdigit() else None


def keyed(path: str) -> "dict[str, int]":
    """Lines of "key value"."""
    found = {}
    for line in text(path).splitlines():
        key, _, value = line.partition(" ")
        if value == "max":
            found[key] = UNLIMITED
        elif value.isdigit():
            found[key] = int(value)
    return found


def pressure(path: str) -> "dict[str, dict[str, float | int]]":
    """some avg10=0.00 avg60=0.00 avg300=0.00 total=0"""
    found: "dict[str, dict[str, float | int]]" = {}
    for line in text(path).splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        found[kind] = {name: int(value) if name == "total" else float(value) for name, value in values.items()}
    return found
