# SPDX-License-Identifier: Apache-2.0
"""One bundle under wherry and under another runtime: what the first process sees is the same, but for what is listed here with its reason.

The list is for runc 1.1 and crun 1.8, which Debian 12 has; crun refuses hybrid hosts, so it is compared on pure cgroup v2 ones.
"""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.census import Census
from harness.requirements import SECCOMP_PROFILE
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "probe"), pytest.mark.ours, pytest.mark.v2]

# What may differ from which runtime: lines of `difference`, where a place that the configuration masks is called "masked", and why.
KNOWN = [
    (
        "both",
        r"mounts masked options: \+nodev \+noexec \+nosuid|mounts masked super: (-rw -size=0k )?\+nr_inodes=1( \+ro)? \+size=4k",
        "the empty directory that hides one has room for nothing, and nothing in it could be used",
    ),
    (
        "runc",
        r'mounts masked options: -rw \+noexec( \+nosuid)?( \+relatime)? \+ro|mounts masked super: -size=65536k.*|mounts masked (type|source): "tmpfs" -> "devtmpfs"',
        "what hides a file is the host's null device, not what the container's /dev has by that name, and it is read-only: its owner and mode cannot be changed",
    ),
    ("crun", r"mounts masked options: \+noexec \+nosuid", "what hides a file can be neither a program nor privileged"),
    ("runc", r"mounts /sys super: -ro \+rw", "`ro` is of the mount: the sysfs behind it is the one of the network namespace, whoever mounts it"),
    ("runc", r"mount points all: \+/sys/fs/cgroup/unified", "on a hybrid host the container sees its cgroup in the v2 tree too; runc does not show that tree"),
    ("runc", r"mounts /sys/fs/cgroup options: -rw \+ro", "`ro` holds for the directory of the hierarchies as for the hierarchies"),
    ("both", r'mounts /sys/fs/cgroup(/systemd)? source: "(systemd|cgroup2)" -> "cgroup"', "the source of a cgroup mount is a word without a meaning"),
    ("both", r"dev mqueue [ug]id: 0 -> 65534", "user and ipc namespace are made by one clone, so the root of the queues belongs to the caller; its mode is 1777"),
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
    ("both", r"mounts /run super: \+mode=755", "a copied-up tmpfs is mounted with its target's mode; there it gets the same mode when the contents have been copied"),
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
    seen["fds"] = {str(one["fd"]): [one["cloexec"], one["target"].partition(":")[0], one["mode"], one["uid"]] for one in seen["fds"]}
    seen["keyring"] = (seen["keyring"]["description"] or "").replace(container, "ID")
    seen["clocks"] = seen["clocks"]["offsets"]
    seen["cgroup"] = sorted(seen["cgroup"])
    return seen


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


# ---- configurations

PODMAN = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT".split()


def capabilities(*names: str, ambient: bool = False) -> dict[str, list[str]]:
    kinds = ["bounding", "effective", "permitted", *(["inheritable", "ambient"] if ambient else [])]
    return {kind: [f"CAP_{name}" for name in names] for kind in kinds}


def profile() -> dict[str, Any]:
    """The engines' profile as an engine passes it on: without its conditions on capabilities."""
    given = json.loads(SECCOMP_PROFILE.read_text())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    wanted = [(rule, rule.get("includes") or {}, rule.get("excludes") or {}) for rule in given["syscalls"]]
    rules = [
        rule
        for rule, includes, excludes in wanted
        if machine in includes.get("arches", [machine]) and not includes.get("caps") and machine not in excludes.get("arches", [])
    ]
    known = ("names", "action", "args", "errnoRet")
    return {
        "defaultAction": given["defaultAction"],
        "defaultErrnoRet": given.get("defaultErrnoRet", 1),
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"] if machine == "amd64" else ["SCMP_ARCH_AARCH64"],
        "syscalls": [{key: rule[key] for key in known if rule.get(key) is not None} for rule in rules],
    }


def plain(bundle: Bundle, place: Path) -> None:
    """As `runc spec` writes it."""
    bundle.config["root"]["readonly"] = True
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    bundle.namespace("cgroup")
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"])


def engine(bundle: Bundle, place: Path) -> None:
    """As Podman writes it."""
    (place / "hosts").write_text("127.0.0.1 localhost\n")
    (place / "secrets").mkdir()
    bundle.namespace("cgroup")
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", ["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"])
    bundle.mount("/etc/hosts", place / "hosts", "bind", ["bind", "rprivate"])
    bundle.mount("/run/secrets", place / "secrets", "bind", ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"])
    bundle.config["process"] |= {"capabilities": capabilities(*PODMAN), "oomScoreAdj": 0, "env": ["container=podman", "HOME=/root", "TERM=xterm", "PATH=/bin"]}
    del bundle.process["noNewPrivileges"]
    bundle.process["rlimits"] = [{"type": "RLIMIT_NPROC", "hard": 4096, "soft": 4096}]
    bundle.process["user"]["umask"] = 0o22
    bundle.config["annotations"] = {"org.opencontainers.image.stopSignal": "15"}
    bundle.linux["sysctl"] = {"net.ipv4.ping_group_range": "0 0"}
    bundle.linux["rootfsPropagation"] = "slave"
    bundle.resources["pids"] = {"limit": 2048}
    bundle.linux["seccomp"] = profile()


def user_namespace(bundle: Bundle, place: Path) -> None:
    bundle.user_namespace()
    bundle.process["capabilities"] = capabilities(*PODMAN)


def read_only(bundle: Bundle, place: Path) -> None:
    bundle.config["root"]["readonly"] = True
    data = place / "data"
    (data / "below").mkdir(parents=True)
    (bundle.rootfs / "run").mkdir()
    bundle.mount("/tmp", "tmpfs", "tmpfs", ["nosuid", "nodev", "mode=1777", "size=1m"])
    bundle.mount("/run", "tmpfs", "tmpfs", ["nosuid", "nodev", "noexec", "tmpcopyup"])
    bundle.mount("/a", data, "bind", ["rbind", "ro", "rslave"])
    bundle.mount("/b", data, "bind", ["bind", "rw", "rshared", "noatime"])
    bundle.mount("/c/d", data, "bind", ["rbind", "rprivate", "nosuid", "noexec"])


def ordinary_user(bundle: Bundle, place: Path) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 44], "umask": 0o27}
    bundle.process["capabilities"] = capabilities("NET_BIND_SERVICE", "KILL", ambient=True)
    bundle.process["cwd"] = "/home/user"
    bundle.process["env"] = ["PATH=/bin", "B=1", "A=2"]
    bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}, {"type": "RLIMIT_NOFILE", "hard": 512, "soft": 256}]


