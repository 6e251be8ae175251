# SPDX-License-Identifier: Apache-2.0
"""What the tests of the supervisor ask again and again."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from . import driver
from .driver import PATIENCE, Refused, Server


def wait(server: Server, id: str = "a", condition: Any = pb.WaitRequest.EXIT, **more: Any) -> pb.WaitResponse:
    return server.shim.Wait(pb.WaitRequest(id=id, condition=condition, **more), timeout=PATIENCE, wait_for_ready=True)


def get(server: Server, id: str = "a") -> pb.Container:
    return server.shim.Get(pb.GetRequest(id=id), timeout=PATIENCE, wait_for_ready=True)


def refused(call: Callable[..., Any], *request: Any) -> Refused:
    return driver.refused(lambda: call(*request, timeout=PATIENCE))


def events(server: Server, **request: Any) -> list[pb.Event]:
    """All that are kept."""
    request = {"from_oldest": not request.get("cursor"), "no_follow": True, **request}
    return list(server.shim.Subscribe(pb.SubscribeRequest(**request), timeout=PATIENCE, wait_for_ready=True))


def types(server: Server, id: str = "a") -> list[str]:
    return [event.type for event in events(server, ids=[id])]


class Conversation:
    """An Attach or Exec: what is said, and what comes back."""

    def __init__(self, method: Any, first: Any) -> None:
        self._kind = type(first)
        self._queue: list[Any] = [first]
        self._ready = threading.Condition()
        self._closed = False
        self.call = method(self._requests(), timeout=PATIENCE)
        self.started = next(self.call).started
        self.data = {pb.STDOUT: b"", pb.STDERR: b""}
        self.offsets = {pb.STDOUT: self.started.stdout_offset, pb.STDERR: self.started.stderr_offset}
        self.stdin_offset = self.started.stdin_offset
        self.exit: pb.Exit | None = None
        self.runs: list[int] = []
        """That have begun meanwhile."""

    def _requests(self) -> Iterator[Any]:
        while True:
            with self._ready:
                while not self._queue and not self._closed:
                    self._ready.wait()
                if not self._queue:
                    return
                message = self._queue.pop(0)
            yield message

    def say(self, **fields: Any) -> "Conversation":
        with self._ready:
            self._queue.append(self._kind(**fields))
            self._ready.notify()
        return self

    def close(self) -> "Conversation":
        """Its own side."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        return self

    def read(self, until: bytes = b"") -> bytes:
        """Standard output up to these words, or to the end, behind which our side is closed."""
        while not until or until not in self.data[pb.STDOUT]:
            message = next(self.call, None)
            if message is None:
                break
            self._take(message)
        return self.data[pb.STDOUT]

    def _take(self, message: Any) -> None:
        kind = message.WhichOneof("message")
        if kind == "output":
            channel = message.output.channel
            assert message.output.offset == self.offsets[channel], "a gap, or something twice"
            self.offsets[channel] += len(message.output.data)
            self.data[channel] += message.output.data
        elif kind == "stdin_offset":
            self.stdin_offset = message.stdin_offset
        elif kind == "started":
            self.runs.append(message.started.run)
        elif kind == "exit":
            self.exit = message.exit
            self.close()

    def end(self) -> pb.Exit:
        self.read()
        assert self.exit is not None
        assert self.call.code() == grpc.StatusCode.OK
        return self.exit


def execute(server: Server, *args: str, id: str = "a", **more: Any) -> Conversation:
    return Conversation(server.shim.Exec, pb.ExecRequest(start=pb.ExecRequest.Start(id=id, args=args, **more)))


def resume(server: Server, exec_id: str, id: str = "a", **offsets: int) -> Conversation:
    return Conversation(server.shim.Exec, pb.ExecRequest(resume=pb.ExecRequest.Resume(id=id, exec_id=exec_id, **offsets)))


def attach(server: Server, id: str = "a", **offsets: int) -> Conversation:
    return Conversation(server.shim.Attach, pb.AttachRequest(open=pb.AttachRequest.Open(id=id, **offsets)))
