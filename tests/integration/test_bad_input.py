# SPDX-License-Identifier: Apache-2.0
"""What stands in the way: a dead init, state directories of somebody else's, a disk that is full or read-only, a CRIU that is not there.
Each is said in one line with a stable code, in bounded time, and harms nobody.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Result, Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]

EXEC_FAILED = 255


def refused(runtime: Runtime, log: Path, *words: str, code: str, text: str) -> Result:
    """One line on stderr, one in the log, nothing on stdout."""
    log.unlink(missing_ok=True)
    done = runtime("--log", log, "--log-format", "json", *words, check=False, timeout=20)
    assert (done.code, done.out) == (EXEC_FAILED if words[0] == "exec" else 1, ""), done
    assert done.err.count("\n") == 1 and text in done.err, done.err
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["code"] == code, line
    return done


# ---- a first process that somebody has killed

DEAD = [
    (["start"], "WHERRY-STATE-STOPPED", "cannot start a container that has stopped"),
    (["kill"], "WHERRY-STATE-STOPPED", "container not running"),
    (["pause"], "WHERRY-STATE-STOPPED", "container not running"),
    (["resume"], "WHERRY-STATE-STOPPED", "container not running"),
    (["exec", "@", "true"], "WHERRY-STATE-STOPPED", "cannot exec in a stopped container"),
    (["checkpoint"], "WHERRY-STATE-STOPPED", "cannot be checkpointed in stopped state"),
    (["events", "--stats"], "WHERRY-STATE-STOPPED", "is not running"),
    (["update", "--pids-limit", "9"], "WHERRY-STATE-STOPPED", "container not running"),
]


def test_every_verb_on_a_dead_init(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.start_new(bundle)
    os.kill(container.pid, signal.SIGKILL)
    wait_until(lambda: container.status == "stopped", "the end")
    for words, code, text in DEAD:
        filled = [container.id if word == "@" else word for word in words] if "@" in words else [*words, container.id]
        refused(runtime, place / "log", *filled, code=code, text=text)
    assert container.state()["pid"] == 0
    assert runtime("ps", "--format", "json", container.id).out.strip() == "null"
    assert runtime("kill", "--all", container.id).code == 0
    assert runtime("list", "-q").out == f"{container.id}\n"
    container.delete()


# ---- directories that no create of ours has made


@pytest.fixture
def foreign(runtime: Runtime) -> Iterator[Callable[..., Path]]:
    runtime.root.mkdir(mode=0o700, exist_ok=True)

    def make(id: str, **files: str) -> Path:
        directory = runtime.root / id
        directory.mkdir(mode=0o711)
        for name, text in files.items():
            (directory / name.replace("_", ".")).write_text(text)
        os.utime(directory, (1, 1))  # as old as can be: no create that is just at it
        return directory

    yield make
    shutil.rmtree(runtime.root)


RUNC = '{"id":"theirs","init_process_pid":1,"init_process_start":1,"config":{"rootfs":"/"}}'


@pytest.mark.parametrize("files", [{"state_json": RUNC}, {"status": "{}", "exec_fifo": ""}, {"state_json": "[]"}, {"notes": "mine"}])
def test_a_directory_of_another_runtime_is_left_alone(runtime: Runtime, foreign: Callable[..., Path], place: Path, files: dict[str, str]) -> None:
    directory = foreign("theirs", **files)
    for words in (["state", "theirs"], ["delete", "theirs"], ["exec", "theirs", "true"]):
        refused(runtime, place / "log", *words, code="WHERRY-STATE-NOT-FOUND", text='container does not exist: "theirs"')
    refused(runtime, place / "log", "delete", "--force", "theirs", code="WHERRY-STATE-FOREIGN", text="was not made by wherry")
    assert "not ours" in runtime("gc", check=False).out
    assert sorted(path.name for path in directory.iterdir()) == sorted(name.replace("_", ".") for name in files)


def test_a_claim_that_came_to_nothing_is_removed(runtime: Runtime, foreign: Callable[..., Path]) -> None:
    foreign("empty")
    foreign("begun", config_json="{}")
    foreign("late", **{"exit": "{}", "exit-probe": "{}"})  # a monitor wrote while the rest was being removed
    runtime("delete", "--force", "empty")
    runtime("delete", "--force", "late")
    runtime("gc")
    assert [name for name in os.listdir(runtime.root) if name[0] != "@"] == []


@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "text"])
def test_a_record_that_is_none(runtime: Runtime, foreign: Callable[..., Path], place: Path, kind: str) -> None:
    record = foreign("odd") / "record"
    (place / "kept").write_text("kept")
    if kind == "directory":
        record.mkdir()
    elif kind == "link":
        record.symlink_to(place / "kept")
    elif kind == "fifo":
        os.mkfifo(record)
    else:
        record.write_text("no record\n" * 100)
    for words in (["state", "odd"], ["delete", "odd"], ["exec", "odd", "true"]):
        refused(runtime, place / "log", *words, code="WHERRY-STATE-DAMAGED", text='the record of container "odd" is damaged')
    assert runtime("list", "-q").code == 0
    runtime("delete", "--force", "odd")
    assert not record.parent.exists() and (place / "kept").read_text() == "kept"


def test_names_that_are_no_directories(runtime: Runtime, foreign: Callable[..., Path], place: Path) -> None:
    foreign("any")
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "kept").write_text("kept")
    (runtime.root / "link").symlink_to(place / "elsewhere")
    (runtime.root / "file").write_text("")
    for id in ("link", "file"):
        refused(runtime, place / "log", "state", id, code="WHERRY-STATE-NOT-FOUND", text="container does not exist")
        runtime("delete", "--force", id)
        assert (runtime.root / id).exists()
    assert (place / "elsewhere" / "kept").read_text() == "kept"


# ---- the disk

FULL = """
set -e
mount -t tmpfs -o size=64k,mode=700 none "$root"
begin() { "$@" </dev/null >"$place/out" 2>&1 && cat "$place/out" || { code=$?; cat "$place/out"; return $code; }; }
fill() { dd if=/dev/zero of="$root/@fill" bs=1k 2>/dev/null || true; }
fill
begin $wherry --log "$place/log" --log-format json create --bundle "$bundle" one && exit 1
test ! -e "$root/one"
rm "$root/@fill"
begin $wherry run --detach --bundle "$bundle" one
fill
$wherry state one | grep -q running
$wherry exec one true
$wherry exec one true
$wherry list -q
$wherry exec --pid-file "$root/pid" one true && exit 1
$wherry delete --force one
test ! -e "$root/one"
"""

READ_ONLY = """
set -e
mount -t tmpfs -o mode=700 none "$root"
begin() { "$@" </dev/null >"$place/out" 2>&1 && cat "$place/out" || { code=$?; cat "$place/out"; return $code; }; }
begin $wherry run --detach --bundle "$bundle" one
mount -o remount,ro "$root"
begin $wherry --log "$place/log" --log-format json create --bundle "$bundle" two && exit 1
$wherry state one | grep -q running
$wherry exec one true
$wherry list -q
$wherry ps --format json one
$wherry pause one
$wherry resume one
$wherry kill one KILL
until $wherry state one | grep -q stopped; do sleep 0.1; done
$wherry delete one && exit 1
mount -o remount,rw "$root"
$wherry delete --force one
test ! -e "$root/one"
"""


def in_a_mount_namespace(runtime: Runtime, bundle: Bundle, place: Path, script: str) -> "subprocess.CompletedProcess[str]":
    bundle.save()
    runtime.root.mkdir(mode=0o700, exist_ok=True)
    env = {**runtime.env, "root": str(runtime.root), "place": str(place), "bundle": str(bundle.path), "wherry": " ".join(runtime.argv())}
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50)


@pytest.mark.one_way
def test_a_full_disk(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    done = in_a_mount_namespace(runtime, bundle, place, FULL)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "create: claim the id: no space left on device" in done.stdout and "wherry --root DIR" in done.stdout
    assert "no space left on device" in done.stderr  # the pid file
    assert json.loads((place / "log").read_text())["code"] == "WHERRY-LAUNCH-STEP"


@pytest.mark.one_way
def test_a_read_only_disk(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    done = in_a_mount_namespace(runtime, bundle, place, READ_ONLY)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "create: claim the id: read-only file system" in done.stdout and "wherry --root DIR" in done.stdout
    assert "delete: one: read-only file system" in done.stderr
    assert json.loads((place / "log").read_text())["code"] == "WHERRY-LAUNCH-STEP"


@pytest.mark.one_way
def test_a_log_that_cannot_be_written(runtime: Runtime) -> None:
    done = runtime("--log", "/dev/full", "state", "none", check=False)
    assert (done.code, done.err.splitlines()) == (1, ["/dev/full: cannot write the log: no space left on device", 'state: container does not exist: "none"'])


@pytest.mark.one_way
def test_no_criu(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    """Hidden, where there is one: engines call with an empty environment, so PATH alone does not hide it."""
    container = runtime.start_new(bundle)
    hide = "for one in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do test ! -e $one/criu || mount --bind /dev/null $one/criu; done; exec \"$@\""
    words = ["checkpoint", "--image-path", str(place / "images"), container.id]
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", hide, "sh", *runtime.argv(*words)]
    done = subprocess.run(argv, env={**runtime.env, "PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "checkpoint: CRIU is not installed: checkpoint and restore need the program criu (install criu 4)\n"
    assert container.status == "running"
