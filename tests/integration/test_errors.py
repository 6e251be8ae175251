# SPDX-License-Identifier: Apache-2.0
"""Bad input: every refusal is one line that names the place, exits with 1, and leaves nothing."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.runtime import Container, Runtime

pytestmark = pytest.mark.requires("containers")


def refused(runtime: Runtime, bundle: Bundle, *texts: str) -> Container:
    """create fails, says one of the texts' words, and leaves nothing in the state root."""
    container = runtime.create(bundle, check=False)
    assert_refused(runtime, container, *texts)
    return container


def assert_refused(runtime: Runtime, container: Container, *texts: str) -> None:
    assert container.result.code == 1
    assert "Traceback" not in container.stderr
    for text in texts:
        assert text in container.stderr
    assert container.stderr.strip()
    if runtime.name == "wherry":
        assert container.stderr.count("\n") == 1, "an error is one line"
        assert not container.exists()


class RawBundle(Bundle):
    """A bundle whose config.json is these bytes."""

    raw: bytes | None = b""

    def save(self) -> "Bundle":
        if self.raw is not None:
            (self.path / "config.json").write_bytes(self.raw)
        return self


@pytest.fixture
def raw(bundle: Bundle) -> RawBundle:
    bundle.__class__ = RawBundle
    assert isinstance(bundle, RawBundle)
    return bundle


# ---- the configuration as a file -----------------------------------------------------------------------------------------


def test_missing_config(runtime: Runtime, raw: RawBundle) -> None:
    raw.raw = None
    refused(runtime, raw, "config.json")


def test_config_that_is_a_directory(runtime: Runtime, raw: RawBundle) -> None:
    raw.raw = None
    (raw.path / "config.json").mkdir()
    refused(runtime, raw)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"not json", b"[]", b"null", b"42", b'{"ociVersion": "1.0.2"} trailing', b"\xff\xfe\x00", b'{"a": "\xff"}', b"[" * 100000, b"{}"]
)
def test_config_that_is_no_configuration(runtime: Runtime, raw: RawBundle, content: bytes) -> None:
    raw.raw = content
    refused(runtime, raw)


@pytest.mark.ours
def test_duplicate_keys(runtime: Runtime, raw: RawBundle) -> None:
    text = json.dumps(raw.config)
    raw.raw = text.replace('"hostname": "wherry"', '"hostname": "one", "hostname": "two"').encode()
    refused(runtime, raw, "hostname")


@pytest.mark.ours
def test_enormous_config(runtime: Runtime, raw: RawBundle) -> None:
    raw.config["annotations"] = {"padding": "x" * (10 << 20)}
    raw.raw = json.dumps(raw.config).encode()
    container = runtime.create(raw, check=False)
    if container.result.code:
        assert_refused(runtime, container)


@pytest.mark.ours
def test_config_that_is_a_fifo_does_not_hang(runtime: Runtime, raw: RawBundle) -> None:
    raw.raw = None
    os.mkfifo(raw.path / "config.json")
    refused(runtime, raw)


