# SPDX-License-Identifier: Apache-2.0
"""The cgroup manager systemd on cgroup v1 (hybrid): in a systemd of its own (tests/hosts/v1-systemd), which one program looks at from inside."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.criu import KIT, kit
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "cgroup-v1"), pytest.mark.ours, pytest.mark.one_way]

HOST = Path(__file__).parents[1] / "hosts/v1-systemd"
NAME = "wherry-one.scope"

# What it prints is one JSON document: {step: what was seen}.
PROGRAM = r"""
import json, os, subprocess, sys
wherry, root, bundle = sys.argv[1:]
seen = {}
UNIT, PLACE = "wherry-one.scope", "system.slice/wherry-one.scope"

def call(*words, **more):
    return subprocess.run([wherry, "--root", root, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, **more)

def create(id, *words):
    with open("/tmp/out", "w+") as out:
        done = subprocess.run([wherry, "--root", root, "--systemd-cgroup", *words, "create", "--bundle", bundle, id], stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        out.seek(0)
        return done.returncode, out.read()

def show(*names):
    done = subprocess.run(["systemctl", "show", UNIT, "-p", ",".join(names)], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())

def read(file):
    name = file.split(".")[0]
    try:
        return open(f"/sys/fs/cgroup/{hierarchy(name)}/{PLACE}/{file}").read().strip()
    except OSError as error:
        return error.strerror

def hierarchy(name):
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        if right.startswith("cgroup ") and name in right.split()[-1].split(","):
            return os.path.basename(left.split()[4])
    return "none"

def limits():
    return {name: read(name) for name in ("memory.limit_in_bytes", "pids.max", "cpu.shares", "cpu.cfs_quota_us", "cpuset.cpus", "devices.list")}

def left():
    found = []
    for top, directories, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{top}/{name}" for name in directories if name.startswith("wherry-") and name.endswith(".scope")]
    return found

seen["create"] = create("one")
seen["pid"] = json.loads(call("state", "one").stdout)["pid"]
seen["cgroups"] = open(f"/proc/{seen['pid']}/cgroup").read().splitlines()
seen["shown"] = show("MemoryLimit", "TasksMax", "CPUShares", "CPUQuotaPerSecUSec", "Delegate", "DevicePolicy", "ActiveState")
seen["limits"] = limits()
call("start", "one", check=True)
seen["exec"] = call("exec", "one", "cat", "/proc/self/cgroup").stdout.splitlines()
call("pause", "one", check=True)
seen["paused"] = [json.loads(call("state", "one").stdout)["status"], read("freezer.state")]
call("resume", "one", check=True)
seen["update"] = call("update", "--memory", "64M", "--pids-limit", "31", "one").stderr
subprocess.run(["systemctl", "daemon-reload"], check=True)
seen["updated"] = show("MemoryLimit", "TasksMax"), limits()
seen["delete"] = call("delete", "--force", "one").stderr
seen["gone"] = show("LoadState"), left()
seen["user"] = create("two", "--rootless=true")
config = json.load(open(f"{bundle}/config.json"))
config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
json.dump(config, open(f"{bundle}/config.json", "w"))
seen["failed"] = create("three")
seen["clean"] = left(), [name for name in os.listdir(root) if name[0] != "@"]
print(json.dumps(seen))
"""


RESTORE = PROGRAM.partition("\nseen[")[0] + r"""
images = f"{root}-images"

def begin(verb, *words):
    with open("/tmp/out", "w+") as out:
        argv = [wherry, "--root", root, "--systemd-cgroup", verb, "--bundle", bundle, "--detach", *words, "one"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        out.seek(0)
        return done.returncode, out.read()

def places():
    pid = json.loads(call("state", "one").stdout)["pid"]
    return sorted({line.split(":")[2].strip() for line in open(f"/proc/{pid}/cgroup")} - {"/"})

seen["run"] = begin("run")
seen["before"] = places()
seen["checkpoint"] = call("checkpoint", "--image-path", images, "one").stderr
seen["between"] = show("LoadState"), left()
seen["restore"] = begin("restore", "--image-path", images)
seen["after"] = places()
seen["shown"] = show("MemoryLimit", "TasksMax", "ActiveState")
seen["limit"] = read("memory.limit_in_bytes")
seen["count"] = call("exec", "one", "cat", "/tmp/count").stdout
seen["delete"] = call("delete", "--force", "one").stderr
seen["gone"] = show("LoadState"), left()
config = json.load(open(f"{bundle}/config.json"))
config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
json.dump(config, open(f"{bundle}/config.json", "w"))
seen["failed"] = begin("restore", "--image-path", images)
seen["clean"] = show("LoadState"), left(), [name for name in os.listdir(root) if name[0] != "@"]
print(json.dumps(seen))
"""


def look(program: str, bundle: Bundle, runtime: Runtime, place: Path, **env: str) -> dict[str, Any]:
    """What the program has seen, inside."""
    bundle.save()
    file = place / "program.py"
    file.write_text(program)
    argv = [HOST, "-t", "55", "--", "/usr/bin/python3", file, runtime.command, place / "inside", bundle.path]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=90, env={**os.environ, "LC_ALL": "C", **env})
    if done.returncode == 125:
        pytest.skip(f"no systemd can be had: {done.stderr.strip()}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def seen(runtime: Runtime, make_bundle: Callable[[], Bundle], place: Path) -> dict[str, Any]:
    bundle = make_bundle()
    del bundle.linux["cgroupsPath"]
    bundle.resources.update(
        memory={"limit": 50331648}, pids={"limit": 21}, cpu={"shares": 512, "quota": 33333, "period": 50000, "cpus": "0"},
        devices=[{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
    )  # fmt: skip
    return look(PROGRAM, bundle, runtime, place)


@pytest.mark.timeout(120)
def test_a_life_on_v1(seen: dict[str, Any]) -> None:
    assert seen["create"] == [0, ""]
    shown = {"MemoryLimit": "50331648", "TasksMax": "21", "CPUShares": "512", "CPUQuotaPerSecUSec": "670ms", "Delegate": "yes", "DevicePolicy": "strict", "ActiveState": "active"}
    assert seen["shown"] == shown
    places = {line.split(":")[1]: line.split(":")[2] for line in seen["cgroups"]}
    known = {name: path for name, path in places.items() if path != "/"}  # a hierarchy that is not mounted inside stays as it is
    assert set(known.values()) == {f"/system.slice/{NAME}"} and {"name=systemd", "memory", "pids", "freezer"} <= {one for name in known for one in name.split(",")}
    assert seen["exec"] == seen["cgroups"]
    limits = seen["limits"]
    assert [limits[name] for name in ("memory.limit_in_bytes", "pids.max", "cpu.shares", "cpu.cfs_quota_us", "cpuset.cpus")] == ["50331648", "21", "512", "33333", "0"]
    assert "c 10:229 rw" in limits["devices.list"] and "a *:*" not in limits["devices.list"]
    assert seen["paused"] == ["paused", "FROZEN"]
    assert seen["update"] == "" and seen["updated"][0] == {"MemoryLimit": "67108864", "TasksMax": "31"}
    assert [seen["updated"][1][name] for name in ("memory.limit_in_bytes", "pids.max", "cpu.shares")] == ["67108864", "31", "512"]
    assert seen["delete"] == "" and seen["gone"] == [{"LoadState": "not-found"}, []]
    assert seen["user"][0] == 1 and "WHERRY" not in seen["user"][1] and "systemd" in seen["user"][1]
    assert seen["failed"][0] == 1 and "hook" in seen["failed"][1]
    assert seen["clean"] == [[], []]


@pytest.mark.timeout(120)
@pytest.mark.requires("kcmp", "command:mmdebstrap", "command:patchelf")
def test_a_restored_container_is_in_a_unit_of_its_own(runtime: Runtime, make_bundle: Callable[[], Bundle], place: Path) -> None:
    """/proc/sys is read-only inside, and CRIU writes to it for a host name and for message queues: so it has neither of its own."""
    if kit():
        pytest.skip(f"no CRIU 4: {kit()}")
    bundle = make_bundle()
    bundle.mount("/tmp", "tmpfs", "tmpfs").shell("i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done")
    for kind in ("uts", "ipc", "network"):
        bundle.without_namespace(kind)
    del bundle.linux["cgroupsPath"], bundle.config["hostname"]
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["type"] != "mqueue"]
    bundle.resources.update(memory={"limit": 50331648}, pids={"limit": 21})
    seen = look(RESTORE, bundle, runtime, place, PATH=f"{KIT}:{os.environ['PATH']}")
    assert (seen["run"], seen["checkpoint"]) == ([0, ""], "")
    assert seen["between"] == [{"LoadState": "not-found"}, []]
    assert seen["restore"] == [0, ""]
    assert seen["after"] == seen["before"] == [f"/system.slice/{NAME}"]
    assert seen["shown"] == {"MemoryLimit": "50331648", "TasksMax": "21", "ActiveState": "active"} and seen["limit"] == "50331648"
    assert int(seen["count"]) > 1
    assert seen["delete"] == "" and seen["gone"] == [{"LoadState": "not-found"}, []]
    assert seen["failed"][0] == 1 and "createRuntime hook #0" in seen["failed"][1]
    assert seen["clean"] == [{"LoadState": "not-found"}, [], []]
