# SPDX-License-Identifier: Apache-2.0
"""What stands between a client and every method: who is it and may it, is it too much, how long may it take; what came of it goes into the audit log
and the metrics, and what it failed with becomes a status with details.

METHODS has a row for each method of every service; what has none is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import StatusCode
from grpc.aio import ServerInterceptor, ServicerContext

from wherry_shim.serve import identity, trace
from wherry_shim.serve.acceptor import Peer
from wherry_shim.serve.audit import Audit, Entry
from wherry_shim.serve.bounds import Bounds
from wherry_shim.serve.errors import Refusal, internal, refusal_of, status_of
from wherry_shim.serve.identity import Identity, Role, Roles
from wherry_shim.serve.log import Log
from wherry_shim.serve.metrics import Metrics


@dataclass(frozen=True)
class Rule:
    """stream: it lasts as long as the client wants. slow: its request says how long it may take. quiet: not worth a line of the audit log. begins: sends the
    initial metadata itself, and the trace in it."""

    role: Role
    stream: bool = False
    begins: bool = False
    slow: bool = False
    quiet: bool = False


READ, RUN, ADMIN = Rule(Role.READ), Rule(Role.RUN), Rule(Role.ADMIN)
WATCH, DRIVE = Rule(Role.READ, stream=True), Rule(Role.RUN, stream=True)

_SERVICES: dict[str, dict[str, Rule]] = {
    "wherry.shim.v1.Shim": {
        **dict.fromkeys(("Create", "Start", "Kill", "Pause", "Resume", "Update", "Delete", "DeleteExec"), RUN),
        "Stop": Rule(Role.RUN, slow=True),
        **dict.fromkeys(("Get", "List", "Processes", "Validate", "Plan", "Version", "Features"), READ),
        **dict.fromkeys(("Wait", "Logs", "Stats"), WATCH),
        "Subscribe": Rule(Role.READ, stream=True, begins=True),
        **dict.fromkeys(("Attach", "Exec"), DRIVE),
    },
    "wherry.shim.v1.Admin": dict.fromkeys(("Reload", "Shutdown", "Audit"), ADMIN),
    "containerd.task.v3.Task": {
        **dict.fromkeys(("Create", "Start", "Delete", "Pause", "Resume", "Checkpoint", "Kill", "Exec", "ResizePty", "CloseIO", "Update", "Shutdown"), RUN),
        **dict.fromkeys(("State", "Pids", "Stats", "Connect"), READ),
        "Wait": WATCH,
    },
    "grpc.health.v1.Health": {
        **dict.fromkeys(("Check", "List"), Rule(Role.NOBODY, quiet=True)),
        "Watch": Rule(Role.NOBODY, stream=True, quiet=True),
    },
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Rule(Role.READ, stream=True, quiet=True)},
}
METHODS = {f"/{service}/{method}": rule for service, methods in _SERVICES.items() for method, rule in methods.items()}

Behaviour = Callable[[Any, Any], Any]
_RETRY_S = 0.5
_current: ContextVar[Call | None] = ContextVar("call", default=None)


@dataclass(eq=False)
class Call:
    """One that is under way."""

    method: str
    rule: Rule
    caller: Identity
    task: asyncio.Task[Any]
    id: str = ""
    ended: bool = False
    """By the server, not by the client."""
    cut: Refusal | None = None
    """Why, where it is not that the server ends."""
    began: float = field(default_factory=time.monotonic)
    began_at: int = field(default_factory=time.time_ns)


class Guard(ServerInterceptor):
    """`peer`: of a connection, by context.peer()."""

    def __init__(self, roles: Roles, bounds: Bounds, audit: Audit, metrics: Metrics, log: Log, peer: Callable[[str], Peer | None]) -> None:
        self.roles, self.bounds, self.audit, self.metrics, self.log = roles, bounds, audit, metrics, log
        self._peer = peer
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._calls: set[Call] = set()
        self._ending = self._ended = False
        self._flood = 0.0

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(details.method)
        found = self._wrapped.get(method)
        if found is None:
            handler = await continuation(details)
            found = self._wrap(method, handler)
            if handler is not None:  # else anybody could fill the table
                self._wrapped[method] = found
        return found

    # ---- one call

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        rule = METHODS.get(method)
        if handler is None or rule is None:
            return grpc.unary_unary_rpc_method_handler(self._runner(method, Rule(Role.NOBODY), _unknown(method), False, False))
        kinds = (handler.request_streaming, handler.response_streaming)
        makers = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }
        make, behaviour = makers[kinds]
        runner = self._runner(method, rule, behaviour, *kinds)
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(runner, _lenient(handler.request_deserializer), handler.response_serializer)
        return wrapped

    def _runner(self, method: str, rule: Rule, behaviour: Behaviour, streams_in: bool, streams_out: bool) -> Behaviour:
        async def run(request: Any, context: ServicerContext[Any, Any]) -> Any:
            task = asyncio.current_task()
            assert task is not None
            call = Call(method, rule, identity.NOBODY, task)
            code, answer, error = StatusCode.OK, None, None
            try:
                async with self._admitted(call, context):
                    if streams_in:
                        request = self._watched(call, request)
                    else:
                        _check_form(request)
                        call.id = str(getattr(request, "id", ""))
                        self.bounds.size(request.ByteSize() if hasattr(request, "ByteSize") else len(request))
                    answer = await self._performed(call, behaviour, request, context, streams_out)
            except asyncio.CancelledError:
                if not call.ended:
                    self._over(call, StatusCode.CANCELLED)
                    raise
                task.uncancel()
                error = call.cut or ending()
            except Exception as failure:
                error = self._refusal(call, failure)
            if error is not None:
                code = error.code
                status = status_of(error)
            self._over(call, code, error)
            if error is not None:
                await context.abort(status.code, status.text, status.metadata)
            return answer

        return run

    def _admitted(self, call: Call, context: ServicerContext[Any, Any]) -> _Admission:
        return _Admission(self, call, context)

    def admit(self, call: Call, context: ServicerContext[Any, Any]) -> str:
        """Refuses, or counts it; returns the traceparent that the client has given."""
        given = next((str(value) for key, value in context.invocation_metadata() or () if key == trace.KEY), "")
        trace.enter(given)
        peer = self._peer(context.peer())
        if peer is None:
            raise Refusal(
                StatusCode.PERMISSION_DENIED, "this socket is not for clients", "WHERRY-SHIM-PEER", remedy="connect to what --listen names"
            )
        call.caller = self.roles.of_user(peer.uid, peer.pid) if peer.uid >= 0 else self.roles.of_certificate(context.auth_context())
        identity.enter(call.caller)
        if self._ended or (self._ending and call.rule.stream):
            raise ending()
        if peer.excess:
            text = f"{call.caller.key} has more than {self.bounds.limits.connections_each} connections"
            raise Refusal(StatusCode.RESOURCE_EXHAUSTED, text, "WHERRY-SHIM-CONNECTIONS", remedy="close some", retry=1.0)
        self.bounds.enter(call.caller.key, call.rule.stream)
        self._calls.add(call)
        identity.check(call.caller, call.rule.role, call.method)
        return given

    async def _performed(
        self, call: Call, behaviour: Behaviour, request: Any, context: ServicerContext[Any, Any], streams_out: bool
    ) -> Any:
        if streams_out:
            _current.set(call)
            if not call.rule.begins:
                await context.send_initial_metadata(((trace.KEY, trace.current()),))
            return await _streamed(behaviour(request, context), context)
        async with asyncio.timeout(self._seconds(call, request)):
            return await behaviour(request, context)

    def _seconds(self, call: Call, request: Any) -> float | None:
        """The client's own deadline is grpcio's to keep."""
        if call.rule.stream:
            return None
        grace: float = request.grace.seconds if call.rule.slow else 0
        return self.bounds.limits.seconds + min(grace, 86400)

    def _refusal(self, call: Call, error: Exception) -> Refusal:
        if isinstance(error, TimeoutError):
            text = f"{call.method.rpartition('/')[2]} has not ended within {self.bounds.limits.seconds:g} s, and goes on"
            return Refusal(StatusCode.DEADLINE_EXCEEDED, text, "WHERRY-DEADLINE", remedy="ask for the container's state")
        known = refusal_of(error)
        if known is not None:
            return known
        answer, id = internal(error)
        self.log("error", f"{call.method}: {type(error).__name__}: {error}", error=id, where=_where(error), caller=call.caller.name)
        return answer

    def _over(self, call: Call, code: StatusCode, error: Refusal | None = None) -> None:
        seconds = time.monotonic() - call.began
        self.metrics.called(call.method if call.method in METHODS else "unknown", code.name, seconds, call.rule.stream)
        if call.rule.quiet and code in (StatusCode.OK, StatusCode.CANCELLED):
            return
        if error is not None and error.reason == "WHERRY-SHIM-RATE":  # a flood would wash everything else out of the log
            if call.began - self._flood < 1:
                return
            self._flood = call.began
        self._write(call, code.name)

    async def _watched(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The first message says what it is about. Who drives a process is written down as it begins: the server may not see the end."""
        first = True
        async for message in requests:
            _check_form(message)
            if first and hasattr(message, "ListFields"):
                opening = next((value for _, value in message.ListFields()), None)
                call.id = str(getattr(opening, "id", ""))
            if first and not call.rule.quiet:
                self._write(call, "BEGUN")
            first = False
            yield message

    def _write(self, call: Call, status: str) -> None:
        seconds = time.monotonic() - call.began
        role = call.caller.role.name.lower()
        self.audit.add(Entry(call.began_at, call.caller.name, role, call.method[:200], call.id[:200], status, seconds, trace.current()))

    # ---- all of them

    def under_way(self, streams: bool) -> int:
        return sum(call.rule.stream == streams for call in self._calls)

    async def drain(self, seconds: float) -> None:
        """Streams are told to come back. Other calls have so long to end; those that begin meanwhile are served."""
        self._ending = True
        self._interrupt(streams_only=True)
        await self._gone(list(self._calls), seconds)

    async def end(self, seconds: float) -> None:
        """Nothing new is on its way any more: what is still under way has so long."""
        await self._gone(self._calls, seconds)
        if not self._calls:
            return
        self._ended = True
        self._interrupt(streams_only=False)
        await self._gone(self._calls, 1)

    async def _gone(self, calls: Collection[Call], seconds: float) -> None:
        limit = time.monotonic() + seconds
        while any(call in self._calls for call in calls) and time.monotonic() < limit:
            await asyncio.sleep(0.01)

    def _interrupt(self, streams_only: bool) -> None:
        for call in list(self._calls):
            if call.task is not asyncio.current_task() and (call.rule.stream or not streams_only) and not call.ended:
                call.ended = True
                call.task.cancel()


