# SPDX-License-Identifier: Apache-2.0
"""The other side of --console-socket and of --pidfd-socket, and a terminal for attached runs."""

import os
import select
import socket
import time
from pathlib import Path


class Receiver:
    """A listening unix socket that takes one descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.socket.settimeout(10)

    def receive(self) -> tuple[int, bytes]:
        """The descriptor and the text that came with it. The descriptor becomes the caller's."""
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(10)
            data, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
        assert len(descriptors) == 1, f"{len(descriptors)} descriptors came"
        return descriptors[0], data

    def close(self) -> None:
        self.socket.close()


def read_until(descriptor: int, text: str, seconds: float = 10.0) -> str:
    """Reads from a terminal until `text` has come, or the other side has gone."""
    seen = ""
    deadline = time.monotonic() + seconds
    while text not in seen:
        left = deadline - time.monotonic()
        assert left > 0, f"waited for {text!r} on the terminal; it said {seen!r}"
        if select.select([descriptor], [], [], left)[0]:
            try:
                data = os.read(descriptor, 4096)
            except OSError:
                data = b""
            assert data, f"the terminal closed before {text!r}; it said {seen!r}"
            seen += data.decode(errors="replace")
    return seen


def read_all(descriptor: int, seconds: float = 10.0) -> str:
    """Reads from a terminal until the other side has gone."""
    seen = b""
    deadline = time.monotonic() + seconds
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO: nobody has it open any more
            return seen.decode(errors="replace")
        seen += data
        if not data:
            break
    return seen.decode(errors="replace")
