# SPDX-License-Identifier: Apache-2.0
"""The usual mistakes of a configuration are answered with what to do about them, beside the field and the step."""

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("containers"), pytest.mark.ours]


@pytest.mark.parametrize(
    ("mount", "pointer", "remedy"),
    [
        ({"type": "bind", "source": "/no/such/source", "options": ["rbind"]}, "/mounts/6", "make the source on the host"),
        ({"type": "nosuchfs", "source": "x"}, "/mounts/6", "no filesystem of this type"),
        ({"type": "tmpfs", "source": "x", "options": ["nosuchoption=1"]}, "/mounts/6", "knows no such option"),
    ],
)
def test_a_mount_that_cannot_be_made(runtime: Runtime, bundle: Bundle, mount: dict, pointer: str, remedy: str) -> None:
    assert len(bundle.config["mounts"]) == 6
    bundle.config["mounts"].append({"destination": "/mnt", **mount})
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert pointer in container.stderr
    assert remedy in container.stderr
    assert not container.exists()


def test_a_namespace_that_is_gone(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.namespace("ipc", "/proc/999999999/ns/ipc"), check=False)
    assert container.result.code == 1
    assert "has ended" in container.stderr
