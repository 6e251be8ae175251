# SPDX-License-Identifier: Apache-2.0
"""NOTIFY_SOCKET: a container's program says that it is ready, and the service manager outside hears it, and nothing else."""

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("root")

PROGRAM = r"""
import os, socket, sys
path = os.environ["NOTIFY_SOCKET"]
assert path == "/run/notify/notify.sock"
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(path)
s.send(b"STATUS=on the way\nFDSTORE=1")
s.send(b"STATUS=there\nREADY=1\nMAINPID=1")
print("said", flush=True)
"""


class Manager:
    """Listens as systemd does, and answers barriers by closing what came with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def heard(self, seconds: float = 10) -> list[str]:
        """All that was said up to a barrier."""
        said = []
        while select.select([self.socket], [], [], seconds)[0]:
            text, descriptors, _, _ = socket.recv_fds(self.socket, 4096, 4)
            for descriptor in descriptors:
                os.close(descriptor)
            if descriptors:
                return said
            said.append(text.decode())
        return said


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    found = Manager(place / "manager.sock")
    yield found
    found.socket.close()


@pytest.fixture
def with_python(bundle: Bundle) -> Bundle:
    """The host's Python, to speak from inside."""
    for name in ("lib", "lib64"):
        os.symlink(f"usr/{name}", bundle.rootfs / name)
    return bundle.mount("/usr", "/usr", "bind", ["rbind", "ro"]).args("/usr/bin/python3", "-I", "-S", "-c", PROGRAM)


@pytest.mark.ours
def test_ready_is_passed_on_by_start(runtime: Runtime, with_python: Bundle, manager: Manager) -> None:
    runtime.env["NOTIFY_SOCKET"] = str(manager.path)
    with_python.process["args"][-1] += "import time; time.sleep(1000)"
    container = runtime.create(with_python)
    with runtime.popen("start", container.id) as process:
        said = manager.heard()
    assert process.returncode == 0
    assert said == [f"READY=1\nMAINPID={container.pid}\n"]
    assert container.status == "running"
    assert os.listdir(runtime.root / "@notify") == []


@pytest.mark.ours
def test_an_end_without_ready_ends_the_waiting(runtime: Runtime, bundle: Bundle, manager: Manager) -> None:
    runtime.env["NOTIFY_SOCKET"] = str(manager.path)
    container = runtime.create(bundle.shell("test -S $NOTIFY_SOCKET && echo there; exit 3"))
    container.start()
    assert container.wait() == 3
    assert container.stdout == "there\n"
    assert manager.heard(0) == []


@pytest.mark.ours
def test_run_stays_the_main_process(runtime: Runtime, with_python: Bundle, manager: Manager) -> None:
    runtime.env["NOTIFY_SOCKET"] = str(manager.path)
    process = runtime.popen("run", "--bundle", with_python.save().path, runtime.new_id())
    assert manager.heard() == ["READY=1\n"]
    assert process.communicate(timeout=20)[0] == "said\n" and process.returncode == 0


@pytest.mark.ours
def test_created_and_never_started(runtime: Runtime, bundle: Bundle, manager: Manager) -> None:
    runtime.env["NOTIFY_SOCKET"] = str(manager.path)
    container = runtime.create(bundle)
    del runtime.env["NOTIFY_SOCKET"]
    container.delete("--force")
    assert "notify socket" in runtime("gc").out
    assert os.listdir(runtime.root / "@notify") == []


@pytest.mark.ours
def test_a_failed_create_leaves_nothing(runtime: Runtime, bundle: Bundle, manager: Manager) -> None:
    runtime.env["NOTIFY_SOCKET"] = str(manager.path)
    bundle.process["cwd"] = "/proc/nowhere"
    result = runtime("create", "--bundle", bundle.save().path, runtime.new_id(), check=False)
    assert result.code != 0
    assert os.listdir(runtime.root / "@notify") == []


@pytest.mark.ours
def test_user_namespace(runtime: Runtime, with_python: Bundle, manager: Manager) -> None:
    runtime.env["NOTIFY_SOCKET"] = str(manager.path)
    with_python.user_namespace()
    container = runtime.create(with_python)
    with runtime.popen("start", container.id) as process:
        assert len(manager.heard()) == 1
    assert process.returncode == 0
    wait_until(lambda: container.status == "stopped", "the end of the program")
