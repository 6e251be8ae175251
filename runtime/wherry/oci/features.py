# SPDX-License-Identifier: Apache-2.0
"""The features document (`wherry features`): what this build can do. Engines read it.

It is printed from the tables that the checks use. That the compiler knows neither less nor more is tested. Of the host it takes what the
specification calls supported by the kernel and the library: capabilities, flags of seccomp filters, and whether profiles can be compiled.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from wherry.oci.checks import CAPABILITIES, MOUNT_OPTIONS, NAMESPACES
from wherry.oci.checks_rare import HOOK_KINDS, MODE_FLAGS, MODES
from wherry.oci.checks_seccomp import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS
from wherry.oci.default import VERSION

# Annotations that change what wherry does. An engine must not let users that it does not trust set them. A dot at the end: a prefix.
UNSAFE_ANNOTATIONS = ("org.systemd.property.",)


class Host:
    """What the kernel and the library have. As it is, all that is known."""

    def __init__(self, last_capability: int = len(CAPABILITIES) - 1, flags: Collection[str] = FLAGS, seccomp: bool = True) -> None:
        self.last_capability, self.flags, self.seccomp = last_capability, flags, seccomp


def document(version: str, host: Host | None = None, **facts: str) -> dict[str, Any]:
    """`facts`: of the version, by the name of the annotation (wherry.NAME); libseccomp has a name of its own, which engines know."""
    names = {"libseccomp": "io.github.seccomp.libseccomp.version"}
    annotations = {"wherry.version": version, **{names.get(name, f"wherry.{name}"): text for name, text in facts.items() if text}}
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(MOUNT_OPTIONS),
        "linux": _linux(host or Host()),
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }


def _linux(host: Host) -> dict[str, Any]:
    return {
        "namespaces": sorted(NAMESPACES),
        "capabilities": list(CAPABILITIES[: host.last_capability + 1]),
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": {
            "enabled": host.seccomp,
            "actions": sorted(ACTIONS),
            "operators": sorted(OPERATORS),
            "archs": sorted(ARCHITECTURES),
            "knownFlags": sorted(FLAGS),
            "supportedFlags": sorted(FLAGS.intersection(host.flags)),
        },
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "memoryPolicy": {"modes": sorted(MODES), "flags": sorted(MODE_FLAGS)},
        "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }
