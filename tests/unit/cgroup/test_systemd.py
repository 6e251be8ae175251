# SPDX-License-Identifier: Apache-2.0
"""The conversation with systemd, played by a peer that can be made to hang, lie and go away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jeepney", reason="the Python package jeepney is not installed")

from jeepney.low_level import HeaderFields, Message, MessageType, Parser
from jeepney.wrappers import new_error, new_header, new_method_return

from wherry.cgroup import systemd
from wherry.cgroup.dbus import Connection, Refused, shaped
from wherry.errors import DeadlineError, HostError

JOB = "/org/freedesktop/systemd1/job/7"
UNIT = "/org/freedesktop/systemd1/unit/x"
Answer = Callable[["Peer", Message], None]


class Peer:
    """A server for one connection. `answers` by member; each is called once for each call."""

    def __init__(self, place: Path, greeting: bytes = b"DATA\r\nOK 0123\r\n") -> None:
        self.path = str(place / "socket")
        self.greeting = greeting
        self.calls: list[tuple[str, Any]] = []
        self.answers: dict[str, list[Answer]] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(5)
        self.connection: socket.socket | None = None
        self.serial = 0
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def on(self, member: str, *answers: Answer) -> None:
        self.answers.setdefault(member, []).extend(answers)

    def _serve(self) -> None:
        try:
            self.connection, _ = self.listener.accept()
            self._talk(self.connection)
        except OSError:
            return

    def _talk(self, connection: socket.socket) -> None:
        text = b""
        while not text.endswith(b"BEGIN\r\n"):
            text += connection.recv(4096)
        assert text == b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
        connection.sendall(self.greeting)
        parser = Parser()
        while True:
            message = parser.get_next_message()
            if message is None:
                data = connection.recv(4096)
                if not data:
                    return
                parser.add_data(data)
                continue
            member = message.header.fields[HeaderFields.member]
            self.calls.append((member, message.body))
            answers = self.answers.get(member) or [returns()]
            (answers.pop(0) if len(answers) > 1 else answers[0])(self, message)

    def send(self, message: Message) -> None:
        self.serial += 1
        assert self.connection is not None
        self.connection.sendall(message.serialise(serial=self.serial))

    def close(self) -> None:
        self.listener.close()
        if self.connection is not None:
            self.connection.close()
        self.thread.join(5)

    def called(self, member: str) -> list[Any]:
        return [body for name, body in self.calls if name == member]


def returns(signature: str | None = None, *body: Any) -> Answer:
    return lambda peer, call: peer.send(new_method_return(call, signature, body))


def refuses(name: str, text: str = "No.") -> Answer:
    return lambda peer, call: peer.send(new_error(call, f"org.freedesktop.systemd1.{name}", "s", (text,)))


def silent(peer: Peer, call: Message) -> None:
    return None


def hangs_up(peer: Peer, call: Message) -> None:
    assert peer.connection is not None
    peer.connection.shutdown(socket.SHUT_RDWR)


def removed(job: str, result: str) -> Message:
    header = new_header(MessageType.signal)
    header.fields[HeaderFields.path] = "/org/freedesktop/systemd1"
    header.fields[HeaderFields.interface] = "org.freedesktop.systemd1.Manager"
    header.fields[HeaderFields.member] = "JobRemoved"
    header.fields[HeaderFields.signature] = "uoss"
    return Message(header, (7, job, "x.scope", result))


def job(result: str, before: bool = False) -> Answer:
    """The job's path, and its end: after the answer, or before it, as it may come."""

    def answer(peer: Peer, call: Message) -> None:
        peer.send(removed("/another/job", "failed"))
        if before:
            peer.send(removed(JOB, result))
        peer.send(new_method_return(call, "o", (JOB,)))
        if not before:
            peer.send(removed(JOB, result))

    return answer


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def manager(peer: Peer) -> Iterator[systemd.Manager]:
    with systemd.Manager(Connection(peer.path, direct=True, limit_s=0.5)) as made:
        yield made


def property_value(signature: str, value: Any) -> Answer:
    return returns("v", (signature, value))


# ---- the connection


def test_a_bus_is_greeted(peer: Peer) -> None:
    peer.on("Hello", returns("s", ":1.5"))
    Connection(peer.path, direct=False, limit_s=5).close()
    assert [name for name, _ in peer.calls] == ["Hello"]


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Connection(str(tmp_path / "none"), direct=True)


