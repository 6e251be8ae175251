# SPDX-License-Identifier: Apache-2.0
"""What works on this host for who asks, what does not, and what mends it (`wherry doctor`).

    report = examine()
    report.usable                              # can this caller run containers here?
    [f for f in report.findings if f.status != "ok"]

Nothing is believed that can be tried: wherry.kernel.trials does each thing in a child, and at last a container is run.
The checks themselves are pure functions of what was seen (wherry.api.findings), so that any host can be told of in a test.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from typing import Any

from wherry.errors import DeadlineError
from wherry.kernel.hostfacts import HostFacts, gather
from wherry.kernel.trials import TRIALS, attempt

OK, PARTLY, MISSING = "ok", "partly", "missing"
BY_SYSTEMD = "a container by systemd"
"""The three containers that are run are known by what they are."""

VERSION = 1
"""Of the document."""

SYSCTLS = (
    "kernel/unprivileged_userns_clone", "kernel/apparmor_restrict_unprivileged_userns", "user/max_user_namespaces",
    "user/max_mnt_namespaces", "user/max_pid_namespaces", "user/max_net_namespaces", "user/max_ipc_namespaces",
    "user/max_uts_namespaces", "user/max_cgroup_namespaces", "user/max_time_namespaces", "vm/memfd_noexec",
    "kernel/keys/maxkeys", "kernel/keys/maxbytes", "kernel/pid_max",
)  # fmt: skip


_PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Finding:
    """One thing that was looked at. `effect`: what does not work because of it; `remedy`: the command or setting that mends it.
    `needed`: without it no container runs."""

    __slots__ = ("detail", "effect", "group", "name", "needed", "remedy", "status")

    def __init__(
        self, group: str, name: str, status: str, detail: str = "", effect: str = "", remedy: str = "", needed: bool = False
    ) -> None:
        self.group, self.name, self.status, self.detail = group, name, status, detail
        self.effect, self.remedy, self.needed = (effect, remedy, needed) if status != OK else ("", "", needed)

    def document(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("group", "name", "status", "detail", "effect", "remedy", "needed")}

    def __repr__(self) -> str:
        return f"Finding({self.group}/{self.name}: {self.status}, {self.detail!r})"


class Seen:
    """What was read and tried, before anything is made of it."""

    __slots__ = (
        "bounding",
        "criu",
        "facts",
        "files",
        "limits",
        "mappers",
        "name",
        "ran",
        "results",
        "sockets",
        "subordinate",
        "systemd",
        "unmounted",
        "where",
    )

    def __init__(self, facts: HostFacts, results: dict[str, dict[str, Any]]) -> None:
        self.facts = facts
        self.results = results
        self.name = ""  # of the user
        self.where = ""  # --root
        self.files: dict[str, str] = {}  # sysctls and the like, by path below /proc/sys; absent = no such file
        self.bounding = (1 << 64) - 1
        self.limits: dict[str, tuple[int, int]] = {}
        self.subordinate: dict[str, int] = {}  # /etc/subuid, /etc/subgid: ids of the user
        self.mappers: dict[str, str] = {}  # newuidmap, newgidmap: "setuid", "capability", "plain"
        self.criu: tuple[str, str] | None = None  # (version, what criu check said, "" = all is well)
        self.systemd = False
        self.unmounted: list[str] = []  # controllers of cgroup v1 hierarchies that are mounted nowhere here
        self.sockets: dict[str, int] = {}  # address -> errno of a connection
        self.ran: list[tuple[str, str, str]] = []  # (what, error, remedy) of containers that were run

    def errno(self, trial: str) -> int:
        return int(self.results.get(trial, {}).get("errno", 0))

    def value(self, trial: str) -> Any:
        return self.results.get(trial, {}).get("value")

    @property
    def privileged(self) -> bool:
        return bool(self.facts.capabilities >> 21 & 1) and not self.facts.user_namespace


class Report:
    """All findings, in the order of the groups."""

    __slots__ = ("findings", "seen")

    def __init__(self, seen: Seen, findings: Iterable[Finding]) -> None:
        self.seen, self.findings = seen, list(findings)

    @property
    def usable(self) -> bool:
        return not any(finding.needed and finding.status == MISSING for finding in self.findings)

    def who(self) -> str:
        facts = self.seen.facts
        if self.seen.privileged:
            return "root"
        if facts.uid == 0:
            return "root of a user namespace" if facts.user_namespace else "root without CAP_SYS_ADMIN"
        return self.seen.name or f"uid {facts.uid}"

    def document(self) -> dict[str, Any]:
        facts = self.seen.facts
        count = {status: sum(finding.status == status for finding in self.findings) for status in (OK, PARTLY, MISSING)}
        host = {"kernel": facts.kernel, "machine": os.uname().machine, "cgroups": facts.cgroup_mode, "systemd": self.seen.systemd}
        return {
            "version": VERSION,
            "usable": self.usable,
            "caller": {"uid": facts.uid, "gid": facts.gid, "userNamespace": facts.user_namespace, "privileged": self.seen.privileged},
            "host": host,
            "count": count,
            "findings": [finding.document() for finding in self.findings],
        }


def examine(root: str | None = None, container: bool = True) -> Report:
    """Tries everything. `container` false: no container is run at the end."""
    from wherry.api.findings import check
    from wherry.container.options import default_root

    seen = look(root or default_root())
    if container:
        seen.ran = _run_containers(seen)
    return Report(seen, check(seen))


def look(root: str) -> Seen:
    seen = Seen(gather(lsms=True, delegate=True, mappers=True), attempt(list(TRIALS)))
    seen.where = root
    seen.name = _user_name(seen.facts.uid)
    for name in SYSCTLS:
        text = _read(f"/proc/sys/{name}")
        if text is not None:
            seen.files[name] = text.strip()
    seen.files["apparmor"] = (_read("/sys/module/apparmor/parameters/enabled") or "").strip()
    seen.files["selinux"] = (_read("/sys/fs/selinux/enforce") or "").strip()
    status = _read("/proc/self/status") or ""
    seen.bounding = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd")), seen.bounding)
    seen.unmounted = _unmounted(_read("/proc/cgroups") or "", _read("/proc/self/mountinfo") or "")
    _look_at_limits(seen)
    _look_at_ids(seen)
    _look_at_services(seen)
    return seen


def _unmounted(controllers: str, mounts: str) -> list[str]:
    """A hierarchy outlives its last mount while it has a cgroup, as after a test suite or an engine that was killed."""
    mounted = {option for line in mounts.splitlines() if " - cgroup " in line for option in line.split()[-1].split(",")}
    together: dict[str, list[str]] = {}
    for name, hierarchy, *_ in (line.split() for line in controllers.splitlines() if not line.startswith("#")):
        if hierarchy != "0" and name not in mounted:
            together.setdefault(hierarchy, []).append(name)
    return [",".join(names) for names in together.values()]


def _look_at_limits(seen: Seen) -> None:
    import resource

    for name in ("NOFILE", "NPROC", "MEMLOCK"):
        seen.limits[name] = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))


def _look_at_ids(seen: Seen) -> None:
    from wherry.kernel.trials import subordinate

    for file in ("/etc/subuid", "/etc/subgid"):
        try:
            seen.subordinate[file] = subordinate(file, seen.name, seen.facts.uid)[1]
        except OSError:
            seen.subordinate[file] = 0
    for name, path in (("newuidmap", seen.facts.newuidmap), ("newgidmap", seen.facts.newgidmap)):
        if path:
            seen.mappers[name] = _how_privileged(path)


def _how_privileged(path: str) -> str:
    status = os.stat(path)
    if status.st_mode & 0o4000 and status.st_uid == 0:
        return "setuid"
    try:
        return "capability" if os.getxattr(path, "security.capability") else "plain"
    except OSError:
        return "plain"


def _look_at_services(seen: Seen) -> None:
    seen.systemd = os.path.isdir("/run/systemd/system")
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{seen.facts.uid}")
    addresses = ["/run/dbus/system_bus_socket"] if seen.facts.uid == 0 else [f"{runtime}/bus", f"{runtime}/systemd/private"]
    if seen.facts.uid == 0 and seen.systemd:
        addresses.insert(0, "/run/systemd/private")
    seen.sockets = {address: _connect(address) for address in addresses}
    program = shutil.which("criu", path=_PATH["PATH"])
    if program:
        seen.criu = _ask_criu(program, seen.privileged)


def _connect(address: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(address)
        except OSError as error:
            return error.errno or errno.ETIMEDOUT
    return 0


def _ask_criu(program: str, check: bool) -> tuple[str, str]:
    """Its version, and the first complaint of `criu check`, which only root may ask."""

    def ask(*arguments: str) -> tuple[int, str]:
        try:
            done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, env=_PATH)
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, str(error)
        return done.returncode, (done.stdout + done.stderr).strip()

    code, text = ask("--version")
    version = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Version")), "")
    if code or not version:
        return version, text.splitlines()[0] if text else "it does not start"
    if check:
        code, text = ask("check")
        if code:
            lines = [line for line in text.splitlines() if "Error" in line] or text.splitlines() or ["criu check fails"]
            return version, lines[0].strip()
    return version, ""


def _run_containers(seen: Seen) -> list[tuple[str, str, str]]:
    """A program of the host, in the host's own root, read-only: with limits where they may be set, and without."""
    from wherry.api.runner import run
    from wherry.errors import WherryError

    facts, program = seen.facts, next((path for path in ("/bin/true", "/usr/bin/true") if os.access(path, os.X_OK)), None)
    if program is None:
        return []
    mappings = None
    if not seen.privileged:
        mappings = tuple([{"containerID": 0, "hostID": id, "size": 1}] for id in (facts.uid, facts.gid))
    done = []
    kinds = ["a container with limits", "a container", *([BY_SYSTEMD] if seen.systemd and not all(seen.sockets.values()) else ())]
    for what in kinds:
        error = remedy = ""
        id, choices = f"wherry-doctor-{os.urandom(4).hex()}", {"mappings": mappings, "limits": what != "a container"}
        with tempfile.TemporaryDirectory(prefix="wherry-doctor-") as root:
            try:
                if what == BY_SYSTEMD:
                    code = _run_by_systemd([program], id, root, choices)
                else:
                    code = run("/", [program], id=id, root=root, timeout=20, **choices).code
                error = f"its program ended with {code}" if code else ""
            except (WherryError, OSError) as failure:
                error, remedy = str(failure), getattr(failure, "remedy", None) or ""
        done.append((what, error, remedy))
    return done


def _run_by_systemd(args: list[str], id: str, root: str, choices: dict[str, Any]) -> int:
    """With --systemd-cgroup, which the library has no word for."""
    from wherry.api.bundle import Bundle
    from wherry.container import lifecycle
    from wherry.container.create import launch, prepare
    from wherry.container.options import CreateOptions
    from wherry.kernel import native

    options = CreateOptions(root, id, "/")
    options.config, options.cgroup_manager = Bundle.sandbox("/", args, **choices).data, "systemd"
    nowhere = os.open("/dev/null", os.O_RDWR)
    options.stdio = (nowhere, nowhere, nowhere)
    pidfd = -1
    try:
        create = launch(options, prepare(options))
        pidfd = create.take_pidfd()
        create.close()
        lifecycle.start(root, id)
        if not native.pidfd_wait(pidfd, 20000):
            raise DeadlineError("its program did not end within 20 s")
        return native.pidfd_reap(pidfd)
    finally:
        os.close(nowhere)
        if pidfd >= 0:
            lifecycle.delete(root, id, force=True)
            os.close(pidfd)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None
