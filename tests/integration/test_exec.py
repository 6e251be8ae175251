# SPDX-License-Identifier: Apache-2.0
"""exec: one more process in a container, with all that makes it part of the container, and nothing that is not."""

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.cgroup import memberships
from harness.console import Receiver, read_until
from harness.requirements import cgroup_mode
from harness.runtime import Container, Runtime, reap, wait_until

pytestmark = pytest.mark.requires("containers")

PROCESS: dict[str, Any] = {
    "args": ["sh", "-c", "echo from a file"],
    "cwd": "/tmp",
    "env": ["PATH=/bin", "A=1"],
    "user": {"uid": 0, "gid": 0},
}


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle) -> Container:
    return runtime.start_new(bundle)


def exec_(container: Container, *words: str | Path, check: bool = True, **more: Any) -> Any:
    """exec with the flags before the first "--" and the command behind it."""
    at = words.index("--")
    return container.runtime("exec", *words[:at], container.id, *words[at + 1 :], check=check, **more)


def detached(container: Container, place: Path, *words: str | Path) -> int:
    """A detached exec; the pid of its process, whose output goes nowhere."""
    at = words.index("--")
    argv = container.runtime.argv("exec", "-d", "--pid-file", place / "pid", *words[:at], container.id, *words[at + 1 :])
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=30, env=container.runtime.env, check=True)
    pid = int((place / "pid").read_text())
    DETACHED.append(pid)
    return pid


DETACHED: list[int] = []


@pytest.fixture(autouse=True)
def parent(runtime: Runtime) -> Iterator[None]:
    """Detached processes are our children, and the first process of their pid namespace cannot end before they are reaped."""
    yield
    while DETACHED:
        with suppress(ProcessLookupError, ChildProcessError):
            pid = DETACHED.pop()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def shell(container: Container, script: str, *flags: str | Path) -> str:
    return str(exec_(container, *flags, "--", "sh", "-c", script).out).strip()


def status(container: Container, *flags: str | Path) -> dict[str, str]:
    text = shell(container, "cat /proc/self/status", *flags)
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def process_file(place: Path, **changes: Any) -> Path:
    path = place / "process.json"
    path.write_text(json.dumps({**PROCESS, **changes}))
    return path


# ---- where it is


@pytest.mark.v2
def test_output_and_exit_code(container: Container) -> None:
    result = exec_(container, "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (result.out, result.err, result.code) == ("out\n", "err\n", 7)


def test_arguments_without_number(container: Container) -> None:
    """As many as the kernel takes come to the program: a list of file names that was cut short would be another command."""
    numbers = [str(number) for number in range(10_000)]
    assert exec_(container, "--", "sh", "-c", "echo $# $(eval echo \\${$#})", "sh", *numbers).out == "10000 9999\n"


@pytest.mark.v2
def test_same_namespaces_and_cgroups(container: Container, place: Path) -> None:
    pid = detached(container, place, "--", "sleep", "1000")
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{container.pid}/ns/{name}"), name
    assert memberships(pid) == memberships(container.pid)


def test_it_is_in_the_tree_of_the_container(container: Container) -> None:
    assert shell(container, "hostname; cat /proc/1/comm; pwd") == "wherry\nsleep\n/"


@pytest.mark.requires("root")
@pytest.mark.ours
@pytest.mark.parametrize("user", [0, 1000])
def test_pipes_on_stdio_belong_to_a_user_namespace(runtime: Runtime, bundle: Bundle, user: int) -> None:
    """/dev/stdout can be opened again. The host's /dev/null on stdin, and a file of the host's, stay whose they are; again: the cached plan."""
    container = runtime.start_new(bundle.user_namespace())
    script = "echo again >/dev/stdout && stat -L -c %u /proc/self/fd/1 && stat -L -c %u /proc/self/fd/2"
    for _ in range(3):
        with open("/dev/null") as null:
            argv = container.runtime.argv("exec", "--user", f"{user}:{user}", container.id, "sh", "-c", script)
            result = subprocess.run(argv, stdin=null, capture_output=True, text=True, timeout=30, env=container.runtime.env)
        assert result.stdout.split() == ["again", str(user), str(user)], result.stderr
        assert (os.stat("/dev/null").st_uid, os.stat("/dev/null").st_gid) == (0, 0)
    with open(bundle.path / "out", "w") as out:
        argv = container.runtime.argv("exec", container.id, "true")
        assert subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, timeout=30, env=container.runtime.env).returncode == 0
    assert os.stat(bundle.path / "out").st_uid == 0


