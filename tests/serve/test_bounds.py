# SPDX-License-Identifier: Apache-2.0
"""Who asks too much, too fast, too long or in gibberish is refused; nobody else notices."""

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs

from . import http2
from .driver import Refused, Server, refused

pytestmark = pytest.mark.requires("root")
Make = Callable[..., Server]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def memory(server: Server) -> int:
    """In MiB."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) // 256


def subscribe(shim: stubs.ShimStub) -> grpc.Call:
    """A stream that has begun."""
    stream = shim.Subscribe(pb.SubscribeRequest())
    stream.initial_metadata()
    return stream


# ---- too much


def test_size_of_messages(make_server: Make) -> None:
    server = make_server("--max-message", "100000").start()
    refusal = refused(lambda: server.shim.Create(pb.CreateRequest(id="a", config=bytes(150_000))))
    assert (refusal.code, refusal.reason) == (EXHAUSTED, "WHERRY-SHIM-SIZE") and "--max-message" in refusal.remedy
    assert refused(lambda: server.shim.Create(pb.CreateRequest(id="a", config=bytes(1_000_000)))).code is EXHAUSTED
    assert refused(lambda: server.task.Kill(server_kill(200_000))).code is EXHAUSTED
    assert refused(lambda: server.shim.Version(pb.VersionRequest(), metadata=(("x", "y" * 100_000),))).code in (EXHAUSTED, grpc.StatusCode.INTERNAL)
    server.shim.Version(pb.VersionRequest())


def server_kill(size: int) -> object:
    from wherry_shim.proto import containerd_task_v3_pb2 as task_pb

    return task_pb.KillRequest(id="x" * size)


def test_streams(make_server: Make) -> None:
    server = make_server("--max-streams", "2").start()
    one, two = subscribe(server.shim), subscribe(server.shim)
    refusal = refused(lambda: server.shim.Subscribe(pb.SubscribeRequest()))
    assert (refusal.code, refusal.reason) == (EXHAUSTED, "WHERRY-SHIM-STREAMS") and refusal.retry > 0
    server.shim.Version(pb.VersionRequest())  # which is no stream
    one.cancel()
    server.until(lambda: not isinstance(attempt(server), Refused))
    two.cancel()


def attempt(server: Server) -> object:
    try:
        stream = subscribe(server.shim)
        if stream.is_active():
            time.sleep(0.1)
        if stream.is_active():
            stream.cancel()
            return stream
        return Refused(stream)
    except grpc.RpcError as error:
        return Refused(error)


def test_calls_under_way(make_server: Make, make_bundle: Callable[[], Bundle]) -> None:
    """Two calls that take long, and a third one."""
    server = make_server("--max-calls", "2").start()
    bundle = make_bundle().shell("trap '' TERM; while :; do sleep 0.1; done")
    server.run(bundle)
    stops = [server.shim.Stop.future(stop_request(2)) for _ in range(2)]
    answers: list[Refused] = []

    def refused_at_last() -> bool:
        try:
            server.shim.Version(pb.VersionRequest())
        except grpc.RpcError as error:
            answers.append(Refused(error))
        return bool(answers)

    server.until(refused_at_last, 1.5)
    assert (answers[0].code, answers[0].reason) == (EXHAUSTED, "WHERRY-SHIM-CALLS") and 0 < answers[0].retry < 1
    for stop in stops:
        stop.result(timeout=20)
    server.shim.Version(pb.VersionRequest())


def stop_request(seconds: int) -> pb.StopRequest:
    request = pb.StopRequest(id="a")
    request.grace.FromSeconds(seconds)
    return request


def test_rate(make_server: Make) -> None:
    """A flood is refused, its audit is a trickle; who waits as long as is said is served."""
    server = make_server("--max-rate", "20").start()
    answers: list[Refused] = []
    for _ in range(300):
        try:
            server.shim.Version(pb.VersionRequest())
        except grpc.RpcError as error:
            answers.append(Refused(error))
    assert answers and {(answer.code, answer.reason) for answer in answers} == {(EXHAUSTED, "WHERRY-SHIM-RATE")}
    assert all(0 < answer.retry <= 0.05 for answer in answers)
    assert (server.data / "audit").read_text().count("RESOURCE_EXHAUSTED") < len(answers) / 3
    time.sleep(0.3)
    server.shim.Version(pb.VersionRequest())


def test_connections(make_server: Make) -> None:
    """More than may be are told so; more than twice as many are not even listened to; one that goes makes room."""
    server = make_server("--max-connections", "2").start()
    channels = [server.connect() for _ in range(4)]
    shims = [stubs.ShimStub(channel) for channel in channels]
    for shim in shims[:2]:
        shim.Version(pb.VersionRequest())
    for shim in shims[2:]:
        refusal = refused(lambda shim=shim: shim.Version(pb.VersionRequest()))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "WHERRY-SHIM-CONNECTIONS") and refusal.retry > 0
    beyond = stubs.ShimStub(server.connect())
    assert refused(lambda: beyond.Version(pb.VersionRequest(), timeout=5)).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    channels[0].close()

    def served() -> bool:
        try:
            shims[2].Version(pb.VersionRequest())
        except grpc.RpcError:
            return False
        return True

    server.until(served)


def test_peers_have_bounds_of_their_own(make_server: Make) -> None:
    """Another user's flood is not ours: root's share is used up, and a certificate's or another uid's is not. Seen in the bounds themselves."""
    from wherry_shim.serve.bounds import Bounds, Limits
    from wherry_shim.serve.errors import Refusal

    bounds = Bounds(Limits(calls=4, calls_each=3, streams=3, streams_each=2, rate=1, burst=100))
    for _ in range(3):
        bounds.enter("a", False)
    with pytest.raises(Refusal, match="3 calls of this client"):
        bounds.enter("a", False)
    bounds.enter("b", False)
    with pytest.raises(Refusal, match="4 of all"):
        bounds.enter("b", False)
    bounds.leave("a", False)
    bounds.enter("b", False)
    for number in range(5000):  # clients that come once are not remembered
        bounds.enter(f"c{number}", True)
        bounds.leave(f"c{number}", True)
    assert len(bounds.shares) <= 1025 and bounds.streams == 0 and bounds.calls == 4


# ---- too long


def test_a_deadline_of_the_client(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    for call in (lambda: server.shim.Wait(pb.WaitRequest(id="a"), timeout=0.3), lambda: list(server.shim.Subscribe(pb.SubscribeRequest(), timeout=0.3))):
        began = time.monotonic()
        assert refused(call).code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 5
    server.until(lambda: "CANCELLED" in (server.data / "audit").read_text())


def test_a_call_without_a_deadline(make_server: Make, bundle: Bundle) -> None:
    """It is given one; what it began goes on."""
    server = make_server("--max-seconds", "0.5").start()
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "2"]}]}
    refusal = refused(lambda: server.create(bundle))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "WHERRY-DEADLINE")
    server.until(lambda: server.shim.Get(pb.GetRequest(id="a")).status == pb.CREATED)


# ---- gibberish


def attacks() -> Iterator[tuple[str, bytes]]:
    chance = random.Random(7)
    opening = http2.PREFACE + http2.frame(http2.SETTINGS)
    yield "nothing", b""
    yield "HTTP/1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "half a preface", http2.PREFACE[:10]
    yield "a preface alone", http2.PREFACE
    yield "a frame that is too long", opening + b"\xff\xff\xff\0\0\0\0\0\1" + bytes(100)
    yield "headers without an end", opening + http2.frame(http2.HEADERS, 0, 1, http2.headers("/x")) + http2.frame(http2.CONTINUATION, 0, 1, bytes(16000)) * 20
    yield "data of no stream", opening + http2.frame(http2.DATA, 0, 5, bytes(1000))
    yield "an even stream", opening + http2.call("/grpc.health.v1.Health/Check", stream=2)
    yield "a length that lies", opening + http2.frame(http2.HEADERS, 4, 1, http2.headers("/grpc.health.v1.Health/Check")) + http2.frame(0, 1, 1, b"\0\xff\xff\xff\xff")
    yield "no message", opening + http2.call("/wherry.shim.v1.Shim/Create", b"\xff" * 50)
    yield "no method", opening + http2.call("/nobody/Nothing") + http2.call("/", stream=3) + http2.call("//", stream=5)
    yield "windows that overflow", opening + http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 3
    yield "many resets", opening + b"".join(
        http2.call("/grpc.health.v1.Health/Check", stream=n) + http2.frame(http2.RST_STREAM, 0, n, bytes(4)) for n in range(1, 1001, 2)
    )
    yield "many pings", opening + http2.frame(http2.PING, 0, 0, bytes(8)) * 5000
    for number in range(40):
        yield f"noise {number}", (opening if number % 2 else b"") + chance.randbytes(chance.randrange(1, 5000))


def test_malformed_bytes(server: Server) -> None:
    """From 54 clients, half of which stay: others are served meanwhile, and when they have gone nothing of them is left."""
    server.shim.Version(pb.VersionRequest())
    before, staying = descriptors(server), []
    for number, (name, data) in enumerate(attacks()):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(server.path))
        try:
            connection.settimeout(5)
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        if number % 2:
            staying.append(connection)
        else:
            connection.close()
        began = time.monotonic()
        server.shim.Version(pb.VersionRequest(), timeout=10)
        assert time.monotonic() - began < 5, name
    for connection in staying:
        connection.close()
    server.until(lambda: descriptors(server) <= before)
    assert "Traceback" not in server.log and "level=error" not in server.log


def test_who_never_speaks_is_sent_away(server: Server) -> None:
    """Half a preface, and silence: a few seconds."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.path))
        connection.sendall(http2.PREFACE[:7])
        connection.settimeout(20)
        while connection.recv(1000):
            pass


