# SPDX-License-Identifier: Apache-2.0
"""wherry doctor on this host: as root, as an ordinary user, in a user namespace, on a terminal. It says the same as the host, and leaves nothing."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.bundle import Bundle
from harness.census import cgroup_mounts, children
from harness.console import read_until
from harness.everybody import USER, as_user, install
from harness.requirements import cgroup_mode
from harness.runtime import Runtime
from wherry.api.findings import DEFAULT_CAPABILITIES

pytestmark = [pytest.mark.ours, pytest.mark.one_way, pytest.mark.usefixtures("front"), pytest.mark.requires("root")]
SCHEMA = json.loads((Path(__file__).parents[2] / "specs/doctor.schema.json").read_text())


def count_cgroups() -> set[str]:
    """Of trials, and of the containers at the end."""
    return {str(path) for mount in cgroup_mounts() for pattern in ("wherry-doctor-*", "*/wherry-doctor-*") for path in mount.glob(pattern)}


def mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "wherry-doctor" in line]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before, processes = count_cgroups(), children()
    yield
    assert count_cgroups() <= before
    assert mounts() == []
    assert set(children()) <= set(processes)
    assert not list(Path("/tmp").glob("wherry-doctor-*"))


@pytest.fixture(scope="module")
def everybodys(command: str, session_directory: Path) -> Path:
    return install(command, session_directory / "everybody")


def document(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    assert done.returncode == (0 if found["usable"] else 1)
    return found


def status(found: dict[str, Any], group: str, name: str) -> str:
    (one,) = (finding for finding in found["findings"] if (finding["group"], finding["name"]) == (group, name))
    text: str = one["status"]
    return text


@pytest.mark.v2
def test_as_root(command: str, place: Path) -> None:
    found = document(subprocess.run([command, "--root", str(place), "doctor", "--json"], capture_output=True, text=True, timeout=60))
    assert found["usable"] and found["caller"]["privileged"]
    assert status(found, "container", "a container with limits") == "ok"
    tried = {finding["name"]: finding["status"] for finding in found["findings"] if finding["group"] == "container"}
    assert tried.get("a container by systemd") == ("ok" if os.path.isdir("/run/systemd/system") else None)
    assert all(status(found, "namespaces", kind) == "ok" for kind in ("mount", "pid", "ipc", "uts", "network"))
    assert found["host"]["cgroups"] == "v2" if cgroup_mode() == "v2" else found["host"]["cgroups"] in ("v1", "hybrid")
    assert list(place.iterdir()) == []


@pytest.mark.requires("userns")
@pytest.mark.v2
def test_as_an_ordinary_user(everybodys: Path, place: Path) -> None:
    os.chown(place, USER, USER)
    found = document(as_user([str(everybodys), "--root", str(place), "doctor", "--json"]))
    assert found["usable"] and found["caller"] == {"uid": USER, "gid": USER, "userNamespace": False, "privileged": False}
    assert status(found, "container", "a container") == "ok"
    assert status(found, "users", "subordinate ids") == "missing"
    assert status(found, "cgroups", "own cgroups") in ("missing", "partly"), "nothing is delegated"
    assert list(place.iterdir()) == []


@pytest.mark.requires("userns")
def test_as_root_of_a_user_namespace(everybodys: Path, place: Path) -> None:
    os.chown(place, USER, USER)
    found = document(as_user(["unshare", "-Ur", str(everybodys), "--root", str(place), "doctor", "--json"]))
    assert found["usable"] and found["caller"] == {"uid": 0, "gid": 0, "userNamespace": True, "privileged": False}
    assert status(found, "container", "a container") == "ok"


@pytest.mark.requires("userns")
def test_where_user_namespaces_are_used_up(everybodys: Path, place: Path) -> None:
    """A user namespace that allows no further ones, as a hardened host does: no container for an ordinary user, and the sysctl that mends it."""
    os.chown(place, USER, USER)
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-sys_admin --inh-caps=-all "$@"'
    done = as_user(["unshare", "-Ur", "sh", "-c", script, "sh", str(everybodys), "--root", str(place), "doctor", "--json"])
    found = document(done)
    assert not found["usable"] and status(found, "namespaces", "user") == "missing"
    (finding,) = (one for one in found["findings"] if (one["group"], one["name"]) == ("namespaces", "user"))
    assert finding["remedy"] == "sysctl -w user.max_user_namespaces=15000" and finding["needed"]


@pytest.mark.requires("userns")
def test_inside_of_a_container(everybodys: Path, runtime: Runtime, bundle: Bundle) -> None:
    """As engines make them: what is masked in /proc keeps a nested container from having its own, and it is said so."""
    bundle.config["root"] = {"path": "/", "readonly": True}
    bundle.config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    bundle.process["args"] = [str(everybodys), "--root", "/dev/shm/root", "doctor", "--json"]
    names = [f"CAP_{name}" for name in DEFAULT_CAPABILITIES]
    bundle.process["capabilities"] = {kind: names for kind in ("bounding", "effective", "permitted")}
    id = runtime.new_id()
    bundle.save()
    done = subprocess.run(runtime.argv("run", "--bundle", bundle.path, id), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=runtime.env)
    found = document(done)
    assert not found["usable"] and status(found, "namespaces", "user") == "ok"
    (finding,) = (one for one in found["findings"] if one["name"] == "new proc")
    assert finding["status"] == "missing" and "systempaths=unconfined" in finding["remedy"]
    assert status(found, "container", "a container") == "missing"


def test_as_text(command: str, place: Path) -> None:
    done = subprocess.run([command, "--root", str(place), "doctor"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nnamespaces:\n  ok       user" in done.stdout and done.stdout.splitlines()[-1].startswith("containers can run here: ")
    assert "\x1b" not in done.stdout


def test_on_a_terminal(command: str, place: Path) -> None:
    pytest.importorskip("rich")
    master, slave = pty.openpty()
    process = subprocess.Popen([command, "--root", str(place), "doctor"], stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm"})
    os.close(slave)
    text = read_until(master, "containers can run here", 60)
    assert process.wait(60) == 0
    os.close(master)
    assert "\x1b[32mok" in text and "Traceback" not in text
