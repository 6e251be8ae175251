# SPDX-License-Identifier: Apache-2.0
"""systemd's manager, of the system or of a user: makes units, changes them, ends them. The calls that write; what to say is wherry.cgroup.units.

A direct connection needs no bus, and so works before there is one and after it has gone; where systemd does not take us directly (an ordinary
user at the system's manager) the bus is asked. org.freedesktop.systemd1(5).
"""

import os
import time

from wherry.errors import DeadlineError, HostError

try:
    from wherry.cgroup.dbus import Connection, Refused, shaped
except ModuleNotFoundError as error:
    raise HostError(
        f"the cgroup manager systemd needs the Python package {error.name}",
        code="WHERRY-HOST-SYSTEMD",
        remedy="pip install jeepney (Debian: python3-jeepney), or use the cgroup manager cgroupfs",
    ) from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cgroup.units import Property

JOB_S = 30.0
"""How long systemd may take for a job, after it has answered."""

CODE = "WHERRY-HOST-SYSTEMD"
_DESTINATION = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = f"{_DESTINATION}.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_MATCH = f"type='signal',sender='{_DESTINATION}',interface='{_MANAGER}',member='JobRemoved'"


class Manager:
    """To be closed. Errors: HostError (WHERRY-HOST-SYSTEMD), DeadlineError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _call(self, member: str, signature: "str | None" = None, *body: "Any") -> "Any":
        return self._connection.call(_PATH, _DESTINATION, _MANAGER, member, signature, body)

    def _get(self, path: str, interface: str, name: str) -> "Any":
        return self._connection.call(path, _DESTINATION, _PROPERTIES, "Get", "ss", (f"{_DESTINATION}.{interface}", name))[0][1]

    # ---- itself

    def version(self) -> int:
        """252 of "252.39-1~deb12u1", 255 of "v255.4"."""
        text = str(self._get(_PATH, "Manager", "Version")).lstrip("v")
        digits = text[: len(text) - len(text.lstrip("0123456789"))]
        return int(digits or 0)

    def cgroup(self) -> str:
        """Below which its units are: "" for the whole tree, /user.slice/user-1000.slice/user@1000.service."""
        return str(self._get(_PATH, "Manager", "ControlGroup")).rstrip("/")

    # ---- units

    def start(self, name: str, properties: "list[Property]") -> None:
        """Makes a unit of this moment and waits until it is there. A dead one of the same name is forgotten first."""
        given = [(key, (signature, shaped(signature, value))) for key, signature, value in properties]
        self._listen()
        try:
            job = self._start(name, given)
        except Refused as error:
            if not error.name.endswith(".UnitExists"):
                raise
            self._forget(name)
            job = self._start(name, given)
        self._await(job, name, "start")

    def _start(self, name: str, properties: "list[Any]") -> str:
        return str(self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", properties, [])[0])

    def _forget(self, name: str) -> None:
        """It has failed, or is just going; where it lives it is somebody else's."""
        deadline = time.monotonic() + self._connection.limit_s
        while state := self.state(name):
            if state == "failed":
                self.reset(name)
            elif state not in ("inactive", "deactivating") or time.monotonic() > deadline:
                raise HostError(
                    f"the unit {name} exists already, and is {state}",
                    code="WHERRY-HOST-SYSTEMD-UNIT",
                    remedy=f"systemctl stop {name}, or choose another id or linux.cgroupsPath",
                    unit=name,
                )
            time.sleep(0.005)

    def state(self, name: str) -> str:
        """active, deactivating, failed ...; "" = there is no such unit."""
        try:
            return str(self._get(self._unit(name), "Unit", "ActiveState"))
        except Refused as error:
            if error.name.endswith((".NoSuchUnit", ".UnknownObject")):
                return ""
            raise

    def documentation(self, name: str) -> "list[str]":
        """By which we know a unit of ours."""
        try:
            return [str(text) for text in self._get(self._unit(name), "Unit", "Documentation")]
        except Refused as error:
            if error.name.endswith((".NoSuchUnit", ".UnknownObject")):
                return []
            raise

    def _unit(self, name: str) -> str:
        """GetUnit loads nothing: a unit that is not there stays away."""
        return str(self._call("GetUnit", "s", name)[0])

    def set_properties(self, name: str, properties: "list[Property]") -> None:
        """Until the end of the unit."""
        given = [(key, (signature, shaped(signature, value))) for key, signature, value in properties]
        self._call("SetUnitProperties", "sba(sv)", name, True, given)

    def stop(self, name: str) -> None:
        """And forgets it; none is there is no error."""
        self._listen()
        try:
            job = str(self._call("StopUnit", "ss", name, "replace")[0])
        except Refused as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise
        else:
            self._await(job, name, "stop")
        self.reset(name)

    def reset(self, name: str) -> None:
        try:
            self._call("ResetFailedUnit", "s", name)
        except Refused as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise

    # ---- jobs

    def _listen(self) -> None:
        """A direct peer hears all. Before the job, so that its end is not missed."""
        if not self._connection.direct:
            bus = "org.freedesktop.DBus"
            self._connection.call("/org/freedesktop/DBus", bus, bus, "AddMatch", "s", (_MATCH,))
            try:
                self._call("Subscribe")
            except Refused as error:
                if not error.name.endswith(".AlreadySubscribed"):
                    raise

    def _await(self, job: str, name: str, verb: str) -> None:
        deadline = time.monotonic() + JOB_S
        while True:
            try:
                removed = self._connection.signal("JobRemoved", deadline)
            except DeadlineError:
                raise DeadlineError(f"systemd did not {verb} {name} within {JOB_S:g} s", remedy=f"systemctl status {name}", unit=name) from None
            if len(removed) == 4 and removed[1] == job:
                break
        if removed[3] != "done":
            raise HostError(
                f"systemd could not {verb} {name}: {removed[3]}", code="WHERRY-HOST-SYSTEMD-UNIT", remedy=f"journalctl -u {name} says why", unit=name
            )


