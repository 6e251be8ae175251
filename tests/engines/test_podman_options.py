# SPDX-License-Identifier: Apache-2.0
"""Podman: what its options come to inside, and its verbs, in few containers; as an ordinary user too. And Buildah."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.console import read_until
from harness.everybody import USER, install
from harness.runtime import wait_until

from .conftest import LIMITS, Engine, need

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]

INSIDE = """
echo user=$(id -u):$(id -g):$(id -G)
echo open=$(ulimit -n)
for set in CapBnd NoNewPrivs Seccomp; do echo $set=$(sed -n "s/^$set:.//p" /proc/self/status); done
touch /here 2>/dev/null && echo root=writable || echo root=read-only
touch /scratch/here && echo scratch=writable
echo volume=$(cat /data/note)
head -c 4 /dev/other | od -An -tx1
mkdir /tmp/x 2>/dev/null && echo mkdir=allowed || echo mkdir=refused
cat /proc/sys/net/ipv4/ip_unprivileged_port_start
echo host=$(hostname) where=$(pwd) colour=$COLOUR
cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null
true
"""


@pytest.fixture(scope="module")
def strict(podman: Engine, home: Path) -> Iterator[str]:
    """A container with all options at once, that runs."""
    place = home / "strict-podman"
    place.mkdir()
    (place / "note").write_text("hello\n")
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}
    (place / "seccomp.json").write_text(json.dumps(profile))
    podman(
        "run", "-d", *podman.options[:4], "--name", "strict", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cap-drop", "all", "--cap-add", "chown",
        "--read-only", "--tmpfs", "/scratch:size=1m,mode=1777", "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={place}/seccomp.json",
        "--user", "1000:1001", "--group-add", "7", "--ulimit", "nofile=512:512", "--ulimit", "nproc=1024:1024", "--device", "/dev/zero:/dev/other:r",
        "-v", f"{place}:/data:ro", "--hostname", "strict", "--workdir", "/tmp", "-e", "COLOUR=blue", "--sysctl", "net.ipv4.ip_unprivileged_port_start=99",
        "box", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done",
    )  # fmt: skip
    yield "strict"
    podman("rm", "--force", "--time", "0", "strict", check=False)


def state(podman: Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman("inspect", name).stdout)[0]["State"]
    return found


def test_what_it_comes_to_inside(podman: Engine, strict: str) -> None:
    lines = podman("exec", strict, "sh", "-c", INSIDE).stdout.splitlines()
    assert lines[:12] == [
        "user=1000:1001:1001 7",
        "open=512",
        "CapBnd=0000000000000001",
        "NoNewPrivs=1",
        "Seccomp=2",
        "root=read-only",
        "scratch=writable",
        "volume=hello",
        " 00 00 00 00",
        "mkdir=refused",
        "99",
        "host=strict where=/tmp colour=blue",
    ]
    assert [line.split()[0] for line in lines[12:15]] == [str(64 << 20), "50", "50000"]


def test_exec_in_all_ways(podman: Engine, strict: str) -> None:
    assert podman("exec", "--user", "0", "-w", "/data", "-e", "X=y", strict, "sh", "-c", "echo $(id -u) $(pwd) $X").stdout == "0 /data y\n"
    assert podman("exec", "-i", strict, "cat", input="through the pipe").stdout == "through the pipe"
    assert podman("exec", strict, "nosuchprogram", check=False).returncode == 127
    assert podman("exec", strict, "/data", check=False).returncode == 126
    podman("exec", "-d", strict, "sleep", "777")
    wait_until(lambda: "sleep 777" in podman("top", strict, "args").stdout, "the detached exec")


def test_pause_and_stats(podman: Engine, strict: str) -> None:
    found = json.loads(podman("stats", "--no-stream", "--format", "json", strict).stdout)[0]
    assert int(found["pids"]) >= 1 and not found["mem_usage"].startswith("0B")
    podman("pause", strict)
    try:
        assert state(podman, strict)["Status"] == "paused"
        assert podman("exec", strict, "true", check=False).returncode != 0
    finally:
        podman("unpause", strict)
    assert podman("exec", strict, "echo", "again").stdout == "again\n"


def test_stop_start_and_kill(podman: Engine) -> None:
    podman("run", "-d", *podman.options, "--name", "told", "box", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
    try:
        podman("stop", "--time", "10", "told")
        assert (state(podman, "told")["Status"], state(podman, "told")["ExitCode"]) == ("exited", 5)
        podman("start", "told")
        podman("kill", "--signal", "KILL", "told")
        assert podman("wait", "told").stdout.strip() == "137"
        podman("restart", "--time", "0", "told")
        assert state(podman, "told")["Status"] == "running"
    finally:
        podman("rm", "--force", "--time", "0", "told")


def test_out_of_memory(podman: Engine) -> None:
    done = podman.run("--memory", "16m", "--memory-swap", "16m", "box", "sh", "-c", "x=a; while :; do x=$x$x; done")
    assert done.returncode == 137


def test_init_and_pods(podman: Engine) -> None:
    done = podman.run("--pid", "host", "box", "sh", "-c", f"test -d /proc/{os.getpid()} && echo seen")
    assert done.stdout == "seen\n", done.stderr
    name = podman("run", "-d", *podman.options, "--name", "first", "box", "sleep", "1000").stdout.strip()
    try:
        done = podman.run("--pid", f"container:{name}", "--ipc", f"container:{name}", "box", "cat", "/proc/1/cmdline")
        assert done.stdout == "sleep\x001000\x00", done.stderr
    finally:
        podman("rm", "--force", "--time", "0", "first")


def test_a_terminal(podman: Engine) -> None:
    master, slave = pty.openpty()
    argv = [*podman.prefix, "run", "--rm", "-it", *podman.options, "box", "sh", "-c", "tty; read line; echo got $line; exit 9"]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    read_until(master, "/dev/pts/0", 30)
    os.write(master, b"a line\n")
    read_until(master, "got a line", 30)
    assert process.wait(30) == 9
    os.close(master)
    os.close(slave)


# ---- an ordinary user


@pytest.fixture(scope="module")
def rootless(wherry: str, home: Path, archive: Path) -> Iterator[Engine]:
    """Podman as a user with a range of ids, whose accounts stand in files of our own: in a mount namespace, the machine's are not touched."""
    need("podman", "conmon", "newuidmap", "setpriv", "unshare")
    place = home / "user"
    accounts = {"passwd": f"wherry-user:x:{USER}:{USER}::{place}/home:/bin/sh\n", "group": f"wherry-user:x:{USER}:\n"}
    accounts |= dict.fromkeys(("subuid", "subgid"), "wherry-user:300000:65536\n")
    for name in accounts:
        if not Path("/etc", name).exists():
            pytest.skip(f"SKIPPED, LOUDLY: no /etc/{name} on this machine")
    (place / "etc").mkdir(parents=True)
    for name, line in accounts.items():
        old = Path("/etc", name).read_text() if name in ("passwd", "group") else ""
        (place / "etc" / name).write_text(old + line)
    for name in ("home", "run"):
        (place / name).mkdir(mode=0o700)
        os.chown(place / name, USER, USER)
    home.chmod(0o711)
    command = install(wherry, place / "installation")
    binds = "".join(f"mount --bind {place}/etc/{name} /etc/{name} && " for name in accounts)
    script = f'{binds} cd / && exec setpriv --reuid {USER} --regid {USER} --clear-groups -- env HOME={place}/home XDG_RUNTIME_DIR={place}/run "$@"'
    base = ["unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh", "podman", "--root", f"{place}/home/s", "--runroot", f"{place}/run/s",
            "--runtime", str(command), "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "vfs"]  # fmt: skip
    engine = Engine(base, ["--network", "none", "--log-driver", "k8s-file", *LIMITS])
    engine("import", str(archive), "box:latest")
    yield engine
    engine("rm", "--all", "--force", "--time", "0", check=False)
    engine("system", "migrate", check=False)  # ends the process that keeps its user namespace


def test_rootless(rootless: Engine) -> None:
    done = rootless.run("box", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /made; exit 3")
    assert (done.returncode, done.stdout.split()) == (3, ["0", "0", str(USER), "1", "1", "300000", "65536"]), done.stderr
    done = rootless.run("--user", "1000", "--read-only", "--cap-drop", "all", "box", "sh", "-c", "id -u; touch /x 2>/dev/null || echo refused")
    assert done.stdout == "1000\nrefused\n", done.stderr
    assert rootless.run("box", "nosuchprogram").returncode == 127


def test_a_rootless_life(rootless: Engine) -> None:
    rootless("run", "-d", *rootless.options, "--name", "life", "box", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
    try:
        assert rootless("exec", "--user", "7", "life", "id", "-u").stdout == "7\n"
        assert rootless("exec", "life", "sh", "-c", "exit 4", check=False).returncode == 4
        assert "sh" in rootless("top", "life", "args").stdout
        rootless("stop", "--time", "10", "life")
        assert state(rootless, "life")["ExitCode"] == 5
    finally:
        rootless("rm", "--force", "--time", "0", "life", check=False)


def test_a_rootless_terminal(rootless: Engine) -> None:
    master, slave = pty.openpty()
    argv = [*rootless.prefix, "run", "--rm", "-it", *rootless.options, "box", "sh", "-c", "tty; exit 9"]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    read_until(master, "/dev/pts/0", 30)
    assert process.wait(30) == 9
    os.close(master)
    os.close(slave)


# ---- Buildah


def test_buildah(wherry: str, home: Path, archive: Path) -> None:
    need("buildah")
    store = ["--root", f"{home}/buildah", "--runroot", f"{home}/buildah-run", "--storage-driver", "vfs"]
    buildah = Engine(["buildah", *store], ["--runtime", wherry, "--isolation", "oci", "--network", "none", "--cap-drop", "CAP_CHOWN"])
    name = buildah("from", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "scratch").stdout.strip()
    try:
        buildah("add", name, str(archive))
        run = ["run", *buildah.options, name, "--"]
        done = buildah(*run, "sh", "-c", "echo made >/made; cat; id -u; sed -n 's/^CapBnd:.//p' /proc/self/status", input="through the pipe\n")
        words = done.stdout.split()
        assert words[:4] == ["through", "the", "pipe", "0"] and not int(words[4], 16) & 1
        assert buildah(*run, "cat", "/made").stdout == "made\n"
        assert buildah(*run, "sh", "-c", "exit 9", check=False).returncode == 9
        done = buildah(*run, "nosuchprogram", check=False)
        assert done.returncode != 0 and "executable file not found" in done.stderr
        buildah("run", *buildah.options, "--user", "1000", "--volume", f"{home}:/home:ro", name, "--", "test", "-d", "/home/image")
    finally:
        buildah("rm", name)
