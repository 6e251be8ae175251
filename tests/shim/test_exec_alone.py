# SPDX-License-Identifier: Apache-2.0
"""An exec in one fork: what it is to the container until its program executes, what its monitor does meanwhile, and what becomes of execs whose process
is killed on the way."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.errors import ShimError
from wherry_shim.loop import Task
from wherry_shim.monitor import ENDED, LISTED, MADE, PROCESS, Monitor

from .driver import Server, shell, spec
from .shims import alive, wait_for_end

pytestmark = pytest.mark.requires("root")


def children(server: Server) -> list[int]:
    """Of the monitor: the container's processes, as far as they are its own, and nobody else where no exec has a terminal."""
    monitor = server.monitor("a")
    assert monitor is not None
    return [int(word) for word in Path(f"/proc/{monitor.pid}/task/{monitor.pid}/children").read_text().split()]


def run(server: Server, exec_id: str, **more: object) -> int:
    server.call("Exec", id="a", exec_id=exec_id, spec=shell("exit 3"), **more)
    pid: int = server.call("Start", id="a", exec_id=exec_id)["pid"]
    assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3
    server.call("Delete", id="a", exec_id=exec_id)
    return pid


@pytest.fixture
def init(server: Server, bundle: Bundle) -> int:
    """Of a container that runs."""
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    pid: int = server.call("Start", id="a")["pid"]
    return pid


