# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio.

    async with aio.Client() as client:
        async with client.subscribe() as events:
            await client.create("web", bundle="/srv/web", start=True)
            async for event in events:
                print(event.type, event.id)

Streams and sessions are iterated over with `async for`, and closed by `async with` or close(). They and all calls go on over the death of a server,
for `patience` seconds.
"""

import asyncio
from typing import Self

from wherry_shim.client.calls import Calls
from wherry_shim.client.session import Session
from wherry_shim.client.transport import Asynchronous, Metadata, Place
from wherry_shim.client.types import TLS, Channel, Completed

__all__ = ["Client", "communicate"]


class Client(Calls):
    """Asks the server at `address`, by default at $WHERRY_SHIM_ADDRESS or where one listens by default.

    `metadata`: asked for what goes with each call, such as traceparent.
    """

    def __init__(
        self, address: str | None = None, *, tls: TLS | None = None, timeout: float = 30.0, patience: float = 30.0, metadata: Metadata | None = None
    ) -> None:
        place = Place(address, tls, metadata)
        self.address = place.address
        super().__init__(Asynchronous(place), timeout, patience)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


async def communicate(session: Session, input: bytes = b"") -> Completed:
    """Writes the input, closes it, reads all output, which is kept in memory, and waits for the end."""

    async def write() -> None:
        try:
            await session.write(input)
            await session.close_stdin()
        except BrokenPipeError:
            pass  # it did not want to read all

    await session.open()
    writing = asyncio.create_task(write())
    try:
        kept = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        async for output in session:
            kept[output.channel] += output.data
        ended = await session.wait()
    finally:
        writing.cancel()
    return Completed(ended, bytes(kept[Channel.STDOUT]), bytes(kept[Channel.STDERR]))
