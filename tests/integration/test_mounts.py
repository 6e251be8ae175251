# SPDX-License-Identifier: Apache-2.0
"""Mounts: order, flags, propagation, missing destinations, binds, tmpfs, links on the way, the read-only root."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = pytest.mark.requires("containers")


def mount_line(text: str, destination: str) -> list[str]:
    lines = [line.split() for line in text.splitlines() if line.split()[4] == destination]
    assert lines, f"nothing is mounted on {destination}:\n{text}"
    return lines[-1]


def mounted(runtime: Runtime, bundle: Bundle, destination: str) -> tuple[set[str], list[str]]:
    """The mount's own options, and the optional fields (propagation)."""
    fields = mount_line(runtime.output(bundle, "cat /proc/self/mountinfo"), destination)
    return set(fields[5].split(",")), fields[6 : fields.index("-")]


@pytest.fixture
def source(place: Path) -> Path:
    directory = place / "source"
    directory.mkdir()
    (directory / "file").write_text("from outside\n")
    return directory


@pytest.fixture
def host_mount(place: Path) -> Iterator[Path]:
    """A read-only, nosuid file system of the host."""
    target = place / "host-mount"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,nosuid", "none", target], check=True)
    yield target
    subprocess.run(["umount", target], check=True)


@pytest.mark.v2
def test_bind_mount_of_a_directory(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/data", source, "bind", ["rbind"])
    assert runtime.output(bundle, "cat /data/file; echo inside > /data/new") == "from outside"
    assert (source / "new").read_text() == "inside\n"


def test_bind_mount_of_a_file_makes_a_file(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/deep/er/file", source / "file", "bind", ["bind", "ro"])
    assert runtime.output(bundle, "cat /deep/er/file; echo x 2>/dev/null > /deep/er/file || echo refused").split("\n") == ["from outside", "refused"]


def test_missing_directories_are_made(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/a/b/c", source, "bind", ["rbind"])
    assert runtime.output(bundle, "cat /a/b/c/file; stat -c %a /a /a/b").split("\n") == ["from outside", "755", "755"]


def test_relative_source_is_below_the_bundle(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.path / "beside").mkdir()
    (bundle.path / "beside/file").write_text("beside\n")
    bundle.mount("/beside", "beside", "bind", ["bind"])
    assert runtime.output(bundle, "cat /beside/file") == "beside"


def test_relative_paths_may_lead_above_the_bundle(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    """A directory of the same name in the bundle is not the one that is meant."""
    (bundle.path / "source").mkdir()
    os.rename(bundle.rootfs, bundle.path.parent / "above")
    (bundle.path / "above").mkdir()
    bundle.config["root"]["path"] = "../above"
    bundle.mount("/mnt", "../source", "bind", ["bind"])
    assert runtime.output(bundle, "cat /mnt/file") == "from outside"



@pytest.mark.parametrize("kind", ["bind", "none", "", "ext4", None])
def test_bind_is_said_by_the_options_not_by_the_type(runtime: Runtime, bundle: Bundle, source: Path, kind: str | None) -> None:
    bundle.mount("/data", source, kind, ["bind"])
    assert runtime.output(bundle, "cat /data/file") == "from outside"


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", *(pytest.param(flag, marks=pytest.mark.requires("root")) for flag in ("noatime", "nodiratime"))])
def test_flag_on_a_bind(runtime: Runtime, bundle: Bundle, source: Path, option: str) -> None:
    flags, _ = mounted(runtime, bundle.mount("/data", source, "bind", ["rbind", option]), "/data")
    assert option in flags


@pytest.mark.requires("root")
@pytest.mark.ours  # from runc 1.2 on
@pytest.mark.parametrize(("option", "kept"), [("ro", True), ("atime", True), ("relatime", False), ("nodiratime", False)])
def test_a_bind_notes_accesses_as_its_source_unless_told(runtime: Runtime, bundle: Bundle, place: Path, option: str, kept: bool) -> None:
    own = place / "mounted"
    own.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noatime", "none", own], check=True)
    try:
        flags, _ = mounted(runtime, bundle.mount("/data", own, "bind", ["bind", option]), "/data")
    finally:
        subprocess.run(["umount", own], check=True)
    assert ("noatime" in flags) == kept
    assert option in flags or option == "atime"


@pytest.mark.ours  # newer runc does so, too
def test_a_destination_may_be_written_with_the_root_file_system_before_it(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount(f"{bundle.rootfs}/data", source, "bind", ["bind"])
    assert runtime.output(bundle, "cat /data/file") == "from outside"


@pytest.mark.ours
def test_nosymfollow(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    flags, _ = mounted(runtime, bundle.mount("/data", source, "bind", ["rbind", "nosymfollow"]), "/data")
    assert "nosymfollow" in flags


def test_later_option_wins(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    flags, _ = mounted(runtime, bundle.mount("/data", source, "bind", ["rbind", "ro", "nosuid", "rw"]), "/data")
    assert {"rw", "nosuid"} <= flags


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "noatime"])
def test_flag_on_a_tmpfs(runtime: Runtime, bundle: Bundle, option: str) -> None:
    flags, _ = mounted(runtime, bundle.mount("/fresh", "tmpfs", "tmpfs", [option]), "/fresh")
    assert option in flags


@pytest.mark.requires("root")
def test_tmpfs_data(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/fresh", "tmpfs", "tmpfs", ["size=64k", "mode=700", "uid=7"])
    assert runtime.output(bundle, "stat -c '%a %u' /fresh; df -k /fresh | tail -n 1").split()[:4] == ["700", "7", "tmpfs", "64"]


def test_tmpfs_takes_the_mode_of_its_target(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/tmp", "tmpfs", "tmpfs")
    assert runtime.output(bundle, "stat -c %a /tmp") == "1777"


@pytest.mark.ours
def test_tmpfs_given_mode_wins_over_the_targets(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/tmp", "tmpfs", "tmpfs", ["mode=711"])
    assert runtime.output(bundle, "stat -c %a /tmp") == "711"


def test_tmpcopyup(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "var/file").write_text("below\n")
    (bundle.rootfs / "var/directory").mkdir(mode=0o750)
    os.symlink("file", bundle.rootfs / "var/link")
    bundle.mount("/var", "tmpfs", "tmpfs", ["tmpcopyup"])
    out = runtime.output(bundle, "cat /var/file; readlink /var/link; stat -c %a /var/directory; echo new > /var/made; stat -f -c %T /var")
    assert out.split()[:3] == ["below", "file", "750"]
    assert not (bundle.rootfs / "var/made").exists()


@pytest.mark.parametrize(("option", "field"), [("rshared", "shared"), ("rslave", None), ("rprivate", None), ("private", None), ("unbindable", "unbindable")])
def test_propagation_of_a_bind(runtime: Runtime, bundle: Bundle, source: Path, option: str, field: str | None) -> None:
    _, optional = mounted(runtime, bundle.mount("/data", source, "bind", ["rbind", option]), "/data")
    names = {one.split(":")[0] for one in optional}
    assert (field in names) if field else not names & {"shared", "unbindable"}


@pytest.mark.parametrize(("propagation", "wanted"), [(None, set()), ("private", set()), ("shared", {"shared"}), ("unbindable", {"unbindable"})])
def test_rootfs_propagation(runtime: Runtime, bundle: Bundle, propagation: str | None, wanted: set[str]) -> None:
    if propagation:
        bundle.linux["rootfsPropagation"] = propagation
    _, optional = mounted(runtime, bundle, "/")
    assert {one.split(":")[0] for one in optional} & {"shared", "unbindable"} == wanted


def test_readonly_root(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    out = runtime.output(bundle, "touch /made 2>/dev/null || echo refused; touch /dev/shm/made && echo shm")
    assert out.split() == ["refused", "shm"]
    assert not (bundle.rootfs / "made").exists()


def test_writable_root(runtime: Runtime, bundle: Bundle) -> None:
    runtime.output(bundle, "touch /made")
    assert (bundle.rootfs / "made").exists()


def test_mounts_apply_in_their_order(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/over", "tmpfs", "tmpfs").mount("/over/below", source, "bind", ["bind"])
    assert runtime.output(bundle, "cat /over/below/file") == "from outside"


def test_later_mount_hides_an_earlier_one(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/over", source, "bind", ["bind"]).mount("/over", "tmpfs", "tmpfs")
    assert runtime.output(bundle, "ls /over") == ""


def test_readonly_recursive(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    if runtime.name == "runc":
        pytest.skip("runc of this age")
    bundle.mount("/inner", "tmpfs", "tmpfs")
    bundle.mount("/outer", "/sys", "bind", ["rbind", "rro"])
    text = runtime.output(bundle, "cat /proc/self/mountinfo")
    rows = [line.split() for line in text.splitlines() if line.split()[4].startswith("/outer")]
    assert len(rows) > 1
    assert all("ro" in row[5].split(",") for row in rows)


def test_absolute_link_stays_inside(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    """A link in the rootfs that leads out is followed inside the rootfs."""
    os.symlink("/etc", bundle.rootfs / "link")
    bundle.mount("/link/made-by-mount", source / "file", "bind", ["bind"])
    assert runtime.output(bundle, "cat /etc/made-by-mount") == "from outside"
    assert not Path("/etc/made-by-mount").exists()


def test_dotdot_link_stays_inside(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    os.symlink("../../../../../../../../../../../../var", bundle.rootfs / "link")
    bundle.mount("/link/made-by-mount/directory", source, "bind", ["bind"])
    assert runtime.output(bundle, "cat /var/made-by-mount/directory/file") == "from outside"
    assert not Path("/var/made-by-mount").exists()


@pytest.mark.parametrize("kind", ["new", "bound"])
@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_that_are_links_are_refused(runtime: Runtime, bundle: Bundle, name: str, kind: str) -> None:
    (bundle.rootfs / name).rmdir()
    os.symlink("tmp", bundle.rootfs / name)
    if kind == "bound":
        bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if not mount["destination"].startswith(f"/{name}")]
        bundle.mount(f"/{name}", Path(f"/{name}"), "bind", ["rbind"])
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert f"/{name}" in container.stderr
    assert not container.exists()


@pytest.mark.parametrize("destination", ["/proc/1", "/proc/self/attr", "/proc/sys/kernel"])
def test_mount_below_proc_is_refused(runtime: Runtime, bundle: Bundle, source: Path, destination: str) -> None:
    container = runtime.create(bundle.mount(destination, source, "bind", ["bind"]), check=False)
    assert container.result.code == 1
    assert "/proc" in container.stderr


def test_lxcfs_style_mount_is_allowed(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/proc/uptime", source / "file", "bind", ["bind"])
    assert runtime.output(bundle, "cat /proc/uptime") == "from outside"


@pytest.mark.parametrize(
    ("options", "text"),
    [(["rbind", "size=5k"], "size=5k"), (["bind", "nonsense"], "nonsense")],
)
@pytest.mark.ours
def test_data_on_a_bind_is_ignored(runtime: Runtime, bundle: Bundle, source: Path, options: list[str], text: str) -> None:
    """As other runtimes do; `validate` tells of it."""
    assert runtime.output(bundle.mount("/data", source, "bind", options), "cat /data/file") == "from outside"
    said = runtime("validate", bundle.path, check=False)
    assert text in said.out + said.err and "ignored" in said.out + said.err


def test_missing_source_is_an_error_that_names_it(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.mount("/data", "/nonexistent/source", "bind", ["bind"]), check=False)
    assert container.result.code == 1
    assert "/nonexistent/source" in container.stderr
    assert not container.exists()


@pytest.mark.ours
def test_unknown_filesystem_is_an_error(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.mount("/data", "none", "nosuchfs"), check=False)
    assert container.result.code == 1
    assert "nosuchfs" in container.stderr
    assert not container.exists()


def test_mounts_do_not_reach_the_host(runtime: Runtime, bundle: Bundle) -> None:
    runtime.start_new(bundle.mount("/fresh", "tmpfs", "tmpfs"))
    assert str(bundle.path) not in Path("/proc/self/mountinfo").read_text()


def test_old_root_is_gone(runtime: Runtime, bundle: Bundle) -> None:
    text = runtime.output(bundle, "cat /proc/self/mountinfo")
    assert str(bundle.path.parent) not in [line.split()[4] for line in text.splitlines()]
    assert len([line for line in text.splitlines() if line.split()[4] == "/"]) == 1


def test_no_pivot(runtime: Runtime, bundle: Bundle) -> None:
    bundle.shell("ls /")
    assert "etc" in runtime.run(bundle, "--no-pivot").out


def test_default_links_in_dev(runtime: Runtime, bundle: Bundle) -> None:
    out = runtime.output(bundle, "cd /dev && for one in fd stdin stdout stderr ptmx; do readlink $one; done")
    assert out.split() == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]


def test_relative_destination_is_below_the_root(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("data", source, "bind", ["bind"])
    assert runtime.output(bundle, "cat /data/file") == "from outside"


@pytest.mark.requires("root", "userns")
@pytest.mark.v2
def test_bind_from_a_private_directory_into_a_user_namespace(runtime: Runtime, bundle: Bundle, source: Path) -> None:
    private = source / "private"
    private.mkdir()
    (private / "inner").mkdir()
    (private / "inner/file").write_text("reached\n")
    private.chmod(0o700)
    bundle.user_namespace().mount("/data", private / "inner", "bind", ["bind"])
    assert runtime.output(bundle, "cat /data/file") == "reached"


@pytest.mark.requires("root", "userns")
@pytest.mark.parametrize("flag", ["rw", "suid"])
def test_flags_of_host_mounts_stay_locked_in_a_user_namespace(runtime: Runtime, bundle: Bundle, host_mount: Path, flag: str) -> None:
    """What the host's mount forbids, root of the container cannot allow."""
    bundle.user_namespace().mount("/host", host_mount, "bind", ["bind", "ro"])
    bundle.process["capabilities"] = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    rest = {"rw": "nosuid,rw", "suid": "ro,suid"}[flag]
    assert runtime.output(bundle, f"mount -o remount,bind,{rest} /host 2>/dev/null && echo cleared || echo locked") == "locked"


@pytest.fixture
def mappable(source: Path) -> Iterator[Path]:
    """A directory whose file system knows id mappings: an overlay does not, a tmpfs does since Linux 6.3."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", source], capture_output=True, text=True, check=True).stdout.strip()
    if kind != "overlayfs":
        yield source
        return
    subprocess.run(["mount", "-t", "tmpfs", "none", source], check=True)
    (source / "file").touch()
    yield source
    subprocess.run(["umount", source], check=True)


@pytest.mark.requires("root", "userns", "kernel:5.12")
@pytest.mark.ours
def test_idmapped_bind(runtime: Runtime, bundle: Bundle, mappable: Path) -> None:
    source = mappable
    os.chown(source / "file", 1000, 1000)
    mapping = [{"containerID": 1000, "hostID": 5000, "size": 1}]
    bundle.mount("/data", source, "bind", ["bind", "idmap"], uidMappings=mapping, gidMappings=mapping)
    assert runtime.output(bundle, "stat -c '%u %g' /data/file") == "5000 5000"


@pytest.mark.requires("root", "userns", "kernel:6.3")
@pytest.mark.ours
@pytest.mark.parametrize("user_namespace", [False, True])
def test_idmapped_tmpfs(runtime: Runtime, bundle: Bundle, user_namespace: bool) -> None:
    """What the container's root makes there belongs to whom the mapping says, on the filesystem itself."""
    mapping = [{"containerID": 0, "hostID": 0, "size": 70000}]
    if user_namespace:
        bundle.user_namespace()
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.mount("/data", "tmpfs", "tmpfs", ["nosuid", "mode=777"], uidMappings=mapping, gidMappings=mapping)
    assert runtime.output(bundle, "touch /data/a && stat -c '%u %g' /data/a; stat -f -c %T /data") == "0 0\ntmpfs"


@pytest.mark.requires("root", "kernel:5.12")
@pytest.mark.ours
def test_a_filesystem_without_mappings_is_named(runtime: Runtime, bundle: Bundle) -> None:
    mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]
    bundle.mount("/data", "none", "ramfs", [], uidMappings=mapping, gidMappings=mapping)
    assert "/uidMappings: map the ids of a new ramfs: invalid argument" in runtime.create(bundle, check=False).result.err


@pytest.mark.parametrize("target", ["/proc/kcore", "/sys/firmware"])
def test_masked_path(runtime: Runtime, bundle: Bundle, target: str) -> None:
    if not Path(target).exists():
        pytest.skip(f"requires {target}")
    out = runtime.output(bundle, f"if [ -d {target} ]; then ls -A {target}; else cat {target}; fi | wc -c")
    assert out == "0"


def test_masked_file_and_directory_of_the_rootfs(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "secret").write_text("secret\n")
    (bundle.rootfs / "secrets").mkdir()
    (bundle.rootfs / "secrets/one").write_text("secret\n")
    bundle.linux["maskedPaths"] += ["/secret", "/secrets", "/secrets", "/not/there"]
    out = runtime.output(bundle, "cat /secret; ls -A /secrets; touch /secrets/x 2>/dev/null || echo refused")
    assert out == "refused"


def test_readonly_path(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "kept").mkdir()
    bundle.linux["readonlyPaths"] += ["/kept", "/not/there"]
    out = runtime.output(bundle, "touch /kept/x 2>/dev/null || echo refused; touch /free && echo free")
    assert out.split() == ["refused", "free"]


def test_proc_sys_is_readonly(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.output(bundle, "echo 1 2>/dev/null > /proc/sys/vm/drop_caches || echo refused") == "refused"


def test_sysctl(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345678", "net/ipv4/conf/lo/forwarding": "1"}
    out = runtime.output(bundle, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/net/ipv4/conf/lo/forwarding")
    assert out.split() == ["1", "12345678", "1"]


@pytest.mark.parametrize(
    ("key", "drop"),
    [("kernel.threads-max", None), ("vm.swappiness", None), ("kernel.shmmax", "ipc"), ("net.ipv4.ip_forward", "network"), ("kernel.hostname", None)],
)
def test_sysctl_of_the_host_is_refused(runtime: Runtime, bundle: Bundle, key: str, drop: str | None) -> None:
    if drop:
        bundle.without_namespace(drop)
    bundle.linux["sysctl"] = {key: "1"}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert key in container.stderr
