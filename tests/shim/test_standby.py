# SPDX-License-Identifier: Apache-2.0
"""The helper that stays after an exec: what it is to the container while it waits, when it ends, and what becomes of execs where it is killed."""

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.errors import ShimError

from .driver import Server, shell, spec
from .shims import alive, wait_for_end

pytestmark = pytest.mark.requires("root")
NAMESPACES = ("mnt", "pid", "user", "cgroup")


def standing(server: Server) -> int:
    """Its pid, or 0."""
    monitor = server.monitor("a")
    assert monitor is not None
    for word in Path(f"/proc/{monitor.pid}/task/{monitor.pid}/children").read_text().split():
        try:
            if Path(f"/proc/{word}/cmdline").read_bytes().startswith(b"wherry-standby\0"):
                return int(word)
        except OSError:
            pass
    return 0


def run(server: Server, exec_id: str, **more: object) -> int:
    server.call("Exec", id="a", exec_id=exec_id, spec=shell("exit 3"), **more)
    pid: int = server.call("Start", id="a", exec_id=exec_id)["pid"]
    assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3
    server.call("Delete", id="a", exec_id=exec_id)
    server.loop.step(0)  # its plan is kept afterwards
    return pid


@pytest.fixture
def staying(server: Server, bundle: Bundle) -> int:
    """A container in which one stands by."""
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    for exec_id in ("first", "second"):
        run(server, exec_id)
    server.until(lambda: standing(server))
    return standing(server)


def test_it_makes_the_next_one(server: Server, staying: int) -> None:
    for exec_id in ("third", "fourth"):
        run(server, exec_id)
        server.until(lambda: standing(server))
        assert standing(server) == staying
    run(server, "adopting", adopts=True)  # another plan
    server.until(lambda: standing(server))
    assert standing(server) != staying
    wait_for_end(standing(server), 5)  # a second


