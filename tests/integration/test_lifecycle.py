# SPDX-License-Identifier: Apache-2.0
"""create, start, state, kill, delete: what each may do, and when it must refuse."""

import ctypes
import json
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("containers")


@pytest.mark.v2
def test_life(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.shell("echo hello; sleep 1000"))
    assert container.status == "created"
    assert container.stdout == ""
    container.start()
    assert container.status == "running"
    wait_until(lambda: container.stdout == "hello\n", "the program's output")
    container.kill("KILL")
    assert container.wait() == 137
    assert container.status == "stopped"
    container.delete()
    assert not container.exists()


def test_state_document(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {"org.example.key": "a \"quoted\" value\n\u2603"}
    container = runtime.create(bundle)
    state = container.state()
    assert state["id"] == container.id
    assert state["status"] == "created"
    assert state["bundle"] == str(bundle.path)
    assert state["rootfs"] == str(bundle.rootfs)
    assert state["annotations"] == bundle.config["annotations"]
    assert re.match(r"1\.\d+\.\d+", state["ociVersion"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", state["created"])
    assert Path(f"/proc/{state['pid']}").is_dir()
    container.kill("KILL")
    wait_until(lambda: container.status == "stopped", "the stop")
    assert container.pid == 0


def test_state_has_no_annotations_member_without_annotations(runtime: Runtime, bundle: Bundle) -> None:
    assert "annotations" not in runtime.create(bundle).state()


def test_state_is_stable_text(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    first = runtime("state", container.id)
    assert first.err == ""
    assert first.out == runtime("state", container.id).out
    assert json.loads(first.out)


def test_pid_file_has_the_pid_and_no_newline(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.create(bundle, "--pid-file", place / "pid")
    assert (place / "pid").read_text() == str(container.pid)


def test_create_twice_is_refused_and_harms_nothing(runtime: Runtime, bundle: Bundle, make_bundle: Callable[[], Bundle]) -> None:
    first = runtime.create(bundle)
    second = runtime.create(make_bundle(), id=first.id, check=False)
    assert second.result.code == 1
    assert "container with given ID already exists" in second.stderr
    assert first.status == "created"


def test_start_twice_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    again = container.start(check=False)
    assert again.code == 1
    assert "cannot start an already running container" in again.err
    assert container.status == "running"


def test_start_of_a_stopped_container_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    container.wait()
    again = container.start(check=False)
    assert again.code == 1
    assert "cannot start a container that has stopped" in again.err


def test_start_of_a_container_killed_while_created_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    container.kill("KILL")
    wait_until(lambda: container.status == "stopped", "the stop")
    again = container.start(check=False)
    assert again.code == 1
    assert "cannot start a container that has stopped" in again.err


@pytest.mark.requires("root")
@pytest.mark.ours
def test_who_dies_before_its_start_never_runs(runtime: Runtime, bundle: Bundle) -> None:
    """Its end is held up in the middle, its files closed: as PID 1 it waits for a process of its namespace whose parent, out here, reaps nobody."""
    container = runtime.create(bundle)
    pid = container.pid
    with subprocess.Popen(["nsenter", f"--pid=/proc/{pid}/ns/pid", "sleep", "1000"]) as parent:
        try:
            wait_until(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text, "its child")
            parent.send_signal(signal.SIGSTOP)
            container.kill("KILL")
            wait_until(lambda: not Path(f"/proc/{pid}/cmdline").read_bytes(), "its death")
            time.sleep(0.05)
            assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
            assert container.status == "stopped"
            assert "container not running" in container.kill("TERM", check=False).err
            assert "cannot start a container that has stopped" in container.start(check=False).err
        finally:
            parent.kill()
            parent.send_signal(signal.SIGCONT)
    container.delete()
    assert not container.exists()


def test_created_container_dies_of_sigterm(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    container.kill("TERM")
    wait_until(lambda: container.status == "stopped", "the stop")


def test_kill_default_signal_is_term(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.shell("trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
    wait_until(lambda: "ready" in container.stdout, "the program")
    runtime("kill", container.id)
    assert container.wait() == 3
    assert "got TERM" in container.stdout


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1", "sigusr1", "10"])
def test_kill_signal_spellings(runtime: Runtime, bundle: Bundle, name: str) -> None:
    container = runtime.start_new(bundle.shell("trap 'exit 5' USR1; echo ready; while :; do sleep 0.1; done"))
    wait_until(lambda: "ready" in container.stdout, "the program")
    container.kill(name)
    assert container.wait() == 5


@pytest.mark.parametrize("name", ["NOSUCH", "0x9", "-1", "100"])
def test_kill_unknown_signal_is_refused(runtime: Runtime, bundle: Bundle, name: str) -> None:
    container = runtime.start_new(bundle)
    assert container.kill(name, check=False).code == 1
    assert container.status == "running"


def test_kill_of_a_stopped_container_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    container.wait()
    refused = container.kill("TERM", check=False)
    assert refused.code == 1
    assert "container not running" in refused.err
    assert container.kill("KILL", "--all").code == 0


def test_delete_of_a_running_container_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    refused = container.delete(check=False)
    assert refused.code == 1
    assert f"cannot delete container {container.id} that is not stopped: running" in refused.err
    assert container.status == "running"


def test_delete_force_ends_a_running_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    container.delete("--force")
    assert not container.exists()
    assert container.wait() == 137


def test_delete_of_a_created_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    container.delete()
    assert not container.exists()


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", *(pytest.param(verb, marks=pytest.mark.requires(f"verb:{verb}")) for verb in ("pause", "resume", "ps"))])
def test_unknown_container(runtime: Runtime, verb: str) -> None:
    refused = runtime(verb, "nobody", check=False)
    assert refused.code == 1
    assert "container does not exist" in refused.err
    assert refused.out == ""


def test_delete_force_of_an_unknown_container_is_no_error(runtime: Runtime) -> None:
    assert runtime("delete", "--force", "nobody").code == 0


def test_config_changes_after_create_have_no_effect(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.shell("echo first"))
    bundle.shell("echo second").save()
    container.start()
    container.wait()
    assert container.stdout == "first\n"


def test_bundle_may_vanish_after_start(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    os.rename(bundle.path, bundle.path.with_name("elsewhere"))
    container.stdout_file = bundle.path.with_name("elsewhere") / container.stdout_file.name
    assert container.status == "running"
    container.kill("KILL")
    container.wait()
    container.delete()


def test_pid_1_has_default_signals_and_clean_descriptors(runtime: Runtime, bundle: Bundle) -> None:
    out = runtime.output(bundle, "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; exec ls -l /proc/self/fd")
    masks = dict(line.split(":\t") for line in out.splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) == 0
    numbers = {int(line.split()[-3]) for line in out.splitlines() if "->" in line}
    assert numbers <= {0, 1, 2, 3}  # 3: ls itself reads the directory


def ignore_and_block() -> None:
    """As parents leave it: make ignores 32 and 33, nohup SIGHUP. By the system call: libc keeps two of them for itself."""
    number = {"x86_64": 13, "aarch64": 134}[os.uname().machine]
    for ignored in (signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, 32, 33, 64):
        action = (ctypes.c_ulong * 4)(signal.SIG_IGN)
        if ctypes.CDLL(None).syscall(number, int(ignored), action, None, ctypes.c_long(8)):
            raise OSError(f"signal {ignored} cannot be ignored")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD])


def test_no_signal_of_the_caller_is_ignored_or_blocked(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    hook = [{"path": "/bin/true"}]
    hooks = {"createRuntime": hook, "createContainer": hook, "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", ":"]}]}
    look = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")  # not by a shell, which ignores SIGQUIT
    first, second = make_bundle().args("sleep", "1000"), make_bundle().args(*look)
    first.config["hooks"] = second.config["hooks"] = hooks
    container = runtime.create(first, preexec_fn=ignore_and_block)
    container.start()
    status = Path(f"/proc/{container.pid}/status").read_text()
    seen = [re.findall(r"^Sig(?:Blk|Ign):.*", status, re.MULTILINE)]
    seen += [runtime("exec", container.id, *look, preexec_fn=ignore_and_block).out.splitlines() for _ in range(3)]  # also without a compiler
    seen += [runtime.run(second, preexec_fn=ignore_and_block).out.splitlines()]
    for lines in seen:
        assert [int(line.split()[1], 16) for line in lines] == [0, 0]


def test_container_sees_its_pid_as_1(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.output(bundle, "echo $$") == "1"


def test_many_containers_at_once(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    containers = [runtime.create(make_bundle()) for _ in range(5)]
    assert {container.status for container in containers} == {"created"}
    listed = runtime("list", "-q").out.split()
    assert sorted(listed) == sorted(container.id for container in containers)
    for container in containers:
        container.delete()
    assert runtime("list", "-q").out == ""


def test_list_as_json_and_table(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime("list", check=False).code == 1  # a --root that is not there is an error, as with runc; an empty one is not
    runtime.root.mkdir()
    assert runtime("list", "--format", "json").out.strip() == "null"
    container = runtime.create(bundle)
    (entry,) = runtime("list", "--format", "json").json()
    assert entry["id"] == container.id
    assert entry["status"] == "created"
    assert entry["owner"] == pwd.getpwuid(os.geteuid()).pw_name
    header, row = runtime("list").out.splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[0] == container.id


def test_run_detached(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle, "--detach", verb="run")
    assert container.status == "running"


def test_create_without_process_fails_at_create_or_start(runtime: Runtime, bundle: Bundle) -> None:
    del bundle.config["process"]
    container = runtime.create(bundle, check=False)
    if container.result.code == 0:
        refused = container.start(check=False)
        assert refused.code == 1
        assert "process" in refused.err
        assert container.status == "created"
