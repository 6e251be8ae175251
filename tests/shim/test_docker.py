# SPDX-License-Identifier: Apache-2.0
"""Docker with our shim in the place of runc's: a link with its name, first on containerd's PATH."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import make_rootfs

from .daemon import RUNTIME, Daemon, wait_until
from .shims import BINARY

pytestmark = pytest.mark.requires("root")
Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def tools() -> Path | None:
    """Where dockerd and its like are, if not on PATH: then our shim is asked for by its name."""
    return None


@pytest.fixture(scope="module")
def place(tools: Path | None) -> Iterator[Path]:
    for command in () if tools else ("containerd", "dockerd", "docker"):
        if not shutil.which(command):
            pytest.skip(f"SKIPPED, LOUDLY: no {command} on this machine")
    one = Path(tempfile.mkdtemp(prefix="wherry-docker-", dir="/var/tmp"))
    yield one
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(one) in line]
    if mounts:
        subprocess.run(["umount", "-R", "-l", *mounts], capture_output=True)
    shutil.rmtree(one, ignore_errors=True)


@pytest.fixture(scope="module")
def containerd(place: Path, tools: Path | None) -> Iterator[Daemon]:
    rootfs = place / "images/box/rootfs"
    rootfs.mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin" / ("containerd-shim-wherry-v2" if tools else "containerd-shim-runc-v2")).symlink_to(BINARY)
    one = Daemon(place, make_rootfs(rootfs, None), place / "bin", tools)
    one.start()
    yield one
    left = []
    try:
        wait_until(lambda: not [line for line in one.left() if "containerd-shim" in line], "shims end")
    except AssertionError:
        left = one.left()
    one.stop()
    for line in left:
        os.kill(int(line.split()[0]), signal.SIGKILL)
    assert not left


@pytest.fixture(scope="module")
def docker(place: Path, containerd: Daemon, tools: Path | None) -> Iterator[Docker]:
    dockerd, client = (f"{tools}/{name}" if tools else name for name in ("dockerd", "docker"))
    argv = [dockerd, "--bridge=none", "--iptables=false", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "-H", f"unix://{place}/d.sock",
            "-p", f"{place}/docker.pid", "--containerd", containerd.socket, "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]  # fmt: skip

    def run(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        if tools and words[0] == "run":
            words = (words[0], "--runtime", RUNTIME, *words[1:])
        done = subprocess.run([client, "-H", f"unix://{place}/d.sock", *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    with open(place / "docker.log", "wb") as log:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: run("version", check=False).returncode == 0, "dockerd", 60)
        subprocess.run(["tar", "-C", str(containerd.rootfs), "-cf", f"{place}/box.tar", "."], check=True)
        run("import", f"{place}/box.tar", "box:latest")
        yield run
        for name in run("ps", "-aq", check=False).stdout.split():
            run("rm", "-f", name, check=False)
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(5)


RUN = ("run", "--network", "none")


def test_output_and_exit_code(docker: Docker) -> None:
    done = docker(*RUN, "--rm", "box", "sh", "-c", "echo hello; echo wrong >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "wrong\n")


def test_a_program_that_is_not_there(docker: Docker) -> None:
    done = docker(*RUN, "--rm", "box", "nosuchprogram", check=False)
    assert done.returncode == 127 and "executable file not found in $PATH" in done.stderr


def test_a_container_in_the_background(docker: Docker, containerd: Daemon) -> None:
    docker(*RUN, "--detach", "--name", "one", "box", "sleep", "1000")
    shims = [line for line in containerd.left() if " -namespace moby " in line and "-worker " not in line]
    assert len(shims) == 1 and "runc" not in shims[0].replace("containerd-shim-runc-v2", "")
    assert docker("inspect", "-f", "{{.HostConfig.Runtime}}", "one").stdout in ("runc\n", f"{RUNTIME}\n")
    done = docker("exec", "one", "sh", "-c", "echo inside; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "inside\n")
    assert "sleep 1000" in docker("top", "one").stdout
    assert "one" in docker("stats", "--no-stream", "one").stdout
    docker("pause", "one")
    assert "(Paused)" in docker("ps").stdout
    docker("unpause", "one")
    docker("update", "--memory", "64m", "--memory-swap", "64m", "one")
    docker("stop", "--time", "1", "one")
    assert docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == "exited 137\n"
    docker("start", "one")
    assert docker("inspect", "-f", "{{.State.Status}}", "one").stdout == "running\n"
    docker("rm", "--force", "one")


def test_a_health_check(docker: Docker) -> None:
    docker(*RUN, "--detach", "--name", "health", "--health-cmd", "true", "--health-interval", "200ms", "box", "sleep", "1000")
    wait_until(lambda: docker("inspect", "-f", "{{.State.Health.Status}}", "health").stdout == "healthy\n", "healthy")
    docker("rm", "--force", "health")


def test_out_of_memory(docker: Docker) -> None:
    docker(*RUN, "--name", "oom", "--memory", "16m", "--memory-swap", "16m", "box", "sh", "-c", "x=a; while :; do x=$x$x; done", check=False)
    assert docker("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "oom").stdout == "true 137\n"
    docker("rm", "oom")


def test_logs_and_restarts(docker: Docker) -> None:
    docker(*RUN, "--detach", "--name", "again", "--restart", "on-failure:2", "box", "sh", "-c", "echo once; exit 1")
    wait_until(lambda: docker("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again").stdout == "2 exited\n", "two restarts", 30)
    assert docker("logs", "again").stdout == "once\n" * 3
    docker("rm", "again")


def test_a_terminal(docker: Docker) -> None:
    done = docker(*RUN, "--rm", "--tty", "box", "sh", "-c", "test -t 1 && tty; exit 4", check=False)
    assert (done.returncode, done.stdout) == (4, "/dev/pts/0\n")


def test_resizing_and_signals(docker: Docker) -> None:
    docker(*RUN, "--detach", "--tty", "--name", "sizes", "box", "sh", "-c", "trap 'stty size; exit 8' TERM; while :; do sleep 0.05; done")
    docker("kill", "--signal", "0", "sizes", check=False)
    docker("stop", "--time", "10", "sizes")
    assert docker("inspect", "-f", "{{.State.ExitCode}}", "sizes").stdout == "8\n"
    docker("rm", "sizes")
