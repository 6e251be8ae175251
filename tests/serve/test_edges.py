# SPDX-License-Identifier: Apache-2.0
"""What comes at an awkward moment, or is not what it should be: a bundle that is a fifo, or has gone."""

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import refused
from .driver import Server

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
