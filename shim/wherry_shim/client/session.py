# SPDX-License-Identifier: Apache-2.0
"""Attach and Exec: a process's streams, in both directions, over the deaths of any number of servers.

What comes from it is known by offset. What is typed into it is kept until the server says that it has written it (`stdin_offset`), and is given to the next
server from where that one's Started says. A size is told again; a signal is told once, as soon as there is a server.
"""

import asyncio
import secrets
import threading
from typing import Any

import grpc
from google.protobuf.message import Message

from wherry_shim.client import convert, types
from wherry_shim.client.again import Patience
from wherry_shim.client.errors import AlreadyExists, NotFound, of_rpc
from wherry_shim.client.streams import Place
from wherry_shim.client.transport import Duplex, Transport
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

CHUNK = 32 << 10
HELD = 1 << 20  # what is typed ahead of the server's acknowledgement
SOON = 0.01


class Typed:
    """The part of stdin that the server has not acknowledged. In a blocking program one thread writes and another reads."""

    def __init__(self) -> None:
        self.guard = threading.Lock()  # of all below
        self.base: int | None = None  # what the process has been given before `data`
        self.data = bytearray()
        self.sent = 0
        self.end = self.end_sent = False

    def add(self, data: memoryview) -> int:
        """How much of it was taken."""
        with self.guard:
            taken = data[: max(0, HELD - len(self.data))]
            self.data += taken
            return len(taken)

    def acknowledged(self, offset: int, again: bool = False) -> None:
        """`again`: by another server, which is told everything that was not written."""
        with self.guard:
            gone = 0 if self.base is None else max(0, min(offset - self.base, self.sent))
            del self.data[:gone]
            self.sent = 0 if again else self.sent - gone
            self.base = offset
            self.end_sent = self.end_sent and not again

    def next(self) -> bytes:
        with self.guard:
            chunk = bytes(self.data[self.sent : self.sent + CHUNK])
            self.sent += len(chunk)
            return chunk