@pytest.mark.requires("root")
@pytest.mark.v2
def test_a_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.user_namespace())
    assert shell(container, "id -u; cat /proc/self/uid_map").split() == ["0", "0", "100000", "65536"]
    assert status(container)["Uid"].split() == ["0"] * 4
    assert status(container, "--user", "5:6")["Gid"].split() == ["6"] * 4


@pytest.mark.requires("root")
def test_in_a_created_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    assert shell(container, "echo early") == "early"
    assert container.status == "created"


@pytest.mark.requires("root")
def test_namespaces_that_the_container_joined(runtime: Runtime, bundle: Bundle, container: Container) -> None:
    second = Bundle(bundle.path.parent / "second", json.loads(json.dumps(bundle.config)), None)
    second.linux["cgroupsPath"] += "-second"
    second.namespace("network", f"/proc/{container.pid}/ns/net").namespace("pid", f"/proc/{container.pid}/ns/pid")
    other = runtime.start_new(second)
    assert "sleep 1000" in shell(other, "ps -o args")
    assert os.readlink(f"/proc/{container.pid}/ns/net") == shell(other, "readlink /proc/self/ns/net")


def one_user(bundle: Bundle) -> None:
    bundle.user_namespace()


def a_clock_of_its_own(bundle: Bundle) -> None:
    bundle.namespace("time").linux["timeOffsets"] = {"monotonic": {"secs": 7_000_000}}


def shared_processes(bundle: Bundle) -> None:
    bundle.without_namespace("pid")


def mounts_and_a_name(bundle: Bundle) -> None:
    bundle.linux["namespaces"] = [{"type": "mount"}, {"type": "uts"}]


def an_init_that_leaves(bundle: Bundle) -> None:
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = [*bundle.process["capabilities"][kind], "CAP_SYS_ADMIN"]
    bundle.without_namespace("ipc").shell("exec /bin/busybox unshare -m -u -i -n sleep 1000")


@pytest.mark.requires("root")
@pytest.mark.v2
@pytest.mark.parametrize("change", [one_user, a_clock_of_its_own, shared_processes, mounts_and_a_name, an_init_that_leaves], ids=lambda change: change.__name__)
def test_all_that_init_lives_in(runtime: Runtime, bundle: Bundle, place: Path, change: Callable[[Bundle], None]) -> None:
    """By the compiled plan, and by the kept one."""
    if change is a_clock_of_its_own and not os.path.exists("/proc/self/ns/time"):
        pytest.skip("requires a kernel with time namespaces")
    change(bundle)
    container = runtime.start_new(bundle)
    if change is an_init_that_leaves:
        wait_until(lambda: os.readlink(f"/proc/{container.pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc"), "its own namespaces")
    names = [name for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children")]
    for number in range(3):
        place.joinpath("pid").unlink(missing_ok=True)
        pid = detached(container, place, "--", "sleep", "1000")
        for name in names:
            assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{container.pid}/ns/{name}"), (number, name)
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]


