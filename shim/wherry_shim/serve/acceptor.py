# SPDX-License-Identifier: Apache-2.0
"""The sockets that clients come to. grpcio tells nothing of who is at the other end of a unix socket and takes none that is open already, so clients
come to us: we ask the kernel who they are, and relay to a socket of grpcio's that nobody else reaches, from an address that names the connection.

The relay holds 64 KiB for each direction at most: where one side does not read, the other one is not read from.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import math
import os
import secrets
import socket
import stat
import struct
import termios
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wherry_shim.serve.bounds import Limits
    from wherry_shim.serve.log import Log

BUFFERED = 64 << 10
_BACKLOG = 1024
_AT_ONCE = 64
_FLUSH_S = 5.0
_PAUSE_S = 0.5
_CREDENTIALS = struct.Struct("3i")
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(eq=False)
class Peer:
    """Who is at the other end of one connection. `excess`: there are too many of them, and no call of this one is answered."""

    name: str
    key: str
    uid: int = -1
    pid: int = 0
    excess: bool = False
    deaf: bool = False
    greeted: bool = False
    """grpcio has spoken to it: there is a connection as gRPC understands it."""
    relays: tuple[Relay, ...] = field(default=(), repr=False)


class Relay(asyncio.Protocol):
    """One side of a connection; `other` is its counterpart. `greets`: it is grpcio's."""

    def __init__(self, peer: Peer, acceptor: Acceptor, greets: bool) -> None:
        self.peer, self._acceptor, self.greets = peer, acceptor, greets
        self.transport: asyncio.Transport | None = None
        self.other: Relay | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(BUFFERED)
        if self.other is not None and self.other.early:
            transport.write(self.other.early)

    def data_received(self, data: bytes) -> None:
        self.peer.greeted = self.peer.greeted or self.greets
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        elif self.other is not None:  # grpcio greets before the client's side is there
            self.early += data

    def eof_received(self) -> None:
        """HTTP/2 knows no half of a connection."""
        self.finish()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not (self.greets and self.peer.deaf):
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.other is not None:
            self.other.finish()
        self._acceptor.lost(self.peer)

    def finish(self) -> None:
        """What is buffered is written, but nobody is waited for for long."""
        transport = self.transport
        if transport is None:
            return
        transport.close()
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_FLUSH_S, transport.abort)


