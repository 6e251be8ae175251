# SPDX-License-Identifier: Apache-2.0
"""wherry_shim.client on a real server, which dies and comes back: blocking and asyncio see pauses, and nothing else."""

import asyncio
import dataclasses
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from harness.bundle import Bundle
from wherry_shim.client import (
    TLS,
    AlreadyExists,
    Channel,
    Client,
    Exec,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Probe,
    Refused,
    RestartPolicy,
    Status,
    Unauthenticated,
    When,
    aio,
)

from .certificates import Authority
from .driver import Server
from .people import Ctl

pytestmark = pytest.mark.requires("root")
HOLD = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
COUNT = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); usleep 10000; done; exit 3"
COUNTED = "".join(f"{number}\n" for number in range(300)).encode()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as one:
        yield one


class Deaths:
    """Kills and starts the server again and again while the body runs."""

    def __init__(self, server: Server, pause: float = 0.5) -> None:
        self.server, self.pause, self.count = server, pause, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._go)

    def _go(self) -> None:
        while not self.done.wait(self.pause):
            self.server.restart()
            self.count += 1

    def __enter__(self) -> "Deaths":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()


def test_a_life(client: Client, bundle: Bundle) -> None:
    bundle.shell("echo out; echo err >&2; exit 7").save()
    before = datetime.now(UTC) - timedelta(seconds=1)
    with client.subscribe(ids=["a"]) as events:
        made = client.create("a", bundle=str(bundle.path), labels={"app": "web"})
        assert made.status is Status.CREATED and made.pid and made.created_at is not None and made.created_at > before
        assert client.start("a").status in (Status.RUNNING, Status.STOPPED)
        ended = client.wait("a", timeout=20)
        assert (ended.status, ended.run, ended.reason) == (7, 1, "exited")
        assert {output.channel: output.data for output in client.logs("a")} == {Channel.STDOUT: b"out\n", Channel.STDERR: b"err\n"}
        assert [one.id for one in client.list(labels={"app": ""}, statuses=[Status.STOPPED])] == ["a"]
        assert client.list(labels={"app": "db"}) == []
        assert client.delete("a") == ended
        types = [next(events).type for _ in range(5)]
    assert types == ["created", "started", "exit", "stopped", "deleted"]


def test_a_run_with_input(client: Client, bundle: Bundle) -> None:
    data = b"0123456789abcdef" * (1 << 16)  # what is typed ahead is bounded: 1 MiB goes in pieces
    bundle.args("cat").save()
    with client.run("a", bundle=str(bundle.path), stdin=True) as process:
        done = process.communicate(data)
    assert done.exit.status == 0 and done.stdout == data
    client.delete("a")
    bundle.shell("exit 5").save()
    with client.run("b", bundle=str(bundle.path)) as process:
        assert process.wait().status == 5


def test_refusals(client: Client, bundle: Bundle) -> None:
    bundle.shell(HOLD).save()
    client.create("a", bundle=str(bundle.path))
    with pytest.raises(AlreadyExists):
        client.create("a", bundle=str(bundle.path))
    with pytest.raises(NotFound) as caught:
        client.get("b")
    assert caught.value.reason.startswith("WHERRY-") and caught.value.remedy
    with pytest.raises(InvalidArgument):
        client.create("b/../c", bundle=str(bundle.path))
    with pytest.raises(FailedPrecondition):
        client.pause("a")
    client.start("a")
    with pytest.raises(FailedPrecondition):
        client.resume("a")
    linux = {**bundle.linux, "cgroupsPath": bundle.linux["cgroupsPath"] + "-c"}
    wrong = {**bundle.config, "root": {"path": str(bundle.rootfs)}, "process": {**bundle.config["process"], "args": ["missing"]}, "linux": linux}
    with pytest.raises(Refused) as wrongly:
        client.create("c", config=wrong)
    assert wrongly.value.pointer == "/process/args/0" and wrongly.value.code != "UNKNOWN" and wrongly.value.remedy
    with pytest.raises(TimeoutError):
        client.wait("a", timeout=0.3)
    findings = client.validate(config={**bundle.config, "root": {"path": "/"}, "process": {**bundle.config["process"], "cwd": "relative"}})
    assert [one.pointer for one in findings if not one.warning] == ["/process/cwd"]


