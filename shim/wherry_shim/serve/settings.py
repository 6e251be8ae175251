# SPDX-License-Identifier: Apache-2.0
"""What a server is told, checked before it does anything; what comes from systemd, or from the program that was in its place before a reload."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from wherry_shim.serve.bounds import Limits
from wherry_shim.serve.identity import Roles

INHERITED = "WHERRY_SHIM_INHERITED"
"""Numbers of the descriptors that a program leaves to the one after it, in JSON."""
_FIRST = 3
_CERTIFICATES = """tcp:// is served with mutual TLS only: it needs --tls-cert, --tls-key and --tls-client-ca. For a first try:
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=wherry CA" -keyout ca.key -out ca.crt
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -CA ca.crt -CAkey ca.key -subj /CN=server \\
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout server.key -out server.crt
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -CA ca.crt -CAkey ca.key -subj /CN=alice -keyout alice.key -out alice.crt
  wherry-shim serve --listen tcp://127.0.0.1:7070 --tls-cert server.crt --tls-key server.key --tls-client-ca ca.crt --allow alice=run"""


class SettingsError(Exception):
    """A server cannot be started so; the text says what to do."""


@dataclass(frozen=True)
class Tls:
    certificate: str = ""
    key: str = ""
    client_ca: str = ""

    @property
    def whole(self) -> bool:
        return bool(self.certificate and self.key and self.client_ca)


@dataclass(frozen=True)
class Settings:
    listen: tuple[str, ...]
    root: str
    data: str
    tls: Tls = Tls()
    allow: tuple[str, ...] = ()
    socket_mode: int = 0o600
    socket_group: int = -1
    metrics: str = ""
    metrics_public: bool = False
    limits: Limits = field(default_factory=Limits)
    log_level: str = "info"
    keep_removed: float = 600.0
    keepalive: float = 30.0
    """Seconds of silence behind which a client is asked whether it is there; it has two thirds of them to answer."""
    max_age: float = 0.0
    """Of a connection, then it is ended in order: a certificate that was good for a while is asked for anew. 0: for ever."""
    grace: float = 5.0
    """Seconds that calls have to end, when the server does."""

    @property
    def private(self) -> str:
        """grpcio's own sockets, and the lock."""
        return f"{self.root}/serve"

    def check(self) -> None:
        """SettingsError, before anything is changed."""
        for address in self.listen:
            parsed(address)
        for path in (self.root, self.data):
            if not path.startswith("/"):
                raise SettingsError(f"{path} is not an absolute path")
        if len(os.fsencode(self.private)) > 90:
            raise SettingsError(f"--root {self.root} is too long: addresses of sockets have 107 bytes")
        if any(address.startswith("tcp://") for address in self.listen):
            self.check_tls()
        try:
            self.roles()
        except ValueError as error:
            raise SettingsError(f"--allow {error}") from error

    def check_tls(self) -> None:
        if not self.tls.whole:
            raise SettingsError(_CERTIFICATES)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("--tls-cert and --tls-key", lambda: context.load_cert_chain(self.tls.certificate, self.tls.key)),
            ("--tls-client-ca", lambda: context.load_verify_locations(self.tls.client_ca)),
        )
        for names, step in steps:
            try:
                step()
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(f"{names}: {getattr(error, 'reason', None) or error.strerror or error}") from error
        if os.stat(self.tls.key).st_mode & 0o077:
            raise SettingsError(f"others may read {self.tls.key}: chmod 600 {self.tls.key}")

    def credentials(self) -> grpc.ServerCredentials:
        contents = []
        for path in (self.tls.key, self.tls.certificate, self.tls.client_ca):
            with open(path, "rb") as file:
                contents.append(file.read())
        return grpc.ssl_server_credentials([(contents[0], contents[1])], root_certificates=contents[2], require_client_auth=True)

    def roles(self) -> Roles:
        return Roles(self.allow, {0, os.geteuid()})


def parsed(address: str) -> tuple[str, str, int]:
    """("unix", path, 0) or ("tcp", host, port)"""
    scheme, separator, rest = address.partition("://")
    if separator and scheme == "unix" and rest.startswith("/"):
        return "unix", rest, 0
    host, colon, port = rest.rpartition(":")
    if separator and scheme == "tcp" and host and colon and port.isdecimal() and int(port) <= 65535:
        return "tcp", host.strip("[]"), int(port)
    raise SettingsError(f"--listen {address}: is neither unix:///PATH nor tcp://HOST:PORT")


def default_places() -> tuple[str, str]:
    """--root and --data."""
    if os.geteuid() == 0:
        return "/run/wherry-shim", "/var/lib/wherry-shim"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{runtime}/wherry-shim", f"{state}/wherry-shim"


def raised_limit() -> tuple[int, int] | None:
    """Descriptors: several for each container and each connection. The soft limit is there for select(), which nothing here uses."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if soft >= wanted:
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft, hard


# ---- what is open already


@dataclass
class Inherited:
    """`listeners`: by address; `given`: systemd has chosen them, and they take the place of --listen. `lock`: of the root, `data_lock`: of the data."""

    listeners: list[socket.socket] = field(default_factory=list)
    given: bool = False
    lock: int = -1
    data_lock: int = -1

    @classmethod
    def found(cls) -> Inherited:
        text = os.environ.pop(INHERITED, "")
        words = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        if text:
            told = json.loads(text)
            return cls([_socket(fd) for fd in told["listeners"]], told["given"], _closed_on_exec(told["lock"]), _closed_on_exec(told.get("data_lock", -1)))
        if words["LISTEN_PID"] == str(os.getpid()) and words["LISTEN_FDS"].isdecimal():
            return cls([_socket(fd) for fd in range(_FIRST, _FIRST + int(words["LISTEN_FDS"]))], True)
        return cls()

    def leave(self) -> None:
        """To the program that is executed next."""
        fds = [listener.fileno() for listener in self.listeners]
        os.environ[INHERITED] = json.dumps({"listeners": fds, "given": self.given, "lock": self.lock, "data_lock": self.data_lock})
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                try:
                    os.set_inheritable(int(name), int(name) in (*fds, self.lock, self.data_lock))
                except OSError:  # of the listing itself
                    continue


def _socket(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=_closed_on_exec(fd))
    except OSError as error:
        raise SettingsError(f"descriptor {fd} that was handed over is no socket: {error.strerror}") from error
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise SettingsError(f"descriptor {fd} that was handed over is no listening stream socket: ListenStream= is what is wanted")
    return listener


def _closed_on_exec(fd: int) -> int:
    if fd >= 0:
        os.set_inheritable(fd, False)
    return fd
