# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the shim's tests."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import make_rootfs
from harness.census import Census, cgroup_mounts
from wherry_shim.loop import Loop

from . import newer
from .daemon import Daemon, nothing_left, wait_until
from .driver import Server

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # its threads would start anew in what a sandbox's server forks: here that is this process


@pytest.fixture
def loaded_modules() -> Callable[[str], set[str]]:
    """What a bare interpreter has loaded after some statements."""

    def load(body: str) -> set[str]:
        script = f"import sys\nbefore = set(sys.modules)\nsys.path[:0] = {[place for place in sys.path if place]!r}\n{body}\nloaded = sorted(set(sys.modules) - before)\n"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", script + "import json\nprint(json.dumps(loaded))"], capture_output=True, text=True, timeout=30, cwd="/")
        assert done.returncode == 0, done.stderr
        return set(json.loads(done.stdout))

    return load


@pytest.fixture
def server(place: Path, session_directory: Path) -> Iterator[Server]:
    """A service in this process. What the test leaves behind fails it."""
    tag = f"{session_directory.name}-{place.name}"
    census = Census(tag, [place / "root/ns"])
    server = Server(place / "root")
    yield server
    server.clean_up()
    left = census.leftovers()
    server.loop.close()
    assert not left, f"left behind: {left}"


def top_cgroups() -> set[str]:
    return {str(path) for mount in cgroup_mounts() for path in mount.iterdir() if path.is_dir()}


@pytest.fixture(scope="session", autouse=True)
def no_parents_of_engines() -> Iterator[None]:
    """The cgroups above their containers, which engines make and keep. What is in them may be of another run: a cgroup without a process yet, too."""
    before = top_cgroups()
    yield
    for path in top_cgroups() - before:
        if Path(path).name in ("default", "docker"):
            with contextlib.suppress(OSError):  # in use by somebody else
                os.rmdir(path)


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """This machine's containerd, or that of a Debian suite (tests/shim/newer.py)."""
    tools = newer.tools(request.param) if getattr(request, "param", "") else None
    if not tools and (not shutil.which("containerd") or not shutil.which("ctr")):
        pytest.skip("SKIPPED, LOUDLY: no containerd on this machine")
    place = Path(tempfile.mkdtemp(prefix="wherry-shim-", dir="/var/tmp"))
    rootfs = place / "images/box/rootfs"
    rootfs.mkdir(parents=True)
    one = Daemon(place, make_rootfs(rootfs, None), tools=tools)
    try:
        one.start()
        yield one
        wait_until(lambda: not one.left(), f"an end of {one.left()}")
    finally:
        one.stop()
        for line in one.left():
            os.kill(int(line.split()[0]), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]
        if mounts:
            subprocess.run(["umount", "-R", "-l", *mounts], capture_output=True)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def name(daemon: Daemon) -> Iterator[str]:
    one = f"w{uuid.uuid4().hex[:10]}"
    yield one
    if daemon.process is None or daemon.process.poll() is not None:
        daemon.start()
    daemon.remove(one)
    nothing_left(daemon, one)


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.close()
