# SPDX-License-Identifier: Apache-2.0
"""Who calls, and what they may: a user of this host by the kernel's word (SO_PEERCRED), or a certificate that the --tls-client-ca has signed.

    Roles(["1000=run", "monitoring.example=read"], admins)

A key of digits is a uid; anything else is a name in the certificate, its common name or an alternative one. Who is nobody here may ask for health only.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from grpc import StatusCode

from wherry_shim.serve.errors import Refusal


class Role(enum.IntEnum):
    """Each may what those before it may."""

    NOBODY = 0
    READ = 1
    RUN = 2
    ADMIN = 3


@dataclass(frozen=True)
class Identity:
    """`name` is for people; `key` is what bounds are counted by."""

    name: str
    key: str
    role: Role
    uid: int = -1
    pid: int = 0


NOBODY = Identity("nobody", "nobody", Role.NOBODY)
_current: ContextVar[Identity] = ContextVar("identity", default=NOBODY)


def of(context: object) -> Identity:
    """Of the call that is under way; `context` is its ServicerContext."""
    return _current.get()


def enter(identity: Identity) -> None:
    _current.set(identity)


class Roles:
    def __init__(self, allowed: Iterable[str], admins: Iterable[int] = ()) -> None:
        """`allowed` as on the command line; ValueError says what is wrong with it. `admins`: uids that are admin where nothing else is said."""
        self.uids: dict[int, Role] = dict.fromkeys(admins, Role.ADMIN)
        self.names: dict[str, Role] = {}
        for text in allowed:
            key, role = parsed(text)
            if key.isdecimal():
                self.uids[int(key)] = role
            else:
                self.names[key] = role

    def of_user(self, uid: int, pid: int) -> Identity:
        return Identity(f"uid {uid} pid {pid}", f"uid {uid}", self.uids.get(uid, Role.NOBODY), uid, pid)

    def of_certificate(self, fields: Mapping[str, Iterable[bytes]]) -> Identity:
        """`fields`: as grpcio tells them of a connection."""
        common = [_text(name) for name in fields.get("x509_common_name", ())]
        others = [_text(name) for name in fields.get("x509_subject_alternative_name", ())]
        known = [(self.names.get(name, Role.NOBODY), name) for name in (*common, *others)]
        if not known:
            return Identity("a certificate without a name", "certificate", Role.NOBODY)
        role = max(role for role, _ in known)
        name = next(name for found, name in known if found == role)
        return Identity(f"certificate {name}", f"certificate {name}", role)


def parsed(text: str) -> tuple[str, Role]:
    key, separator, word = text.rpartition("=")
    if not separator or not key or word not in ("read", "run", "admin"):
        raise ValueError(f"{text!r} is not UID=ROLE or NAME=ROLE, with one of the roles read, run, admin")
    return key, Role[word.upper()]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def check(identity: Identity, needed: Role, method: str) -> None:
    if identity.role >= needed:
        return
    key = identity.uid if identity.uid >= 0 else identity.key.removeprefix("certificate ")
    raise Refusal(
        StatusCode.PERMISSION_DENIED,
        f"{method.rpartition('/')[2]} needs the role {needed.name.lower()}; {identity.name} has {identity.role.name.lower()}",
        "WHERRY-SHIM-ROLE",
        remedy=f"start the server with --allow {key}={needed.name.lower()}",
    )
