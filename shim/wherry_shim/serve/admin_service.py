# SPDX-License-Identifier: Apache-2.0
"""wherry.shim.v1.Admin: of the server itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from grpc import StatusCode

from wherry_shim.proto import wherry_shim_v1_pb2 as messages
from wherry_shim.proto.wherry_shim_v1_pb2_grpc import AdminServicer
from wherry_shim.serve.audit import Audit, Entry
from wherry_shim.serve.errors import Refusal

MOST = 1000


class AdminService(AdminServicer):
    """`reload` refuses where the program that is installed now would not start; `shutdown` and the reload itself come after the answer."""

    def __init__(self, audit: Audit, reload: Callable[[], Awaitable[None]], shutdown: Callable[[], None]) -> None:
        self._audit, self._reload, self._shutdown = audit, reload, shutdown

    async def Reload(self, request: Any, context: Any) -> messages.ReloadResponse:
        await self._reload()
        return messages.ReloadResponse()

    async def Shutdown(self, request: Any, context: Any) -> messages.ShutdownResponse:
        self._shutdown()
        return messages.ShutdownResponse()

    async def Audit(self, request: Any, context: Any) -> messages.AuditResponse:
        if request.count > MOST:
            raise Refusal(StatusCode.INVALID_ARGUMENT, f"at most {MOST} entries", "WHERRY-USAGE", field="count", remedy="read the file for more")
        found = list(self._audit.recent)[-(request.count or 100) :]
        return messages.AuditResponse(entries=map(_entry, found))


def _entry(entry: Entry) -> messages.AuditResponse.Entry:
    answer = messages.AuditResponse.Entry(caller=entry.caller, role=entry.role, method=entry.method, id=entry.id, status=entry.status)
    answer.time.FromNanoseconds(entry.time)
    answer.duration.FromNanoseconds(int(entry.duration * 1e9))
    return answer
