# SPDX-License-Identifier: Apache-2.0
"""containerd-shim-wherry-v2 by its command line: which address it prints to which containerd, who shares a server, what a dead server leaves."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry_shim import bootstrap, bootstrap_start, messages_rare, ttrpc, wire
from wherry_shim.bootstrap import Arguments, UsageError
from wherry_shim.errors import ShimError

from .shims import BINARY, NAMESPACE, Shim, alive, call, wait_for_end

ROOT = pytest.mark.requires("root")
SOCKETS = Path(bootstrap_start.DIRECTORY)


@pytest.fixture(params=["off", "on"], ids=["cold", "zygote"])
def shim(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shim]]:
    """Each test twice: servers by themselves, and servers that a zygote forks (the first one of the session makes it)."""
    monkeypatch.setenv("WHERRY_ZYGOTE", request.param)
    made: list[Shim] = []

    def make(id: str = "one", **more: object) -> Shim:
        made.append(Shim(tmp_path, id, str(tmp_path / "containerd.sock"), **more))
        return made[-1]

    yield make
    for one in made:
        if one.socket:
            one.end()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-namespace NS -address /a -publish-binary /b -id ID -debug start", "start"),
        ("--namespace=NS --address=/a --id=ID --debug=true start", "start"),
        ("-namespace NS -id ID -bundle /x delete", "delete"),
        ("-namespace NS -id ID -debug=false", ""),
        ("-namespace NS -id ID -- start", ""),
    ],
)
def test_flags(words: str, expected: str) -> None:
    arguments = Arguments(words.split())
    arguments.check()
    assert (arguments.action or "", arguments["namespace"], arguments["id"]) == (expected if "--" not in words.split() else arguments.action, "NS", "ID")
    assert ("debug" in arguments.switches) == ("debug" in words and "false" not in words)


@pytest.mark.parametrize("words", ["-id x start", "-namespace n start", "-namespace n -id a/b start", "-namespace n -id .. start", "-nonsense 1 start", "-namespace n -id", "-namespace n -id x nonsense"])
def test_refused_command_lines(words: str, tmp_path: Path) -> None:
    done = subprocess.run([BINARY, *words.split()], capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"containerd-shim-wherry-v2: .*\n", done.stderr)


def test_the_socket_is_where_others_look_for_it() -> None:
    path = bootstrap_start.socket_path("/run/containerd/s", "/run/containerd/containerd.sock", "default", "x")
    assert path == "/run/containerd/s/" + __import__("hashlib").sha256(b"/run/containerd/containerd.sock/default/x").hexdigest()
    with pytest.raises(UsageError, match="longer than 106"):
        bootstrap_start.socket_path("/run/" + "d" * 40, "/a", "n", "x")


def test_version() -> None:
    done = subprocess.run([BINARY, "-v"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stderr == "" and "Version:  " in done.stdout


def test_info() -> None:
    options = {"type_url": "containerd.runc.v1.Options", "value": b"\x10\x01"}
    done = subprocess.run([BINARY, "-info"], input=wire.encode("any.Any", options), capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert messages_rare.TABLE
    info = wire.decode("types.RuntimeInfo", done.stdout)
    assert info["options"] == options
    assert info["features"]["type_url"] == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    features = json.loads(info["features"]["value"])
    assert "rro" in features["mountOptions"] and "user" in features["linux"]["namespaces"]


@ROOT
def test_start_prints_the_address_and_leaves_a_server(shim: Callable[..., Shim]) -> None:
    one = shim()
    address = one.start()
    assert address == (one.bundle / "address").read_text() == f"unix://{bootstrap_start.socket_path(str(SOCKETS), one.address, NAMESPACE, 'one')}"
    assert os.stat(address.removeprefix("unix://")).st_mode & 0o777 == 0o600
    pid = one.pid
    words = re.split("[\0 ]", Path(f"/proc/{pid}/cmdline").read_text())  # a forked server has one string with spaces
    assert any("containerd-shim" in word for word in words)
    assert words[words.index("-namespace") + 1] == NAMESPACE and words[words.index("-id") + 1] == "one"
    assert os.getpgid(pid) == pid and os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1)} == {"/dev/null"}
    parent = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(1000, parent + 1)


@ROOT
@pytest.mark.parametrize("key", ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"])
def test_a_group_has_one_server(shim: Callable[..., Shim], key: str) -> None:
    pod = [shim(name, annotations={key: "sandbox"}) for name in ("a", "b", "c")]
    alone = shim("d")
    for one in (*pod, alone):
        one.start()
    assert len({one.socket for one in pod}) == 1 and len({one.pid for one in pod}) == 1
    assert alone.pid != pod[0].pid
    assert all((one.bundle / "address").read_text() == one.socket for one in pod)


@ROOT
def test_starts_of_one_group_at_the_same_time(shim: Callable[..., Shim]) -> None:
    pod = [shim(f"c{number}", annotations={"io.kubernetes.cri.sandbox-id": "s"}) for number in range(6)]
    started = [
        subprocess.Popen([BINARY, "-namespace", NAMESPACE, "-address", one.address, "-id", one.id, "start"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=one.bundle)
        for one in pod
    ]
    for one, process in zip(pod, started, strict=True):
        one.socket = process.communicate(timeout=60)[0].decode()
        assert process.returncode == 0
    assert len({one.pid for one in pod}) == 1


@ROOT
@pytest.mark.parametrize("by", ["c", "python"])
def test_delete_while_a_killed_server_dies(shim: Callable[..., Shim], by: str) -> None:
    """It still listens when its connections have ended: for milliseconds, here for longer."""
    one = shim()
    path = one.bundle / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Timer(0.1, listener.close).start()
        (one.bundle / "address").write_text(f"unix://{path}")
        if by == "python":  # something is left
            (one.bundle / "options.json").write_text("{}")
        one.command("-bundle", str(one.bundle), "delete")
    assert not path.exists()


@ROOT
def test_a_dead_server_s_socket_is_taken_over(shim: Callable[..., Shim]) -> None:
    one = shim()
    first = one.start()
    before = one.pid
    os.kill(before, signal.SIGKILL)
    wait_for_end(before)
    assert Path(first.removeprefix("unix://")).exists()
    assert one.start() == first
    assert one.pid != before


@ROOT
def test_shutdown_takes_the_socket_along(shim: Callable[..., Shim]) -> None:
    one = shim()
    path = one.start().removeprefix("unix://")
    pid = one.pid
    one.call("Shutdown")
    wait_for_end(pid)
    assert not Path(path).exists()
    one.start()
    assert one.pid != pid


@ROOT
@pytest.mark.parametrize("of", ["task", "sandbox"])
def test_after_a_shutdown_the_client_hangs_up_first(shim: Callable[..., Shim], of: str) -> None:
    """A client in Go that finds the reply and the end of the connection at once says "ttrpc: closed", one time in ten."""
    one = shim()
    one.start()
    pid = one.pid
    with one.client() as client:
        if of == "task":
            call(client, "Shutdown", id=one.id)
        else:
            for verb in ("Create", "Start", "Shutdown"):
                client.call("containerd.runtime.sandbox.v1.Sandbox", f"{verb}Sandbox", wire.encode(f"sandbox.{verb}SandboxRequest", {"sandbox_id": "s"}), 10)
        time.sleep(0.1)
        with pytest.raises(ShimError, match="shutting down"):
            call(client, "State", id=one.id)
    wait_for_end(pid)
    assert not Path(one.socket.removeprefix("unix://")).exists()


@ROOT
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_do_not_end_a_server(shim: Callable[..., Shim], number: int) -> None:
    one = shim()
    one.start()
    pid = one.pid
    os.kill(pid, number)
    time.sleep(0.05)
    assert one.pid == pid


def parameters(one: Shim, **more: object) -> bytes:
    assert messages_rare.TABLE
    given = {"instance_id": one.id, "namespace": NAMESPACE, "log_level": -4, "containerd_version": "2.3.4", "containerd_grpc_address": one.address, **more}
    return wire.encode("boot.BootstrapParams", given)


@ROOT
def test_containerd_2_3_gets_version_3(shim: Callable[..., Shim], tmp_path: Path) -> None:
    one = shim()
    directory = Path("/run") / f"wherry-{os.getpid()}"
    try:
        answer = json.loads(one.start(input=parameters(one, socket_dir=str(directory))))
        one.socket = answer["address"]
        assert (answer["version"], answer["protocol"], answer["address"].rpartition("/")[0]) == (3, "ttrpc", f"unix://{directory}")
        assert one.call("Connect", version=3)["shim_pid"] == one.pid
        one.end()
    finally:
        directory.rmdir()


@ROOT
@pytest.mark.parametrize("level", ["2", None])
def test_all_others_get_a_bare_address(shim: Callable[..., Shim], level: str | None) -> None:
    one = shim()
    options = wire.encode("any.Any", {"type_url": "containerd.runc.v1.Options", "value": wire.encode("runc.Options", {"binary_name": "runc"})})
    assert one.start(input=options, **({"MAX_SHIM_VERSION": level} if level else {})).startswith("unix:///")


@ROOT
def test_parameters_of_somebody_else_are_not_ours(shim: Callable[..., Shim]) -> None:
    one = shim()
    assert one.start(input=parameters(one, instance_id="other")).startswith("unix:///")


@ROOT
@pytest.mark.parametrize("input", [b"\xff" * 20, b"\x0a\x05abc"])
def test_noise_on_standard_input(shim: Callable[..., Shim], input: bytes) -> None:
    done = shim().command("start", input=input, check=False)
    assert (done.returncode, done.stdout) == (1, b"") and done.stderr.count(b"\n") == 1


@ROOT
@pytest.mark.parametrize("text", ["", '{"annotations": {"io.kubernetes.cri.sandbox-id": ', '["io.kubernetes.cri.sandbox-id"]'])
def test_a_bundle_that_is_none(shim: Callable[..., Shim], text: str) -> None:
    one = shim()
    (one.bundle / "config.json").write_text(text)
    done = one.command("start", check=False)
    assert (done.returncode, done.stdout) == (1, b"") and b"config.json" in done.stderr


@ROOT
@pytest.mark.parametrize("reader", [True, False])
def test_a_log_nobody_reads_blocks_nobody(shim: Callable[..., Shim], reader: bool) -> None:
    one = shim()
    os.mkfifo(one.bundle / "log")
    hold = os.open(one.bundle / "log", os.O_RDWR | os.O_NONBLOCK) if reader else -1
    one.start()
    pid = one.pid
    assert os.readlink(f"/proc/{pid}/fd/2") == str(one.bundle / "log")
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(one.socket.removeprefix("unix://"))
    peer.close()
    assert one.pid == pid
    if reader:
        os.close(hold)


def test_what_does_not_fit_into_the_log_is_dropped() -> None:
    """It is full, and nobody reads it: a server goes on."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(1 << 16)):
            pass
    script = f"import sys; sys.path[:0] = {[place for place in os.sys.path if place]!r}; from wherry_shim.containerd_server import Log; Log('a', True)('error', 'text'); print('on')"
    done = subprocess.run([os.sys.executable, "-I", "-c", script], stdout=subprocess.PIPE, stderr=writer, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"on\n")
    os.close(reader)
    os.close(writer)


