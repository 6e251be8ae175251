# SPDX-License-Identifier: Apache-2.0
"""Who may do what: sockets, users, certificates, roles; and who is refused, with what words."""

import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from wherry_shim.proto import containerd_task_v3_pb2 as task_pb
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs
from wherry_shim.serve.guard import METHODS

from .certificates import Authority
from .driver import Server, refused
from .http2 import PREFACE, SETTINGS, call, frame, read_all

pytestmark = pytest.mark.requires("root")
Make = Callable[..., Server]
SPECS = Path(__file__).parents[2] / "specs"
NOBODY = 65534

# ---- the table of roles


def services() -> Iterator[tuple[str, str]]:
    """All that reflection tells of."""
    assert health_pb2 and reflection_pb2 and pb and task_pb  # the pool has them
    names = ("wherry.shim.v1.Shim", "wherry.shim.v1.Admin", "containerd.task.v3.Task", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
    for name in names:
        for method in descriptor_pool.Default().FindServiceByName(name).methods:
            yield name, method.name


def test_each_method_has_a_role() -> None:
    assert {f"/{service}/{method}" for service, method in services()} == METHODS.keys()


def test_roles_are_those_of_the_interface() -> None:
    text = (SPECS / "wherry_shim_v1.proto").read_text()
    said = {name: role for role, name in re.findall(r"// (read|run|admin)\b[^\n]*\n(?:\s*//[^\n]*\n)*\s*rpc (\w+)\(", text)}
    ours = {path.rpartition("/")[2]: rule.role.name.lower() for path, rule in METHODS.items() if path.startswith("/wherry.")}
    assert said == ours


def test_streams_are_those_of_the_interface() -> None:
    """All that stream, and Wait."""
    for path, rule in METHODS.items():
        service, _, name = path.strip("/").partition("/")
        method = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
        assert rule.stream == (method.server_streaming or name == "Wait"), path


# ---- unix sockets


def test_modes(server: Server) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(server.path) == 0o600
    assert mode(server.path.parent) == 0o700
    assert mode(server.root) == mode(server.data) == mode(server.root / "serve") == 0o700
    server.shim.Version(pb.VersionRequest())
    assert mode(server.data / "audit") == 0o600


@pytest.mark.parametrize("mode", (0o777, 0o770, 0o1777))
def test_a_directory_that_others_may_write_to(make_server: Make, mode: int) -> None:
    server = make_server()
    server.path.parent.mkdir()
    server.path.parent.chmod(mode)
    assert "chmod go-w" in server.refusal()
    assert not server.path.exists()


def test_a_directory_of_somebody_else(make_server: Make) -> None:
    server = make_server()
    server.path.parent.mkdir()
    os.chown(server.path.parent, NOBODY, NOBODY)
    assert f"belongs to uid {NOBODY}" in server.refusal()


def test_a_name_that_is_taken(make_server: Make) -> None:
    server = make_server()
    server.path.parent.mkdir(mode=0o700)
    server.path.write_text("precious")
    assert "something else has this name" in server.refusal()
    assert server.path.read_text() == "precious"


def test_a_socket_that_another_server_has(make_server: Make) -> None:
    first, second = make_server().start(), make_server()
    second.listen = first.listen
    assert "another server listens there" in second.refusal()
    first.shim.Version(pb.VersionRequest())


def test_one_server_for_a_root(make_server: Make) -> None:
    first, second = make_server().start(), make_server()
    second.root = first.root
    assert "another server is at work with --root" in second.refusal()
    second.root, second.data = second.place / "r", first.data
    assert "another server is at work with --data" in second.refusal()


def test_a_socket_that_was_left_behind(server: Server) -> None:
    server.restart()
    server.shim.Version(pb.VersionRequest(), wait_for_ready=True)


# ---- users

@pytest.mark.parametrize("opened", ["nothing", "the socket", "its directory"])
def test_another_user_does_not_even_reach_the_socket(server: Server, opened: str) -> None:
    """Two doors, either of which would do."""
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600 and stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    for place in server.path.parent.parents:
        assert place.stat().st_mode & 0o001, place
    if opened == "the socket":
        server.path.chmod(0o666)
    elif opened == "its directory":
        server.path.parent.chmod(0o755)
    probe = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = subprocess.run(["/usr/bin/python3", "-c", probe, str(server.path)], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True)
    assert "PermissionError" in done.stderr


def test_users_by_role(make_server: Make) -> None:
    roles = ("nobody", "read", "run", "admin")
    allowed = [word for role in roles[1:] for word in ("--allow", f"{NOBODY - roles.index(role)}={role}")]
    server = make_server("--socket-mode", "0660", "--socket-group", str(NOBODY), *allowed).start()
    answers = ["OK", "OK", "NOT_FOUND", "OK"]  # the first is health, for everybody
    for index, role in enumerate(roles):
        said = by_user(server, NOBODY - index)
        assert [line.partition(" ")[0] for line in said] == answers[: index + 1] + ["PERMISSION_DENIED"] * (3 - index), role
        for line in said[index + 1 :]:
            assert f"uid {NOBODY - index} pid" in line and line.endswith(f"has {role}")


@contextmanager
def by_user_channel(server: Server, uid: int) -> Iterator[grpc.Channel]:
    """Calls of this user: made from here, through a connection of a process of theirs. (This interpreter may be one that others cannot execute.)"""
    path = server.place / f"relay{uid}.sock"
    script = """
import os, select, socket, sys
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
os.chmod(sys.argv[1], 0o666)
os.setgroups([]); os.setgid(65534); os.setuid(int(sys.argv[3]))
print("ready", flush=True)
near, _ = listener.accept()
far = socket.socket(socket.AF_UNIX); far.connect(sys.argv[2])
pairs = {near: far, far: near}
while pairs:
    for one in select.select(list(pairs), [], [])[0]:
        data = one.recv(65536)
        if not data:
            sys.exit(0)
        pairs[one].sendall(data)
"""
    process = subprocess.Popen(["/usr/bin/python3", "-c", script, str(path), str(server.path), str(uid)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    channel = server.connect(f"unix:{path}")
    try:
        yield channel
    finally:
        channel.close()
        process.wait(10)
        process.stdout.close()


def by_user(server: Server, uid: int) -> list[str]:
    with by_user_channel(server, uid) as channel:
        return said_to(channel)


def said_to(channel: grpc.Channel) -> list[str]:
    shim, admin = stubs.ShimStub(channel), stubs.AdminStub(channel)
    calls: list[Callable[[], Any]] = [
        lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
        lambda: shim.Version(pb.VersionRequest()),
        lambda: shim.Kill(pb.KillRequest(id="nobody")),
        lambda: admin.Audit(pb.AuditRequest()),
    ]
    said = []
    for ask in calls:
        try:
            ask()
            said.append("OK")
        except grpc.RpcError as error:
            said.append(f"{error.code().name} {error.details()}")  # type: ignore[attr-defined]
    return said


def test_a_refusal_says_how_to_allow_it(make_server: Make) -> None:
    server = make_server("--allow", "0=read").start()
    refusal = refused(lambda: server.shim.Kill(pb.KillRequest(id="a")))
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
    assert refusal.reason == "WHERRY-SHIM-ROLE"
    assert refusal.remedy == "start the server with --allow 0=run"
    server.shim.Version(pb.VersionRequest())
    assert server.shim.Version(pb.VersionRequest()).role == "read"


def test_the_inner_socket_is_for_nobody(server: Server) -> None:
    """Not even for root: who has not come through the acceptor has no name here."""
    shim = stubs.ShimStub(server.connect(f"unix:{server.root}/serve/unix.sock"))
    refusal = refused(lambda: shim.Version(pb.VersionRequest()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "WHERRY-SHIM-PEER")


def test_a_name_as_the_acceptor_gives_it(server: Server) -> None:
    """Names of connections can be read in /proc/net/unix: one that is like them, and not one of them, is worth nothing."""
    server.shim.Version(pb.VersionRequest())
    names = re.findall(r"@(wherry-[0-9a-f]{16})-0-\d+-\d+", Path("/proc/net/unix").read_text())
    assert names
    with socket.socket(socket.AF_UNIX) as connection:
        connection.bind(f"\0{names[-1]}-0-1-999999")
        connection.connect(f"{server.root}/serve/unix.sock")
        connection.sendall(PREFACE + frame(SETTINGS) + call("/grpc.health.v1.Health/Check"))
        answer = read_all(connection)
    assert b"this socket is not for clients" in answer


# ---- certificates


@pytest.fixture
def authority(place: Path) -> Authority:
    made = Authority(place / "pki")
    made.sign("server", "DNS:localhost,IP:127.0.0.1")
    return made


def options(authority: Authority, *allow: str) -> list[str]:
    files = ["--tls-cert", authority.certificate("server"), "--tls-key", authority.key("server"), "--tls-client-ca", authority.certificate("ca")]
    return [*files, *(word for who in allow for word in ("--allow", who))]


def tls_server(make_server: Make, authority: Authority, *allow: str) -> Server:
    server = make_server(*options(authority, *allow))
    server.listen = [server.address, "tcp://127.0.0.1:0"]
    return server.start()


def target(server: Server) -> str:
    return re.findall(r"tcp://(127\.0\.0\.1:\d+)", server.log)[-1]


def shim_of(server: Server, credentials: grpc.ChannelCredentials | None) -> Any:
    return stubs.ShimStub(server.connect(target(server), credentials))


@pytest.mark.parametrize("missing", ((), ("--tls-cert",), ("--tls-key",), ("--tls-client-ca",)))
def test_tcp_needs_all_three_files(make_server: Make, authority: Authority, missing: tuple[str, ...]) -> None:
    words = options(authority) if missing else []
    for name in missing:
        at = words.index(name)
        del words[at : at + 2]
    server = make_server(*words)
    server.listen = ["tcp://127.0.0.1:0"]
    said = server.misuse()
    assert "mutual TLS only" in said and "openssl req -x509" in said and "--allow alice=run" in said
    assert not server.root.exists() and not server.data.exists()


def test_the_recipe_works(make_server: Make, place: Path) -> None:
    """What the refusal proposes, word by word."""
    server = make_server()
    server.listen = ["tcp://127.0.0.1:0"]
    recipe = [line.strip() for line in server.misuse().replace("\\\n", "").splitlines() if line.strip().startswith("openssl")]
    directory = place / "recipe"
    directory.mkdir()
    for line in recipe:
        subprocess.run(["/bin/sh", "-ec", line], cwd=directory, check=True, capture_output=True)
    server.options = ["--tls-cert", f"{directory}/server.crt", "--tls-key", f"{directory}/server.key", "--tls-client-ca", f"{directory}/ca.crt", "--allow", "alice=run"]
    server.start()
    contents = [(directory / name).read_bytes() for name in ("ca.crt", "alice.key", "alice.crt")]
    shim = shim_of(server, grpc.ssl_channel_credentials(*contents))
    assert shim.Version(pb.VersionRequest(), timeout=10).role == "run"


def test_files_that_do_not_fit(make_server: Make, authority: Authority) -> None:
    words = options(authority)
    words[3] = authority.key("ca")
    server = make_server(*words)
    server.listen = ["tcp://127.0.0.1:0"]
    assert "--tls-cert and --tls-key" in server.misuse()
    words[3] = authority.key("server")
    os.chmod(authority.key("server"), 0o644)
    assert "chmod 600" in server.misuse(*words)


def test_roles_by_certificate(make_server: Make, authority: Authority) -> None:
    authority.sign("alice")
    authority.sign("other", "DNS:monitoring.example,URI:spiffe://here/robot")
    authority.sign("stranger")
    server = tls_server(make_server, authority, "alice=run", "spiffe://here/robot=read")
    root = authority.certificate("ca")
    alice = shim_of(server, authority.credentials("alice", root))
    assert alice.Version(pb.VersionRequest(), timeout=10).role == "run"
    assert refused(lambda: alice.Kill(pb.KillRequest(id="x"))).code is grpc.StatusCode.NOT_FOUND
    robot = shim_of(server, authority.credentials("other", root))
    assert robot.Version(pb.VersionRequest(), timeout=10).role == "read"
    refusal = refused(lambda: robot.Kill(pb.KillRequest(id="x")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "WHERRY-SHIM-ROLE")
    assert refusal.remedy == "start the server with --allow spiffe://here/robot=run"
    stranger = shim_of(server, authority.credentials("stranger", root))
    assert refused(lambda: stranger.Version(pb.VersionRequest())).code is grpc.StatusCode.PERMISSION_DENIED
    callers = [(entry.caller, entry.role) for entry in server.admin.Audit(pb.AuditRequest()).entries]
    assert {("certificate alice", "run"), ("certificate spiffe://here/robot", "read"), ("certificate stranger", "nobody")} <= set(callers)


def test_who_has_no_certificate_of_ours(make_server: Make, authority: Authority, place: Path) -> None:
    """No certificate, an expired one, one that is not good yet, another authority's of the same name: there is no connection."""
    authority.sign("alice")
    authority.sign("late", expired=True)
    authority.sign("early", early=True)
    foreign = Authority(place / "foreign")
    foreign.sign("alice")
    server = tls_server(make_server, authority, "alice=admin", "late=admin", "early=admin")
    root = authority.certificate("ca")
    for credentials in (*(authority.credentials(who, root) for who in (None, "late", "early")), foreign.credentials("alice", root)):
        refusal = refused(lambda credentials=credentials: shim_of(server, credentials).Version(pb.VersionRequest(), timeout=10))  # type: ignore[misc]
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
    plain = refused(lambda: shim_of(server, None).Version(pb.VersionRequest(), timeout=10))
    assert plain.code is grpc.StatusCode.UNAVAILABLE
    assert shim_of(server, authority.credentials("alice", root)).Version(pb.VersionRequest(), timeout=10).role == "admin"
    wrong_server = refused(lambda: shim_of(server, authority.credentials("alice", foreign.certificate("ca"))).Version(pb.VersionRequest(), timeout=10))
    assert wrong_server.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("text", ("1000", "1000=root", "=read", "alice=", "alice=READ"))
def test_malformed_roles(make_server: Make, text: str) -> None:
    assert "with one of the roles read, run, admin" in make_server("--allow", text).misuse()


@pytest.mark.parametrize("address", ("unix://relative", "http://x", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "/run/x"))
def test_malformed_addresses(make_server: Make, address: str) -> None:
    server = make_server()
    server.listen = [address]
    assert "is neither unix:///PATH nor tcp://HOST:PORT" in server.misuse()


def test_metrics_are_for_this_host(make_server: Make) -> None:
    assert "--metrics-public" in make_server("--metrics", "0.0.0.0:0").refusal()


