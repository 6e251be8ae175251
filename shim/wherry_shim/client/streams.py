# SPDX-License-Identifier: Apache-2.0
"""Streams that outlive their connection: each knows where it is, and asks the next server from there."""

from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from wherry_shim.client import convert, types
from wherry_shim.client.again import Patience
from wherry_shim.client.errors import ResourceExhausted, of_rpc
from wherry_shim.client.transport import Duplex, Transport
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

T = TypeVar("T")


class Stream(Generic[T]):
    """Messages of one call, over any number of connections. To be closed, or read to its end."""

    method = ""

    def __init__(self, transport: Transport, patience: float) -> None:
        self.transport = transport
        self.patience = Patience(patience, transport.sleep)
        self.call: Duplex | None = None
        self.ended = False

    def request(self) -> Message:
        """What asks for the rest."""
        raise NotImplementedError

    def accept(self, message: Any) -> T | None:
        """One message, noted; None where it has nothing for the caller."""
        raise NotImplementedError

    async def begun(self, call: Duplex) -> None:
        """The server has taken the request."""

    def recoverable(self, error: grpc.RpcError) -> bool:
        """Errors other than a lost connection behind which the stream goes on at once."""
        return False

    async def open(self) -> None:
        """Returns once the server has taken the request; next() does it by itself."""
        while self.call is None:
            call = await self.transport.stream(self.method, self.request())
            try:
                await self.begun(call)
                self.call = call
            except grpc.RpcError as error:
                await self.patience.after(error)
            except BaseException:
                call.cancel()
                raise

    async def next(self) -> T:
        while not self.ended:
            await self.open()
            assert self.call is not None
            try:
                message = await self.call.next()
            except grpc.RpcError as error:
                self.call = None
                if not self.recoverable(error):
                    await self.patience.after(error)
                continue
            except BaseException:  # who has waited was cancelled, and with it the call: whoever asks next gets another
                await self._drop()
                raise
            if message is None:
                break
            self.patience.progress()
            accepted = self.accept(message)
            if accepted is not None:
                return accepted
        self.ended = True
        raise StopAsyncIteration

    async def _drop(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None

    async def close(self) -> None:
        self.ended = True
        await self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self.next()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class Events(Stream[types.Event]):
    """`cursor` is of the last event that was seen: what to go on with in another process."""

    method = "Subscribe"

    def __init__(self, transport: Transport, patience: float, request: pb.SubscribeRequest) -> None:
        super().__init__(transport, patience)
        self.asked = request
        self.seen = False

    @property
    def cursor(self) -> str:
        return self.asked.cursor

    def request(self) -> Message:
        self.seen = False
        return self.asked

    async def begun(self, call: Duplex) -> None:
        place = await call.header("wherry-cursor")
        if place and not self.asked.cursor and not self.asked.from_oldest:
            self.asked.cursor = place

    def accept(self, message: Any) -> types.Event:
        event = convert.event(message)
        self.seen, self.asked.cursor, self.asked.from_oldest = True, event.cursor, False
        return event

    def recoverable(self, error: grpc.RpcError) -> bool:
        """Cut off because we did not read: what was missed is read now."""
        return self.seen and isinstance(of_rpc(error), ResourceExhausted)


class Place:
    """How far each channel has been read."""

    def __init__(self, stdout: int | None = None, stderr: int | None = None) -> None:
        self.offsets = {types.Channel.STDOUT: stdout, types.Channel.STDERR: stderr}

    def accept(self, message: pb.Output) -> types.Output | None:
        """What of it is new."""
        output = convert.output(message)
        there = self.offsets[output.channel]
        end = output.offset + len(output.data)
        self.offsets[output.channel] = end if there is None else max(there, end)
        if there is not None and output.offset < there:
            output = types.Output(output.channel, there, output.data[there - output.offset :])
        return output if output.data else None


class Logs(Stream[types.Output]):
    method = "Logs"

    def __init__(self, transport: Transport, patience: float, request: pb.LogsRequest) -> None:
        super().__init__(transport, patience)
        self.asked = request
        self.place = Place(
            request.stdout_offset if request.HasField("stdout_offset") else None, request.stderr_offset if request.HasField("stderr_offset") else None
        )

    def request(self) -> Message:
        stdout, stderr = self.place.offsets[types.Channel.STDOUT], self.place.offsets[types.Channel.STDERR]
        if stdout is not None:
            self.asked.stdout_offset = stdout
        if stderr is not None:
            self.asked.stderr_offset = stderr
        if stdout is not None or stderr is not None:
            self.asked.ClearField("tail")
        return self.asked

    def accept(self, message: Any) -> types.Output | None:
        return self.place.accept(message)


class Samples(Stream[types.Sample]):
    method = "Stats"

    def __init__(self, transport: Transport, patience: float, request: pb.StatsRequest) -> None:
        super().__init__(transport, patience)
        self.asked = request

    def request(self) -> Message:
        return self.asked

    def accept(self, message: Any) -> types.Sample:
        return convert.sample(message)
