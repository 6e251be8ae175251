# SPDX-License-Identifier: Apache-2.0
"""The sandbox service of a server: a pod without a pause container."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from wherry_shim import sandbox, wire
from wherry_shim.errors import ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND, UNIMPLEMENTED, ShimError
from wherry_shim.holder import CONFIG as _  # noqa: F401 - its tables
from wherry_shim.loop import Loop

from .daemon import wait_until
from .shims import wait_for_end


class Pod:
    def __init__(self) -> None:
        self.loop, self.containers, self.ended = Loop(), 0, 0
        self.service = sandbox.Sandbox(self.loop, lambda: not self.containers, self.end)

    def end(self) -> None:
        self.ended += 1

    def __call__(self, method: str, **request: object) -> dict:
        return self.service.call(method, {"sandbox_id": "s", **request}).result()

    def code(self, method: str, **request: object) -> int:
        with pytest.raises(ShimError) as caught:
            self(method, **request)
        return caught.value.code


@pytest.fixture
def pod() -> Iterator[Pod]:
    one = Pod()
    yield one
    one.service._end(0)
    one.loop.close()


def namespaces(pid: int) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "ipc", "uts", "pid", "mnt", "user")}


def options(pid: int = 0, ipc: int = 0, **more: object) -> dict:
    modes = {"pid": pid, "ipc": ipc, **more}
    config = {"hostname": "pod", "linux": {"security_context": {"namespace_options": modes}, "sysctls": {"kernel.msgmax": "7000"}}}
    return {"type_url": "runtime.v1.PodSandboxConfig", "value": wire.encode("cri.PodSandboxConfig", config)}


@pytest.mark.requires("root")
@pytest.mark.parametrize(
    ("modes", "own"), [((0, 0), {"net", "ipc", "uts", "pid"}), ((1, 0), {"net", "ipc", "uts"}), ((2, 2), {"net", "uts"})]
)
def test_namespaces(pod: Pod, modes: tuple[int, int], own: set[str]) -> None:
    """The containers join those of this process: what the pod has for itself must not be the host's."""
    network = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    try:
        host = namespaces(os.getpid())
        wait_until(lambda: namespaces(network.pid)["net"] != host["net"], "a network")
        request = {"options": options(*modes)} if 2 not in modes else {"options": {"type_url": options()["type_url"], "value": without_sysctls(*modes)}}
        pod("CreateSandbox", netns_path=f"/proc/{network.pid}/ns/net", **request)
        pid = pod("StartSandbox")["pid"]
        found = namespaces(pid)
        assert found["net"] == namespaces(network.pid)["net"]
        assert {name for name in found if found[name] != host[name]} == own
        nsenter = ["nsenter", f"--uts=/proc/{pid}/ns/uts", f"--ipc=/proc/{pid}/ns/ipc", "sh", "-c", "hostname; cat /proc/sys/kernel/msgmax"]
        said = subprocess.run(nsenter, capture_output=True, text=True).stdout.split()
        assert said[0] == "pod" and (said[1] == "7000") == ("ipc" in own)
        pod("StopSandbox")
        wait_for_end(pid)
    finally:
        network.kill()
        network.wait()


def without_sysctls(pid: int, ipc: int) -> bytes:
    return wire.encode("cri.PodSandboxConfig", {"hostname": "pod", "linux": {"security_context": {"namespace_options": {"pid": pid, "ipc": ipc}}}})


@pytest.mark.requires("root")
def test_a_holder_that_is_killed(pod: Pod) -> None:
    pod("CreateSandbox")
    os.kill(pod("StartSandbox")["pid"], signal.SIGKILL)
    waiting = pod.service.call("WaitSandbox", {"sandbox_id": "s"})
    while not waiting.done:
        pod.loop.step(0.1)
    assert waiting.result()["exit_status"] == 137
    assert pod("SandboxStatus")["state"] == "SANDBOX_NOTREADY"


def test_what_a_pod_cannot_have(pod: Pod) -> None:
    """Its containers would be in the host's user namespace, without a word."""
    assert pod.code("CreateSandbox", options=options(userns_options={"mode": 0})) == FAILED_PRECONDITION


@pytest.mark.requires("root")
def test_a_network_that_is_none(pod: Pod) -> None:
    pod("CreateSandbox", netns_path="/nowhere")
    with pytest.raises(ShimError, match="the pod's namespaces cannot be made: FileNotFoundError"):
        pod("StartSandbox")


@pytest.mark.requires("root")
def test_a_life(pod: Pod) -> None:
    assert pod("CreateSandbox") == {} and pod.service.present
    assert pod("SandboxStatus")["state"] == "SANDBOX_NOTREADY"
    started = pod("StartSandbox")
    assert started["pid"] > 0 and started["created_at"]["seconds"] > 0
    assert pod("PingSandbox") == {}
    status = pod("SandboxStatus", verbose=True)
    assert (status["state"], status["pid"], status["created_at"]) == ("SANDBOX_READY", started["pid"], started["created_at"])
    waiting = pod.service.call("WaitSandbox", {"sandbox_id": "s"})
    assert not waiting.done
    assert pod("StopSandbox", timeout_secs=3) == {} == pod("StopSandbox")
    assert waiting.result()["exit_status"] == 0 and not pod.service.present
    assert pod("SandboxStatus")["state"] == "SANDBOX_NOTREADY"
    assert pod("ShutdownSandbox") == {}
    pod.loop.step(1)
    assert pod.ended == 1


def test_a_server_with_containers_stays(pod: Pod) -> None:
    pod.containers = 1
    pod("CreateSandbox")
    pod("ShutdownSandbox")
    pod.loop.step(0.05)
    assert not pod.ended


@pytest.mark.requires("root")
def test_refusals(pod: Pod) -> None:
    for method in ("StartSandbox", "StopSandbox", "WaitSandbox", "SandboxStatus", "PingSandbox", "ShutdownSandbox"):
        assert pod.code(method) == NOT_FOUND
    pod("CreateSandbox")
    assert pod.code("CreateSandbox") == ALREADY_EXISTS
    assert pod.code("PingSandbox", sandbox_id="other") == NOT_FOUND
    pod("StartSandbox")
    assert pod.code("StartSandbox") == FAILED_PRECONDITION
    assert pod.code("SandboxMetrics") == pod.code("Nonsense") == UNIMPLEMENTED


def test_platform(pod: Pod) -> None:
    platform = pod("Platform")["platform"]
    assert platform["os"] == "linux" and platform["architecture"]
