# SPDX-License-Identifier: Apache-2.0
"""The same server behind gRPC, for containerd 1.7 where an annotation asks for it: containerd.task.v3.Task over the same service.

Each server loads grpcio for it, which costs 20 MB; ttrpc is what everybody else gets. gRPC cannot take a socket over, and has no peers' credentials: it
binds one beside the one that is meant, for the owner alone, and `start` gives it its name once this server says that it listens (on descriptor 3).

containerd 2 takes a gRPC connection that is idle for one that is closed, and ends the container: it is asked who it is before anything is served.
"""

import os

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # nothing here forks without an exec

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

import grpc

from wherry_shim import wire
from wherry_shim.bootstrap import Arguments, UsageError
from wherry_shim.containerd_server import ContainerdServer, settle
from wherry_shim.errors import UNIMPLEMENTED, ShimError
from wherry_shim.grpc_start import LISTENS
from wherry_shim.loop import Later, Loop
from wherry_shim.ttrpc import abandon, error_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry_shim.ttrpc import Handler

READY = 3
"""The descriptor that takes LISTENS, or a text of why there is no server."""
VERSION = "/containerd.services.version.v1.Version/Version"
SERVICE = "containerd.task.v3.Task"
PATIENCE = 5.0
CALLS = 1024
"""At one time: each has a thread, of which most sleep in Wait."""
_CODES: "dict[int, grpc.StatusCode]" = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer(grpc.GenericRpcHandler):
    """In the place of ttrpc.Server: calls come in threads of gRPC, and are answered in the loop's. `path`: where it listens."""

    unsent = False

    def __init__(self, loop: Loop, path: str, services: "dict[str, Handler]") -> None:
        self.loop, self._services = loop, services
        self.connections: "set[object]" = set()  # calls: of connections gRPC does not tell
        self.last_use = monotonic()
        self.on_request: "Callable[[object, str], None]" = lambda call, method: None
        self.log: "Callable[[str, str], None]" = lambda level, text: None
        self._server = grpc.server(ThreadPoolExecutor(CALLS), handlers=[self], options=[("grpc.so_reuseport", 0)])
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{path}")
            self._server.start()
        finally:
            os.umask(mask)

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        name, _, method = details.method.removeprefix("/").partition("/")
        handler = self._services.get(name)
        if handler is None:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda payload, context: self._call(handler, method, payload, context))

    def _call(self, handler: "Handler", method: str, payload: bytes, context: grpc.ServicerContext) -> bytes:
        answer: "Future[bytes]" = Future()
        self.loop.soon(lambda: self._begin(handler, method, payload, context, answer))
        try:
            return answer.result()
        except Exception as error:
            code, text = error_status(error)
        context.abort(_CODES.get(code, grpc.StatusCode.UNKNOWN), text)
        raise AssertionError("abort raises")

    def _begin(self, handler: "Handler", method: str, payload: bytes, context: grpc.ServicerContext, answer: "Future[bytes]") -> None:
        """In the loop's thread."""
        call = object()
        self.connections.add(call)
        self.last_use = monotonic()

        def end(later: Later) -> None:
            self.connections.discard(call)
            try:
                answer.set_result(later.result())
            except Exception as error:
                answer.set_exception(error)

        try:
            self.on_request(call, method)
            later = handler(method, payload)
        except Exception as error:
            failed = error if isinstance(error, ShimError) else ShimError(UNIMPLEMENTED, str(error))
            later = Later()
            later.fail(failed)
        later.then(end)
        context.add_callback(lambda: self.loop.soon(lambda: abandon(later)))  # the client has gone: what only waits need not

    def knocked(self) -> bool:
        """What waits to be accepted gRPC does not tell."""
        return False

    def close_listener(self) -> None:
        """New calls are refused from here."""
        self._stopped = self._server.stop(1.0)

    def close(self) -> None:
        self._stopped.wait()


def check(address: str) -> None:
    """containerd itself is asked: its program may have been replaced since it was started."""
    path = address.removeprefix("unix://")
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            ask: "grpc.UnaryUnaryMultiCallable[bytes, bytes]" = channel.unary_unary(VERSION)
            data = ask(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            raise UsageError(f"gRPC to a shim needs containerd 1.7, and {address} does not say what it is: {error}") from error
    wire.add({"version.VersionResponse": "string version 1, string revision 2"})
    found = wire.decode("version.VersionResponse", data)["version"]
    if not found.removeprefix("v").startswith("1.7."):
        raise UsageError(f"gRPC to a shim works with containerd 1.7 only, this is {found or 'unknown'}: remove the annotation org.wherry.shim.protocol")


def main(arguments: Arguments) -> int:
    """Started by bootstrap_start; -socket names the place that is meant."""
    path = arguments["socket"]
    here = f"{path}.{os.getpid()}"
    try:
        check(arguments["address"])
        settle()
        server = ContainerdServer(arguments, path, dict(os.environb))
        server.serve(GrpcServer(server.loop, here, {SERVICE: server.services[SERVICE]}), here)
    except Exception as error:
        os.write(READY, str(error).encode()[:2000] or b"it failed")
        return 1
    os.write(READY, LISTENS.encode())
    os.close(READY)
    os.chdir("/")
    server.run()
    return 0