@pytest.mark.requires("root")
@pytest.mark.ours
def test_an_init_without_its_main_thread(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    """It lives, and has no namespaces that could be joined: it is not said to have stopped."""
    if not shutil.which("cc"):
        pytest.skip("requires a C compiler")
    source = '#include <pthread.h>\n#include <unistd.h>\nstatic void *stay(void *p) { pause(); return p; }\n'
    source += "int main(void) { pthread_t t; pthread_create(&t, 0, stay, 0); pthread_exit(0); }\n"
    argv = ["cc", "-static", "-pthread", "-x", "c", "-", "-o", bundle.rootfs / "threads"]
    subprocess.run(argv, input=source, text=True, check=True)
    container = runtime.start_new(bundle.args("/threads"))
    wait_until(lambda: Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "the end of the main thread")
    failed = exec_(container, "--", "true", check=False)
    assert failed.code != 0 and "its main thread has ended" in failed.err and "stopped" not in failed.err
    assert container.status == "running"


# ---- states


def test_refused_on_a_stopped_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    wait_until(lambda: container.status == "stopped", "the end")
    result = exec_(container, "--", "true", check=False)
    assert result.code == 255 and "exec failed: cannot exec in a stopped container" in result.err


def test_an_unknown_container(runtime: Runtime) -> None:
    result = runtime("exec", "nobody", "true", check=False)
    assert result.code == 255 and "does not exist" in result.err


@pytest.fixture
def paused(container: Container) -> Any:
    """The container, frozen by its cgroup."""
    freezer = freezer_of(container)
    v2 = freezer.name == "cgroup.freeze"
    freezer.write_text("1" if v2 else "FROZEN")
    wait_until(lambda: container.status == "paused", "the freezer")
    yield container
    freezer.write_text("0" if v2 else "THAWED")


def freezer_of(container: Container) -> Path:
    path = memberships(container.pid).get("freezer")
    if path is None or cgroup_mode() == "v2":
        return Path("/sys/fs/cgroup" + memberships(container.pid)[""]) / "cgroup.freeze"
    return Path("/sys/fs/cgroup/freezer" + path) / "freezer.state"


@pytest.mark.requires("root")
@pytest.mark.v2
def test_refused_on_a_paused_container(paused: Container) -> None:
    result = exec_(paused, "--", "true", check=False)
    assert result.code == 255
    assert "cannot exec in a paused container (use --ignore-paused to override)" in result.err


@pytest.mark.requires("root")
@pytest.mark.v2
def test_ignore_paused_waits_for_the_end_of_the_pause(paused: Container) -> None:
    freezer = freezer_of(paused)
    thaw = threading.Timer(0.5, freezer.write_text, ["0" if freezer.name == "cgroup.freeze" else "THAWED"])
    thaw.start()
    begun = time.monotonic()
    assert exec_(paused, "--ignore-paused", "--", "echo", "thawed").out == "thawed\n"
    assert time.monotonic() - begun > 0.4
    thaw.join()


# ---- failures


@pytest.mark.v2
@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nonexistent", 'exec: "nonexistent": executable file not found in $PATH'),
        ("/no/such", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "is a directory"),
    ],
)
@pytest.mark.ours
def test_a_program_that_cannot_be_executed(container: Container, place: Path, program: str, text: str) -> None:
    for flags in ((), ("--detach",)):
        result = exec_(container, *flags, "--pid-file", place / "pid", "--", program, check=False)
        assert result.code == 255 and text in result.err
        assert result.err.startswith("exec failed: ") and result.err.count("\n") == 1
        assert not (place / "pid").exists()


@pytest.mark.ours
def test_what_only_execve_finds_out(container: Container, place: Path) -> None:
    """After the process was published: its pid file is taken back."""
    script = container.in_mount_namespace("/tmp/bad")
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = exec_(container, "--detach", "--pid-file", place / "pid", "--", "/tmp/bad", check=False)
    assert result.code == 255 and "no such file or directory" in result.err
    assert not (place / "pid").exists()


def test_a_missing_working_directory_is_not_made(container: Container) -> None:
    result = exec_(container, "--cwd", "/no/such", "--", "true", check=False)
    assert result.code == 255 and "chdir to cwd" in result.err
    assert not container.in_mount_namespace("/no").exists()


@pytest.mark.ours
def test_a_working_directory_outside(container: Container) -> None:
    for cwd in ("/proc/self/fd/7", "/proc/1/root"):
        result = exec_(container, "--cwd", cwd, "--", "true", check=False)
        assert result.code == 255, cwd


@pytest.mark.ours
def test_no_command(container: Container) -> None:
    result = exec_(container, "--", check=False)
    assert result.code == 255 and "process args cannot be empty" in result.err


@pytest.mark.ours
def test_a_directory_in_place_of_the_pid_file(container: Container, place: Path) -> None:
    result = exec_(container, "--detach", "--pid-file", place / "none" / "pid", "--", "sleep", "1000", check=False)
    assert result.code == 255 and "--pid-file" in result.err
    assert "sleep 1000" not in shell(container, "ps -o args | grep -v ^sleep.1000$")


# ---- flags


def test_working_directory_and_environment(container: Container) -> None:
    text = shell(container, "pwd; echo $A$B; echo $TERM; echo $HOME", "--cwd", "/tmp", "-e", "A=1", "--env", "B=2")
    assert text.split() == ["/tmp", "12", "xterm", "/root"]


@pytest.mark.requires("root")
def test_home_is_the_users(container: Container) -> None:
    assert shell(container, "echo $HOME", "--user", "1000") == "/home/user"


@pytest.mark.requires("root")
@pytest.mark.parametrize(("given", "uid", "gid"), [("1000", "1000", "0"), ("1", "1", "0"), ("1:7", "1", "7"), ("0:7", "0", "7")])
def test_user(container: Container, given: str, uid: str, gid: str) -> None:
    seen = status(container, "-u", given)
    assert seen["Uid"].split() == [uid] * 4 and seen["Gid"].split() == [gid] * 4


