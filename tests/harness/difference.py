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
        r"mounts masked( #\d)? options: \+nodev \+noexec \+nosuid|mounts masked( #\d)? super: (-rw -size=0k )?\+nr_inodes=1( \+ro)? \+size=4k",
        "the empty directory that hides one has room for nothing, and nothing in it could be used",
    ),
    (
        "runc",
        r'mounts masked( #\d)? options: -rw( \+noexec)?( \+nosuid)?( \+relatime)? \+ro|mounts masked( #\d)? super: -size=65536k.*|mounts masked( #\d)? (type|source): "tmpfs" -> "devtmpfs"',
        "what hides a file is the host's null device, not what the container's /dev has by that name, and it is read-only: its owner and mode cannot be changed",
    ),
    ("crun", r"mounts masked( #\d)? options: \+noexec \+nosuid", "what hides a file can be neither a program nor privileged"),
    (
        "runc",
        r'traces .*: "-rwxr-xr-x (\d+:\d+)" -> "-rw-r--r-- \1"',
        "the file that a missing target of a bind mount becomes is no program: 0644, as newer ones of runc do it",
    ),
    ("runc", r'keyring: "keyring;0;0;3f130000;_ses.ID" -> "keyring;0;0;3f130008;_ses.ID"', "of an exec in a user namespace: the permissions of the container's keyring"),
    ("runc", r'places /sys/fs/cgroup: "40555 0:0" -> "40755 0:0"', "the directory of the hierarchies has the mode that it has on hosts"),
    ("runc", r'places /\S+: "4(0|1)[0-7]{3} (.*)" -> "40700 \2"', "where the options of a tmpfs have a mode, it counts, as with newer ones of runc; this one takes the target's"),
    ("runc", r"mounts /sys(/\S+)? super: -ro \+rw", "`ro` is of the mount: the sysfs behind it is the one of the network namespace, whoever mounts it"),
    ("runc", r"mount points: \+/sys/fs/cgroup/unified( #2)?", "on a hybrid host the container sees its cgroup in the v2 tree too; runc does not show that tree"),
    ("runc", r"mounts /sys/fs/cgroup( #2)? options: -rw \+ro", "`ro` holds for the directory of the hierarchies as for the hierarchies"),
    ("both", r'mounts /sys/fs/cgroup(/systemd)? source: "(systemd|cgroup2|cgroup)" -> "cgroup2?"', "the source of a cgroup mount is a word without a meaning"),
    ("both", r'dev mqueue gid: \d+ -> 0|places /dev/mqueue: "41777 0:\d+" -> "41777 0:0"', "in a user namespace, the root of the queues belongs to the container's root, in its group as well"),
    (
        "both",
        r'signals ignored: "0000000[01]80000000" -> "0000000000000000"',
        "the signals that the C library keeps for itself stay ignored in all that make starts, and the others pass that on",
    ),
    ("both", r"mounts (masked|/[a-z/]+)( #\d)? super: \+mode=1?[0-7]{3}", "a copied-up tmpfs is mounted with its target's mode; there it gets the same mode when the contents have been copied"),
    ("runc", r"rlimits RLIMIT_NOFILE: \[(\d+), \1\] -> \[\d+, \1\]", "programs in Go raise their own soft limit, and this runc passes that on; without a limit in the configuration it is the caller's"),
    ("crun", r'keyring: "keyring;\d+;\d+;\w+;ID" -> "keyring;0;0;\w+;_ses.ID"', "name, owner and permissions of the session keyring are those of runc"),
    ("crun", r"mounts /dev/\w+ options: -noexec -nosuid", "devices that are bound from the host have the flags of the host's, as under runc; a device is never executed"),
    ("crun", r"mounts /\S+ #2 options: -rw( \+nodev)? \+ro", "what lies below a path that is made read-only has its own options at that time already"),
    ("crun", r'places /\S+: "41777 (.*)" -> "4[01][0-7]{3} \1"', "without a mode in its options, a tmpfs has the one of its target, as under runc"),
    ("crun", r"environ: (\[.*)\] -> \1, \"HOME=/\"\]", "who is not in /etc/passwd has / as its home, as under runc"),
    ("crun", r"mounts /[a-z/]+\d?( #\d)? propagation: \+shared", "the option `rshared` asks for it, as under runc"),
    (
        "crun",
        r"mounts /\S+( #\d)? options:( [-+](nosuid|nodev|noexec|nodiratime|noatime|relatime))+",
        "of two options that contradict the last one counts, and strictatime above noatime above relatime, as under runc",
    ),
    ("crun", r"mounts /(proc|sys)/\S+ options:( \+nodev)?( \+noexec)?( \+nosuid)?", "what is made read-only keeps the other flags of its mount, as under runc"),
    ("crun", r"mounts /dev/shm options: \+nodev \+noexec \+nosuid", "the options of a bind mount are those that the configuration has, as under runc"),
    ("crun", r'traces .*: "-rwx------ (\d+:\d+)" -> "-rw-r--r-- \1"', "the file that a missing target of a bind mount becomes is no program, and anybody may read it: 0644"),
    ("crun", r'traces .*: "drwxr-xr-t (\d+:\d+)" -> "drwxr-xr-x \1"', "the directory that a missing target becomes has mode 0755, as under runc"),
    (
        "crun",
        r'limits  owner: "(?!0)(\d+):\1 40755" -> "0:0 40755"|places /sys/fs/cgroup: "40755 0:0" -> "40755 65534:65534"',
        "a cgroup is given to the container's root where it is mounted for writing in a cgroup namespace, as the specification has it",
    ),
    (
        "both",
        r'mounts /sys/fs/cgroup root: "/" -> "/CGROUP"|places /sys/fs/cgroup: "40555 (\d+:\d+)" -> "40755 \1"',
        "with a user namespace and without a cgroup namespace, cgroup2 cannot be mounted: the own cgroup is shown in its place, as on v1, not the host's whole tree",
    ),
    ("runc", r"mounts /dev/shm options: -nodev -nosuid", "`rw` alone is an option of a bind, too, after which its flags are those that the configuration has, as with newer ones of runc"),
    ("crun", r"mount points: \+/sys/(fs/fuse/connections|kernel/\w+)", "what an rbind of /sys brings along is there, as under runc"),
    (
        "crun",
        r'limits  owner: "(?!0)(\d+):\1 40755" -> "\1:0 40755"|places /sys/fs/cgroup: "40755 0:0" -> "40755 0:65534"',
        "the specification gives it to the user alone, not to the group",
    ),
    (
        "runc",
        r'limits  owner: "0:0 40755" -> "\d+:0 40755"|places /sys/fs/cgroup: "40755 65534:65534" -> "40755 0:65534"',
        "a cgroup that the container may write to belongs to its root, as the specification has it; this runc does so with systemd alone",
    ),
    ("both", r'fds 0: \[false, "file", (\d+), \d+\] -> \[false, "file", \1, (0|65534)\]', "a file that is only read keeps its owner: `run </etc/passwd` gives nobody that file"),
    ("crun", r'fds [012]: \[false, "pipe", (\d+), 65534\] -> \[false, "pipe", \1, 0\]', "of an exec in a user namespace: the caller's pipes belong to its root, as under runc"),
    ("both", r'fds [12]: \[false, "file", (\d+), \d+\] -> \[false, "file", \1, 65534\]', "in a user namespace the caller's files keep their owner"),
    ("crun", r'calls 4\d\d: "EPERM" -> "ENOSYS"', "system calls that are newer than the profile do not exist, as under runc: programs fall back on older ones"),
    ("both", r"limits cpu\.weight(\.nice)?: .*", "shares become a weight by the newer formula, which keeps 1024 shares at the default weight 100"),
    ("both", r"mount points: -masked #\d", "a path that is listed twice, or by two names, is hidden once"),
    ("crun", r"dev core: only theirs", "/dev/core leads to /proc/kcore, where the host has one, as under runc"),
    ("crun", r'process (pgid|sid): 0 -> "own"', "a process that exec starts leads a session of its own, as under runc"),
    ("crun", r'keyring: "keyring;\d+;\d+;\w+;(_uid_ses.\d+|_ses)" -> "keyring;0;0;\w+;_ses.ID"', "a process that exec starts gets the container's session keyring, as under runc"),
    ("crun", r"mount points: \+/sys/fs/cgroup/unified( #2)?", "on a hybrid host the container sees its cgroup in the v2 tree too"),
    (
        "crun",
        r'mounts /sys/fs/cgroup( #2)? (source: "cgroup" -> "tmpfs"|super: -size=1024k \+mode=755|options: -rw \+ro)',
        "the directory of the hierarchies is a tmpfs as under runc, and `ro` holds for it as for them",
    ),
    ("crun", r'mounts /sys/fs/cgroup/\w+ source: "/sys/fs/cgroup/\w+" -> "cgroup"', "the source of a cgroup mount is a word without a meaning"),
    ("crun", r"mount points: -/sys/fs/cgroup/(hugetlb|net_cls|net_prio)", "a hierarchy that the host has not mounted is not shown, as under runc"),
    (
        "crun",
        r'mount points: \+/sys/fs/cgroup/systemd #2|mounts /sys/fs/cgroup/systemd (options: -rw \+nodev \+noexec \+nosuid \+ro|root: "/" -> "/CGROUP")',
        "a hierarchy that has a mount of its own in the configuration gets that one above its usual one, as under runc",
    ),
    ("crun", r'oom_score_adj: "0" -> "\d+"', "a process that exec starts gets the score that it asks for, as under runc"),
    ("crun", r'limits memory memory.soft_limit_in_bytes: "0" -> "\d{19}"', "a reservation of 0 is none, as under runc"),
    ("crun", r"mount points: -/etc/group #2", "crun hides paths before it makes others read-only, and so hides /etc/group twice"),
]


