# SPDX-License-Identifier: Apache-2.0
"""What is left out on purpose is said to who asks with --debug, each time, and to nobody else."""

import json
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


@pytest.fixture
def dubious(bundle: Bundle) -> Bundle:
    """One warning of the checks, one of the compiler."""
    bundle.linux["personality"] = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}
    bundle.process["capabilities"]["bounding"].append("CAP_OF_TOMORROW")
    return bundle.args("true")


def warnings(log: Path) -> list[str]:
    return [entry["msg"] for entry in map(json.loads, log.read_text().splitlines()) if entry["level"] == "warning"]


@pytest.mark.parametrize("verb", ["create", "run"])
def test_each_time(runtime: Runtime, dubious: Bundle, place: Path, verb: str) -> None:
    for number in range(3):  # the second one has a plan in the cache
        log = place / f"log{number}"
        runtime.options = ["--debug", "--log", str(log), "--log-format", "json"]
        if verb == "create":
            runtime.create(dubious).delete("--force")
        else:
            runtime.run(dubious)
        found = warnings(log)
        assert any("/linux/personality/flags" in line for line in found), found
        assert any("CAP_OF_TOMORROW" in line for line in found), found


def test_nobody_else(runtime: Runtime, dubious: Bundle, place: Path) -> None:
    container = runtime.create(dubious)
    assert (container.stdout, container.stderr) == ("", "")
