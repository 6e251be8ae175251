# SPDX-License-Identifier: Apache-2.0
"""containerd.task.v3.Task over gRPC: the service of the shim as it is, for clients that know containerd's shims.

Messages are not touched by protobuf: bytes are the dicts of the service by the tables that containerd's own socket is served with (wherry_shim.containerd).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from wherry_shim import wire
from wherry_shim.containerd import METHODS, pack
from wherry_shim.errors import INVALID_ARGUMENT, ShimError
from wherry_shim.proto import containerd_task_v3_pb2 as _  # noqa: F401 - for the reflection service
from wherry_shim.serve.engine import Engine

SERVICE = "containerd.task.v3.Task"

Handler = Callable[["Request", Any], Awaitable[bytes]]


class Request(bytes):
    """The bytes of a message; `id` as the guard wants to know it."""

    id = ""


def handlers(engine: Engine) -> grpc.GenericRpcHandler:
    found: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        method: grpc.unary_unary_rpc_method_handler(_handler(engine, method, *tables), request_deserializer=_request(tables[0]))
        for method, tables in METHODS.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, found)


def _request(table: str) -> Callable[[bytes], Request]:
    def read(data: bytes) -> Request:
        request = Request(data)
        try:
            request.id = str(wire.decode(table, data).get("id") or "")
        except wire.DecodeError:  # it is refused where a status can be given
            pass
        return request

    return read


def _handler(engine: Engine, method: str, asked: str, answered: str) -> Handler:
    async def handle(request: Request, context: Any) -> bytes:
        try:
            fields = wire.decode(asked, bytes(request))
        except wire.DecodeError as error:
            raise ShimError(INVALID_ARGUMENT, f"the request is no {asked}: {error}") from error
        if method == "Shutdown":  # a client's, after its last container; this server has others
            return b""
        answer = await engine.call(method, fields)
        pack(answer.get("stats"))
        for process in answer.get("processes", ()):
            pack(process.get("info"))
        return wire.encode(answered, answer)

    return handle
