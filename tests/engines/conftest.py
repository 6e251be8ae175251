# SPDX-License-Identifier: Apache-2.0
"""Engines from Debian's packages with wherry as their runtime. Each has a root, state and sockets of its own, is started by the test
session and stopped by the pid that was started; what an engine leaves running is waited for, and anything left after that is a failure.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import make_rootfs
from harness.census import cgroup_mounts
from harness.runtime import become_subreaper, wait_until

PARENTS = ("default", "docker", "libpod_parent", "machine.slice", "buildkit", "wherry-conmon")
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]  # no CAP_SYS_RESOURCE is needed for these


class Engine:
    """`prefix` + arguments = one command; `run` holds the options that every container gets."""

    def __init__(self, prefix: list[str], run: list[str]) -> None:
        self.prefix, self.options = prefix, run

    def __call__(
        self, *words: str, check: bool = True, timeout: float = 90, input: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.prefix, *words], capture_output=True, text=True, timeout=timeout, input=input, errors="replace", env={**os.environ, **env}
        )
        assert not check or done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", *self.options, *words, check=False, **more)  # type: ignore[arg-type]


def need(*commands: str) -> None:
    for command in commands:
        if not shutil.which(command):
            pytest.skip(f"SKIPPED, LOUDLY: no {command} on this machine")


@pytest.fixture(scope="session")
def wherry(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--runtime") or Path(sys.executable).parent / "wherry")


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    become_subreaper()
    place = Path(tempfile.mkdtemp(prefix="wherry-engines-", dir="/var/tmp"))
    yield place
    subprocess.run(["umount", "-R", "-l", *[line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]],
                   capture_output=True)  # fmt: skip
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def rootfs(home: Path) -> Path:
    place = home / "image" / "rootfs"
    place.mkdir(parents=True)
    return make_rootfs(place, None)


@pytest.fixture(scope="session")
def archive(home: Path, rootfs: Path) -> Path:
    file = home / "image.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(rootfs, arcname=".")
    return file


@pytest.fixture(scope="session")
def daemon() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts daemons; at the end each is asked to stop, by its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(argv: list[str], log: Path, **env: str) -> subprocess.Popen[bytes]:
        with open(log, "wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **env})
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def podman_with(manager: str, wherry: str, home: Path, archive: Path) -> Iterator[Engine]:
    """Podman with a store of its own, whose cgroups are made by that manager."""
    need("podman", "conmon")
    store = f"{home}/podman-{manager[0]}"  # short, for the sockets below it
    base = ["podman", "--root", store, "--runroot", f"{store}-run", "--tmpdir", f"{store}-tmp", "--runtime", wherry,
            "--cgroup-manager", manager, "--events-backend", "none", "--storage-driver", "vfs"]  # fmt: skip
    engine = Engine(base, ["--network", "none", "--log-driver", "k8s-file", *LIMITS])
    engine("import", str(archive), "box:latest")
    yield engine
    engine("rm", "--all", "--force", "--time", "0", check=False)


@pytest.fixture(scope="session")
def podman(wherry: str, home: Path, archive: Path) -> Iterator[Engine]:
    yield from podman_with("cgroupfs", wherry, home, archive)


@pytest.fixture(scope="session")
def containerd(home: Path, daemon: Callable[..., subprocess.Popen[bytes]]) -> str:
    """The socket of a containerd."""
    need("containerd", "ctr")
    place = home / "containerd"
    place.mkdir()
    socket = f"{place}/c.sock"
    config = place / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
    )
    daemon(["containerd", "--config", str(config)], place / "log")
    wait_until(lambda: subprocess.run(["ctr", "-a", socket, "version"], capture_output=True).returncode == 0, "containerd", 30)
    return socket


@pytest.fixture(scope="session")
def ctr(containerd: str, wherry: str, rootfs: Path) -> Engine:
    return Engine(["ctr", "-a", containerd], ["--runc-binary", wherry, "--rootfs"])


@pytest.fixture(scope="session")
def docker(home: Path, wherry: str, containerd: str, archive: Path, daemon: Callable[..., subprocess.Popen[bytes]]) -> Iterator[Engine]:
    need("dockerd", "docker")
    place = home / "docker"
    place.mkdir()
    socket = f"unix://{place}/d.sock"
    subprocess.run([wherry, "setup", "docker", "--default", "--write", "--file", f"{place}/daemon.json"], check=True, capture_output=True)
    (place / "bin").mkdir()
    (place / "bin" / "runc").symlink_to(wherry)  # BuildKit knows no other name
    daemon(["dockerd", "--bridge=none", "--iptables=false", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "-H", socket, "-p", f"{place}/pid",
            "--containerd", containerd, "--config-file", f"{place}/daemon.json", "--storage-driver", "vfs",
            "--exec-opt", "native.cgroupdriver=cgroupfs"], place / "log", PATH=f"{place}/bin:{os.environ['PATH']}")  # fmt: skip
    engine = Engine(["docker", "-H", socket], ["--network", "none"])
    wait_until(lambda: engine("version", check=False).returncode == 0, "dockerd", 60)
    engine("import", str(archive), "box:latest")
    yield engine
    for name in engine("ps", "-aq", check=False).stdout.split():
        engine("rm", "-f", name, check=False)


@pytest.fixture(scope="session", autouse=True)
def nothing_left(home: Path) -> Iterator[None]:
    """After all: no process that names our directory, once engines have had time for their own cleaning up; no cgroup that they made."""
    before = top_cgroups()
    yield
    deadline = time.monotonic() + 20
    while True:
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(home) in command_line(pid)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    described = [f"{pid} {command_line(pid)[:200]}" for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not described, f"left running: {described}"
    for path in sorted(top_cgroups() - before):  # the engines' own parents of containers, which they keep
        if os.path.basename(path) in PARENTS:
            for directory, _, _ in os.walk(path, topdown=False):
                os.rmdir(directory)


def top_cgroups() -> set[str]:
    return {str(path) for mount in cgroup_mounts() for path in mount.iterdir() if path.is_dir()}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