def test_unknown_properties_are_ignored(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["fromTheFuture"] = {"a": [1, 2, 3]}
    bundle.linux["fromTheFuture"] = True
    bundle.process["fromTheFuture"] = None
    assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2", "1.1.0", "1.2.1", "1.3.0"])
def test_known_versions(runtime: Runtime, bundle: Bundle, version: str) -> None:
    bundle.config["ociVersion"] = version
    assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.ours
def test_newer_minor_version_is_no_error(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["ociVersion"] = "1.9.0"
    assert runtime.run(bundle.args("true")).code == 0


# ---- the configuration's values: JSON pointer -> value ---------------------------------------------------------------------

WRONG: list[tuple[str, Any]] = [
    ("/process", []),
    ("/process/args", []),
    ("/process/args", "sleep"),
    ("/process/args/0", 7),
    ("/process/cwd", 5),
    ("/process/env", {"A": "b"}),
    ("/process/env/0", 3),
    ("/process/user/uid", -1),
    ("/process/user/uid", "root"),
    ("/process/user/uid", 1.5),
    ("/process/user/uid", 1 << 33),
    ("/process/user/additionalGids", ["wheel"]),
    ("/process/terminal", "yes"),
    ("/process/capabilities", ["CAP_KILL"]),
    ("/process/capabilities/bounding", "CAP_KILL"),
    ("/process/rlimits", [{"type": "RLIMIT_NOFILE", "soft": -1, "hard": 1}]),
    ("/process/oomScoreAdj", 100000),
    ("/process/noNewPrivileges", 1),
    ("/root", "rootfs"),
    ("/root/path", 5),
    ("/hostname", ["a"]),
    ("/mounts", {}),
    ("/mounts/0", "proc"),
    ("/mounts/0/destination", 1),
    ("/mounts/0/options", "ro"),
    ("/hooks", []),
    ("/annotations", {"a": 1}),
    ("/linux", []),
    ("/linux/namespaces", {}),
    ("/linux/namespaces/0/type", "nope"),
    ("/linux/resources", []),
    ("/linux/resources/memory", {"limit": "64M"}),
    ("/linux/resources/pids", {"limit": "many"}),
    ("/linux/resources/devices", [{"allow": "yes"}]),
    ("/linux/resources/devices", [{"allow": True, "access": "xyz"}]),
    ("/linux/devices", [{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]),
    ("/linux/maskedPaths", "/proc"),
    ("/linux/sysctl", ["a"]),
    ("/linux/rootfsPropagation", "sideways"),
    ("/linux/seccomp", {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}),
]


def put(config: dict[str, Any], pointer: str, value: Any) -> None:
    *parents, last = pointer.strip("/").split("/")
    node: Any = config
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value


@pytest.mark.ours
@pytest.mark.parametrize(("pointer", "value"), WRONG, ids=[f"{pointer}={json.dumps(value)[:30]}" for pointer, value in WRONG])
def test_wrong_value_is_named_by_its_pointer(runtime: Runtime, bundle: Bundle, pointer: str, value: Any) -> None:
    put(bundle.config, pointer, value)
    refused(runtime, bundle, pointer)


@pytest.mark.ours
@pytest.mark.parametrize("pointer", ["/process/args", "/process/env", "/process/cwd", "/root/path", "/hostname", "/mounts/0/destination", "/linux/cgroupsPath"])
def test_nul_bytes_are_refused(runtime: Runtime, bundle: Bundle, pointer: str) -> None:
    put(bundle.config, pointer, ["a\0b"] if pointer in ("/process/args", "/process/env") else "/a\0b")
    refused(runtime, bundle, pointer)


# ---- rootfs ----------------------------------------------------------------------------------------------------------------


def test_missing_rootfs(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["path"] = "nowhere"
    refused(runtime, bundle, "nowhere")


def test_rootfs_that_is_a_file(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["path"] = "rootfs/etc/passwd"
    refused(runtime, bundle)


def test_rootfs_that_is_a_link(runtime: Runtime, bundle: Bundle) -> None:
    os.symlink("rootfs", bundle.path / "link")
    bundle.config["root"]["path"] = "link"
    refused(runtime, bundle)


@pytest.mark.ours
def test_absolute_rootfs(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["root"]["path"] = str(bundle.rootfs)
    assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.ours
def test_no_root(runtime: Runtime, bundle: Bundle) -> None:
    del bundle.config["root"]
    refused(runtime, bundle, "root")


# ---- the program -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nosuchprogram", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
        ("/etc/passwd/x", "not a directory"),
    ],
)
def test_program_that_cannot_be_executed(runtime: Runtime, bundle: Bundle, program: str, text: str) -> None:
    bundle.args(program)
    result = runtime.run(bundle, check=False)
    assert result.code != 0
    said = result.err.lower()
    assert text.lower() in said or (program == "/etc" and "is a directory" in said)
    assert program in result.err


def test_program_with_a_broken_interpreter(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "script").write_text("#!/no/such/interpreter\n")
    (bundle.rootfs / "script").chmod(0o755)
    result = runtime.run(bundle.args("/script"), check=False)
    assert result.code != 0
    assert "no such file or directory" in result.err.lower()


def test_program_that_is_no_executable_format(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "script").write_bytes(b"\x01\x02\x03 nothing\n")
    (bundle.rootfs / "script").chmod(0o755)
    result = runtime.run(bundle.args("/script"), check=False)
    assert result.code != 0
    assert "exec format error" in result.err.lower()


# ---- ids, roots, arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "a b", "a\nb", "ünï", "a" * 2000])
def test_bad_ids(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.save()
    result = runtime("create", "--bundle", bundle.path, "--", name, check=False)
    assert result.code != 0
    assert "Traceback" not in result.err
    assert not runtime.root.exists() or runtime("list", "-q").out == ""


@pytest.mark.parametrize("name", ["a", "A-b_c.d+e", "0", "a" * 200])
def test_good_ids(runtime: Runtime, bundle: Bundle, name: str) -> None:
    container = runtime.create(bundle, id=name)
    assert container.state()["id"] == name


@pytest.mark.parametrize("name", ["..", "a/b", ""])
@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete"])
def test_bad_ids_of_the_other_verbs(runtime: Runtime, verb: str, name: str) -> None:
    result = runtime(verb, name, check=False)
    assert result.code == 1
    assert "Traceback" not in result.err


@pytest.mark.ours
def test_root_that_cannot_be_made(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    (place / "root").write_text("a file")
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert str(place / "root") in container.stderr
    (place / "root").unlink()


def test_missing_bundle(runtime: Runtime, place: Path) -> None:
    result = runtime("create", "--bundle", place / "nowhere", "some-id", check=False)
    assert result.code == 1
    assert "nowhere" in result.err


@pytest.mark.parametrize("arguments", [["create"], ["state"], ["kill"], ["start", "a", "b", "c"], ["create", "--no-such-option", "x"], ["nosuchverb"]])
def test_wrong_arguments(runtime: Runtime, arguments: list[str]) -> None:
    result = runtime(*arguments, check=False)
    assert result.code != 0
    assert "Traceback" not in result.err
    assert result.err.strip() or result.out.strip()


def test_option_without_its_value(runtime: Runtime) -> None:
    result = runtime("create", "--bundle", check=False)
    assert result.code != 0
    assert "flag needs an argument" in result.err + result.out


@pytest.mark.parametrize("spelling", [["--bundle={}"], ["-b", "{}"], ["-b={}"], ["-bundle", "{}"], ["-bundle={}"]])
def test_spellings_of_an_option(runtime: Runtime, bundle: Bundle, spelling: list[str]) -> None:
    bundle.args("true").save()
    assert runtime("run", *[word.format(bundle.path) for word in spelling], runtime.new_id()).code == 0


def test_options_after_the_id(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("true").save()
    assert runtime("run", runtime.new_id(), "--bundle", bundle.path).code == 0


def test_bundle_is_the_working_directory_by_default(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("true").save()
    assert runtime("run", runtime.new_id(), cwd=bundle.path).code == 0


# ---- the log -----------------------------------------------------------------------------------------------------------------------


def test_error_is_in_the_json_log_once(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.config["root"]["path"] = "nowhere"
    runtime.options = ["--log", str(place / "log"), "--log-format", "json"]
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    (line,) = (place / "log").read_text().splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert "nowhere" in entry["msg"]
    assert set(entry) >= {"level", "msg", "time"}


def test_success_writes_no_log(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    runtime.options = ["--log", str(place / "log"), "--log-format", "json"]
    runtime.run(bundle.args("true"))
    assert not (place / "log").exists() or (place / "log").read_text() == ""


def test_version_and_help(runtime: Runtime) -> None:
    first = runtime("--version").out.splitlines()[0].split()
    assert first[0] == runtime.name
    assert first[1] == "version"
    assert "create" in runtime("--help").out


def test_closed_stdout_is_no_disaster(runtime: Runtime, make_bundle: Callable[[], Bundle]) -> None:
    container = runtime.create(make_bundle())
    done = subprocess.run(["/bin/sh", "-c", '"$@" >&-', "sh", *runtime.argv("state", container.id)], stderr=subprocess.PIPE, text=True, env=runtime.env, check=False)
    assert "Traceback" not in done.stderr