def connect(user: bool) -> Manager:
    """The manager of the system, or of the user that we are."""
    refused: "list[str]" = []
    for address, direct in _user_addresses() if user else _system_addresses():
        try:
            return Manager(Connection(address, direct))
        except OSError as error:
            name = address.decode("utf-8", "replace") if isinstance(address, bytes) else address
            refused.append(f"{name}: {(error.strerror or str(error)).lower()}")
    raise _absent(user, refused)


def _absent(user: bool, refused: "list[str]") -> HostError:
    why = "; ".join(refused)
    if user:
        uid = os.getuid()
        return HostError(
            f"no systemd of the user can be asked for a cgroup: {why or 'XDG_RUNTIME_DIR is not set'}",
            code=CODE,
            remedy=f"as root: loginctl enable-linger {uid}, then here: export XDG_RUNTIME_DIR=/run/user/{uid}; or leave --systemd-cgroup out",
        )
    running = os.path.isdir("/run/systemd/system")
    return HostError(
        f"systemd {'cannot be asked' if running else 'is not running here, and cannot be asked'} for a cgroup: {why}",
        code=CODE,
        remedy="use the cgroup manager cgroupfs: leave --systemd-cgroup out",
    )


def _system_addresses() -> "list[tuple[str | bytes, bool]]":
    return [("/run/systemd/private", True), ("/run/dbus/system_bus_socket", False)]


def _user_addresses() -> "list[tuple[str | bytes, bool]]":
    found: "list[tuple[str | bytes, bool]]" = []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        found.append((f"{runtime}/systemd/private", True))
    for part in os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").split(";"):
        address = _unix_address(part)
        if address:
            found.append((address, False))
    if runtime and (f"{runtime}/bus", False) not in found:
        found.append((f"{runtime}/bus", False))
    return found


def _unix_address(text: str) -> "str | bytes | None":
    """unix:path=/run/user/1000/bus,guid=..., unix:abstract=...; other transports are nobody's session bus."""
    from urllib.parse import unquote

    kind, _, rest = text.partition(":")
    if kind != "unix":
        return None
    values = dict(pair.partition("=")[::2] for pair in rest.split(","))
    if "path" in values:
        return unquote(values["path"])
    return b"\0" + unquote(values["abstract"]).encode() if "abstract" in values else None


def facts(user: bool) -> "dict[str, Any]":
    """What the compiler of plans has to know of it, for HostFacts.systemd."""
    with connect(user) as manager:
        return {"version": manager.version(), "user": user, "cgroup": manager.cgroup(), "controllers": None}
