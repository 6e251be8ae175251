# SPDX-License-Identifier: Apache-2.0
"""update: what each flag writes, what it leaves, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.cgroup import read
from harness.requirements import cgroup_mode
from harness.runtime import Container, Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2]

M = 1 << 20


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle) -> Container:
    bundle.resources["memory"] = {"limit": 64 * M}
    bundle.resources["cpu"] = {"quota": 50000, "period": 100000}
    return runtime.start_new(bundle)


def update(container: Container, *flags: str | Path, check: bool = True, **more: Any) -> Any:
    return container.runtime("update", *flags, container.id, check=check, **more)


def value(container: Container, controller: str, v1: str, v2: str) -> str:
    return read(container.pid, controller, v1, v2)


@pytest.mark.parametrize(("given", "bytes_"), [("128M", 128 * M), ("32m", 32 * M), (str(100 * M), 100 * M), ("1G", 1 << 30), ("0.25g", 256 * M)])
def test_memory(container: Container, given: str, bytes_: int) -> None:
    result = update(container, "--memory", given)
    assert (result.out, result.err) == ("", "")
    assert value(container, "memory", "memory.limit_in_bytes", "memory.max") == str(bytes_)


def test_memory_without_a_limit(container: Container) -> None:
    update(container, "--memory", "-1")
    assert value(container, "memory", "memory.limit_in_bytes", "memory.max") in ("max", str((1 << 63) - 4096))


def test_memory_and_swap_up_and_down(container: Container) -> None:
    for size in (200, 80, 300):
        update(container, "--memory", f"{size}M", "--memory-swap", f"{size + 50}M")
        assert value(container, "memory", "memory.limit_in_bytes", "memory.max") == str(size * M)
        if cgroup_mode() == "v2":
            assert value(container, "memory", "", "memory.swap.max") == str(50 * M)
        else:
            assert value(container, "memory", "memory.memsw.limit_in_bytes", "") == str((size + 50) * M)


def test_swap_alone(container: Container) -> None:
    update(container, "--memory-swap", "100M")
    if cgroup_mode() == "v2":
        assert value(container, "memory", "", "memory.swap.max") == str(36 * M)
    else:
        assert value(container, "memory", "memory.memsw.limit_in_bytes", "") == str(100 * M)


def test_reservation(container: Container) -> None:
    update(container, "--memory-reservation", "16M")
    assert value(container, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(16 * M)


def test_quota_keeps_the_period(container: Container) -> None:
    update(container, "--cpu-period", "200000")
    update(container, "--cpu-quota", "30000")
    if cgroup_mode() == "v2":
        assert value(container, "cpu", "", "cpu.max") == "30000 200000"
    else:
        assert value(container, "cpu", "cpu.cfs_quota_us", "") == "30000"
        assert value(container, "cpu", "cpu.cfs_period_us", "") == "200000"


def test_no_quota(container: Container) -> None:
    update(container, "--cpu-quota", "-1")
    assert value(container, "cpu", "cpu.cfs_quota_us", "cpu.max") in ("-1", "max 100000")


@pytest.mark.requires("cgroup-v1")
def test_a_shorter_period_below_a_parent_with_a_quota(runtime: Runtime, bundle: Bundle) -> None:
    parent = Path("/sys/fs/cgroup/cpu" + bundle.linux["cgroupsPath"] + "-parent")
    parent.mkdir()
    bundle.linux["cgroupsPath"] += "-parent/below"
    try:
        (parent / "cpu.cfs_quota_us").write_text("50000")
        container = runtime.start_new(bundle)
        assert update(container, "--cpu-quota", "60000", check=False).code == 1
        update(container, "--cpu-period", "10000", "--cpu-quota", "3000")
        assert (parent / "below/cpu.cfs_quota_us").read_text() == "3000\n"
        container.stop()
    finally:
        for tree in Path("/sys/fs/cgroup").iterdir():
            if (tree / parent.name).is_dir():
                (tree / parent.name).rmdir()


@pytest.mark.ours  # runc 1.1 has no such flag
def test_a_burst_and_none(container: Container) -> None:
    for burst in ("20000", "0"):
        update(container, "--cpu-quota", "30000", "--cpu-burst", burst)
        assert value(container, "cpu", "cpu.cfs_burst_us", "cpu.max.burst") == burst


def test_shares(container: Container) -> None:
    update(container, "--cpu-share", "512")
    assert value(container, "cpu", "cpu.shares", "cpu.weight") == ("512" if cgroup_mode() != "v2" else "59")


def test_idle(container: Container) -> None:
    update(container, "--cpu-idle", "1")
    assert value(container, "cpu", "cpu.idle", "cpu.idle") == "1"


@pytest.mark.requires("controller:cpuset")
def test_processors_and_nodes(container: Container) -> None:
    update(container, "--cpuset-cpus", "0", "--cpuset-mems", "0")
    assert value(container, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert value(container, "cpuset", "cpuset.mems", "cpuset.mems") == "0"


@pytest.mark.parametrize(("given", "seen"), [("20", "20"), ("-1", "max"), ("0", "max")])
@pytest.mark.ours
def test_pids(container: Container, given: str, seen: str) -> None:
    update(container, f"--pids-limit={given}")
    assert value(container, "pids", "pids.max", "pids.max") == seen


def test_what_is_not_given_stays(container: Container) -> None:
    update(container, "--pids-limit", "9")
    assert value(container, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * M)
    assert value(container, "cpu", "cpu.cfs_quota_us", "cpu.max") in ("50000", "50000 100000")


DOCUMENT = {"memory": {"limit": 96 * M, "swap": None}, "cpu": {"shares": 2048}, "pids": {"limit": 33}, "devices": [{"allow": True, "access": "rwm"}]}


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_resources(container: Container, place: Path, how: str) -> None:
    (place / "r.json").write_text(json.dumps(DOCUMENT))
    if how == "file":
        update(container, "--resources", place / "r.json")
    else:
        update(container, "-r", "-", input=json.dumps(DOCUMENT))
    assert value(container, "memory", "memory.limit_in_bytes", "memory.max") == str(96 * M)
    assert value(container, "pids", "pids.max", "pids.max") == "33"


@pytest.mark.parametrize(
    ("content", "text"),
    [("[", "expected a value"), ('{"memory": 5}', "/memory"), ('{"pids": {"limit": "many"}}', "/pids/limit")],
)
@pytest.mark.ours
def test_resources_that_are_wrong(container: Container, content: str, text: str) -> None:
    result = update(container, "-r", "-", input=content, check=False)
    assert result.code == 1 and text in result.err.lower()


@pytest.mark.parametrize("flag", ["--memory=lots", "--memory=1.2.3M", "--pids-limit=x", "--memory-swap="])
@pytest.mark.ours
def test_values_that_are_wrong(container: Container, flag: str) -> None:
    result = update(container, flag, check=False)
    assert result.code == 1 and "invalid value" in result.err


@pytest.mark.requires("controller:cpuset")
def test_what_the_kernel_refuses(container: Container) -> None:
    result = update(container, "--cpuset-cpus", "4000", check=False)
    assert result.code == 1 and "cpuset.cpus" in result.err


def test_a_paused_and_a_created_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    update(container, "--pids-limit", "7")
    runtime("pause", container.id)
    update(container, "--pids-limit", "8")
    assert value(container, "pids", "pids.max", "pids.max") == "8"
    runtime("resume", container.id)


def test_a_stopped_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.args("true"))
    wait_until(lambda: container.status == "stopped", "the end")
    result = update(container, "--pids-limit", "8", check=False)
    assert result.code == 1 and "container not running" in result.err


def test_compatibility(container: Container) -> None:
    assert update(container, "--kernel-memory", "10M", "--kernel-memory-tcp", "10M").code == 0


@pytest.mark.ours
def test_a_class_that_it_has_not(container: Container) -> None:
    result = update(container, "--l3-cache-schema", "L3:0=f", check=False)
    assert result.code == 1 and "resctrl" in result.err
