# SPDX-License-Identifier: Apache-2.0
"""What comes at an awkward moment, or is not what it should be: a bundle that is a fifo, or has gone; a full disk; two calls about one id at once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import get, refused, types, wait
from .driver import PATIENCE, Refused, Server
from .test_events import fill
from .test_events import small_disk as small_disk

pytestmark = pytest.mark.requires("root")
Code = grpc.StatusCode
Make = Callable[..., Server]


@pytest.mark.parametrize("kind", ("fifo", "device", "large"))
def test_a_bundle_that_cannot_be_read_to_its_end(server: Server, place: Path, kind: str) -> None:
    """Nobody waits for it, and it costs no memory."""
    file = place / "b/config.json"
    file.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.touch()
        os.truncate(file, 1 << 40)
    bundle = str(file.parent)
    for refusal in (
        refused(server.shim.Validate, pb.ValidateRequest(bundle=bundle)),
        refused(server.shim.Plan, pb.PlanRequest(bundle=bundle)),
        refused(server.shim.Create, pb.CreateRequest(id="a", bundle=bundle)),
    ):
        assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "WHERRY-USAGE-BUNDLE"), refusal.text
        assert refusal.text == f"{file}: {'has more than 16777216 bytes' if kind == 'large' else 'is no regular file'}"


def test_who_looks_reads_no_files_of_the_host(make_server: Make, bundle: Bundle) -> None:
    server = make_server("--allow", "0=read").start()
    bundle.save()
    for refusal in (
        refused(server.shim.Validate, pb.ValidateRequest(bundle=str(bundle.path))),
        refused(server.shim.Plan, pb.PlanRequest(bundle=str(bundle.path))),
        refused(server.shim.Plan, pb.PlanRequest(bundle="/not/there")),
    ):
        assert refusal.code is Code.PERMISSION_DENIED and "of a bundle needs the role run" in refusal.text
    assert server.shim.Plan(pb.PlanRequest(config=(bundle.path / "config.json").read_bytes())).steps


# ---- exec


def start_exec(server: Server, **start: Any) -> Any:
    request = pb.ExecRequest(start=pb.ExecRequest.Start(id="a", args=["true"], **start))
    return refused(lambda timeout: server.shim.Exec(iter([request]), timeout=timeout))


def test_an_exec_of_what_is_no_user(server: Server, bundle: Bundle) -> None:
    server.run(bundle.shell("sleep 30"))
    for user in ("1:2:3", ":1", "1:", "root", "-1", "99999999999"):
        refusal = start_exec(server, user=user)
        assert refusal.code is Code.INVALID_ARGUMENT and refusal.text.startswith("user:"), (user, refusal.text)


def test_an_exec_whose_bundle_has_gone(server: Server, bundle: Bundle) -> None:
    server.run(bundle.shell("sleep 30"))
    (bundle.path / "config.json").unlink()
    refusal = start_exec(server)
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "WHERRY-USAGE-BUNDLE")


@pytest.mark.parametrize("offset", (1 << 62, 1 << 63, (1 << 64) - 1))
def test_an_offset_beyond_every_file(server: Server, bundle: Bundle, offset: int) -> None:
    server.run(bundle.shell("echo words"))
    wait(server, condition=pb.WaitRequest.STOPPED)
    parts = list(server.shim.Logs(pb.LogsRequest(id="a", stdout_offset=offset, no_stderr=True, follow=True), timeout=PATIENCE))
    assert [(part.offset, part.data) for part in parts] == [(offset, b"")]


# ---- a full disk


def test_a_full_disk_keeps_nothing_running(small_disk: Server, make_bundle: Callable[[], Bundle]) -> None:
    """What needs room is refused; what ends or makes room is not, and stays ended when the disk has learned of it."""
    server = small_disk
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ALWAYS)
    for id in "abc":
        server.run(make_bundle().shell("sleep 60"), id, restart=policy)
    fill(server.data / "full")
    assert server.shim.Stop(pb.StopRequest(id="a", grace={"nanos": 200_000_000}), timeout=PATIENCE).status == pb.STOPPED
    assert server.shim.Delete(pb.DeleteRequest(id="b", force=True), timeout=PATIENCE).exit.signal == 9
    fill(server.data / "full")
    for refusal in (
        refused(server.shim.Start, pb.StartRequest(id="a")),
        refused(server.shim.Update, pb.UpdateRequest(id="c", labels={"x": "y" * 10_000})),
    ):
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "WHERRY-SHIM-DISK"), refusal.text
    os.truncate(server.data / "full", 0)
    server.until(lambda: '"desired":"stopped"' in (server.data / "containers/a/container.json").read_text())
    server.restart()
    assert get(server).status == pb.STOPPED and types(server, "b")[-1] == "deleted"


# ---- two calls about one id


def test_a_start_behind_a_delete(server: Server, bundle: Bundle) -> None:
    """What waits for the end of a Delete finds nothing, and makes nothing."""
    server.run(bundle.shell("exit 3"))
    wait(server, condition=pb.WaitRequest.STOPPED)
    delete = server.shim.Delete.future(pb.DeleteRequest(id="a"), timeout=PATIENCE)
    others = [server.shim.Start.future(pb.StartRequest(id="a"), timeout=PATIENCE), server.shim.Update.future(pb.UpdateRequest(id="a"), timeout=PATIENCE)]
    assert delete.result().exit.status == 3
    for other in others:
        assert other.code() in (Code.NOT_FOUND, Code.OK), other.details()
    assert not (server.data / "containers/a").exists() and not (server.root / "default/a").exists()


def test_labels_do_not_pile_up(server: Server, bundle: Bundle) -> None:
    server.create(bundle)
    for number in range(64):
        server.shim.Update(pb.UpdateRequest(id="a", labels={f"l{number}": "x"}))
    refusal = refused(server.shim.Update, pb.UpdateRequest(id="a", labels={"one": "more"}))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "WHERRY-USAGE")
    assert len(server.shim.Update(pb.UpdateRequest(id="a", labels={"l0": ""})).labels) == 63


def test_create_again_when_the_deletion_is_told(server: Server, bundle: Bundle) -> None:
    """The id is free: what is left of the old container's files is none of the new one's."""
    bundle.shell("sleep 30").save()
    for _ in range(5):
        server.run(bundle)
        for number in range(300):  # something to take away
            (server.data / f"containers/a/{number}").mkdir()
        stream = server.shim.Subscribe(pb.SubscribeRequest(ids=["a"], types=["deleted"]), timeout=PATIENCE)
        stream.initial_metadata()
        delete = server.shim.Delete.future(pb.DeleteRequest(id="a", force=True), timeout=PATIENCE)
        next(stream)
        while isinstance(made := attempt(server, bundle), Refused):
            assert made.code is Code.ALREADY_EXISTS, made.text
        delete.result()
        assert {path.name for path in (server.data / "containers/a").iterdir()} >= {"container.json", "run.json", "stdout", "stderr"}
        server.shim.Delete(pb.DeleteRequest(id="a", force=True), timeout=PATIENCE)


def attempt(server: Server, bundle: Bundle) -> Any:
    try:
        return server.shim.Create(pb.CreateRequest(id="a", bundle=str(bundle.path)), timeout=PATIENCE)
    except grpc.RpcError as error:
        return Refused(error)