def picture(pid: int) -> dict[str, object]:
    """All of a process that a runtime decides."""
    lines = re.findall(r"(?m)^(?:Umask|Uid|Gid|Groups|Sig(?:Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Cpus_allowed|Threads|CoreDumping).*", Path(f"/proc/{pid}/status").read_text())
    files = {name: Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cgroup", "limits", "oom_score_adj", "environ", "cmdline", "mountinfo")}
    links = {name: os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root", *(f"ns/{kind}" for kind in os.listdir(f"/proc/{pid}/ns")))}
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"status": lines, **files, **links, "leads": fields[2] == fields[3] == str(pid), "open": sorted(os.listdir(f"/proc/{pid}/fd"))}


def test_what_it_makes_is_what_a_launcher_makes(server: Server, init: int, tmp_path: Path) -> None:
    process = spec("/bin/sleep", "100")
    pictures = []
    for exec_id in ("e", "f"):  # by a plan that is compiled, then by one that is kept
        server.call("Exec", id="a", exec_id=exec_id, spec=process)
        pictures.append(picture(server.call("Start", id="a", exec_id=exec_id)["pid"]))
        server.loop.step(0)
    (tmp_path / "process.json").write_bytes(process["value"])
    root, wherry = server.service._containers["a"].root, Path(sys.executable).with_name("wherry")
    words = [wherry, "--root", root, "exec", "--detach", "--pid-file", tmp_path / "pid", "--process", tmp_path / "process.json", "a"]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid = int((tmp_path / "pid").read_text())
    pictures.append(picture(pid))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # ours: its pid namespace ends with its last process
    assert pictures[0] == pictures[1] == pictures[2]
    assert pictures[0]["open"] == ["0", "1", "2"] and pictures[0]["leads"]
    assert pictures[0]["ns/pid"] == os.readlink(f"/proc/{init}/ns/pid")


def test_nobody_is_left_behind_it(server: Server, init: int) -> None:
    pid = run(server, "first")
    server.until(lambda: children(server) == [init])
    assert not os.path.exists(f"/proc/{pid}")
    monitor = server.monitor("a")
    assert monitor is not None
    before = len(os.listdir(f"/proc/{monitor.pid}/fd"))
    for exec_id in ("second", "third"):
        run(server, exec_id)
    server.until(lambda: children(server) == [init])
    assert len(os.listdir(f"/proc/{monitor.pid}/fd")) == before
    own = os.readlink("/proc/self/ns/pid")
    assert os.readlink(f"/proc/{monitor.pid}/ns/pid_for_children") == own


# ---- held up on the way: by a freezer of cgroup v1, which it enters by itself


@pytest.fixture
def freezer(init: int) -> Iterator[Path]:
    """The container's. Thawed in the end."""
    path = next((line.split(":", 2)[2] for line in Path(f"/proc/{init}/cgroup").read_text().splitlines() if ":freezer:" in line), None)
    directory = Path("/sys/fs/cgroup/freezer") / str(path).lstrip("/")
    if path is None or not directory.is_dir():
        pytest.skip("requires a freezer of cgroup v1: a cgroup v2 has none that the process enters by itself")
    yield directory
    directory.joinpath("freezer.state").write_text("THAWED")


def hold_up(server: Server, freezer: Path, process: dict[str, object]) -> Task:
    """A Start, by a plan that is kept: who compiles one sees that the container is frozen."""
    server.call("Exec", id="a", exec_id="before", spec=process)
    server.call("Start", id="a", exec_id="before")
    server.call("Wait", id="a", exec_id="before")
    server.loop.step(0)
    server.call("Exec", id="a", exec_id="e", spec=process)
    freezer.joinpath("freezer.state").write_text("FROZEN")
    return server.begin("Start", id="a", exec_id="e")


def thaw(freezer: Path) -> None:
    freezer.joinpath("freezer.state").write_text("THAWED")


def entered(server: Server, freezer: Path, init: int) -> int:
    """Who has come in, and stops there."""

    def found() -> list[int]:
        return [int(word) for word in freezer.joinpath("cgroup.procs").read_text().split() if int(word) != init]

    server.until(found)
    (pid,) = found()
    return pid


def held(pid: int) -> Counter[str]:
    """What its descriptors lead to, without numbers."""
    names = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    return Counter(re.sub(r"[0-9]|^/sys/fs/cgroup/.*(?=/tasks$)", "", name) for name in names)


def test_what_it_is_until_then(server: Server, init: int, freezer: Path) -> None:
    """Among the container's processes, with nothing of its monitor's; and its monitor is there for others."""
    start = hold_up(server, freezer, shell("exit 3"))
    pid = entered(server, freezer, init)
    assert pid in children(server)
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{init}/ns/pid")
    assert "memfd:" in os.readlink(f"/proc/{pid}/exe")
    kinds = held(pid)
    assert kinds.pop("/") == 1  # the container's
    assert os.path.samefile(next(path for path in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(path) == "/"), f"/proc/{init}/root")
    assert sum(kinds.pop(name) for name in list(kinds) if name.endswith("/tasks")) < 16
    assert kinds.pop("/dev/null") == 3
    assert kinds.pop("pipe:[]") == 2  # both are the end of the one that says how it went
    assert not {name for name in kinds if not name.startswith("/sys/fs/cgroup")}, kinds
    monitor = server.monitor("a")
    assert monitor is not None
    other = Monitor.find(server.loop, f"{server.service._containers['a'].root}/a")  # it is told of no process that is not made
    told: list[tuple[int, int]] = []
    other.on_report = lambda report: (told.append((report.kind, report.process)), report.close())[0]
    server.until(lambda: (LISTED, 0) in told)
    assert [number for kind, number in told if kind == PROCESS] == [0]
    assert not start.done
    thaw(freezer)
    assert server.finish(start)["pid"] == pid
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 3
    server.until(lambda: [kind for kind, number in told if number] == [MADE, ENDED])
    other.close()


def test_it_is_hidden(server: Server, init: int, freezer: Path) -> None:
    """Nobody without CAP_SYS_PTRACE looks into it, whoever he is."""
    hold_up(server, freezer, shell("exit 3"))
    pid = entered(server, freezer, init)
    script = f"import os; os.readlink('/proc/{pid}/exe')"
    drop = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-c", script]
    seen = subprocess.run(drop, capture_output=True, text=True)
    assert seen.returncode and "PermissionError" in seen.stderr, seen
    script = script.replace(str(pid), str(init))
    assert not subprocess.run([*drop[:-1], script], capture_output=True, text=True).returncode  # that one shows itself


def test_one_that_is_killed_is_made_anew(server: Server, bundle: Bundle, init: int, freezer: Path) -> None:
    """The program runs once."""
    start = hold_up(server, freezer, shell("echo >>/ran; exit 3"))
    first = entered(server, freezer, init)
    os.kill(first, signal.SIGKILL)
    thaw(freezer)
    assert server.finish(start)["pid"] != first
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 3
    assert bundle.rootfs.joinpath("ran").read_text().count("\n") == 2  # with the one before
    assert not os.path.exists(f"/proc/{first}")


def test_one_whose_container_ends(server: Server, init: int, freezer: Path) -> None:
    start = hold_up(server, freezer, spec("/bin/sleep", "0.1"))
    pid = entered(server, freezer, init)
    os.kill(init, signal.SIGKILL)
    thaw(freezer)
    try:
        server.finish(start)
    except ShimError:
        pass
    else:  # it was faster than the end of its namespace
        assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 137
    wait_for_end(pid)
    assert server.call("Wait", id="a")["exit_status"] == 137


def test_it_executes_nothing_where_its_monitor_has_died(server: Server, bundle: Bundle, init: int, freezer: Path) -> None:
    hold_up(server, freezer, shell("echo >>/ran; exit 3"))
    pid = entered(server, freezer, init)
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    server.until(lambda: not alive(monitor.pid))
    thaw(freezer)
    server.until(lambda: not alive(pid), 5)
    assert bundle.rootfs.joinpath("ran").read_text().count("\n") == 1  # of the one before


# ---- failures


def test_a_failure_is_told_with_its_words(server: Server, bundle: Bundle, init: int) -> None:
    bundle.rootfs.joinpath("probe.sh").write_text("#!/bin/sh\nexit 3\n")
    bundle.rootfs.joinpath("probe.sh").chmod(0o755)
    for exec_id in ("e", "f"):
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("/probe.sh"))
        server.call("Start", id="a", exec_id=exec_id)
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3
        server.loop.step(0)
    bundle.rootfs.joinpath("probe.sh").unlink()
    server.call("Exec", id="a", exec_id="h", spec=spec("/probe.sh"))
    assert "/probe.sh" in server.refused("Start", id="a", exec_id="h").text
    server.until(lambda: children(server) == [init])
    run(server, "third")


