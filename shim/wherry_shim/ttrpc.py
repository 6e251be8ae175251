# SPDX-License-Identifier: Apache-2.0
"""ttrpc: how containerd talks to its shims, over a stream socket. A server on the event loop, and a client for whoever may wait.

    0        4        8    9    10
    | length | stream | type | flags |  data: a Request or a Response (specs/ttrpc.proto)        numbers are big endian

Calls of one connection run side by side, replies come in any order. A client that goes away ends what only waits; everything else runs to its end and
its reply is dropped. Bad input costs the sender an error or its connection, never anybody else anything.
"""

import _socket
import errno
import posix
import select
from _struct import Struct
from time import monotonic

from wherry_shim import messages as messages  # for its tables
from wherry_shim import wire
from wherry_shim.errors import CANCELED, DEADLINE_EXCEEDED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNKNOWN, ShimError
from wherry_shim.loop import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, Cancelled, Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wherry_shim.loop import Loop, Timer

    Handler = Callable[[str, bytes], Later]
    """(method, payload) -> the response's bytes, later. What has a cancel() is cancelled when nobody waits for it any more."""

HEADER = Struct(">IIBB")
REQUEST, RESPONSE, DATA = 1, 2, 3
LARGEST = 4 << 20
CHUNK = 32 << 10
MOST_STREAMS = 4096  # of a connection at one time
MOST_CONNECTIONS = 1024  # or half of what the process may open: above it, one that has never asked anything is hung up on for each new one
MOST_UNREAD = 8 << 20  # bytes of replies that a client has not taken: then its requests wait


