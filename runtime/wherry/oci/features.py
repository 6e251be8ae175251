# SPDX-License-Identifier: Apache-2.0
"""The features document (`wherry features`): what this build can do, whether or not the host can. Engines read it.

It is printed from the tables that the checks use. That the compiler knows neither less nor more is tested.
"""

from __future__ import annotations

from typing import Any

from wherry.oci.checks import CAPABILITIES, MOUNT_OPTIONS, NAMESPACES
from wherry.oci.checks_rare import HOOK_KINDS, MODE_FLAGS, MODES
from wherry.oci.checks_seccomp import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS
from wherry.oci.default import VERSION

# Annotations that change what wherry does. An engine must not let users that it does not trust set them. A dot at the end: a prefix.
UNSAFE_ANNOTATIONS = ("org.systemd.property.",)


def document(version: str, commit: str = "", libseccomp: str = "") -> dict[str, Any]:
    annotations = {"wherry.version": version}
    if commit:
        annotations["wherry.commit"] = commit
    if libseccomp:
        annotations["io.github.seccomp.libseccomp.version"] = libseccomp
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(MOUNT_OPTIONS),
        "linux": _linux(),
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }


def _linux() -> dict[str, Any]:
    return {
        "namespaces": sorted(NAMESPACES),
        "capabilities": list(CAPABILITIES),
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": {
            "enabled": True,
            "actions": sorted(ACTIONS),
            "operators": sorted(OPERATORS),
            "archs": sorted(ARCHITECTURES),
            "knownFlags": sorted(FLAGS),
            "supportedFlags": sorted(FLAGS),
        },
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "memoryPolicy": {"modes": sorted(MODES), "flags": sorted(MODE_FLAGS)},
        "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }
