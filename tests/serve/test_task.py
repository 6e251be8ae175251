# SPDX-License-Identifier: Apache-2.0
"""containerd.task.v3.Task, as a client that knows containerd's shims and nothing of this server: a whole life with fifos, on the generated stubs."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from harness.bundle import Bundle
from wherry_shim import wire
from wherry_shim.containerd import table_of
from wherry_shim.proto import containerd_task_v3_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2 as shim_pb

from .driver import Server, refused

pytestmark = pytest.mark.requires("root")
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4


class Fifos:
    """A client's ends. Opened without waiting, as containerd does."""

    def __init__(self, place: Path, name: str) -> None:
        self.paths = [str(place / f"{name}-{stream}") for stream in ("stdin", "stdout", "stderr")]
        for path in self.paths:
            os.mkfifo(path)
        self.readers = [os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in self.paths[1:]]
        for fd in self.readers:
            os.set_blocking(fd, True)

    def write(self, data: bytes) -> None:
        with open(self.paths[0], "wb") as file:
            file.write(data)

    def read(self) -> list[str]:
        found = []
        for fd in self.readers:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
            found.append(b"".join(parts).decode())
        return found

    def close(self) -> None:
        for fd in self.readers:
            os.close(fd)


def create(server: Server, bundle: Bundle, fifos: Fifos | None = None, id: str = "task", **more: Any) -> int:
    bundle.save()
    names = dict(zip(("stdin", "stdout", "stderr"), fifos.paths, strict=True)) if fifos else {}
    return int(server.task.Create(pb.CreateTaskRequest(id=id, bundle=str(bundle.path), **names, **more)).pid)


def message_of(any: AnyMessage) -> dict[str, Any]:
    return wire.decode(table_of(any.type_url), any.value)


def remove(server: Server, id: str = "task") -> Any:
    server.task.Kill(pb.KillRequest(id=id, signal=9, all=True))
    server.task.Wait(pb.WaitRequest(id=id), timeout=20)
    return server.task.Delete(pb.DeleteRequest(id=id))


def test_a_whole_life(server: Server, bundle: Bundle, place: Path) -> None:
    task, fifos = server.task, Fifos(place, "init")
    pid = create(server, bundle.shell("read line; echo got $line; echo err >&2; exit 5"), fifos)
    assert task.State(pb.StateRequest(id="task")).status == CREATED
    assert task.Connect(pb.ConnectRequest(id="task")).task_pid == pid
    assert task.Start(pb.StartRequest(id="task")).pid == pid
    assert [process.pid for process in task.Pids(pb.PidsRequest(id="task")).processes] == [pid]
    fifos.write(b"a line\n")
    task.CloseIO(pb.CloseIORequest(id="task", stdin=True))
    ended = task.Wait(pb.WaitRequest(id="task"), timeout=20)
    assert ended.exit_status == 5 and abs(ended.exited_at.seconds - time.time()) < 60
    assert fifos.read() == ["got a line\n", "err\n"]
    state = task.State(pb.StateRequest(id="task"))
    assert (state.status, state.exit_status, state.bundle, state.stdin) == (STOPPED, 5, str(bundle.path), fifos.paths[0])
    gone = task.Delete(pb.DeleteRequest(id="task"))
    assert (gone.pid, gone.exit_status) == (pid, 5)
    assert refused(lambda: task.State(pb.StateRequest(id="task"))).code is grpc.StatusCode.NOT_FOUND
    task.Shutdown(pb.ShutdownRequest(id="task"))  # as containerd's client does after the last one: this server has others
    server.shim.Version(shim_pb.VersionRequest())
    fifos.close()


