# SPDX-License-Identifier: Apache-2.0
"""Containers that are created from a checkpoint, with the tests' own CRIU 4 (tests/hosts/criu.sh): Start restores what Create has only been told of."""

import os
import signal
import time
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.criu import KIT, kit
from wherry_shim import clean
from wherry_shim.errors import INVALID_ARGUMENT, NOT_FOUND, UNKNOWN
from wherry_shim.service import Setting

from .daemon import wait_until
from .driver import Remote, Server
from .test_service_stdio import Fifos, fifos, read_to_end, read_until

__all__ = ["fifos"]

pytestmark = pytest.mark.requires("root", "kcmp", "command:mmdebstrap", "command:patchelf")
COUNT = "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done"
CREATED, RUNNING, STOPPED = 1, 2, 3


@pytest.fixture(autouse=True)
def criu(monkeypatch: pytest.MonkeyPatch) -> None:
    if kit():
        pytest.skip(f"no CRIU 4: {kit()}")
    monkeypatch.setenv("PATH", f"{KIT}:{os.environ['PATH']}")


def images(server: Server, bundle: Bundle, place: Path, until: bytes = b"", reader: int = -1, **more: object) -> Path:
    """A checkpoint of what the bundle runs; its container is deleted."""
    bundle.mount("/tmp", "tmpfs", "tmpfs")
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path), **more)
    server.call("Start", id="a")
    if until:
        read_until(server, reader, until)
    else:
        time.sleep(0.3)
    server.call("Checkpoint", id="a", path=str(place / "images"), options={"type_url": "json", "value": b'{"exit": true}'})
    server.call("Wait", id="a")
    server.call("Delete", id="a")
    server.events.clear()
    return place / "images"


def count(pid: int) -> int:
    return int(Path(f"/proc/{pid}/root/tmp/count").read_text() or 0)


def test_the_life_of_a_restored_container(server: Server, bundle: Bundle, place: Path) -> None:
    path = images(server, bundle.shell(COUNT), place)
    assert server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path)) == {"pid": 0}
    state = server.call("State", id="a")
    assert (state["status"], state["pid"]) == (CREATED, 0)
    assert "has no process" in server.refused("Pids", id="a").text
    assert server.refused("Kill", id="a", signal=9).code == NOT_FOUND
    assert server.refused("Exec", id="a", exec_id="e", spec={"value": b"{}"}).text == "cannot exec in a created state"
    wait = server.begin("Wait", id="a")
    pid = server.call("Start", id="a")["pid"]
    assert (bundle.path / "init.pid").read_text() == str(pid)
    before = count(pid)
    assert before > 3
    server.until(lambda: count(pid) > before)
    assert server.call("State", id="a")["status"] == RUNNING
    assert server.refused("Start", id="a").text == "cannot start a running container"
    assert server.call("Stats", id="a")["stats"]["message"]["pids"]["current"] >= 1
    server.call("Exec", id="a", exec_id="e", spec={"value": b'{"args": ["sh", "-c", "exit 5"], "cwd": "/", "env": ["PATH=/bin"]}'})
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 5
    server.call("Delete", id="a", exec_id="e")
    server.call("Kill", id="a", signal=signal.SIGKILL)
    assert server.finish(wait)["exit_status"] == 137
    assert server.call("Delete", id="a")["pid"] == pid
    assert server.topics("a") == ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]
    assert server.events[0][1]["checkpoint"] == str(path)
    assert not (bundle.path / "options.json").exists()


def test_fifos_of_the_new_client(server: Server, bundle: Bundle, place: Path, fifos: Fifos) -> None:
    path = images(server, bundle.shell("echo began; while read word; do echo got $word; done; exit 4"), place, b"began\n", fifos.reader(), **fifos.names())
    other = Fifos(place, "other")
    out = other.reader()
    server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path), **other.names())
    writer = other.writer()
    server.call("Start", id="a")
    os.write(writer, b"one\n")
    assert read_until(server, out, b"one\n") == b"got one\n"
    server.call("CloseIO", id="a", stdin=True)
    other.shut(writer)
    assert server.call("Wait", id="a")["exit_status"] == 4
    assert read_to_end(server, out) == b""
    other.close()


