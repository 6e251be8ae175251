# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices, in a network namespace of the test's own that stands for the host: no device of the real host is ever named."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "command:ip"), pytest.mark.v2]


class Host:
    """The namespace, with a veth pair in it: `wherryt0` is to be moved, `wherryt1` stays."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __call__(self, *words: str, check: bool = True) -> str:
        argv = ["nsenter", f"--net=/proc/{self.pid}/ns/net", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def devices(self) -> set[str]:
        return {line.split(":")[1].strip().split("@")[0] for line in self("ip", "-o", "link").splitlines()}


@pytest.fixture
def host() -> Iterator[Host]:
    argv = ["unshare", "--net", sys.executable, "-S", "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
        made = Host(process.pid)
        try:
            made("ip", "link", "add", "wherryt0", "type", "veth", "peer", "name", "wherryt1")
        except AssertionError as error:
            pytest.skip(f"veth devices cannot be made: {error}")
        yield made
        process.stdin.close()


@pytest.fixture
def inside(runtime: Runtime, host: Host, tmp_path: Path) -> Runtime:
    """The runtime, called in that namespace."""
    script = tmp_path / "wherry"
    script.write_text(f'#!/bin/sh\nexec nsenter --net=/proc/{host.pid}/ns/net {runtime.command} "$@"\n')
    script.chmod(0o755)
    runtime.command = str(script)
    return runtime


def with_devices(bundle: Bundle, **devices: dict) -> Bundle:
    bundle.config["linux"]["netDevices"] = devices
    return bundle


def test_a_device_is_moved_renamed_brought_up_and_keeps_its_addresses(inside: Runtime, host: Host, bundle: Bundle) -> None:
    for address in ("192.0.2.7/24", "2001:db8::7/64"):
        host("ip", "address", "add", address, "dev", "wherryt0")
    out = inside.output(with_devices(bundle, wherryt0={"name": "data0"}), "ip address show data0")
    assert "UP" in out.splitlines()[0]
    assert "192.0.2.7/24" in out
    assert "2001:db8::7/64" in out


def test_a_device_keeps_its_name_by_default(inside: Runtime, host: Host, bundle: Bundle) -> None:
    assert "wherryt0" in inside.output(with_devices(bundle, wherryt0={}), "ip link")


@pytest.mark.ours
def test_a_missing_device_is_refused_with_its_place(inside: Runtime, host: Host, bundle: Bundle) -> None:
    container = inside.create(with_devices(bundle, wherryt0={}, wherrynone={}), check=False)
    assert container.result.code == 1
    assert "/linux/netDevices/wherrynone" in container.stderr
    assert not container.exists()
    assert "wherryt0" in host.devices()


@pytest.mark.ours
def test_what_was_moved_comes_back_when_a_later_one_fails(inside: Runtime, host: Host, bundle: Bundle) -> None:
    host("ip", "address", "add", "192.0.2.7/24", "dev", "wherryt0")
    container = inside.create(with_devices(bundle, wherryt0={"name": "same"}, wherryt1={"name": "same"}), check=False)
    assert container.result.code == 1
    assert not container.exists()
    assert {"wherryt0", "wherryt1"} <= host.devices()
    assert "192.0.2.7/24" in host("ip", "address", "show", "wherryt0")


@pytest.mark.ours
def test_the_device_of_the_default_route_is_refused(inside: Runtime, host: Host, bundle: Bundle) -> None:
    host("ip", "link", "set", "wherryt1", "up")
    host("ip", "link", "set", "wherryt0", "up")
    host("ip", "address", "add", "192.0.2.7/24", "dev", "wherryt0")
    host("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "wherryt0")
    container = inside.create(with_devices(bundle, wherryt0={}), check=False)
    assert container.result.code == 1
    assert "default route" in container.stderr
    assert "wherryt0" in host.devices()


@pytest.mark.ours
def test_devices_need_a_network_namespace(inside: Runtime, bundle: Bundle) -> None:
    container = inside.create(with_devices(bundle.without_namespace("network"), wherryt0={}), check=False)
    assert container.result.code == 1
    assert "/linux/netDevices" in container.stderr


@pytest.mark.ours
def test_the_work_between_two_halves_of_a_create_is_in_its_timeline(inside: Runtime, host: Host, bundle: Bundle, place: Path) -> None:
    inside.run(with_devices(bundle.args("true"), wherryt0={}), "--trace", place / "trace.json")
    events = [event for event in json.loads((place / "trace.json").read_text())["traceEvents"] if event["ph"] == "X"]
    begins = {event["name"]: event["ts"] for event in events if not event["args"]}
    assert list(begins)[-4:] == ["native create", "interlude", "native finish", "start"]
    steps = [event["ts"] for event in events if event["args"].get("step")]
    assert [ts for ts in steps if ts < begins["interlude"]], "steps of the first half"
    assert [ts for ts in steps if begins["native finish"] < ts < begins["start"]], "steps of the second half"
    assert not [ts for ts in steps if begins["interlude"] <= ts < begins["native finish"]]