def test_over_deaths(client: Client, server: Server, bundle: Bundle, make_bundle: Callable[[], Bundle]) -> None:
    """Everything that waits goes on: no gap, no duplicate, no error."""
    bundle.shell(COUNT).save()
    other = make_bundle().shell(HOLD).save()
    client.create("b", bundle=str(other.path), start=True)
    with client.subscribe(ids=["a"]) as events:
        got: dict[str, bytes] = {}
        with client.run("a", bundle=str(bundle.path)) as process, client.exec("b", Exec(["sh", "-c", COUNT])) as execution, Deaths(server) as deaths:
            readers = [
                threading.Thread(target=lambda: got.update(attached=b"".join(one.data for one in process))),
                threading.Thread(target=lambda: got.update(executed=b"".join(one.data for one in execution))),
                threading.Thread(target=lambda: got.update(followed=b"".join(one.data for one in client.logs("a", follow=True)))),
                threading.Thread(target=lambda: got.update(status=b"%d" % client.wait("a").status)),
            ]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(50)
        assert deaths.count >= 3
        assert got == {"attached": COUNTED, "executed": COUNTED, "followed": COUNTED, "status": b"3"}
        assert process.exit is not None and process.exit.status == 3
        assert execution.exit is not None and execution.exit.status == 3
        assert [next(events).type for _ in range(4)] == ["created", "started", "exit", "stopped"]


def test_typing_over_deaths(client: Client, server: Server, bundle: Bundle) -> None:
    """Each line comes once, in its order, whenever the server dies."""
    bundle.shell(HOLD).save()
    client.create("a", bundle=str(bundle.path), start=True)
    lines = b"".join(b"line %d\n" % number for number in range(150))
    with client.exec("a", Exec(["cat"], stdin=True)) as process, Deaths(server, 0.3) as deaths:

        def typing() -> None:
            for line in lines.splitlines(keepends=True):
                process.write(line)
                time.sleep(0.03)
            process.close_stdin()

        thread = threading.Thread(target=typing)
        thread.start()
        got = b"".join(one.data for one in process)
        thread.join()
    assert deaths.count >= 2 and got == lines


def test_asyncio_over_deaths(server: Server, bundle: Bundle) -> None:
    bundle.shell(COUNT).save()

    async def main() -> tuple[bytes, bytes, int, list[str]]:
        async with aio.Client(server.address) as client, client.subscribe(ids=["a"]) as events:
            session = await client.run("a", bundle=str(bundle.path))

            async def follow() -> bytes:
                return b"".join([one.data async for one in client.logs("a", follow=True)])

            async def attached() -> bytes:
                return b"".join([one.data async for one in session])

            first, second, ended = await asyncio.gather(follow(), attached(), client.wait("a"))
            types = [(await events.next()).type for _ in range(4)]
            await client.delete("a")
            return first, second, ended.status, types

    with Deaths(server) as deaths:
        assert asyncio.run(main()) == (COUNTED, COUNTED, 3, ["created", "started", "exit", "stopped"])
    assert deaths.count >= 2


def test_restarts_and_health(client: Client, bundle: Bundle) -> None:
    bundle.shell("[ -e /tmp/sick ] && rm /tmp/sick; while :; do sleep 0.1; done").save()
    policy = RestartPolicy(When.ALWAYS, backoff=timedelta(milliseconds=50))
    probe = Probe(("test", "!", "-e", "/tmp/sick"), interval=timedelta(milliseconds=150), retries=2, restart=True)
    client.create("a", bundle=str(bundle.path), restart=policy, probe=probe, start=True)
    assert client.wait_healthy("a", timeout=20).health == "healthy"
    with client.subscribe(ids=["a"], types=["exit", "started"]) as events:
        assert client.exec("a", ["touch", "/tmp/sick"]).wait().status == 0
        first, second = next(events), next(events)
    assert (first.type, second.type, second.run) == ("exit", "started", 2)
    assert first.exit is not None and first.exit.reason == "unhealthy"
    client.stop("a", grace=0.2)
    assert client.wait("a", stopped=True).reason == "stopped"


