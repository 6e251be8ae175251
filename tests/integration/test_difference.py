# SPDX-License-Identifier: Apache-2.0
"""One bundle under wherry and under another runtime: what the first process sees is the same, but for what harness/difference.py lists."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.difference import difference, mounts, normal, unknown
from harness.requirements import SECCOMP_PROFILE
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "probe"), pytest.mark.ours, pytest.mark.v2]

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


@pytest.mark.parametrize("other", ["runc", "crun"], indirect=True)
@pytest.mark.parametrize("configure", CONFIGURATIONS, ids=lambda configure: configure.__name__)
def test_same(runtime: Runtime, other: Runtime, bundle: Bundle, place: Path, configure: Callable[[Bundle, Path], None]) -> None:
    if "profile" in configure.__code__.co_names and not SECCOMP_PROFILE.exists():
        pytest.skip(f"requires seccomp-profile: no {SECCOMP_PROFILE}")
    bundle.args("/probe")
    configure(bundle, place)
    first = other.run(bundle, check=False, input="")  # pipes for all three
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
