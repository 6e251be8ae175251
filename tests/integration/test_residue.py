# SPDX-License-Identifier: Apache-2.0
"""What failures leave: nothing. The census after each test counts; these tests make the failures, at every stage of a create."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("containers")


def break_cgroup(bundle: Bundle) -> None:
    bundle.resources["pids"] = {"limit": -5000}
    bundle.resources["cpu"] = {"cpus": "9999"}


def break_namespace(bundle: Bundle) -> None:
    bundle.namespace("network", "/proc/self/ns/ipc")


def break_mount(bundle: Bundle) -> None:
    bundle.mount("/x", "/no/such/source", "bind", ["bind"])


def break_device(bundle: Bundle) -> None:
    (bundle.rootfs / "taken").mkdir()
    bundle.linux["devices"] = [{"path": "/taken", "type": "c", "major": 1, "minor": 5}]


def break_hook(bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}


def break_container_hook(bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/false"}]}


def break_sysctl(bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.no_such_key": "1"}


def break_program(bundle: Bundle) -> None:
    bundle.args("/no/such/program")


def break_label(bundle: Bundle) -> None:
    bundle.process["apparmorProfile"] = "no-such-profile"


STAGES = [break_cgroup, break_namespace, break_mount, break_device, break_hook, break_container_hook, break_sysctl, break_program, break_label]


@pytest.mark.v2
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.ours
def test_failed_create_leaves_nothing(runtime: Runtime, bundle: Bundle, stage: Callable[[Bundle], None], verb: str) -> None:
    stage(bundle)
    if verb == "run":
        result = runtime.run(bundle, check=False)
        assert result.code != 0
    else:
        container = runtime.create(bundle, check=False)
        if container.result.code == 0:  # a missing program may come out at start
            assert container.start(check=False).code != 0
            container.delete("--force")
        elif runtime.name == "wherry":
            assert not container.exists()
            assert bundle.cgroups() == []


@pytest.mark.requires("root", "userns")
@pytest.mark.parametrize("stage", [break_mount, break_hook, break_sysctl], ids=lambda stage: stage.__name__)
def test_failed_create_with_a_user_namespace_leaves_nothing(runtime: Runtime, bundle: Bundle, stage: Callable[[Bundle], None]) -> None:
    stage(bundle.user_namespace())
    assert runtime.create(bundle, check=False).result.code == 1


def test_pid_file_that_cannot_be_written(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    container = runtime.create(bundle, "--pid-file", place / "no/such/directory/pid", check=False)
    assert container.result.code == 1


@pytest.mark.ours
def test_creator_killed_in_a_hook(runtime: Runtime, bundle: Bundle) -> None:
    """SIGKILL of create at its most awkward: the next delete --force cleans up."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}
    bundle.save()
    name = runtime.new_id()
    process = runtime.popen("create", "--bundle", bundle.path, name)
    hook = wait_until(lambda: [pid for pid in descendants(process.pid) if command(pid) == ["sleep", "1000"]], "the hook")
    process.kill()
    process.wait()
    for pid in hook:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    runtime("delete", "--force", name)
    assert not (runtime.root / name).exists()


def descendants(pid: int) -> list[int]:
    try:
        children = [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]
    except OSError:
        return []
    return children + [pid for child in children for pid in descendants(child)]


def command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def test_container_killed_while_created(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle)
    os.kill(container.pid, signal.SIGKILL)
    wait_until(lambda: container.status == "stopped", "the stop")
    container.delete()


def test_no_descriptors_or_mounts_pile_up(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    for _ in range(5):
        runtime.run(make_bundle().args("true"))
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before


def test_rootfs_on_a_shared_mount_does_not_leak_mounts(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_new(bundle.mount("/fresh", "tmpfs", "tmpfs"))
    assert str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text()
    container.kill("KILL")
    container.wait()
    container.delete()
