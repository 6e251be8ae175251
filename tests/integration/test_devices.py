# SPDX-License-Identifier: Apache-2.0
"""Device nodes, and which devices the control group lets through."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.requirements import cgroup_mode
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root"), pytest.mark.v2]

DENY_ALL = {"allow": False, "access": "rwm"}


@pytest.mark.parametrize(("name", "number"), [("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)), ("tty", (5, 0))])
def test_default_devices(runtime: Runtime, bundle: Bundle, name: str, number: tuple[int, int]) -> None:
    container = runtime.create(bundle)
    found = container.in_mount_namespace(f"/dev/{name}").stat()
    assert stat.S_ISCHR(found.st_mode)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == number
    assert stat.S_IMODE(found.st_mode) == 0o666


def test_default_devices_work(runtime: Runtime, bundle: Bundle) -> None:
    out = runtime.output(bundle, "head -c 3 /dev/zero | od -An -tx1; echo x > /dev/null && echo null; head -c 8 /dev/urandom | wc -c")
    assert out.split() == ["00", "00", "00", "null", "8"]


def test_given_device(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [{"path": "/dev/sub/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}]
    container = runtime.create(bundle)
    found = container.in_mount_namespace("/dev/sub/mine").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (3, 4, 0o640)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (1, 5)


@pytest.mark.parametrize(("kind", "check"), [("b", stat.S_ISBLK), ("p", stat.S_ISFIFO), ("u", stat.S_ISCHR)])
def test_kinds_of_devices(runtime: Runtime, bundle: Bundle, kind: str, check) -> None:
    entry: dict[str, object] = {"path": "/dev/mine", "type": kind, "fileMode": 0o600}
    if kind != "p":
        entry |= {"major": 1, "minor": 5}
    bundle.linux["devices"] = [entry]
    container = runtime.create(bundle)
    assert check(container.in_mount_namespace("/dev/mine").stat().st_mode)


@pytest.mark.ours
def test_type_bits_in_file_mode_are_stripped(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o020660}]
    container = runtime.create(bundle)
    assert stat.S_IMODE(container.in_mount_namespace("/dev/mine").stat().st_mode) == 0o660


@pytest.mark.ours
def test_another_file_in_the_place_of_a_device_is_an_error(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["mounts"] = [one for one in bundle.config["mounts"] if not one["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/mine").write_text("a file\n")
    bundle.linux["devices"] = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}]
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "/dev/mine" in container.stderr
    assert (bundle.rootfs / "dev/mine").read_text() == "a file\n"


@pytest.mark.ours
def test_devices_in_dev_of_the_rootfs(runtime: Runtime, bundle: Bundle) -> None:
    """Without a tmpfs on /dev the nodes are made in the rootfs, and found there the second time."""
    bundle.config["mounts"] = [one for one in bundle.config["mounts"] if not one["destination"].startswith("/dev")]
    for _ in range(2):
        assert runtime.output(bundle, "echo x > /dev/null && echo fine") == "fine"


@pytest.mark.requires("userns")
def test_devices_in_a_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    out = runtime.output(bundle.user_namespace(), "head -c 2 /dev/zero | wc -c; echo x > /dev/null && echo null")
    assert out.split() == ["2", "null"]


MKNOD = {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}
KMSG = "mknod /tmp/node c 1 11 && true 2>/dev/null > /tmp/node && echo opened || echo refused"  # writing needs no capability


def test_device_that_is_not_listed_cannot_be_opened(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["devices"] = [DENY_ALL]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "refused"


def test_device_that_is_listed_can_be_opened(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["devices"] = [DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"}]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "opened"


def test_access_is_by_kind(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["devices"] = [DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rm"}]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "refused"


def test_allow_all_devices(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["devices"] = [{"allow": True, "access": "rwm"}]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "opened"


def test_wildcard_minor(runtime: Runtime, bundle: Bundle) -> None:
    bundle.resources["devices"] = [DENY_ALL, {"allow": True, "type": "c", "major": 1, "access": "rwm"}]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "opened"


def test_later_rule_wins(runtime: Runtime, bundle: Bundle) -> None:
    allowed = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"}
    bundle.resources["devices"] = [DENY_ALL, allowed, {**allowed, "allow": False}]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "refused"


@pytest.mark.ours
@pytest.mark.parametrize("rule", [{"access": "r"}, {"major": 5}, {"type": "a", "major": 1, "minor": 3, "access": "rwm"}])
def test_part_of_everything_is_not_everything(runtime: Runtime, bundle: Bundle, rule: dict[str, Any]) -> None:
    """cgroup v1 takes every line that begins with "a" for all devices. The node is /dev/kmsg, 1:11, to be written."""
    bundle.resources["devices"] = [DENY_ALL, {"allow": True, **rule}]
    bundle.process["capabilities"] = MKNOD
    assert runtime.output(bundle, KMSG) == "refused"


@pytest.mark.ours
def test_an_exception_within_a_wider_rule(runtime: Runtime, bundle: Bundle) -> None:
    """Of cgroup v1, whose kernel would pass over it, an error."""
    bundle.resources["devices"] = [DENY_ALL, {"allow": True, "type": "c", "major": 1}, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rw"}]
    bundle.process["capabilities"] = MKNOD
    if cgroup_mode() == "v2":
        assert runtime.output(bundle, KMSG) == "refused"
    else:
        container = runtime.create(bundle, check=False)
        assert container.result.code == 1
        assert "/linux/resources/devices/2: cgroup v1 cannot make an exception within a rule for more devices" in container.stderr


def test_device_outside_of_dev(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [{"path": "/elsewhere/zero", "type": "c", "major": 1, "minor": 5}]
    assert runtime.output(bundle, "head -c 1 /elsewhere/zero | wc -c") == "1"
    assert Path(bundle.rootfs / "elsewhere/zero").exists()
