# SPDX-License-Identifier: Apache-2.0
"""A server begins, answers, says what it did, and ends."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.serve.audit import Audit, Entry

from .driver import PROGRAM, Server, refused

pytestmark = pytest.mark.requires("root")
Make = Callable[..., Server]


def test_health_and_reflection(server: Server) -> None:
    """And what an operator finds: a container of default limits, a log of one line for the start, a socket that is gone at the end."""
    assert server.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert server.health.Check(health_pb2.HealthCheckRequest(service="wherry.shim.v1.Shim")).status == health_pb2.HealthCheckResponse.SERVING
    database = ProtoReflectionDescriptorDatabase(server.channel)
    services = set(database.get_services())
    assert {"wherry.shim.v1.Shim", "wherry.shim.v1.Admin", "containerd.task.v3.Task", "grpc.health.v1.Health"} <= services
    assert database.FindFileContainingSymbol("wherry.shim.v1.Shim").package == "wherry.shim.v1"
    assert database.FindFileContainingSymbol("containerd.task.v3.Task").package == "containerd.task.v3"
    assert server.end() == 0
    assert len([line for line in server.log.splitlines() if "level=warning" in line or "level=error" in line]) == 0
    assert not server.path.exists()


def test_a_generic_client(server: Server, bundle: Bundle) -> None:
    """Which has no stubs: all that it knows is what the server tells of itself."""
    server.run(bundle)
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(server.channel))
    service = pool.FindServiceByName("wherry.shim.v1.Shim")

    def call(name: str, stream: bool = False, **fields: Any) -> Any:
        method = service.methods_by_name[name]
        asked, answered = (GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        make = server.channel.unary_stream if stream else server.channel.unary_unary
        return make(f"/{service.full_name}/{name}", asked.SerializeToString, answered.FromString)(asked(**fields), timeout=30)  # type: ignore[attr-defined]

    assert call("Version").api == "wherry.shim.v1"
    assert [container.id for container in call("List").containers] == ["a"]
    assert [event.type for event in call("Subscribe", stream=True, from_oldest=True, no_follow=True)] == ["created", "started"]
    call("Kill", id="a", signal=9)
    assert call("Wait", id="a").exit.status == 137


def test_a_container(server: Server, bundle: Bundle) -> None:
    """Its whole life; with the limit of descriptors that the server was started with, though its own is higher."""
    made = server.run(bundle.shell("ulimit -n; echo to stderr >&2; exit 7"))
    assert made.pid > 0 and made.status == pb.RUNNING
    answer = server.shim.Wait(pb.WaitRequest(id="a"), timeout=30)
    assert answer.exit.status == 7
    assert server.output() == f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}\n"
    assert server.output(channel=pb.STDERR) == "to stderr\n"
    assert [container.id for container in server.shim.List(pb.ListRequest()).containers] == ["a"]
    assert server.shim.Delete(pb.DeleteRequest(id="a")).exit.status == 7
    assert not server.shim.List(pb.ListRequest()).containers


def test_it_outlives_the_server(server: Server, bundle: Bundle) -> None:
    pid = server.run(bundle.shell("sleep 1; exit 3")).pid
    server.kill()
    assert Path(f"/proc/{pid}").exists()
    time.sleep(1.2)
    server.start()
    assert server.shim.Wait(pb.WaitRequest(id="a"), timeout=30, wait_for_ready=True).exit.status == 3


# ---- what it says


def test_audit(make_server: Make) -> None:
    server = make_server().start()
    refused(lambda: server.shim.Get(pb.GetRequest(id="nobody")))
    server.shim.Version(pb.VersionRequest())
    server.health.Check(health_pb2.HealthCheckRequest())
    entries = server.admin.Audit(pb.AuditRequest()).entries
    assert [(entry.method.rpartition("/")[2], entry.id, entry.status) for entry in entries] == [("Get", "nobody", "NOT_FOUND"), ("Version", "", "OK")]
    assert all(entry.caller == f"uid 0 pid {os.getpid()}" and entry.role == "admin" for entry in entries)
    assert abs(entries[0].time.ToNanoseconds() - time.time_ns()) < 60e9 and 0 < entries[0].duration.ToNanoseconds() < 10e9
    lines = [json.loads(line) for line in (server.data / "audit").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["NOT_FOUND", "OK", "OK"]
    server.restart()
    again = server.admin.Audit(pb.AuditRequest(count=2), wait_for_ready=True).entries
    assert [entry.method.rpartition("/")[2] for entry in again] == ["Version", "Audit"]
    refusal = refused(lambda: server.admin.Audit(pb.AuditRequest(count=100000)))
    assert refusal.details["BadRequest"].field_violations[0].field == "count"  # type: ignore[attr-defined]


def test_what_is_executed_is_written_down_at_once(server: Server, bundle: Bundle) -> None:
    """An exec that is under way when the server is killed is in the audit log."""
    server.run(bundle)
    held = threading.Event()

    def requests() -> Iterator[pb.ExecRequest]:
        yield pb.ExecRequest(start=pb.ExecRequest.Start(id="a", args=["sleep", "100"]))
        held.wait(30)

    outputs = server.shim.Exec(requests())
    assert next(outputs).started.pid
    server.kill()
    held.set()
    entry = json.loads((server.data / "audit").read_text().splitlines()[-1])
    assert (entry["method"], entry["id"], entry["status"]) == ("/wherry.shim.v1.Shim/Exec", "a", "BEGUN")


def test_the_audit_log_is_bounded(place: Path) -> None:
    said: list[str] = []
    audit = Audit(str(place / "audit"), lambda level, text, **fields: said.append(text), size=4000)
    entry = Entry(1, "uid 0 pid 1", "admin", "/x/Y", "é\n\0", "OK", 0.1)
    for _ in range(200):
        audit.add(entry)
    audit.close()
    files = sorted(place.iterdir())
    assert [file.name for file in files] == ["audit", "audit.1", "audit.2", "audit.3"]
    assert all(file.stat().st_size <= 4000 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert all(json.loads(line)["id"] == "é\n\0" for file in files for line in file.read_text().splitlines())
    assert not said and audit.lost == 0
    (place / "audit").write_text('{"torn')
    assert len(Audit(str(place / "audit"), lambda *_, **__: None).recent) > 0


def test_a_full_disk_under_the_audit_log(make_server: Make, place: Path) -> None:
    """Nobody is refused for it; it is said once, and counted. When there is space again, it goes on."""
    (place / "d").mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "wherry-test", place / "d"], check=True)
    try:
        server = make_server("--metrics", f"unix://{place}/s/metrics.sock").start()
        filler = place / "d/filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        for _ in range(60):  # what is left of the last page
            server.shim.Version(pb.VersionRequest())
        assert server.log.count("the audit log cannot be written") == 1
        lost = float(re.findall(r"^wherry_audit_lost (\S+)", scrape(place / "s/metrics.sock"), re.MULTILINE)[0])
        assert lost > 0
        filler.unlink()
        server.shim.Version(pb.VersionRequest())
        lines = (place / "d/audit").read_text().splitlines()
        assert json.loads(lines[-1])["method"].endswith("Version") and all(json.loads(line) for line in lines)
        server.end()
    finally:
        subprocess.run(["umount", place / "d"], check=True)


def scrape(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        found = b""
        while data := connection.recv(65536):
            found += data
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK"), head
    return body.decode()


def test_metrics(make_server: Make, bundle: Bundle) -> None:
    server = make_server("--metrics", "127.0.0.1:0").start()
    port = next(line for line in re.findall(r"metrics=\S*:(\d+)", server.log))
    server.run(bundle)
    refused(lambda: server.shim.Get(pb.GetRequest(id="nobody")))
    events = server.shim.Subscribe(pb.SubscribeRequest(from_oldest=True))
    next(events)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    for line in (
        'wherry_calls_total{code="NOT_FOUND",method="/wherry.shim.v1.Shim/Get"} 1.0',
        'wherry_calls_total{code="OK",method="/wherry.shim.v1.Shim/Create"} 1.0',
        'wherry_call_seconds_count{method="/wherry.shim.v1.Shim/Create"} 1.0',
        'wherry_containers{status="running"} 1.0',
        'wherry_containers{status="stopped"} 0.0',
        "wherry_streams 1.0",
        "wherry_subscribers 1.0",
        "wherry_connections 1.0",
        "wherry_restarts_total 0.0",
    ):
        assert line in text.splitlines(), text
    assert re.search(r"^wherry_events_total [1-9]", text, re.MULTILINE)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/other", timeout=10)
    events.cancel()


def test_a_defect_is_not_shown_to_clients(server: Server) -> None:
    """What is no refusal is INTERNAL, with an id that the log has."""
    (server.data / "containers").rename(server.data / "elsewhere")
    (server.data / "containers").write_text("in the way")
    try:
        refusal = refused(lambda: server.shim.Create(pb.CreateRequest(id="a", config=b"{}")))
        if refusal.code is grpc.StatusCode.INTERNAL:
            assert refusal.reason == "WHERRY-INTERNAL" and refusal.info.metadata["id"] in server.log
        assert "Traceback" not in refusal.text and ".py" not in refusal.text
    finally:
        (server.data / "containers").unlink()
        (server.data / "elsewhere").rename(server.data / "containers")


# ---- traces

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_trace_context(server: Server) -> None:
    """A client's trace goes on, in a span of ours; what is malformed begins a new one."""
    given = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
    _, call = server.shim.Version.with_call(pb.VersionRequest(), metadata=given)
    answered = dict(call.trailing_metadata())["traceparent"]
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", answered) and SPAN not in answered
    events = server.shim.Subscribe(pb.SubscribeRequest(), metadata=given)
    streamed = dict(events.initial_metadata())["traceparent"]
    assert TRACE in streamed and streamed != answered
    events.cancel()
    for bad in ("x", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE.upper()}-{SPAN}-01"):
        _, call = server.shim.Version.with_call(pb.VersionRequest(), metadata=(("traceparent", bad),))
        assert TRACE not in dict(call.trailing_metadata())["traceparent"]
    lines = [json.loads(line) for line in (server.data / "audit").read_text().splitlines()]
    assert lines[0]["trace"] == answered


