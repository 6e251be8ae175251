# SPDX-License-Identifier: Apache-2.0
"""The features document has the shape of the specification, and says what the code does: each thing it lists is tried."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from wherry.cgroup.units import ANNOTATION
from wherry.kernel.hostfacts import HostFacts
from wherry.oci import default, features
from wherry.oci.checks import RLIMITS, check, findings
from wherry.oci.checks_rare import HOOK_KINDS
from wherry.plan import isolation, mounts, process, scheduling
from wherry.plan.compile import compile
from wherry.plan.options import Options
from wherry.seccomp.compile import ARCHITECTURES

DOCUMENT = features.document("1.2.3", commit="abc", libseccomp="2.5.4")
LINUX = DOCUMENT["linux"]

# features.md and features-linux.md of the specification 1.3: every property and its type
SHAPE: dict[str, Any] = {
    "ociVersionMin": str, "ociVersionMax": str, "hooks": [str], "mountOptions": [str], "annotations": {"*": str},
    "potentiallyUnsafeConfigAnnotations": [str],
    "linux": {
        "namespaces": [str], "capabilities": [str],
        "cgroup": {"v1": bool, "v2": bool, "systemd": bool, "systemdUser": bool, "rdma": bool},
        "seccomp": {"enabled": bool, "actions": [str], "operators": [str], "archs": [str], "knownFlags": [str], "supportedFlags": [str]},
        "apparmor": {"enabled": bool}, "selinux": {"enabled": bool},
        "memoryPolicy": {"modes": [str], "flags": [str]},
        "intelRdt": {"enabled": bool, "schemata": bool, "monitoring": bool},
        "mountExtensions": {"idmap": {"enabled": bool}},
        "netDevices": {"enabled": bool},
    },
}  # fmt: skip


def fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, list):
        return isinstance(value, list) and all(isinstance(item, shape[0]) for item in value) and len(set(value)) == len(value)
    if not isinstance(shape, dict):
        return isinstance(value, shape)
    if "*" in shape:
        return all(isinstance(item, shape["*"]) for item in value.values())
    return set(value) == set(shape) and all(fits(value[key], shape[key]) for key in shape)


def test_shape() -> None:
    assert fits(DOCUMENT, SHAPE)
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert (DOCUMENT["ociVersionMin"], DOCUMENT["ociVersionMax"]) == ("1.0.0", default.VERSION)
    assert DOCUMENT["hooks"] == list(HOOK_KINDS) and len(DOCUMENT["mountOptions"]) == 62


def test_version_facts() -> None:
    assert DOCUMENT["annotations"] == {"wherry.version": "1.2.3", "wherry.commit": "abc", "io.github.seccomp.libseccomp.version": "2.5.4"}
    assert features.document("1", libseccomp="")["annotations"] == {"wherry.version": "1"}


def test_annotations_that_change_what_wherry_does() -> None:
    assert ANNOTATION in DOCUMENT["potentiallyUnsafeConfigAnnotations"]


def test_tables_are_those_of_the_compiler() -> None:
    assert set(DOCUMENT["mountOptions"]) == set(mounts.OPTIONS)
    assert set(LINUX["namespaces"]) == set(isolation.CLONE)
    assert set(LINUX["capabilities"]) == set(process.CAPABILITY)
    assert set(LINUX["seccomp"]["archs"]) == set(ARCHITECTURES)
    assert set(LINUX["memoryPolicy"]["modes"]) == set(scheduling.MODE)
    assert set(LINUX["memoryPolicy"]["flags"]) == set(scheduling.MODE_FLAG)
    assert set(process.RLIMITS) == RLIMITS


def plan(**linux: Any) -> bytes:
    facts = HostFacts()
    facts.kernel, facts.capabilities, facts.cgroup_mode, facts.lsms = "6.12.0", (1 << 41) - 1, "none", ("apparmor", "selinux")
    config: Any = default.spec()
    del config["linux"]["resources"]
    config["process"]["terminal"] = False
    config["mounts"] = linux.pop("mounts", [])
    config |= linux.pop("top", {})
    config["process"] |= linux.pop("process", {})
    config["linux"] |= linux
    assert [one for one in findings(config) if one.severity == "error"] == []
    check(config)
    return compile(config, facts, Options())


@pytest.mark.parametrize("option", DOCUMENT["mountOptions"])
def test_each_mount_option_is_accepted(option: str) -> None:
    if option in ("bind", "rbind", "remount"):
        mount = {"destination": "/mnt", "source": "/srv", "options": [option] if option != "remount" else ["rbind"]}
    elif option in ("idmap", "ridmap"):
        maps = [{"containerID": 0, "hostID": 1000, "size": 1}]
        mount = {"destination": "/mnt", "source": "/srv", "options": ["rbind", option], "uidMappings": maps, "gidMappings": maps}
    else:
        mount = {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [option]}
    extra = [{"destination": "/mnt", "options": ["remount", "ro"]}] if option == "remount" else []
    assert plan(mounts=[mount, *extra])


@pytest.mark.parametrize("kind", LINUX["namespaces"])
def test_each_namespace_is_accepted(kind: str) -> None:
    maps = [{"containerID": 0, "hostID": 100000, "size": 10}]
    kinds = [{"type": name} for name in dict.fromkeys(("mount", "uts", kind))]
    assert plan(namespaces=kinds, **({"uidMappings": maps, "gidMappings": maps} if kind == "user" else {}))


@pytest.mark.parametrize("name", LINUX["capabilities"])
def test_each_capability_is_accepted(name: str) -> None:
    assert plan(process={"capabilities": {kind: [name] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")}})


@pytest.mark.parametrize("mode", LINUX["memoryPolicy"]["modes"])
def test_each_memory_policy_is_accepted(mode: str) -> None:
    nodes = {} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"nodes": "0"}
    assert plan(memoryPolicy={"mode": mode, **nodes})


@pytest.mark.parametrize("kind", DOCUMENT["hooks"])
def test_each_hook_is_accepted(kind: str) -> None:
    assert plan(top={"hooks": {kind: [{"path": "/bin/true"}]}})


@pytest.mark.parametrize("operator", LINUX["seccomp"]["operators"])
@pytest.mark.parametrize("action", [name for name in LINUX["seccomp"]["actions"] if name != "SCMP_ACT_ALLOW"])
def test_each_action_and_operator_of_seccomp_is_compiled(action: str, operator: str) -> None:
    from wherry.seccomp.compile import compile_section

    rule = {"names": ["personality"], "action": action, "args": [{"index": 0, "value": 5, "valueTwo": 5, "op": operator}]}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    assert compile_section(profile)


def test_what_the_host_has() -> None:
    old = features.document("1", features.Host(37, ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_NEW_LISTENER"], seccomp=False))["linux"]
    assert old["capabilities"][-1] == "CAP_AUDIT_READ" and len(old["capabilities"]) == 38
    assert old["seccomp"]["enabled"] is False
    assert old["seccomp"]["supportedFlags"] == ["SECCOMP_FILTER_FLAG_LOG"] and len(old["seccomp"]["knownFlags"]) == 4


def test_the_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "wherry", "features"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stderr == "", "engines read both as one"
    document = json.loads(done.stdout)
    assert fits(document, SHAPE)
    assert {"wherry.version", "wherry.commit", "wherry.python", "wherry.libc"} <= set(document["annotations"])
