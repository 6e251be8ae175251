# SPDX-License-Identifier: Apache-2.0
"""Servers from the zygote: what a start gives them, and that one which is gone, stopped, or spoken to in noise holds nobody up."""

import ctypes
import gc
import mmap
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.kernel import native
from wherry_shim import bootstrap_start, containerd_server, rehearsal, spare, zygote

from .daemon import wait_until
from .shims import BINARY, Shim, alive, wait_for_end

pytestmark = pytest.mark.requires("root")


def own_path() -> str:
    """A start that the tests make has their own world, so this is its zygote too. It is another once somebody mounts a cgroup hierarchy, or takes one away."""
    return zygote.socket_path(bootstrap_start.DIRECTORY, str(BINARY))


def zygote_pid(path: str = "") -> int:
    """0 = there is none that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        try:
            peer.connect(path or own_path())
        except OSError:
            return 0
        return struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Shim]]:
    monkeypatch.delenv("WHERRY_ZYGOTE", raising=False)
    made: list[Shim] = []

    def make(id: str) -> Shim:
        made.append(Shim(tmp_path, id, str(tmp_path / "containerd.sock")))
        return made[-1]

    yield make
    for one in made:
        if one.socket:
            one.end()


@pytest.fixture
def warm(shim: Callable[[str], Shim]) -> int:
    """The pid of a zygote."""
    if not zygote_pid():
        shim("first").start()
    deadline = time.monotonic() + 20
    while not (pid := zygote_pid()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spares(zygote: int) -> list[int]:
    """What it has forked in advance: one, once it has not been asked for a moment."""
    return [pid for pid in children(zygote) if alive(pid) and b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def server_of(one: Shim) -> int:
    """What the zygote forks: the porter's worker, which stays while there is no container; the server itself where there is no porter."""
    known = one.pid
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "-worker -namespace " in words and f" -id {one.id} -address {one.address}" in words:
            return int(pid)
    return known


def forked(one: Shim, zygote: int, **more: object) -> int:
    """Starts until the server is the zygote's: on a busy machine the answer may come too late."""
    for _ in range(10):
        one.start(**more)
        pid = server_of(one)
        if parent(pid) == zygote:
            return pid
        one.end()
    raise AssertionError("no server from the zygote in ten starts")


def test_a_forked_server_is_as_a_cold_one(shim: Callable[[str], Shim], warm: int) -> None:
    one = shim("one")
    os.mkfifo(one.bundle / "log")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    mask = os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 7, hard))
    try:
        pid = forked(one, warm, WHERRY_TEST="here")
    finally:
        os.umask(mask)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Umask:\t0027" in status and "Threads:\t1\n" in status
    assert re.search(rf"Max open files +{soft - 7} ", Path(f"/proc/{pid}/limits").read_text())
    assert os.getpgid(pid) == pid
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(1000, int(Path("/proc/self/oom_score_adj").read_text()) + 1)
    title = Path(f"/proc/{pid}/cmdline").read_text()
    assert "containerd-shim" in title and "-id one" in title.replace("\0", " ")
    names = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    assert names["2"] == str(one.bundle / "log") and names["0"] == names["1"] == "/dev/null"
    assert not [name for name in names.values() if "zygote" in name]


def test_a_zygote_holds_nothing(warm: int) -> None:
    wait_until(lambda: spares(warm) and len(os.listdir(f"/proc/{warm}/fd")) == 7, "it lets go of who has just asked, and makes a spare")
    names = [os.readlink(f"/proc/{warm}/fd/{number}") for number in os.listdir(f"/proc/{warm}/fd")]
    assert sorted(name for name in names if not name.startswith("socket:")) == ["/dev/null"] * 3 + ["/memfd:wherry (deleted)"] * 2
    assert len(names) == 7 and os.readlink(f"/proc/{warm}/cwd") == "/"
    assert "zygote" in Path(f"/proc/{warm}/cmdline").read_text()


def test_servers_survive_their_zygote_and_the_next_start_makes_another(shim: Callable[[str], Shim], warm: int) -> None:
    one, two = shim("one"), shim("two")
    pid = forked(one, warm)
    os.kill(warm, signal.SIGKILL)
    wait_for_end(warm)
    assert server_of(one) == pid and alive(pid)
    two.start()
    deadline = time.monotonic() + 20
    while not zygote_pid():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert two.pid


