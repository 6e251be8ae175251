# SPDX-License-Identifier: Apache-2.0
"""A container's life through wherry.shim.v1: states, ends and why, what is refused."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import get, refused, wait
from .driver import Server

pytestmark = pytest.mark.requires("root")
Code = grpc.StatusCode


def test_from_created_to_deleted(server: Server, bundle: Bundle) -> None:
    made = server.create(bundle.shell("exit 3"), labels={"tier": "web"})
    assert (made.status, made.run, made.id, made.bundle, made.labels["tier"]) == (pb.CREATED, 1, "a", str(bundle.path), "web")
    assert made.pid and made.created_at.seconds and not made.HasField("exit")
    started = server.shim.Start(pb.StartRequest(id="a"))
    assert (started.status, started.pid) == (pb.RUNNING, made.pid) and started.started_at.seconds
    answer = wait(server)
    assert (answer.exit.run, answer.exit.status, answer.exit.signal, answer.exit.reason, answer.exit.oom) == (1, 3, 0, "exited", False)
    assert answer.exit.started_at.ToNanoseconds() <= answer.exit.exited_at.ToNanoseconds() <= time.time_ns()
    stopped = wait(server, condition=pb.WaitRequest.STOPPED).container
    assert stopped.status == pb.STOPPED and stopped.exit == answer.exit and stopped.pid == 0
    assert wait(server) == wait(server, run=1)
    assert server.shim.Delete(pb.DeleteRequest(id="a")).exit == answer.exit
    assert refused(server.shim.Get, pb.GetRequest(id="a")).code == Code.NOT_FOUND
    assert wait(server, condition=pb.WaitRequest.REMOVED).exit == answer.exit, "who comes late for the end is told all the same"
    assert not list((server.data / "containers").iterdir())


def test_from_configuration_bytes(server: Server, bundle: Bundle) -> None:
    """The root filesystem is mounted below a directory of the server's own; a second run has it again."""
    bundle.shell("cat /etc/passwd | head -1; exit 1").config["root"] = {"path": "rootfs"}
    mount = {"type": "bind", "source": str(bundle.rootfs), "options": ["rbind", "ro"]}
    request = pb.CreateRequest(id="a", config=json.dumps(bundle.config).encode(), start=True)
    request.rootfs.add(**mount)
    assert server.shim.Create(request).bundle == str(server.data / "containers/a/bundle")
    assert wait(server).exit.status == 1
    server.shim.Start(pb.StartRequest(id="a"))
    answer = wait(server, condition=pb.WaitRequest.STOPPED)
    assert (answer.exit.run, answer.container.run) == (2, 2)
    assert server.output() == "root:x:0:0:root:/root:/bin/sh\n" * 2
    server.shim.Delete(pb.DeleteRequest(id="a"))


