# SPDX-License-Identifier: Apache-2.0
"""What the first process of a container sees, compared between runtimes; what may differ is listed here, each with its reason.

The list is for runc 1.1 and crun 1.8, which Debian 12 has; crun refuses hybrid hosts, so it is compared on pure cgroup v2 ones.
"""

import copy
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

# What may differ from which runtime: lines of `difference`, where a place that the configuration masks is called "masked", and why.
KNOWN = [
    (
        "both",
        r"mounts masked options: \+nodev \+noexec \+nosuid|mounts masked super: (-rw -size=0k )?\+nr_inodes=1( \+ro)? \+size=4k",
        "the empty directory that hides one has room for nothing, and nothing in it could be used",
    ),
    (
        "runc",
        r'mounts masked options: -rw( \+noexec)?( \+nosuid)?( \+relatime)? \+ro|mounts masked super: -size=65536k.*|mounts masked (type|source): "tmpfs" -> "devtmpfs"',
        "what hides a file is the host's null device, not what the container's /dev has by that name, and it is read-only: its owner and mode cannot be changed",
    ),
    ("crun", r"mounts masked options: \+noexec \+nosuid", "what hides a file can be neither a program nor privileged"),
    (
        "runc",
        r'traces .*: "-rwxr-xr-x (\d+:\d+)" -> "-rw-r--r-- \1"',
        "the file that a missing target of a bind mount becomes is no program: 0644, as newer ones of runc do it",
    ),
    ("runc", r"mounts /sys super: -ro \+rw", "`ro` is of the mount: the sysfs behind it is the one of the network namespace, whoever mounts it"),
    ("runc", r"mount points all: \+/sys/fs/cgroup/unified( #2)?", "on a hybrid host the container sees its cgroup in the v2 tree too; runc does not show that tree"),
    ("runc", r"mounts /sys/fs/cgroup( #2)? options: -rw \+ro", "`ro` holds for the directory of the hierarchies as for the hierarchies"),
    ("both", r'mounts /sys/fs/cgroup(/systemd)? source: "(systemd|cgroup2)" -> "cgroup"', "the source of a cgroup mount is a word without a meaning"),
    ("both", r"dev mqueue [ug]id: 0 -> \d+", "user and ipc namespace are made by one clone, so the root of the queues belongs to the caller; its mode is 1777"),
    (
        "both",
        r'fds [012]: \[false, "pipe", 4480, 0\] -> \[false, "pipe", 4480, 65534\]',
        "runc copies between pipes of its own, and both give them to the container's root; wherry hands on the caller's, which keep their owner",
    ),
    (
        "both",
        r'signals ignored: "0000000[01]80000000" -> "0000000000000000"',
        "the signals that the C library keeps for itself stay ignored in all that make starts, and the others pass that on",
    ),
    ("both", r"mounts /[a-z/]+ super: \+mode=1?[0-7]{3}", "a copied-up tmpfs is mounted with its target's mode; there it gets the same mode when the contents have been copied"),
    ("runc", r"rlimits RLIMIT_NOFILE: \[(\d+), \1\] -> \[\d+, \1\]", "programs in Go raise their own soft limit, and this runc passes that on; without a limit in the configuration it is the caller's"),
    ("crun", r'keyring: "keyring;\d+;\d+;\w+;ID" -> "keyring;0;0;\w+;_ses.ID"', "name, owner and permissions of the session keyring are those of runc"),
    ("crun", r"mounts /dev/\w+ options: -noexec -nosuid", "devices that are bound from the host have the flags of the host's, as under runc; a device is never executed"),
    ("crun", r"mounts /b propagation: \+shared", "the option `rshared` asks for it, as under runc"),
    ("crun", r"mount points all: -/etc/group #2", "crun hides paths before it makes others read-only, and so hides /etc/group twice"),
]


# ---- what is compared


def mounts(lines: list[str]) -> dict[str, dict[str, Any]]:
    """By place, in their order (a second one on a place is `/place #2`): without the numbers, which are each runtime's own."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        left, _, right = line.partition(" - ")
        _, _, _, root, place, options, *propagation = left.split(" ")
        kind, source, superblock = right.split(" ", 2)
        name, number = place, 1
        while name in found:
            number += 1
            name = f"{place} #{number}"
        found[name] = {
            "root": root,
            "options": set(options.split(",")),
            "propagation": {word.partition(":")[0] for word in propagation if word},
            "type": kind,
            "source": source,
            "super": set(superblock.split(",")),
        }
    return found


def normal(seen: dict[str, Any], container: str) -> dict[str, Any]:
    """Without what is another one in each container."""
    seen = copy.deepcopy(seen)
    seen["mounts"] = mounts(seen["mounts"])
    seen["mount points"] = {"all": set(seen["mounts"])}
    seen["namespaces"] = {kind: "host's" if number == os.stat(f"/proc/self/ns/{kind}").st_ino else "own" for kind, number in seen["namespaces"].items()}
    seen["fds"] = {str(one["fd"]): [one["cloexec"], kind_of(one["target"]), one["mode"], one["uid"]] for one in seen["fds"]}
    seen["keyring"] = (seen["keyring"]["description"] or "").replace(container, "ID")
    seen["clocks"] = seen["clocks"]["offsets"]
    seen["cgroup"] = sorted(seen["cgroup"])
    if seen["process"]["pid"] != 1:  # in a pid namespace that others are in
        seen["process"] = {name: "own" if number == seen["process"]["pid"] else number for name, number in seen["process"].items()}
    return seen


def kind_of(target: str) -> str:
    """What a descriptor is: `pipe` of "pipe:[12]", and `file` of every path."""
    return "file" if target[:1] == "/" and not target.startswith("/dev/") else target.partition(":")[0]


def difference(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """A line for each: `place: theirs -> ours`, of sets `place: -only theirs +only ours`."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            if key in theirs and key in ours:
                yield from difference(theirs[key], ours[key], f"{place} {key}".strip())
            elif place != "mounts":  # those are told by "mount points"
                yield f"{place} {key}: {'only theirs' if key in theirs else 'only ours'}"
    elif isinstance(theirs, set) and isinstance(ours, set):
        if theirs != ours:
            yield f"{place}: " + " ".join([*(f"-{one}" for one in sorted(theirs - ours)), *(f"+{one}" for one in sorted(ours - theirs))])
    elif theirs != ours:
        yield f"{place}: {json.dumps(theirs)} -> {json.dumps(ours)}"


def unknown(lines: Iterable[str], other: str, masked: list[str]) -> list[str]:
    """Differences that KNOWN does not have."""
    patterns = [pattern for name, pattern, _ in KNOWN if name in (other, "both")]
    places = {f"mounts {place} ": "mounts masked " for place in masked}
    found = []
    for line in lines:
        start = next((start for start in places if line.startswith(start)), "")
        text = places.get(start, "") + line[len(start) :]
        if not any(re.fullmatch(pattern, text) for pattern in patterns):
            found.append(line)
    return found
