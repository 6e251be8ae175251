# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore, with a CRIU 4 of the tests' own (tests/hosts/criu.sh): the Debian that this is built for has a CRIU too old for newer kernels."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.console import Receiver, read_until
from harness.criu import KIT, kit
from harness.runtime import Container, Result, Runtime, wait_until

pytestmark = [pytest.mark.requires("root", "kcmp", "command:mmdebstrap", "command:patchelf"), pytest.mark.ours, pytest.mark.one_way]

COUNT = "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done"


@pytest.fixture(autouse=True)
def criu(runtime: Runtime) -> None:
    if kit():
        pytest.skip(f"no CRIU 4: {kit()}")
    runtime.env = {**runtime.env, "PATH": f"{KIT}:{runtime.env['PATH']}"}


@pytest.fixture
def counting(bundle: Bundle) -> Bundle:
    bundle.mount("/tmp", "tmpfs", "tmpfs")
    return bundle.shell(COUNT)


def count(container: Container) -> int:
    return int(container.runtime("exec", container.id, "cat", "/tmp/count").out or 0)


def checkpoint(container: Container, images: Path, *options: str | Path, check: bool = True) -> Result:
    return container.runtime("checkpoint", "--image-path", images, *options, container.id, check=check)


def restore(container: Container, images: Path, *options: str | Path, check: bool = True, id: str | None = None) -> Container:
    """Detached, with files for output as create has them in these tests."""
    return container.runtime.create(
        container.bundle, "--detach", "--image-path", images, *options, id=id or container.id, verb="restore", check=check
    )


def moving(container: Container) -> int:
    """The count, once it has moved on."""
    before = count(container)
    return int(wait_until(lambda: (now := count(container)) > before and now, "the program to go on"))