def test_traces_of_events(server: Server, bundle: Bundle) -> None:
    """What comes of a call has its trace, the end of the program included."""
    server.create(bundle.args("true"))
    server.shim.Start(pb.StartRequest(id="a"), metadata=(("traceparent", f"00-{TRACE}-{SPAN}-01"),))
    server.shim.Wait(pb.WaitRequest(id="a", condition=pb.WaitRequest.STOPPED), timeout=30)
    events = {event.type: event.trace for event in server.shim.Subscribe(pb.SubscribeRequest(from_oldest=True, no_follow=True))}
    assert events["created"] == "" and TRACE in events["started"]
    assert events["started"] == events["exit"] == events["stopped"]


# ---- by whom it is started


def test_units(make_server: Make) -> None:
    """What --print-units prints is what systemd understands, where there is a systemd to ask."""
    text = subprocess.run([PROGRAM, "serve", "--print-units"], capture_output=True, text=True, check=True, timeout=30).stdout
    assert f"ExecStart={PROGRAM} serve" in text and "KillMode=process" in text and "WatchdogSec=" in text and "ListenStream=" in text
    assert "@PROGRAM@" not in text
    if shutil.which("systemd-analyze"):
        place = make_server().place / "units"
        place.mkdir()
        for name, unit in re.findall(r"# /etc/systemd/system/(\S+)\n(.*?)(?=# /etc/systemd|\Z)", text, re.DOTALL):
            (place / name).write_text(unit)
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, place.iterdir())], capture_output=True, text=True, timeout=60)
        assert not [line for line in done.stderr.splitlines() if "wherry-shim" in line], done.stderr


def test_sockets_from_systemd(make_server: Make) -> None:
    """As systemd hands them over: descriptors from 3 on, and who is meant. A restart finds the same ones; they are not ours to remove."""
    server = make_server()
    server.path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.path))
        listener.listen()
        server.listen = []
        script = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}; os.execv(sys.argv[2], sys.argv[2:])"
        program = [sys.executable, "-c", script, str(listener.fileno()), *server.words()]
        with open(server.log_path, "ab") as log:
            server._said = 0
            server.process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()])
        server.wait_until_ready()
        assert server.shim.Version(pb.VersionRequest()).server_pid == server.pid
        server.end()
        assert server.path.exists()


def test_what_systemd_is_told(make_server: Make, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(20)
        server = make_server().start(environment={"NOTIFY_SOCKET": str(place / "notify"), "WATCHDOG_USEC": "200000"})
        assert manager.recv(1000).decode().splitlines() == ["READY=1", f"MAINPID={server.pid}"]
        assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        while (said := manager.recv(1000)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"
        server.end()
