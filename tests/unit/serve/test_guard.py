# SPDX-License-Identifier: Apache-2.0
"""What comes of a call that fails: a status with details, never more of a defect than an id. In this process, over a socket of its own."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from wherry.errors import ConfigError
from wherry_shim.errors import FAILED_PRECONDITION, UNKNOWN, ShimError
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs
from wherry_shim.serve.acceptor import Peer
from wherry_shim.serve.audit import Audit
from wherry_shim.serve.bounds import Bounds, Limits
from wherry_shim.serve.errors import Refusal, status_of
from wherry_shim.serve.guard import Guard
from wherry_shim.serve.identity import Roles
from wherry_shim.serve.metrics import Metrics


class Servicer(stubs.ShimServicer):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def Get(self, request: Any, context: Any) -> pb.Container:
        raise self.error

    async def Subscribe(self, request: Any, context: Any) -> Any:
        await context.send_initial_metadata(())
        yield pb.Event(cursor="1")
        raise self.error


async def asked(place: Path, error: BaseException, call: Callable[[Any], Any]) -> tuple[grpc.StatusCode, str, Any, list[tuple[str, dict[str, object]]]]:
    """Code, text, ErrorInfo, and what the log says."""
    said: list[tuple[str, dict[str, object]]] = []
    audit = Audit(str(place / "audit"), lambda *_, **__: None)
    me = Peer("me", "uid 0", 0, 1)
    guard = Guard(Roles((), {0}), Bounds(Limits()), audit, Metrics(), lambda level, text, **fields: said.append((text, fields)), lambda _: me)
    server = grpc.aio.server(interceptors=[guard])
    stubs.add_ShimServicer_to_server(Servicer(error), server)
    server.add_insecure_port(f"unix:{place}/socket")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{place}/socket") as channel:
            try:
                await call(stubs.ShimStub(channel))
            except grpc.aio.AioRpcError as failure:
                status = rpc_status.from_call(failure)  # type: ignore[arg-type]
                assert status is not None
                info = error_details_pb2.ErrorInfo()
                status.details[0].Unpack(info)
                assert guard.under_way(False) == guard.under_way(True) == 0
                return failure.code(), str(failure.details()), info, said
        raise AssertionError("it was answered")
    finally:
        await server.stop(None)
        audit.close()


def get(shim: Any) -> Any:
    return shim.Get(pb.GetRequest(id="a"))


async def subscribe(shim: Any) -> None:
    async for _ in shim.Subscribe(pb.SubscribeRequest()):
        pass


@pytest.mark.parametrize("call", (get, subscribe))
@pytest.mark.parametrize("error", (ValueError("secret /etc/x"), KeyError("secret"), ShimError(UNKNOWN, "secret")), ids=("ValueError", "KeyError", "ShimError"))
def test_a_defect(tmp_path: Path, error: Exception, call: Callable[[Any], Any]) -> None:
    if isinstance(error, ShimError):
        error.__cause__ = AttributeError("secret")
    code, text, info, said = asyncio.run(asked(tmp_path, error, call))
    assert code is grpc.StatusCode.INTERNAL and info.reason == "WHERRY-INTERNAL" and "secret" not in text + str(info)
    [(line, fields)] = said
    assert "secret" in line and fields["error"] == info.metadata["id"] and "test_guard.py" in str(fields["where"])


def test_what_the_runtime_refuses(tmp_path: Path) -> None:
    """Its own code, pointer and remedy, also where the service stands in between."""
    cause = ConfigError("must be absolute", pointer="/process/cwd", remedy="write /")
    error = ShimError(UNKNOWN, "OCI runtime create failed: x")
    error.__cause__ = cause
    for one in (cause, error):
        code, _, info, said = asyncio.run(asked(tmp_path, one, get))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and info.reason == "WHERRY-CONFIG-VALUE" and not said
        assert (info.metadata["pointer"], info.metadata["remedy"]) == ("/process/cwd", "write /")


def test_what_the_service_refuses(tmp_path: Path) -> None:
    code, text, info, _ = asyncio.run(asked(tmp_path, ShimError(FAILED_PRECONDITION, "cannot"), get))
    assert (code, text, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "cannot: failed precondition", "WHERRY-STATE-REFUSED")


@pytest.mark.parametrize("letter", ("x", "é", "\U0001f512"))
def test_texts_of_any_length(tmp_path: Path, letter: str) -> None:
    """Metadata is bounded: a status that is larger would arrive as none."""
    facts = {f"fact {number}": letter * 10000 for number in range(100)}
    refusal = Refusal(grpc.StatusCode.NOT_FOUND, letter * 100_000, "WHERRY-USAGE", letter * 5000, letter * 5000, field="f", resource=letter * 5000, retry=1.0, facts=facts)
    assert sum(len(key) + len(value) for key, value in status_of(refusal).metadata) < 4000
    code, text, _, _ = asyncio.run(asked(tmp_path, refusal, get))
    assert code is grpc.StatusCode.NOT_FOUND and text.startswith(letter * 3) and len(text) <= 1000
