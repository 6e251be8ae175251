# SPDX-License-Identifier: Apache-2.0
"""A program takes the place of another on the same sockets, with the same pid: nobody is refused, nothing is lost. And how a server ends."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs

from .certificates import Authority
from .driver import Refused, Server, refused

pytestmark = pytest.mark.requires("root")
Make = Callable[..., Server]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
LIFECYCLES = int(os.environ.get("WHERRY_LIFECYCLES", "12"))


def reload(server: Server) -> None:
    """To its end: the new program answers."""
    server.admin.Reload(pb.ReloadRequest(), timeout=60)
    server.until(lambda: server.log.count("msg=reloads") == server.log.count("msg=serves") - 1)


def zombies(pid: int) -> list[str]:
    children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [child for child in children if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"]


def test_nobody_is_refused(server: Server, bundle: Bundle) -> None:
    """Clients come all the time, each on a connection of its own; one has a channel, one a stream, one waits."""
    container = server.run(bundle)
    pid, inode, began = server.pid, server.path.stat().st_ino, server.shim.Version(pb.VersionRequest()).started_at.ToNanoseconds()
    failures: list[str] = []
    served = [0]
    over = threading.Event()

    def come(fresh: bool) -> None:
        channel = server.connect()
        while not over.is_set():
            try:
                if fresh:
                    channel = grpc.insecure_channel(f"unix:{server.path}", [("grpc.use_local_subchannel_pool", 1)])
                stubs.ShimStub(channel).Version(pb.VersionRequest(), timeout=30)
                served[0] += 1
            except grpc.RpcError as error:
                failures.append(f"{error.code()} {error.details()}")  # type: ignore[attr-defined]
            if fresh:
                channel.close()
            time.sleep(0.01)

    threads = [threading.Thread(target=come, args=(number > 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    waiting = server.shim.Wait.future(pb.WaitRequest(id="a"))
    events = server.shim.Subscribe(pb.SubscribeRequest())
    events.initial_metadata()
    for _ in range(2):
        reload(server)
    time.sleep(0.5)
    over.set()
    for thread in threads:
        thread.join()
    assert not failures and served[0] > 20
    for broken in (waiting.result, lambda: next(events)):
        refusal = refused(broken)
        assert (refusal.code, refusal.reason) == (UNAVAILABLE, "WHERRY-SHIM-ENDING") and refusal.retry > 0
    version = server.shim.Version(pb.VersionRequest())
    assert server.pid == pid == version.server_pid and server.path.stat().st_ino == inode and version.started_at.ToNanoseconds() > began
    assert server.shim.Get(pb.GetRequest(id="a")).pid == container.pid


def test_nothing_piles_up(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """Descriptors are as many as before, threads too, and monitors of the program before are reaped."""
    server.run(make_bundle(), "a")
    server.shim.Version(pb.VersionRequest())

    def counts() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{server.pid}/fd")), len(os.listdir(f"/proc/{server.pid}/task"))

    reload(server)
    server.shim.Version(pb.VersionRequest())
    before = counts()
    for _ in range(2):
        reload(server)
        server.shim.Version(pb.VersionRequest())
    server.until(lambda: counts()[0] <= before[0] and counts()[1] <= before[1] + 1)
    server.shim.Delete(pb.DeleteRequest(id="a", force=True))
    server.until(lambda: not zombies(server.pid))


def test_hang_up(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: server.log.count("msg=serves") == 2)
    server.shim.Version(pb.VersionRequest())


def test_a_program_that_would_not_start(make_server: Make, place: Path) -> None:
    """What is asked for is refused; the server goes on."""
    authority = Authority(place / "pki")
    authority.sign("server", "DNS:localhost,IP:127.0.0.1")
    files = ["--tls-cert", authority.certificate("server"), "--tls-key", authority.key("server"), "--tls-client-ca", authority.certificate("ca")]
    server = make_server(*files)
    server.listen.append("tcp://127.0.0.1:0")
    server.start()
    Path(authority.certificate("server")).write_text("no certificate")
    refusal = refused(lambda: server.admin.Reload(pb.ReloadRequest()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WHERRY-SHIM-RELOAD")
    assert "--tls-cert" in refusal.text
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: "would not start" in server.log)
    server.shim.Version(pb.VersionRequest())
    assert server.log.count("msg=serves") == 1


def test_certificates_are_read_anew(make_server: Make, place: Path) -> None:
    """An authority that is replaced: after a reload the old one's clients are foreign."""
    authority = Authority(place / "pki")
    for name in ("server", "alice"):
        authority.sign(name, "DNS:localhost,IP:127.0.0.1")
    files = ["--tls-cert", authority.certificate("server"), "--tls-key", authority.key("server"), "--tls-client-ca", authority.certificate("ca")]
    server = make_server(*files, "--allow", "alice=read")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server.listen.append(f"tcp://127.0.0.1:{port}")
    server.start()
    old = authority.credentials("alice", authority.certificate("ca"))
    assert stubs.ShimStub(server.connect(f"127.0.0.1:{port}", old)).Version(pb.VersionRequest(), timeout=10).role == "read"
    newer = Authority(place / "pki")
    for name in ("server", "alice"):
        newer.sign(name, "DNS:localhost,IP:127.0.0.1")
    reload(server)
    new = newer.credentials("alice", newer.certificate("ca"))
    assert stubs.ShimStub(server.connect(f"127.0.0.1:{port}", new)).Version(pb.VersionRequest(), timeout=10).role == "read"
    assert refused(lambda: stubs.ShimStub(server.connect(f"127.0.0.1:{port}", old)).Version(pb.VersionRequest(), timeout=10)).code is UNAVAILABLE


