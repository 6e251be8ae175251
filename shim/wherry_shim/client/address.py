# SPDX-License-Identifier: Apache-2.0
"""Where the server is, and the settings of a channel to it: bounds in both directions, quick reconnecting."""

import os
from pathlib import Path

from wherry_shim.client.types import TLS

VARIABLE = "WHERRY_SHIM_ADDRESS"
REQUEST_LIMIT = 4 << 20  # specs/serve.md
REPLY_LIMIT = 16 << 20

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", REQUEST_LIMIT),
    ("grpc.max_receive_message_length", REPLY_LIMIT),
    ("grpc.use_local_subchannel_pool", 1),  # what another client of this process has met with is not ours
    ("grpc.enable_retries", 0),  # the client knows what is safe to ask again
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
]
REMOTE = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]  # a host that lost its power closes no connection


def default() -> str:
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return chosen
    if os.geteuid():
        return f"unix://{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/wherry-shim/shim.sock"
    return "unix:///run/wherry-shim/shim.sock"


def target(address: str) -> tuple[str, bool]:
    """The name that gRPC wants, and whether it is on this host: unix:///run/x.sock, /run/x.sock, tcp://host:port, host:port."""
    if address.startswith(("/", "unix:")):
        path = address.removeprefix("unix://").removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{address}: the path of a socket is absolute: unix:///run/wherry-shim/shim.sock")
        return f"unix:{path}", True
    place = address.removeprefix("tcp://")
    host, colon, port = place.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"{address}: neither unix:///PATH nor tcp://HOST:PORT")
    return f"dns:///{place}", False


def options(local: bool, tls: TLS | None) -> list[tuple[str, int | str]]:
    made: list[tuple[str, int | str]] = [*OPTIONS, *(() if local else REMOTE)]
    if tls is not None and tls.server_name:
        made.append(("grpc.ssl_target_name_override", tls.server_name))
    return made


def pem(tls: TLS) -> tuple[bytes, bytes, bytes]:
    """CA, key, certificate: in gRPC's order."""
    return Path(tls.ca).read_bytes(), Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()
