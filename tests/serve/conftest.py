# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the server's tests: each has a server of its own, in a process of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.census import Census

from .driver import Server


@pytest.fixture
def make_server(place: Path, session_directory: Path) -> Iterator[Callable[..., Server]]:
    """Servers that are not started yet; the first one has the place, others a place below it. What the test leaves behind fails it."""
    census = Census(f"{session_directory.name}-{place.name}", [place / "r/default"])
    servers: list[Server] = []

    def make(*options: str) -> Server:
        where = place / str(len(servers)) if servers else place
        where.mkdir(exist_ok=True)
        servers.append(Server(where, *options))
        return servers[-1]

    yield make
    for server in servers:
        server.clean_up()
    left = census.leftovers()
    assert not left, f"left behind: {left}"


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """One that serves."""
    return make_server().start()