def picture(pid: int) -> dict[str, object]:
    """All of a process that a runtime decides."""
    lines = re.findall(r"(?m)^(?:Umask|Uid|Gid|Groups|Sig(?:Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Cpus_allowed|Threads|CoreDumping).*", Path(f"/proc/{pid}/status").read_text())
    files = {name: Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cgroup", "limits", "oom_score_adj", "environ", "cmdline", "mountinfo")}
    links = {name: os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root", *(f"ns/{kind}" for kind in os.listdir(f"/proc/{pid}/ns")))}
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return {"status": lines, **files, **links, "parent": parent, "open": sorted(os.listdir(f"/proc/{pid}/fd"))}


def test_what_it_makes_is_what_any_other_makes(server: Server, staying: int) -> None:
    pids = []
    for exec_id in ("e", "f", "g"):  # a helper that goes on and stays, then what has stayed, twice
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("/bin/sleep", "100"))
        pids.append(server.call("Start", id="a", exec_id=exec_id)["pid"])
        server.loop.step(0)
        server.until(lambda: standing(server) not in (0, staying))
    pictures = [picture(pid) for pid in pids]
    assert pictures[0] == pictures[1] == pictures[2]
    assert pictures[0]["open"] == ["0", "1", "2"]
    mask = next(line for line in pictures[0]["status"] if line.startswith("CapBnd"))  # type: ignore[attr-defined]
    assert mask in Path(f"/proc/{standing(server)}/status").read_text()


def held(pid: int) -> list[str]:
    """What its descriptors lead to; looked at again where it was just closing one."""
    while True:
        try:
            return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except FileNotFoundError:
            assert alive(pid)


def test_what_it_holds_while_it_waits(server: Server, staying: int, place: Path) -> None:
    os.mkfifo(place / "out")
    reader = os.open(place / "out", os.O_RDONLY | os.O_NONBLOCK)
    run(server, "with-output", stdout=str(place / "out"))
    server.until(lambda: standing(server) == staying and alive(staying))
    server.until(lambda: held(staying).count("/dev/null") == 4)
    names = held(staying)
    os.close(reader)
    kinds = Counter(re.sub(r"[0-9]|^/sys/fs/cgroup/.*(?=/tasks$)|^/.*(?=/lock)", "", name) for name in names)
    assert kinds.pop("/dev/null") == 4
    assert kinds.pop("socket:[]") == 2  # to the monitor, to the server
    assert kinds.pop("anon_inode:[pidfd]", 0) + kinds.pop("pidfd:[]", 0) == 2  # the container's first process, and what init joins its mounts by
    own = [name for name in names if re.match("/.*(?<!/tasks)$", name) and not name.startswith(("/dev/null", "/sys/fs/cgroup/"))]
    assert len(own) == 1 and "a" in own[0]  # the monitor's lock
    assert not [name for name in names if name.startswith(("pipe:", "/dev/p", "/memfd"))]
    assert not [name for name in names if re.match(r"(mnt|net|uts|ipc|pid|cgroup|user|time):\[", name)]


def test_it_is_outside(server: Server, staying: int) -> None:
    """Of the container's mounts, processes and cgroups: a pause does not stop it, and nobody in there sees it."""
    init = server.call("State", id="a")["pid"]
    for name in NAMESPACES:
        assert os.readlink(f"/proc/{staying}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
    assert os.readlink(f"/proc/{staying}/root") == os.readlink(f"/proc/{staying}/cwd") == "/"
    assert Path(f"/proc/{staying}/cgroup").read_bytes() == Path("/proc/self/cgroup").read_bytes() != Path(f"/proc/{init}/cgroup").read_bytes()
    server.call("Pause", id="a")
    assert Path(f"/proc/{staying}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    server.call("Resume", id="a")
    run(server, "third")
    server.until(lambda: standing(server) == staying)
    server.call("Exec", id="a", exec_id="look", spec=shell("grep -l [s]tandby /proc/[0-9]*/cmdline"))
    server.call("Start", id="a", exec_id="look")
    assert server.call("Wait", id="a", exec_id="look")["exit_status"] == 1


def test_it_ends_before_the_containers_end_is_told(server: Server, staying: int) -> None:
    wait = server.begin("Wait", id="a")
    assert alive(staying)
    server.call("Kill", id="a", signal=int(signal.SIGKILL))
    server.finish(wait)
    assert not os.path.exists(f"/proc/{staying}")


def test_it_dies_with_the_monitor(server: Server, staying: int) -> None:
    monitor = server.monitor("a")
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    server.until(lambda: not alive(staying), 5)


def test_one_that_was_killed_is_not_missed(server: Server, staying: int) -> None:
    os.kill(staying, signal.SIGKILL)
    run(server, "third")
    server.until(lambda: standing(server))
    assert standing(server) != staying


def test_one_that_is_killed_behind_the_clone(server: Server, bundle: Bundle, staying: int) -> None:
    """What it has cloned ends with it, and the exec is made anew: the program runs once. A freezer holds it up."""
    init = server.call("State", id="a")["pid"]
    path = next((line.split(":", 2)[2] for line in Path(f"/proc/{init}/cgroup").read_text().splitlines() if ":freezer:" in line), None)
    freezer = Path("/sys/fs/cgroup/freezer") / str(path).lstrip("/")
    if path is None or not freezer.is_dir():
        pytest.skip("requires a freezer of cgroup v1: a cgroup v2 has none that the process enters by itself")
    ran = bundle.rootfs / "ran"

    def members() -> set[int]:
        return {int(word) for word in freezer.joinpath("cgroup.procs").read_text().split()} - {init}

    script = shell("echo >>/ran; exit 3")
    for exec_id in ("e", "f"):
        server.call("Exec", id="a", exec_id=exec_id, spec=script)
        server.call("Start", id="a", exec_id=exec_id)
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3
        server.loop.step(0)
    server.until(lambda: standing(server) not in (0, staying))
    standby, before = standing(server), ran.read_text().count("\n")
    server.call("Exec", id="a", exec_id="g", spec=script)
    freezer.joinpath("freezer.state").write_text("FROZEN")
    try:
        start = server.begin("Start", id="a", exec_id="g")
        server.until(members)
        (first,) = members()
        os.kill(standby, signal.SIGKILL)
        wait_for_end(standby)
    finally:
        freezer.joinpath("freezer.state").write_text("THAWED")
    assert server.finish(start)["pid"] != first
    assert server.call("Wait", id="a", exec_id="g")["exit_status"] == 3
    assert ran.read_text().count("\n") == before + 1
    server.until(lambda: not os.path.exists(f"/proc/{first}"))


def test_a_failure_is_told_as_by_any_other(server: Server, bundle: Bundle, staying: int) -> None:
    bundle.rootfs.joinpath("probe.sh").write_text("#!/bin/sh\nexit 3\n")
    bundle.rootfs.joinpath("probe.sh").chmod(0o755)
    for exec_id in ("e", "f", "g"):
        server.call("Exec", id="a", exec_id=exec_id, spec=spec("/probe.sh"))
        server.call("Start", id="a", exec_id=exec_id)
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3
        server.loop.step(0)
    bundle.rootfs.joinpath("probe.sh").unlink()
    server.call("Exec", id="a", exec_id="h", spec=spec("/probe.sh"))
    assert "/probe.sh" in server.refused("Start", id="a", exec_id="h").text
    run(server, "third")


def test_it_follows_an_init_that_leaves_its_namespaces(server: Server, bundle: Bundle) -> None:
    """The same helper, by the same plan: an exec is where init is now."""
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
        server.until(lambda: standing(server))
        return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in own}

    assert look("e") == look("f") == own
    staying = standing(server)
    bundle.rootfs.joinpath("go").touch()
    server.until(lambda: Path(f"/proc/{init}/cmdline").read_bytes() == b"sleep\x001000\x00")
    now = {name: os.readlink(f"/proc/{init}/ns/{name}") for name in own}
    assert not set(now.values()) & set(own.values())
    assert look("g") == now
    assert standing(server) == staying


def test_two_at_once(server: Server, staying: int) -> None:
    for exec_id in ("e", "f", "g"):
        server.call("Exec", id="a", exec_id=exec_id, spec=shell("exit 3"))
    starts = [server.begin("Start", id="a", exec_id=exec_id) for exec_id in ("e", "f", "g")]
    assert len({server.finish(start)["pid"] for start in starts}) == 3
    for exec_id in ("e", "f", "g"):
        assert server.call("Wait", id="a", exec_id=exec_id)["exit_status"] == 3


def killing(server: Server, seed: random.Random) -> Callable[[], bool]:
    """Whoever stands by, or has stood by and makes an exec just now."""

    def kill() -> bool:
        pid = standing(server)
        if pid and seed.random() < 0.2:
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    return kill


def test_no_exec_is_lost_where_it_is_killed(server: Server, staying: int) -> None:
    """Four streams of execs. A Start is answered or refused; who was started ends with its own code, or was killed before it was told of."""
    execs, streams = int(os.environ.get("WHERRY_STANDBY_EXECS", "60")), 4
    kill, killed, refused = killing(server, random.Random(7)), 0, 0

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
                assert (yield server.begin("Wait", id="a", exec_id=name))["exit_status"] == 3
            yield server.begin("Delete", id="a", exec_id=name)

    running = {number: (generator := stream(number), next(generator)) for number in range(streams)}
    deadline = time.monotonic() + 60
    while running:
        assert time.monotonic() < deadline, "an answer is missing"
        killed += kill()
        server.loop.step(0.002)
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
    print(f"{killed} killed, {refused} refused")
    assert killed and refused <= killed
    monitor = server.monitor("a")
    assert monitor is not None
    init = server.call("State", id="a")["pid"]
    server.until(lambda: Path(f"/proc/{monitor.pid}/task/{monitor.pid}/children").read_text().split() == [str(init)])