def test_tcp_with_certificates(make_server: Callable[..., Server], bundle: Bundle, place: Path) -> None:
    authority, foreign = Authority(place / "ca"), Authority(place / "foreign", "foreign")
    authority.sign("server", "DNS:wherry.example")
    authority.sign("alice")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
    files = ["--tls-cert", authority.certificate("server"), "--tls-key", authority.key("server"), "--tls-client-ca", authority.certificate("ca")]
    server = make_server("--allow", "alice=read", *files)
    server.listen.append(address)
    server.start()
    bundle.save()
    tls = TLS(authority.certificate("ca"), authority.certificate("alice"), authority.key("alice"), "wherry.example")
    with Client(address, tls=tls) as client:
        assert client.version().role == "read"
        server.restart()
        assert client.list() == []
        with pytest.raises(PermissionDenied) as caught:
            client.create("a", bundle=str(bundle.path))
        assert "--allow alice=run" in caught.value.remedy

    async def ask() -> str:
        async with aio.Client(address, tls=tls) as client:
            return (await client.version()).role

    assert asyncio.run(ask()) == "read"
    begun = time.monotonic()
    for wrong in (dataclasses.replace(tls, ca=foreign.certificate("foreign")), dataclasses.replace(tls, server_name="other.example")):
        with Client(address, tls=wrong) as client, pytest.raises(Unauthenticated) as refused:
            client.version()
        assert "--tls-ca" in refused.value.remedy
    assert time.monotonic() - begun < 10  # patience is for servers that are away
    with pytest.raises(ValueError, match="mutual TLS"):
        Client(address)
    words = ["--address", address, "--tls-ca", tls.ca, "--tls-cert", tls.certificate, "--tls-key", tls.key, "--tls-name", "wherry.example"]
    assert "your role      read" in Ctl(server).run(*words, "version")


def test_a_generic_client_lists_and_calls(server: Server, bundle: Bundle) -> None:
    """What grpcurl does: nothing of ours is imported, reflection tells everything."""
    channel = server.connect()
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    def ask(**request: str) -> reflection_pb2.ServerReflectionResponse:
        return next(iter(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10)))

    names = {one.name for one in ask(list_services="").list_services_response.service}
    assert {"wherry.shim.v1.Shim", "wherry.shim.v1.Admin", "containerd.task.v3.Task", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    pool = descriptor_pool.DescriptorPool()
    wanted, known = [ask(file_containing_symbol="wherry.shim.v1.Shim")], {}
    while wanted:
        for packed in wanted.pop().file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(packed)
            if file.name not in known:
                known[file.name] = file
                wanted += [ask(file_by_filename=name) for name in file.dependency]

    def add(name: str) -> None:
        for dependency in known[name].dependency:
            add(dependency)
        pool.AddSerializedFile(known[name].SerializeToString())

    add(next(name for name in known if "wherry_shim_v1" in name))
    methods = pool.FindServiceByName("wherry.shim.v1.Shim").methods_by_name

    def call(name: str, **fields: object) -> object:
        method = methods[name]
        request, reply = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        return channel.unary_unary(f"/wherry.shim.v1.Shim/{name}", request.SerializeToString, reply.FromString)(request(**fields), timeout=20)

    bundle.shell("exit 4").save()
    assert re.search(r"api: \"wherry.shim.v1\"", str(call("Version")))
    assert 'id: "a"' in str(call("Create", id="a", bundle=str(bundle.path), start=True))
    assert "status: 4" in str(call("Wait", id="a"))
    assert 'id: "a"' in str(call("List"))
    with pytest.raises(grpc.RpcError) as caught:
        call("Get", id="b")
    assert isinstance(caught.value, grpc.Call) and caught.value.code() is grpc.StatusCode.NOT_FOUND