def test_a_stopped_zygote_holds_nobody_up(shim: Callable[[str], Shim], warm: int) -> None:
    one, before = shim("one"), children(warm)
    stopped = [warm, *spares(warm)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        one.start()
        server = one.pid
        assert parent(server) != warm
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert zygote_pid() == warm  # it has come to the old request, and to its end
    deadline = time.monotonic() + 10
    while [pid for pid in children(warm) if alive(pid) and pid not in (*before, *spares(warm))]:
        assert time.monotonic() < deadline, "a second server on one socket"
        time.sleep(0.02)
    assert {one.pid for _ in range(5)} == {server}


def test_a_spare_is_the_next_server(shim: Callable[[str], Shim], warm: int) -> None:
    wait_until(lambda: spares(warm), "a spare")
    [spare] = spares(warm)
    assert forked(shim("one"), warm) == spare
    wait_until(lambda: spares(warm) not in ([], [spare]), "another one")
    [spare] = spares(warm)
    os.kill(spare, signal.SIGKILL)
    wait_until(lambda: spares(warm) not in ([], [spare]), "one in its place")
    [spare] = spares(warm)
    os.kill(warm, signal.SIGKILL)
    wait_for_end(spare)


def test_a_spare_has_the_pages_that_a_server_writes_to() -> None:
    """What a fork has learned, another one need not wait for. Counted are page faults of writes."""
    area = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    reader, writer = os.pipe()

    def work() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for at in range(0, len(area), mmap.PAGESIZE):
            area[at] = 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    class Rehearsed:
        def rehearse(self) -> None:
            os.write(writer, bytes([work()]))

    def faults_of_a_spare(pages: bytes) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            one = spare.Spare(listener, Rehearsed(), pages)
            found = os.read(reader, 1)[0]
            assert not one.taken(0)
        os.waitpid(one.pid, 0)
        return found

    work()
    lesson = spare.Lesson(work)
    os.waitpid(lesson.pid, 0)
    assert faults_of_a_spare(b"") >= 64
    assert faults_of_a_spare(lesson.pages()) < 4
    os.close(reader)
    os.close(writer)


def test_a_lesson_that_fails_teaches_nothing() -> None:
    lesson = spare.Lesson(lambda: os._exit(1))
    os.waitpid(lesson.pid, 0)
    assert lesson.pages() == b"" == lesson.pages()


def test_a_server_that_ended_leaves_no_zombie(shim: Callable[[str], Shim], warm: int) -> None:
    one = shim("one")
    pid = forked(one, warm)
    one.call("Shutdown")
    wait_for_end(pid)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(max_size=200) | st.binary(max_size=300).map(lambda data: zygote.HEADER.pack(zygote.MAGIC, 0, 0, 1, 0) + data))
def test_noise(warm: int, noise: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(10)
        peer.connect(own_path())
        peer.send(noise or b"\0")
    assert zygote_pid() == warm


def test_a_rehearsal_is_an_exec() -> None:
    one = rehearsal.Rehearsal()
    try:
        for _ in range(2):
            assert one.execute() == 0
        assert one.topics == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"] * 4
    finally:
        one.close()


def test_a_rehearsal_leaves_nothing() -> None:
    native.program_fd()
    gc.collect()  # what servers of other tests had open
    libc, adopts = ctypes.CDLL(None), ctypes.c_int(-1)
    libc.prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: they may have made this process one
    fds = os.listdir("/proc/self/fd")
    containerd_server.rehearse()
    rehearsal.execute(2)
    assert os.listdir("/proc/self/fd") == fds
    libc.prctl(37, ctypes.byref(adopts), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    assert adopts.value == 0


def test_the_world_is_in_the_name() -> None:
    assert zygote.world("/a") == zygote.world("/a") != zygote.world("/b")
    script = f"import sys; sys.path[:0] = {[place for place in os.sys.path if place]!r}; from wherry_shim import zygote; print(zygote.socket_path('/x', {str(BINARY)!r}))"
    here, elsewhere = (subprocess.run([*prefix, os.sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout for prefix in ([], ["unshare", "--uts"]))
    assert here.strip().rpartition("/")[2] == own_path().rpartition("/")[2]
    assert elsewhere and elsewhere != here


def test_a_zygote_that_nobody_asks_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "IDLE", 0.2)
    one = zygote.Zygote(str(tmp_path / "z"), lambda argv: None)
    assert one.bind()
    assert not zygote.Zygote(str(tmp_path / "z"), lambda argv: None).bind()  # one of a kind
    one.run()
    assert not (tmp_path / "z").exists()
