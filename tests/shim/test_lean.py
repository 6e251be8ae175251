# SPDX-License-Identifier: Apache-2.0
"""What a zygote has in memory: which modules and libraries, and how little of their files while it and its spare wait."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.kernel import memory

from .shims import Shim
from .test_zygote import spares, zygote_pid

STANDARD = {"_cffi_backend", "_collections", "_json", "_socket", "_stat", "_struct", "errno", "fcntl", "gc", "resource", "select"}
"""Beside what an interpreter begins with: built in, or a small library. None of them is a file of Python's."""

RUNTIME = {
    *("_native", "_native.lib", "errors", "image", "kernel", "kernel.hostfacts", "kernel.kinds", "kernel.memory", "kernel.mounts", "kernel.native"),
    *("cgroup", "cgroup.files", "oci", "oci.checks", "oci.config", "oci.shape"),
    *("plan", "plan.compile", "plan.encode", "plan.execute", "plan.isolation", "plan.mounts", "plan.options", "plan.process"),
    *("container", "container.create", "container.execute", "container.hooks", "container.lifecycle", "container.options", "container.pause"),
}

SHIM = {
    *("bootstrap", "bootstrap_start", "clean", "containerd", "containerd_server", "descriptors", "errors", "events", "keeper", "loop", "messages"),
    *("messages_rare", "metrics", "monitor", "oom", "options", "parking", "plans", "porter", "processes", "rehearsal", "rootfs", "service", "spare"),
    *("state", "stdio", "ttrpc", "wire", "zygote"),
}

LOADS = """
import sys
begun = set(sys.modules)
sys.path[:0] = PLACES
from wherry_shim import containerd_server, zygote
zygote.load()
print(*sorted(set(sys.modules) - begun))
"""

LIBRARIES = {
    *("ld", "libc", "libm", "libdl", "libutil", "libpthread", "libpython3", "libz", "libexpat", "libffi"),
    *("_cffi_backend", "_json", "_native", "_socket", "_struct", "fcntl", "resource", "select"),
}
"""Those of the interpreter, and extension modules that some interpreters have built in."""

WAITS_KIB = 1600  # of files that a process has mapped which only waits; without memory.rest() it is 4500 and more
UNWRITTEN_KIB = 64  # of those that may be written to; without memory.rest() it is 200
SETTLES_S = 10.0


def test_a_zygote_loads_no_more_than_it_must() -> None:
    """A module more is some 30 KiB for each zygote: whoever adds one here has seen that servers need it on their usual way."""
    script = LOADS.replace("PLACES", repr([place for place in sys.path if place]))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    ours = {name.partition(".")[2] for name in loaded if name.startswith("wherry.")}
    assert ours <= RUNTIME
    assert {name.partition(".")[2] for name in loaded if name.startswith("wherry_shim.")} <= SHIM
    assert {name for name in loaded if name.partition(".")[0] not in ("wherry", "wherry_shim")} <= STANDARD


def test_a_process_that_rests_goes_on_as_before() -> None:
    reader, writer = os.pipe()
    try:
        assert not memory.rest(0.01, reader)
        os.write(writer, b"x")
        assert memory.rest(-1, reader)
        assert memory.rest(-1, writer, reader)
    finally:
        os.close(reader)
        os.close(writer)
    memory.trim()


@pytest.fixture
def zygote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """One that waits, with its spare."""
    monkeypatch.delenv("WHERRY_ZYGOTE", raising=False)
    one = Shim(tmp_path, "lean", str(tmp_path / "containerd.sock"))
    one.start()
    try:
        yield waits_for(zygote_pid)
    finally:
        one.end()


def waits_for(look) -> int:
    deadline = time.monotonic() + SETTLES_S
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def of_files(pid: int) -> int:
    """KiB."""
    values = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(values["Rss"].split()[0]) - int(values["Anonymous"].split()[0])


def unwritten(pid: int) -> int:
    """KiB of files in what may be written to, as the file has them."""
    found, writable = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            writable = len(words) == 6 and words[1].startswith("rw") and words[5].startswith("/")
        elif writable and words[0] in ("Rss:", "Anonymous:"):
            found += int(words[1]) if words[0] == "Rss:" else -int(words[1])
    return found


@pytest.mark.requires("root")
def test_who_waits_has_hardly_a_page_of_files(zygote: int) -> None:
    """Asking for the pid wakes the spare, so nobody asks again before both wait."""
    waits_for(lambda: spares(zygote))
    deadline = time.monotonic() + SETTLES_S
    while max(found := [of_files(pid) for pid in (zygote, *spares(zygote))]) > WAITS_KIB or len(found) != 2:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert max(map(unwritten, (zygote, *spares(zygote)))) <= UNWRITTEN_KIB


@pytest.mark.requires("root")
def test_a_zygote_has_only_small_libraries(zygote: int) -> None:
    mapped = {line.split()[-1] for line in Path(f"/proc/{zygote}/maps").read_text().splitlines() if ".so" in line}
    assert {Path(name).name.partition(".")[0].partition("-")[0] for name in mapped} <= LIBRARIES, mapped