class Session:
    """Iterate over it for the output; `exit` is there at the end."""

    method = ""
    Request: Any = None

    def __init__(self, transport: Transport, patience: float) -> None:
        self.transport = transport
        self.patience = Patience(patience, transport.sleep)
        self.sending = transport.lock()
        self.call: Duplex | None = None
        self.place = Place()
        self.typed = Typed()
        self.size: tuple[int, int] | None = None
        self.signals: list[int] = []
        self.started = False
        self.pid = self.run = 0
        self.exit: types.Exit | None = None
        self.ended = False

    # ---- what Attach and Exec differ in

    def opening(self) -> Message:
        raise NotImplementedError

    async def lost(self, error: grpc.RpcError) -> None:
        """The stream has broken, or could not be opened: waits, or raises."""
        await self.patience.after(error)

    # ---- the connection

    async def open(self) -> None:
        while self.call is None and not self.ended:
            call = await self.transport.stream(self.method, None)
            try:
                await call.send(self.opening())
                message = await call.next()
                if message is None:
                    self.ended = True
                    return
                await self._begun(call, message.started)
            except grpc.RpcError as error:
                await self.lost(error)
            except BaseException:
                call.cancel()
                raise

    async def _begun(self, call: Duplex, started: pb.ProcessOutput.Started) -> None:
        if not self.started:
            self.place = Place(started.stdout_offset, started.stderr_offset)
        self.started, self.pid, self.run = True, started.pid, started.run
        self.patience.progress()
        async with self.sending():
            self.typed.acknowledged(started.stdin_offset, again=True)
            self.call = call
        if self.size is not None:
            await self._tell(resize=pb.Size(width=self.size[0], height=self.size[1]))
        await self._flush()

    async def _begun_anew(self, started: pb.ProcessOutput.Started) -> None:
        """Another run, which knows nothing of what the last one was told."""
        self.pid, self.run = started.pid, started.run
        async with self.sending():
            self.typed.end_sent = False
        if self.size is not None:
            await self._tell(resize=pb.Size(width=self.size[0], height=self.size[1]))
        await self._flush()

    async def _tell(self, **field: Any) -> None:
        """A connection that is gone is the reader's business."""
        async with self.sending():
            await self._put(**field)

    async def _put(self, **field: Any) -> bool:
        if self.call is None:
            return False
        try:
            await self.call.send(self.Request(**field))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return False
        return True

    async def _flush(self) -> None:
        async with self.sending():
            typed = self.typed
            while self.call is not None and (chunk := typed.next()):
                await self._put(stdin=chunk)
            if typed.end and not typed.end_sent and self.call is not None:
                typed.end_sent = await self._put(close_stdin=True)
            while self.signals and await self._put(signal=self.signals[0]):
                self.signals.pop(0)

    # ---- from the process

    async def next(self) -> types.Output:
        while not self.ended:
            await self.open()
            if self.call is None:
                break
            try:
                message = await self.call.next()
            except grpc.RpcError as error:
                self.call = None
                await self.lost(error)
                continue
            except BaseException:  # who has waited was cancelled, and with it the call: whoever asks next gets another
                self._drop()
                raise
            if message is None:
                self.ended = True
                break
            self.patience.progress()
            if (output := await self._accept(message)) is not None:
                return output
        raise StopAsyncIteration

    async def _accept(self, message: Any) -> types.Output | None:
        kind = message.WhichOneof("message")
        if kind == "output":
            return self.place.accept(message.output)
        if kind == "stdin_offset":
            self.typed.acknowledged(message.stdin_offset)
        elif kind == "started":
            await self._begun_anew(message.started)
        elif kind == "exit":
            self.exit = convert.exited(message.exit)
            await self._finish()
        return None

    async def _finish(self) -> None:
        """Says that the exit has come, so that the server may forget it."""
        self.ended = True
        call, self.call = self.call, None
        if call is None:
            return
        try:
            await call.finish()
            while await call.next() is not None:
                pass
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # it keeps what it has, then, until the container is deleted

    async def wait(self) -> types.Exit:
        """Until it has ended. What it writes meanwhile is dropped."""
        async for _ in self:
            pass
        if self.exit is None:
            raise NotFound("the stream has ended before its process has", remedy="ask Wait, or Get")
        return self.exit

    async def close(self) -> None:
        """Leaves the process to itself."""
        self.ended = True
        self._drop()

    def _drop(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None

    # ---- to the process

    async def write(self, data: bytes) -> None:
        """Blocks while HELD bytes are not acknowledged: somebody has to read the output meanwhile."""
        view = memoryview(data)
        while view and not self.ended:
            taken = self.typed.add(view)
            view = view[taken:]
            await (self._flush() if taken else self.transport.sleep(SOON))
        if view:
            raise BrokenPipeError("the process has ended")

    async def close_stdin(self) -> None:
        self.typed.end = True
        await self._flush()

    async def resize(self, width: int, height: int) -> None:
        self.size = (width, height)
        await self._tell(resize=pb.Size(width=width, height=height))

    async def signal(self, number: int) -> None:
        self.signals.append(number)
        await self._flush()

    def __aiter__(self) -> "Session":
        return self

    async def __anext__(self) -> types.Output:
        return await self.next()

    async def __aenter__(self) -> "Session":
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class Attach(Session):
    method, Request = "Attach", pb.AttachRequest

    def __init__(self, transport: Transport, patience: float, id: str, offsets: tuple[int | None, int | None], follow: bool = False) -> None:
        super().__init__(transport, patience)
        self.id, self.follow = id, follow
        self.place = Place(*offsets)

    def opening(self) -> Message:
        offsets = self.place.offsets
        out, err = offsets[types.Channel.STDOUT], offsets[types.Channel.STDERR]
        run = 0 if self.follow else self.run  # another one may have begun since the stream broke
        return pb.AttachRequest(open=pb.AttachRequest.Open(id=self.id, stdout_offset=out, stderr_offset=err, follow=self.follow, run=run))


class Execution(Session):
    method, Request = "Exec", pb.ExecRequest

    def __init__(self, transport: Transport, patience: float, id: str, what: types.Exec | None, exec_id: str = "", detach: bool = False) -> None:
        super().__init__(transport, patience)
        self.id, self.what, self.detach = id, what, detach
        self.exec_id = exec_id or (what.exec_id if what else "") or f"exec-{secrets.token_hex(6)}"
        self.size = what.size if what else None
        self.resume = what is None
        if self.resume:
            self.started, self.place = True, Place(0, 0)

    def opening(self) -> Message:
        offsets = self.place.offsets
        if self.resume or self.what is None:
            return pb.ExecRequest(
                resume=pb.ExecRequest.Resume(
                    id=self.id,
                    exec_id=self.exec_id,
                    stdout_offset=offsets[types.Channel.STDOUT] or 0,
                    stderr_offset=offsets[types.Channel.STDERR] or 0,
                )
            )
        return pb.ExecRequest(start=convert.exec_there(self.id, self.what, self.exec_id, self.detach))

    async def lost(self, error: grpc.RpcError) -> None:
        """Whether a start that broke off came to something is learned by asking for it, and by asking again where it has not."""
        refusal = of_rpc(error)
        unsure = not self.started and self.patience.broken
        if unsure and self.resume and isinstance(refusal, NotFound):
            self.resume = False
        elif unsure and not self.resume and isinstance(refusal, AlreadyExists):
            self.resume = True
        else:
            await self.patience.after(error)
            self.resume = self.started or self.patience.broken

    def _drop(self) -> None:
        self.resume = self.started
        super()._drop()