@pytest.mark.parametrize("given", ["user", "-1", "1:", ":1", "1:x", "4294967295", "1:4294967295", "4294967296", " 1", "\u0661", "1000:1000:1000"])
@pytest.mark.ours
def test_a_user_that_is_no_number(container: Container, given: str) -> None:
    """Nor an id: the last number would leave the ids as they are, root's."""
    result = exec_(container, f"--user={given}", "--", "id", check=False)
    assert result.code == 255 and result.out == "" and "for flag -user: not an id" in result.err


@pytest.mark.requires("root")
def test_additional_groups(container: Container) -> None:
    assert sorted(map(int, status(container, "-g", "10", "-g", "20")["Groups"].split())) == [10, 20]


def test_capabilities_are_those_of_the_container(container: Container) -> None:
    one = dict(line.split(":\t", 1) for line in Path(f"/proc/{container.pid}/status").read_text().splitlines() if ":\t" in line)
    mine = status(container)
    for row in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs"):
        assert mine[row].strip() == one[row].strip(), row


def test_one_more_capability(container: Container) -> None:
    before, after = status(container), status(container, "--cap", "CAP_SYS_NICE")
    for row in ("CapBnd", "CapPrm", "CapEff"):
        assert int(after[row], 16) == int(before[row], 16) | 1 << 23, row
    assert int(after["CapInh"], 16) == int(after["CapAmb"], 16) == 0


@pytest.mark.requires("root")
def test_capabilities_of_another_user(container: Container) -> None:
    seen = status(container, "--user", "1000", "--cap", "CAP_SYS_NICE")
    assert int(seen["CapEff"], 16) == 0 and int(seen["CapInh"], 16) == 0


def test_no_new_privileges(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["noNewPrivileges"] = False
    container = runtime.start_new(bundle)
    assert status(container)["NoNewPrivs"] == "0"
    assert status(container, "--no-new-privs")["NoNewPrivs"] == "1"


def test_rlimits_umask_and_oom_score_are_the_containers(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}]
    bundle.process["oomScoreAdj"] = 321
    bundle.process["user"]["umask"] = 0o27
    container = runtime.start_new(bundle)
    assert shell(container, "ulimit -n; cat /proc/self/oom_score_adj; umask").split() == ["512", "321", "0027"]


def test_the_filter_of_the_container(runtime: Runtime, bundle: Bundle) -> None:
    names = ["mkdir", "mkdirat"]
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
    container = runtime.start_new(bundle)
    result = exec_(container, "--", "mkdir", "/tmp/x", check=False)
    assert result.code == 1 and "not supported" in result.err


def test_the_commands_own_flags(container: Container) -> None:
    assert exec_(container, "--", "echo", "-d", "--cwd", "--", "x").out == "-d --cwd -- x\n"
    assert container.runtime("exec", container.id, "--", "echo", "y").out == "y\n"


# ---- --process


@pytest.mark.v2
def test_process_file(container: Container, place: Path) -> None:
    result = exec_(container, "--process", process_file(place), "--")
    assert result.out == "from a file\n"


@pytest.mark.requires("root")
def test_process_file_says_all(container: Container, place: Path) -> None:
    file = process_file(place, args=["sh", "-c", "pwd; env; id -u; id -g"], user={"uid": 7, "gid": 8, "additionalGids": [9]})
    lines = exec_(container, "-p", file, "--").out.split()
    assert lines[0] == "/tmp" and lines[-2:] == ["7", "8"]
    assert {"PATH=/bin", "A=1", "HOME=/"} <= set(lines) and "TERM=xterm" not in lines


@pytest.mark.ours
def test_process_file_takes_capabilities_and_limits_of_the_container(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}]
    container = runtime.start_new(bundle)
    text = exec_(container, "-p", process_file(place, args=["sh", "-c", "ulimit -n; grep CapEff /proc/self/status"]), "--").out
    assert text.split()[0] == "512" and int(text.split()[2], 16) == int(status(container)["CapEff"], 16)


def test_process_file_with_capabilities_of_its_own(container: Container, place: Path) -> None:
    sets = {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}
    text = exec_(container, "-p", process_file(place, args=["grep", "Cap", "/proc/self/status"], capabilities=sets), "--").out
    assert [int(line.split()[1], 16) for line in text.splitlines()] == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("content", "text"),
    [("{", "json"), ('{"args": [], "cwd": "/"}', "args"), ('{"args": ["a"], "cwd": "here", "user": {"uid": 0, "gid": 0}}', "cwd")],
)
@pytest.mark.ours
def test_a_process_file_that_is_wrong(container: Container, place: Path, content: str, text: str) -> None:
    (place / "p.json").write_text(content)
    result = exec_(container, "-p", place / "p.json", "--", check=False)
    assert result.code == 255 and text in result.err.lower()


