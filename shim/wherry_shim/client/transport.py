# SPDX-License-Identifier: Apache-2.0
"""The client's only difference between blocking and asyncio.

What the client does (asking again, resuming, what is typed into a process) is written once, as coroutines over a Transport (calls.py, streams.py, session.py).
With Asynchronous they run in an event loop, on grpc.aio. With Blocking nothing that they await ever suspends: it blocks its thread instead, on grpc's blocking
calls, and drive() runs a coroutine to its end in one step. So a blocking program has no hidden thread and no second event loop (grpc.aio has one poller for a
process, and reports errors when loops of several threads share it), and Ctrl-C works as in any blocking call.
"""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from wherry_shim.client import address as places
from wherry_shim.client.types import TLS
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs

T = TypeVar("T")
Metadata = Callable[[], Sequence[tuple[str, str]]]
STUBS: dict[str, Any] = {"Shim": stubs.ShimStub, "Admin": stubs.AdminStub}


class Duplex(Protocol):
    """One stream, in one or both directions. Raises grpc.RpcError."""

    async def send(self, message: Message) -> None: ...
    async def finish(self) -> None: ...  # nothing more is sent
    async def header(self, name: str) -> str: ...  # of the initial metadata: waits for it
    async def next(self) -> Any: ...  # None: it has ended well
    def cancel(self) -> None: ...


class Transport(Protocol):
    async def unary(self, service: str, method: str, request: Message, timeout: float | None) -> Any: ...
    async def stream(self, method: str, request: Message | None) -> Duplex: ...  # no request: it is to be sent
    async def sleep(self, seconds: float) -> None: ...
    def lock(self) -> Callable[[], AbstractAsyncContextManager[None]]: ...
    async def close(self) -> None: ...


def drive(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over Blocking."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("what runs over a blocking transport has suspended")


class Place:
    """What both transports are made from."""

    def __init__(self, address: str | None, tls: TLS | None, metadata: Metadata | None) -> None:
        self.address = address or places.default()
        self.target, local = places.target(self.address)
        if tls is None and not local:
            raise ValueError(f"{self.address}: a server is asked over TCP with mutual TLS only: give tls=TLS(ca, certificate, key)")
        self.options = places.options(local, tls)
        self.pem = places.pem(tls) if tls is not None and not local else None
        self._metadata = metadata

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._metadata()) if self._metadata else ()


# ---- blocking


class BlockingStream:
    def __init__(self, start: Callable[[Any], Any], request: Message | None) -> None:
        self.requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.cancelled = False
        self.call = start(iter(self.requests.get, None) if request is None else request)
        self.call.add_callback(lambda: self.requests.put(None))  # ends grpc's thread that reads the requests

    async def send(self, message: Message) -> None:
        self.requests.put(message)

    async def finish(self) -> None:
        self.requests.put(None)

    async def header(self, name: str) -> str:
        return header_of(self.call.initial_metadata(), name)

    async def next(self) -> Any:
        try:
            return next(self.call, None)
        except grpc.RpcError:
            if self.cancelled:  # by another thread
                return None
            raise

    def cancel(self) -> None:
        self.cancelled = True
        self.call.cancel()


class Blocking:
    def __init__(self, place: Place) -> None:
        self.place = place
        if place.pem:
            self.channel = grpc.secure_channel(place.target, grpc.ssl_channel_credentials(*place.pem), options=place.options)
        else:
            self.channel = grpc.insecure_channel(place.target, options=place.options)
        self.stubs = {name: stub(self.channel) for name, stub in STUBS.items()}

    async def unary(self, service: str, method: str, request: Message, timeout: float | None) -> Any:
        return getattr(self.stubs[service], method)(request, timeout=timeout, metadata=self.place.metadata())

    async def stream(self, method: str, request: Message | None) -> BlockingStream:
        start = getattr(self.stubs["Shim"], method)
        return BlockingStream(lambda argument: start(argument, metadata=self.place.metadata()), request)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def lock(self) -> Callable[[], AbstractAsyncContextManager[None]]:
        lock = threading.Lock()

        @asynccontextmanager
        async def held() -> AsyncIterator[None]:
            with lock:
                yield

        return held

    async def close(self) -> None:
        self.channel.close()


# ---- asyncio


class AsynchronousStream:
    def __init__(self, call: Any) -> None:
        self.call = call
        self.cancelled = False

    async def send(self, message: Message) -> None:
        await self.call.write(message)

    async def finish(self) -> None:
        await self.call.done_writing()

    async def header(self, name: str) -> str:
        return header_of(await self.call.initial_metadata(), name)

    async def next(self) -> Any:
        try:
            message = await self.call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.cancelled and not (task and task.cancelling()):  # the call, by another task
                return None
            raise
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self.cancelled = True
        self.call.cancel()


class Asynchronous:
    """Its channel belongs to the event loop of the first call."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.channel: grpc.aio.Channel | None = None
        self._stubs: dict[str, Any] = {}

    def stub(self, name: str) -> Any:
        if self.channel is None:
            if self.place.pem:
                self.channel = grpc.aio.secure_channel(self.place.target, grpc.ssl_channel_credentials(*self.place.pem), options=self.place.options)
            else:
                self.channel = grpc.aio.insecure_channel(self.place.target, options=self.place.options)
            self._stubs = {one: stub(self.channel) for one, stub in STUBS.items()}
        return self._stubs[name]

    async def unary(self, service: str, method: str, request: Message, timeout: float | None) -> Any:
        return await getattr(self.stub(service), method)(request, timeout=timeout, metadata=self.place.metadata())

    async def stream(self, method: str, request: Message | None) -> AsynchronousStream:
        arguments = () if request is None else (request,)
        return AsynchronousStream(getattr(self.stub("Shim"), method)(*arguments, metadata=self.place.metadata()))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def lock(self) -> Callable[[], AbstractAsyncContextManager[None]]:
        lock = asyncio.Lock()

        @asynccontextmanager
        async def held() -> AsyncIterator[None]:
            async with lock:
                yield

        return held

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()


def header_of(metadata: Any, name: str) -> str:
    return next((value for key, value in metadata or () if key == name and isinstance(value, str)), "")