def test_a_peer_that_does_not_know_us(tmp_path: Path) -> None:
    peer = Peer(tmp_path, b"REJECTED EXTERNAL\r\n")
    with pytest.raises(PermissionError):
        Connection(peer.path, direct=True, limit_s=5)
    peer.close()


def test_a_peer_that_never_greets(tmp_path: Path) -> None:
    peer = Peer(tmp_path, b"")
    with pytest.raises(DeadlineError, match=r"did not answer within 0.2 s: authenticate") as caught:
        Connection(peer.path, direct=True, limit_s=0.2)
    assert caught.value.code == "WHERRY-DEADLINE" and caught.value.remedy
    peer.close()


def test_a_peer_that_never_answers(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("Get", silent)
    with pytest.raises(DeadlineError, match="Get"):
        manager.version()


def test_a_peer_that_hangs_up(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("Get", hangs_up)
    with pytest.raises(HostError, match="closed the connection") as caught:
        manager.version()
    assert caught.value.code == "WHERRY-HOST-SYSTEMD"


def test_a_peer_that_talks_nonsense(peer: Peer, manager: systemd.Manager) -> None:
    def nonsense(at: Peer, call: Message) -> None:
        assert at.connection is not None
        at.connection.sendall(b"GET / HTTP/1.1\r\nHost: there\r\n\r\n")

    peer.on("Get", nonsense)
    with pytest.raises(HostError) as caught:
        manager.version()
    assert caught.value.code in ("WHERRY-HOST-SYSTEMD", "WHERRY-DEADLINE")


def test_a_value_of_another_type(manager: systemd.Manager) -> None:
    with pytest.raises(HostError, match="does not fit its type"):
        manager.start("x.scope", [("MemoryMax", "t", "a text")])


def test_nobody_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "_system_addresses", lambda: [(str(tmp_path / "one"), True), (str(tmp_path / "two"), False)])
    with pytest.raises(HostError, match=r"one: no such file or directory; .*two: no such file") as caught:
        systemd.connect(user=False)
    assert caught.value.code == "WHERRY-HOST-SYSTEMD" and "leave --systemd-cgroup out" in (caught.value.remedy or "")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(HostError, match="XDG_RUNTIME_DIR is not set") as caught:
        systemd.connect(user=True)
    assert "loginctl enable-linger" in (caught.value.remedy or "")


def test_addresses_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "tcp:host=a;unix:abstract=/tmp/x,guid=1;unix:path=/a%20b;unix:guid=5")
    assert systemd._user_addresses() == [("/run/user/7/systemd/private", True), (b"\0/tmp/x", False), ("/a b", False), ("/run/user/7/bus", False)]


# ---- the manager


@pytest.mark.parametrize(("text", "version"), [("252.39-1~deb12u1", 252), ("v255.4-1.fc40", 255), ("257", 257), ("", 0)])
def test_versions(peer: Peer, manager: systemd.Manager, text: str, version: int) -> None:
    peer.on("Get", property_value("s", text))
    assert manager.version() == version


@pytest.mark.parametrize("before", [False, True])
def test_a_unit_is_started(peer: Peer, manager: systemd.Manager, before: bool) -> None:
    peer.on("StartTransientUnit", job("done", before))
    manager.start("x.scope", [("PIDs", "au", [5]), ("DeviceAllow", "a(ss)", [["a", "r"]]), ("AllowedCPUs", "ay", [3])])
    (call,) = peer.called("StartTransientUnit")
    assert call[:2] == ("x.scope", "fail") and dict(call[2]) == {"PIDs": ("au", [5]), "DeviceAllow": ("a(ss)", [("a", "r")]), "AllowedCPUs": ("ay", b"\3")}


@pytest.mark.parametrize("result", ["failed", "timeout", "canceled", "dependency"])
def test_a_unit_that_does_not_come_to_be(peer: Peer, manager: systemd.Manager, result: str) -> None:
    peer.on("StartTransientUnit", job(result))
    with pytest.raises(HostError, match=f"could not start x.scope: {result}") as caught:
        manager.start("x.scope", [])
    assert caught.value.code == "WHERRY-HOST-SYSTEMD-UNIT"


def test_a_job_that_never_ends(peer: Peer, manager: systemd.Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "JOB_S", 0.2)
    peer.on("StartTransientUnit", returns("o", JOB))
    with pytest.raises(DeadlineError, match=r"did not start x.scope within 0.2 s"):
        manager.start("x.scope", [])