class Acceptor:
    """`inner`: grpcio's sockets, by family: one that takes what is behind us for a user of this host, one that wants TLS."""

    def __init__(self, inner: dict[str, str], limits: Limits, log: Log, keepalive: float = 30.0) -> None:
        self._inner, self._limits, self._log, self._keepalive = inner, limits, log, keepalive
        self._secret = secrets.token_hex(8)
        self._number = 0
        self.listeners: list[socket.socket] = []
        self.peers: dict[str, Peer] = {}
        self._counts: Counter[str] = Counter()
        self._connecting: set[asyncio.Task[None]] = set()
        self.accepting = False
        self.refused = 0

    # ---- listening

    def start(self) -> None:
        self.accepting = True
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            listener.setblocking(False)
            loop.add_reader(listener.fileno(), self._accept, listener)

    def stop(self) -> None:
        """Who comes now waits in the kernel's queue: for the next program, or for the sockets' end."""
        self.accepting = False
        for listener in self.listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())

    async def settle(self, seconds: float) -> None:
        """Until who was accepted has a connection, which can be ended in order; after stop()."""
        limit = time.monotonic() + seconds
        while not all(peer.greeted for peer in self.peers.values()) and time.monotonic() < limit:
            await asyncio.sleep(0.01)

    def pause(self) -> None:
        """From now on clients are heard no more, and still answered."""
        for peer in self.peers.values():
            peer.deaf = True
            if peer.relays and peer.relays[0].transport is not None:
                peer.relays[0].transport.pause_reading()

    async def delivered(self, seconds: float) -> None:
        """Until grpcio has taken what we have given it; after pause()."""
        limit = time.monotonic() + seconds
        while any(map(_untaken, self.peers.values())) and time.monotonic() < limit:
            await asyncio.sleep(0.01)

    async def hang_up(self, seconds: float) -> None:
        """When all that grpcio has said has reached them, but no later than in so many seconds."""
        for peer in list(self.peers.values()):
            for relay in peer.relays:
                relay.finish()
        limit = time.monotonic() + seconds
        while self.peers and time.monotonic() < limit:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._rest(listener, error)
                    return
                raise
            self._accepted(connection, address)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """There are no descriptors left: whoever comes waits until there are."""
        self._log("warning", f"no connection can be taken at the moment: {error.strerror}")
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(_PAUSE_S, lambda: self.accepting and loop.add_reader(listener.fileno(), self._accept, listener))

    def _accepted(self, connection: socket.socket, address: object) -> None:
        connection.setblocking(False)
        peer = self._peer(connection, address)
        count = self._counts[peer.key]
        strangers = sum(other.uid < 0 for other in self.peers.values()) if peer.uid < 0 else 0
        many = len(self.peers) >= self._limits.connections or 2 * strangers >= self._limits.connections  # over TCP comes who has no certificate, too
        if many or count >= 2 * self._limits.connections_each:
            self.refused += 1
            connection.close()
            return
        peer.excess = count >= self._limits.connections_each
        self._counts[peer.key] += 1
        self.peers[peer.name] = peer
        task = asyncio.get_running_loop().create_task(self._relay(peer, connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _peer(self, connection: socket.socket, address: object) -> Peer:
        self._number += 1
        if connection.family == socket.AF_UNIX:
            pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            return Peer(f"wherry-{self._secret}-{uid}-{pid}-{self._number}", f"uid {uid}", uid, pid)
        self._set_up(connection)
        host = address[0] if isinstance(address, tuple) else "?"
        return Peer(f"wherry-{self._secret}-tcp-{self._number}", f"host {host}")

    def _set_up(self, connection: socket.socket) -> None:
        """A host that has vanished closes nothing: the kernel asks, and gives up what has not been taken for so long."""
        most = self._keepalive * 5 / 3
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            (socket.TCP_NODELAY, 1),
            (socket.TCP_KEEPIDLE, math.ceil(self._keepalive)),
            (socket.TCP_KEEPINTVL, math.ceil(self._keepalive / 3)),
            (socket.TCP_KEEPCNT, 2),
            (socket.TCP_USER_TIMEOUT, int(most * 1000)),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, name, value)

    # ---- relaying

    async def _relay(self, peer: Peer, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        near, far = Relay(peer, self, False), Relay(peer, self, True)
        near.other, far.other = far, near
        try:
            inner = await self._connected(peer, self._inner["unix" if peer.uid >= 0 else "tcp"])
            peer.relays = (near, far)
            await loop.create_unix_connection(lambda: far, sock=inner)
            await loop.connect_accepted_socket(lambda: near, connection)
        except OSError as error:
            self._log("error", f"{peer.key}: cannot be served: {error}")
            connection.close()
            far.finish()
            self._forget(peer)
            return
        if far.transport is None:  # it has gone meanwhile
            near.finish()

    async def _connected(self, peer: Peer, path: str) -> socket.socket:
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            inner.bind("\0" + peer.name)
            for _ in range(200):
                try:
                    inner.connect(path)
                    return inner
                except BlockingIOError:  # its queue is full
                    await asyncio.sleep(0.01)
            raise TimeoutError("the server does not take connections")
        except BaseException:
            inner.close()
            raise

    def lost(self, peer: Peer) -> None:
        if all(relay.transport is None for relay in peer.relays):
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        if self.peers.pop(peer.name, None) is None:
            return
        self._counts[peer.key] -= 1
        if not self._counts[peer.key]:
            del self._counts[peer.key]
        elif not peer.excess:
            later = next((other for other in self.peers.values() if other.key == peer.key and other.excess), None)
            if later is not None:
                later.excess = False

    def peer(self, address: str) -> Peer | None:
        """By context.peer(): who has connected to grpcio's socket past us is not known here."""
        return self.peers.get(address.partition(":")[2].lstrip("\0@"))


def _untaken(peer: Peer) -> bool:
    inner = peer.relays[1].transport if peer.relays else None
    if inner is None:
        return False
    queued = fcntl.ioctl(inner.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return bool(inner.get_write_buffer_size()) or queued != bytes(4)


# ---- listening sockets


class AddressError(Exception):
    """An address cannot be listened at; the text has the remedy."""


def listen_unix(path: str, mode: int, group: int) -> socket.socket:
    """mode 0600 and group -1: nobody but the server's user and root."""
    directory = os.path.dirname(path)
    _checked_directory(directory, mode, group)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        os.fchmod(listener.fileno(), 0o600)  # what bind() makes has no more: a umask would be that of all threads
        listener.bind(path)
        if group >= 0:
            os.chown(path, -1, group)
        os.chmod(path, mode)
        listener.listen(_BACKLOG)
        return listener
    except OSError as error:
        listener.close()
        text = "it is longer than 107 bytes: choose a shorter one" if "too long" in str(error) else error.strerror
        raise AddressError(f"unix://{path}: {text}") from error


def _checked_directory(directory: str, mode: int, group: int) -> None:
    """What is ours and closed to others. One that others may write to would let them put a socket of their own in its place."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.stat(directory)
    except OSError as error:
        raise AddressError(f"{directory}: {error.strerror}") from error
    if found.st_uid not in (0, os.geteuid()):
        raise AddressError(f"{directory} belongs to uid {found.st_uid}: choose a directory of the server's own")
    if found.st_mode & 0o022:
        raise AddressError(f"others may write to {directory} ({found.st_mode & 0o7777:04o}): chmod go-w {directory}, or choose another directory")
    if mode & 0o070 and group >= 0 and found.st_uid == os.geteuid() and not found.st_mode & 0o011 and not os.listdir(directory):
        os.chown(directory, -1, group)
        os.chmod(directory, 0o710)


def _remove_stale(path: str) -> None:
    """A socket that nobody listens at any more. Of another server, or of something else, it is left alone."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "something else has this name: remove it, or choose another one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_FLUSH_S)  # one that answers nobody any more has a full queue
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another server listens there: stop it, or choose another path")


def listen_tcp(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        return listener
    except OSError as error:
        raise AddressError(f"tcp://{host}:{port}: {error.strerror}") from error


def address_of(listener: socket.socket) -> str:
    """As on the command line."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix://{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"tcp://{host}:{name[1]}"
