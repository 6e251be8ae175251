# SPDX-License-Identifier: Apache-2.0
"""Output belongs to the log: nothing that a program does to its stdout, and nobody's death, takes a byte of it, or brings one twice."""

import os
import random
import re
import signal
import stat
import time
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import execute, get, wait
from .deaths import monitor_of, writer_of
from .driver import Server

pytestmark = pytest.mark.requires("root")
ANEW = "echo a; echo b >/dev/stdout; echo c; echo d >&2; echo e >/dev/stderr; echo f >&2"
OUTPUT = {pb.STDOUT: b"a\nb\nc\n", pb.STDERR: b"d\ne\nf\n"}
COUNT = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; done; echo end; exit 3"


def on_disk(server: Server, name: str = "stdout") -> Path:
    return server.data / "containers/a" / name


@pytest.mark.parametrize("user", ["root", "user", "userns"])
def test_a_program_that_opens_its_output_anew(server: Server, bundle: Bundle, user: str) -> None:
    """By `>`, which would empty a file: as root, as somebody else, as root of a user namespace; the first process and an exec."""
    if user == "userns":
        bundle.user_namespace()
    elif user == "user":
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
    server.run(bundle.shell(f"{ANEW}; exec sleep 1000"))
    here = execute(server, "sh", "-c", ANEW)
    assert here.end().status == 0
    assert here.data == OUTPUT
    server.until(lambda: on_disk(server, "stderr").read_bytes() == OUTPUT[pb.STDERR])
    assert on_disk(server).read_bytes() == OUTPUT[pb.STDOUT]


def test_what_a_program_can_do_to_its_output(server: Server, bundle: Bundle) -> None:
    """What the container has is a pipe: no file of ours is in it, to be emptied, cut, or read."""
    server.run(bundle.shell("echo secret; echo more >&2; exec sleep 1000"))
    server.until(lambda: on_disk(server).read_bytes() == b"secret\n" and on_disk(server, "stderr").read_bytes() == b"more\n")
    place = f"/proc/{get(server).pid}/fd"
    assert not [fd for fd in os.listdir(place) if stat.S_ISREG(os.stat(f"{place}/{fd}").st_mode)]
    for number in (1, 2):
        fd = os.open(f"{place}/{number}", os.O_RDWR | os.O_TRUNC | os.O_NONBLOCK)
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(fd, 0)
        with pytest.raises(OSError, match="Illegal seek"):
            os.lseek(fd, 0, os.SEEK_SET)
        with pytest.raises(BlockingIOError):
            os.read(fd, 100)
        os.close(fd)
    assert server.output() == "secret\n"


def lines_of(server: Server) -> int:
    """Those that are there; each once, in order."""
    text = on_disk(server).read_text()
    lines = text[: text.rfind("\n")].split("\n")
    last = len(lines) - (lines[-1] == "end")
    assert lines[:last] == [str(number) for number in range(1, last + 1)]
    return last


def goes_on(server: Server) -> None:
    size = on_disk(server).stat().st_size
    server.until(lambda: on_disk(server).stat().st_size > size + 20000)


def another_writer(server: Server, last: int) -> int:
    """Than that one, which was killed."""
    found: list[int] = []

    def look() -> bool:
        try:
            found[:] = [writer_of(server, "a")]
        except (AssertionError, OSError):
            return False
        return found != [last]

    server.until(look)
    return found[0]


def test_every_line_once(server: Server, bundle: Bundle) -> None:
    """In the middle of a stream of lines the writer, the server, the monitor and the server, and the monitor are killed, and a server follows another."""
    server.run(bundle.shell(COUNT), log=pb.LogLimit(bytes=1 << 30))
    goes_on(server)
    first = writer_of(server, "a")
    os.kill(first, signal.SIGKILL)
    goes_on(server)
    another_writer(server, first)
    server.restart()
    goes_on(server)
    server.process.send_signal(signal.SIGHUP) if server.process else None
    server.until(lambda: server.log[server.log.rfind("msg=reloads") :].count("msg=serves"))
    goes_on(server)
    writer, monitor = writer_of(server, "a"), monitor_of(server, "a")
    server.kill()
    os.kill(monitor, signal.SIGKILL)
    goes_on(server)  # while nobody is there
    server.start()
    goes_on(server)
    assert Path(f"/proc/{writer}").exists()
    (bundle.rootfs / "tmp/stop").touch()
    wait(server)
    assert on_disk(server).read_bytes().endswith(b"\nend\n")
    assert lines_of(server) > 10000
    server.until(lambda: not Path(f"/proc/{writer}/exe").exists())


