# SPDX-License-Identifier: Apache-2.0
"""Every method, asked by an adversary: by each role, about ids that nobody has or could have, by clients that do not read, with a full disk below the
containers. A status each time, and others are served meanwhile."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool

from harness.bundle import Bundle
from wherry_shim.proto import containerd_task_v3_pb2 as task_pb
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs
from wherry_shim.serve import trace
from wherry_shim.serve.guard import METHODS
from wherry_shim.serve.identity import Role

from . import http2
from .asks import refused, wait
from .certificates import Authority
from .driver import PATIENCE, PROGRAM, Refused, Server
from .test_bounds import descriptors, memory
from .test_events import fill
from .test_security import by_user_channel, options, target

pytestmark = pytest.mark.requires("root")
Make = Callable[..., Server]
Code = grpc.StatusCode
FIRST_UID = 65530
SHIM = descriptor_pool.Default().FindServiceByName("wherry.shim.v1.Shim")
assert task_pb


# ---- wrong roles


def answer(channel: grpc.Channel, method: str, request: bytes = b"") -> Code:
    """OK where there was an answer, and of a stream that has begun: that is when the trace comes."""
    call = channel.stream_stream(method, lambda raw: raw, lambda raw: raw)(iter([request]), timeout=PATIENCE)
    try:
        if METHODS[method].stream and trace.KEY in dict(call.initial_metadata() or ()):
            call.cancel()
            return Code.OK
        for _ in call:
            continue
    except grpc.RpcError:
        pass
    found: Code = call.code()
    return found


def test_every_method_by_every_role(make_server: Make) -> None:
    """Each is refused to who has less than it needs, and to nobody else: an empty request is then wrong in another way, or right."""
    roles = list(Role)
    allowed = [word for role in roles[1:] for word in ("--allow", f"{FIRST_UID + role}={role.name.lower()}")]
    server = make_server("--socket-mode", "0660", "--socket-group", "65534", *allowed).start()
    ending = {"/wherry.shim.v1.Admin/Reload", "/wherry.shim.v1.Admin/Shutdown"}
    for role in roles:
        with by_user_channel(server, FIRST_UID + role) as channel:
            for method, rule in METHODS.items():
                if role >= rule.role and method in ending:
                    continue
                code = answer(channel, method)
                assert (code is Code.PERMISSION_DENIED) == (role < rule.role), (role, method, code)
                assert code not in (Code.INTERNAL, Code.UNKNOWN, Code.UNIMPLEMENTED) or "containerd" in method, (method, code)
    assert answer(server.channel, "/wherry.shim.v1.Admin/Shutdown") is Code.OK
    server.until(lambda: server.process is not None and server.process.poll() is not None)


# ---- ids


def with_ids(id: str) -> Iterator[tuple[str, Any]]:
    """Each method that takes one, with nothing else wrong."""
    config = b'{"ociVersion": "1.0.2"}'
    for method in SHIM.methods:
        kind = getattr(pb, method.input_type.name)
        fields = {field.name for field in method.input_type.fields}
        if method.name == "Attach":
            yield method.name, kind(open=pb.AttachRequest.Open(id=id))
        elif method.name == "Exec":
            yield method.name, kind(start=pb.ExecRequest.Start(id=id, args=["true"]))
            yield method.name, kind(resume=pb.ExecRequest.Resume(id=id, exec_id="e"))
        elif "id" in fields:
            yield method.name, kind(id=id, **({"config": config} if method.name == "Create" else {}))
            if "exec_id" in fields:
                yield method.name, kind(id=id, exec_id=id or "e")
        elif method.name == "Stats":
            yield method.name, kind(ids=[id], once=True)


@pytest.mark.parametrize("id", ("nobody", "", ".", "..", "../a", "a/b", "a\0b", "a\nb", "\u202e", "é", "x" * 3000, "-a", "@plans", "%s"), ids=range(14))
def test_ids_that_nobody_has(shared: Server, id: str) -> None:
    said = set()
    for name, request in with_ids(id):
        if name == "Create" and id == "nobody":
            continue
        method = getattr(shared.shim, name)
        found = refused(method, iter([request]) if name in ("Attach", "Exec") else request)
        assert found.code in (Code.NOT_FOUND, Code.INVALID_ARGUMENT), (name, found.code, found.text)
        assert found.reason.startswith("WHERRY-") and len(found.text) < 1000, (name, found.text[:1000])
        said.add(name)
    assert len(said) >= 15
    assert not list((shared.data / "containers").iterdir()), "nothing is made on the way"


@pytest.fixture(scope="module")
def shared(session_directory: Path) -> Iterator[Server]:
    """One for all of them: none of them changes anything."""
    place = session_directory / "refusals"
    place.mkdir()
    server = Server(place).start()
    yield server
    assert "level=error" not in server.log and "Traceback" not in server.log
    server.clean_up()


# ---- who does not read


def deaf(server: Server, *calls: bytes) -> socket.socket:
    """Has sent its calls, with windows that are open wide, and takes nothing."""
    connection = socket.socket(socket.AF_UNIX)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(str(server.path))
    connection.sendall(http2.wide_open() + b"".join(calls))
    return connection


def test_clients_that_stop_reading(server: Server, bundle: Bundle) -> None:
    """Of Attach, Stats and Subscribe: what they do not take stays where it is, and when they go nothing of them is left."""
    server.run(bundle.shell("read go; yes 0123456789abcdef | dd bs=1M count=8 iflag=fullblock 2>/dev/null; sleep 1000"), stdin=True)
    server.shim.Version(pb.VersionRequest())
    before, size = descriptors(server), memory(server)
    shim = "/wherry.shim.v1.Shim/"
    attach = pb.AttachRequest(open=pb.AttachRequest.Open(id="a", stdout_offset=0)).SerializeToString()
    stats = pb.StatsRequest(ids=["a"])
    stats.interval.FromMilliseconds(100)
    calls = [http2.call(shim + "Attach", attach, 1), http2.call(shim + "Stats", stats.SerializeToString(), 3), http2.call(shim + "Subscribe", b"", 5)]
    silent = [deaf(server, *calls) for _ in range(8)]
    other = server.shim.Subscribe(pb.SubscribeRequest(types=["updated"]), timeout=PATIENCE)
    other.initial_metadata()
    here = server.shim.Attach(iter([pb.AttachRequest(open=pb.AttachRequest.Open(id="a")), pb.AttachRequest(stdin=b"go\n")]), timeout=PATIENCE)
    taken = 0
    while taken < 8 << 20:
        taken += len(next(here).output.data)
    here.cancel()
    for number in range(300):
        server.shim.Update(pb.UpdateRequest(id="a", labels={"number": str(number)}), timeout=10)
        assert next(other).type == "updated"
    assert memory(server) - size < 32
    other.cancel()
    for one in silent:
        one.close()
    server.until(lambda: descriptors(server) <= before + 1)


# ---- a full disk below the containers


def test_a_full_disk_under_the_root(make_server: Make, make_bundle: Callable[[], Bundle]) -> None:
    """What cannot be made is refused and leaves nothing; what runs goes on, ends, and is taken away."""
    server = make_server()
    server.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "wherry-test", server.root], check=True)
    try:
        server.start()
        server.run(make_bundle().shell("sleep 1000"))
        fill(server.root / "full")
        found = refused(server.shim.Create, pb.CreateRequest(id="b", bundle=str(make_bundle().save().path), start=True))
        assert found.code not in (Code.INTERNAL, Code.UNAVAILABLE) and "no space left" in found.text.lower(), found.text
        assert [one.id for one in server.shim.List(pb.ListRequest()).containers] == ["a"]
        server.shim.Kill(pb.KillRequest(id="a"))
        assert wait(server).exit.signal == 9
        assert server.shim.Delete(pb.DeleteRequest(id="a"), timeout=PATIENCE).exit.signal == 9
        os.truncate(server.root / "full", 0)
        server.run(make_bundle().shell("exit 3"), "b")
        assert wait(server, "b").exit.status == 3
        server.clean_up()
        server._channel, server._channels = None, []
    finally:
        server.end()
        subprocess.run(["umount", server.root], check=True)


# ---- where it listens


def test_places_to_listen_at(make_server: Make, place: Path) -> None:
    """Each with a word on what is wrong, before anything is served."""
    server = make_server()
    (place / "file").write_text("")
    (place / "fifo").mkdir()
    os.mkfifo(place / "fifo/x")
    for path, said in (
        (f"{place}/{'x' * 120}", "longer than 107 bytes"),
        (f"{place}/{'x' * 300}/s", "File name too long"),
        (f"{place}/file/s", "File exists"),
        (f"{place}/fifo/x", "something else has this name"),
        (f"{place}/fifo", "something else has this name"),
    ):
        server.listen = [f"unix://{path}"]
        assert said in server.refusal(), path
    server.listen, server.options = [server.address], ["--root", f"{place}/{'r' * 100}"]
    assert "is too long: addresses of sockets have 107 bytes" in server.misuse()


# ---- far clients


@pytest.fixture
def hosts() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces of our own, joined by a cable: how to run something in the one and in the other."""
    wait_for_end = [sys.executable, "-S", "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    with (
        subprocess.Popen(["unshare", "--net", *wait_for_end], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one,
        subprocess.Popen(["unshare", "--net", *wait_for_end], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as two,
    ):
        inside = []
        for process in (one, two):
            assert process.stdout and process.stdout.readline() == b"ready\n"
            inside.append(["nsenter", f"--net=/proc/{process.pid}/ns/net"])
        made = subprocess.run([*inside[0], "ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(two.pid)], capture_output=True)
        if made.returncode:
            pytest.skip(f"veth devices cannot be made: {made.stderr.decode()}")
        for number, (way, name) in enumerate(zip(inside, ("here", "there"), strict=True), 1):
            for words in (["address", "add", f"10.9.8.{number}/24", "dev", name], ["link", "set", name, "up"], ["link", "set", "lo", "up"]):
                subprocess.run([*way, "ip", *words], check=True)
        yield inside[0], inside[1]
        for process in (one, two):
            assert process.stdin
            process.stdin.close()


@pytest.mark.requires("command:ip")
def test_a_client_whose_host_has_vanished(make_server: Make, place: Path, hosts: tuple[list[str], list[str]]) -> None:
    """No packet says that it is gone. Its streams end all the same, soon after --keepalive, and hold nothing any more."""
    here, there = hosts
    authority = Authority(place / "pki")
    authority.sign("server", "IP:10.9.8.1")
    authority.sign("alice")

    class Inside(Server):
        def words(self) -> list[str]:
            return [*here, *super().words()]

    server = make_server(*options(authority, "alice=run"), "--keepalive", "1")
    server.__class__ = Inside
    server.listen = [server.address, "tcp://10.9.8.1:7070"]
    server.start()
    server.shim.Version(pb.VersionRequest())
    before = descriptors(server)
    files = ["--tls-ca", authority.certificate("ca"), "--tls-cert", authority.certificate("alice"), "--tls-key", authority.key("alice")]
    client = subprocess.Popen([*there, PROGRAM, "ctl", "--address", "tcp://10.9.8.1:7070", *files, "events"], stdout=subprocess.DEVNULL)
    try:
        server.until(lambda: descriptors(server) >= before + 2)
        time.sleep(0.5)
        subprocess.run([*there, "ip", "link", "set", "there", "down"], check=True)
        server.until(lambda: descriptors(server) <= before)
    finally:
        client.kill()
        client.wait()
    server.shim.Version(pb.VersionRequest())


def test_sockets_of_systemd_over_tcp(make_server: Make, place: Path) -> None:
    """With TLS, and never without."""
    authority = Authority(place / "pki")
    authority.sign("server", "IP:127.0.0.1")
    authority.sign("alice")
    server = make_server(*options(authority, "alice=run"))
    script = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}; os.execv(sys.argv[2], sys.argv[2:])"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.listen = []

        def begin(*words: str, **more: Any) -> subprocess.Popen[bytes]:
            program = [sys.executable, "-c", script, str(listener.fileno()), *words]
            return subprocess.Popen(program, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()], **more)

        bare = [word for word in server.words() if word not in server.options]
        done = begin(*bare, stderr=subprocess.PIPE)
        assert "mutual TLS only" in done.communicate(timeout=PATIENCE)[1].decode() and done.returncode == 1
        with open(server.log_path, "ab") as log:
            server._said = 0
            server.process = begin(*server.words(), stdout=log, stderr=log)
        server.wait_until_ready()
        channel = server.connect(target(server), authority.credentials("alice", authority.certificate("ca")))
        assert stubs.ShimStub(channel).Version(pb.VersionRequest(), timeout=10).role == "run"
        server.end()


def test_connections_grow_old(make_server: Make, bundle: Bundle) -> None:
    """Streams break in order and come back: nothing is lost to who goes on with its cursor."""
    server = make_server("--max-age", "1").start()
    server.run(bundle)
    found, cursor, broken = [], "", 0
    began = time.monotonic()
    while len(found) < 20 or broken < 1:
        assert time.monotonic() - began < PATIENCE
        try:
            for event in server.shim.Subscribe(pb.SubscribeRequest(cursor=cursor, from_oldest=not cursor), timeout=PATIENCE, wait_for_ready=True):
                found.append(int(event.cursor.partition("-")[2]))
                cursor = event.cursor
                server.shim.Update(pb.UpdateRequest(id="a", labels={"number": str(len(found))}), timeout=10, wait_for_ready=True)
                time.sleep(0.15)
        except grpc.RpcError as error:
            assert Refused(error).code is Code.UNAVAILABLE
            broken += 1
    assert found == list(range(1, len(found) + 1))
