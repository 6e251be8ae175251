# SPDX-License-Identifier: Apache-2.0
"""What a process reads and writes, by fifos, terminals, files and logging programs, with clients that come late, go, or never come."""

import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.errors import INVALID_ARGUMENT, UNKNOWN
from wherry_shim.stdio import Names, whole

from .driver import Server, shell, spec

pytestmark = pytest.mark.requires("root")


class Fifos:
    def __init__(self, place: Path, name: str = "io") -> None:
        self.place, self.open = place / name, []
        self.open: list[int]
        self.place.mkdir()
        for end in ("in", "out", "err"):
            os.mkfifo(self.place / end, 0o700)

    def names(self, *ends: str) -> dict[str, str]:
        return {"std" + end: str(self.place / end) for end in ends or ("in", "out", "err")}

    def reader(self, end: str = "out") -> int:
        self.open.append(os.open(self.place / end, os.O_RDONLY | os.O_NONBLOCK))
        return self.open[-1]

    def writer(self) -> int:
        self.open.append(os.open(self.place / "in", os.O_WRONLY | os.O_NONBLOCK))
        return self.open[-1]

    def shut(self, fd: int) -> None:
        self.open.remove(fd)
        os.close(fd)

    def close(self) -> None:
        for fd in self.open:
            os.close(fd)


@pytest.fixture
def fifos(place: Path):  # type: ignore[no-untyped-def]
    made = Fifos(place)
    yield made
    made.close()


def read_until(server: Server, fd: int, text: bytes, seconds: float = 10.0) -> bytes:
    got = b""
    deadline = time.monotonic() + seconds
    while text not in got:
        assert time.monotonic() < deadline, got
        server.loop.step(0.01)
        try:
            got += os.read(fd, 1 << 16)
        except BlockingIOError:
            continue
    return got


def read_to_end(server: Server, fd: int, seconds: float = 10.0) -> bytes:
    got, deadline = b"", time.monotonic() + seconds
    while True:
        assert time.monotonic() < deadline, got
        server.loop.step(0.01)
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            continue
        if not data:
            return got
        got += data


def make(server: Server, bundle: Bundle, **more: object) -> None:
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path), **more)


