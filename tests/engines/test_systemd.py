# SPDX-License-Identifier: Apache-2.0
"""Engines that leave cgroups to systemd, on a host where it runs: the scopes are theirs by name, the limits are in them, and they end."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.runtime import wait_until

from .conftest import Engine, need, podman_with

pytestmark = [pytest.mark.requires("root", "systemd", "cgroup-v2"), pytest.mark.v2, pytest.mark.ours]


def show(unit: str, *names: str) -> dict[str, str]:
    done = subprocess.run(["systemctl", "show", unit, "-p", ",".join(names)], capture_output=True, text=True, check=True, timeout=30)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def is_gone(unit: str) -> bool:
    return show(unit, "LoadState")["LoadState"] == "not-found"


@pytest.fixture(scope="module")
def podman_systemd(wherry: str, home: Path, archive: Path) -> Iterator[Engine]:
    yield from podman_with("systemd", wherry, home, archive)


def test_podman(podman_systemd: Engine) -> None:
    podman = podman_systemd
    done = podman.run("--memory", "64m", "--pids-limit", "33", "box", "sh", "-c", "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids.max")
    assert (done.returncode, done.stdout) == (0, "0::/\n33\n"), done.stderr
    name = podman("run", "-d", "--memory", "64m", "--pids-limit", "33", "--cpus", "0.5", *podman.options, "box", "sleep", "1000").stdout.strip()
    unit = f"libpod-{name}.scope"
    found = show(unit, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "Slice")
    assert found == {"MemoryMax": "67108864", "TasksMax": "33", "CPUQuotaPerSecUSec": "500ms", "Slice": "machine.slice"}
    assert podman("exec", name, "cat", "/proc/self/cgroup").stdout.startswith("0::/")
    podman("update", "--pids-limit", "40", name, check=False)  # from 4.3 on
    podman("pause", name)
    podman("unpause", name)
    assert podman("stats", "--no-stream", "--format", "{{.PIDs}}", name).stdout.strip() == "1"
    podman("rm", "--force", "--time", "0", name)
    wait_until(lambda: is_gone(unit), "the end of the scope")


def test_containerd(containerd: str, wherry: str, rootfs: Path) -> None:
    ctr = Engine(["ctr", "-a", containerd], ["--runc-binary", wherry, "--runc-systemd-cgroup", "--cgroup", "system.slice:wherryctr:one", "--memory-limit", "67108864", "--rootfs"])
    done = ctr.run(str(rootfs), "wherryctr-1", "cat", "/proc/self/cgroup")
    assert (done.returncode, done.stdout) == (0, "0::/system.slice/wherryctr-one.scope\n"), done.stderr  # no cgroup namespace
    ctr("run", "-d", *ctr.options, str(rootfs), "wherryctr-2", "sleep", "1000")
    assert show("wherryctr-one.scope", "MemoryMax", "ActiveState") == {"MemoryMax": "67108864", "ActiveState": "active"}
    ctr("task", "kill", "-s", "KILL", "wherryctr-2")
    ctr("task", "delete", "wherryctr-2", check=False)
    ctr("container", "delete", "wherryctr-2", check=False)
    wait_until(lambda: is_gone("wherryctr-one.scope"), "the end of the scope")


@pytest.fixture(scope="module")
def docker_systemd(home: Path, wherry: str, containerd: str, archive: Path, daemon: Callable[..., "subprocess.Popen[bytes]"]) -> Iterator[Engine]:
    need("dockerd", "docker")
    place = home / "docker-s"
    place.mkdir()
    socket = f"unix://{place}/d.sock"
    daemon(["dockerd", "--bridge=none", "--iptables=false", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "-H", socket, "-p", f"{place}/pid",
            "--containerd", containerd, "--storage-driver", "vfs", "--add-runtime", f"wherry={wherry}", "--default-runtime", "wherry",
            "--exec-opt", "native.cgroupdriver=systemd"], place / "log")  # fmt: skip
    engine = Engine(["docker", "-H", socket], ["--network", "none"])
    wait_until(lambda: engine("version", check=False).returncode == 0, "dockerd", 60)
    engine("import", str(archive), "box:latest")
    yield engine
    for name in engine("ps", "-aq", check=False).stdout.split():
        engine("rm", "-f", name, check=False)


def test_docker(docker_systemd: Engine) -> None:
    docker = docker_systemd
    name = docker("run", "-d", "--memory", "64m", "--pids-limit", "33", *docker.options, "box", "sleep", "1000").stdout.strip()
    unit = f"docker-{name}.scope"
    assert show(unit, "MemoryMax", "TasksMax", "Slice") == {"MemoryMax": "67108864", "TasksMax": "33", "Slice": "system.slice"}
    docker("update", "--pids-limit", "44", name)
    assert show(unit, "TasksMax") == {"TasksMax": "44"}
    assert docker("exec", name, "cat", "/proc/self/cgroup").stdout == "0::/\n"
    docker("pause", name)
    docker("unpause", name)
    docker("rm", "-f", name)
    wait_until(lambda: is_gone(unit), "the end of the scope")
