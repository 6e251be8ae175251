# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 by hand, for clients that do what grpcio never would."""

import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(path: str) -> bytes:
    """Of a call, without compression."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "content-type": "application/grpc", "te": "trailers"}
    return b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items())


def call(path: str, request: bytes = b"", stream: int = 1) -> bytes:
    message = b"\0" + len(request).to_bytes(4, "big") + request
    return frame(HEADERS, END_HEADERS, stream, headers(path)) + frame(DATA, END_STREAM, stream, message)


def wide_open(stream: int = 1) -> bytes:
    """Settings and windows of a client that promises to read everything."""
    most = (1 << 31) - 1 - 65535
    settings = (4).to_bytes(2, "big") + ((1 << 31) - 1).to_bytes(4, "big")
    return PREFACE + frame(SETTINGS, payload=settings) + frame(WINDOW_UPDATE, payload=most.to_bytes(4, "big"))


def read_all(connection: socket.socket, seconds: float = 1) -> bytes:
    """What comes within this time of silence, or up to the end."""
    connection.settimeout(seconds)
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except (TimeoutError, ConnectionError):
        pass
    return found