@ROOT
def test_nothing_of_the_caller_is_kept_open(shim: Callable[..., Shim]) -> None:
    one = shim()
    read, write = os.pipe()
    os.set_inheritable(write, True)
    subprocess.run(
        [BINARY, "-namespace", NAMESPACE, "-address", one.address, "-id", one.id, "start"], cwd=one.bundle, stdin=subprocess.DEVNULL, capture_output=True, close_fds=False
    )
    os.close(write)
    one.socket = (one.bundle / "address").read_text()
    assert one.pid
    assert os.read(read, 1) == b""  # end of file: the server has no end of it
    os.close(read)


@ROOT
def test_the_sandbox_service_is_on_the_same_socket(shim: Callable[..., Shim]) -> None:
    one = shim()
    one.start()
    service = "containerd.runtime.sandbox.v1.Sandbox"
    with one.client() as client:
        for method, table in (("CreateSandbox", "sandbox.CreateSandbox"), ("StartSandbox", "sandbox.StartSandbox"), ("PingSandbox", "sandbox.Ping")):
            answer = wire.decode(f"{table}Response", client.call(service, method, wire.encode(f"{table}Request", {"sandbox_id": "s"}), 10))
            assert method != "StartSandbox" or alive(answer["pid"])
    pid = one.pid
    one.call("Shutdown")
    assert one.pid == pid  # there is a sandbox


