# SPDX-License-Identifier: Apache-2.0
"""Control groups: where a container is, limits as the kernel reads them back, both versions."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cgroup
from harness.bundle import Bundle
from harness.census import cgroup_mounts, cgroups_with
from harness.requirements import cgroup_mode
from harness.runtime import Runtime, wait_until

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2]

V2 = cgroup_mode() == "v2"
MIB = 1 << 20


def test_container_is_in_its_cgroup(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    paths = cgroup.memberships(container.pid)
    mounted = {name for mount in cgroup_mounts() for name in (*mount.name.split(","), f"name={mount.name}")} | {""}
    assert {path for name, path in paths.items() if name in mounted} == {bundle.linux["cgroupsPath"]}


def test_cgroup_goes_with_the_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    assert cgroups_with(bundle.linux["cgroupsPath"].strip("/"))
    container.delete()
    assert not cgroups_with(bundle.linux["cgroupsPath"].strip("/"))


def test_nested_cgroups_path_goes_too(runtime: Runtime, bundle: Bundle) -> None:
    top = bundle.linux["cgroupsPath"]
    bundle.linux["cgroupsPath"] = f"{top}/inner/most"
    container = runtime.create(bundle)
    container.delete()
    left = cgroups_with(top.strip("/"))
    for path in sorted(left, reverse=True):
        os.rmdir(path)
    assert [path for path in left if "most" in path] == []
    assert runtime.name != "wherry" or left == []


@pytest.mark.ours
def test_the_last_container_takes_the_parents_along(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    """Both parents are made for the first container, which goes before the second."""
    first, second = make_bundle(), make_bundle()
    top = first.linux["cgroupsPath"]
    first.linux["cgroupsPath"], second.linux["cgroupsPath"] = f"{top}/pod/one", f"{top}/pod/two"
    one, two = runtime.create(first), runtime.create(second)
    one.delete()
    assert {Path(path).name for path in cgroups_with(top.strip("/"))} == {top.strip("/"), "pod", "two"}
    two.delete()
    assert cgroups_with(top.strip("/")) == []


@pytest.mark.ours
def test_parents_of_somebody_else_stay(runtime: Runtime, bundle: Bundle) -> None:
    top = bundle.linux["cgroupsPath"]
    made = [Path(f"{mount}{top}") for mount in cgroup_mounts()]
    for path in made:
        path.mkdir()
    bundle.linux["cgroupsPath"] = f"{top}/one"
    runtime.create(bundle).delete()
    assert sorted(cgroups_with(top.strip("/"))) == sorted(map(str, made))
    for path in made:
        path.rmdir()


def test_without_cgroups_path_there_is_one_named_after_the_container(runtime: Runtime, bundle: Bundle) -> None:
    del bundle.linux["cgroupsPath"]
    container = runtime.create(bundle)
    assert container.id in cgroup.memberships(container.pid)["" if V2 else "pids"]


def test_relative_cgroups_path(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = bundle.linux["cgroupsPath"].lstrip("/")
    container = runtime.create(bundle)
    assert bundle.linux["cgroupsPath"] in cgroup.memberships(container.pid)["" if V2 else "pids"]


def test_cgroups_path_cannot_climb(runtime: Runtime, bundle: Bundle) -> None:
    name = bundle.linux["cgroupsPath"].strip("/")
    bundle.linux["cgroupsPath"] = f"/../../../../{name}"
    container = runtime.create(bundle, check=False)
    if runtime.name == "wherry":
        assert (container.result.code, container.exists()) == (1, False) and '".." in "/../' in container.stderr
    elif container.result.code == 0:
        assert cgroup.memberships(container.pid)["" if V2 else "pids"] == f"/{name}"


def test_no_resources_at_all(runtime: Runtime, bundle: Bundle) -> None:
    del bundle.linux["resources"]
    assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.requires("controller:memory")
def test_memory_limit(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 64 * MIB, "reservation": 32 * MIB}
    container = runtime.create(bundle)
    assert cgroup.read(container.pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert cgroup.read(container.pid, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 * MIB)


@pytest.mark.requires("controller:memory")
def test_memory_limit_is_felt(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 16 * MIB}
    bundle.shell("dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived")
    result = runtime.run(bundle, check=False)
    assert "survived" not in result.out or "Killed" in result.err or "Killed" in result.out


@pytest.mark.requires("controller:pids")
@pytest.mark.parametrize(("limit", "wanted"), [(77, "77"), (-1, "max")])
def test_pids_limit(runtime: Runtime, bundle: Bundle, limit: int, wanted: str) -> None:
    bundle.resources["pids"] = {"limit": limit}
    container = runtime.create(bundle)
    assert cgroup.read(container.pid, "pids", "pids.max", "pids.max") == wanted


@pytest.mark.requires("controller:cpu")
def test_cpu_shares(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["cpu"] = {"shares": 2048}
    container = runtime.create(bundle)
    value = cgroup.read(container.pid, "cpu", "cpu.shares", "cpu.weight")
    assert value in ({"174", "79"} if V2 else {"2048"})  # 79: the formula of older runtimes
    if runtime.name == "wherry" and V2:
        assert value == "174"


@pytest.mark.requires("controller:cpu")
def test_cpu_quota(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["cpu"] = {"quota": 20000, "period": 50000}
    container = runtime.create(bundle)
    if V2:
        assert cgroup.read(container.pid, "cpu", "", "cpu.max") == "20000 50000"
    else:
        assert cgroup.read(container.pid, "cpu", "cpu.cfs_quota_us", "") == "20000"
        assert cgroup.read(container.pid, "cpu", "cpu.cfs_period_us", "") == "50000"


@pytest.mark.requires("controller:cpuset")
def test_cpuset(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["cpu"] = {"cpus": "0", "mems": "0"}
    container = runtime.create(bundle)
    assert cgroup.read(container.pid, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"


@pytest.mark.requires("cgroup-v2", "controller:cpu")
def test_cpu_idle(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["cpu"] = {"idle": 1}
    container = runtime.create(bundle)
    assert cgroup.read(container.pid, "cpu", "cpu.idle", "cpu.idle") == "1"


@pytest.mark.requires("cgroup-v2", "controller:pids", "controller:memory")
def test_unified(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["unified"] = {"pids.max": "55", "memory.high": str(40 * MIB)}
    container = runtime.create(bundle)
    assert cgroup.read(container.pid, "pids", "", "pids.max") == "55"
    assert cgroup.read(container.pid, "memory", "", "memory.high") == str(40 * MIB)


@pytest.mark.requires("cgroup-v1")
def test_unified_is_refused_on_v1(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["unified"] = {"pids.max": "55"}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "unified" in container.stderr


@pytest.mark.requires("cgroup-v2", "controller:memory")
def test_swap(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 64 * MIB, "swap": 96 * MIB}
    container = runtime.create(bundle)
    swap = cgroup.directory(container.pid, "memory") / "memory.swap.max"
    if not swap.exists():
        pytest.skip("requires swap accounting")
    assert swap.read_text().strip() == str(32 * MIB)


@pytest.mark.parametrize(
    "memory",
    [{"limit": 64 * MIB, "swap": 32 * MIB}, {"swap": 64 * MIB}],
)
@pytest.mark.requires("controller:memory")
@pytest.mark.ours
def test_swap_that_makes_no_sense_is_refused(runtime: Runtime, bundle: Bundle, memory: dict[str, int]) -> None:
    bundle.resources["memory"] = memory
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "swap" in container.stderr
    assert not container.exists()


@pytest.mark.requires("controller:memory")
def test_memory_limit_below_what_a_container_needs(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 4096}
    container = runtime.create(bundle, check=False, timeout=60)
    assert container.result.code == 1
    assert "memory" in container.stderr.lower()
    assert not container.exists()


@pytest.mark.requires("controller:cpuset")
def test_value_that_the_kernel_refuses_names_the_field(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["cpu"] = {"cpus": "4000"}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "cpu" in container.stderr
    assert not container.exists()


@pytest.mark.requires("cgroup-v2")
def test_cgroup_namespace_hides_the_path(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.output(bundle.namespace("cgroup"), "cat /proc/self/cgroup") == "0::/"


@pytest.mark.requires("cgroup-v1")
def test_cgroup_namespace_hides_the_paths(runtime: Runtime, bundle: Bundle) -> None:
    lines = runtime.output(bundle.namespace("cgroup"), "cat /proc/self/cgroup").splitlines()
    assert {line.split(":", 2)[2] for line in lines} == {"/"}


def test_cgroup_mount(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespace("cgroup").mount("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"])
    if V2:
        out = runtime.output(bundle, "cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused")
    else:
        out = runtime.output(bundle, "cat /sys/fs/cgroup/pids/tasks; mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo refused")
    first, *others, last = out.split()
    assert (first, last) == ("1", "refused") and len(others) <= 1 and all(other.isdigit() for other in others)  # the shell, and cat


@pytest.mark.requires("cgroup-v2")
@pytest.mark.ours
def test_a_user_namespace_without_a_cgroup_namespace_sees_its_own_cgroup(runtime: Runtime, bundle: Bundle) -> None:
    """cgroup2 cannot be mounted then. runc and crun show the host's whole tree in its place."""
    bundle.user_namespace().without_namespace("cgroup").mount("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "ro"])
    out = runtime.output(bundle, "cat /proc/self/cgroup; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4,6; cat /sys/fs/cgroup/cgroup.procs").split()
    assert out[:2] == [f"0::{bundle.linux['cgroupsPath']}", bundle.linux["cgroupsPath"]]
    assert "ro" in out[2].split(",") and "1" in out[3:]


@pytest.mark.requires("cgroup-v2")
@pytest.mark.ours
def test_writable_cgroup_belongs_to_the_containers_root(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace().namespace("cgroup").mount("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "rw"])
    assert "made" in runtime.output(bundle, "mkdir /sys/fs/cgroup/inner && echo made; rmdir /sys/fs/cgroup/inner")


@pytest.mark.requires("verb:pause")
def test_pause_and_resume(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.shell("while :; do echo x; sleep 0.02; done"))
    runtime("pause", container.id)
    assert container.status == "paused"
    first = container.stdout
    os.sched_yield()
    assert container.stdout == first
    runtime("resume", container.id)
    assert container.status == "running"
    wait_until(lambda: len(container.stdout) > len(first), "output after resume")


@pytest.mark.requires("verb:pause")
def test_delete_force_of_a_paused_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    runtime("pause", container.id)
    container.delete("--force")
    assert not container.exists()


@pytest.mark.requires("verb:update", "controller:pids", "controller:memory", "controller:cpu")
def test_update(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 64 * MIB}
    container = runtime.start_new(bundle)
    pid = container.known_pid
    runtime("update", "--pids-limit", "123", "--memory", str(48 * MIB), "--cpu-share", "512", container.id)
    assert cgroup.read(pid, "pids", "pids.max", "pids.max") == "123"
    assert cgroup.read(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(48 * MIB)
    runtime("update", "--resources", "-", container.id, input='{"pids": {"limit": 124}}')
    assert cgroup.read(pid, "pids", "pids.max", "pids.max") == "124"


def test_kill_all_reaches_every_process(runtime: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid").shell("trap '' TERM; sleep 900 & sleep 901 & wait")
    container = runtime.start_new(bundle)
    procs = cgroup.directory(container.known_pid, "pids") / "cgroup.procs"
    wait_until(lambda: len(procs.read_text().split()) == 3, "three processes")
    container.kill("KILL", "--all")
    wait_until(lambda: not procs.read_text().split() or container.wait(), "their end")


@pytest.mark.requires("verb:events")
def test_events_stats(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle)
    document = runtime("events", "--stats", container.id).json()
    assert document["type"] == "stats"
    assert document["id"] == container.id
    assert document["data"]["pids"]["current"] >= 1


@pytest.mark.requires("verb:ps")
def test_ps(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.shell("sleep 900 & wait"))
    wait_until(lambda: len(runtime("ps", "--format", "json", container.id).json()) == 2, "two processes")
    assert container.known_pid in runtime("ps", "--format", "json", container.id).json()


@pytest.mark.requires("cgroup-v1")
@pytest.mark.ours
def test_populated_cgroup_is_refused_and_left_alone(runtime: Runtime, bundle: Bundle) -> None:
    """A cgroup that has processes of somebody else's is not a place for a container."""
    mount = next(mount for mount in cgroup_mounts() if mount.name == "pids")
    taken = Path(str(mount) + bundle.linux["cgroupsPath"])
    taken.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as process:
        (taken / "cgroup.procs").write_text(str(process.pid))
        container = runtime.create(bundle, check=False)
        alive = process.poll() is None
        process.kill()
    assert container.result.code == 1
    assert alive
    assert taken.is_dir()
    wait_until(lambda: not (taken / "cgroup.procs").read_text(), "the end of the other process")
    taken.rmdir()
