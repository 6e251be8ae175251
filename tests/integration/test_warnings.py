# SPDX-License-Identifier: Apache-2.0
"""What is left out on purpose is said when it is compiled, with --debug each time: into the log, to stderr where there is none, not beside an error. --debug says what is done."""

import json
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


@pytest.fixture
def dubious(bundle: Bundle) -> Bundle:
    """One warning of the checks, one of the compiler."""
    bundle.linux["personality"] = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}
    bundle.process["capabilities"]["bounding"].append("CAP_OF_TOMORROW")
    return bundle.args("true")


def warnings(log: Path) -> list[str]:
    return [entry["msg"] for entry in map(json.loads, log.read_text().splitlines()) if entry["level"] == "warning"]


@pytest.mark.parametrize("verb", ["create", "run"])
def test_each_time(runtime: Runtime, dubious: Bundle, place: Path, verb: str) -> None:
    for number in range(3):  # the second one has a plan in the cache
        log = place / f"log{number}"
        runtime.options = ["--debug", "--log", str(log), "--log-format", "json"]
        if verb == "create":
            runtime.create(dubious).delete("--force")
        else:
            runtime.run(dubious)
        found = warnings(log)
        assert any("/linux/personality/flags" in line for line in found), found
        assert any("CAP_OF_TOMORROW" in line for line in found), found


def test_without_a_log(runtime: Runtime, dubious: Bundle) -> None:
    container = runtime.create(dubious)
    assert container.stdout == ""
    assert {line.split()[1] for line in container.stderr.splitlines()} == {"level=warning"}
    assert "CAP_OF_TOMORROW" in container.stderr
    container.delete("--force")
    assert runtime.create(dubious).stderr == ""  # its plan is in the cache


def test_a_name_in_another_case_in_a_second_configuration_of_its_kind(runtime: Runtime, bundle: Bundle) -> None:
    """The pattern of both would not know of it."""
    bundle.linux["resources"]["Pids"] = {"limit": 7}
    for text in ("one", "two", "three"):
        bundle.process["env"] = [f"A={text}"]
        container = runtime.create(bundle.args("true"))
        assert container.stderr.endswith('pids"\n')
        container.delete("--force")


def test_not_beside_an_error(runtime: Runtime, dubious: Bundle, place: Path) -> None:
    runtime.options = ["--log", str(place / "log"), "--log-format", "json"]
    runtime.run(dubious.args("/nowhere"), check=False)
    (entry,) = map(json.loads, (place / "log").read_text().splitlines())
    assert entry["level"] == "error"


def test_advice_is_no_warning(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    assert runtime.create(bundle).stderr == ""


STAGES = ["exeseal: using /proc/self/exe clone", "nsexec container setup", "child process in init(), pid ", "init: closing the pipe to signal completion"]


@pytest.mark.parametrize("form", ["text", "json", ""])
def test_debug(runtime: Runtime, bundle: Bundle, place: Path, form: str) -> None:
    """The words that the documentation promises, in the order of the stages; nothing that a process may want to hide."""
    log = place / "log"
    runtime.options = ["--debug", *(["--log", str(log), "--log-format", form] if form else [])]
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    bundle.process["env"] = ["SECRET=hunter2"]
    bundle.config["annotations"] = {"a": "hunter2"}
    done = runtime.run(bundle.args("true"))
    text = log.read_text() if form else done.err
    lines = [json.loads(line)["msg"] for line in text.splitlines()] if form == "json" else text.splitlines()
    assert done.err == "" or not form
    assert all("level=debug" in line for line in lines) or form == "json"
    at = [next(number for number, line in enumerate(lines) if words in line) for words in STAGES]
    assert at == sorted(at)
    assert any("seccomp filter flags: 2" in line for line in lines)
    assert any("/linux/namespaces" in line for line in text.splitlines())
    assert "hunter2" not in text


def test_debug_of_an_exec_and_of_a_failure(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["execCPUAffinity"] = {"initial": "0"}
    container = runtime.start_new(bundle.args("sleep", "60"))
    runtime.options = ["--debug"]
    said = runtime("exec", container.id, "true").err
    assert "nsexec: affinity: 0x1" in said and "nsexec container setup" in said and "setns_init: about to exec" in said
    container.delete("--force")
    failed = runtime.run(bundle.args("/nowhere"), check=False).err
    assert "level=debug" in failed and "no such file" in failed.splitlines()[-1]