def test_memory_and_files_come_back(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.start_new(counting)
    before = int(wait_until(lambda: (now := count(container)) > 5 and now, "some steps"))
    cgroups = runtime("exec", container.id, "cat", "/proc/self/cgroup").out
    checkpoint(container, place / "images")
    assert not container.exists()
    again = restore(container, place / "images")
    assert again.status == "running"
    assert moving(again) >= before
    assert again.state()["id"] == container.id
    assert runtime("exec", again.id, "cat", "/proc/self/cgroup").out == cgroups
    again.known_pid = again.pid
    again.kill("KILL")
    assert again.wait() == 137
    again.delete()


def test_leave_running(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.start_new(counting)
    checkpoint(container, place / "images", "--leave-running")
    assert container.status == "running"
    moving(container)


def test_a_paused_container(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.start_new(counting)
    runtime("pause", container.id)
    checkpoint(container, place / "images")
    moving(restore(container, place / "images"))


def test_under_another_id_with_other_limits_and_another_volume(runtime: Runtime, counting: Bundle, place: Path) -> None:
    for name in ("old", "new"):
        (place / name).mkdir()
        (place / name / "name").write_text(name)
    counting.mount("/data", place / "old", None, ["bind"])
    counting.resources["memory"] = {"limit": 64 << 20}
    container = runtime.start_new(counting)
    checkpoint(container, place / "images")
    counting.config["mounts"][-1]["source"] = str(place / "new")
    counting.resources["memory"] = {"limit": 96 << 20}
    again = restore(container, place / "images", id=f"{container.id}-again")
    moving(again)
    assert runtime("exec", again.id, "cat", "/data/name").out == "new"
    stats = json.loads(runtime("events", "--stats", again.id).out)
    assert stats["data"]["memory"]["usage"]["limit"] == 96 << 20


@pytest.mark.parametrize("mode", ["soft", "ignore"])
def test_again_and_again(runtime: Runtime, counting: Bundle, place: Path, mode: str) -> None:
    """What is restored is in the container's cgroups: the next checkpoint freezes it there."""
    container = runtime.start_new(counting)
    for number in range(3):
        checkpoint(container, place / f"images{number}", "--manage-cgroups-mode", mode)
        container = restore(container, place / f"images{number}", "--manage-cgroups-mode", mode)
        assert f"cpu:{counting.linux['cgroupsPath']}" in Path(f"/proc/{container.pid}/cgroup").read_text()
    moving(container)


def test_binds_below_each_other_and_behind_a_link(runtime: Runtime, counting: Bundle, place: Path) -> None:
    outer, inner = place / "outer", place / "inner"
    for directory in (outer, inner):
        directory.mkdir()
    (inner / "name").write_text("inner")
    (counting.rootfs / "real").mkdir()
    (counting.rootfs / "link").symlink_to("real")
    counting.mount("/outer", outer, None, ["bind"]).mount("/outer/a/b", inner, None, ["bind"]).mount("/link/c", inner, None, ["bind"])
    container = runtime.start_new(counting)
    checkpoint(container, place / "images")
    (outer / "a/b").rmdir()
    (outer / "a").rmdir()
    again = restore(container, place / "images")
    moving(again)
    assert runtime("exec", again.id, "cat", "/outer/a/b/name", "/real/c/name").out == "innerinner"


def test_a_parent_that_is_none(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.start_new(counting)
    for parent in ("/tmp", "nothing"):
        assert "--parent-path" in checkpoint(container, place / "images", "--parent-path", parent, check=False).err
    assert container.status == "running"


def mounts(container: Container) -> set[tuple[str, str]]:
    """Mount points, and whether they are read-only."""
    lines = container.runtime("exec", container.id, "cat", "/proc/self/mountinfo").out.splitlines()
    return {(fields[4], fields[5].split(",")[0]) for fields in (line.split() for line in lines)}


def test_memory_beforehand(runtime: Runtime, counting: Bundle, place: Path) -> None:
    """--pre-dump, and a checkpoint that writes what has changed since: where the kernel keeps track of that (CONFIG_MEM_SOFT_DIRTY)."""
    container = runtime.start_new(counting)
    done = checkpoint(container, place / "images" / "first", "--pre-dump", check=False)
    if done.code:
        assert done.err == "checkpoint: this kernel cannot tell which memory has changed: no --pre-dump (checkpoint without it)\n"
        assert container.status == "running"
        pytest.skip("SKIPPED, LOUDLY: this kernel has no soft-dirty tracking: --pre-dump was only refused")
    before = moving(container)
    checkpoint(container, place / "images" / "second", "--parent-path", "../first")
    assert moving(restore(container, place / "images" / "second")) >= before


def test_masked_paths_and_the_read_only_root_stay(runtime: Runtime, counting: Bundle, place: Path) -> None:
    counting.linux["maskedPaths"] = ["/proc/keys", "/proc/acpi"]
    counting.linux["readonlyPaths"] = ["/proc/sys", "/proc/bus"]
    counting.config["root"]["readonly"] = True
    container = runtime.start_new(counting)
    before = mounts(container)
    assert {("/", "ro"), ("/proc/sys", "ro")} <= before
    checkpoint(container, place / "images")
    again = restore(container, place / "images")
    moving(again)
    assert mounts(again) == before
    assert runtime("exec", again.id, "wc", "-c", "/proc/keys").out.split()[0] == "0"


def test_attached_with_its_output_and_exit_status(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    """Pipes are those of who restores."""
    bundle.mount("/tmp", "tmpfs", "tmpfs")
    bundle.shell("echo before; while ! [ -e /tmp/go ]; do sleep 0.05; done; echo after; exit 7")
    id = runtime.new_id()
    with runtime.popen("run", "--bundle", bundle.save().path, id, stdin=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == "before\n"
        container = Container(runtime, id, bundle)
        runtime.containers.append(container)
        checkpoint(container, place / "images")
        assert first.wait(10) == 137
    words = ("restore", "--image-path", place / "images", "--bundle", bundle.path, id)
    with runtime.popen(*words, stdin=subprocess.PIPE) as again:
        wait_until(lambda: container.exists() and container.status == "running", "the restored container")
        runtime("exec", id, "touch", "/tmp/go")
        assert again.stdout is not None and again.stdout.read() == "after\n"
        assert again.wait(10) == 7
    assert not container.exists()


def test_a_terminal(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.process["terminal"] = True
    bundle.shell("while read line; do echo heard $line; done")
    receiver = Receiver(place / "console")
    try:
        container = runtime.create(bundle, "--console-socket", receiver.path)
        container.start()
        master, _ = receiver.receive()
        with os.fdopen(master, "r+b", buffering=0) as terminal:
            terminal.write(b"one\n")
            read_until(master, "heard one")
            checkpoint(container, place / "images")
        again = restore(container, place / "images", "--console-socket", receiver.path)
        master, _ = receiver.receive()
        with os.fdopen(master, "r+b", buffering=0) as terminal:
            terminal.write(b"two\n")
            read_until(master, "heard two")
            assert again.status == "running"
    finally:
        receiver.close()


def test_a_joined_network_namespace(runtime: Runtime, counting: Bundle, place: Path) -> None:
    with subprocess.Popen(["unshare", "-n", "sleep", "1000"]) as holder:
        try:
            wait_until(lambda: os.stat(f"/proc/{holder.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino, "a namespace")
            counting.without_namespace("network")
            counting.namespace("network", f"/proc/{holder.pid}/ns/net")
            container = runtime.start_new(counting)
            checkpoint(container, place / "images")
            again = restore(container, place / "images")
            moving(again)
            assert os.stat(f"/proc/{again.pid}/ns/net").st_ino == os.stat(f"/proc/{holder.pid}/ns/net").st_ino
        finally:
            holder.send_signal(signal.SIGKILL)


# ---- what cannot be done


def test_refused_unless_running(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.create(counting)
    done = checkpoint(container, place / "images", check=False)
    assert done.code == 1 and "created" in done.err
    assert not (place / "images").exists()


def test_without_criu(runtime: Runtime, counting: Bundle, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = runtime.start_new(counting)
    if any(Path(directory, "criu").exists() for directory in ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")):
        pytest.skip("this machine has a CRIU")
    runtime.env = {**runtime.env, "PATH": "/nowhere"}
    done = checkpoint(container, place / "images", check=False)
    assert done.code == 1 and "CRIU is not installed" in done.err
    assert container.status == "running"


def test_no_checkpoint(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = restore(Container(runtime, runtime.new_id(), counting.save()), place / "nothing", check=False)
    assert "no checkpoint" in container.stderr
    assert not container.exists()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_checkpoint_leaves_nothing(runtime: Runtime, counting: Bundle, place: Path, damage: str) -> None:
    container = runtime.start_new(counting)
    checkpoint(container, place / "images")
    image = next((place / "images").glob("core-*.img"))
    if damage == "missing":
        image.unlink()
    else:
        image.write_bytes(image.read_bytes()[:20])
    failed = restore(container, place / "images", check=False)
    assert failed.result.code == 1
    assert re.search(r"criu failed: restore: .*restore\.log", failed.stderr), failed.stderr
    assert not failed.exists()


def test_hooks_are_run_between_the_namespaces_and_the_processes(runtime: Runtime, counting: Bundle, place: Path) -> None:
    """prestart and createRuntime, as in runc: an engine attaches the network there. The others belong to a program that begins."""
    script = f'cat >>{place}/told; echo >>{place}/told; pid=$(sed -n \'s/.*"pid":\\([0-9]*\\).*/\\1/p\' {place}/told | tail -n 1); readlink /proc/$pid/ns/net >>{place}/told'
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    container = runtime.start_new(counting)
    checkpoint(container, place / "images")
    never = {"path": "/bin/false"}
    counting.config["hooks"] = {"prestart": [hook], "createRuntime": [hook], "createContainer": [never], "startContainer": [never], "poststart": [never]}
    again = restore(container, place / "images")
    moving(again)
    lines = (place / "told").read_text().splitlines()
    assert len(lines) == 4
    for told, namespace in zip(lines[::2], lines[1::2], strict=True):
        state = json.loads(told)
        assert (state["id"], state["pid"], state["bundle"]) == (again.id, again.pid, str(counting.path))
        assert namespace == os.readlink(f"/proc/{again.pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_a_hook_that_fails_ends_the_restore(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.start_new(counting)
    checkpoint(container, place / "images")
    counting.config["hooks"] = {
        "createRuntime": [{"path": "/bin/true"}, {"path": "/bin/false"}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >{place}/stopped"]}],
    }
    failed = restore(container, place / "images", check=False)
    assert "/hooks/createRuntime/1: error running createRuntime hook #1: /bin/false: exit status 1" in failed.stderr
    assert not failed.exists()
    assert json.loads((place / "stopped").read_text())["status"] == "stopped"
    del counting.config["hooks"]
    moving(restore(container, place / "images"))


@pytest.mark.parametrize(("key", "value"), [("netDevices", {"wherry-none": {}}), ("intelRdt", {"closID": "wherry-none", "l3CacheSchema": "L3:0=f"})])
def test_what_cannot_be_restored_says_what_to_do(runtime: Runtime, counting: Bundle, place: Path, key: str, value: object) -> None:
    container = runtime.start_new(counting)
    checkpoint(container, place / "images")
    counting.linux[key] = value
    failed = restore(container, place / "images", check=False)
    assert not failed.exists()
    if key == "intelRdt" and "resctrl" in failed.stderr:
        pytest.skip("no resctrl here: the plan is refused before")
    assert f"/linux/{key}: {key} cannot be restored (leave it out" in failed.stderr


def test_an_id_that_is_taken(runtime: Runtime, counting: Bundle, place: Path) -> None:
    container = runtime.start_new(counting)
    checkpoint(container, place / "images", "--leave-running")
    failed = restore(container, place / "images", check=False)
    assert "exists" in failed.stderr
    assert container.status == "running"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--manage-cgroups-mode", "odd"], "invalid value"),
        (["--empty-ns", "pid"], "only network"),
        (["--page-server", "nowhere"], "ADDRESS:PORT"),
    ],
)
def test_flags_that_are_wrong(runtime: Runtime, counting: Bundle, place: Path, flags: list[str], text: str) -> None:
    container = runtime.start_new(counting)
    done = checkpoint(container, place / "images", *flags, check=False)
    assert done.code == 1 and text in done.err
    assert container.status == "running"


