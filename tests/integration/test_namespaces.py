# SPDX-License-Identifier: Apache-2.0
"""Namespaces: new ones, joined ones, inherited ones, wrong ones; hostname and domainname; time offsets; user namespaces."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("containers")

NAMES = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt", "cgroup": "cgroup", "user": "user", "time": "time"}


def namespace_of(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{NAMES[kind]}")


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process in namespaces of its own, to be joined."""
    argv = ["unshare", "--net", "--ipc", "--uts", "--cgroup", sys.executable, "-S", "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process.pid
        assert process.stdin
        process.stdin.close()


@pytest.mark.requires("root")
@pytest.mark.v2
@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup"])
def test_new_namespace(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    container = runtime.create(bundle.namespace(kind))
    assert namespace_of(container.pid, kind) != namespace_of("self", kind)


@pytest.mark.requires("root")
@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "cgroup"])
def test_inherited_namespace(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    container = runtime.create(bundle.without_namespace(kind))
    assert namespace_of(container.pid, kind) == namespace_of("self", kind)


@pytest.mark.requires("root")
@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup"])
def test_joined_namespace(runtime: Runtime, bundle: Bundle, sleeper: int, kind: str) -> None:
    if kind == "uts":
        del bundle.config["hostname"]
    container = runtime.create(bundle.namespace(kind, f"/proc/{sleeper}/ns/{NAMES[kind]}"))
    assert namespace_of(container.pid, kind) == namespace_of(sleeper, kind)


@pytest.mark.requires("root")
def test_joined_pid_namespace_of_another_container(runtime: Runtime, make_bundle) -> None:
    first = runtime.start_new(make_bundle())
    second = make_bundle().namespace("pid", f"/proc/{first.known_pid}/ns/pid")
    joined = runtime.start_new(second.args("sleep", "1000"))
    assert namespace_of(joined.known_pid, "pid") == namespace_of(first.known_pid, "pid")
    joined.stop()
    assert first.status == "running"


def test_namespace_of_the_wrong_kind_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.namespace("ipc", "/proc/self/ns/net"), check=False)
    assert container.result.code == 1
    assert "namespace" in container.stderr
    assert not container.exists()


@pytest.mark.parametrize("path", ["/nonexistent/ns", "/etc/passwd"])
@pytest.mark.ours
def test_namespace_path_that_is_none_is_refused(runtime: Runtime, bundle: Bundle, path: str) -> None:
    container = runtime.create(bundle.namespace("network", path), check=False)
    assert container.result.code == 1
    assert path in container.stderr
    assert not container.exists()


def test_duplicate_namespace_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "ipc"})
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert not container.exists()


def test_unknown_namespace_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.namespace("weather"), check=False)
    assert container.result.code == 1
    assert "weather" in container.stderr


def test_loopback_is_up(runtime: Runtime, bundle: Bundle) -> None:
    assert "127.0.0.1" in runtime.output(bundle, "ip -4 addr show lo")