def test_a_terminal(server: Server, bundle: Bundle, place: Path, fifos: Fifos) -> None:
    bundle.process["terminal"] = True
    names = {**fifos.names("in", "out"), "terminal": True}
    path = images(server, bundle.shell("echo began; while read word; do echo got $word; stty size; done"), place, b"began\r\n", fifos.reader(), **names)
    server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path), **names)
    writer, out = fifos.writer(), fifos.reader()
    server.call("Start", id="a")
    server.call("ResizePty", id="a", width=70, height=30)
    os.write(writer, b"one\n")
    assert b"got one\r\n30 70\r\n" in read_until(server, out, b"30 70\r\n")
    server.call("Kill", id="a", signal=9)
    assert server.call("Wait", id="a")["exit_status"] == 137


def test_deleted_before_its_start(server: Server, bundle: Bundle, place: Path) -> None:
    path = images(server, bundle.shell(COUNT), place)
    mounts = [{"type": "bind", "source": str(bundle.rootfs), "options": ["rbind"]}]
    server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path), rootfs=mounts)
    wait = server.begin("Wait", id="a")
    answer = server.call("Delete", id="a")
    assert (answer["pid"], answer["exit_status"]) == (0, 137)
    assert server.finish(wait)["exit_status"] == 137
    assert server.topics() == ["create", "delete"]
    assert not os.path.ismount(bundle.rootfs)
    assert not (bundle.path / "options.json").exists()


def test_what_is_no_checkpoint(server: Server, bundle: Bundle, place: Path) -> None:
    bundle.save()
    assert server.refused("Create", id="a", bundle=str(bundle.path), checkpoint="images").code == INVALID_ARGUMENT
    missing = server.refused("Create", id="a", bundle=str(bundle.path), checkpoint=str(place / "none"))
    assert (missing.code, "inventory.img" in missing.text) == (UNKNOWN, True)
    (place / "images").mkdir()
    (place / "images/inventory.img").write_bytes(b"nothing of CRIU")
    server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(place / "images"))
    for _ in range(2):
        error = server.refused("Start", id="a")
        assert error.text.startswith("OCI runtime restore failed: ") and "criu-work/restore.log" in error.text
        assert server.call("State", id="a")["status"] == CREATED
    server.call("Delete", id="a")
    assert server.topics() == ["create", "delete"]


def test_the_monitor_is_killed_in_a_restore(server: Server, bundle: Bundle, place: Path) -> None:
    path = images(server, bundle.shell(COUNT), place)
    server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path))
    start = server.begin("Start", id="a")
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    with pytest.raises(Exception, match="the monitor of container a is gone"):
        server.finish(start)
    server.call("Delete", id="a")
    assert server.topics() == ["create", "delete"]


def test_the_server_is_killed_before_its_start_and_in_it(bundle: Bundle, place: Path, server: Server) -> None:
    """What `delete` finds is taken away: mounts and the marker alone, or whatever the restore has begun."""
    path = images(server, bundle.shell(COUNT), place)
    for started in (False, True):
        remote = Remote(place / "root")
        remote.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path))
        if started:
            remote.send("Start", id="a")
            wait_until((place / "root/ns/a").exists, "the restore to begin")
        remote.kill()
        answer = clean.destroy(Setting("ns", str(place / "root")), "a", str(bundle.path))
        assert answer["exit_status"] == 137
        assert not (bundle.path / "options.json").exists()
        assert not (place / "root/ns/a").exists()


def test_files(server: Server, bundle: Bundle, place: Path) -> None:
    """A program whose output was copied to one file goes on into another; what it had said is in the first one, once."""
    for name in ("first", "second"):
        (place / name).touch()
    script = "i=0; while :; do i=$((i+1)); echo $i; echo again $i >/dev/stdout; sleep 0.05; done"
    path = images(server, bundle.shell(script), place, stdout=str(place / "first"))
    server.call("Create", id="a", bundle=str(bundle.path), checkpoint=str(path), stdout=str(place / "second"))
    server.call("Start", id="a")
    server.until(lambda: (place / "second").read_text().count("\n") > 10)
    server.call("Kill", id="a", signal=signal.SIGKILL)
    server.call("Wait", id="a")
    said = (place / "first").read_text() + (place / "second").read_text()
    lines = said.splitlines()
    assert lines == [f"{'again ' if index % 2 else ''}{index // 2 + 1}" for index in range(len(lines))]
