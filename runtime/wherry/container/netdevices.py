# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: moves network devices of the host into the container's network namespace, addresses kept, and brings them up.

A device that is taken is not given back when the container ends (the specification); when create fails, what was moved is. The
device of the host's default route is refused: a container that takes it cuts its host off.
"""

import os
from typing import Any

from ..errors import ConfigError, HostError
from ..kernel.rtnetlink import Address, Link, Socket


def pointer_of(name: str) -> str:
    return "/linux/netDevices/" + name.replace("~", "~0").replace("/", "~1")


def move_devices(devices: dict[str, dict[str, Any]], pid: int) -> None:
    """Moves all, or none. Raises ConfigError (no such device, name taken, default route) or HostError."""
    namespace_path = f"/proc/{pid}/ns/net"
    namespace = os.open(namespace_path, os.O_RDONLY | os.O_CLOEXEC)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    moved: list[tuple[str, str, Link, list[Address]]] = []
    try:
        with Socket() as host, Socket(namespace_path) as inside:
            found = _look_up(devices, host, inside)
            try:
                for name, wanted, link in found:
                    addresses = host.addresses(link.index)
                    moved.append((name, wanted, link, addresses))
                    _move(host, inside, link, namespace, wanted, addresses, name)
            except BaseException:
                _give_back(host, inside, moved, home)
                raise
    finally:
        os.close(namespace)
        os.close(home)


def _look_up(devices: dict[str, dict[str, Any]], host: Socket, inside: Socket) -> list[tuple[str, str, Link]]:
    """Everything that can be refused is refused before anything moves."""
    found = []
    routes = host.default_routes()
    for name, given in devices.items():
        wanted = (given or {}).get("name") or name
        link = host.link(name)
        if link is None:
            raise ConfigError(f"the host has no network device {name}", code="WHERRY-NETDEVICE", pointer=pointer_of(name))
        if link.index in routes:
            raise ConfigError(
                f"{name} carries the host's default route; the container would cut the host off",
                code="WHERRY-NETDEVICE-DEFAULT-ROUTE",
                pointer=pointer_of(name),
                remedy="give the container another device, or take the default route away first",
            )
        if "%" not in wanted and inside.link(wanted) is not None:
            raise ConfigError(f"the container already has a network device {wanted}", code="WHERRY-NETDEVICE", pointer=pointer_of(name))
        found.append((name, wanted, link))
    return found


def _move(host: Socket, inside: Socket, link: Link, namespace: int, wanted: str, addresses: list[Address], name: str) -> None:
    try:
        host.move(link.index, namespace, wanted)
        arrived = _arrived(inside, link, wanted)
        for address in addresses:
            inside.add_address(arrived, address)
        inside.set_up(arrived)
    except OSError as error:
        raise HostError(
            f"moving network device {name} into the container: {(error.strerror or '').lower()}", code="WHERRY-NETDEVICE", pointer=pointer_of(name)
        ) from error


def _arrived(inside: Socket, link: Link, wanted: str) -> int:
    """Index over there: the same one unless it was taken; a template (%d) is filled in by the kernel, the index then stays."""
    if "%" in wanted:
        return link.index
    found = inside.link(wanted)
    return found.index if found else link.index


def _give_back(host: Socket, inside: Socket, moved: list[tuple[str, str, Link, list[Address]]], home: int) -> None:
    for name, wanted, link, addresses in reversed(moved):
        try:
            index = _arrived(inside, link, wanted)
            inside.move(index, home, name)
            back = host.link(name)
            if back is None:
                continue
            for address in addresses:
                host.add_address(back.index, address)
            host.set_up(back.index, bool(link.flags & 1))
        except OSError:
            continue  # never arrived, or stays where it is: the error that is on its way says so