def test_fifos(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    out, err = fifos.reader("out"), fifos.reader("err")
    make(server, bundle.shell("cat; echo wrong >&2; exit 4"), **fifos.names())
    writer = fifos.writer()
    server.call("Start", id="a")
    os.write(writer, b"one\n")
    assert read_until(server, out, b"one\n") == b"one\n"
    fifos.shut(writer)  # a client goes ...
    time.sleep(0.05)
    writer = fifos.writer()  # ... and another comes: no end of the file in between
    os.write(writer, b"two\n")
    assert read_until(server, out, b"two\n") == b"two\n"
    server.call("CloseIO", id="a", stdin=True)
    server.call("CloseIO", id="a", stdin=True)
    fifos.shut(writer)
    assert server.call("Wait", id="a")["exit_status"] == 4
    assert read_to_end(server, err) == b"wrong\n"
    assert read_to_end(server, out) == b""


def test_the_container_has_the_fifo_itself(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    out = fifos.reader()
    make(server, bundle.shell("stat -L -c %i /proc/self/fd/1; sleep 1000"), **fifos.names("out"))
    server.call("Start", id="a")
    assert int(read_until(server, out, b"\n")) == (fifos.place / "out").stat().st_ino


def test_a_reader_that_comes_late(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    make(server, bundle.shell("echo early; exit 0"), **fifos.names())
    server.call("Start", id="a")
    server.call("Wait", id="a")
    assert read_to_end(server, fifos.reader()) == b"early\n"


def test_a_reader_that_goes(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    """The program gets no SIGPIPE, and what it writes meanwhile is not lost."""
    out = fifos.reader()
    make(server, bundle.shell("echo one; read line; echo two; read line; exit 5"), **fifos.names())
    server.call("Start", id="a")
    read_until(server, out, b"one\n")
    fifos.shut(out)
    writer = fifos.writer()
    os.write(writer, b"go\n")
    time.sleep(0.2)
    os.write(writer, b"go\n")
    assert server.call("Wait", id="a")["exit_status"] == 5
    assert read_to_end(server, fifos.reader()) == b"two\n"


def test_a_reader_that_never_comes(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    make(server, bundle.shell("yes"), **fifos.names("out", "err"))
    server.call("Start", id="a")
    server.call("Kill", id="a", signal=9)
    assert server.call("Wait", id="a")["exit_status"] == 137
    assert server.call("Delete", id="a")["exit_status"] == 137


def test_stdin_that_is_closed_before_the_start(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    """A client whose own stdin was empty calls CloseIO at once; what another had written before is still read."""
    make(server, bundle)
    server.call("Start", id="a")
    out = fifos.reader()
    for exec_id, given in (("nothing", b""), ("something", b"text\n")):
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("cat"), **fifos.names())
        server.call("CloseIO", id="a", exec_id=exec_id, stdin=True)
        start = server.begin("Start", id="a", exec_id=exec_id)
        writer = fifos.writer()  # the fifo has a reader by now: a blocked client gets on
        os.write(writer, given) if given else None
        fifos.shut(writer)
        server.finish(start)
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 0
        assert read_to_end(server, out) == given
        server.call("Delete", id="a", exec_id=exec_id)


def test_stdin_of_a_client_that_never_comes(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=spec("cat"), **fifos.names("in"))
    server.call("CloseIO", id="a", exec_id="e", stdin=True)
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 0


def test_stdin_that_is_closed_during_the_create(server: Server, bundle: Bundle, fifos: Fifos, place: Path) -> None:
    hook = place / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {place}/begun\nwhile [ ! -e {place}/go ]; do sleep 0.02; done\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    bundle.args("cat").save()
    create = server.begin("Create", id="a", bundle=str(bundle.path), **fifos.names("in"))
    server.until((place / "begun").exists)
    server.call("CloseIO", id="a", stdin=True)
    (place / "go").touch()
    server.finish(create)
    server.call("Start", id="a")
    assert server.call("Wait", id="a")["exit_status"] == 0


def test_a_terminal(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    bundle.process["terminal"] = True
    out = fifos.reader()
    make(server, bundle.shell("trap 'stty size' WINCH; tty; while :; do read line && echo got $line; done"), terminal=True, **fifos.names("in", "out"))
    server.call("Start", id="a")
    assert b"/dev/" in read_until(server, out, b"\n")
    writer = fifos.writer()
    os.write(writer, b"word\n")
    assert b"got word\r\n" in read_until(server, out, b"got word\r\n")
    server.call("ResizePty", id="a", width=123, height=45)
    assert b"45 123" in read_until(server, out, b"45 123")
    server.call("Kill", id="a", signal=9)
    server.call("Wait", id="a")
    server.call("Delete", id="a")
    read_to_end(server, out)


def test_the_last_words_on_a_terminal(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    """More than a pty and a fifo hold, and a reader that comes when it is over: nothing is missing once Delete has waited for it."""
    bundle.process["terminal"] = True
    out = fifos.reader()
    make(server, bundle.shell("seq 1 20000; echo end"), terminal=True, **fifos.names("in", "out"))
    server.call("Start", id="a")
    text = read_until(server, out, b"end\r\n")
    assert text.split() == [str(number).encode() for number in range(1, 20001)] + [b"end"]
    assert server.call("Wait", id="a")["exit_status"] == 0
    assert read_to_end(server, out) == b""


def test_a_terminal_of_an_exec(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    out = fifos.reader()
    server.call("Exec", id="a", exec_id="e", terminal=True, spec=shell("stty size; exit 6", terminal=True, consoleSize={"height": 11, "width": 22}), **fifos.names("in", "out"))
    server.call("Start", id="a", exec_id="e")
    assert read_until(server, out, b"11 22")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 6
    assert server.call("Delete", id="a", exec_id="e")["exit_status"] == 6


def test_a_terminal_that_somebody_in_the_background_holds(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    make(server, bundle)
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", terminal=True, spec=shell("trap '' HUP; sleep 1000 & sleep 0.1", terminal=True), **fifos.names("in", "out"))
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 0
    began = time.monotonic()
    server.call("Delete", id="a", exec_id="e")
    assert time.monotonic() - began < 8


def test_a_file(server: Server, bundle: Bundle, place: Path) -> None:
    log = place / "logs/of a/out.log"
    uri = "file://" + str(log).replace(" ", "%20")
    make(server, bundle.shell("echo out; echo err >&2"), stdout=uri, stderr=uri)
    server.call("Start", id="a")
    server.call("Wait", id="a")
    assert sorted(log.read_text().splitlines()) == ["err", "out"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o644


def test_a_plain_path(server: Server, bundle: Bundle, place: Path) -> None:
    log = place / "out"
    log.write_text("before\n")
    make(server, bundle.shell("echo one; echo two >&2"), stdout=str(log), stderr=str(log))
    server.call("Start", id="a")
    server.call("Wait", id="a")
    assert log.read_text() == "before\none\ntwo\n"


LOGGER = """#!/bin/sh
echo "$@" >{place}/words
env | grep ^CONTAINER_ | sort >{place}/environment
{ready}
cat <&3 >{place}/out &
cat <&4 >{place}/err &
exec 3<&- 4<&-
wait
"""


def logger(place: Path, ready: str = "exec 5>&-") -> str:
    path = place / "logger"
    path.write_text(LOGGER.format(place=place, ready=ready))
    path.chmod(0o755)
    return str(path)


def test_a_logging_program(server: Server, bundle: Bundle, place: Path) -> None:
    uri = f"binary://{logger(place)}?key=va%20lue&empty=&key=second"
    make(server, bundle.shell("echo out; echo err >&2"), stdout=uri, stderr=uri)
    server.call("Start", id="a")
    server.call("Wait", id="a")
    server.until(lambda: (place / "err").read_text() == "err\n" and (place / "out").read_text() == "out\n")
    assert (place / "words").read_text() == "key va lue empty \n"
    assert (place / "environment").read_text() == "CONTAINER_ID=a\nCONTAINER_NAMESPACE=ns\n"
    server.call("Delete", id="a")
    server.loop.step(0.2)


def test_a_logging_program_that_does_not_get_ready(server: Server, bundle: Bundle, place: Path) -> None:
    bundle.save()
    uri = f"binary-v2://{logger(place, 'exit 1')}"
    error = server.refused("Create", id="a", bundle=str(bundle.path), stdout=uri, stderr=uri)
    assert error.code == UNKNOWN and "did not call ready" in error.text
    server.loop.step(0.3)
    missing = server.refused("Create", id="a", bundle=str(bundle.path), stdout="binary:///nowhere", stderr="binary:///nowhere")
    assert "/nowhere" in missing.text
    wrong = server.refused("Create", id="a", bundle=str(bundle.path), stdout="http://x", stderr="")
    assert wrong.code == INVALID_ARGUMENT and "unknown STDIO scheme" in wrong.text
    gone = server.refused("Create", id="a", bundle=str(bundle.path), stdout="/nowhere/out")
    assert gone.code == UNKNOWN and "/nowhere/out" in gone.text


def test_a_terminal_and_a_logging_program(server: Server, bundle: Bundle, place: Path) -> None:
    bundle.process["terminal"] = True
    make(server, bundle.shell("echo out"), terminal=True, stdout=f"binary://{logger(place)}")
    server.call("Start", id="a")
    server.call("Wait", id="a")
    server.until(lambda: (place / "out").exists() and (place / "out").read_text() == "out\n")
    server.call("Delete", id="a")
    server.loop.step(0.2)


@pytest.mark.requires("userns")
def test_the_owner_of_the_fifos(server: Server, bundle: Bundle, fifos: Fifos) -> None:
    """Root in a user namespace opens its own stdout once more."""
    out = fifos.reader()
    options = {"type_url": "containerd.runc.v1.Options", "value": b'{"io_uid": 100000, "io_gid": 100000}'}
    make(server, bundle.user_namespace().shell("echo again >/proc/self/fd/1 && exit 3"), options=options, **fifos.names("out"))
    server.call("Start", id="a")
    assert server.call("Wait", id="a")["exit_status"] == 3
    assert read_to_end(server, out) == b"again\n"


def test_a_logging_program_that_is_not_there(server: Server, bundle: Bundle, place: Path) -> None:
    """Whatever was opened for it is closed again."""
    bundle.save()
    server.service.facts.key()  # keeps the mount table open
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        error = server.refused("Create", id="a", bundle=str(bundle.path), stdout=f"binary://{place}/none")
        assert f"failed to start the logging binary {place}/none" in error.text
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_not_the_containers(server: Server, bundle: Bundle, place: Path) -> None:
    """A program that opens its output anew empties nothing, whatever the file is named by."""
    for id, uri in (("a", str(place / "out")), ("b", f"file://{place}/out-b")):
        bundle.shell("echo a; echo b >/dev/stdout; echo c >/dev/stderr; stat -L -c %F /proc/self/fd/1").save()
        (place / uri.rpartition("/")[2]).touch()
        server.call("Create", id=id, bundle=str(bundle.path), stdout=uri, stderr=uri)
        server.call("Start", id=id)
        server.call("Wait", id=id)
        assert (place / uri.rpartition("/")[2]).read_text() == "a\nb\nc\nfifo\n"
        server.call("Delete", id=id)


def test_what_an_exec_leaves_behind_writes_on(server: Server, bundle: Bundle, place: Path) -> None:
    """The exec is over and deleted; who writes gets no SIGPIPE, and the file what is written, until the last writer has gone."""
    make(server, bundle)
    server.call("Start", id="a")
    (place / "out").touch()
    late = "(while [ ! -e /tmp/go ]; do sleep 0.05; done; echo late; touch /tmp/written) & echo now"
    server.call("Exec", id="a", exec_id="e", spec=shell(late), stdout=str(place / "out"))
    server.call("Start", id="a", exec_id="e")
    began = time.monotonic()
    server.call("Wait", id="a", exec_id="e")
    server.call("Delete", id="a", exec_id="e")
    assert time.monotonic() - began < 8 and (place / "out").read_text() == "now\n"
    assert not whole(Names("", str(place / "out"), "", False))
    (bundle.rootfs / "tmp/go").touch()
    server.until(lambda: (place / "out").read_text() == "now\nlate\n" and (bundle.rootfs / "tmp/written").exists())
    server.until(lambda: whole(Names("", str(place / "out"), "", False)))


@pytest.fixture
def full(place: Path):  # type: ignore[no-untyped-def]
    """A file system of a MiB, half of it taken."""
    (place / "full").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place / "full"], check=True)
    (place / "full/filler").write_bytes(bytes(1 << 19))
    (place / "full/out").touch()
    yield place / "full"
    subprocess.run(["umount", "-l", place / "full"], check=True)


def test_a_full_disk(server: Server, bundle: Bundle, full: Path) -> None:
    """The program goes on without what it says; in the file stands how much is missing, as soon as there is room again."""
    make(server, bundle.shell("dd if=/dev/zero bs=64k count=32 2>/dev/null; touch /tmp/done; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after"), stdout=str(full / "out"))
    server.call("Start", id="a")
    server.until((bundle.rootfs / "tmp/done").exists)
    (full / "filler").unlink()
    (bundle.rootfs / "tmp/go").touch()
    assert server.call("Wait", id="a")["exit_status"] == 0
    text = (full / "out").read_bytes()
    notes = re.findall(rb"\n\[wherry: (\d+) bytes of output are missing here: no space was left\]\n", text)
    assert notes and text.endswith(b"]\nafter\n")
    assert text.count(b"\0") + sum(map(int, notes)) == 32 * 65536


def test_a_full_disk_to_the_end(server: Server, bundle: Bundle, full: Path) -> None:
    """Nobody waits for room that does not come."""
    make(server, bundle.shell("dd if=/dev/zero bs=64k count=32 2>/dev/null; exit 4"), stdout=str(full / "out"))
    server.call("Start", id="a")
    assert server.call("Wait", id="a")["exit_status"] == 4
    assert server.call("Delete", id="a")["exit_status"] == 4
    assert 1 << 18 < (full / "out").stat().st_size <= 1 << 19


def test_a_monitor_of_an_older_version(server: Server, bundle: Bundle, place: Path) -> None:
    """It cannot copy: what is executed then has the file, as it had it before."""
    make(server, bundle)
    server.call("Start", id="a")
    monitor = server.monitor("a")
    assert monitor is not None and monitor.copies
    monitor.copies = False
    (place / "out").touch()
    server.call("Exec", id="a", exec_id="e", spec=shell("echo one; stat -L -c %F /proc/self/fd/1"), stdout=str(place / "out"))
    server.call("Start", id="a", exec_id="e")
    server.call("Wait", id="a", exec_id="e")
    assert (place / "out").read_text() == "one\nregular file\n"
