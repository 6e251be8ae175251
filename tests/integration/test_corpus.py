# SPDX-License-Identifier: Apache-2.0
"""What engines write (tests/corpus): every configuration runs, and what is seen of its container is what is seen of one of another runtime."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corpus import load, names
from corpus.adapt import adapt, grantable
from corpus.generate import generate
from harness.bundle import Bundle
from harness.console import Receiver
from harness.difference import difference, normal, refused, unable, unknown
from harness.observe import observe, observe_exec, observe_on_terminal
from harness.requirements import cgroup_mode
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "probe"), pytest.mark.ours]

V2 = cgroup_mode() == "v2"
# The guest is slow: there, one of each kind of configuration that pure v2 hosts have.
ALL = [name for name in names() if name != "spec-crun-rootless" and (V2 or not name.startswith("v2-"))]
NAMES = [name for name in ALL if name.startswith("v2-") == V2]


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
    return owned(bundle)


def owned(bundle: Bundle) -> Bundle:
    root = [mapping["hostID"] for mapping in bundle.linux.get("uidMappings", ()) if mapping["containerID"] == 0]
    return bundle.chown(root[0]) if root and root[0] else bundle


def comparable(bundle: Bundle) -> Bundle:
    """No terminal, which changes the descriptors, and no capability that the caller lacks, which makes others fail."""
    bundle.process["terminal"] = False
    grantable(bundle.process)
    return bundle


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On slow hosts a few, with either runtime in turn."""
    whole, number = metafunc.config.getoption("--whole-corpus"), metafunc.config.getoption("--generated")
    others = ["runc", "crun"] if V2 or metafunc.config.getoption("--crun") else ["runc"]
    if metafunc.function is test_same:
        pairs = [(name, other) for name in (ALL if whole else NAMES) for other in others]
        metafunc.parametrize(("name", "other"), pairs if whole or not V2 else pairs[::5], indirect=["other"])
    elif metafunc.function is test_same_in_exec:
        metafunc.parametrize(("name", "other", "options"), [(name, other, options) for name, options in (EXECS if whole or not V2 else ()) for other in others], indirect=["other"])
    elif metafunc.function is test_same_on_a_terminal:
        metafunc.parametrize(("name", "other"), [(name, other) for name in (ALL if whole else NAMES) if name.endswith("terminal") for other in (others if whole else others[:1])], indirect=["other"])
    elif metafunc.function is test_generated:
        pairs = [(seed, others[seed % len(others)]) for seed in range(number if whole or not V2 else 1)]
        metafunc.parametrize(("seed", "other"), pairs, indirect=["other"])


@pytest.mark.one_way
@pytest.mark.v2
def test_same(runtime: Runtime, other: Runtime, make_bundle: Callable[[], Bundle], name: str, holder: int) -> None:
    compare(runtime, other, *(comparable(prepare(name, make_bundle(), holder)) for _ in range(2)))


@pytest.mark.one_way
@pytest.mark.v2
def test_generated(runtime: Runtime, other: Runtime, make_bundle: Callable[[], Bundle], seed: int) -> None:
    bundles = [make_bundle(), make_bundle()]
    for bundle in bundles:
        cgroups_path = bundle.linux["cgroupsPath"]
        bundle.config = generate(seed, bundle.path)
        bundle.linux["cgroupsPath"] = cgroups_path
        owned(bundle)
    compare(runtime, other, *bundles)


# Of each engine one, with options of exec that go beyond its process.
EXECS = [
    ("podman-default", []),
    ("podman-user-namespace", ["--user", "1000:5"]),
    ("podman-limits", ["--env", "A=1", "--cwd", "/tmp"]),
    ("docker-process", ["--user", "1000"]),
    ("docker-capabilities", ["--cap", "CAP_CHOWN"]),
    ("docker-privileged", ["--no-new-privs"]),
    ("ctr-seccomp", ["--additional-gids", "7"]),
    ("ctr-namespaces", []),
    ("cri-container-limits", []),
    ("buildah-default", []),
    ("rootless-keep-id", []),
    ("spec-runc", []),
]  # fmt: skip


@pytest.mark.one_way
def test_same_in_exec(runtime: Runtime, other: Runtime, make_bundle: Callable[[], Bundle], name: str, options: list[str], holder: int) -> None:
    first, second = (comparable(prepare(name, make_bundle(), holder)) for _ in range(2))
    how = None if other.name == "crun" else options  # its flags begin with a process of its own, and runc's with the container's
    theirs = normal(observe_exec(other, first, how), other.containers[-1].id)
    ours = normal(observe_exec(runtime, second, how), runtime.containers[-1].id)
    found = unknown(difference(theirs, ours), other.name, second.linux.get("maskedPaths", []))
    assert not found, "\n".join(found)


@pytest.mark.one_way
@pytest.mark.parametrize("size", [None, {"height": 33, "width": 111}])
def test_same_on_a_terminal(runtime: Runtime, other: Runtime, make_bundle: Callable[[], Bundle], name: str, holder: int, size: dict[str, int] | None) -> None:
    first, second = (prepare(name, make_bundle(), holder) for _ in range(2))
    for bundle in (first, second):
        assert bundle.process["terminal"]
        if size:
            bundle.process["consoleSize"] = size
    theirs = normal(observe_on_terminal(other, first), other.containers[-1].id)
    ours = normal(observe_on_terminal(runtime, second), runtime.containers[-1].id)
    found = unknown(difference(theirs, ours), other.name, second.linux.get("maskedPaths", []))
    assert not found, "\n".join(found)


def compare(runtime: Runtime, other: Runtime, first: Bundle, second: Bundle) -> None:
    theirs, ours = observe(other, first), observe(runtime, second)
    if "refused" in theirs and "refused" not in ours and unable(theirs["refused"], other.name):
        return
    if "refused" in theirs or "refused" in ours:
        assert refused(theirs, ours, other.name), f"theirs: {theirs.get('refused')}\nours: {ours.get('refused')}"
        return
    assert len(ours["calls"]) > 300 and len(ours["limits"]) > 5 and ours["places"], "the probe has not seen everything"
    theirs, ours = normal(theirs, other.containers[-1].id), normal(ours, runtime.containers[-1].id)
    found = unknown(difference(theirs, ours), other.name, second.linux.get("maskedPaths", []))
    assert not found, "\n".join(found)
