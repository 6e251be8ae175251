# SPDX-License-Identifier: Apache-2.0
"""What the tests of the compiler share: hosts (facts/*.json), a base configuration, and a way to look at a plan."""

from __future__ import annotations

import copy
import difflib
import json
from pathlib import Path
from typing import Any

import pytest

from wherry.kernel.hostfacts import HostFacts, Namespace
from wherry.oci.checks import check
from wherry.plan.compile import compile
from wherry.plan.describe import Plan, Step
from wherry.plan.options import Options

HERE = Path(__file__).parent


def check_kept(path: Path, text: str, config: pytest.Config) -> None:
    """Against what the file has; with --update-golden the file is written."""
    if config.getoption("--update-golden", default=False):
        path.write_text(text)
    kept = path.read_text() if path.exists() else ""
    if text != kept:
        difference = "\n".join(difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "now", lineterm="", n=1))
        pytest.fail(f"the plan has changed; if that is meant: pytest tests/unit/plan --update-golden\n{difference}", pytrace=False)


FILTER = bytes(range(16))

# As `runc spec` writes it, without the terminal.
BASE: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {kind: ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"] for kind in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
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
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "maskedPaths": ["/proc/acpi", "/proc/kcore", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/sys"],
    },
}


def config(**changes: Any) -> dict[str, Any]:
    """The base with changes: linux__sysctl={...} sets /linux/sysctl, None removes."""
    result = copy.deepcopy(BASE)
    for key, value in changes.items():
        *parents, last = key.split("__")
        at = result
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value
    return result


def small(**changes: Any) -> dict[str, Any]:
    """No mounts, no capabilities, a mount namespace alone: what a test adds is all there is."""
    bare: dict[str, Any] = {
        "hostname": None,
        "mounts": [],
        "root__readonly": None,
        "linux": {"namespaces": [{"type": "mount"}]},
        "process__capabilities": None,
        "process__rlimits": None,
        "process__noNewPrivileges": None,
    }
    return config(**{**bare, **changes})


def host(name: str = "v2", **changes: Any) -> HostFacts:
    facts = HostFacts.from_json(json.loads((HERE / "facts" / f"{name}.json").read_text()))
    for key, value in changes.items():
        setattr(facts, key, value)
    return facts


def options(**changes: Any) -> Options:
    return Options(**{"build_id": bytes(16), "seccomp": lambda section: (FILTER, 4), **changes})


def make(document: dict[str, Any], facts: HostFacts | None = None, given: Options | None = None) -> bytes:
    check(copy.deepcopy(document))  # type: ignore[arg-type]
    return compile(document, facts or host(), given or options())


def plan(document: dict[str, Any], facts: HostFacts | None = None, **changes: Any) -> Plan:
    return Plan(make(document, facts, options(**changes)))


def steps(found: Plan, *names: str) -> list[Step]:
    return [step for step in found.steps if step.name in names]


def texts(found: Plan, *names: str) -> list[str]:
    return [step.text for step in steps(found, *names)]


def joined(kind: int, number: int = 77, owner: int | str = "own", ours: bool = False, maps: tuple[str, ...] = ()) -> Namespace:
    return Namespace(kind, number, owner, ours, maps)


def with_mounts(*mounts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return small(mounts=list(mounts), **changes)


def bind(*words: str, destination: str = "/data", source: str = "/srv/data", **more: Any) -> dict[str, Any]:
    return {"destination": destination, "source": source, "options": list(words), **more}


def namespaces(*kinds: str, **paths: str) -> list[dict[str, str]]:
    return [*({"type": kind} for kind in kinds), *({"type": kind, "path": path} for kind, path in paths.items())]


MAPPINGS = {
    "linux__uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
    "linux__gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
}
