# SPDX-License-Identifier: Apache-2.0
"""Descriptors that go with a message over a Unix socket."""

from _socket import SCM_RIGHTS, SOL_SOCKET
from _struct import Struct, unpack


def rights(fds: "list[int]") -> "list[tuple[int, int, bytes]]":
    """What goes with sendmsg()."""
    return [(SOL_SOCKET, SCM_RIGHTS, Struct(f"{len(fds)}i").pack(*fds))] if fds else []


def passed(ancillary: "list[tuple[int, int, bytes]]") -> "list[int]":
    """The descriptors that came with recvmsg()."""
    fds: "list[int]" = []
    for level, kind, raw in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds += unpack(f"{len(raw) // 4}i", raw[: len(raw) // 4 * 4])
    return fds
