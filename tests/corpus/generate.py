# SPDX-License-Identifier: Apache-2.0
"""Configurations by a seed, for a comparison of runtimes: each runs, as root, on every host that the tests know, and asks for nothing that
Debian's runc and crun cannot do. (What wherry must refuse, and what only it can do, is in the unit tests' strategies.)"""

from __future__ import annotations

import copy
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bundle import base_config
from harness.requirements import controller
from wherry.oci.checks import CAPABILITIES

from . import load

Config = dict[str, Any]
PATHS = ("/etc/passwd /etc/group /etc /tmp /home/user /proc/kcore /proc/keys /proc/sys /proc/bus /proc/irq /sys/firmware /sys/block /no/such /var /usr/bin "
         "/proc/timer_list /proc/sysrq-trigger /home /mnt").split()  # fmt: skip
SYSCALLS = "mkdir mkdirat chmod chown swapon acct ptrace getcpu sched_setscheduler unlink symlink link rename sethostname mlock".split()
LIMITS = "CORE CPU FSIZE LOCKS MEMLOCK MSGQUEUE NOFILE NPROC RSS SIGPENDING STACK".split()
FLAGS = "ro rw nosuid suid nodev dev noexec exec nodiratime".split()
TIMES = "noatime relatime strictatime atime norelatime nostrictatime diratime".split()
PROPAGATIONS = "private rprivate slave rslave shared rshared".split()


def generate(seed: int, place: Path) -> Config:
    """The sources of bind mounts are made below `place`; the cgroup path is the caller's to set."""
    rng = random.Random(f"wherry {seed}")
    config = base_config()
    config["process"]["env"] = [f"{name}={rng.randrange(1000)}" for name in rng.sample("ABCDEFGH", rng.randrange(6))] + ["PATH=/bin:/usr/bin"]
    for section in SECTIONS:
        if rng.random() < 0.7:
            section(config, rng, place)
    if rng.random() < 0.3:
        rng.shuffle(config["linux"]["namespaces"])
    return config


def some(rng: random.Random, choices: list[Any] | tuple[Any, ...], most: int) -> list[Any]:
    return rng.sample(choices, rng.randrange(min(most, len(choices)) + 1))


# ---- process


def user(config: Config, rng: random.Random, place: Path) -> None:
    config["process"]["user"] = {"uid": rng.choice([0, 0, 1000, 12345]), "gid": rng.choice([0, 1000, 5]), "additionalGids": some(rng, [5, 7, 44, 1000, 30000], 4)}
    if rng.random() < 0.5:
        config["process"]["user"]["umask"] = rng.choice([0, 0o22, 0o27, 0o77])
    config["process"]["cwd"] = rng.choice(["/", "/tmp", "/home/user", "/usr/bin", "/made/up"])


def privileges(config: Config, rng: random.Random, place: Path) -> None:
    bound = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")).split()[1], 16)
    bounding = [name for name in some(rng, CAPABILITIES, 20) if bound >> CAPABILITIES.index(name) & 1]
    permitted = some(rng, bounding, 20)
    inheritable = some(rng, permitted, 3) if rng.random() < 0.5 else []
    sets = {"bounding": bounding, "permitted": permitted, "effective": some(rng, permitted, 20), "inheritable": inheritable, "ambient": some(rng, inheritable, 3)}
    config["process"]["capabilities"] = {kind: names for kind, names in sets.items() if names or rng.random() < 0.5}
    config["process"]["noNewPrivileges"] = rng.random() < 0.5


