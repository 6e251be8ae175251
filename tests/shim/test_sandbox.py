# SPDX-License-Identifier: Apache-2.0
"""The sandbox service of a server: a pod without a pause container."""

from collections.abc import Iterator

import pytest

from wherry_shim import sandbox
from wherry_shim.errors import ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND, UNIMPLEMENTED, ShimError
from wherry_shim.loop import Loop


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
    one.loop.close()


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