def test_hostname(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hostname"] = "somewhere"
    assert runtime.output(bundle, "hostname") == "somewhere"


@pytest.mark.ours
def test_domainname(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["domainname"] = "example.org"
    assert runtime.output(bundle, "cat /proc/sys/kernel/domainname") == "example.org"


def test_hostname_without_uts_namespace_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.without_namespace("uts"), check=False)
    assert container.result.code == 1
    assert "hostname" in container.stderr


# ---- user namespaces ----------------------------------------------------------------------------------------------------


@pytest.mark.requires("root", "userns")
@pytest.mark.v2
def test_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    out = runtime.output(bundle.user_namespace(), "id -u; cat /proc/self/uid_map /proc/self/setgroups; touch /made; stat -c %u /made")
    uid, uid_map, setgroups, owner = out.splitlines()
    assert uid == "0"
    assert uid_map.split() == ["0", "100000", "65536"]
    assert setgroups == "allow"
    assert owner == "0"
    assert (bundle.rootfs / "made").stat().st_uid == 100000


@pytest.mark.requires("root", "userns")
def test_user_namespace_has_its_capabilities(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    bundle.process["capabilities"] = {kind: ["CAP_SYS_ADMIN", "CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}
    out = runtime.output(bundle, "grep CapEff /proc/self/status; mount -t tmpfs none /mnt && echo mounted")
    assert int(out.split()[1], 16) == 1 << 21 | 1 << 0
    assert "mounted" in out


@pytest.mark.requires("root", "userns")
def test_user_namespace_with_unprivileged_user(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 7]}
    container = runtime.start_new(bundle)
    status = Path(f"/proc/{container.known_pid}/status").read_text()
    assert "Uid:\t101000\t101000" in status
    assert "Groups:\t100005 100007" in status


@pytest.mark.requires("root", "userns")
def test_user_namespace_owns_the_other_namespaces(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"] = {kind: ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    out = runtime.output(bundle.user_namespace(), "hostname other && hostname; ip link set lo down && echo net")
    assert out.splitlines() == ["other", "net"]


@pytest.mark.requires("root", "userns")
def test_joined_user_namespace(runtime: Runtime, make_bundle) -> None:
    first = runtime.start_new(make_bundle().user_namespace())
    second = make_bundle().user_namespace()
    second.namespace("user", f"/proc/{first.known_pid}/ns/user")
    del second.linux["uidMappings"], second.linux["gidMappings"]
    joined = runtime.start_new(second)
    assert namespace_of(joined.known_pid, "user") == namespace_of(first.known_pid, "user")
    assert Path(f"/proc/{joined.known_pid}/uid_map").read_text().split() == ["0", "100000", "65536"]


@pytest.mark.requires("root", "userns")
def test_pod_with_user_namespace(runtime: Runtime, make_bundle) -> None:
    """A second container joins user, network, ipc and uts of a first, as the containers of a pod do."""
    first = runtime.start_new(make_bundle().user_namespace())
    second = make_bundle().user_namespace()
    del second.linux["uidMappings"], second.linux["gidMappings"], second.config["hostname"]
    for kind in ("user", "network", "ipc", "uts"):
        second.namespace(kind, f"/proc/{first.known_pid}/ns/{NAMES[kind]}")
    joined = runtime.start_new(second)
    for kind in ("user", "network", "ipc", "uts"):
        assert namespace_of(joined.known_pid, kind) == namespace_of(first.known_pid, kind)
    assert namespace_of(joined.known_pid, "mount") != namespace_of(first.known_pid, "mount")


@pytest.mark.requires("root")
@pytest.mark.parametrize("defect", ["no mapping", "mapping without namespace"])
@pytest.mark.ours
def test_user_namespace_and_mappings_go_together(runtime: Runtime, bundle: Bundle, defect: str) -> None:
    bundle.user_namespace()
    if defect == "no mapping":
        del bundle.linux["uidMappings"]
    else:
        bundle.without_namespace("user")
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert not container.exists()


# ---- time namespaces ----------------------------------------------------------------------------------------------------


@pytest.mark.requires("timens")
@pytest.mark.ours
@pytest.mark.parametrize("user", [False, True])
def test_time_offsets(runtime: Runtime, bundle: Bundle, user: bool) -> None:
    if user:
        bundle.user_namespace()
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 7881, "nanosecs": 2718281}, "boottime": {"secs": 1337000, "nanosecs": 3141519}}
    out = runtime.output(bundle, "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[:2]}
    assert rows == {"monotonic": ["7881", "2718281"], "boottime": ["1337000", "3141519"]}
    assert int(out.splitlines()[2]) >= 1337000


@pytest.mark.ours
def test_time_offsets_without_time_namespace_are_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 1}}
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "timeOffsets" in container.stderr


@pytest.mark.requires("root")
@pytest.mark.v2
def test_shared_pid_namespace_of_the_host_is_cleaned_up(runtime: Runtime, bundle: Bundle) -> None:
    """Without a pid namespace of its own, what the program started ends with delete --force all the same."""
    bundle.without_namespace("pid").shell("sleep 900 & sleep 901 & wait")
    container = runtime.start_new(bundle)
    wait_until(lambda: len(Path(f"/proc/{container.known_pid}/task/{container.known_pid}/children").read_text().split()) == 2, "the children")
    container.delete("--force")
    assert not container.exists()


# ---- what belongs to the root of a user namespace


@pytest.mark.requires("root", "userns")
@pytest.mark.ours
@pytest.mark.parametrize("user", [0, 1000])
def test_pipes_on_stdio_belong_to_the_container(runtime: Runtime, bundle: Bundle, user: int) -> None:
    """/dev/stdout can be opened again. The host's /dev/null, which is stdin here, stays whose it is."""
    bundle.user_namespace()
    bundle.process["user"] = {"uid": user, "gid": user}
    before = os.stat("/dev/null")
    script = "stat -L -c %u /proc/self/fd/1 >/dev/null; echo again >/dev/stdout && stat -L -c %u /proc/self/fd/1 && stat -L -c %u /proc/self/fd/2"
    assert runtime.output(bundle, script).split() == ["again", str(user), str(user)]
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


@pytest.mark.requires("root", "userns")
@pytest.mark.ours
def test_pipes_on_stdio_belong_to_a_joined_user_namespace(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    pod = runtime.create(make_bundle().user_namespace())
    member = make_bundle().namespace("user", f"/proc/{pod.pid}/ns/user").chown(100000)
    assert runtime.output(member, "echo again >/dev/stdout && stat -L -c %u /proc/self/fd/1").split() == ["again", "0"]
    member.linux["uidMappings"] = member.linux["gidMappings"] = [{"containerID": 0, "hostID": 5, "size": 1}]
    refused = runtime.create(member, check=False)
    assert "not the mappings of the user namespace that is joined" in refused.stderr


@pytest.mark.requires("root", "userns")
@pytest.mark.ours
def test_files_on_stdio_stay_the_hosts(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.user_namespace()
    container = runtime.create(bundle.args("true"))
    container.start()
    assert container.wait() == 0
    assert os.stat(container.stdout_file).st_uid == 0


@pytest.mark.requires("root", "userns")
@pytest.mark.ours
def test_message_queues_belong_to_the_containers_root(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace()
    bundle.mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"])
    assert runtime.output(bundle, "stat -c '%u %g' /dev/mqueue") == "0 0"
