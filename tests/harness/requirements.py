# SPDX-License-Identifier: Apache-2.0
"""Requirements by name: `@pytest.mark.requires("root", "cgroup-v1")`. A test whose requirement is missing is skipped, and says why."""

import ctypes
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from .census import cgroup_mounts

CAP_SYS_RESOURCE = 24
SECCOMP_PROFILE = Path("/usr/share/containers/seccomp.json")


def root() -> str | None:
    return "not root" if os.geteuid() else containers()


@cache
def containers() -> str | None:
    """Root with what makes it root here, or an ordinary user who may make user namespaces."""
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    done = subprocess.run(["unshare", *user, "--mount", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc"], capture_output=True, text=True)
    if done.returncode:
        return f"namespaces and mounts are refused here ({done.stderr.strip()})"
    fixed = [] if user else [str(mount) for mount in cgroup_mounts() if not os.access(mount, os.W_OK)]
    return f"cgroups cannot be written here ({fixed[0]})" if fixed else None


@cache
def cgroup_mode() -> str:
    """v1 (hybrid included: the controllers count), v2 or none."""
    try:
        controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
        return "v2" if controllers else "none"
    except OSError:
        return "v1" if cgroup_mounts() else "none"


def controller(name: str) -> str | None:
    """A controller of either version."""
    if cgroup_mode() == "v2":
        there = name in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    else:
        there = any(name in mount.name.split(",") for mount in cgroup_mounts())
    return None if there else f"no cgroup controller {name}"


@cache
def capability(number: int) -> bool:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> number & 1)


@cache
def raise_hard_limit() -> str | None:
    """Some sandboxes list CAP_SYS_RESOURCE and refuse it all the same."""
    script = "import resource as r; s, h = r.getrlimit(r.RLIMIT_NOFILE); r.setrlimit(r.RLIMIT_NOFILE, (s, h + 1))"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return None
    done = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True)
    return "raising a hard rlimit is refused (no CAP_SYS_RESOURCE)" if done.returncode else None


@cache
def namespace(kind: str) -> str | None:
    if not Path(f"/proc/self/ns/{kind}").exists():
        return f"the kernel has no {kind} namespaces"
    flag = {"user": "--user", "time": "--time", "cgroup": "--cgroup"}[kind]
    done = subprocess.run(["unshare", flag, "true"], capture_output=True)
    return f"{kind} namespaces are refused" if done.returncode else None


def command(name: str) -> str | None:
    return None if shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") else f"no {name} on this machine"


def lsm(name: str) -> str | None:
    try:
        active = Path("/sys/kernel/security/lsm").read_text().strip().split(",")
    except OSError:
        active = []
    return None if name in active else f"{name} is not active"


def kernel(release: str) -> str | None:
    have = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    need = tuple(int(part) for part in release.split("."))
    return None if have >= need else f"needs Linux {release}, this is {os.uname().release}"


def systemd() -> str | None:
    return None if Path("/run/systemd/system").is_dir() else "systemd is not running"


def seccomp_profile() -> str | None:
    return None if SECCOMP_PROFILE.exists() else "no seccomp profile (golang-github-containers-common)"


@cache
def verb(runtime: str, name: str) -> str | None:
    """A verb that the runtime under test has."""
    text = subprocess.run([runtime, "--help"], capture_output=True, text=True, timeout=20).stdout
    return None if name in text.split() or f"{name}," in text.split() else f"{Path(runtime).name} has no verb {name}"


def landlock() -> str | None:
    from wherry.kernel.hostfacts import landlock_abi

    return None if landlock_abi() >= 3 else f"Landlock has ABI {landlock_abi()}"


def kcmp() -> str | None:
    """CRIU compares descriptors with it; User-mode Linux has none."""
    pid = os.getpid()
    refused = ctypes.CDLL(None, use_errno=True).syscall(312, pid, pid, 0, 0, 0) < 0 and ctypes.get_errno() == errno.ENOSYS
    return "the kernel has no kcmp" if os.uname().machine == "x86_64" and refused else None


def numa() -> str | None:
    return None if Path("/sys/devices/system/node").exists() else "the kernel has no memory policies (no NUMA)"


@cache
def linux32() -> str | None:
    """User-mode Linux takes the personality and goes on saying x86_64."""
    done = subprocess.run(["setarch", "linux32", "uname", "-m"], capture_output=True, text=True)
    return None if done.stdout.strip() == "i686" else f"setarch linux32 uname -m says {done.stdout.strip() or done.stderr.strip()}"


def probe() -> str | None:
    built = os.environ.get("WHERRY_PROBE") or str(Path(__file__).parents[2] / "build/probe/probe")
    return None if Path(built).exists() else "the probe is not built (make -C tests/probe)"


CHECKS: dict[str, Callable[[], str | None]] = {
    "root": root,
    "containers": containers,
    "cgroup-v1": lambda: None if cgroup_mode() == "v1" else f"cgroup {cgroup_mode()}, not v1",
    "cgroup-v2": lambda: None if cgroup_mode() == "v2" else f"cgroup {cgroup_mode()}, not v2",
    "hard-rlimits": raise_hard_limit,
    "userns": lambda: namespace("user"),
    "timens": lambda: namespace("time"),
    "cgroupns": lambda: namespace("cgroup"),
    "apparmor": lambda: lsm("apparmor"),
    "selinux": lambda: lsm("selinux"),
    "systemd": systemd,
    "landlock": landlock,
    "kcmp": kcmp,
    "numa": numa,
    "linux32": linux32,
    "probe": probe,
    "seccomp-profile": seccomp_profile,
}


def missing(name: str, runtime: str = "") -> str | None:
    """What is missing of requirement `name`, or None. Families: `controller:pids`, `command:ip`, `kernel:5.12`, `verb:pause`."""
    family, _, value = name.partition(":")
    if family == "verb":
        return verb(runtime, value)
    if value:
        return {"controller": controller, "command": command, "kernel": kernel}[family](value)
    return CHECKS[name]()