def test_malformed_messages(server: Server) -> None:
    """Bytes that are no message: a status, whatever the method."""
    from wherry_shim.serve.guard import METHODS

    chance = random.Random(3)
    for method in METHODS:
        for data in (b"\xff" * 20, chance.randbytes(200), b"\x0a\xff\xff\xff\xff\x0f"):
            call = server.channel.stream_stream(method, lambda raw: raw, lambda raw: raw)(iter([data]), timeout=3)
            try:
                for _ in zip(range(3), call, strict=False):
                    pass
                call.cancel()
            except grpc.RpcError:
                assert call.code() is not grpc.StatusCode.OK
    assert "Traceback" not in server.log and "level=error" not in server.log
    raw = server.channel.unary_unary("/wherry.shim.v1.Shim/Create", lambda data: data, pb.Container.FromString)
    refusal = refused(lambda: raw(b"\xff" * 20))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "WHERRY-USAGE") and "stubs" in refusal.remedy
    stream = server.channel.stream_stream("/wherry.shim.v1.Shim/Exec", lambda data: data, pb.ProcessOutput.FromString)
    assert refused(lambda: stream(iter([b"\xff" * 20]))).code is grpc.StatusCode.INVALID_ARGUMENT


# ---- who does not read


def test_a_client_that_does_not_read(server: Server, bundle: Bundle) -> None:
    """It has promised to read all, and reads nothing: 24 MB wait in a file, not in the server, and nobody else waits with it."""
    server.run(bundle.shell("yes 0123456789abcdef | dd bs=1M count=12 iflag=fullblock 2>/dev/null"))
    server.shim.Wait(pb.WaitRequest(id="a"), timeout=60)
    first = sum(len(part.data) for part in server.shim.Logs(pb.LogsRequest(id="a"), timeout=60))
    assert first == 12 << 20
    before, deaf = memory(server), []
    for _ in range(8):
        connection = socket.socket(socket.AF_UNIX)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(str(server.path))
        connection.sendall(http2.wide_open() + http2.call("/wherry.shim.v1.Shim/Logs", pb.LogsRequest(id="a").SerializeToString()))
        deaf.append(connection)
    time.sleep(1)
    began = time.monotonic()
    again = sum(len(part.data) for part in server.shim.Logs(pb.LogsRequest(id="a"), timeout=60))
    assert again == first and time.monotonic() - began < 20
    assert memory(server) - before < 24
    for connection in deaf:
        connection.close()
    server.shim.Version(pb.VersionRequest(), timeout=10)


def test_clients_that_vanish(server: Server, bundle: Bundle) -> None:
    """In the middle of what they have asked for, 50 at a time: no descriptor and no stream stays."""
    server.run(bundle)
    server.shim.Version(pb.VersionRequest())
    before = descriptors(server)

    def come_and_go() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.path))
            wait = http2.call("/wherry.shim.v1.Shim/Wait", pb.WaitRequest(id="a").SerializeToString(), stream=1)
            follow = http2.call("/wherry.shim.v1.Shim/Logs", pb.LogsRequest(id="a", follow=True).SerializeToString(), stream=3)
            connection.sendall(http2.wide_open() + wait + follow + http2.call("/wherry.shim.v1.Shim/Subscribe", stream=5))
            http2.read_all(connection, 0.3)

    threads = [threading.Thread(target=come_and_go) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.until(lambda: descriptors(server) <= before)
    server.shim.Kill(pb.KillRequest(id="a"))
    server.shim.Wait(pb.WaitRequest(id="a"), timeout=10)