def test_an_init_without_its_main_thread(server: Server, bundle: Bundle) -> None:
    """It lives, and has no namespaces that could be joined."""
    if not shutil.which("cc"):
        pytest.skip("requires a C compiler")
    source = "#include <pthread.h>\n#include <unistd.h>\nstatic void *stay(void *p) { pause(); return p; }\n"
    source += "int main(void) { pthread_t t; pthread_create(&t, 0, stay, 0); pthread_exit(0); }\n"
    subprocess.run(["cc", "-static", "-pthread", "-x", "c", "-", "-o", bundle.rootfs / "threads"], input=source, text=True, check=True)
    bundle.args("/threads").save()
    server.call("Create", id="a", bundle=str(bundle.path))
    init = server.call("Start", id="a")["pid"]
    server.until(lambda: Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    server.call("Exec", id="a", exec_id="e", spec=shell("exit 3"))
    assert "its main thread has ended" in server.refused("Start", id="a", exec_id="e").text


def test_it_follows_an_init_that_leaves_its_namespaces(server: Server, bundle: Bundle) -> None:
    """By the same plan: an exec is where init is now."""
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = [*bundle.process["capabilities"][kind], "CAP_SYS_ADMIN"]
    bundle.shell("while ! [ -e /go ]; do sleep 0.05; done; exec /bin/busybox unshare -m -u -i -n sh -c 'hostname moved; exec sleep 1000'").save()
    server.call("Create", id="a", bundle=str(bundle.path))
    init = server.call("Start", id="a")["pid"]
    own = {name: os.readlink(f"/proc/{init}/ns/{name}") for name in ("mnt", "uts", "ipc", "net")}

    def look(exec_id: str) -> dict[str, str]:
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("/bin/sleep", "100"))
        pid = server.call("Start", id="a", exec_id=exec_id)["pid"]
        server.loop.step(0)
        return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in own}

    assert look("e") == look("f") == own
    bundle.rootfs.joinpath("go").touch()
    server.until(lambda: Path(f"/proc/{init}/cmdline").read_bytes() == b"sleep\x001000\x00")
    now = {name: os.readlink(f"/proc/{init}/ns/{name}") for name in own}
    assert not set(now.values()) & set(own.values())
    assert look("g") == now


# ---- many


def test_three_at_once(server: Server, init: int) -> None:
    for exec_id in ("e", "f", "g"):
        server.call("Exec", id="a", exec_id=exec_id, spec=shell("exit 3"))
    starts = [server.begin("Start", id="a", exec_id=exec_id) for exec_id in ("e", "f", "g")]
    assert len({server.finish(start)["pid"] for start in starts}) == 3
    for exec_id in ("e", "f", "g"):
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3


def on_the_way(server: Server) -> list[int]:
    """Children of the monitor that have executed nothing yet."""
    found = []
    for pid in children(server):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"wherry-monitor\0"):
                found.append(pid)
        except OSError:
            pass
    return found


def test_no_exec_is_lost_where_it_is_killed(server: Server, init: int) -> None:
    """Four streams of execs. A Start is answered or refused; who was started ends with its own code, or by the signal."""
    execs, streams = int(os.environ.get("WHERRY_STRESS_EXECS", "80")), 4
    seed, killed, refused, ended = random.Random(7), 0, 0, Counter[int]()

    def stream(number: int):  # type: ignore[no-untyped-def]
        nonlocal refused
        for index in range(execs // streams):
            name = f"s{number}-{index}"
            yield server.begin("Exec", id="a", exec_id=name, spec=shell("exit 3"))
            try:
                yield server.begin("Start", id="a", exec_id=name)
            except ShimError:
                refused += 1
            else:
                ended[(yield server.begin("Wait", id="a", exec_id=name))["exit_status"]] += 1
            yield server.begin("Delete", id="a", exec_id=name)

    running = {number: (generator := stream(number), next(generator)) for number in range(streams)}
    deadline = time.monotonic() + 60
    while running:
        assert time.monotonic() < deadline, "an answer is missing"
        for pid in on_the_way(server):
            with suppress(ProcessLookupError):
                if seed.random() < 0.5:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        server.loop.step(0.001)
        for number, (generator, task) in list(running.items()):
            if not task.done:
                continue
            try:
                try:
                    answer = task.result()
                except ShimError as error:
                    running[number] = generator, generator.throw(error)
                else:
                    running[number] = generator, generator.send(answer)
            except StopIteration:
                del running[number]
    print(f"{killed} killed, {refused} refused, {dict(ended)}")
    assert refused + ended.total() == execs and set(ended) <= {3, 137} and refused + ended[137] <= killed
    server.until(lambda: children(server) == [init])
