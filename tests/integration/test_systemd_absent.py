# SPDX-License-Identifier: Apache-2.0
"""The cgroup manager systemd where no systemd runs, or where it hangs: an error that says so, in time, and nothing left."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours, pytest.mark.one_way]


@pytest.fixture
def bundle(make_bundle: Callable[[], Bundle]) -> Bundle:
    found = make_bundle()
    found.linux["cgroupsPath"] = ":wherry:absent"
    return found


def failed(runtime: Runtime, bundle: Bundle, *options: str, **env: str) -> dict[str, object]:
    runtime.options = ["--log", str(bundle.path / "log"), "--log-format", "json", "--systemd-cgroup", *options]
    container = runtime.create(bundle, check=False, env=env)
    assert container.result.code == 1 and not container.exists()
    found: dict[str, object] = json.loads((bundle.path / "log").read_text().splitlines()[-1])
    return found


@pytest.mark.skipif(Path("/run/systemd/private").exists(), reason="systemd is running")
def test_without_systemd(runtime: Runtime, bundle: Bundle) -> None:
    found = failed(runtime, bundle)
    assert found["code"] == "WHERRY-HOST-SYSTEMD"
    assert "systemd is not running here" in str(found["msg"]) and "leave --systemd-cgroup out" in str(found["msg"])


def test_without_a_manager_of_the_user(runtime: Runtime, bundle: Bundle) -> None:
    found = failed(runtime, bundle, "--rootless=true")
    assert found["code"] == "WHERRY-HOST-SYSTEMD"
    assert "loginctl enable-linger 0" in str(found["msg"])


def test_a_manager_that_hangs(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    """It takes the connection and says nothing."""
    (place / "systemd").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "systemd/private"))
        listener.listen(1)
        begin = time.monotonic()
        found = failed(runtime, bundle, "--rootless=true", XDG_RUNTIME_DIR=str(place))
    assert found["code"] == "WHERRY-DEADLINE" and "did not answer within 10 s" in str(found["msg"])
    assert time.monotonic() - begin < 25
