# SPDX-License-Identifier: Apache-2.0
"""What a monitoring system scrapes: calls, containers, streams, and what the server loses. A small HTTP server of asyncio, on a unix socket or on loopback:
who may see the metrics of other places puts a proxy in front."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wherry_shim.serve.acceptor import AddressError, address_of, listen_tcp, listen_unix

if TYPE_CHECKING:
    import socket

    from wherry_shim.serve.supervisor import Counts

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_HEAD = 8 << 10
_PATIENCE_S = 5.0
_AT_ONCE = 32


class Metrics:
    """`gauges`: looked up at each scrape, name to (text, function)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter("wherry_calls", "Calls that have ended", ["method", "code"], registry=self.registry)
        self._seconds = Histogram("wherry_call_seconds", "Duration of calls that are no streams", ["method"], buckets=BUCKETS, registry=self.registry)

    def called(self, method: str, code: str, seconds: float, stream: bool) -> None:
        self._calls.labels(method, code).inc()
        if not stream:
            self._seconds.labels(method).observe(seconds)

    def gauge(self, name: str, text: str, function: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(function)

    def counts(self, function: Callable[[], Counts]) -> None:
        self.registry.register(_Counts(function))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Counts(Collector):
    """What the supervisor has counted."""

    def __init__(self, function: Callable[[], Counts]) -> None:
        self._function = function

    def collect(self) -> Iterator[Metric]:
        counts = self._function()
        containers = GaugeMetricFamily("wherry_containers", "Containers of this server", labels=["status"])
        for status, number in counts.containers.items():
            containers.add_metric([status.lower()], number)
        yield containers
        yield GaugeMetricFamily("wherry_execs", "Processes that are executed in containers", counts.execs)
        yield CounterMetricFamily("wherry_restarts", "Containers started again by their policy", counts.restarts)
        yield CounterMetricFamily("wherry_events", "Events written", counts.events)
        yield GaugeMetricFamily("wherry_subscribers", "Streams of events", counts.subscribers)
        yield GaugeMetricFamily("wherry_event_log_bytes", "Events that are kept", counts.log_bytes)


# ---- the endpoint


def listen(address: str, public: bool) -> socket.socket:
    """unix:///path, or HOST:PORT; a host that is not this one's loopback only where that was asked for."""
    if address.startswith("unix://"):
        return listen_unix(address.removeprefix("unix://"), 0o600, -1)
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal() or int(port) > 65535:
        raise AddressError(f"{address}: is neither unix:///PATH nor HOST:PORT")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not public:
        raise AddressError(f"{address}: metrics are for this host, since nobody is asked who they are: choose 127.0.0.1, or say --metrics-public")
    return listen_tcp(host, int(port))


class Endpoint:
    def __init__(self, listener: socket.socket, metrics: Metrics) -> None:
        self._listener, self._metrics = listener, metrics
        self.address = address_of(listener)
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, sock=self._listener, limit=_HEAD)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > _AT_ONCE:
                return
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._open -= 1
            writer.close()

    def _response(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
            return _http("405 Method Not Allowed", b"GET only\n")
        if words[1].split(b"?")[0] not in (b"/metrics", b"/"):
            return _http("404 Not Found", b"see /metrics\n")
        body = self._metrics.text()
        return _http("200 OK", body, head_only=words[0] == b"HEAD")

    def close(self) -> None:
        if self._server is None:
            return
        name = self._listener.getsockname()
        self._server.close()
        if isinstance(name, str):
            os.unlink(name)


def _http(status: str, body: bytes, head_only: bool = False) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if head_only else body)
