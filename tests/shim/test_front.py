# SPDX-License-Identifier: Apache-2.0
"""The shim's front, alone: a copy of it without Python beside it does what is usual, and what is not usual it leaves to Python untouched."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry_shim import bootstrap_start, messages, messages_rare, ttrpc, wire, zygote

from . import shims
from .shims import BINARY, NAMESPACE, Shim
from .test_zygote import zygote_pid

pytestmark = pytest.mark.requires("root")
assert messages.TABLE and messages_rare.TABLE
TO_PYTHON = b"cannot execute "
PYTHON = "containerd-shim-wherry-python"


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shim]]:
    """Shims whose command is the lonely copy, once there is a zygote that answers at once: without Python a worker can come from nowhere else."""
    monkeypatch.delenv("WHERRY_ZYGOTE", raising=False)
    if os.environ.get("WHERRY_SHIM_PARK") == "off":  # then every start is Python's
        monkeypatch.delenv("WHERRY_SHIM_PARK")
    made: list[Shim] = []

    def make(id: str = "one", **more: object) -> Shim:
        made.append(Shim(tmp_path, id, str(tmp_path / "containerd.sock"), **more))
        return made[-1]

    place = tmp_path / "bin"
    place.mkdir()
    for name in (BINARY.name, PYTHON):
        shutil.copy(BINARY.parent / name, place)
    monkeypatch.setattr(shims, "BINARY", place / BINARY.name)
    make("first").start()
    path = zygote.socket_path(bootstrap_start.DIRECTORY, str(place / PYTHON))
    deadline = time.monotonic() + 20
    while not ((pid := zygote_pid(path)) and b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()):  # before, it rehearses: who asks may not wait so long
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (place / PYTHON).unlink()
    yield make
    for one in made:
        if one.socket:
            one.end()
    os.kill(pid, signal.SIGKILL)
    Path(path).unlink()


@pytest.fixture
def one_shim(shim: Callable[..., Shim]) -> Shim:
    one = shim()
    started(one)
    return one


def started(one: Shim, **more: object) -> str:
    """Where there is to be no porter, and the zygote's answer comes too late on a busy machine, it is Python's turn."""
    for _ in range(10):
        done = one.command("start", check=False, **more)
        if done.returncode == 0:
            assert done.stderr == b""
            one.socket = done.stdout.decode()
            return one.socket
        assert TO_PYTHON in done.stderr
    raise AssertionError(done.stderr)


def options(**fields: object) -> dict:
    return {"type_url": "containerd.runc.v1.Options", "value": wire.encode("runc.Options", fields)}


def parameters(one: Shim, **more: object) -> bytes:
    given = {"instance_id": one.id, "namespace": NAMESPACE, "log_level": -4, "containerd_version": "2.3.4", "containerd_grpc_address": one.address,
             "containerd_ttrpc_address": "/run/c.sock.ttrpc", "containerd_binary": "/usr/bin/containerd", "extensions": [{"value": options(binary_name="runc")}]}  # fmt: skip
    return wire.encode("boot.BootstrapParams", {**given, **more})


def test_a_plain_start(shim: Callable[..., Shim]) -> None:
    one = shim()
    assert started(one) == (one.bundle / "address").read_text() == f"unix://{bootstrap_start.socket_path(bootstrap_start.DIRECTORY, one.address, NAMESPACE, 'one')}"
    assert started(one) == one.socket and one.pid


@pytest.mark.parametrize("input", [{"type_url": "runtimeoptions.v1.Options", "value": b"\x0a\x01x"}, options(binary_name="runc", systemd_cgroup=True)])
def test_options(shim: Callable[..., Shim], input: dict) -> None:
    one = shim()
    assert started(one, input=wire.encode("any.Any", input)).startswith("unix://") and one.pid


def test_parameters(shim: Callable[..., Shim]) -> None:
    one = shim()
    answer = json.loads(started(one, input=parameters(one)))
    one.socket = answer.pop("address")
    assert answer == {"version": 3, "protocol": "ttrpc"}
    variables = Path(f"/proc/{one.pid}/cmdline").read_bytes().replace(b"\0", b" ")
    assert b"-debug" in variables and b"-publish-binary /usr/bin/containerd" in variables


@pytest.mark.parametrize("key", bootstrap_start.GROUPS)
@pytest.mark.parametrize("indent", [None, 2])
def test_groups(shim: Callable[..., Shim], key: str, indent: int | None) -> None:
    pod = [shim(name) for name in ("a", "b")]
    for one in pod:
        config = {"process": {"env": [f'X="{one.id}"']}, "annotations": {"a": "b", key: "sandbox", "z": ""}}
        (one.bundle / "config.json").write_text(json.dumps(config, indent=indent))
        started(one)
    assert pod[0].socket == pod[1].socket and pod[0].pid == pod[1].pid


KEY = "io.kubernetes.cri.sandbox-id"
UNUSUAL = {
    "escapes": '{"annotations": {"' + KEY + '": "a\\u0062"}}',
    "twice": '{"annotations": {"' + KEY + '": "a"}, "process": {"args": ["' + KEY + '"]}}',
    "in a string": '{"process": {"env": ["A=\\"' + KEY + '\\": \\"b\\""]}}',
    "a number": '{"annotations": {"' + KEY + '": 7}}',
    "cut off": '{"annotations": {"' + KEY + '": "a',
    "a longer key": '{"annotations": {"my.' + KEY + '": "a"}}',
    "empty": "",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_configurations_that_python_reads(shim: Callable[..., Shim], name: str) -> None:
    one = shim()
    (one.bundle / "config.json").write_text(UNUSUAL[name])
    done = one.command("start", check=False)
    assert (done.returncode, done.stdout) == (1, b"") and TO_PYTHON in done.stderr
    assert not (one.bundle / "address").exists()


@pytest.mark.parametrize(
    "input",
    [
        wire.encode("any.Any", options(shim_cgroup="/x")),
        wire.encode("any.Any", {"type_url": "somebody.Else", "value": b""}),
        b"\xff" * 30,
        b"\x0a\x7fabc",
    ],
)
def test_input_that_python_reads(shim: Callable[..., Shim], input: bytes, tmp_path: Path) -> None:
    one = shim()
    reader = tmp_path / "bin" / PYTHON  # in Python's place: what does it get?
    reader.write_text('#!/bin/sh\ncat\necho "$@" >&2\n')
    reader.chmod(0o755)
    done = one.command("-debug", "start", input=input, check=False)
    assert done.stdout == input
    assert done.stderr.decode().split()[-2:] == ["-debug", "start"]


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(max_size=60), at=st.integers(0, 200), byte=st.integers(0, 255), good=st.booleans())
def test_input_of_any_kind(one_shim: Shim, noise: bytes, at: int, byte: int, good: bool) -> None:
    """A good message with one byte changed, or noise: an address, or Python; no crash, and nothing in between."""
    data = bytearray(parameters(one_shim))
    data[at % len(data)] = byte
    done = one_shim.command("start", input=bytes(data) if good else noise, check=False)
    if done.returncode == 0:
        address = re.search(r"unix://[^\"]+", done.stdout.decode())[0]
        assert done.stderr == b""
        if address not in one_shim.socket:  # an address of containerd that was changed: a group of its own
            with ttrpc.Client(address) as client:
                shims.call(client, "Shutdown")
    else:
        assert done.returncode == 1 and done.stdout == b"" and TO_PYTHON in done.stderr


@pytest.mark.parametrize("words", ["-nonsense start", "-v", "-info", "other", "start more", "-debug=true start", "delete"])
def test_words_that_python_reads(shim: Callable[..., Shim], words: str) -> None:
    done = shim().command(*words.split(), check=False)
    assert done.returncode == 1 and TO_PYTHON in done.stderr


@pytest.mark.parametrize(("pid", "expected"), [("4711", 4711), (None, 0), ("nonsense", 0)])
def test_delete_where_nothing_is_left(shim: Callable[..., Shim], pid: str | None, expected: int) -> None:
    one = shim()
    if pid:
        (one.bundle / "init.pid").write_text(pid)
    done = one.command("-bundle", str(one.bundle), "delete")
    answer = wire.decode("task.DeleteResponse", done.stdout)
    assert (answer["pid"], answer["exit_status"]) == (expected, 137)
    assert abs(answer["exited_at"]["seconds"] - time.time()) < 60
    shutil.rmtree(one.bundle)
    assert subprocess.run([shims.BINARY, "-namespace", "n", "-id", "one", "-bundle", str(one.bundle), "delete"], capture_output=True, cwd="/").returncode == 0


def test_delete_where_the_pod_s_server_goes_on(shim: Callable[..., Shim]) -> None:
    one = shim()
    started(one)
    assert wire.decode("task.DeleteResponse", one.command("-bundle", str(one.bundle), "delete").stdout)["exit_status"] == 137
    assert one.pid


@pytest.mark.parametrize("left", ["options.json", "address"])
def test_delete_where_something_is_left(shim: Callable[..., Shim], left: str) -> None:
    one = shim()
    (one.bundle / left).write_text(f"unix://{one.bundle}")
    done = one.command("-bundle", str(one.bundle), "delete", check=False)
    assert (done.returncode, done.stdout) == (1, b"") and TO_PYTHON in done.stderr


def test_it_is_small_and_static() -> None:
    data = BINARY.read_bytes()
    assert data[:4] == b"\x7fELF"
    if b"musl" in subprocess.run([BINARY.parent / "wherry", "--version"], capture_output=True).stdout:
        assert len(data) <= 61440
    assert os.access(BINARY.parent / PYTHON, os.X_OK)
