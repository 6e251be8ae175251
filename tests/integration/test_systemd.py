# SPDX-License-Identifier: Apache-2.0
"""The cgroup manager systemd, on a host where systemd runs: what it tells of a container's unit, and that the unit ends with the container."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle, make_rootfs
from harness.everybody import as_user, install
from harness.runtime import Container, Runtime, wait_until

pytestmark = [pytest.mark.requires("root", "systemd", "cgroup-v2"), pytest.mark.v2, pytest.mark.ours]

MOUNT = Path("/sys/fs/cgroup")


@pytest.fixture
def systemd(runtime: Runtime) -> Iterator[Runtime]:
    """The runtime with --systemd-cgroup; what is left of its units fails the test."""
    runtime.options = ["--systemd-cgroup"]
    yield runtime
    runtime.clean_up()
    assert units(runtime.tag) == []


@pytest.fixture
def bundle(make_bundle: Callable[[], Bundle]) -> Bundle:
    found = make_bundle()
    del found.linux["cgroupsPath"]
    return found


def show(unit: str, *names: str) -> dict[str, str]:
    """What systemd says of a unit, nothing else."""
    done = subprocess.run(["systemctl", "show", unit, "-p", ",".join(names)], capture_output=True, text=True, check=True, timeout=30)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def loaded(unit: str) -> bool:
    return show(unit, "LoadState")["LoadState"] != "not-found"


def units(tag: str) -> list[str]:
    argv = ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"*{tag}*.scope", f"*{tag}*.slice"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    return [line.split()[0] for line in done.stdout.splitlines()]


def unit_of(container: Container) -> str:
    return f"wherry-{container.id}.scope"


def cgroup(container: Container, slice: str = "system.slice") -> Path:
    return MOUNT / slice / unit_of(container)


def members(path: Path) -> list[int]:
    return sorted(int(line) for line in (path / "cgroup.procs").read_text().split())


# ---- limits


def test_limits_are_what_systemd_reads_back(systemd: Runtime, bundle: Bundle) -> None:
    bundle.resources.update(
        memory={"limit": 50331648, "reservation": 33554432, "swap": 67108864},
        pids={"limit": 21},
        cpu={"shares": 2048, "quota": 33333, "period": 50000},
    )
    container = systemd.start_new(bundle)
    found = show(unit_of(container), "MemoryMax", "MemoryLow", "TasksMax", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "CPUWeight")
    assert found == {
        "MemoryMax": "50331648",
        "MemoryLow": "33554432",
        "TasksMax": "21",
        "CPUQuotaPerSecUSec": "670ms",  # rounded up to 10 ms
        "CPUQuotaPeriodUSec": "50ms",
        "CPUWeight": "174",
    }
    place = cgroup(container)
    files = {name: (place / name).read_text().strip() for name in ("memory.max", "memory.low", "pids.max", "cpu.max", "cpu.weight")}
    assert files == {"memory.max": "50331648", "memory.low": "33554432", "pids.max": "21", "cpu.max": "33333 50000", "cpu.weight": "174"}
    assert container.pid in members(place)


def test_the_unit_itself(systemd: Runtime, bundle: Bundle) -> None:
    container = systemd.create(bundle)
    found = show(unit_of(container), "Delegate", "DefaultDependencies", "CollectMode", "Slice", "Description", "MemoryAccounting", "ActiveState", "Transient")
    assert found == {
        "Delegate": "yes",
        "DefaultDependencies": "no",
        "CollectMode": "inactive-or-failed",
        "Slice": "system.slice",
        "Description": f"wherry container {container.id}",
        "MemoryAccounting": "yes",
        "ActiveState": "active",
        "Transient": "yes",
    }
    assert members(cgroup(container)) == [container.pid], "nobody but init"


def test_limits_survive_a_daemon_reload(systemd: Runtime, bundle: Bundle) -> None:
    bundle.resources.update(memory={"limit": 50331648}, pids={"limit": 21})
    container = systemd.start_new(bundle)
    systemd("update", "--pids-limit", "33", "--memory", "64M", container.id)
    assert show(unit_of(container), "MemoryMax", "TasksMax") == {"MemoryMax": "67108864", "TasksMax": "33"}
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=30)
    assert [(cgroup(container) / name).read_text().strip() for name in ("memory.max", "pids.max")] == ["67108864", "33"]


def test_a_limit_of_one_process(systemd: Runtime, bundle: Bundle) -> None:
    """The launcher does not count: it never is in the unit."""
    bundle.resources["pids"] = {"limit": 1}
    assert systemd.output(bundle, "echo alone") == "alone"


def test_devices_are_refused_by_both(systemd: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [{"type": "c", "path": "/dev/kmsg", "major": 1, "minor": 11}, {"type": "c", "path": "/dev/mem", "major": 1, "minor": 1}]
    bundle.resources["devices"].append({"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"})
    bundle.shell("cat /dev/null && head -c 1 /dev/kmsg >/dev/null && echo kmsg; head -c 1 /dev/mem; sleep 1000")
    container = systemd.start_new(bundle)
    wait_until(lambda: "not permitted" in container.stderr, "the refusal")
    assert "kmsg" in container.stdout
    found = show(unit_of(container), "DevicePolicy", "DeviceAllow")
    assert found["DevicePolicy"] == "strict"
    assert "/dev/char/1:11" in subprocess.run(["systemctl", "show", unit_of(container), "-p", "DeviceAllow"], capture_output=True, text=True).stdout


def test_properties_by_annotation(systemd: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {
        "org.systemd.property.TimeoutStopSec": "2.5",
        "org.systemd.property.Description": "'one of ours'",
        "org.systemd.property.MemoryHigh": "uint64 44040192",
        "org.systemd.property.CollectMode": "'inactive'",
    }
    container = systemd.create(bundle)
    assert show(unit_of(container), "TimeoutStopUSec", "Description", "MemoryHigh", "CollectMode") == {
        "TimeoutStopUSec": "2.500000s",
        "Description": "one of ours",
        "MemoryHigh": "44040192",
        "CollectMode": "inactive",
    }


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PIDs", "[uint32 1]", "PIDs is decided by the runtime"),
        ("TimeoutStopUSec", "ten", "no value of GVariant's text format"),
        ("Timeout-Stop", "1", "is no name of a property"),
        ("TimeoutStopSec", "'5'", "not a number of seconds"),
    ],
)
def test_annotations_are_checked(systemd: Runtime, bundle: Bundle, name: str, value: str, text: str) -> None:
    bundle.config["annotations"] = {f"org.systemd.property.{name}": value}
    error = systemd.create(bundle, check=False).stderr
    assert text in error and f"/annotations/org.systemd.property.{name}" in error


def test_what_systemd_refuses_is_said_and_undone(systemd: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {"org.systemd.property.NoSuchThing": "true"}
    container = systemd.create(bundle, check=False)
    assert "NoSuchThing" in container.stderr
    assert not container.exists() and not loaded(unit_of(container))


# ---- places


def test_slice_prefix_and_name(systemd: Runtime, bundle: Bundle, runtime: Runtime) -> None:
    bundle.linux["cgroupsPath"] = f"wherrytest-one.slice:pre:{runtime.tag}"
    container = systemd.start_new(bundle)
    place = MOUNT / "wherrytest.slice/wherrytest-one.slice" / f"pre-{runtime.tag}.scope"
    assert members(place) == [container.pid]
    container.stop()
    assert not place.exists()
    subprocess.run(["systemctl", "stop", "wherrytest.slice"], check=True, timeout=30)


def test_a_slice_as_the_unit(systemd: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = "::wherrytest-two.slice"
    bundle.resources["pids"] = {"limit": 17}
    container = systemd.start_new(bundle)
    assert members(MOUNT / "wherrytest.slice/wherrytest-two.slice") == [container.pid]
    assert show("wherrytest-two.slice", "TasksMax") == {"TasksMax": "17"}
    container.stop()
    assert show("wherrytest-two.slice", "ActiveState") == {"ActiveState": "inactive"}
    subprocess.run(["systemctl", "stop", "wherrytest.slice"], check=True, timeout=30)


@pytest.mark.parametrize("path", ["/abc", "a.slice:b", "a:b:c", "a--b.slice:p:n", "system.slice:p:a b", "system.slice:p:"])
def test_paths_that_are_none(systemd: Runtime, bundle: Bundle, path: str) -> None:
    bundle.linux["cgroupsPath"] = path
    container = systemd.create(bundle, check=False)
    assert container.result.code == 1 and "/linux/cgroupsPath: " in container.stderr and not container.exists()


def test_an_id_that_is_no_unit(systemd: Runtime, bundle: Bundle) -> None:
    container = systemd.create(bundle, check=False, id=f"{systemd.tag}+1")
    assert container.result.code == 1 and "'+'" in container.stderr and not container.exists()


# ---- a life


def test_verbs(systemd: Runtime, bundle: Bundle) -> None:
    container = systemd.start_new(bundle)
    systemd.options = []  # the other verbs are not told of systemd
    place = cgroup(container)
    for _ in range(3):  # the later ones by the front alone
        assert systemd("exec", container.id, "cat", "/proc/self/cgroup").out == "0::/\n"
    other = systemd.popen("exec", container.id, "sleep", "1000")
    wait_until(lambda: len(members(place)) == 2, "the second process")
    systemd("pause", container.id)
    assert container.status == "paused" and (place / "cgroup.freeze").read_text() == "1\n"
    systemd("resume", container.id)
    assert json.loads(systemd("list", "--format", "json").out)[0]["id"] == container.id
    assert systemd("events", "--stats", container.id).json()["data"]["pids"]["current"] == 2
    container.kill("KILL", "--all")
    other.communicate(timeout=20)
    assert other.returncode == 137
    wait_until(lambda: container.status == "stopped", "the end")
    container.delete()
    assert not loaded(unit_of(container)) and not place.exists()


def test_attached_run_leaves_no_unit(systemd: Runtime, bundle: Bundle) -> None:
    assert systemd.output(bundle, "cat /proc/self/cgroup") == "0::/"
    assert units(systemd.tag) == [] and list(systemd.root.glob("[!@]*")) == []


@pytest.mark.parametrize("force", [True, False])
def test_the_unit_ends_with_delete(systemd: Runtime, bundle: Bundle, force: bool) -> None:
    container = systemd.start_new(bundle) if force else systemd.create(bundle)
    container.delete("--force" if force else "--force=false")
    assert not loaded(unit_of(container)) and not cgroup(container).exists()
    again = systemd.create(bundle, id=container.id)  # at once: the name is free
    assert loaded(unit_of(again))


def test_who_is_left_in_a_shared_pid_namespace_is_killed(systemd: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid")
    bundle.shell("sleep 1000 & exec sleep 1001")
    container = systemd.start_new(bundle)
    wait_until(lambda: len(members(cgroup(container))) == 2, "two processes")
    left = [pid for pid in members(cgroup(container)) if pid != container.known_pid]
    os.kill(container.known_pid, signal.SIGKILL)
    wait_until(lambda: container.status == "stopped", "the end")
    container.delete()
    assert not loaded(unit_of(container)) and not Path(f"/proc/{left[0]}/root").exists()


def test_systemd_may_stop_it_and_delete_still_works(systemd: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {"org.systemd.property.TimeoutStopSec": "1"}
    container = systemd.start_new(bundle)
    subprocess.run(["systemctl", "stop", unit_of(container)], check=True, timeout=30)
    wait_until(lambda: container.status == "stopped", "the end")
    container.delete()


# ---- other people's units


def scope_of_another(unit: str, *properties: str) -> "subprocess.Popen[bytes]":
    options = [word for item in properties for word in ("-p", item)]
    process = subprocess.Popen(["systemd-run", "--quiet", "--scope", f"--unit={unit}", *options, "sleep", "1000"], stderr=subprocess.DEVNULL)
    wait_until(lambda: show(unit, "ActiveState")["ActiveState"] == "active", f"{unit} to start")
    return process


def test_a_unit_of_another_is_refused_and_left_alone(systemd: Runtime, bundle: Bundle) -> None:
    id = systemd.new_id()
    process = scope_of_another(f"wherry-{id}.scope")
    try:
        container = systemd.create(bundle, check=False, id=id)
        assert container.result.code == 1 and "exists already, and is active" in container.stderr and not container.exists()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not loaded(f"wherry-{id}.scope"), "its end")


def test_delete_leaves_a_later_unit_of_the_same_name_alone(systemd: Runtime, bundle: Bundle) -> None:
    container = systemd.start_new(bundle)
    container.kill("KILL")
    wait_until(lambda: not loaded(unit_of(container)), "the end of the scope")
    process = scope_of_another(unit_of(container))
    try:
        container.delete()
        assert process.poll() is None and show(unit_of(container), "ActiveState") == {"ActiveState": "active"}
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not loaded(unit_of(container)), "its end")


def test_a_failed_unit_of_the_same_name_is_forgotten(systemd: Runtime, bundle: Bundle) -> None:
    id = systemd.new_id()
    process = scope_of_another(f"wherry-{id}.scope", "RuntimeMaxSec=1")
    process.wait()
    wait_until(lambda: show(f"wherry-{id}.scope", "ActiveState")["ActiveState"] == "failed", "the failure")
    container = systemd.create(bundle, id=id)
    assert members(cgroup(container)) == [container.pid]


# ---- the systemd of a user

USER = 1
"""daemon: there on every machine, and nobody's session."""


