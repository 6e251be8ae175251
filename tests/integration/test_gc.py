# SPDX-License-Identifier: Apache-2.0
"""What SIGKILL of wherry itself leaves, and who finishes or undoes it: gc, the next create of the id, delete."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.census import cgroups_with
from harness.runtime import Runtime, wait_until

pytestmark = [pytest.mark.requires("containers"), pytest.mark.ours]


class Crash:
    """An id whose create was killed while its hook ran: claimed, with cgroups and an init that has died by now."""

    def __init__(self, runtime: Runtime, bundle: Bundle) -> None:
        self.runtime, self.bundle, self.id = runtime, bundle, runtime.new_id()
        started = bundle.path / "started"
        script = f"echo $$ > {started}.new && mv {started}.new {started}; exec sleep 1000"
        bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]}
        bundle.save()
        process = runtime.popen("create", "--bundle", bundle.path, self.id)
        wait_until(started.exists, "the hook")
        process.kill()
        process.wait()
        os.kill(int(started.read_text()), signal.SIGKILL)
        process.communicate()
        del bundle.config["hooks"]
        self.directory = runtime.root / self.id

    @property
    def cgroups(self) -> list[str]:
        return self.bundle.cgroups()


@pytest.fixture
def crash(runtime: Runtime, bundle: Bundle) -> Iterator[Crash]:
    crash = Crash(runtime, bundle)
    yield crash
    runtime("delete", "--force", crash.id)


@pytest.mark.requires("root")
def test_dry_run_says_what_is_there_and_touches_nothing(runtime: Runtime, crash: Crash) -> None:
    said = runtime("gc", "--dry-run").out
    assert f"{crash.id}: a create that did not end: left as it is" in said
    assert crash.bundle.linux["cgroupsPath"] in said
    assert crash.directory.exists()
    assert crash.cgroups
    (found,) = runtime("gc", "--dry-run", "--format", "json").json()
    assert (found["id"], found["found"], found["done"]) == (crash.id, "a create that did not end", None)


def test_gc_removes_it(runtime: Runtime, crash: Crash) -> None:
    assert f"{crash.id}: a create that did not end: removed" in runtime("gc").out
    assert not crash.directory.exists()
    assert crash.cgroups == []
    assert runtime("gc").out == ""


@pytest.mark.requires("root")
def test_gc_takes_the_parents_along_that_a_container_before_made(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    """Of a record that cannot be read, too."""
    for damage in (b"", b"no record\n"):
        first, second = make_bundle(), make_bundle()
        top = first.linux["cgroupsPath"]
        first.linux["cgroupsPath"], second.linux["cgroupsPath"] = f"{top}/pod/one", f"{top}/pod/two"
        container = runtime.create(first)
        if damage:
            other = runtime.create(second)
            container.delete()
            (runtime.root / other.id / "record").write_bytes(damage)
            runtime("delete", "--force", other.id)
        else:
            crash = Crash(runtime, second)
            container.delete()
            assert crash.cgroups
            runtime("gc")
        assert cgroups_with(top.strip("/")) == []


def test_the_next_create_of_the_id_takes_its_place(runtime: Runtime, crash: Crash) -> None:
    container = runtime.create(crash.bundle, id=crash.id)
    assert container.status == "created"
    container.delete()


def test_state_and_list_still_answer(runtime: Runtime, crash: Crash) -> None:
    assert runtime("state", crash.id).json()["status"] == "stopped"
    assert crash.id in runtime("list", "-q").out.split()
    assert "cannot start a container that has stopped" in runtime("start", crash.id, check=False).err
    assert "container not running" in runtime("kill", crash.id, check=False).err


def test_delete_without_force(runtime: Runtime, crash: Crash) -> None:
    runtime("delete", crash.id)
    assert not crash.directory.exists()
    assert crash.cgroups == []


def test_gc_leaves_containers_alone(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    created, running = runtime.create(make_bundle()), runtime.start_new(make_bundle())
    stopped = runtime.start_new(make_bundle().args("true"))
    stopped.wait()
    assert runtime("gc").out == ""
    assert [one.status for one in (created, running, stopped)] == ["created", "running", "stopped"]


def test_gc_leaves_a_create_at_work_alone(runtime: Runtime, bundle: Bundle) -> None:
    gate = bundle.path / "gate"
    script = f"while ! [ -e {gate} ]; do sleep 0.02; done"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]}
    bundle.save()
    name = runtime.new_id()
    with runtime.popen("create", "--bundle", bundle.path, name) as process:
        try:
            wait_until((runtime.root / name / "record").exists, "the record")
            assert runtime("gc").out == ""
            assert "already exists" in runtime("create", "--bundle", bundle.path, name, check=False).err
        finally:
            gate.touch()
            process.stdout and process.stdout.close()
            process.stderr and process.stderr.close()
            assert process.wait(20) == 0
            runtime("delete", "--force", name)


def age(directory: Path) -> None:
    old = time.time() - 3600
    os.utime(directory, (old, old))


def test_a_claim_without_a_record(runtime: Runtime, bundle: Bundle) -> None:
    """SIGKILL straight after mkdir. A young one may be a create that is just at it."""
    directory = runtime.root / "claimed"
    directory.mkdir(mode=0o700, parents=True)
    assert runtime("gc").out == ""
    assert "container does not exist" in runtime("state", "claimed", check=False).err
    age(directory)
    assert "a directory without a record: removed" in runtime("gc").out
    assert not directory.exists()
    directory.mkdir(mode=0o700)
    runtime("delete", "--force", "claimed")
    assert not directory.exists()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\xff" * 4096])
def test_a_damaged_record(runtime: Runtime, bundle: Bundle, damage: bytes) -> None:
    """The state file says what to end and to remove."""
    container = runtime.start_new(bundle)
    record = runtime.root / container.id / "record"
    record.write_bytes(damage)
    refused = runtime("state", container.id, check=False)
    assert refused.code == 1
    assert "damaged" in refused.err
    said = runtime("gc", check=False)
    assert said.code == 1
    assert "lives" in said.out
    assert container.exists()
    container.delete("--force")
    assert not container.exists()
    assert container.wait() == 137
    assert bundle.cgroups() == []


def test_a_record_of_another_version(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    record = runtime.root / container.id / "record"
    data = bytearray(record.read_bytes())
    data[4] += 1
    record.write_bytes(data)
    refused = container.kill("TERM", check=False)
    assert refused.code == 1
    assert "another" in refused.err
    state = json.loads((runtime.root / container.id / "state.json").read_text())
    os.kill(state["pid"], signal.SIGKILL)
    container.wait()
    assert "a record that cannot be read: removed" in runtime("gc").out
    assert not container.exists()
