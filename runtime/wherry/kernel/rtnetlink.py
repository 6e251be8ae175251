# SPDX-License-Identifier: Apache-2.0
"""The few requests of rtnetlink(7) that moving a network device takes: links, addresses, the default route. Raises OSError only.

A Socket stays in the network namespace in which it was made, so one socket for each namespace is all that is needed.
"""

import ctypes
import socket
import threading
from dataclasses import dataclass
from os import O_CLOEXEC, O_RDONLY, close, strerror
from os import open as open_fd
from struct import calcsize, pack, unpack_from

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
RTM_NEWLINK, RTM_GETLINK, RTM_SETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_GETROUTE = 16, 18, 19, 20, 22, 26
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFLA_IFNAME, IFLA_NET_NS_FD = 3, 28
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_PERMANENT = 0x80
RT_SCOPE_UNIVERSE = 0
RTA_DST, RTA_OIF = 1, 4
IFF_UP = 1
CLONE_NEWNET = 0x40000000
_HEADER = "=IHHII"
_LINK = "=BxHiII"
_ADDRESS = "=BBBBI"
_ROUTE = "=BBBBBBBBI"


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    flags: int


@dataclass(frozen=True)
class Address:
    """An address as it stands on a device: family, prefix length, scope, and its attributes (number to bytes)."""

    family: int
    prefix: int
    scope: int
    attributes: tuple[tuple[int, bytes], ...]


class Socket:
    """A route socket of the present network namespace, or of the one at `namespace` (a path such as /proc/PID/ns/net)."""

    def __init__(self, namespace: str | None = None) -> None:
        self._sequence = 0
        self._socket = _make() if namespace is None else _make_in(namespace)

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        try:
            replies = self._ask(RTM_GETLINK, 0, pack(_LINK, 0, 0, 0, 0, 0) + _attribute(IFLA_IFNAME, name.encode() + b"\0"))
        except OSError as error:
            if error.errno == 19:  # ENODEV
                return None
            raise
        index, flags = unpack_from("=iI", replies[0], 4)
        return Link(index, _attributes(replies[0], calcsize(_LINK))[IFLA_IFNAME].rstrip(b"\0").decode(), flags)

    def addresses(self, index: int) -> list[Address]:
        """The permanent addresses of global scope."""
        found = []
        for reply in self._ask(RTM_GETADDR, NLM_F_DUMP, pack(_ADDRESS, 0, 0, 0, 0, 0)):
            family, prefix, flags, scope, owner = unpack_from(_ADDRESS, reply)
            attributes = _attributes(reply, calcsize(_ADDRESS))
            if IFA_FLAGS in attributes:
                (flags,) = unpack_from("=I", attributes[IFA_FLAGS])
            if owner == index and scope == RT_SCOPE_UNIVERSE and flags & IFA_F_PERMANENT:
                kept = tuple((key, attributes[key]) for key in (IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST) if key in attributes)
                found.append(Address(family, prefix, scope, kept))
        return found

    def add_address(self, index: int, address: Address) -> None:
        head = pack(_ADDRESS, address.family, address.prefix, IFA_F_PERMANENT, address.scope, index)
        self._ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, head + b"".join(_attribute(*item) for item in address.attributes))

    def move(self, index: int, namespace: int, name: str) -> None:
        """Moves a device into the namespace open at `namespace`, under a new name; the kernel takes its addresses off and brings it down."""
        attributes = _attribute(IFLA_NET_NS_FD, pack("=I", namespace)) + _attribute(IFLA_IFNAME, name.encode() + b"\0")
        self._ask(RTM_NEWLINK, NLM_F_ACK, pack(_LINK, 0, 0, index, 0, 0) + attributes)

    def set_up(self, index: int, up: bool = True) -> None:
        self._ask(RTM_SETLINK, NLM_F_ACK, pack(_LINK, 0, 0, index, IFF_UP if up else 0, IFF_UP))

    def default_routes(self) -> set[int]:
        """Indexes of the devices that a default route goes through."""
        found = set()
        for reply in self._ask(RTM_GETROUTE, NLM_F_DUMP, pack(_ROUTE, 0, 0, 0, 0, 0, 0, 0, 0, 0)):
            attributes = _attributes(reply, calcsize(_ROUTE))
            if reply[1] == 0 and RTA_DST not in attributes and RTA_OIF in attributes and reply[4] == 254:  # no destination, main table
                found.add(unpack_from("=I", attributes[RTA_OIF])[0])
        return found

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Sends one request; the bodies of all its answers."""
        self._sequence += 1
        self._socket.send(pack(_HEADER, 16 + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0) + body)
        replies: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 18)
            at = 0
            while at + 16 <= len(data):
                size, answer, answer_flags, sequence, _ = unpack_from(_HEADER, data, at)
                payload = data[at + 16 : at + size]
                at += size + 3 & ~3
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_ERROR:
                    (code,) = unpack_from("=i", payload)
                    if code:
                        raise OSError(-code, strerror(-code))
                    return replies
                if answer == NLMSG_DONE:
                    return replies
                replies.append(payload)
                if not answer_flags & 2:  # not NLM_F_MULTI
                    return replies


def _make() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    made.bind((0, 0))
    return made


def _make_in(namespace: str) -> socket.socket:
    """setns(2) is a matter of the thread: a thread of its own goes there, and only the socket comes back."""
    result: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            fd = open_fd(namespace, O_RDONLY | O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, strerror(number), namespace)
            finally:
                close(fd)
            result.append(_make())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def _attribute(kind: int, value: bytes) -> bytes:
    return pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + 4 <= len(data):
        size, kind = unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += size + 3 & ~3
    return found