def test_why_it_has_ended(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    bundle = make_bundle().shell("trap 'exit 0' TERM; while :; do sleep 0.05; done")
    for id in ("term", "kill", "stop"):
        server.run(bundle if id == "term" else make_bundle().args("sleep", "1000"), id)
    server.shim.Stop(pb.StopRequest(id="term"))
    assert (wait(server, "term").exit.status, wait(server, "term").exit.reason) == (0, "stopped")
    server.shim.Kill(pb.KillRequest(id="kill"))
    killed = wait(server, "kill").exit
    assert (killed.status, killed.signal, killed.reason) == (137, 9, "signal")
    begun = time.monotonic()
    request = pb.StopRequest(id="stop")
    request.grace.FromMilliseconds(200)
    stopped = server.shim.Stop(request)
    assert stopped.status == pb.STOPPED and stopped.exit.reason == "stopped" and stopped.exit.signal == 9
    assert time.monotonic() - begun < 8, "pid 1 ignores SIGTERM: killed after the grace period, not after the default"
    assert server.shim.Stop(request).exit == stopped.exit


@pytest.mark.requires("controller:memory")
def test_a_lack_of_memory(server: Server, bundle: Bundle) -> None:
    bundle.resources["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    server.run(bundle.shell("exec dd if=/dev/zero of=/dev/null bs=64M count=1"))
    exit = wait(server).exit
    assert (exit.signal, exit.oom, exit.reason) == (9, True, "oom")


def test_pause_resume_update_and_what_is_used(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    assert server.shim.Pause(pb.PauseRequest(id="a")).status == pb.PAUSED
    assert refused(server.shim.Pause, pb.PauseRequest(id="a")).code != Code.OK
    assert server.shim.Resume(pb.ResumeRequest(id="a")).status == pb.RUNNING
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ALWAYS, limit=3)
    updated = server.shim.Update(pb.UpdateRequest(id="a", resources=b'{"pids": {"limit": 77}}', restart=policy, labels={"x": "1", "y": ""}))
    assert updated.restart.limit == 3 and dict(updated.labels) == {"x": "1"}
    sample = next(server.shim.Stats(pb.StatsRequest(ids=["a"], once=True)))
    assert (sample.id, sample.pids, sample.pids_limit) == ("a", 1, 77) and sample.memory_bytes > 0
    processes = server.shim.Processes(pb.ProcessesRequest(id="a")).processes
    assert [process.pid for process in processes] == [updated.pid]
    server.shim.Delete(pb.DeleteRequest(id="a", force=True))


def test_list(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    for id, labels in (("a", {"tier": "web"}), ("b", {"tier": "db"}), ("c", {})):
        server.create(make_bundle(), id, labels=labels)
    server.shim.Start(pb.StartRequest(id="b"))

    def ids(**request: Any) -> list[str]:
        return [one.id for one in server.shim.List(pb.ListRequest(**request)).containers]

    assert ids() == ["a", "b", "c"]
    assert ids(labels={"tier": ""}) == ["a", "b"]
    assert ids(labels={"tier": "db"}) == ["b"]
    assert ids(statuses=[pb.RUNNING]) == ["b"]
    assert set(ids(foreign=True)) >= {"a", "b", "c"}


def test_what_is_refused(server: Server, make_bundle: Callable[[], Bundle], tmp_path: Path) -> None:
    bundle = make_bundle()
    server.create(bundle)
    assert refused(server.shim.Create, pb.CreateRequest(id="a", bundle=str(bundle.path))).code == Code.ALREADY_EXISTS
    for request in (
        pb.CreateRequest(id="../b", bundle=str(bundle.path)),
        pb.CreateRequest(id="b"),
        pb.CreateRequest(id="b", bundle="relative"),
        pb.CreateRequest(id="b", bundle=str(tmp_path / "nowhere")),
        pb.CreateRequest(id="b", config=b"{"),
        pb.CreateRequest(id="b", config=b"[]"),
        pb.CreateRequest(id="b", bundle=str(bundle.path), config=b"{}"),
        pb.CreateRequest(id="b", bundle=str(bundle.path), labels={"": "x"}),
        pb.CreateRequest(id="b", bundle=str(bundle.path), restart=pb.RestartPolicy(when=77)),  # type: ignore[arg-type]
    ):
        error = refused(server.shim.Create, request)
        assert error.code == Code.INVALID_ARGUMENT, request
    for call in (server.shim.Start, server.shim.Stop, server.shim.Kill, server.shim.Pause, server.shim.Resume, server.shim.Update, server.shim.Delete, server.shim.Get, server.shim.Wait):
        kind = {server.shim.Wait: pb.WaitRequest}.get(call, pb.GetRequest)
        assert refused(call, kind(id="nobody")).code == Code.NOT_FOUND
    server.shim.Start(pb.StartRequest(id="a"))
    running = refused(server.shim.Delete, pb.DeleteRequest(id="a"))
    assert running.code == Code.FAILED_PRECONDITION and "force" in running.info.metadata["remedy"]
    assert refused(server.shim.Start, pb.StartRequest(id="a")).code == Code.FAILED_PRECONDITION
    assert refused(server.shim.Kill, pb.KillRequest(id="a", signal=99)).code == Code.INVALID_ARGUMENT
    assert refused(server.shim.Wait, pb.WaitRequest(id="a", condition=pb.WaitRequest.HEALTHY)).code == Code.FAILED_PRECONDITION


def test_a_configuration_that_is_wrong(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """Refused with a pointer, and nothing is left of it; Validate says the same before."""
    bundle = make_bundle()
    bundle.config["mounts"][0]["destination"] = 7
    bundle.save()
    error = refused(server.shim.Create, pb.CreateRequest(id="a", bundle=str(bundle.path)))
    assert error.code == Code.INVALID_ARGUMENT and error.info.metadata["pointer"] == "/mounts/0/destination"
    findings = server.shim.Validate(pb.ValidateRequest(bundle=str(bundle.path))).findings
    assert "/mounts/0/destination" in [one.pointer for one in findings if not one.warning]
    missing = make_bundle().args("/nowhere").save()
    assert refused(server.shim.Create, pb.CreateRequest(id="a", bundle=str(missing.path))).code != Code.INTERNAL
    assert not list((server.data / "containers").iterdir())
    assert not server.shim.List(pb.ListRequest()).containers


def test_before_anything_runs(server: Server, bundle: Bundle) -> None:
    bundle.save()
    assert not [one for one in server.shim.Validate(pb.ValidateRequest(bundle=str(bundle.path))).findings if not one.warning]
    steps = server.shim.Plan(pb.PlanRequest(bundle=str(bundle.path))).steps
    assert steps[0].executor == "caller" and "pivot" in [step.operation for step in steps]
    version = server.shim.Version(pb.VersionRequest())
    assert (version.api, version.server_pid, version.role) == ("wherry.shim.v1", server.pid, "admin")
    assert "namespaces" in json.loads(server.shim.Features(pb.FeaturesRequest()).json)["linux"]


def test_auto_remove(server: Server, bundle: Bundle) -> None:
    server.run(bundle.shell("exit 4"), auto_remove=True)
    assert wait(server, condition=pb.WaitRequest.REMOVED).exit.status == 4
    assert not server.shim.List(pb.ListRequest()).containers


def test_a_task_client_and_us(server: Server, bundle: Bundle) -> None:
    """What is made through containerd.task.v3 is listed, and is its client's to change."""
    from wherry_shim.proto import containerd_task_v3_pb2 as task

    bundle.save()
    server.task.Create(task.CreateTaskRequest(id="t", bundle=str(bundle.path)))
    server.task.Start(task.StartRequest(id="t"))
    found = get(server, "t")
    assert (found.owner, found.status) == ("task", pb.RUNNING)
    assert refused(server.shim.Delete, pb.DeleteRequest(id="t", force=True)).code == Code.FAILED_PRECONDITION
    server.restart()
    assert (get(server, "t").owner, get(server, "t").status) == ("task", pb.RUNNING)
    server.task.Kill(task.KillRequest(id="t", signal=9))
    assert wait(server, "t").exit.status == 137
    server.task.Delete(task.DeleteRequest(id="t"))
    server.until(lambda: not server.shim.List(pb.ListRequest()).containers)
