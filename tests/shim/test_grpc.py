# SPDX-License-Identifier: Apache-2.0
"""gRPC between containerd and a shim, where an annotation asks for it: containerd 1.7 runs containers over it, any other is refused with the reason."""

import json
import os
import signal
import stat
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from wherry_shim import containerd, wire
from wherry_shim.messages_rare import TABLE

from .daemon import Daemon, wait_until
from .shims import NAMESPACE, Shim, alive, wait_for_end

pytestmark = pytest.mark.requires("root")
ASKED = {"org.wherry.shim.protocol": "grpc"}
assert TABLE


class Containerd(grpc.GenericRpcHandler):
    """As much of one as a server asks: its version."""

    def __init__(self, path: Path, version: str) -> None:
        self.version, self.path = version, path
        self.server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[self])
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def service(self, details: grpc.HandlerCallDetails) -> object:
        assert details.method == "/containerd.services.version.v1.Version/Version"
        answer = b"\x0a" + bytes([len(self.version)]) + self.version.encode()
        return grpc.unary_unary_rpc_method_handler(lambda request, context: answer)


@pytest.fixture
def seventeen(place: Path) -> Iterator[Containerd]:
    one = Containerd(place / "c.sock", "1.7.24~ds1")
    yield one
    one.server.stop(None).wait()


class GrpcShim(Shim):
    def start(self, **more: object) -> str:
        answer = json.loads(self.command("start", MAX_SHIM_VERSION="2", **more).stdout)
        assert (answer["version"], answer["protocol"]) == (2, "grpc")
        assert json.loads((self.bundle / "address").read_text()) == answer
        self.socket = answer["address"]
        return self.socket

    def call(self, method: str, version: int = 3, **request: object) -> dict:
        given, got = containerd.METHODS[method]
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            data = channel.unary_unary(f"/containerd.task.v{version}.Task/{method}")(wire.encode(given, {"id": self.id, **request}), timeout=30)
        return wire.decode(got, data)


    def end(self) -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if is_server(pid, self.address):
                os.kill(int(pid), signal.SIGKILL)
                wait_for_end(int(pid))
        Path(self.socket).unlink(missing_ok=True)


@pytest.fixture
def shim(place: Path, seventeen: Containerd) -> Iterator[GrpcShim]:
    one = GrpcShim(place, "pod", str(seventeen.path), annotations=ASKED)
    yield one
    one.end()


def test_calls(shim: GrpcShim) -> None:
    path = shim.start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    pid = shim.pid
    assert alive(pid) and "-namespace" in Path(f"/proc/{pid}/cmdline").read_text()
    for method, version, code in (("State", 3, "NOT_FOUND"), ("State", 2, "UNIMPLEMENTED"), ("Delete", 3, "NOT_FOUND")):
        with pytest.raises(grpc.RpcError) as error:
            shim.call(method, version)
        assert error.value.code().name == code
    with pytest.raises(grpc.RpcError) as error, grpc.insecure_channel(f"unix:{path}") as channel:
        channel.unary_unary("/containerd.task.v3.Task/Paint")(b"", timeout=5)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as error, grpc.insecure_channel(f"unix:{path}") as channel:
        channel.unary_unary("/containerd.task.v3.Task/State")(b"\xff", timeout=5)
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert shim.start() == path  # the group's server is there
    assert shim.pid == pid
    shim.call("Shutdown")
    wait_for_end(pid)
    assert not list(Path(path).parent.glob(f"{Path(path).name}*"))


def test_two_starts_at_one_time(shim: GrpcShim) -> None:
    threads = [threading.Thread(target=shim.start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    servers = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if is_server(pid, shim.address)]
    assert servers == [str(shim.pid)]
    assert len(list(Path(shim.socket).parent.glob(f"{Path(shim.socket).name}*"))) == 1


def is_server(pid: str, address: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return address.encode() in words and b"-socket" in words and alive(int(pid))


def test_a_killed_server(shim: GrpcShim) -> None:
    path = shim.start()
    pid = shim.pid
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    assert shim.command("delete").returncode == 0
    assert not os.path.exists(path)
    shim.start()
    assert shim.pid != pid


@pytest.mark.parametrize("version", ["2.1.9", "v2.0.0", "1.6.20", ""])
def test_another_containerd_is_refused(place: Path, version: str) -> None:
    daemon = Containerd(place / "c.sock", version)
    shim = GrpcShim(place, "pod", str(daemon.path), annotations=ASKED)
    done = shim.command("start", check=False, MAX_SHIM_VERSION="2")
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"works with containerd 1.7 only, this is {version or 'unknown'}".encode() in done.stderr
    wait_until(lambda: not any(is_server(pid, shim.address) for pid in os.listdir("/proc") if pid.isdigit()), "the server is ended")
    daemon.server.stop(None).wait()


def test_who_shows_that_it_is_not_17(place: Path) -> None:
    shim = GrpcShim(place, "pod", str(place / "c.sock"), annotations=ASKED)
    assert b"this is 1.6 or older" in shim.command("start", check=False).stderr
    parameters = wire.encode("boot.BootstrapParams", {"instance_id": "pod", "namespace": NAMESPACE})
    assert b"this is 2.3 or later" in shim.command("start", input=parameters, check=False, MAX_SHIM_VERSION="2").stderr
    assert b"does not say what it is" in shim.command("start", check=False, MAX_SHIM_VERSION="2").stderr
    (shim.bundle / "config.json").write_text(json.dumps({"annotations": {"org.wherry.shim.protocol": "http"}}))
    assert b"neither ttrpc nor grpc" in shim.command("start", check=False).stderr


@pytest.mark.parametrize("daemon", ["trixie"], indirect=True, scope="module")
def test_containerd_17(daemon: Daemon, name: str) -> None:
    """A life, with an exec, over a restart of containerd."""
    asked = ("--annotation", "org.wherry.shim.protocol=grpc")
    done = daemon.run(name, "sh", "-c", "echo hello; exit 7", options=asked)
    assert (done.returncode, done.stdout) == (7, "hello\n")
    daemon.detached(name, "sleep", "1000", options=asked)
    answer = json.loads((daemon.bundle(name) / "address").read_text())
    assert answer["protocol"] == "grpc"
    assert daemon.ctr("task", "exec", "--exec-id", "e", name, "sh", "-c", "echo inside; exit 3", check=False).stdout == "inside\n"
    daemon.stop()
    daemon.start()
    assert daemon.tasks()[name] == "RUNNING"
    daemon.ctr("task", "kill", "-s", "KILL", name)
    daemon.remove(name)
    assert not os.path.exists(answer["address"])


@pytest.mark.parametrize("daemon", ["sid"], indirect=True, scope="module")
def test_containerd_2(daemon: Daemon, name: str) -> None:
    """It would end each container at once."""
    done = daemon.run(name, "true", options=("--annotation", "org.wherry.shim.protocol=grpc"))
    assert "gRPC to a shim works with containerd 1.7 only" in done.stderr