@ROOT
def test_a_server_that_nobody_needs_leaves(shim: Callable[..., Shim], tmp_path: Path) -> None:
    from wherry_shim import containerd_server

    one = shim()
    listener = bootstrap_start.bind(str(tmp_path / "s"))
    assert listener is not None
    arguments = Arguments(["-namespace", NAMESPACE, "-id", one.id])
    waited, containerd_server.LINGER = containerd_server.LINGER, 0.2
    try:
        server = containerd_server.ContainerdServer(arguments, listener.getsockname(), {})
        server.serve(ttrpc.Server(server.loop, listener, server.services))
        server.run()
    finally:
        containerd_server.LINGER = waited
    assert not (tmp_path / "s").exists()


@ROOT
def test_a_server_that_a_start_has_just_found_stays(shim: Callable[..., Shim], tmp_path: Path) -> None:
    """containerd is about to connect to the address that this start prints."""
    from wherry_shim import containerd_server

    listener = bootstrap_start.bind(str(tmp_path / "s"))
    assert listener is not None
    server = containerd_server.ContainerdServer(Arguments(["-namespace", NAMESPACE, "-id", shim().id]), listener.getsockname(), {})
    server.serve(ttrpc.Server(server.loop, listener, server.services))
    assert bootstrap_start.answers(str(tmp_path / "s"))
    assert not server.remove_socket(unless_asked=True)
    server.loop.step(0)
    assert server.remove_socket(unless_asked=True)
    assert not (tmp_path / "s").exists()
    server.server.close()
    server.loop.close()


def test_a_server_without_a_socket_says_so(tmp_path: Path) -> None:
    done = subprocess.run([BINARY, "-namespace", "n", "-id", "x"], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path, timeout=30)
    assert done.returncode == 1 and "the action is start or delete" in done.stderr


def test_what_start_loads(loaded_modules) -> None:
    ours = loaded_modules("import wherry_shim.bootstrap_start")
    assert not ours & {"os", "re", "json", "typing", "enum", "functools", "collections", "socket", "subprocess", "threading", "argparse", "signal"}


def test_what_the_server_loads(loaded_modules) -> None:
    ours = loaded_modules("import wherry_shim.containerd_server")
    assert not {name for name in ours if "protobuf" in name or "grpc" in name or name in ("asyncio", "subprocess", "argparse", "socket", "threading", "logging")}


def test_alive_knows_the_dead() -> None:
    assert not alive(4194999) and bootstrap.read_file("/nonexistent") == b""