def test_writers_that_are_killed_at_any_moment(server: Server, bundle: Bundle) -> None:
    """WHERRY_KILLS=500 in the environment for a long run."""
    server.run(bundle.shell(COUNT), log=pb.LogLimit(bytes=1 << 34))
    source = random.Random(6)
    last = 0
    for _ in range(int(os.environ.get("WHERRY_KILLS", "20"))):
        last = another_writer(server, last)
        time.sleep(source.random() * 0.03)
        os.kill(last, signal.SIGKILL)
    (bundle.rootfs / "tmp/stop").touch()
    assert wait(server).exit.status == 3
    assert lines_of(server) > 100 and on_disk(server).read_bytes().endswith(b"\nend\n")


def test_a_monitor_that_is_killed(server: Server, bundle: Bundle) -> None:
    """Its server gets the end of the program, and tells it when the output is whole."""
    server.run(bundle.shell(COUNT), log=pb.LogLimit(bytes=1 << 30))
    here = execute(server, "sh", "-c", COUNT)
    goes_on(server)
    os.kill(monitor_of(server, "a"), signal.SIGKILL)
    goes_on(server)
    (bundle.rootfs / "tmp/stop").touch()
    assert wait(server).exit.status == 3
    assert on_disk(server).read_bytes().endswith(b"\nend\n") and lines_of(server) > 0
    here.end()
    lines = here.data[pb.STDOUT].splitlines()
    assert lines[-1] == b"end" or (here.exit is not None and here.exit.signal == 9)  # init has ended, and with it the exec
    assert [int(line) for line in lines if line != b"end"] == list(range(1, len(lines) + (lines[-1] != b"end")))


def memory(pid: int) -> int:
    found = re.search(r"^Anonymous: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found is not None
    return int(found[1])


def test_much_at_once(server: Server, bundle: Bundle) -> None:
    """Both processes stay as small as they were."""
    server.run(bundle.shell("read go; dd if=/dev/zero bs=64k count=1600 2>/dev/null; echo end; read again"), stdin=True, log=pb.LogLimit(bytes=1 << 20))
    pids = [monitor_of(server, "a"), writer_of(server, "a")]
    before = [memory(pid) for pid in pids]
    with open(server.data / "containers/a/stdin", "wb", buffering=0) as stdin:
        stdin.write(b"\n")
        server.until(lambda: on_disk(server).stat().st_size == (100 << 20) + 4)
        assert all(memory(pid) - was <= 32 for pid, was in zip(pids, before, strict=True))
        stdin.write(b"\n")
        wait(server)
    assert server.output().endswith("end\n")


def test_the_end_comes_after_the_last_byte(server: Server, bundle: Bundle) -> None:
    """The writer is stopped: neither record nor event say that the process has ended, before it goes on and everything is there."""
    server.run(bundle)
    writer = writer_of(server, "a")
    os.kill(writer, signal.SIGSTOP)
    here = execute(server, "sh", "-c", "seq 1 2000; exit 5", exec_id="e")
    server.until(lambda: not Path(f"/proc/{here.started.pid}/exe").exists())
    time.sleep(0.3)
    assert not (server.root / "default/a/exit-e").exists()
    os.kill(writer, signal.SIGCONT)
    assert here.end().status == 5
    assert here.data[pb.STDOUT].split() == [str(number).encode() for number in range(1, 2001)]


def test_a_writer_that_is_killed_before_the_end(server: Server, bundle: Bundle) -> None:
    """Another one takes what is left in the pipe."""
    server.run(bundle)
    writer = writer_of(server, "a")
    os.kill(writer, signal.SIGSTOP)
    here = execute(server, "sh", "-c", "seq 1 2000; exit 5")
    server.until(lambda: not Path(f"/proc/{here.started.pid}/exe").exists())
    os.kill(writer, signal.SIGKILL)
    assert here.end().status == 5
    assert here.data[pb.STDOUT].split() == [str(number).encode() for number in range(1, 2001)]


def test_nobody_is_left_to_copy(server: Server, bundle: Bundle) -> None:
    """Who writes then ends, and is told of: it does not wait for ever."""
    server.run(bundle)
    here = execute(server, "sh", "-c", COUNT)
    here.read(b"\n1000\n")
    pids = [writer_of(server, "a"), monitor_of(server, "a")]
    os.kill(pids[1], signal.SIGSTOP)  # it does not begin another one
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert here.end().signal == signal.SIGPIPE
    lines = here.data[pb.STDOUT].splitlines()
    assert lines[:-1] == [str(number).encode() for number in range(1, len(lines))]
