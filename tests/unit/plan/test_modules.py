# SPDX-License-Identifier: Apache-2.0
"""What compiling loads: a create waits for every module. Rare sections load theirs, and nothing loads the standard library's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import config, host

from wherry.kernel import native

pytestmark = pytest.mark.skipif(not hasattr(native.lib, "host_facts_key"), reason="needs the extension")

SCRIPT = """
import sys
sys.path[:0] = {path!r}
import wherry.kernel.native
before = set(sys.modules)
from wherry.kernel.hostfacts import HostFacts
from wherry.plan.compile import compile, wanted
from wherry.plan.options import Options
facts = HostFacts()
for name, value in {facts!r}.items():
    setattr(facts, name, value)
wanted({config!r})
compile({config!r}, facts, Options(seccomp=lambda section: (bytes(8), 0)))
print(*sorted(set(sys.modules) - before))
"""
ALWAYS = set(
    "wherry.kernel.hostfacts wherry.oci wherry.oci.checks wherry.oci.shape wherry.plan wherry.plan.compile wherry.plan.encode "
    "wherry.plan.isolation wherry.plan.mounts wherry.plan.options wherry.plan.process wherry.errors".split()
)
BUILT_IN = {"_json", "_struct", "posix", "_cffi_backend", "fcntl"}


def loaded(document: dict[str, object], facts: str = "v2") -> set[str]:
    values = {
        name: value for name, value in host(facts).to_json().items() if name.startswith(("v2_", "cgroup_mode", "kernel", "cap_last_cap"))
    }
    script = SCRIPT.format(path=[place for place in sys.path if place], facts={**values, "capabilities": (1 << 41) - 1}, config=document)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - BUILT_IN - {"wherry.errors"}


def test_a_default_configuration() -> None:
    extra = {"wherry.cgroup", "wherry.cgroup.devices", "wherry.cgroup.resources"}
    assert loaded(config()) == (ALWAYS - {"wherry.errors"}) | extra


@pytest.mark.parametrize(
    ("changes", "module"),
    [
        ({"linux__sysctl": {"net.a.b": "1"}}, "wherry.plan.sysctl"),
        ({"process__ioPriority": {"class": "IOPRIO_CLASS_BE"}}, "wherry.plan.scheduling"),
    ],
)
def test_rare_sections_load_their_modules(changes: dict[str, object], module: str) -> None:
    assert module not in loaded(config())
    found = loaded(config(**changes))
    assert module in found
    assert all(name.startswith("wherry.") for name in found), json.dumps(sorted(found))
