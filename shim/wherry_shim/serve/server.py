# SPDX-License-Identifier: Apache-2.0
"""One server: put together in one order, taken apart in the other.

    places, lock, listening sockets     clients may come from now on, and wait
    engine, supervisor                  what another server has left is found, what has happened meanwhile is said
    grpcio, acceptor                    they are answered

At a reload the listening sockets and the lock go over to the program that is executed in this one's place: nobody is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from typing import Any

from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs
from wherry_shim.serve import metrics, task
from wherry_shim.serve.acceptor import Acceptor, AddressError, address_of, listen_tcp, listen_unix
from wherry_shim.serve.admin_service import AdminService
from wherry_shim.serve.audit import Audit
from wherry_shim.serve.bounds import Bounds
from wherry_shim.serve.engine import Engine
from wherry_shim.serve.errors import Refusal
from wherry_shim.serve.guard import Guard
from wherry_shim.serve.log import StderrLog
from wherry_shim.serve.notify import Notifier
from wherry_shim.serve.settings import Inherited, Settings, SettingsError, parsed, raised_limit
from wherry_shim.serve.shim_service import ShimService
from wherry_shim.serve.supervisor import Supervisor

SERVICES = ("wherry.shim.v1.Shim", "wherry.shim.v1.Admin", task.SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
_CHECK_S = 60.0
_SETTLE_S = 0.5
_AGE_GRACE_MS = 2_000
"""Calls have it to end; streams come back with their cursors and offsets."""


def serve(settings: Settings) -> int:
    """To its end; or never, where another program takes over."""
    limit = raised_limit()
    server = Server(settings, limit)
    try:
        asyncio.run(server.run())
    except AddressError as error:
        raise SettingsError(str(error)) from error
    if server.reloads:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        server.inherited.leave()
        os.execv(sys.executable, program())
    return 0


def program() -> list[str]:
    """The words that this program was executed with."""
    return [sys.executable, *sys.orig_argv[1:]]


class Server:
    def __init__(self, settings: Settings, files: tuple[int, int] | None) -> None:
        """files: the limit of descriptors, where it was raised for us and not for containers."""
        self.settings, self._files = settings, files
        self.log = StderrLog(settings.log_level)
        self.notifier = Notifier()
        self.inherited = Inherited()
        self.reloads = False
        self._reloading = False
        self._end = asyncio.Event()

    async def run(self) -> None:
        settings = self.settings
        _places(settings)
        self.inherited = Inherited.found()
        self._lock()
        inner = {family: f"{settings.private}/{family}.sock" for family in ("unix", "tcp")}
        self.acceptor = Acceptor(inner, settings.limits, self.log, settings.keepalive)
        self.acceptor.listeners = self.inherited.listeners = self._listeners()
        self.audit = Audit(f"{settings.data}/audit", self.log)
        self.engine = Engine(settings.root, self.log, self._files)
        self.supervisor = Supervisor(self.engine, settings.data, self.log, settings.keep_removed)
        await self.engine.start()
        await self.supervisor.start()
        await self._grpc(inner)
        endpoint = await self._metrics()
        self.acceptor.start()
        self._signals()
        watchdog = asyncio.create_task(self._watchdog())
        self.notifier.ready()
        at = ",".join(address_of(one) for one in self.acceptor.listeners)
        self.log("info", "serves", pid=os.getpid(), at=at, metrics=endpoint.address if endpoint else "")
        await self._end.wait()
        watchdog.cancel()
        await self._stop(endpoint)

    # ---- begin

    def _lock(self) -> None:
        """One server for a root, and for the data. They go over to the next program as they are."""
        settings, inherited = self.settings, self.inherited
        inherited.lock = _locked(inherited.lock, f"{settings.private}/lock", f"--root {settings.root}: stop it, or choose another root")
        inherited.data_lock = _locked(inherited.data_lock, f"{settings.data}/lock", f"--data {settings.data}: stop it, or choose another directory")

    def _listeners(self) -> list[socket.socket]:
        """Those that systemd has opened, or all that --listen names; after a reload, as far as they are open they are taken over."""
        inherited, settings = self.inherited, self.settings
        if inherited.given:
            if any(listener.family != socket.AF_UNIX for listener in inherited.listeners):
                settings.check_tls()
            return inherited.listeners
        there = {address_of(listener): listener for listener in inherited.listeners}
        found = []
        for address in settings.listen:
            family, place, port = parsed(address)
            listener = there.pop(address, None)
            if listener is None:
                listener = listen_unix(place, settings.socket_mode, settings.socket_group) if family == "unix" else listen_tcp(place, port)
            found.append(listener)
        for listener in there.values():
            listener.close()
        return found

    async def _grpc(self, inner: dict[str, str]) -> None:
        settings, self.metrics = self.settings, metrics.Metrics()
        self.guard = Guard(settings.roles(), Bounds(settings.limits), self.audit, self.metrics, self.log, self.acceptor.peer)
        self.server = aio.server(interceptors=[self.guard], options=_options(settings))
        self.health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        stubs.add_ShimServicer_to_server(ShimService(self.supervisor), self.server)
        stubs.add_AdminServicer_to_server(AdminService(self.audit, self.reload, self._end.set), self.server)
        self.server.add_generic_rpc_handlers((task.handlers(self.engine),))
        reflection.enable_server_reflection(SERVICES, self.server)
        for path in inner.values():
            if os.path.lexists(path):
                os.unlink(path)
        self.server.add_insecure_port(f"unix:{inner['unix']}")
        if any(listener.family != socket.AF_UNIX for listener in self.acceptor.listeners):
            self.server.add_secure_port(f"unix:{inner['tcp']}", settings.credentials())
        await self.server.start()
        for service in ("", *SERVICES):
            await self.health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def _metrics(self) -> metrics.Endpoint | None:
        gauge = self.metrics.gauge
        gauge("wherry_streams", "Streams that are open", lambda: self.guard.under_way(True))
        gauge("wherry_calls_under_way", "Calls that are under way", lambda: self.guard.under_way(False))
        gauge("wherry_connections", "Connections of clients", lambda: len(self.acceptor.peers))
        gauge("wherry_connections_refused", "Connections that were too many", lambda: self.acceptor.refused)
        gauge("wherry_audit_lost", "Calls that the audit log on disk lacks", lambda: self.audit.lost)
        gauge("wherry_log_lost", "Lines of the log that nobody has taken", lambda: self.log.lost)
        self.metrics.counts(self.supervisor.counts)
        if not self.settings.metrics:
            return None
        endpoint = metrics.Endpoint(metrics.listen(self.settings.metrics, self.settings.metrics_public), self.metrics)
        await endpoint.start()
        return endpoint

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def _hung_up(self) -> None:
        self._reload_task = asyncio.create_task(self._reload_logged())

    async def _reload_logged(self) -> None:
        try:
            await self.reload()
        except Refusal as refusal:
            self.log("error", refusal.message)

    async def _watchdog(self) -> None:
        """Both threads answer. It is the pulse at which orphans are looked for, too."""
        seconds = self.notifier.watchdog_s / 2 or 5.0
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await self.engine.ping()
                self.notifier.alive()
                self.engine.sweep()
            except TimeoutError:
                self.log("error", f"the engine has not answered for {seconds:g} s")
            await asyncio.sleep(seconds)

    # ---- end

    async def reload(self) -> None:
        """Refuses where the program that is installed now, with these arguments, would not start."""
        if self._reloading:
            return
        self._reloading = True
        try:
            await asyncio.to_thread(_tried)
        except Refusal:
            self._reloading = False
            raise
        self.reloads = True
        self.notifier.reloading()
        asyncio.get_running_loop().call_soon(self._end.set)  # after the answer

    async def _stop(self, endpoint: metrics.Endpoint | None) -> None:
        self.log("info", "reloads" if self.reloads else "ends", pid=os.getpid())
        if not self.reloads:
            self.notifier.ending()
        self.acceptor.stop()
        await self.health.enter_graceful_shutdown()
        await self._hang_up()
        if endpoint is not None:
            endpoint.close()
        for part in (self.supervisor, self.engine):
            try:
                await part.stop()
            except Exception as error:  # the next program finds all that there is, whatever was wrong in this one
                self.log("error", f"the end of {type(part).__name__}: {type(error).__name__}: {error}")
        self.audit.close()
        if self.reloads:
            return
        for listener in self.acceptor.listeners:
            if listener.family == socket.AF_UNIX and not self.inherited.given:
                os.unlink(listener.getsockname())
        self.acceptor.close()


    async def _hang_up(self) -> None:
        """A call that a client makes at this moment is one that grpcio has, and we answer; or one that it has never seen: then it says so, and the client's
        library calls once more by itself."""
        await self.acceptor.settle(_SETTLE_S)
        await self.guard.drain(self.settings.grace)
        self.acceptor.pause()
        await self.acceptor.delivered(_SETTLE_S)
        await asyncio.sleep(_SETTLE_S / 5)  # what grpcio's threads have taken comes to us
        await self.guard.end(self.settings.grace)
        await self.server.stop(_SETTLE_S / 2)
        await self.acceptor.hang_up(_SETTLE_S)


def _tried() -> None:
    """Judged by what it prints: its status may be another's to reap."""
    try:
        done = subprocess.run([*program(), "--check"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CHECK_S)
        if done.stdout.strip() == "ok":
            return
        text = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        text = str(error)
    raise Refusal(
        StatusCode.FAILED_PRECONDITION,
        f"the program that is installed now would not start: {text}",
        "WHERRY-SHIM-RELOAD",
        remedy="repair the installation, or what the options name; this server goes on",
    )


class Health(health.HealthServicer):  # type: ignore[misc]
    async def List(self, request: Any, context: Any) -> Any:
        """Which grpcio's has not got yet."""
        statuses = {name: await self.Check(health_pb2.HealthCheckRequest(service=name), context) for name in ("", *SERVICES)}
        return health_pb2.HealthListResponse(statuses=statuses)


def _locked(descriptor: int, path: str, text: str) -> int:
    try:
        if descriptor < 0:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(f"another server is at work with {text}") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    return descriptor


def _places(settings: Settings) -> None:
    for path in (settings.root, settings.data, settings.private):
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            found = os.stat(path)
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from error
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise SettingsError(f"others may write to {path}: chown and chmod it, or choose another directory")
    os.chmod(settings.private, 0o700)


def _options(settings: Settings) -> list[tuple[str, Any]]:
    """Larger messages than twice the bound are not even read; up to there the guard's refusal says more."""
    limits, pause = settings.limits, int(settings.keepalive * 1000)
    ages = [("grpc.max_connection_age_ms", int(settings.max_age * 1000)), ("grpc.max_connection_age_grace_ms", _AGE_GRACE_MS)] if settings.max_age else []
    return [
        *ages,
        ("grpc.max_receive_message_length", 2 * limits.message),
        ("grpc.max_send_message_length", 16 << 20),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", limits.streams_each + limits.calls_each),
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.keepalive_time_ms", pause),
        ("grpc.keepalive_timeout_ms", pause * 2 // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