class User:
    """An ordinary user with a manager of his own, and the installation where he may run it."""

    def __init__(self, command: Path, place: Path) -> None:
        self.command, self.place = command, place
        self.runtime = f"/run/user/{USER}"
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": self.runtime}
        self.rootfs = make_rootfs(place / "rootfs", None)
        self("spec", "--rootless", "--bundle", place)
        self.config = json.loads((place / "config.json").read_text())
        self.config["process"].update(terminal=False, args=["sleep", "1000"])

    def __call__(self, *words: str | Path, check: bool = True, before: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        done = as_user([*before, str(self.command), *map(str, words)], user=USER, env=self.env, cwd=self.place)
        assert not check or done.returncode == 0, done.stderr
        return done

    def create(self, id: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Its output goes to a file: the container keeps it."""
        (self.place / "config.json").write_text(json.dumps(self.config))
        out = self.place / "out"
        done = self("--systemd-cgroup", "create", id, check=False, before=("sh", "-c", f'exec "$@" >{out} 2>&1', "sh"))
        done.stderr = out.read_text()
        assert not check or done.returncode == 0, done.stderr
        return done

    def show(self, unit: str, name: str) -> str:
        done = as_user(["systemctl", "--user", "show", unit, "-p", name, "--value"], user=USER, env=self.env)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installation(command: str, session_directory: Path) -> Path:
    return install(command, session_directory / "everybody")


@pytest.fixture
def user(installation: Path, place: Path) -> Iterator[User]:
    subprocess.run(["systemctl", "start", f"user@{USER}.service"], check=True, timeout=30)
    (place / "of-user").mkdir()
    os.chown(place / "of-user", USER, USER)
    try:
        yield User(installation, place / "of-user")
    finally:
        subprocess.run(["systemctl", "stop", f"user@{USER}.service"], check=True, timeout=30)


def test_a_user_without_root(user: User) -> None:
    """He comes from a cgroup of the system: his systemd asks the system's to move init."""
    user.config["linux"]["resources"] = {"memory": {"limit": 50331648}, "pids": {"limit": 21}}
    user.create("one")
    assert user.show("wherry-one.scope", "MemoryMax") == "50331648"
    path = user.show("wherry-one.scope", "ControlGroup")
    assert path.endswith(f"/user@{USER}.service/user.slice/wherry-one.scope")
    assert (Path(f"{MOUNT}{path}") / "pids.max").read_text() == "21\n"
    pid = json.loads(user("state", "one").stdout)["pid"]
    assert members(Path(f"{MOUNT}{path}")) == [pid]
    user("start", "one")
    user("update", "--pids-limit", "30", "one")
    assert user.show("wherry-one.scope", "TasksMax") == "30"
    user("pause", "one")
    assert json.loads(user("state", "one").stdout)["status"] == "paused"
    user("resume", "one")
    for before in ((), ("systemd-run", "--user", "--scope", "--quiet")):  # from a cgroup of the system, where his manager has to help, and from one of his
        assert user("exec", "one", "cat", "/proc/self/cgroup", before=before).stdout == "0::/\n"
    user("delete", "--force", "one")
    assert user.show("wherry-one.scope", "LoadState") == "not-found" and not Path(f"{MOUNT}{path}").exists()


def test_a_controller_that_the_user_has_not_got(user: User) -> None:
    user.config["linux"]["resources"] = {"cpu": {"cpus": "0"}}
    done = user.create("two", check=False)
    assert done.returncode == 1 and "/linux/resources/cpu/cpus: cpuset.cpus cannot be written: the cpuset controller is not delegated" in done.stderr
    assert "Delegate=cpu cpuset io memory pids" in done.stderr


def test_a_user_without_a_manager(user: User) -> None:
    user.env.pop("XDG_RUNTIME_DIR")
    done = user.create("three", check=False)
    assert done.returncode == 1 and f"loginctl enable-linger {USER}" in done.stderr


def test_limits_of_a_user_without_systemd_and_delegation(user: User) -> None:
    user.config["linux"]["resources"] = {"pids": {"limit": 5}}
    (user.place / "config.json").write_text(json.dumps(user.config))
    done = user("create", "four", check=False)
    assert done.returncode == 1 and "systemd-run --user --scope -p Delegate=yes" in done.stderr


def test_facts_tell_of_systemd(systemd: Runtime, bundle: Bundle, place: Path) -> None:
    """A plan for this host can be made on any other."""
    facts = systemd("plan", "--facts", "-").json()
    assert facts["systemd"]["version"] >= 240 and facts["systemd"]["user"] is False
    facts["systemd"]["version"] = 230
    (place / "facts").write_text(json.dumps(facts))
    bundle.save()
    assert "CollectMode" not in systemd("plan", "--facts", place / "facts", bundle.path).out


def test_delete_force_without_a_record(systemd: Runtime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = "::wherrytest-three.slice"
    container = systemd.start_new(bundle)
    (systemd.root / container.id / "record").write_bytes(b"damaged")
    container.delete("--force")
    assert show("wherrytest-three.slice", "ActiveState") == {"ActiveState": "inactive"} and not container.exists()
    subprocess.run(["systemctl", "stop", "wherrytest.slice"], check=True, timeout=30)


# ---- failures and crashes


def test_a_create_that_fails_later_leaves_no_unit(systemd: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    container = systemd.create(bundle, check=False)
    assert "hook" in container.stderr and not container.exists()
    assert not loaded(unit_of(container)) and not cgroup(container).exists()


def test_a_program_that_is_not_there_leaves_no_unit(systemd: Runtime, bundle: Bundle) -> None:
    bundle.args("/no/such/program")
    assert systemd.run(bundle, check=False).code == 1
    assert units(systemd.tag) == []


@pytest.mark.parametrize("ending", ["gc", "delete", "create"])
def test_a_create_that_is_killed_leaves_no_unit(systemd: Runtime, bundle: Bundle, place: Path, ending: str) -> None:
    """In a hook: the unit is there, and the container is not published."""
    seen = place / "seen"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo $$ >{seen}; exec sleep 1000 >/dev/null 2>&1"]}]}
    bundle.save()
    id = systemd.new_id()
    process = systemd.popen("create", "--bundle", bundle.path, id)
    wait_until(lambda: seen.exists() and seen.read_text().strip(), "the hook")
    container = Container(systemd, id, bundle)
    systemd.containers.append(container)
    assert loaded(unit_of(container))
    process.kill()
    os.kill(int(seen.read_text()), signal.SIGKILL)  # nobody ends the hook of a create that was killed
    process.communicate(timeout=20)
    if ending == "gc":
        assert "systemd unit" in systemd("gc", "--dry-run").out
        systemd("gc")
    elif ending == "delete":
        container.delete("--force")
    else:
        bundle.config["hooks"] = {}
        systemd.create(bundle, id=id).delete("--force")
    assert not loaded(unit_of(container)) and not container.exists() and not cgroup(container).exists()


def test_a_create_that_is_killed_anywhere(systemd: Runtime, bundle: Bundle) -> None:
    """Before, while and after systemd makes the unit."""
    bundle.save()
    out = bundle.path / "out"
    for delay in range(60, 420, 24):  # milliseconds
        id = f"{systemd.tag}-k{delay}"
        with open(out, "wb") as file:
            process = subprocess.Popen(systemd.argv("create", "--bundle", bundle.path, id), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=systemd.env)
        time.sleep(delay / 1000)
        process.kill()
        published = process.wait() == 0
        systemd("gc")
        if published or (systemd.root / id).exists():  # it had come to its end
            systemd("delete", "--force", id)
        assert not (systemd.root / id).exists()
        wait_until(lambda id=id: not loaded(f"wherry-{id}.scope"), "the end of a unit that systemd was told of by a dead process")


def test_systemd_plan(systemd: Runtime, bundle: Bundle) -> None:
    bundle.resources["pids"] = {"limit": 5}
    bundle.save()
    text = systemd("plan", bundle.path).out
    assert "have systemd start wherry-<id>.scope in system.slice with init" in text and "TasksMax=5" in text
    assert "system.slice/wherry-<id>.scope as r0 [v2 existing]" in text


def test_cgroupfs_containers_are_beside_it(systemd: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    systemd.options = []
    container = systemd.start_new(make_bundle())
    assert units(systemd.tag) == []
    container.stop()