# What we refuse and another runtime does not, and why: (runtime, our words, reason).
REFUSED = [
    ("crun", "a flag that the host's mount has locked cannot be cleared", "in a user namespace, options that contradict the host's mount are an error, as under runc"),
]


# What another runtime cannot do and we can: (runtime, its words, reason).
UNABLE = [
    ("crun", "writing file `pids.max`: Invalid argument", "of cgroup v1: no limit is the word `max`, as under runc"),
    ("crun", "writing file `cpu.cfs_quota_us`: Numerical result out of range", "of cgroup v1: -1 is no quota, as under runc"),
    ("crun", "writing file `devices.allow`: Invalid argument", "of cgroup v1: the device number -1 means any, as under runc"),
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


def in_sight(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the host's hierarchies that came along with /sys, where others cover them."""
    if "/sys/fs/cgroup #2" not in found:
        return found
    hidden = {place for place in found if place.startswith("/sys/fs/cgroup") and "#" not in place}
    return {place.removesuffix(" #2") if place.startswith("/sys/fs/cgroup") else place: one for place, one in found.items() if place not in hidden}


def normal(seen: dict[str, Any], container: str) -> dict[str, Any]:
    """Without what is another one in each container."""
    seen = copy.deepcopy(seen)
    seen["mounts"] = in_sight(mounts(seen["mounts"]))
    seen["mount points"] = set(seen["mounts"])
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
            elif place not in ("mounts", "places"):  # those are told by "mount points"
                yield f"{place} {key}: {'only theirs' if key in theirs else 'only ours'}"
    elif isinstance(theirs, set) and isinstance(ours, set):
        if place == "mount points":  # a line for each
            yield from (f"{place}: {sign}{one}" for sign, only in (("-", theirs - ours), ("+", ours - theirs)) for one in sorted(only))
        elif theirs != ours:
            yield f"{place}: " + " ".join([*(f"-{one}" for one in sorted(theirs - ours)), *(f"+{one}" for one in sorted(ours - theirs))])
    elif theirs != ours:
        yield f"{place}: {json.dumps(theirs)} -> {json.dumps(ours)}"


def unknown(lines: Iterable[str], other: str, masked: list[str]) -> list[str]:
    """Differences that KNOWN does not have."""
    patterns = [pattern for name, pattern, _ in KNOWN if name in (other, "both")]
    hidden = re.compile(f"(mounts |mount points: [-+])({'|'.join(map(re.escape, masked))})(?= |$)") if masked else None
    found = []
    for line in lines:
        text = hidden.sub(r"\1masked", line) if hidden else line
        if not any(re.fullmatch(pattern, text) for pattern in patterns):
            found.append(line)
    return found


def refused(theirs: dict[str, Any], ours: dict[str, Any], other: str) -> bool:
    """Whether both refuse the configuration, or we alone with a reason that is listed."""
    if "refused" in ours:
        return "refused" in theirs or any(name == other and text in ours["refused"] for name, text, _ in REFUSED)
    return False


def unable(words: str, other: str) -> bool:
    """Whether another runtime refuses what it is known to be unable to do."""
    return any(name == other and text in words for name, text, _ in UNABLE)
