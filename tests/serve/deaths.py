# SPDX-License-Identifier: Apache-2.0
"""Finds those who are to be killed."""

import socket
import struct
from pathlib import Path

from .driver import Server


def monitor_of(server: Server, id: str) -> int:
    """The pid of a container's monitor: who listens on its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.settimeout(5)
        one.connect(str(server.root / "default" / id / "monitor"))
        pid: int = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


def writer_of(server: Server, id: str) -> int:
    """The pid of the process that copies its output, a child of its monitor."""
    monitor = monitor_of(server, id)
    for child in Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split():
        if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"wherry-outputs\0"):
            return int(child)
    raise AssertionError("no writer")
