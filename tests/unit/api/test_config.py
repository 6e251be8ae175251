# SPDX-License-Identifier: Apache-2.0
"""wherry.Config: every method makes what it says, nothing is shared, and what comes out is a valid config.json."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from wherry import Bundle, Config
from wherry.api.config import size
from wherry.errors import ConfigError, JsonError, UsageError
from wherry.oci.checks import findings
from wherry.oci.validate import schema_findings

BASE = Config.sandbox("/rootfs", ["true"])

CASES: dict[str, tuple[Config, str, Any]] = {
    "args": (BASE.args("a", "b"), "/process/args", ["a", "b"]),
    "env": (Config().env(A="1", B="2").env({"A": "3"}), "/process/env", ["A=3", "B=2"]),
    "without_env": (Config().env(A="1", B="2").without_env("A"), "/process/env", ["B=2"]),
    "without_env, all": (BASE.without_env(), "/process/env", []),
    "cwd": (BASE.cwd("/tmp"), "/process/cwd", "/tmp"),
    "user": (BASE.user(5, groups=[7], umask=0o22), "/process/user", {"uid": 5, "gid": 5, "additionalGids": [7], "umask": 18}),
    "terminal": (BASE.terminal(rows=24, columns=80), "/process/consoleSize", {"height": 24, "width": 80}),
    "capabilities": (BASE.capabilities("chown"), "/process/capabilities/effective", ["CAP_CHOWN"]),
    "capabilities, ambient": (BASE.capabilities("CAP_KILL", ambient=True), "/process/capabilities/ambient", ["CAP_KILL"]),
    "no_new_privileges": (BASE.no_new_privileges(False), "/process/noNewPrivileges", False),
    "rlimit": (Config().rlimit("nofile", 9).rlimit("RLIMIT_NOFILE", 5, 6), "/process/rlimits", [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]),
    "oom_score": (BASE.oom_score(500), "/process/oomScoreAdj", 500),
    "label": (BASE.label(apparmor="x"), "/process/apparmorProfile", "x"),
    "root": (BASE.root("/other", readonly=False), "/root", {"path": "/other", "readonly": False}),
    "readonly": (BASE.readonly(False), "/root/readonly", False),
    "bind": (Config().bind("/a", "/b"), "/mounts/0/options", ["rbind", "nosuid", "nodev", "ro"]),
    "bind, writable": (Config().bind("/a", "/b", writable=True), "/mounts/0/options", ["rbind", "nosuid", "nodev", "rw"]),
    "tmpfs": (Config().tmpfs("/t", "1M"), "/mounts/0/options", ["nosuid", "nodev", "noexec", "mode=1777", "size=1048576"]),
    "mount again": (Config().tmpfs("/t").bind("/a", "/t"), "/mounts/0/source", "/a"),
    "without_mount": (Config().tmpfs("/t").without_mount("/t"), "/mounts", []),
    "mask": (Config().mask("/x"), "/linux/maskedPaths", ["/x"]),
    "protect": (Config().protect("/x"), "/linux/readonlyPaths", ["/x"]),
    "device": (Config().device("/dev/fuse", 10, 229), "/linux/resources/devices/0/minor", 229),
    "hostname": (BASE.hostname("a", "b"), "/domainname", "b"),
    "namespace": (Config().namespace("pid", "pid"), "/linux/namespaces", [{"type": "pid"}]),
    "join": (Config().namespace("network").join("network", "/n"), "/linux/namespaces", [{"type": "network", "path": "/n"}]),
    "share": (Config().namespace("pid", "network").share("network"), "/linux/namespaces", [{"type": "pid"}]),
    "map_ids": (Config().map_ids([(0, 1000, 1)]), "/linux/gidMappings", [{"containerID": 0, "hostID": 1000, "size": 1}]),
    "map_ids without gid 5": (BASE.map_ids([(0, 1000, 1)]), "/mounts/2/options/4", "mode=0620"),
    "sysctl": (Config().sysctl({"a": "1"}).sysctl({"b": "2"}), "/linux/sysctl", {"a": "1", "b": "2"}),
    "seccomp": (BASE.seccomp(None), "/linux/seccomp", None),
    "memory": (BASE.memory("64M", reservation="32M"), "/linux/resources/memory", {"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20}),
    "memory, swap": (BASE.memory(100, swap=50), "/linux/resources/memory/swap", 150),
    "no memory limit": (BASE.memory(None), "/linux/resources/memory", None),
    "cpus": (BASE.cpus(0.5), "/linux/resources/cpu", {"quota": 50000, "period": 100000}),
    "no cpus": (BASE.cpus(2).cpus(None), "/linux/resources/cpu", {}),
    "cpu_shares": (BASE.cpu_shares(512), "/linux/resources/cpu/shares", 512),
    "cpuset": (BASE.cpuset("0-1", "0"), "/linux/resources/cpu", {"cpus": "0-1", "mems": "0"}),
    "pids": (BASE.pids(7), "/linux/resources/pids", {"limit": 7}),
    "unified": (BASE.unified({"memory.high": "1"}), "/linux/resources/unified", {"memory.high": "1"}),
    "cgroup": (BASE.cgroup("/x"), "/linux/cgroupsPath", "/x"),
    "without_limits": (BASE.without_limits(), "/linux/resources", None),
    "hook": (Config().hook("poststop", "/bin/x", "y", timeout=3), "/hooks/poststop", [{"path": "/bin/x", "args": ["x", "y"], "timeout": 3}]),
    "annotate": (Config().annotate(a="b").annotate({"c.d": "e"}), "/annotations", {"a": "b", "c.d": "e"}),
    "set, appended": (Config().mask("/a").set("/linux/maskedPaths/-", "/b"), "/linux/maskedPaths", ["/a", "/b"]),
    "set, removed": (Config().mask("/a", "/b").set("/linux/maskedPaths/0", None), "/linux/maskedPaths", ["/b"]),
    "set, escaped": (Config().set("/annotations/a~1b", "c"), "/annotations", {"a/b": "c"}),
}


@pytest.mark.parametrize("name", CASES)
def test_method(name: str) -> None:
    config, pointer, value = CASES[name]
    assert config.get(pointer) == value
    document: Any = config.to_dict()
    assert json.loads(config.to_json()) == document


@pytest.mark.parametrize("name", [name for name, (config, _, _) in CASES.items() if config.get("/process/args") and config.get("/root")])
def test_what_comes_out_is_valid(name: str) -> None:
    document = CASES[name][0].to_dict()
    assert [one for one in findings(document) if one.severity == "error"] == []
    assert schema_findings(document) == []


def test_a_config_never_changes() -> None:
    before = BASE.to_json()
    for method in ("args", "env", "mask", "capabilities"):
        getattr(BASE, method)()
    BASE.memory("1M").bind("/a", "/b").set("/linux/maskedPaths/0", "/zzz")
    BASE.to_dict()["process"]["args"].append("x")
    BASE.get("/linux/maskedPaths").append("x")
    assert BASE.to_json() == before


def test_equal_configs() -> None:
    assert BASE.args("a") == BASE.args("a") != BASE.args("b")
    assert len({BASE.args("a"), BASE.args("a")}) == 1


def test_save_and_load(tmp_path: Path) -> None:
    BASE.save(tmp_path / "bundle")
    assert Config.load(tmp_path / "bundle") == Config.load(tmp_path / "bundle/config.json") == BASE
    assert Bundle(tmp_path / "bundle").config == BASE.to_dict()
    (tmp_path / "bundle/config.json").write_text("{")
    with pytest.raises(JsonError):
        Config.load(tmp_path / "bundle")


def test_bundle_of_a_config() -> None:
    assert Bundle.of(BASE).config == BASE.to_dict()
    assert Bundle("/somewhere", BASE).data == Bundle("/somewhere", BASE.to_dict()).data


def test_check_names_the_place() -> None:
    with pytest.raises(ConfigError) as caught:
        BASE.cwd("relative").check()
    assert caught.value.pointer == "/process/cwd"
    assert BASE.check() is BASE


@pytest.mark.parametrize("pointer", ["/process/args/x", "/hostname/a", "/linux/maskedPaths/99", "/hostname/a/b"])
def test_what_cannot_be_set(pointer: str) -> None:
    with pytest.raises(ConfigError):
        BASE.set(pointer, "x")


def test_a_pointer_begins_with_a_slash() -> None:
    with pytest.raises(UsageError):
        BASE.get("process")
    assert BASE.get("/no/such", 7) == 7


@pytest.mark.parametrize(("text", "bytes"), [(5, 5), ("5", 5), ("5k", 5120), ("5M", 5 << 20), ("2G", 2 << 30), ("1T", 1 << 40)])
def test_size(text: Any, bytes: int) -> None:
    assert size(text) == bytes


@pytest.mark.parametrize("text", ["", "M", "5X", "-1", "1.5G", "5MB"])
def test_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        size(text)


def test_spec_is_what_the_command_writes() -> None:
    assert Config.spec("ls", "-l").get("/process/args") == ["ls", "-l"]
    assert {"type": "user"} in Config.spec(rootless=True).get("/linux/namespaces")


def test_scratch_places_are_those_of_the_root_filesystem(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    destinations = [mount["destination"] for mount in Config.sandbox(tmp_path, ["true"]).get("/mounts")]
    assert "/tmp" in destinations and "/run" not in destinations


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(Config, callable) if not name.startswith("_")])
def test_every_method_is_documented(name: str) -> None:
    assert getattr(Config, name).__doc__
