# SPDX-License-Identifier: Apache-2.0
"""The container's cgroups, which its monitor keeps open: an exec enters by them, nobody in the container has them, and what is gone is opened anew."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.errors import ShimError

from .driver import Server, spec

pytestmark = pytest.mark.requires("root")


def own_cgroups(pid: int) -> dict[str, Path]:
    """The directories of the container's own cgroups, by their controllers; "" is v2's."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        kind = "cgroup2" if not controllers else "cgroup"
        for mount in re.findall(rf"(?m)^\S+ \S+ \S+ / (\S+) .* - {kind} \S+ (\S+)$", Path("/proc/self/mountinfo").read_text()):
            if path != "/" and set(controllers.split(",")) <= {"", *mount[1].split(",")} and Path(mount[0] + path).is_dir():
                found[controllers] = Path(mount[0] + path)
    return found


def kept(server: Server) -> set[str]:
    monitor = server.monitor("a")
    assert monitor is not None
    names = set()
    for number in os.listdir(f"/proc/{monitor.pid}/fd"):
        with suppress(FileNotFoundError):
            names.add(os.readlink(f"/proc/{monitor.pid}/fd/{number}"))
    return {name for name in names if name.startswith("/sys/fs/cgroup/") and not re.search(r"/memory\.[a-z_]+$", name)}  # what counts OOM kills


@pytest.fixture
def init(server: Server, bundle: Bundle) -> int:
    bundle.save()
    pid: int = server.call("Create", id="a", bundle=str(bundle.path))["pid"]
    server.call("Start", id="a")
    server.until(lambda: kept(server))
    return pid


def run(server: Server, exec_id: str) -> int:
    server.call("Exec", id="a", exec_id=exec_id, spec=spec("/bin/sleep", "100"))
    pid: int = server.call("Start", id="a", exec_id=exec_id)["pid"]
    return pid


def test_what_is_kept(server: Server, init: int) -> None:
    mine = own_cgroups(init)
    assert mine
    assert kept(server) == {str(path / "tasks" if controllers else path) for controllers, path in mine.items()}
    pid = run(server, "e")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{init}/cgroup").read_text()
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert sorted(os.listdir(f"/proc/{init}/fd")) == ["0", "1", "2"]


def one_of(init: int, controllers: str) -> Path:
    mine = own_cgroups(init).get(controllers)
    if not mine:
        pytest.skip("no hierarchy of that kind")
    return mine


@pytest.fixture
def freezer(init: int) -> Iterator[Path]:
    """One of the container's cgroups, which may be moved."""
    mine = one_of(init, "freezer")
    yield mine
    mine.with_name(mine.name + "-away").rename(mine)


def test_an_exec_enters_by_it(server: Server, init: int, freezer: Path) -> None:
    """A name that leads nowhere is not looked at."""
    freezer.rename(freezer.with_name(freezer.name + "-away"))
    pid = run(server, "e")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{init}/cgroup").read_text()


@pytest.mark.parametrize("controllers", ["freezer", ""])
def test_one_that_was_made_again(server: Server, init: int, controllers: str) -> None:
    """What is kept leads to a cgroup that is gone. Then nothing is kept any more, and execs open what stands there now."""
    mine = one_of(init, controllers)
    (mine.parent / "cgroup.procs").write_text(str(init))
    mine.rmdir()
    mine.mkdir()
    with pytest.raises(ShimError, match=r"no such (device|file)"):
        run(server, "e")
    pid = run(server, "f")
    assert not kept(server)
    assert str(pid) in (mine / "cgroup.procs").read_text().split()
    (mine / "cgroup.procs").write_text(str(init))  # to be found there in the end