def test_exec_and_the_rest(server: Server, bundle: Bundle, place: Path) -> None:
    task, fifos = server.task, Fifos(place, "exec")
    create(server, bundle)
    task.Start(pb.StartRequest(id="task"))
    process = {"args": ["/bin/sh", "-c", "cat; echo $NAME; exit 3"], "cwd": "/", "env": ["PATH=/bin", "NAME=value"]}
    spec = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Process", value=json.dumps(process).encode())
    names = dict(zip(("stdin", "stdout", "stderr"), fifos.paths, strict=True))
    task.Exec(pb.ExecProcessRequest(id="task", exec_id="e", spec=spec, **names))
    pid = task.Start(pb.StartRequest(id="task", exec_id="e")).pid
    listed = {process.pid: process for process in task.Pids(pb.PidsRequest(id="task")).processes}
    assert message_of(listed[pid].info)["exec_id"] == "e"
    fifos.write(b"from stdin\n")
    task.CloseIO(pb.CloseIORequest(id="task", exec_id="e", stdin=True))
    assert task.Wait(pb.WaitRequest(id="task", exec_id="e"), timeout=20).exit_status == 3
    assert fifos.read()[0] == "from stdin\nvalue\n"
    assert task.Delete(pb.DeleteRequest(id="task", exec_id="e")).exit_status == 3
    stats = task.Stats(pb.StatsRequest(id="task")).stats
    assert stats.type_url.startswith("io.containerd.cgroups.v") and message_of(stats)["pids"]["current"] >= 1
    resources = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", value=b'{"pids":{"limit":77}}')
    task.Update(pb.UpdateTaskRequest(id="task", resources=resources))
    assert message_of(task.Stats(pb.StatsRequest(id="task")).stats)["pids"]["limit"] == 77
    task.Pause(pb.PauseRequest(id="task"))
    assert task.State(pb.StateRequest(id="task")).status == PAUSED
    task.Resume(pb.ResumeRequest(id="task"))
    assert remove(server).exit_status == 137
    fifos.close()


def test_options(server: Server, bundle: Bundle) -> None:
    """containerd.runc.v1.Options in an Any, and one that nobody knows."""
    options = AnyMessage(type_url="containerd.runc.v1.Options", value=wire.encode("runc.Options", {"no_pivot_root": True}))
    create(server, bundle, options=options)
    task = server.task
    task.Kill(pb.KillRequest(id="task", signal=9))
    task.Wait(pb.WaitRequest(id="task"), timeout=20)
    task.Delete(pb.DeleteRequest(id="task"))
    unknown = AnyMessage(type_url="somebody.else.Options", value=b"x")
    assert refused(lambda: create(server, bundle, options=unknown)).code is grpc.StatusCode.INVALID_ARGUMENT


def test_refusals(server: Server, bundle: Bundle) -> None:
    """Codes and the words that containerd's clients look for, with details."""
    task = server.task
    missing = refused(lambda: task.Start(pb.StartRequest(id="nobody")))
    assert (missing.code, missing.text) == (grpc.StatusCode.NOT_FOUND, "container not created: not found")
    assert missing.reason == "WHERRY-STATE-NOT-FOUND"
    create(server, bundle)
    assert refused(lambda: create(server, bundle)).code is grpc.StatusCode.ALREADY_EXISTS
    task.Start(pb.StartRequest(id="task"))
    running = refused(lambda: task.Delete(pb.DeleteRequest(id="task")))
    assert "cannot delete a running process" in running.text
    remove(server)
    bundle.config["process"]["cwd"] = "relative"
    wrong = refused(lambda: create(server, bundle))
    assert wrong.info.metadata["pointer"] == "/process/cwd" and wrong.reason.startswith("WHERRY-CONFIG"), (wrong.text, wrong.info)


def test_it_survives_the_server(server: Server, bundle: Bundle, place: Path) -> None:
    """A task's exit is there after a SIGKILL of the server, and what both services say of it agrees."""
    fifos = Fifos(place, "init")
    create(server, bundle.shell("sleep 1; echo late; exit 4"), fifos)
    server.task.Start(pb.StartRequest(id="task"))
    server.restart()
    listed = server.shim.List(shim_pb.ListRequest(), wait_for_ready=True).containers
    assert [(container.id, container.owner) for container in listed] == [("task", "task")]
    assert server.task.Wait(pb.WaitRequest(id="task"), timeout=20).exit_status == 4
    assert fifos.read()[0] == "late\n"
    assert server.task.Delete(pb.DeleteRequest(id="task")).exit_status == 4
    assert not server.shim.List(shim_pb.ListRequest()).containers
    fifos.close()


def test_of_the_supervisor(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """A container of wherry.shim.v1, seen and ended through Task: the supervisor hears of it."""
    server.run(make_bundle(), "ours")
    assert server.task.State(pb.StateRequest(id="ours")).status == RUNNING
    server.task.Kill(pb.KillRequest(id="ours", signal=9))
    assert server.shim.Wait(shim_pb.WaitRequest(id="ours"), timeout=20).exit.status == 137
