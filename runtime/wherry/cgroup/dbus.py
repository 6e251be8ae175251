# SPDX-License-Identifier: Apache-2.0
"""A conversation with one D-Bus peer: calls, their answers, signals; every wait has an end. Loaded for systemd alone.

jeepney puts messages together and takes them apart. The socket is our own, for the sake of time limits and of the identity: we give none, and
the peer takes that of the socket. A uid in words would be that of our user namespace, which is not the one that the peer knows us by.
"""

import socket
import struct
import time

from jeepney.low_level import HeaderFields, Message, MessageType, Parser
from jeepney.wrappers import DBusAddress, new_method_call

from wherry.errors import DeadlineError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWER_S = 10.0
"""How long a peer may take to answer."""

_GREETING = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
_BUS = ("/org/freedesktop/DBus", "org.freedesktop.DBus")


class Refused(HostError):
    """The peer's own error. `name` is that of D-Bus: org.freedesktop.systemd1.NoSuchUnit."""

    code = "WHERRY-HOST-SYSTEMD"

    def __init__(self, name: str, text: str, what: str) -> None:
        super().__init__(f"systemd: {what}: {text[:1].lower()}{text[1:].rstrip('.')}", error=name)
        self.name = name


class Connection:
    """To a socket: of a bus, or of systemd itself (`direct`), which needs no bus. To be closed."""

    def __init__(self, address: "str | bytes", direct: bool, limit_s: float = ANSWER_S) -> None:
        """OSError where nobody listens; DeadlineError where nobody answers."""
        self.direct, self.limit_s = direct, limit_s
        self.name = address.decode("utf-8", "surrogateescape") if isinstance(address, bytes) else address
        self._serial = 0
        self._parser = Parser()
        self._signals: "list[Message]" = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            deadline = time.monotonic() + limit_s
            self._limit(deadline, "connect")
            self._connect(address, deadline)
            if not direct:
                self.call(*_BUS, _BUS[1], "Hello")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, path: str, destination: str, interface: str, member: str, signature: "str | None" = None, body: "tuple[Any, ...]" = ()) -> "Any":
        """The answer's values. Refused, DeadlineError, or HostError where the peer went away."""
        address = DBusAddress(path, bus_name=destination, interface=interface)
        try:
            message = new_method_call(address, member, signature, body)
            self._serial += 1
            data = message.serialise(serial=self._serial)
        except (struct.error, TypeError, ValueError) as error:
            raise HostError(f"systemd: {member}: a value does not fit its type: {error}", code="WHERRY-HOST-SYSTEMD") from error
        deadline = time.monotonic() + self.limit_s
        self._send(data, member, deadline)
        while True:
            answer = self._receive(member, deadline)
            if answer.header.fields.get(HeaderFields.reply_serial) != self._serial:
                continue
            if answer.header.message_type is MessageType.error:
                text = answer.body[0] if answer.body and isinstance(answer.body[0], str) else ""
                name = str(answer.header.fields.get(HeaderFields.error_name, ""))
                raise Refused(name, text or name, member)
            return answer.body

    def signal(self, member: str, deadline: float) -> "tuple[Any, ...]":
        """The values of the next signal of that name; those that came meanwhile are told first."""
        while True:
            while self._signals:
                message = self._signals.pop(0)
                if message.header.fields.get(HeaderFields.member) == member:
                    return tuple(message.body)
            self._receive(member, deadline)

    # ---- the socket

    def _limit(self, deadline: float, what: str) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._late(what)
        self._socket.settimeout(left)

    def _late(self, what: str) -> DeadlineError:
        return DeadlineError(
            f"systemd did not answer within {self.limit_s:g} s: {what} at {self.name}",
            remedy="look after systemd (systemctl status), or use the cgroup manager cgroupfs",
            call=what,
        )

    def _gone(self, what: str) -> HostError:
        return HostError(f"systemd closed the connection: {what} at {self.name}", code="WHERRY-HOST-SYSTEMD", call=what)

    def _connect(self, address: "str | bytes", deadline: float) -> None:
        try:
            self._socket.connect(address)
        except TimeoutError:  # a full queue
            raise self._late("connect") from None
        self._send(_GREETING, "authenticate", deadline)
        text = b""
        while text.count(b"\r\n") < 2:  # DATA, OK; the first message comes after our own first one
            text += self._read("authenticate", deadline)
            if b"REJECTED" in text or b"ERROR" in text:
                raise PermissionError(1, f"{self.name} does not know us")

    def _send(self, data: bytes, what: str, deadline: float) -> None:
        self._limit(deadline, what)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise self._late(what) from None
        except OSError as error:
            raise self._gone(what) from error

    def _read(self, what: str, deadline: float) -> bytes:
        self._limit(deadline, what)
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise self._late(what) from None
        except OSError as error:
            raise self._gone(what) from error
        if not data:
            raise self._gone(what)
        return data

    def _receive(self, what: str, deadline: float) -> Message:
        """The next message, whatever it is; signals are kept."""
        while True:
            try:
                message = self._parser.get_next_message()
            except (ValueError, KeyError, struct.error) as error:
                raise HostError(f"systemd: {what}: an answer that is none: {error}", code="WHERRY-HOST-SYSTEMD") from error
            if message is not None:
                break
            self._parser.add_data(self._read(what, deadline))
        if message.header.message_type is MessageType.signal:
            self._signals.append(message)
        return message


def shaped(signature: str, value: "Any") -> "Any":
    """A value as jeepney wants it: JSON, and with it a plan, has lists for what are tuples and bytes here."""
    if signature == "ay":
        return bytes(value)
    if signature[:1] == "a":
        return [shaped(signature[1:], item) for item in value]
    if signature[:1] == "(":
        parts, rest = [], signature[1:-1]
        for item in value:
            length = _complete(rest)
            parts.append(shaped(rest[:length], item))
            rest = rest[length:]
        return tuple(parts)
    return value


def _complete(signature: str) -> int:
    if signature[:1] == "a":
        return 1 + _complete(signature[1:])
    if signature[:1] != "(":
        return 1
    depth = 0
    for at, letter in enumerate(signature):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return at + 1
    return len(signature)