def test_a_process_file_that_is_not_there(container: Container) -> None:
    result = exec_(container, "-p", "/no/such.json", "--", check=False)
    assert result.code == 255 and "/no/such.json: no such file or directory" in result.err


def test_cpu_affinity(container: Container, place: Path) -> None:
    wanted = min(os.sched_getaffinity(0))
    file = process_file(place, args=["grep", "Cpus_allowed_list", "/proc/self/status"], execCPUAffinity={"initial": str(wanted), "final": str(wanted)})
    assert exec_(container, "-p", file, "--").out.split()[1] == str(wanted)


# ---- descriptors, sockets, terminals


def test_no_descriptor_but_stdio(container: Container) -> None:
    assert exec_(container, "--", "ls", "/proc/self/fd").out.split() == ["0", "1", "2", "3"]  # 3 is the directory itself


def test_preserved_descriptors(container: Container, place: Path) -> None:
    (place / "given").write_text("through 3")
    with open(place / "given") as file:
        # the harness passes what it is told, at its own number: here 3 has to be it
        saved = fcntl.fcntl(3, fcntl.F_DUPFD_CLOEXEC, 10) if os.path.exists("/proc/self/fd/3") else -1
        os.dup2(file.fileno(), 3)
        try:
            result = exec_(container, "--preserve-fds", "1", "--", "sh", "-c", "cat <&3", pass_fds=(3,))
        finally:
            if saved >= 0:
                os.dup2(saved, 3, inheritable=False)
                os.close(saved)
    assert result.out == "through 3"


@pytest.mark.v2
def test_a_terminal_over_the_console_socket(container: Container, place: Path) -> None:
    receiver = Receiver(place / "console")
    script = "tty; test -t 0 && echo terminal; exec sleep 1000"
    pid = detached(container, place, "--tty", "--console-socket", receiver.path, "--", "sh", "-c", script)
    master, _ = receiver.receive()
    receiver.close()
    try:
        assert "/dev/pts/" in read_until(master, "terminal")
        assert os.stat(f"/proc/{pid}/fd/0").st_rdev == os.stat(f"/proc/{pid}/fd/1").st_rdev
    finally:
        os.close(master)


def test_the_consoles_of_container_and_exec_are_two(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.process["terminal"] = True
    receiver = Receiver(place / "console")
    container = runtime.create(bundle, "--console-socket", receiver.path)
    first, _ = receiver.receive()
    container.start()
    before = container.in_mount_namespace("/dev/console").stat().st_rdev
    receiver.close()
    again = Receiver(place / "again")
    detached(container, place, "-t", "--console-socket", again.path, "--", "sleep", "1000")
    second, _ = again.receive()
    again.close()
    assert container.in_mount_namespace("/dev/console").stat().st_rdev == before
    os.close(first)
    os.close(second)


def test_terminal_and_socket_must_fit(container: Container, place: Path) -> None:
    result = exec_(container, "-d", "-t", "--", "true", check=False)
    assert result.code == 255 and "cannot allocate tty if" in result.err
    result = exec_(container, "--console-socket", place / "s", "--", "true", check=False)
    assert result.code == 255 and "cannot use console socket if" in result.err


@pytest.mark.v2
def test_an_attached_terminal(container: Container) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, 0x5414, b"\x21\x00\x4d\x00\x00\x00\x00\x00")  # TIOCSWINSZ: 33 rows, 77 columns
    process = subprocess.Popen(container.runtime.argv("exec", "-t", container.id, "sh", "-c", "stty size; read line; echo got $line; exit 9"),
                               stdin=slave, stdout=slave, stderr=slave, env=container.runtime.env)  # fmt: skip
    os.close(slave)
    read_until(master, "33 77")
    os.write(master, b"words\r")
    read_until(master, "got words")
    assert process.wait(10) == 9
    os.close(master)


@pytest.mark.v2
def test_pidfd_socket(container: Container, place: Path) -> None:
    receiver = Receiver(place / "pidfd")
    pid = detached(container, place, "--pidfd-socket", receiver.path, "--", "sleep", "1000")
    pidfd, _ = receiver.receive()
    receiver.close()
    assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)


