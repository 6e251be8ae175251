# SPDX-License-Identifier: Apache-2.0
"""When a call that broke off is made again, and how soon."""

import random
import time
from collections.abc import Awaitable, Callable

import grpc

from wherry_shim.client.errors import DeadlineExceeded, ResourceExhausted, Unavailable, of_rpc

FIRST, LONGEST = 0.03, 1.0
NEVER_SENT = "failed to connect"  # grpcio's words: no server has seen the call


class Patience:
    """How long one call, or one stream since it last answered, lets a server be away."""

    def __init__(self, seconds: float, sleep: Callable[[float], Awaitable[None]], deadline: float | None = None) -> None:
        self.seconds, self.sleep, self.deadline = seconds, sleep, deadline
        self.broken = False  # an attempt may have reached a server that said nothing more
        self.progress()

    def progress(self) -> None:
        self.pause, self.until = FIRST, None

    until: float | None

    def left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    async def after(self, error: grpc.RpcError, safe: bool = True) -> None:
        """Waits until it is time for the next attempt; raises where there is none."""
        refusal = of_rpc(error)
        refusal.repeated = self.broken
        unseen = NEVER_SENT in refusal.message
        limited = isinstance(refusal, ResourceExhausted) and refusal.retry_after is not None
        if not limited and (not isinstance(refusal, Unavailable) or not (safe or unseen)):
            raise refusal from error
        if isinstance(refusal, Unavailable) and not unseen:
            self.broken = True
        now = time.monotonic()
        if self.until is None:
            self.until = now + self.seconds
        pause = max(self.pause * random.uniform(0.7, 1.0), min(refusal.retry_after or 0.0, 5.0))
        if self.deadline is not None and now + pause >= self.deadline:
            raise DeadlineExceeded(f"no answer within the time that was given: {refusal.message}", remedy=refusal.remedy) from error
        if now + pause > self.until:
            raise refusal from error
        self.pause = min(self.pause * 2, LONGEST)
        await self.sleep(pause)
