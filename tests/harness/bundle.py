# SPDX-License-Identifier: Apache-2.0
"""Bundles from a dict: a small busybox root file system and a configuration that a test changes where it cares."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .census import cgroups_with

Config = dict[str, Any]

APPLETS = """sh ash cat ls echo sleep true false id env printenv pwd mount umount grep head tail wc test [ stat touch rm mkdir rmdir cp mv
ln chmod chown chgrp ps kill hostname ip ifconfig ulimit dd sync sysctl mknod readlink tty stty od hexdump tr cut sed awk sort uniq find
seq date uname unshare setsid nproc getopt yes timeout trap df tee xargs basename dirname expr usleep su which""".split()

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"]
READONLY = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

BASE: Config = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["sleep", "1000"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": False},
    "hostname": "wherry",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
        "maskedPaths": MASKED,
        "readonlyPaths": READONLY,
    },
}


def busybox() -> Path:
    """The static busybox of the machine."""
    found = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    if not found:
        raise FileNotFoundError("the tests need busybox-static")
    return Path(found)


def make_rootfs(place: Path, probe: Path | None) -> Path:
    """A root file system of hard links to one copy of busybox (and of the probe)."""
    for name in ("bin", "dev", "etc", "home/user", "proc", "root", "sys", "tmp", "usr/bin", "var", "mnt"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "tmp").chmod(0o1777)
    store = place.parents[2] / "store"  # of the session
    store.mkdir(exist_ok=True)
    link_copy(busybox(), store / "busybox", place / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", place / "bin" / applet)
    if probe:
        link_copy(probe, store / "probe", place / "probe")
    (place / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")
    (place / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    if os.geteuid() == 0:
        os.chown(place / "home/user", 1000, 1000)
    return place


def link_copy(source: Path, stored: Path, target: Path) -> None:
    if not stored.exists():
        shutil.copy(source, stored)
        stored.chmod(0o755)
    os.link(stored, target)


class Bundle:
    """A bundle directory. `config` is written by save(), which every use by the runtime does first."""

    def __init__(self, path: Path, config: Config, probe: Path | None) -> None:
        self.path = path
        self.config = config
        path.mkdir(parents=True)
        self.rootfs = make_rootfs(path / "rootfs", probe)

    def save(self) -> "Bundle":
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))
        return self

    def args(self, *args: str) -> "Bundle":
        self.config["process"]["args"] = list(args)
        return self

    def shell(self, script: str) -> "Bundle":
        return self.args("/bin/sh", "-c", script)

    def mount(self, destination: str, source: str | Path | None = None, kind: str | None = None, options: list[str] | None = None, **more: Any) -> "Bundle":
        entry: Config = {"destination": destination, **more}
        if source is not None:
            entry["source"] = str(source)
        if kind is not None:
            entry["type"] = kind
        if options is not None:
            entry["options"] = options
        self.config["mounts"].append(entry)
        return self

    def namespace(self, kind: str, path: str | None = None) -> "Bundle":
        """Adds or replaces a namespace; see without_namespace()."""
        self.without_namespace(kind)
        self.linux["namespaces"].append({"type": kind, "path": path} if path else {"type": kind})
        return self

    def without_namespace(self, kind: str) -> "Bundle":
        self.linux["namespaces"] = [one for one in self.linux["namespaces"] if one["type"] != kind]
        return self

    def user_namespace(self, host: int = 100000, size: int = 65536) -> "Bundle":
        """A new user namespace, and a rootfs that belongs to its root."""
        self.namespace("user")
        mapping = [{"containerID": 0, "hostID": host, "size": size}]
        self.linux["uidMappings"] = copy.deepcopy(mapping)
        self.linux["gidMappings"] = copy.deepcopy(mapping)
        return self.chown(host)

    def chown(self, owner: int) -> "Bundle":
        """The rootfs belongs to this user and group."""
        for top, directories, files in os.walk(self.rootfs):
            for name in (".", *directories, *files):
                if name not in ("busybox", "probe"):  # hard links to what all bundles share
                    os.chown(os.path.join(top, name), owner, owner, follow_symlinks=False)
        return self

    def cgroups(self) -> list[str]:
        """The directories of its cgroup, on the host; an ordinary user's container has none of its own."""
        path = self.linux.get("cgroupsPath")
        return cgroups_with(path.strip("/")) if path else []

    def by_an_ordinary_user(self) -> None:
        """As a container without root is: one id, in a user namespace; no cgroup."""
        self.namespace("user")
        self.linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        self.linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
        del self.linux["cgroupsPath"]
        for mount in self.config["mounts"]:
            if "gid=5" in mount.get("options", []):
                mount["options"].remove("gid=5")  # that id it has not got

    @property
    def linux(self) -> Config:
        return self.config["linux"]

    @property
    def process(self) -> Config:
        return self.config["process"]

    @property
    def resources(self) -> Config:
        return self.linux.setdefault("resources", {})


def base_config() -> Config:
    return copy.deepcopy(BASE)
