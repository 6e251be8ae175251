# SPDX-License-Identifier: Apache-2.0
"""Twenty sandboxes at a time in one event loop; none of them costs a thread while it runs.

Prints:
    20 of 20 well, their answers add up to 380
"""

import asyncio
import os
import sys

from wherry import aio


async def main() -> None:
    box = aio.Sandbox(sys.argv[1], timeout=30, allow_missing={"memory", "pids", "cpu"}, root=os.environ.get("WHERRY_ROOT"))
    results = await asyncio.gather(*(box.run(["sh", "-c", f"sleep 0.2; echo $(({number} * 2))"]) for number in range(20)))
    print(f"{sum(result.ok for result in results)} of 20 well, their answers add up to {sum(int(result.text) for result in results)}")


asyncio.run(main())