def frame(stream: int, kind: int, data: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(len(data), stream, kind, flags) + data


def response(payload: bytes) -> bytes:
    """A Response that is a success; the empty one has no bytes at all."""
    return wire.encode("ttrpc.Response", {"payload": payload}) if payload else b""


def failure(code: int, text: str) -> bytes:
    return wire.encode("ttrpc.Response", {"status": {"code": code, "message": text[:65536]}})


def error_status(error: BaseException) -> tuple[int, str]:
    if isinstance(error, ShimError):
        return error.code, str(error)
    if isinstance(error, Cancelled):
        return CANCELED, "context canceled"
    return UNKNOWN, str(error) or type(error).__name__


class Frames:
    """Takes bytes as they come and gives whole frames. Of a frame that is too long nothing is kept: (stream, type, None)."""

    __slots__ = ("_discard", "_have", "_long")

    def __init__(self) -> None:
        self._have = bytearray()
        self._discard = 0
        self._long = (0, 0)

    @property
    def begun(self) -> bool:
        return bool(self._have or self._discard)

    def feed(self, data: bytes) -> "Iterable[tuple[int, int, bytes | None]]":
        if not self._have and not self._discard and len(data) >= HEADER.size:
            length, stream, kind, _flags = HEADER.unpack_from(data)
            if length == len(data) - HEADER.size <= LARGEST:  # nearly always: one frame, and nothing else
                return ((stream, kind, data[HEADER.size :]),)
        return self._feed(data)

    def _feed(self, data: bytes) -> "Iterable[tuple[int, int, bytes | None]]":
        self._have += data
        while True:
            if self._discard:
                gone = min(self._discard, len(self._have))
                del self._have[:gone]
                self._discard -= gone
                if self._discard:
                    return
                yield (*self._long, None)
            if len(self._have) < HEADER.size:
                return
            length, stream, kind, _flags = HEADER.unpack_from(self._have)
            end = HEADER.size + length
            if length > LARGEST:
                self._discard, self._long = end, (stream, kind)
                continue
            if len(self._have) < end:
                return
            whole = bytes(self._have[HEADER.size : end])
            del self._have[:end]
            yield stream, kind, whole


class Server:
    """Serves `listener`, which it owns, until close(). services: by name, what answers their calls."""

    def __init__(self, loop: "Loop", listener: "_socket.socket", services: "dict[str, Handler]") -> None:
        self.loop, self.services = loop, services
        self.connections: set[Connection] = set()
        self.silent: dict[Connection, None] = {}  # of these, who has asked nothing yet; the oldest first
        self._most = min(MOST_CONNECTIONS, posix.sysconf("SC_OPEN_MAX") // 2)
        self.last_use = monotonic()
        self.on_request: "Callable[[Connection, str], None]" = lambda connection, method: None
        self.log: "Callable[[str, str], None]" = lambda level, text: None
        self._listener: _socket.socket | None = listener
        listener.setblocking(False)
        loop.watch(listener.fileno(), self._accept)

    def _accept(self, _events: int) -> None:
        listener = self._listener
        while listener is not None:
            try:
                descriptor, _ = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                self._rest(listener, error)
                return
            peer = _socket.socket(fileno=descriptor)
            self.last_use = monotonic()
            if may_connect(peer):
                self.add(Connection(self, peer))
            else:
                self.log("warning", "ttrpc: refused a client of another user")
                peer.close()

    def add(self, connection: "Connection") -> None:
        self.connections.add(connection)
        self.silent[connection] = None
        if len(self.connections) > self._most:
            next(iter(self.silent)).close()

    def _rest(self, listener: "_socket.socket", error: OSError) -> None:
        """No descriptor is left, or the like: a level-triggered loop would turn round and round."""
        self.log("error", f"ttrpc: accept: {error}")
        self.loop.unwatch(listener.fileno())
        self.loop.timer(0.1, lambda: self.loop.watch(listener.fileno(), self._accept) if self._listener is listener else None)

    def listener(self) -> int:
        return -1 if self._listener is None else self._listener.fileno()

    def knocked(self) -> bool:
        """Somebody has connected, and is not accepted yet."""
        return self._listener is not None and bool(select.select([self._listener], [], [], 0)[0])

    def close_listener(self) -> None:
        if self._listener is not None:
            self.loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Replies that the kernel has taken reach their readers all the same."""
        self.close_listener()
        for connection in list(self.connections):
            connection.close()

    @property
    def unsent(self) -> bool:
        return any(connection.unsent for connection in self.connections)


def may_connect(peer: "_socket.socket") -> bool:
    """Only our own user and group."""
    credentials = Struct("3i")
    _, uid, gid = credentials.unpack(peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, credentials.size))
    return (uid, gid) == (posix.geteuid(), posix.getegid())


class Connection:
    """One client."""

    def __init__(self, server: Server, peer: "_socket.socket") -> None:
        self.server, self.loop, self._peer = server, server.loop, peer
        self._frames, self._out = Frames(), bytearray()
        self.last, self._events, self.closed = 0, EPOLLIN, False
        self.active: "dict[int, tuple[Later, Timer | None, tuple[str, str, bytes]]]" = {}
        """By stream: service, method and payload of what is not answered yet."""
        peer.setblocking(False)
        self.loop.watch(peer.fileno(), self._ready)

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def fileno(self) -> int:
        return self._peer.fileno()

    @property
    def at_rest(self) -> bool:
        """Nothing of a message is on its way, in either direction."""
        return not (self._out or self._frames.begun or self.closed)

    def _ready(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR) and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._peer.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for stream, kind, body in self._frames.feed(data):
            if self.closed:
                return
            self._take(stream, kind, body)

    def _take(self, stream: int, kind: int, data: bytes | None) -> None:
        if data is None:
            self._fail(stream, RESOURCE_EXHAUSTED, f"message is longer than {LARGEST} bytes")
        elif kind == REQUEST:
            if not stream & 1 or stream <= self.last:
                self._fail(stream, INVALID_ARGUMENT, f"stream {stream}: a client's ids are odd and grow")
                return
            self.last = stream
            self.server.silent.pop(self, None)
            self.server.last_use = monotonic()
            try:
                request = wire.decode("ttrpc.Request", data)
            except wire.DecodeError as error:
                self._fail(stream, INVALID_ARGUMENT, f"request: {error}")
                return
            timeout = request["timeout_nano"]
            self.ask(stream, request["service"], request["method"], request["payload"], timeout / 1e9 if timeout > 0 else None)
        elif kind == DATA and stream not in self.active:
            self._fail(stream, INVALID_ARGUMENT, f"stream {stream} is not active")

    def ask(self, stream: int, service: str, method: str, payload: bytes, timeout: "float | None") -> None:
        handler = self.server.services.get(service)
        if handler is None:
            self._fail(stream, UNIMPLEMENTED, f"service {service}: not implemented")
            return
        if len(self.active) >= MOST_STREAMS:
            self._fail(stream, RESOURCE_EXHAUSTED, f"more than {MOST_STREAMS} calls at one time")
            return
        try:
            self.server.on_request(self, method)
            later = handler(method, payload)
        except Exception as error:
            self._fail(stream, *error_status(error))
            return
        if later.done:
            self._reply(stream, later)
            return
        timer = None if timeout is None else self.loop.timer(timeout, lambda: self._expire(stream))
        self.active[stream] = later, timer, (service, method, payload)
        later.then(lambda _: self._finish(stream, later))

    def _finish(self, stream: int, later: Later) -> None:
        waiting, timer, _ = self.active.pop(stream, (None, None, None))
        if timer is not None:
            timer.cancel()
        if waiting is later:  # else the time was up, or the client has gone
            self._reply(stream, later)

    def _reply(self, stream: int, later: Later) -> None:
        try:
            data = response(later.result())
        except Exception as error:
            data = failure(*error_status(error))
        if len(data) > LARGEST:
            data = failure(RESOURCE_EXHAUSTED, f"response is longer than {LARGEST} bytes")
        self._send(frame(stream, RESPONSE, data))

    def _expire(self, stream: int) -> None:
        later, _, _ = self.active.pop(stream)
        self._fail(stream, DEADLINE_EXCEEDED, "context deadline exceeded")
        abandon(later)

    def _fail(self, stream: int, code: int, text: str) -> None:
        self._send(frame(stream, RESPONSE, failure(code, text)))

    def _send(self, data: bytes) -> None:
        if self.closed:
            return
        if not self._out:
            try:
                data = data[self._peer.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if not data:
                return
        self._out += data
        self._watch()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._peer.send(self._out[: CHUNK * 8])]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch()

    def _watch(self) -> None:
        wanted = EPOLLOUT if self._out else 0
        wanted |= EPOLLIN if len(self._out) < MOST_UNREAD else 0
        if wanted != self._events:
            self._events = wanted
            self.loop.change(self._peer.fileno(), wanted)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.loop.unwatch(self._peer.fileno())
        self._peer.close()
        self.server.connections.discard(self)
        self.server.silent.pop(self, None)
        active, self.active = self.active, {}
        for later, timer, _ in active.values():
            if timer is not None:
                timer.cancel()
            abandon(later)


def abandon(later: Later) -> None:
    """Nobody waits for it any more: what can be cancelled is."""
    cancel = getattr(later, "cancel", None)
    if cancel is not None:
        cancel()


# ---- the client


def parse_address(text: str) -> str:
    """The name of a socket: unix:///path, /path, or unix://name for an abstract one."""
    if not text.startswith("unix:"):
        return text
    path = text[5:].removeprefix("//")
    return path if path.startswith("/") else "\0" + path.removeprefix("@")


def connect(address: str, timeout: float | None) -> "_socket.socket":
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        peer.settimeout(timeout)
        peer.connect(parse_address(address))
    except BaseException:
        peer.close()
        raise
    return peer


def request(service: str, method: str, payload: bytes, timeout: float | None = None, metadata: "Iterable[tuple[str, str]]" = ()) -> bytes:
    pairs = [{"key": key, "value": value} for key, value in metadata]
    nanos = max(1, int(timeout * 1e9)) if timeout else 0
    return wire.encode("ttrpc.Request", {"service": service, "method": method, "payload": payload, "timeout_nano": nanos, "metadata": pairs})


def payload_of(data: bytes) -> bytes:
    """Of a Response; raises the ShimError that it carries."""
    if not data:
        return b""
    answer = wire.decode("ttrpc.Response", data)
    status = answer["status"]
    if status and status["code"]:
        error = ShimError(status["code"], status["message"])
        error.args = (status["message"],)
        raise error
    payload: bytes = answer["payload"]
    return payload


class Client:
    """Blocks. call() is one call; send() and receive() are for several at a time. An end of the connection is a ConnectionError."""

    def __init__(self, address: str, timeout: float | None = 5) -> None:
        self._peer = connect(address, timeout)
        self._timeout, self._next, self._frames = timeout, 1, Frames()
        self._whole: list[tuple[int, int, bytes | None]] = []
        self._answers: dict[int, bytes] = {}

    def send(self, service: str, method: str, payload: bytes, timeout: float | None = None, metadata: "Iterable[tuple[str, str]]" = ()) -> int:
        stream, self._next = self._next, self._next + 2
        self._peer.sendall(frame(stream, REQUEST, request(service, method, payload, timeout, metadata), 1))
        return stream

    def receive(self, stream: int, timeout: float | None = None) -> bytes:
        """The payload of this stream's reply."""
        until = None if timeout is None else monotonic() + timeout
        while stream not in self._answers:
            number, kind, data = self._frame(until)
            if kind == RESPONSE and data is not None:
                self._answers[number] = data
        return payload_of(self._answers.pop(stream))

    def _frame(self, until: float | None) -> "tuple[int, int, bytes | None]":
        while not self._whole:
            self._peer.settimeout(None if until is None else max(0.001, until - monotonic()))
            data = self._peer.recv(CHUNK)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "ttrpc: closed")
            self._whole.extend(self._frames.feed(data))
        return self._whole.pop(0)

    def call(self, service: str, method: str, payload: bytes, timeout: float | None = None, metadata: "Iterable[tuple[str, str]]" = ()) -> bytes:
        return self.receive(self.send(service, method, payload, timeout, metadata), timeout or self._timeout)

    def close(self) -> None:
        self._peer.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
