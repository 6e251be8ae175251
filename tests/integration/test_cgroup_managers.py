# SPDX-License-Identifier: Apache-2.0
"""Cgroups that are not made by the runtime: none at all (disabled), or one that was there before, empty, in use or frozen. On v1 and on v2."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cgroup
from harness.bundle import Bundle
from harness.census import cgroup_mounts
from harness.requirements import cgroup_mode
from harness.runtime import Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2, pytest.mark.ours]


# ---- disabled


@pytest.fixture
def disabled(runtime: Runtime, bundle: Bundle) -> Runtime:
    runtime.options = ["--cgroup-manager", "disabled"]
    del bundle.linux["cgroupsPath"]
    bundle.resources.clear()
    return runtime


def test_disabled_leaves_the_container_where_the_caller_is(disabled: Runtime, bundle: Bundle) -> None:
    container = disabled.start_new(bundle)
    assert cgroup.memberships(container.pid) == cgroup.memberships("self")
    assert disabled("exec", container.id, "echo", "in").out == "in\n"
    container.stop()
    assert not container.exists()


def test_disabled_refuses_limits(disabled: Runtime, bundle: Bundle) -> None:
    bundle.resources["pids"] = {"limit": 5}
    container = disabled.create(bundle, check=False)
    assert container.result.code == 1 and "cgroups are disabled" in container.stderr and not container.exists()


def test_disabled_says_what_it_cannot(disabled: Runtime, bundle: Bundle) -> None:
    container = disabled.start_new(bundle)
    for words in (("pause",), ("update", "--pids-limit", "5")):
        done = disabled(*words, container.id, check=False)
        assert done.code == 1 and "no cgroup" in done.err, done.err
    assert json.loads(disabled("ps", "--format", "json", container.id).out) == [container.pid]
    container.kill("KILL")


# ---- there before


@pytest.fixture
def taken(bundle: Bundle) -> Iterator[Path]:
    """The container's cgroup, made by somebody else, where its freezer is."""
    place = Path(str(mount("freezer")) + bundle.linux["cgroupsPath"])
    place.mkdir()
    yield place
    (place / ("freezer.state" if cgroup_mode() == "v1" else "cgroup.freeze")).write_text("THAWED" if cgroup_mode() == "v1" else "0")
    wait_until(lambda: not (place / "cgroup.procs").read_text(), "the end of who is in it")
    place.rmdir()


def mount(controller: str) -> Path:
    if cgroup_mode() == "v2":
        return Path("/sys/fs/cgroup")
    return next(found for found in cgroup_mounts() if controller in found.name.split(","))


def is_frozen(place: Path) -> bool:
    if cgroup_mode() == "v1":
        return (place / "freezer.state").read_text() == "FROZEN\n"
    return "frozen 1" in (place / "cgroup.events").read_text()


def freeze(place: Path) -> None:
    if cgroup_mode() == "v1":
        (place / "freezer.state").write_text("FROZEN")
    else:
        (place / "cgroup.freeze").write_text("1")
    wait_until(lambda: is_frozen(place), "the freezer")


def test_an_empty_one_is_used_and_stays(runtime: Runtime, bundle: Bundle, taken: Path) -> None:
    container = runtime.start_new(bundle)
    assert str(container.pid) in (taken / "cgroup.procs").read_text().split()
    container.stop()
    assert taken.is_dir()


def test_a_frozen_one_is_refused_and_stays_frozen(runtime: Runtime, bundle: Bundle, taken: Path) -> None:
    freeze(taken)
    begin = time.monotonic()
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1 and "frozen" in container.stderr and not container.exists()
    assert is_frozen(taken) and time.monotonic() - begin < 20, "nothing waits for it to thaw"


def test_one_in_use_is_refused_and_left_alone(runtime: Runtime, bundle: Bundle, taken: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            (taken / "cgroup.procs").write_text(str(process.pid))
            container = runtime.create(bundle, check=False)
            assert container.result.code == 1 and "not empty" in container.stderr and not container.exists()
            assert process.poll() is None and str(process.pid) in (taken / "cgroup.procs").read_text().split()
        finally:
            process.kill()


def test_one_that_comes_into_use_is_not_killed_by_delete(runtime: Runtime, bundle: Bundle, taken: Path) -> None:
    """It was there before: whoever is in it besides the container is its owner's."""
    container = runtime.start_new(bundle)
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            (taken / "cgroup.procs").write_text(str(process.pid))
            container.delete("--force")
            assert process.poll() is None and not container.exists()
        finally:
            process.kill()
    assert os.path.isdir(taken)


# ---- read-only


READ_ONLY = """for place in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,bind,ro $place; done; exec "$@" """


def read_only(runtime: Runtime, bundle: Bundle, *options: str) -> subprocess.CompletedProcess[str]:
    """A run where all cgroups are mounted read-only, as in a container."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh"]
    words = runtime.argv(*options, "run", "--bundle", bundle.save().path, "read-only")
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=30, env=runtime.env, stdin=subprocess.DEVNULL)


def test_read_only_cgroups_are_an_error_that_leaves_nothing(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = f"{bundle.linux['cgroupsPath']}/a/b"
    done = read_only(runtime, bundle.args("true"))
    assert done.returncode == 1
    assert "read-only file system" in done.stderr and "--cgroup-manager disabled" in done.stderr
    assert "cleaning up" not in done.stderr
    assert not (runtime.root / "read-only").exists()


def test_read_only_cgroups_do_not_matter_where_none_are_asked_for(disabled: Runtime, bundle: Bundle) -> None:
    done = read_only(disabled, bundle.shell("echo in"))
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
