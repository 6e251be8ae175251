# SPDX-License-Identifier: Apache-2.0
"""What the service does on the host besides processes: root filesystems, memory, statistics, options."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import requirements
from harness.bundle import Bundle
from harness.criu import KIT, kit
from wherry_shim import rootfs
from wherry_shim.errors import INVALID_ARGUMENT, NOT_FOUND, UNKNOWN, ShimError
from wherry_shim.options import read

from .driver import Remote, Server, spec, unpack

pytestmark = pytest.mark.requires("root")
RUNC, ENGINE = "containerd.runc.v1.Options", "runtimeoptions.v1.Options"


def mounted(path: Path) -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line.split()[4]]


def moved_rootfs(bundle: Bundle, place: Path) -> Path:
    """The bundle's root filesystem somewhere else, and an empty directory in its place."""
    lower = place / "lower"
    bundle.rootfs.rename(lower)
    bundle.rootfs.mkdir()
    return lower


def life(server: Server, bundle: Bundle, **more: object) -> int:
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path), **more)
    server.call("Start", id="a")
    status: int = server.call("Wait", id="a")["exit_status"]
    server.call("Delete", id="a")
    return status


def test_a_bind_for_a_root(server: Server, bundle: Bundle, place: Path) -> None:
    lower = moved_rootfs(bundle, place)
    bundle.shell("echo x >/file && exit 1; exit 5")
    mounts = [{"type": "bind", "source": str(lower), "options": ["rbind", "ro"]}]
    assert life(server, bundle, rootfs=mounts) == 5
    assert not mounted(bundle.path)
    assert server.events[0][1]["rootfs"] == mounts


