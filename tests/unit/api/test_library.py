# SPDX-License-Identifier: Apache-2.0
"""The library's names, layers of sandboxes on hosts of every kind, and what cgroups tell."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wherry
from wherry.api import PLACES, layers
from wherry.api.cgroups import Cgroups
from wherry.api.config import Config
from wherry.api.ended import Ended
from wherry.api.session import Session
from wherry.errors import HostError, UsageError
from wherry.kernel.hostfacts import HostFacts

# ---- names

LOADED = """
import json, sys
import wherry
before = set(sys.modules)
{body}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded(body: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED.format(body=body)], capture_output=True, text=True, timeout=30, check=True, cwd="/")
    return set(json.loads(done.stdout))


def test_import_loads_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", "import sys, wherry; print([m for m in sys.modules if m.startswith('wherry.')])"], capture_output=True, text=True, cwd="/")
    assert done.stdout == "[]\n"


def test_a_name_loads_what_it_needs() -> None:
    assert "wherry.api.sandbox" not in loaded("wherry.run")
    assert "asyncio" not in loaded("wherry.Sandbox")


@pytest.mark.parametrize("name", [name for name in dir(wherry) if not name.startswith("_") and name not in ("TYPE_CHECKING",)])
def test_every_name_is_there(name: str) -> None:
    assert getattr(wherry, name).__doc__


def test_functions_stay_functions() -> None:
    """A module of the package that is called as a name of the library would hide it once it is imported."""
    loaded("import wherry.aio; assert callable(wherry.run) and callable(wherry.api.run)")
    assert not set(PLACES) & set(PLACES.values())


def test_no_other_name() -> None:
    with pytest.raises(AttributeError):
        _ = wherry.nothing  # type: ignore[attr-defined]


# ---- layers


def facts(**values: Any) -> HostFacts:
    found = HostFacts()
    for name, value in values.items():
        setattr(found, name, value)
    return found


ROOT, USER = 1 << 21, 0
LIMITS = {"memory": 1, "pids": 1, "cpu": 1}


def test_v2_controllers_are_those_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "cgroup.controllers").write_text("cpu memory io\n")
    host = facts(capabilities=USER, cgroup_mode="v2", v2_mount=str(tmp_path), v2_own="/own")
    assert layers.available(host) & set(layers.LIMITS) == {"cpu", "memory"}


def test_no_limits_without_hierarchies() -> None:
    with pytest.raises(HostError) as caught:
        layers.layers(facts(capabilities=ROOT), LIMITS, False, ())
    assert caught.value.facts["missing"] == ["memory", "pids", "cpu"]
    assert "allow_missing" in str(caught.value.remedy)


def test_what_may_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "available", lambda facts: {"user namespace", "cpu"})
    found = layers.layers(facts(capabilities=USER), {**LIMITS, "cpu": None}, True, {"memory", "pids"})
    assert (found["memory"], found["pids"], found["cpu"], found["user namespace"]) == ("missing", "missing", "off", "applied")
    with pytest.raises(HostError, match="pids"):
        layers.layers(facts(capabilities=USER), LIMITS, True, {"memory"})


def test_an_ordinary_user_needs_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "available", lambda facts: set(layers.LIMITS))
    with pytest.raises(HostError, match="ordinary user"):
        layers.layers(facts(capabilities=USER), LIMITS, False, {"user namespace"})
    assert layers.layers(facts(capabilities=ROOT), LIMITS, True, {"user namespace"})["user namespace"] == "missing"


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="seccomp"):
        layers.decide((), facts(), {"seccomp"})


# ---- cgroups

V1 = {
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory.failcnt": "0\n",
    "memory.memsw.failcnt": "7\n",
    "memory.max_usage_in_bytes": "4096\n",
    "pids.events": "max 3\n",
    "cpuacct.usage": "1500000000\n",
    "cpu.stat": "nr_periods 5\nnr_throttled 4\nthrottled_time 9\n",
}
V2 = {
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n",
    "memory.peak": "4096\n",
    "pids.events": "max 3\n",
    "cpu.stat": "usage_usec 1500000\nnr_throttled 4\n",
}


@pytest.mark.parametrize(("files", "v1"), [(V1, True), (V2, False)], ids=["v1", "v2"])
def test_what_cgroups_tell(tmp_path: Path, files: dict[str, str], v1: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    cgroups = Cgroups([("/no/such/directory", v1), (str(tmp_path), v1)])
    assert (cgroups.oom_kills(), cgroups.memory_peak(), cgroups.processor_seconds()) == (2, 4096, 1.5)
    assert cgroups.denied() == {"memory": 7, "pids": 3, "cpu": 4}


def test_no_cgroups_tell_nothing() -> None:
    cgroups = Cgroups([])
    assert (cgroups.oom_kills(), cgroups.memory_peak(), cgroups.processor_seconds(), cgroups.denied()) == (None, None, None, {})
    assert cgroups.watch_memory() == -1


# ---- results


def test_reaped_by_others() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert Ended.reap(child.pid) == Ended(None)


@pytest.mark.parametrize(("script", "ended"), [("exit 5", (5, None)), ("kill -TERM $$", (143, 15))])
def test_reap(script: str, ended: tuple[int, int | None]) -> None:
    child = subprocess.Popen(["/bin/sh", "-c", script])
    found = Ended.reap(child.pid)
    child.returncode = 0
    assert (found.code, found.signal) == ended
    assert found.usage.max_rss > 0


def test_output_is_kept_up_to_a_size() -> None:
    session = Session(("x",), {}, 5)
    session.keep("stdout", b"abc")
    session.keep("stderr", b"abcde")
    assert not session.truncated
    session.keep("stdout", b"defg")
    session.keep("stdout", b"hi")
    assert session.truncated and b"".join(session.captured["stdout"]) == b"abcde"


def test_landlock_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    host = facts(capabilities=ROOT)
    monkeypatch.setattr(layers, "_number", lambda path: 1)
    assert layers.layers(host, {}, True, (), None)["landlock"] == "not supported"
    assert layers.layers(host, {}, True, (), False)["landlock"] == "off"
    assert layers.layers(host, {}, True, {"landlock"}, True)["landlock"] == "missing"
    with pytest.raises(HostError) as caught:
        layers.layers(host, {}, True, (), True)
    assert caught.value.code == "WHERRY-HOST-KERNEL"
    host.landlock = 3
    for wanted in (None, True):
        assert layers.layers(host, {}, True, (), wanted)["landlock"] == "applied"


def test_what_landlock_lets_a_sandbox_write() -> None:
    config = layers.landlock(Config.sandbox("/srv", ["true"], readonly=True).tmpfs("/tmp").bind("/a", "/in").bind("/b", "/out", writable=True))
    rules = json.loads(config.get("/annotations")["org.wherry.landlock"])
    assert rules["read"] == ["/"] and rules["use"] == ["/dev"]
    assert {"/tmp", "/out"} <= set(rules["write"]) and not {"/", "/in", "/proc", "/sys", "/dev"} & set(rules["write"])
    assert "/" in json.loads(layers.landlock(config.readonly(False)).get("/annotations")["org.wherry.landlock"])["write"]


def test_asyncio_has_all_that_a_container_can() -> None:
    from wherry import Container, aio

    missing = {name for name in dir(Container) if not name.startswith("_")} - set(dir(aio.Container)) - {"source"}  # events() is made of it
    assert missing == set()
