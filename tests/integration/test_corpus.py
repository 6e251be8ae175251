# SPDX-License-Identifier: Apache-2.0
"""What engines write (tests/corpus): every configuration runs, and what is seen of its container is what is seen of one of another runtime."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corpus import load, names
from corpus.adapt import adapt, grantable
from harness.bundle import Bundle
from harness.census import Census
from harness.console import Receiver
from harness.difference import difference, normal, unknown
from harness.observe import observe
from harness.requirements import cgroup_mode
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "probe"), pytest.mark.ours]

V2 = cgroup_mode() == "v2"
# The guest is slow: there, one of each kind of configuration that pure v2 hosts have.
NAMES = [name for name in names() if name != "spec-crun-rootless" and name.startswith("v2-") == V2]
OTHERS = ["runc", "crun"] if V2 else ["runc"]  # crun 1.8 refuses hybrid hosts


def generator(name: str) -> str:
    return "-".join(name.split("-")[: 2 if name.startswith(("v2-", "spec-")) else 1])


@pytest.fixture(scope="module")
def holder() -> Iterator[int]:
    """A process whose namespaces are joined."""
    process = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "--pid", "--fork", "sleep", "1000"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    yield process.pid
    subprocess.run(["kill", "-KILL", str(child)])
    process.send_signal(signal.SIGKILL)
    process.wait()


def prepare(name: str, bundle: Bundle, holder: int) -> Bundle:
    """The bundle with that configuration, and a root file system that belongs to its root."""
    cgroups_path = bundle.linux["cgroupsPath"]
    bundle.config = adapt(load(name), bundle.path, cgroups_path, holder)
    root = [mapping["hostID"] for mapping in bundle.linux.get("uidMappings", ()) if mapping["containerID"] == 0]
    return bundle.chown(root[0]) if root and root[0] else bundle


def comparable(bundle: Bundle) -> Bundle:
    """No terminal, which changes the descriptors, and no capability that the caller lacks, which makes others fail."""
    bundle.process["terminal"] = False
    grantable(bundle.process)
    return bundle


@pytest.fixture
def other(request: pytest.FixtureRequest, place: Path, session_directory: Path) -> Iterator[Runtime]:
    """Another runtime of this machine, with a private --root."""
    command = shutil.which(request.param, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if not command:
        pytest.skip(f"requires {request.param}: not on this machine")
    runtime = Runtime(command, place / "other", f"{session_directory.name}-{place.name}-o")
    census = Census(runtime.tag, [runtime.root])
    yield runtime
    runtime.clean_up()
    assert not census.leftovers()


# One of each engine, and what the comparison leaves out: terminals, and more capabilities than the caller may have.
ENDS = sorted({*{generator(name): name for name in reversed(NAMES)}.values(), *(name for name in NAMES if name.endswith(("terminal", "privileged", "joined")))})


@pytest.mark.parametrize("name", ENDS)
def test_it_runs(runtime: Runtime, bundle: Bundle, name: str, holder: int, place: Path) -> None:
    prepare(name, bundle, holder)
    bundle.shell("exit 7")
    receiver = Receiver(place / "console") if bundle.process.get("terminal") else None
    (place / "stdin").write_text("")
    with open(place / "stdin") as stdin:
        container = runtime.create(bundle, *(["--console-socket", receiver.path] if receiver else []), stdin=stdin)
    master = receiver.receive()[0] if receiver else -1
    container.start()
    assert container.wait() == 7
    container.delete()
    if receiver:
        os.close(master)
        receiver.close()


@pytest.mark.one_way
@pytest.mark.parametrize("other", OTHERS, indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_same(runtime: Runtime, other: Runtime, make_bundle: Callable[[], Bundle], name: str, holder: int) -> None:
    theirs = normal(observe(other, comparable(prepare(name, make_bundle(), holder))), other.containers[-1].id)
    bundle = comparable(prepare(name, make_bundle(), holder))
    ours = normal(observe(runtime, bundle), runtime.containers[-1].id)
    found = unknown(difference(theirs, ours), other.name, bundle.linux.get("maskedPaths", []))
    assert not found, "\n".join(found)