class _Admission:
    """From admit() to the end of a call."""

    def __init__(self, guard: Guard, call: Call, context: ServicerContext[Any, Any]) -> None:
        self._guard, self._call, self._context = guard, call, context

    async def __aenter__(self) -> None:
        try:
            given = self._guard.admit(self._call, self._context)
        except BaseException:
            self._leave()
            raise
        if given and not self._call.rule.stream:
            self._context.set_trailing_metadata(((trace.KEY, trace.current()),))

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._call in self._guard._calls:
            self._guard._calls.discard(self._call)
            self._guard.bounds.leave(self._call.caller.key, self._call.rule.stream)


def ending() -> Refusal:
    text = "the server ends, or is replaced: what was asked goes on with the next one"
    return Refusal(StatusCode.UNAVAILABLE, text, "WHERRY-SHIM-ENDING", remedy="come back, with the cursor or the offsets", retry=_RETRY_S)


def cutter() -> Callable[[Refusal], None]:
    """Of the stream that is under way: ends it with a refusal, though it may stand in a write whose client does not read."""
    call = _current.get()

    def cut(refusal: Refusal) -> None:
        if call is not None and not call.ended:
            call.ended, call.cut = True, refusal
            call.task.cancel()

    return cut


def _unknown(method: str) -> Behaviour:
    async def refuse(request: Any, context: Any) -> Any:
        text = f"there is no method {method[:200]}"
        raise Refusal(StatusCode.UNIMPLEMENTED, text, "WHERRY-SHIM-METHOD", remedy="ask the reflection service for those that there are")

    return refuse


class _Malformed:
    """In the place of a message whose bytes are none."""


def _lenient(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """grpcio would make an internal error of bytes that are no message, past us."""
    if deserializer is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except Exception:  # of protobuf; whichever it is, the bytes are the client's
            return _Malformed()

    return read


def _check_form(message: Any) -> None:
    if isinstance(message, _Malformed):
        remedy = "make the client's stubs from the interface of this version, which the reflection service tells"
        raise Refusal(StatusCode.INVALID_ARGUMENT, "the request is no message of this method", "WHERRY-USAGE", remedy=remedy)


async def _streamed(result: Any, context: ServicerContext[Any, Any]) -> None:
    """An async generator, or a coroutine that writes by itself."""
    if not hasattr(result, "__aiter__"):
        await result
        return
    try:
        async for message in result:
            await context.write(message)
    finally:
        await result.aclose()


def _where(error: BaseException) -> str:
    """The innermost line of ours."""
    traceback, place = error.__traceback__, ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        place = f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}"
        traceback = traceback.tb_next
    return place