def test_what_systemd_refuses(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("StartTransientUnit", refuses("BadProperty", "Cannot set property X."))
    with pytest.raises(Refused, match=r"systemd: StartTransientUnit: cannot set property X$") as caught:
        manager.start("x.scope", [])
    assert caught.value.code == "WHERRY-HOST-SYSTEMD"


def test_a_failed_unit_of_that_name_is_forgotten(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("StartTransientUnit", refuses("UnitExists"), job("done"))
    peer.on("GetUnit", returns("o", UNIT))
    peer.on("GetUnit", refuses("NoSuchUnit"))
    peer.on("Get", property_value("s", "failed"))
    manager.start("x.scope", [])
    assert peer.called("ResetFailedUnit") == [("x.scope",)] and len(peer.called("StartTransientUnit")) == 2


def test_a_unit_of_that_name_that_is_going_is_waited_for(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("StartTransientUnit", refuses("UnitExists"), job("done"))
    peer.on("GetUnit", returns("o", UNIT), returns("o", UNIT), refuses("NoSuchUnit"))
    peer.on("Get", property_value("s", "deactivating"))
    manager.start("x.scope", [])
    assert peer.called("ResetFailedUnit") == []


def test_a_dead_unit_that_somebody_holds_is_in_the_way(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("StartTransientUnit", refuses("UnitExists"))
    peer.on("GetUnit", returns("o", UNIT))
    peer.on("Get", property_value("s", "inactive"))
    with pytest.raises(HostError, match="exists already, and is inactive"):
        manager.start("x.scope", [])


def test_a_unit_of_that_name_that_lives_is_anothers(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("StartTransientUnit", refuses("UnitExists"))
    peer.on("GetUnit", returns("o", UNIT))
    peer.on("Get", property_value("s", "active"))
    with pytest.raises(HostError, match="exists already, and is active") as caught:
        manager.start("x.scope", [])
    assert caught.value.code == "WHERRY-HOST-SYSTEMD-UNIT" and len(peer.called("StartTransientUnit")) == 1


def test_a_unit_is_stopped(peer: Peer, manager: systemd.Manager) -> None:
    peer.on("StopUnit", job("done"))
    manager.stop("x.scope")
    assert peer.called("StopUnit") == [("x.scope", "replace")] and peer.called("ResetFailedUnit") == [("x.scope",)]


def test_one_that_is_gone_is_no_error(peer: Peer, manager: systemd.Manager) -> None:
    for member in ("StopUnit", "ResetFailedUnit", "GetUnit"):
        peer.on(member, refuses("NoSuchUnit"))
    manager.stop("x.scope")
    assert manager.state("x.scope") == "" and manager.documentation("x.scope") == []


def test_properties_are_set_until_the_end_of_the_unit(peer: Peer, manager: systemd.Manager) -> None:
    manager.set_properties("x.scope", [("TasksMax", "t", 5)])
    assert peer.called("SetUnitProperties") == [("x.scope", True, [("TasksMax", ("t", 5))])]


def test_a_bus_is_subscribed_to_before_the_job(peer: Peer) -> None:
    peer.on("Hello", returns("s", ":1.5"))
    peer.on("Subscribe", refuses("AlreadySubscribed"))
    peer.on("StopUnit", job("done"))
    with systemd.Manager(Connection(peer.path, direct=False, limit_s=5)) as manager:
        manager.stop("x.scope")
    assert [name for name, _ in peer.calls] == ["Hello", "AddMatch", "Subscribe", "StopUnit", "ResetFailedUnit"]


@pytest.mark.parametrize(
    ("signature", "value", "wanted"),
    [("t", 5, 5), ("ay", [1, 2], b"\1\2"), ("as", ["a"], ["a"]), ("a(ss)", [["a", "b"]], [("a", "b")]), ("(s(st)as)", ["a", ["b", 5], ["c"]], ("a", ("b", 5), ["c"])),
     ("aay", [[1], [2]], [b"\1", b"\2"])],
)  # fmt: skip
def test_shaped(signature: str, value: Any, wanted: Any) -> None:
    assert shaped(signature, value) == wanted


def test_every_call_goes_to_systemd(peer: Peer, manager: systemd.Manager) -> None:
    seen = []

    def look(at: Peer, call: Message) -> None:
        seen.append((call.header.fields[HeaderFields.path], call.header.fields[HeaderFields.destination]))
        property_value("s", "")(at, call)

    peer.on("Get", look)
    assert manager.cgroup() == ""
    assert seen == [("/org/freedesktop/systemd1", "org.freedesktop.systemd1")]