def limits(config: Config, rng: random.Random, place: Path) -> None:
    entries = []
    for name in some(rng, LIMITS, 5):
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}", resource.RLIMIT_CORE))[1]
        high = {"NOFILE": 256, "NPROC": 4096, "FSIZE": 1 << 30, "STACK": 8 << 20, "CPU": 100, "MEMLOCK": 65536}.get(name, rng.randrange(1, 4096))
        high = high if hard == resource.RLIM_INFINITY else min(high, hard)
        entries.append({"type": f"RLIMIT_{name}", "hard": high, "soft": rng.choice([high, max(high // 2, 1)])})
    config["process"]["rlimits"] = entries
    config["process"]["oomScoreAdj"] = int(Path("/proc/self/oom_score_adj").read_text()) + rng.randrange(100)


# ---- file systems


def root(config: Config, rng: random.Random, place: Path) -> None:
    config["root"]["readonly"] = rng.random() < 0.4
    if rng.random() < 0.5:
        config["linux"]["rootfsPropagation"] = rng.choice(["private", "rprivate", "slave", "rslave"])
    hidden = [path for path in some(rng, PATHS, 6) if not config["process"]["cwd"].startswith(path)]
    config["linux"]["maskedPaths"] = [*hidden, *some(rng, hidden, 1)]
    config["linux"]["readonlyPaths"] = [path for path in some(rng, PATHS, 6) if not any(one.startswith(path) or path.startswith(one) for one in hidden)]


def binds(config: Config, rng: random.Random, place: Path) -> None:
    for number in range(rng.randrange(4)):
        source = place / f"bind{number}"
        target = rng.choice([f"/data{number}", f"/mnt/deep/{number}", "/home/user", f"/tmp/{number}"])
        if rng.random() < 0.4:
            source.write_text("text\n")
            target = rng.choice(["/etc/hosts", f"/mnt/file{number}", "/etc/group"])
        else:
            (source / "below").mkdir(parents=True, exist_ok=True)
            source.chmod(rng.choice([0o755, 0o700, 0o1777]))
        options = [rng.choice(["bind", "rbind"]), *some(rng, FLAGS, 3), *some(rng, TIMES, 3), *some(rng, PROPAGATIONS, 1)]
        config["mounts"].append({"destination": target, "source": str(source), "options": options, "type": rng.choice(["bind", "none"])})


def memory_files(config: Config, rng: random.Random, place: Path) -> None:
    for number in range(rng.randrange(3)):
        options = [*some(rng, FLAGS[2:8], 2), *some(rng, ["size=64k", "mode=700", "nr_inodes=10"], 2)]
        config["mounts"].append({"destination": rng.choice([f"/mem{number}", "/tmp", "/mnt", "/var/lib/x"]), "type": "tmpfs", "source": "tmpfs", "options": options})


def kernel_files(config: Config, rng: random.Random, place: Path) -> None:
    for mount in config["mounts"]:
        if mount["destination"] == "/sys":
            mount["options"] = ["nosuid", "noexec", "nodev", rng.choice(["ro", "rw"])]
        elif mount["destination"] == "/proc" and rng.random() < 0.5:
            mount["options"] = some(rng, ["nosuid", "noexec", "nodev"], 3)
    if rng.random() < 0.6:
        options = ["nosuid", "noexec", "nodev", "relatime", rng.choice(["ro", "rw"])]
        config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})


def devices(config: Config, rng: random.Random, place: Path) -> None:
    entries: list[Config] = []
    for number in range(rng.randrange(1, 4)):
        kind = rng.choice("cccp")
        entry: Config = {"path": rng.choice([f"/dev/own{number}", f"/dev/deep/er/{number}"]), "type": kind, "fileMode": rng.choice([0o600, 0o640, 0o666]), "uid": rng.choice([0, 7]), "gid": 5}
        if kind == "c":
            entry |= {"major": 1, "minor": rng.choice([3, 5, 7, 8])}
        entries.append(entry)
    config["linux"]["devices"] = entries


# ---- namespaces, cgroups, filters


def spaces(config: Config, rng: random.Random, place: Path) -> None:
    linux = config["linux"]
    kinds = ["pid", "mount", *some(rng, ["network", "ipc", "uts", "cgroup"], 4)]
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    if "uts" not in kinds:
        del config["hostname"]
    gone = {"/sys" if "network" not in kinds else "", "/dev/mqueue" if "ipc" not in kinds else ""}
    config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] not in gone]


def user_namespace(config: Config, rng: random.Random, place: Path) -> None:
    """Devices are the host's own there: those of the default."""
    if rng.random() < 0.5 or len(config["linux"]["namespaces"]) < 4:
        return
    config["linux"].pop("devices", None)
    first = rng.choice([100000, 300000])
    ranges = rng.choice([[(0, first, 65536)], [(0, first, 1), (1, first + 500, 65535)], [(0, first, 2000), (2000, first + 5000, 60000)]])
    config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": inner, "hostID": outer, "size": size} for inner, outer, size in ranges]


def sysctls(config: Config, rng: random.Random, place: Path) -> None:
    kinds = {space["type"] for space in config["linux"]["namespaces"]}
    known = {"net.ipv4.ip_forward": "network", "net.ipv4.ping_group_range": "network", "net.core.somaxconn": "network", "kernel.msgmax": "ipc", "kernel.shmmax": "ipc"}
    values = {"net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "0 0", "net.core.somaxconn": "99", "kernel.msgmax": "4096", "kernel.shmmax": "1000000"}
    config["linux"]["sysctl"] = {name: values[name] for name in some(rng, [name for name, kind in known.items() if kind in kinds], 4)}


def resources(config: Config, rng: random.Random, place: Path) -> None:
    found: Config = {"devices": [{"allow": False, "access": "rwm"}]}
    for _ in range(rng.randrange(3)):
        found["devices"].append({"allow": rng.random() < 0.8, "type": "c", "major": rng.choice([10, 1, 4]), "minor": rng.choice([200, 229, 5]), "access": rng.choice(["rw", "r", "rwm", "m"])})
    wanted: Config = {
        "memory": {"limit": 64 << 20, "reservation": rng.choice([0, 32 << 20])},
        "cpu": {"shares": rng.choice([512, 1024, 2048]), **rng.choice([{}, {"quota": 50000, "period": 100000}, {"quota": -1}])},
        "cpuset": {"cpus": "0"},
        "pids": {"limit": rng.choice([100, 1000, -1])},
    }
    for name in some(rng, list(wanted), 4):
        if not controller(name):
            found.setdefault("cpu" if name == "cpuset" else name, {}).update(wanted[name])
    config["linux"]["resources"] = found


def filters(config: Config, rng: random.Random, place: Path) -> None:
    if rng.random() < 0.4:
        config["linux"]["seccomp"] = copy.deepcopy(load(rng.choice(["podman-default", "docker-default", "ctr-seccomp"]))["linux"]["seccomp"])
        return
    rules: list[Config] = []
    for name in some(rng, SYSCALLS, 8):
        rule: Config = {"names": [name], "action": rng.choice(["SCMP_ACT_ERRNO", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"])}
        if rule["action"] == "SCMP_ACT_ERRNO" and rng.random() < 0.7:
            rule["errnoRet"] = rng.choice([1, 13, 38, 99])
        if rng.random() < 0.4:
            operator = rng.choice(["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_MASKED_EQ"])
            value = rng.choice([0, 0xFFFFFFFFFFFFFFFF, 8])
            rule["args"] = [{"index": rng.randrange(3), "value": value, "op": operator, **({"valueTwo": 8 & value} if operator == "SCMP_CMP_MASKED_EQ" else {})}]
        rules.append(rule)
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64" if os.uname().machine == "x86_64" else "SCMP_ARCH_AARCH64"], "syscalls": rules}


SECTIONS: tuple[Callable[[Config, random.Random, Path], None], ...] = (
    user, privileges, limits, root, spaces, binds, memory_files, kernel_files, devices, user_namespace, sysctls, resources, filters,
)  # fmt: skip
