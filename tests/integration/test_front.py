# SPDX-License-Identifier: Apache-2.0
"""The front answers the common path without an interpreter: strace sees none, and it works where there is none."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.console import Receiver, read_until
from harness.runtime import Container, Result, Runtime, reap, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours, pytest.mark.one_way]


def executed(runtime: Runtime, log: Path, *words: str) -> list[str]:
    """The files that a verb executes."""
    argv = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=execve,execveat", *runtime.argv(*words)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, env=runtime.env)
    assert done.returncode == 0, done.stderr
    return re.findall(r'execve(?:at)?\((?:\d+, )?"([^"]*)"', log.read_text())


@pytest.mark.one_way
@pytest.mark.requires("command:strace")
def test_strace_sees_no_interpreter(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.create(bundle)
    container.known_pid = container.pid
    log = place / "strace"
    for words in (["state"], ["start"], ["kill", "KILL"]):
        assert executed(runtime, log, words[0], container.id, *words[1:]) == [runtime.command], words
    container.wait()
    assert executed(runtime, log, "delete", container.id) == [runtime.command]


@pytest.mark.requires("command:strace")
def test_strace_sees_the_interpreter_where_python_answers(runtime: Runtime, place: Path) -> None:
    """That the look above is not blind."""
    files = executed(runtime, place / "strace", "features")
    assert any("python" in file for file in files)


def test_a_whole_life_without_python(alone: Runtime, runtime: Runtime, bundle: Bundle) -> None:
    runtime.create(bundle).delete()  # compiles; the next one is in the cache
    container = alone.create(bundle)
    assert container.status == "created"
    container.start()
    assert container.status == "running"
    container.kill("TERM")
    container.kill("KILL")
    assert container.wait() == 137
    assert container.status == "stopped"
    container.delete()
    assert not container.exists()


def test_another_configuration_needs_python(alone: Runtime, runtime: Runtime, bundle: Bundle) -> None:
    runtime.create(bundle).delete()
    bundle.config["hostname"] = "another"
    container = alone.create(bundle, check=False)
    assert container.result.code == 1
    assert "wherry-python" in container.stderr
    assert not container.exists()


def test_the_third_container_of_a_kind_needs_none(alone: Runtime, runtime: Runtime, bundle: Bundle, place: Path) -> None:
    """What an engine varies from container to container is filled into the plan that the second one has left."""
    script = "hostname; echo $TOKEN; cat /data/name"

    def container_of(name: str) -> None:
        (place / name).mkdir()
        (place / name / "name").write_text(f"{name}\n")
        bundle.config["hostname"] = f"box-{name}"
        bundle.config["process"]["env"] = ["PATH=/bin", f"TOKEN=token-{name}"]
        bundle.config["annotations"] = {"io.example.name": name}
        bundle.config["mounts"] = [*mounts, {"destination": "/data", "source": str(place / name), "options": ["bind"]}]
        bundle.shell(script)

    mounts = bundle.config["mounts"]
    for name in ("first", "second"):
        container_of(name)
        runtime.run(bundle)
    container_of("third")
    done = alone.run(bundle)
    assert done.out == "box-third\ntoken-third\nthird\n"
    container_of("fourth")
    container = alone.create(bundle)
    state = json.loads(runtime("state", container.id).out)
    assert state["annotations"] == {"io.example.name": "fourth"}
    container.delete("--force")


def test_an_attached_run_without_python(alone: Runtime, runtime: Runtime, bundle: Bundle) -> None:
    bundle.shell("echo hello; exit 9")
    assert runtime.run(bundle, check=False).code == 9
    done = alone.run(bundle, check=False)
    assert (done.code, done.out) == (9, "hello\n")


def processes_below(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *[deeper for child in children for deeper in processes_below(child)]]


@pytest.mark.parametrize("cached", [False, True])
def test_no_interpreter_lives_beside_an_attached_run(runtime: Runtime, bundle: Bundle, cached: bool) -> None:
    if cached:
        runtime.create(bundle).delete()
    container = Container(runtime, runtime.new_id(), bundle.save())
    runtime.containers.append(container)
    with runtime.popen("run", "--bundle", bundle.path, container.id) as process:
        wait_until(lambda: container.exists() and runtime("state", container.id, check=False).out.find('"running"') > 0, "the program")
        wait_until(lambda: "python" not in os.readlink(f"/proc/{process.pid}/exe"), "Python to become the attendant")
        names = [os.readlink(f"/proc/{pid}/exe") for pid in processes_below(process.pid)]
        assert len(names) == 2  # the attendant and init
        assert not any("python" in name for name in names), names
        container.kill("KILL")
        assert process.wait(10) == 137


# ---- exec


def exec_(runtime: Runtime, container: Container, *words: str | Path, check: bool = True) -> Result:
    at = words.index("--")
    return runtime("exec", *words[:at], container.id, *words[at + 1 :], check=check)


def process_file(place: Path, script: str, **more: Any) -> Path:
    document = {"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin", "A=1"], "user": {"uid": 0, "gid": 0}, **more}
    (place / "process.json").write_text(json.dumps(document))
    return place / "process.json"


def test_an_exec_like_one_before(alone: Runtime, runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    flags = ("--cwd", "/tmp", "-u", "5:6", "--env")
    script = "echo $0 $A $(pwd) $(id -u) $(id -g); exit 3"
    for number in range(2):
        assert exec_(runtime, container, *flags, f"A={number}", "--", "sh", "-c", script, check=False).code == 3
    done = exec_(alone, container, *flags, "A=some words", "--", "sh", "-c", script, "name", check=False)
    assert "wherry-python" in done.err  # one argument more is another kind
    done = exec_(alone, container, *flags, "A=some words", "--", "sh", "-c", script + " ", check=False)
    assert (done.code, done.out) == (3, "sh some words /tmp 5 6\n")
    # the flags in another order, and in their other forms
    done = exec_(alone, container, "--env=A=b", "--user=5:6", "-cwd=/tmp", "--", "sh", "-c", script, check=False)
    assert (done.code, done.out) == (3, "sh b /tmp 5 6\n")
    for other in (("--cwd", "/"), ("--env", "B=1"), ("-u", "5")):
        assert "wherry-python" in exec_(alone, container, *other, "--", "sh", "-c", script, check=False).err
    assert "wherry-python" in exec_(alone, container, *flags, "A=\"", "--", "sh", "-c", script, check=False).err


def test_an_exec_by_process_file(alone: Runtime, runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.start_new(bundle)
    for text in ("one", "two"):
        assert exec_(runtime, container, "--process", process_file(place, f"echo {text}"), "--").out == f"{text}\n"
    assert exec_(alone, container, "-p", process_file(place, "echo three; id -u"), "--").out == "three\n0\n"
    changed = process_file(place, "echo three", noNewPrivileges=True)
    assert "wherry-python" in exec_(alone, container, "-p", changed, "--", check=False).err


def test_a_detached_exec(alone: Runtime, runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.start_new(bundle)
    words = ("-d", "--pid-file", place / "pid", "--", "sh", "-c", "exit 4")
    for by in (runtime, runtime, alone):
        exec_(by, container, *words)
        assert os.waitstatus_to_exitcode(reap(int((place / "pid").read_text()), 10)) == 4


def test_an_exec_with_a_console(alone: Runtime, runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.start_new(bundle)
    path = process_file(place, "stty size; exit 5", terminal=True, consoleSize={"height": 10, "width": 40})
    receiver = Receiver(place / "console")
    try:
        for by in (runtime, runtime, alone):
            exec_(by, container, "-d", "--pid-file", place / "pid", "--console-socket", receiver.path, "-p", path, "--")
            master, _ = receiver.receive()
            with open(master):
                assert "10 40" in read_until(master, "40")
                assert os.waitstatus_to_exitcode(reap(int((place / "pid").read_text()), 10)) == 5
    finally:
        receiver.close()


def test_what_an_exec_cannot_do_is_worded(runtime: Runtime, bundle: Bundle) -> None:
    """The front fails with a plan at hand; Python does it again, and says why."""
    container = runtime.start_new(bundle)
    for name in ("no-such-1", "no-such-2", "no-such-3"):
        runtime("exec", container.id, "true")
        done = exec_(runtime, container, "--", name, check=False)
        assert (done.code, name in done.err) == (255, True), done.err


def test_a_paused_container_refuses(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    for _ in range(3):
        exec_(runtime, container, "--", "true")
    runtime("pause", container.id)
    assert "paused" in exec_(runtime, container, "--", "true", check=False).err
    runtime("resume", container.id)
    exec_(runtime, container, "--", "true")


def test_plans_of_execs_are_of_one_kind_of_container(alone: Runtime, runtime: Runtime, bundle: Bundle, make_bundle: Callable[[], Bundle]) -> None:
    container = runtime.start_new(bundle)
    for _ in range(2):  # the second container shows that more will come
        for _ in range(2):
            exec_(runtime, container, "--", "true")
        exec_(alone, container, "--", "true")
        container.kill("KILL")
        container.wait()
        container.delete()
        container = runtime.start_new(bundle, id=container.id)
    exec_(alone, container, "--", "true")  # of a container of this kind, as it is again
    changed = make_bundle()
    changed.process["noNewPrivileges"] = False
    other = runtime.start_new(changed)
    assert "wherry-python" in exec_(alone, other, "--", "true", check=False).err
