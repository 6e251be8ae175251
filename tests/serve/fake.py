# SPDX-License-Identifier: Apache-2.0
"""A server of wherry.shim.v1 in this process, which says what a test tells it to, breaks off where the test wants it, and forgets nothing that a real one keeps on disk."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs


class Fake(stubs.ShimServicer, stubs.AdminServicer):
    """`breaks` = (method, number): the call of that number breaks off, after it was done; `script` = what a stream says before it breaks, a list for each connection."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.breaks: set[tuple[str, int]] = set()
        self.containers: dict[str, pb.Container] = {}
        self.scripts: dict[str, list[list[Any]]] = {}
        self.refusals: dict[str, tuple[grpc.StatusCode, str, list[Any]]] = {}
        self.numbers = itertools.count()
        self.stdin = bytearray()
        self.typed = threading.Event()
        self.metadata: list[Any] = []
        self.before: dict[str, Callable[[Any, grpc.ServicerContext], None]] = {}  # what a call comes upon

    def said(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]

    def note(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.calls.append((method, request))
        self.metadata.append(context.invocation_metadata())
        if method in self.before:
            self.before[method](request, context)
        if method in self.refusals:
            code, message, details = self.refusals[method]
            packed = []
            for detail in details:
                packed.append(any_pb2.Any())
                packed[-1].Pack(detail)
            context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=packed)))

    def perhaps_break(self, method: str, context: grpc.ServicerContext) -> None:
        if (method, len(self.said(method))) in self.breaks:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def find(self, id: str, context: grpc.ServicerContext) -> pb.Container:
        if id not in self.containers:
            context.abort(grpc.StatusCode.NOT_FOUND, f"container {id} does not exist")
        return self.containers[id]

    def Create(self, request: pb.CreateRequest, context: grpc.ServicerContext) -> pb.Container:
        self.note("Create", request, context)
        if request.id in self.containers:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"container {request.id} exists")
        made = pb.Container(id=request.id, bundle=request.bundle, status=pb.RUNNING if request.start else pb.CREATED, labels=request.labels, run=1)
        made.created_at.GetCurrentTime()
        made.restart.CopyFrom(request.restart)
        self.containers[request.id] = made
        self.perhaps_break("Create", context)
        return made

    def Start(self, request: pb.StartRequest, context: grpc.ServicerContext) -> pb.Container:
        self.note("Start", request, context)
        one = self.find(request.id, context)
        if request.run == one.run and one.status != pb.CREATED:
            return one
        if one.status != pb.CREATED:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is not created")
        one.status = pb.RUNNING
        one.started_at.GetCurrentTime()
        self.perhaps_break("Start", context)
        return one

    def Pause(self, request: pb.PauseRequest, context: grpc.ServicerContext) -> pb.Container:
        self.note("Pause", request, context)
        return self.find(request.id, context)

    def Kill(self, request: pb.KillRequest, context: grpc.ServicerContext) -> pb.KillResponse:
        self.note("Kill", request, context)
        self.perhaps_break("Kill", context)
        return pb.KillResponse()

    def Get(self, request: pb.GetRequest, context: grpc.ServicerContext) -> pb.Container:
        self.note("Get", request, context)
        self.perhaps_break("Get", context)
        return self.find(request.id, context)

    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ListResponse:
        self.note("List", request, context)
        self.perhaps_break("List", context)
        return pb.ListResponse(containers=self.containers.values())

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.DeleteResponse:
        self.note("Delete", request, context)
        self.find(request.id, context)
        del self.containers[request.id]
        self.perhaps_break("Delete", context)
        return pb.DeleteResponse(exit=pb.Exit(run=1, status=0, reason="exited"))

    def Wait(self, request: pb.WaitRequest, context: grpc.ServicerContext) -> pb.WaitResponse:
        self.note("Wait", request, context)
        self.perhaps_break("Wait", context)
        one = self.find(request.id, context)
        return pb.WaitResponse(exit=pb.Exit(run=request.run, status=3, reason="exited"), container=one)

    def Version(self, request: pb.VersionRequest, context: grpc.ServicerContext) -> pb.VersionResponse:
        self.note("Version", request, context)
        return pb.VersionResponse(version="1", api="wherry.shim.v1")

    def scripted(self, method: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """None in a script: the server dies here."""
        self.note(method, request, context)
        scripts = self.scripts.get(method, [])
        for message in scripts.pop(0) if scripts else []:
            if message is None:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            if isinstance(message, grpc.StatusCode):
                context.abort(message, "cut off")
            if callable(message):
                message()
                continue
            yield message

    def Subscribe(self, request: pb.SubscribeRequest, context: grpc.ServicerContext) -> Iterator[pb.Event]:
        context.send_initial_metadata((("wherry-cursor", f"at-{next(self.numbers)}"),))
        copy = pb.SubscribeRequest()
        copy.CopyFrom(request)
        return self.scripted("Subscribe", copy, context)

    def Logs(self, request: pb.LogsRequest, context: grpc.ServicerContext) -> Iterator[pb.Output]:
        return self.scripted("Logs", request, context)

    def Stats(self, request: pb.StatsRequest, context: grpc.ServicerContext) -> Iterator[pb.Sample]:
        return self.scripted("Stats", request, context)

    def session(self, method: str, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """A script's callables are given the requests: they wait for what the client says."""
        self.note(method, next(requests), context)
        scripts = self.scripts.get(method, [])
        for message in scripts.pop(0) if scripts else []:
            if message is None:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            if isinstance(message, grpc.StatusCode):
                context.abort(message, "no such thing")
            if callable(message):
                message = message(requests)
            if message is not None:
                yield message
        for request in requests:  # until the client has closed its side
            self.calls.append((method, request))

    def Attach(self, requests: Iterator[pb.AttachRequest], context: grpc.ServicerContext) -> Iterator[pb.ProcessOutput]:
        return self.session("Attach", requests, context)

    def Exec(self, requests: Iterator[pb.ExecRequest], context: grpc.ServicerContext) -> Iterator[pb.ProcessOutput]:
        return self.session("Exec", requests, context)

    def Audit(self, request: pb.AuditRequest, context: grpc.ServicerContext) -> pb.AuditResponse:
        self.note("Audit", request, context)
        return pb.AuditResponse()


class Listening:
    """The fake on a socket. stop() is a death: all connections break."""

    def __init__(self, path: Path, fake: Fake) -> None:
        self.address = f"unix://{path}"
        self.fake = fake
        self.start()

    def start(self) -> None:
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 4 << 20)])
        stubs.add_ShimServicer_to_server(self.fake, self.server)
        stubs.add_AdminServicer_to_server(self.fake, self.server)
        self.server.add_insecure_port(self.address.replace("unix://", "unix:"))
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()


def refusal(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="wherry", metadata=metadata)