# ---- attached


@pytest.mark.v2
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_signals_are_passed_on(container: Container, name: str) -> None:
    script = f"trap 'exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    process = container.runtime.popen("exec", container.id, "sh", "-c", script)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[f"SIG{name}"])
    assert process.wait(10) == 7
    process.communicate()


def test_the_end_by_a_signal(container: Container) -> None:
    assert exec_(container, "--", "sh", "-c", "kill -KILL $$", check=False).code == 137
    assert exec_(container, "--", "sh", "-c", "kill -TERM $$", check=False).code == 143


def test_the_end_of_the_container_ends_it(container: Container) -> None:
    process = container.runtime.popen("exec", container.id, "sh", "-c", "echo ready; sleep 1000")
    assert process.stdout and process.stdout.readline() == "ready\n"
    container.kill("KILL")
    assert process.wait(10) == 137
    process.communicate()


@pytest.mark.ours
def test_no_interpreter_stays_beside_it(container: Container) -> None:
    process = container.runtime.popen("exec", container.id, "sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout and process.stdout.readline() == "ready\n"
    wait_until(lambda: Path(f"/proc/{process.pid}/cmdline").read_text().startswith("wherry-attend"), "the attendant")
    assert "memfd" in os.readlink(f"/proc/{process.pid}/exe")
    process.terminate()
    process.communicate(timeout=10)


def test_a_detached_process_is_its_callers(container: Container, place: Path) -> None:
    """Once the runtime has ended: its subreaper's child, here ours."""
    pid = detached(container, place, "--", "sh", "-c", "exit 5")
    assert os.waitstatus_to_exitcode(reap(pid, 10)) == 5


def test_input(container: Container) -> None:
    assert exec_(container, "--", "cat", input="through stdin").out == "through stdin"


# ---- cgroups


@pytest.mark.requires("root")
@pytest.mark.v2
def test_a_cgroup_below(container: Container, place: Path) -> None:
    names = list(memberships(container.pid))
    made = []
    for name in names:
        mount = "/sys/fs/cgroup" + (f"/{name.removeprefix('name=')}" if name else "/unified" if cgroup_mode() != "v2" else "")
        below = Path(mount + memberships(container.pid)[name]) / "below"
        if below.parent.is_dir() and below.parent != Path(mount):
            below.mkdir(exist_ok=True)
            made.append((name, below))
            if name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (below / file).write_text((below.parent / file).read_text())
    seen = memberships(detached(container, place, "--cgroup", "below", "--", "sleep", "1000"))
    for name, _ in made:
        assert seen[name].endswith("/below"), name


def test_a_cgroup_that_is_not_below(container: Container) -> None:
    for path in ("..", "../other", "a/../../b", "/../x"):
        result = exec_(container, "--cgroup", path, "--", "true", check=False)
        assert result.code == 255 and "sub cgroup" in result.err
    assert exec_(container, "--cgroup", "no-such", "--", "true", check=False).code == 255


@pytest.mark.requires("cgroup-v2")
@pytest.mark.v2
def test_a_container_that_hands_controllers_down(container: Container, place: Path) -> None:
    """As systemd does it: the container's own cgroup takes no process any more, so it goes where init is."""
    own = Path("/sys/fs/cgroup" + memberships(container.pid)[""])
    inner = own / "init.scope"
    inner.mkdir()
    (inner / "cgroup.procs").write_text(str(container.pid))
    (own / "cgroup.subtree_control").write_text("+pids")
    assert memberships(detached(container, place, "--", "sleep", "1000"))[""].endswith("/init.scope")


@pytest.mark.requires("root")
@pytest.mark.ours  # from runc 1.2 on
def test_a_capability_that_is_inheritable_is_passed_on(runtime: Runtime, bundle: Bundle) -> None:
    sets = bundle.process["capabilities"]
    sets["bounding"], sets["inheritable"] = [*sets["bounding"], "CAP_SYS_NICE"], ["CAP_SYS_NICE"]
    seen = status(runtime.start_new(bundle), "--user", "1000", "--cap", "CAP_SYS_NICE")
    assert int(seen["CapAmb"], 16) == int(seen["CapEff"], 16) == 1 << 23


@pytest.mark.requires("root")
def test_missing_interpreter(container: Container) -> None:
    script = container.bundle.rootfs / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    failed = container.runtime("exec", container.id, "/script", check=False)
    assert failed.code == 255 or container.runtime.name != "wherry"
    assert "exec /script: no such file or directory" in failed.err
