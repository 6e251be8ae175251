# SPDX-License-Identifier: Apache-2.0
"""wherry setup, read by the engines themselves: what they make of the file is what was meant."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from .conftest import Engine, need

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


def test_containerd_with_the_shim(wherry: str, tmp_path: Path) -> None:
    need("containerd")
    file = tmp_path / "config.toml"
    setup(wherry, "--systemd-cgroup", "setup", "containerd", "--shim", "--file", str(file))
    done = subprocess.run(["containerd", "--config", str(file), "config", "dump"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    plugins = tomllib.loads(done.stdout)["plugins"]
    runtime = next(plugin["containerd"]["runtimes"]["wherry"] for plugin in plugins.values() if "runtimes" in plugin.get("containerd", {}))
    assert runtime["runtime_type"] == "io.containerd.wherry.v2"
    assert os.access(runtime["runtime_path"], os.X_OK) and runtime["runtime_path"].endswith("/containerd-shim-wherry-v2")
    assert runtime["options"]["SystemdCgroup"] is True


def test_what_setup_says_of_the_shim_works(wherry: str, ctr: Engine, rootfs: Path, tmp_path: Path) -> None:
    """Its "then:" line, word for word."""
    done = subprocess.run([wherry, "setup", "containerd", "--shim", "--file", str(tmp_path / "c.toml")], capture_output=True, text=True, timeout=30)
    line = next(line for line in done.stderr.splitlines() if line.startswith("then: ctr run "))
    words = line.removeprefix("then: ctr run ").partition(" ...")[0].split()
    done = ctr("run", "--rm", *words, "--rootfs", str(rootfs), "setup-shim", "sh", "-c", "echo from the shim; sleep 0.3; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "from the shim\n"), done.stderr


@pytest.mark.parametrize("shim", [False, True])
def test_docker_reads_it(wherry: str, tmp_path: Path, shim: bool) -> None:
    """This is how Docker's own program checks its file, from 23 on."""
    need("dockerd")
    if "--validate" not in subprocess.run(["dockerd", "--help"], capture_output=True, text=True, timeout=30).stdout:
        pytest.skip("SKIPPED: this dockerd has no --validate; the daemon of test_docker.py is set up so, however")
    file = tmp_path / "daemon.json"
    setup(wherry, "setup", "docker", "--default", *(["--shim"] if shim else []), "--file", str(file))
    done = subprocess.run(["dockerd", "--validate", "--config-file", str(file)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_buildah(wherry: str, tmp_path: Path) -> None:
    file = tmp_path / "buildah.sh"
    setup(wherry, "setup", "buildah", "--file", str(file))
    done = subprocess.run(["sh", "-c", f". {file}; echo $BUILDAH_RUNTIME"], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"{wherry}\n"
