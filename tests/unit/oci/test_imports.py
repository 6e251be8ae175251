# SPDX-License-Identifier: Apache-2.0
"""What reading and checking a configuration loads. It is on the way of every create."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wherry.oci.default import sandbox, spec

RUNTIME = Path(__file__).parents[3] / "runtime"
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
from wherry.oci.config import load
from wherry.oci.checks import check
check(load(open(sys.argv[2], "rb").read()))
print(*sorted(set(sys.modules) - before))
"""
ALWAYS = {"_json", "wherry", "wherry.errors", "wherry.oci", "wherry.oci.checks", "wherry.oci.config", "wherry.oci.shape"}
WITH_SYSCTL: Any = {**spec(), "linux": {**spec()["linux"], "sysctl": {"net.ipv4.ip_forward": "1"}}}
LOADED: dict[str, tuple[Any, set[str]]] = {
    "spec": (spec(), set()),
    "sandbox": (sandbox("/x", ["true"]), {"wherry.oci.checks_resources", "wherry.oci.checks_seccomp"}),
    "sysctl": (WITH_SYSCTL, {"wherry.oci.checks_resources"}),
    "hooks": ({**spec(), "hooks": {"poststop": [{"path": "/x"}]}}, {"wherry.oci.checks_rare", "wherry.oci.checks_resources"}),
}


@pytest.mark.parametrize("name", LOADED)
def test_modules(name: str, tmp_path: Path) -> None:
    config, more = LOADED[name]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, str(RUNTIME), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert set(done.stdout.split()) - {"_json"} == (ALWAYS | more) - {"_json"}
