# SPDX-License-Identifier: Apache-2.0
"""wherry setup, read by the engines themselves: what they make of the file is what was meant."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from .conftest import need

pytestmark = [pytest.mark.ours]


def setup(wherry: str, *words: str) -> None:
    done = subprocess.run([wherry, *words, "--write"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_podman(wherry: str, tmp_path: Path) -> None:
    need("podman")
    file = tmp_path / "wherry.conf"
    setup(wherry, "--cgroup-manager", "cgroupfs", "setup", "podman", "--default", "--file", str(file))
    command = ["podman", "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs", "info", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "CONTAINERS_CONF": str(file)})
    assert done.returncode == 0, done.stderr
    host = json.loads(done.stdout)["host"]
    assert (host["ociRuntime"]["name"], host["ociRuntime"]["path"], host["cgroupManager"]) == ("wherry", wherry, "cgroupfs")
    assert "wherry version" in host["ociRuntime"]["version"]


@pytest.mark.parametrize("merged", [False, True])
def test_containerd(wherry: str, tmp_path: Path, merged: bool) -> None:
    need("containerd")
    file = tmp_path / "config.toml"
    if merged:  # into all that containerd knows
        file.write_text(subprocess.run(["containerd", "config", "default"], capture_output=True, text=True, check=True).stdout)
    setup(wherry, "--systemd-cgroup", "setup", "containerd", "--default", "--file", str(file))
    done = subprocess.run(["containerd", "--config", str(file), "config", "dump"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    plugins = tomllib.loads(done.stdout)["plugins"]
    found = next(plugin["containerd"] for plugin in plugins.values() if "runtimes" in plugin.get("containerd", {}))
    assert found["default_runtime_name"] == "wherry" and "runc" in found["runtimes"]
    options = found["runtimes"]["wherry"]["options"]
    assert (options["BinaryName"], options["SystemdCgroup"]) == (wherry, True)


def test_docker(wherry: str, tmp_path: Path) -> None:
    need("dockerd")
    file = tmp_path / "daemon.json"
    file.write_text('{"debug": false}')
    setup(wherry, "setup", "docker", "--default", "--file", str(file))
    text = subprocess.run(["dockerd", "--help"], capture_output=True, text=True, timeout=30).stdout
    if "--validate" not in text:
        pytest.skip("SKIPPED: this dockerd has no --validate; the daemon of test_docker.py is set up so, however")
    done = subprocess.run(["dockerd", "--validate", "--config-file", str(file)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_buildah(wherry: str, tmp_path: Path) -> None:
    file = tmp_path / "buildah.sh"
    setup(wherry, "setup", "buildah", "--file", str(file))
    done = subprocess.run(["sh", "-c", f". {file}; echo $BUILDAH_RUNTIME"], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"{wherry}\n"