def test_an_overlay_for_a_root(server: Server, bundle: Bundle, place: Path) -> None:
    """Its upper directory is on a tmpfs: not every filesystem can have one."""
    lower = moved_rootfs(bundle, place)
    (place / "disk").mkdir()
    rootfs.mount_all([{"type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}], str(place / "disk"))
    try:
        for name in ("upper", "work"):
            (place / "disk" / name).mkdir()
        options = ["index=off", f"workdir={place}/disk/work", f"upperdir={place}/disk/upper", f"lowerdir={lower}"]
        bundle.shell("echo x >/file; exit 6")
        assert life(server, bundle, rootfs=[{"type": "overlay", "source": "overlay", "options": options}]) == 6
        assert (place / "disk/upper/file").read_text() == "x\n"
        assert not mounted(bundle.path)
    finally:
        rootfs.unmount_all(str(place / "disk"))


def layers(place: Path, count: int) -> list[str]:
    """With names so long that all of them do not fit into a page."""
    found = []
    for number in range(count):
        layer = place / f"layer-{number:04}-{'x' * 60}"
        layer.mkdir()
        (layer / f"of{number}").write_text("")
        found.append(str(layer))
    return found


@pytest.mark.parametrize("new", [True, False])
def test_an_overlay_of_many_layers(place: Path, monkeypatch: pytest.MonkeyPatch, new: bool) -> None:
    """By the mount calls of newer kernels, and by short names on older ones."""
    if not new:
        monkeypatch.setattr(rootfs.mounts, "fs_open", lambda kind: (_ for _ in ()).throw(OSError(38, "not here")))
    target = place / "target"
    target.mkdir()
    lowers = layers(place, 100)
    options = ["ro", "index=off", "lowerdir=" + ":".join(lowers)]
    assert len(options[2]) > 8192
    rootfs.mount_all([{"type": "overlay", "source": "overlay", "options": options}], str(target))
    try:
        assert len(os.listdir(target)) == 100
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        rootfs.unmount_all(str(target))
    assert not mounted(target)
    rootfs.unmount_all(str(target))


def test_a_mount_that_fails_takes_the_others_along(server: Server, bundle: Bundle, place: Path) -> None:
    lower = moved_rootfs(bundle, place)
    bundle.save()
    mounts = [{"type": "bind", "source": str(lower), "options": ["rbind"]}, {"type": "bind", "source": "/nowhere", "target": "mnt", "options": ["rbind"]}]
    error = server.refused("Create", id="a", bundle=str(bundle.path), rootfs=mounts)
    assert error.code == UNKNOWN and "failed to mount rootfs component 1" in error.text
    assert not mounted(bundle.path)
    outside = [{"type": "bind", "source": str(lower), "target": "../..", "options": ["rbind"]}]
    assert server.refused("Create", id="a", bundle=str(bundle.path), rootfs=outside).code == INVALID_ARGUMENT
    bundle.args("/nowhere").save()
    assert server.refused("Create", id="a", bundle=str(bundle.path), rootfs=mounts[:1]).code == UNKNOWN
    assert not mounted(bundle.path)


def test_a_mount_below_the_root(server: Server, bundle: Bundle, place: Path) -> None:
    lower = moved_rootfs(bundle, place)
    (place / "data").mkdir()
    (place / "data/file").write_text("")
    bundle.shell("[ -e /mnt/file ] && exit 4")
    mounts = [{"type": "bind", "source": str(lower), "options": ["rbind"]}, {"type": "bind", "source": str(place / "data"), "target": "/mnt", "options": ["rbind"]}]
    assert life(server, bundle, rootfs=mounts) == 4
    assert not mounted(bundle.path)


EATER = "exec tail /dev/zero"


@pytest.mark.skipif(bool(requirements.controller("memory")), reason="no memory controller")
def test_a_lack_of_memory(server: Server, bundle: Bundle) -> None:
    """It is told before the end that it caused, and the record has it as well."""
    bundle.resources["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    bundle.shell(EATER).save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    assert server.call("Wait", id="a")["exit_status"] == 137
    assert server.topics() == ["create", "start", "oom", "exit"]
    record = json.loads((Path(server.service.setting.root) / "ns/a/exit").read_text())
    assert (record["signal"], record["oom"]) == (9, 1)


@pytest.mark.skipif(bool(requirements.controller("memory")), reason="no memory controller")
def test_a_lack_of_memory_of_another_process(server: Server, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    server.call("Exec", id="a", exec_id="e", spec=spec("/bin/sh", "-c", EATER))
    server.call("Start", id="a", exec_id="e")
    assert server.call("Wait", id="a", exec_id="e")["exit_status"] == 137
    server.until(lambda: "oom" in server.topics())
    server.loop.step(0.1)
    assert server.topics().count("oom") == 1


def test_statistics(server: Server, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 64 << 20}
    bundle.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000").save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    time.sleep(0.3)
    stats = server.call("Stats", id="a")["stats"]
    found = stats["message"]
    if stats["type_url"].endswith("v1.Metrics"):
        assert found["memory"]["usage"]["limit"] == 64 << 20
        assert found["cpu"]["usage"]["total"] > 0 and len(found["cpu"]["usage"]["per_cpu"]) >= 1
        assert found["memory"]["total_pg_fault"] > 0
    else:
        assert found["memory"]["usage_limit"] == 64 << 20
        assert found["cpu"]["usage_usec"] > 0 and found["memory"]["pgfault"] > 0
    assert found["pids"]["current"] >= 1


def test_statistics_are_what_the_messages_have(server: Server, bundle: Bundle) -> None:
    """What is found is encoded and comes back the same: no field is misspelt."""
    from wherry_shim import messages_rare, wire

    assert messages_rare
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    stats = server.call("Stats", id="a")["stats"]
    name = "cgroups" + stats["type_url"].split(".")[3].removeprefix("v") + ".Metrics"
    again = wire.decode(name, wire.encode(name, stats["message"]))

    def compare(given: object, got: object, place: str) -> None:
        if isinstance(given, dict):
            assert isinstance(got, dict)
            for key, value in given.items():
                assert key in got, f"{place}.{key}"
                compare(value, got[key], f"{place}.{key}")
        elif isinstance(given, list):
            assert isinstance(got, list) and len(given) == len(got)
            for index, value in enumerate(given):
                compare(value, got[index], f"{place}[{index}]")
        else:
            assert given == got, place

    compare(stats["message"], again, name)


def any_of(url: str, **fields: object) -> dict[str, object]:
    return {"type_url": url, "value": json.dumps(fields).encode()}


def test_options() -> None:
    assert read(None, unpack).root == ""
    assert read({"type_url": "", "value": b""}, unpack).no_pivot_root is False
    found = read(any_of(RUNC, root="/other/", no_pivot_root=True, systemd_cgroup=True, no_new_keyring=True, binary_name="crun"), unpack)
    assert (found.root, found.no_pivot_root, found.systemd_cgroup, found.no_new_keyring) == ("/other", True, True, True)
    body = 'SystemdCgroup = true\nRoot = "/third"\nNoPivotRoot = false\n'
    for url in (ENGINE, "cri." + ENGINE, "type.googleapis.com/" + ENGINE):
        found = read(any_of(url, config_body=body), lambda any: {key: value.encode() for key, value in unpack(any).items()})
        assert (found.root, found.systemd_cgroup) == ("/third", True)
    for wrong in (any_of("some.Thing"), any_of(RUNC, root="relative")):
        with pytest.raises(ShimError) as caught:
            read(wrong, unpack)
        assert caught.value.code == INVALID_ARGUMENT


def test_options_of_a_file(place: Path) -> None:
    (place / "options.toml").write_text('Root = "/fourth"\n')
    assert read(any_of(ENGINE, config_path=str(place / "options.toml")), unpack).root == "/fourth"
    with pytest.raises(ShimError, match="options:"):
        read(any_of(ENGINE, config_path=str(place / "missing")), unpack)


def test_a_root_of_its_own(server: Server, make_bundle: Callable[[], Bundle], place: Path) -> None:
    bundle = make_bundle().save()
    server.call("Create", id="a", bundle=str(bundle.path), options=any_of(RUNC, root=str(place / "elsewhere")))
    assert (place / "elsewhere/ns/a/record").exists()
    assert json.loads((bundle.path / "options.json").read_text())["root"] == str(place / "elsewhere/ns")
    assert server.refused("Create", id="b", bundle=str(bundle.path), options=any_of("some.Thing")).code == INVALID_ARGUMENT
    server.call("Delete", id="a")
    assert server.refused("Stats", id="a").code == NOT_FOUND


@pytest.fixture
def network() -> Iterator[tuple[str, ...]]:
    """A network namespace of our own that stands for the host, with a pair of devices: how to run something in it."""
    argv = ["unshare", "--net", sys.executable, "-S", "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
        inside = ("nsenter", f"--net=/proc/{process.pid}/ns/net")
        made = subprocess.run([*inside, "ip", "link", "add", "wherryt0", "type", "veth", "peer", "name", "wherryt1"], capture_output=True)
        if made.returncode:
            pytest.skip(f"veth devices cannot be made: {made.stderr.decode()}")
        yield inside
        process.stdin.close()


@pytest.mark.requires("command:ip")
def test_the_servers_own_part_of_a_create(network: tuple[str, ...], bundle: Bundle, place: Path) -> None:
    """Network devices are moved by the server while init waits with its monitor; one that is not there undoes everything."""
    bundle.linux["netDevices"] = {"wherryt0": {"name": "inside0"}}
    bundle.shell("ip link show inside0 && exit 5").save()
    server = Remote(place / "root", inside=network)
    try:
        server.call("Create", id="a", bundle=str(bundle.path))
        server.call("Start", id="a")
        assert server.call("Wait", id="a")["exit_status"] == 5
        server.call("Delete", id="a")
        with pytest.raises(ShimError, match=r"OCI runtime create failed: .*wherryt0"):
            server.call("Create", id="b", bundle=str(bundle.path))
        assert not (place / "root/ns/b").exists()
    finally:
        server.close()


@pytest.mark.requires("command:mmdebstrap", "command:patchelf")
def test_checkpoints(server: Server, bundle: Bundle, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on, one that ends with it."""
    if kit():
        pytest.skip(f"no CRIU 4: {kit()}")
    monkeypatch.setitem(os.environ, "PATH", f"{KIT}:{os.environ['PATH']}")
    bundle.save()
    server.call("Create", id="a", bundle=str(bundle.path))
    server.call("Start", id="a")
    assert server.refused("Checkpoint", id="a", path="images").code == INVALID_ARGUMENT
    try:
        assert server.call("Checkpoint", id="a", path=str(place / "images")) == {}
    except ShimError as error:
        if "Function not implemented" not in error.text:
            raise
        pytest.skip(f"the kernel lacks what CRIU needs: {error.text}")
    assert (place / "images/inventory.img").exists()
    assert server.call("State", id="a")["status"] == 2
    server.call("Checkpoint", id="a", path=str(place / "more"), options=any_of("containerd.runc.v1.CheckpointOptions", exit=True))
    assert server.call("Wait", id="a")["exit_status"] == 137
    assert server.call("Delete", id="a")["exit_status"] == 137
