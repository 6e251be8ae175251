# SPDX-License-Identifier: Apache-2.0
"""What goes by itself (auto_remove, `ctl run --rm`): nobody who was reading loses output or exit status, and nothing stays for ever."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import attach, execute, refused, resume, types, wait
from .driver import PATIENCE, Server
from .people import Ctl

pytestmark = pytest.mark.requires("root")
Code = grpc.StatusCode
REMOVED = pb.WaitRequest.REMOVED
WORDS = "echo out; echo err >&2; exit 4"


def kept(server: Server, id: str = "a") -> list[str]:
    place = server.data / "containers" / id
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def looks_as_it_was(server: Server) -> None:
    assert (server.output(), server.output(channel=pb.STDERR)) == ("out\n", "err\n")
    late = attach(server, stdout_offset=0, stderr_offset=1)
    assert late.end().status == 4 and late.data == {pb.STDOUT: b"out\n", pb.STDERR: b"rr\n"}
    assert wait(server, run=1).exit.status == wait(server, condition=REMOVED).exit.status == 4


def test_it_can_be_read_for_a_while(server: Server, bundle: Bundle) -> None:
    """Over the server's death as well, until its id is used again."""
    config = bundle.shell("until [ -e /tmp/go ]; do sleep 0.05; done; " + WORDS).save().path / "config.json"
    document = json.loads(config.read_bytes()) | {"root": {"path": str(bundle.rootfs)}}
    server.shim.Create(pb.CreateRequest(id="a", config=json.dumps(document).encode(), auto_remove=True, start=True), timeout=PATIENCE)
    execute(server, "sh", "-c", "echo an exec; exit 6", exec_id="e", detach=True).read()
    wait(server, exec_id="e")
    (bundle.rootfs / "tmp/go").write_text("")
    assert wait(server, condition=REMOVED).exit.status == 4
    assert not server.shim.List(pb.ListRequest()).containers and refused(server.shim.Get, pb.GetRequest(id="a")).code == Code.NOT_FOUND
    assert kept(server) == ["container.json", "execs", "run.json", "stderr", "stdout"], "of its configuration nothing stays"
    looks_as_it_was(server)
    server.restart()
    looks_as_it_was(server)
    again = resume(server, "e", stdout_offset=3)
    assert again.end().status == 6 and again.data[pb.STDOUT] == b"exec\n"
    assert types(server).count("deleted") == 1
    server.run(bundle.shell("echo another; sleep 1000"))
    server.until(lambda: server.output() == "another\n")
    server.shim.Delete(pb.DeleteRequest(id="a", force=True), timeout=PATIENCE)
    assert not kept(server), "an explicit Delete takes all"
    assert refused(server.shim.Logs, pb.LogsRequest(id="a")).code == Code.NOT_FOUND


def test_it_does_not_stay(make_server: Callable[..., Server], bundle: Bundle) -> None:
    server = make_server("--keep-removed", "1.5").start()
    server.run(bundle.shell(WORDS), auto_remove=True)
    wait(server, condition=REMOVED)
    assert server.output() == "out\n"
    server.until(lambda: not kept(server))
    assert wait(server, condition=REMOVED).exit.status == 4, "ends are known longer than output"


def test_a_removal_that_was_cut_short(server: Server, bundle: Bundle) -> None:
    """The next server does the rest, once, and nothing is lost."""
    server.create(bundle.shell("sleep 0.3; " + WORDS), auto_remove=True)
    follow = server.shim.Logs(pb.LogsRequest(id="a", follow=True), timeout=PATIENCE)
    next(follow)
    server.shim.Start(pb.StartRequest(id="a"))
    server.kill()
    time.sleep(0.8)
    server.start()
    assert wait(server, condition=REMOVED).exit.status == 4
    assert server.output() == "out\n" and types(server) == ["created", "started", "exit", "stopped", "deleted"]


def test_ctl_loses_nothing(server: Server, bundle: Bundle) -> None:
    """Its connection breaks, and the container has come to its end and gone before there is another."""
    bundle.shell("echo first; sleep 0.7; echo last; exit 3").save()
    run = Ctl(server).begin("run", "--rm", "--name", "a", str(bundle.path))
    assert run.stdout is not None and run.stdout.readline() == "first\n"
    server.kill()
    time.sleep(1.2)
    server.start()
    wait(server, condition=REMOVED)
    assert run.stdout.read() == "last\n" and run.wait(PATIENCE) == 3
    run.stdout.close()


def test_ctl_need_not_be_there(server: Server, bundle: Bundle) -> None:
    """Killed while it is attached, or between its create and its start: the container goes all the same."""
    bundle.shell("echo first; until [ -e /tmp/go ]; do sleep 0.05; done").save()
    run = Ctl(server).begin("run", "--rm", "--name", "a", str(bundle.path))
    assert run.stdout is not None and run.stdout.readline() == "first\n"
    run.kill()
    run.wait()
    run.stdout.close()
    (bundle.rootfs / "tmp/go").write_text("")
    assert wait(server, condition=REMOVED).exit.status == 0
    server.create(bundle, "b", auto_remove=True)
    server.kill()
    record = Path(server.data / "containers/b/container.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"created": time.time_ns() - 601 * 10**9}))
    server.start()
    wait(server, "b", condition=REMOVED)
    assert "it was not started, and goes" in server.log and os.listdir(server.root / "default") == ["@plans"]