def privileges_kept(bundle: Bundle, place: Path) -> None:
    """No no_new_privs, a filter all the same; namespaces of the host; devices; a working directory that is missing."""
    del bundle.process["noNewPrivileges"]
    bundle.process["capabilities"] = capabilities("SYS_ADMIN", "CHOWN", "MKNOD")
    bundle.process["cwd"] = "/made/by/runtime"
    bundle.without_namespace("network").without_namespace("ipc")
    bundle.config["mounts"] = [one for one in bundle.config["mounts"] if one["destination"] not in ("/sys", "/dev/mqueue")]
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}
    bundle.linux["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    bundle.linux["maskedPaths"] = ["/proc/acpi", "/etc/group", "/no/such"]
    bundle.linux["readonlyPaths"] = ["/proc/sys", "/etc"]


CONFIGURATIONS: list[Callable[[Bundle, Path], None]] = [plain, engine, user_namespace, read_only, ordinary_user, privileges_kept]


# ---- the comparison


@pytest.fixture
def other(request: pytest.FixtureRequest, place: Path, session_directory: Path) -> Iterator[Runtime]:
    """Another runtime of this machine, with a private --root."""
    command = shutil.which(request.param, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if not command:
        pytest.skip(f"requires {request.param}: not on this machine")
    runtime = Runtime(command, place / "other", f"{session_directory.name}-{place.name}-o")
    census = Census(runtime.tag, [runtime.root])
    yield runtime
    runtime.clean_up()
    assert not census.leftovers()


@pytest.mark.parametrize("other", ["runc", "crun"], indirect=True)
@pytest.mark.parametrize("configure", CONFIGURATIONS, ids=lambda configure: configure.__name__)
def test_same(runtime: Runtime, other: Runtime, bundle: Bundle, place: Path, configure: Callable[[Bundle, Path], None]) -> None:
    if "profile" in configure.__code__.co_names and not SECCOMP_PROFILE.exists():
        pytest.skip(f"requires seccomp-profile: no {SECCOMP_PROFILE}")
    bundle.args("/probe")
    configure(bundle, place)
    first = other.run(bundle, check=False, input="")  # pipes for all three
    if other.name == "crun" and first.code and "cgroup" in first.err:
        pytest.skip(f"requires a host that crun runs on: {first.err.strip().splitlines()[-1]}")
    assert first.code == 0, first.err
    theirs = normal(first.json(), other.containers[-1].id)
    ours = normal(runtime.run(bundle, input="").json(), runtime.containers[-1].id)
    found = unknown(difference(theirs, ours), other.name, bundle.linux["maskedPaths"])
    assert not found, "\n".join(found)


def test_a_difference_is_found() -> None:
    line = "1 2 0:4 / /proc rw,nosuid shared:3 master:1 - proc proc rw"
    theirs = {"umask": 18, "names": {"hostname": "a"}, "mounts": mounts([line, line.replace("/proc", "/x")])}
    ours = {"umask": 0, "names": {"hostname": "a", "new": 1}, "mounts": mounts([line.replace("nosuid", "nodev").replace("shared:3 ", "")])}
    assert list(difference(theirs, ours)) == [
        "mounts /proc options: -nosuid +nodev",
        "mounts /proc propagation: -shared",
        "names new: only ours",
        "umask: 18 -> 0",
    ]
    assert unknown(difference(theirs, ours), "runc", []) == list(difference(theirs, ours))
