# SPDX-License-Identifier: Apache-2.0
"""A supervisor in an event loop: a service that fails is made anew, until it ends well. Needs root.

Prints:
    attempt 1: status 1
    attempt 2: status 1
    attempt 3: status 0
"""

import asyncio
import os
import sys

from wherry import Config, aio

ROOT = os.environ.get("WHERRY_ROOT")


async def attempt(number: int) -> int | None:
    config = Config.sandbox(sys.argv[1], ["sh", "-c", "sleep 0.1; [ $ATTEMPT -ge 3 ]"]).env(ATTEMPT=str(number))
    async with await aio.Container.create(config, f"service-{os.getpid()}", ROOT) as service:
        await service.start()
        return await service.wait(timeout=30)


async def main() -> None:
    for number in range(1, 10):
        code = await attempt(number)
        print(f"attempt {number}: status {code}")
        if code == 0:
            break


asyncio.run(main())