def test_the_end(server: Server, bundle: Bundle) -> None:
    """SIGTERM: streams are told when to come back, a call that is under way gets its answer, the container stays."""
    pid = server.run(bundle.shell("trap '' TERM; while :; do sleep 0.1; done")).pid
    events = server.shim.Subscribe(pb.SubscribeRequest())
    events.initial_metadata()
    request = pb.StopRequest(id="a")
    request.grace.FromMilliseconds(1500)
    stop = server.shim.Stop.future(request)
    server.until(lambda: server.shim.List(pb.ListRequest()))
    time.sleep(0.3)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    refusal = refused(lambda: next(events))
    assert (refusal.code, refusal.reason) == (UNAVAILABLE, "WHERRY-SHIM-ENDING") and refusal.retry > 0
    assert stop.result(timeout=20).exit.status == 137
    assert server.end() == 0
    assert not Path(f"/proc/{pid}").exists() and not server.path.exists()


def test_shutdown(server: Server, bundle: Bundle) -> None:
    pid = server.run(bundle).pid
    server.admin.Shutdown(pb.ShutdownRequest())
    assert server.process is not None
    assert server.process.wait(20) == 0
    assert Path(f"/proc/{pid}").exists()


# ---- under load


def again(call: Callable[[], Any], done: grpc.StatusCode | None = None) -> Any:
    """Until it is answered. A call that was broken may have been done all the same: then it is refused with `done`."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            refusal = Refused(error)
            if refusal.code is done:
                return None
            if refusal.code is not UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def life(server: Server, bundle: Bundle, number: int) -> None:
    id, shim = f"life-{number}", stubs.ShimStub(server.connect())
    text, code = f"output of {number}\n", number % 100 + 1
    bundle.shell(f"echo 'output of {number}'; exit {code}").save()
    request = pb.CreateRequest(id=id, bundle=str(bundle.path), start=True)
    again(lambda: shim.Create(request, timeout=60), grpc.StatusCode.ALREADY_EXISTS)
    container = again(lambda: shim.Get(pb.GetRequest(id=id)))
    if container.status in (pb.CREATING, pb.CREATED):  # the reload came between create and start
        again(lambda: shim.Start(pb.StartRequest(id=id), timeout=60), grpc.StatusCode.FAILED_PRECONDITION)
    ended = again(lambda: shim.Wait(pb.WaitRequest(id=id, condition=pb.WaitRequest.STOPPED), timeout=60))
    assert ended.exit.status == code, ended
    data = again(lambda: b"".join(part.data for part in shim.Logs(pb.LogsRequest(id=id), timeout=60)))
    assert data.decode() == text
    again(lambda: shim.Delete(pb.DeleteRequest(id=id), timeout=60), grpc.StatusCode.NOT_FOUND)


def test_upgrades_under_load(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """Containers are created, run, end and are deleted, four at a time, while the program is replaced again and again: no exit, output or event is lost."""
    bundles = [make_bundle() for _ in range(4)]
    numbers, failures, lock = iter(range(LIFECYCLES)), [], threading.Lock()

    def work(bundle: Bundle) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or failures:
                return
            try:
                life(server, bundle, number)
            except BaseException as error:
                failures.append(f"{number}: {error!r}")

    threads = [threading.Thread(target=work, args=(bundle,)) for bundle in bundles]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        again(lambda: reload(server))
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert not failures, f"{failures}\n{server.log[-3000:]}"
    assert server.log.count("msg=reloads") >= 1
    seen: dict[str, list[str]] = {}
    for event in again(lambda: list(server.shim.Subscribe(pb.SubscribeRequest(from_oldest=True, no_follow=True), timeout=60))):
        seen.setdefault(event.id, []).append(event.type)
    assert len(seen) == LIFECYCLES
    for id, types in seen.items():
        assert types == ["created", "started", "exit", "stopped", "deleted"], (id, types)
