# SPDX-License-Identifier: Apache-2.0
"""The command line as an ordinary user: what `spec --rootless` writes runs as it is; exec, pause and update work, or say what mends it."""

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import make_rootfs
from harness.console import read_until
from harness.everybody import USER, as_user, install
from harness.requirements import cgroup_mode
from harness.runtime import wait_until

pytestmark = [pytest.mark.ours, pytest.mark.one_way, pytest.mark.usefixtures("front"), pytest.mark.requires("root", "userns")]

SUBORDINATE = 200000
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def everybodys(command: str, session_directory: Path) -> Path:
    return install(command, session_directory / "everybody")


class Mine:
    """An ordinary user's state directory and bundle."""

    def __init__(self, command: Path, place: Path, before: list[str] | None = None) -> None:
        self.command, self.place, self.before = command, place, before or []
        self.bundle, self.root = place / "bundle", place / "root"
        self.bundle.mkdir()
        make_rootfs(self.bundle / "rootfs", None)
        for top, directories, files in os.walk(place):
            for name in (".", *directories, *files):
                os.chown(os.path.join(top, name), USER, USER, follow_symlinks=False)

    def argv(self, *words: str) -> list[str]:
        return [*self.before, str(self.command), "--root", str(self.root), *words]

    def __call__(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        if self.before:
            done = subprocess.run(self.argv(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        else:
            done = as_user(self.argv(*words))
        assert not check or done.returncode == 0, f"{words}: exit {done.returncode}: {done.stderr}"
        return done

    def spec(self, *args: str, **changes: Any) -> dict[str, Any]:
        """As `spec --rootless` writes it, but for the program and its terminal."""
        self("spec", "--rootless", "--bundle", str(self.bundle))
        file = self.bundle / "config.json"
        config: dict[str, Any] = json.loads(file.read_text())
        config["process"].update(terminal=False, args=list(args))
        config["linux"].update(changes)
        file.write_text(json.dumps(config))
        return config

    def start(self, id: str, *verb: str) -> None:
        with open(self.place / "out", "w") as out:
            argv = self.argv(*(verb or ("run", "--detach")), "--bundle", str(self.bundle), id)
            more: dict[str, Any] = {} if self.before else {"user": USER, "group": USER, "extra_groups": []}
            code = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60, cwd="/", env={"PATH": "/usr/bin:/bin"}, **more).returncode
        assert code == 0, (self.place / "out").read_text()

    def end(self) -> None:
        if self.root.is_dir():
            for entry in self.root.iterdir():
                if not entry.name.startswith("@"):
                    self("delete", "--force", entry.name, check=False)


@pytest.fixture
def mine(everybodys: Path, place: Path, runtime: object) -> Iterator[Mine]:
    mine = Mine(everybodys, place)
    yield mine
    mine.end()


def test_what_spec_writes_runs_as_it_is(mine: Mine) -> None:
    """With its terminal and its shell, at a terminal."""
    mine("spec", "--rootless", "--bundle", str(mine.bundle))
    pid, master = pty.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        os.chdir(mine.bundle)
        os.execve(mine.command, mine.argv("run", "mine"), {"TERM": "xterm"})
    try:
        os.write(master, b"echo $((6*7)) $(id -u) $(hostname); exit 5\n")
        read_until(master, "42 0 wherry", 30)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    finally:
        os.close(master)


def test_a_life(mine: Mine) -> None:
    mine.spec("sh", "-c", "id -u; cat /proc/self/uid_map; exec sleep 1000")
    mine.start("mine")
    wait_until(lambda: "1\n" in (mine.place / "out").read_text(), "the output")
    assert (mine.place / "out").read_text().split() == ["0", "0", str(USER), "1"]
    state = json.loads(mine("state", "mine").stdout)
    assert state["status"] == "running"
    assert f"Uid:\t{USER}\t{USER}" in Path(f"/proc/{state['pid']}/status").read_text()
    assert mine("ps", "-f", "json", "mine").stdout == f"[{state['pid']}]\n"
    mine("kill", "mine", "KILL")
    wait_until(lambda: json.loads(mine("state", "mine").stdout)["status"] == "stopped", "the end")
    mine("delete", "mine")


def test_exec(mine: Mine) -> None:
    mine.spec("sleep", "1000")
    mine.start("mine")
    done = mine("exec", "--env", "A=b", "--cwd", "/tmp", "mine", "sh", "-c", "id -u; id -g; pwd; echo $A; cat /proc/self/uid_map; exit 7", check=False)
    assert (done.returncode, done.stdout.split()) == (7, ["0", "0", "/tmp", "b", "0", str(USER), "1"]), done.stderr
    assert mine("exec", "--user", "0:0", "mine", "true").returncode == 0
    done = mine("exec", "--user", "1:1", "mine", "true", check=False)
    assert done.returncode == 255 and done.stdout == "" and done.stderr.count("\n") == 1


def test_exec_in_one_that_is_created(mine: Mine) -> None:
    mine.spec("sleep", "1000")
    mine.start("mine", "create")
    assert json.loads(mine("state", "mine").stdout)["status"] == "created"
    assert mine("exec", "mine", "id", "-u").stdout == "0\n"
    assert mine("exec", "mine", "readlink", "/proc/1/exe").stdout.startswith("/memfd:")  # nothing of the host
    mine("start", "mine")
    assert mine("exec", "mine", "cat", "/proc/1/comm").stdout == "sleep\n"


@pytest.mark.parametrize("words", [["pause", "mine"], ["update", "--pids-limit", "10", "mine"], ["update", "--memory", "64M", "mine"]])
def test_what_needs_cgroups_says_how_to_get_them(mine: Mine, words: list[str]) -> None:
    if cgroup_mode() == "v2":
        remedy = "systemd-run --user --scope -p Delegate=yes" if Path("/run/systemd/system").is_dir() else f"chown -R {USER}"
    else:
        remedy = "boot with systemd.unified_cgroup_hierarchy=1"
    mine.spec("sleep", "1000")
    mine.start("mine")
    done = mine(*words, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it was made without cgroups of its own" in done.stderr and remedy in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def with_a_tree(everybodys: Path, place: Path, session_directory: Path, runtime: object) -> Iterator[Mine]:
    """A cgroup that belongs to the user, whose processes start in one below it: what delegation is."""
    if cgroup_mode() != "v2":
        pytest.skip("requires cgroup v2")
    tree = Path("/sys/fs/cgroup") / f"{session_directory.name}-{place.name}-user"
    wanted = {"memory", "pids"} & set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
    (tree / "shell").mkdir(parents=True)
    for path in (tree, tree / "shell"):
        for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / name, USER, USER)
    script = f'echo $$ > {tree}/shell/cgroup.procs && cd / && exec setpriv --reuid {USER} --regid {USER} --clear-groups env -i PATH=/usr/bin:/bin "$@"'
    mine = Mine(everybodys, place, ["sh", "-c", script, "sh"])
    yield mine
    mine.end()
    for directory, _, _ in os.walk(tree, topdown=False):
        os.rmdir(directory)


@pytest.mark.v2
def test_with_a_cgroup_tree_of_ones_own(with_a_tree: Mine) -> None:
    """Then pause, update, ps and stats are as for root."""
    mine = with_a_tree
    mine.spec("sleep", "1000", resources={"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    mine.start("mine")
    mine("pause", "mine")
    assert json.loads(mine("state", "mine").stdout)["status"] == "paused"
    mine("resume", "mine")
    mine("update", "--pids-limit", "20", "--memory", "32M", "mine")
    data = json.loads(mine("stats", "mine").stdout)["data"]
    assert data["pids"]["limit"] == 20 and data["memory"]["usage"]["limit"] == 32 << 20 and data["pids"]["current"] == 1
    mine("exec", "mine", "true")
    done = mine("update", "--cpuset-cpus", "0", "mine", check=False)
    assert done.returncode == 1 and "the cpuset controller is not enabled there" in done.stderr and "Delegate=cpu cpuset io memory pids" in done.stderr


@pytest.fixture
def with_subordinate_ids(everybodys: Path, place: Path, runtime: object) -> Iterator[Mine]:
    """In a mount namespace where the user has a name and a range of ids: newuidmap wants both."""
    for name in ("newuidmap", "newgidmap", "unshare", "setpriv"):
        if not shutil.which(name):
            pytest.skip(f"requires {name}")
    for name, line in (("passwd", f"tester:x:{USER}:{USER}::/:/bin/sh"), ("group", f"tester:x:{USER}:"), ("subuid", f"tester:{SUBORDINATE}:65536"), ("subgid", f"tester:{SUBORDINATE}:65536")):
        etc = Path("/etc") / name
        if not etc.exists():
            pytest.skip(f"requires {etc}")
        (place / name).write_text((etc.read_text() if name in ("passwd", "group") else "") + line + "\n")
        (place / name).chmod(0o644)
    binds = "".join(f"mount --bind {place}/{name} /etc/{name} && " for name in ("passwd", "group", "subuid", "subgid"))
    script = f'{binds}cd / && exec setpriv --reuid {USER} --regid {USER} --clear-groups env -i PATH=/usr/bin:/bin "$@"'
    mine = Mine(everybodys, place, ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"])
    yield mine
    mine.end()


def test_with_newuidmap(with_subordinate_ids: Mine) -> None:
    """The same configuration with a range behind the user's own id: other users inside, and what spec leaves out for want of a group."""
    mine = with_subordinate_ids
    maps = [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": SUBORDINATE, "size": 65536}]
    mine.spec("sh", "-c", "cat /proc/self/uid_map; touch /tmp/file; exec sleep 1000", uidMappings=maps, gidMappings=maps)
    config = json.loads((mine.bundle / "config.json").read_text())
    config["root"]["readonly"] = False
    (mine.bundle / "config.json").write_text(json.dumps(config))
    mine.start("mine")
    wait_until(lambda: str(SUBORDINATE) in (mine.place / "out").read_text(), "the output")
    assert (mine.place / "out").read_text().split() == ["0", str(USER), "1", "1", str(SUBORDINATE), "65536"]
    done = mine("exec", "--user", "1000:1000", "mine", "id", "-u")
    assert done.stdout == "1000\n"
    done = mine("exec", "--user", "1000:1000", "--additional-gids", "5", "mine", "sh", "-c", "id -G; touch /tmp/theirs")
    assert set(done.stdout.split()) == {"1000", "5"}
    assert (mine.bundle / "rootfs/tmp/theirs").stat().st_uid == SUBORDINATE + 999
    assert (mine.bundle / "rootfs/tmp/file").stat().st_uid == USER


def test_doctor_tries_newuidmap(with_subordinate_ids: Mine) -> None:
    found = json.loads(with_subordinate_ids("doctor", "--json").stdout)
    status = {finding["name"]: finding["status"] for finding in found["findings"] if finding["group"] == "users"}
    assert status == {"subordinate ids": "ok", "newuidmap": "ok"}


def test_where_containers_are_kept_is_said(everybodys: Path, place: Path) -> None:
    """Without XDG_RUNTIME_DIR it is root's directory, which is not theirs."""
    make_rootfs(place / "rootfs", None)
    done = as_user([str(everybodys), "run", "--rootfs", str(place / "rootfs"), "--", "true"])
    assert done.returncode == 1
    assert "--root /run/wherry: " in done.stderr and "wherry --root DIR, or XDG_RUNTIME_DIR" in done.stderr
