# SPDX-License-Identifier: Apache-2.0
"""What one client may take of the server, and all of them together: calls and streams at a time, calls a second. Who wants more is told when to come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from grpc import StatusCode

from wherry_shim.serve.errors import Refusal


@dataclass(frozen=True)
class Limits:
    """`rate`: calls a second of one client in the long run; `burst`: at once. A stream (and Wait) is one of `streams`, everything else one of `calls`."""

    message: int = 4 << 20
    connections: int = 1024
    connections_each: int = 256
    calls: int = 512
    calls_each: int = 128
    streams: int = 8192
    streams_each: int = 4096
    rate: float = 1000.0
    burst: float = 2000.0
    seconds: float = 300.0
    """Of a call whose client gives no deadline, or a later one."""


@dataclass
class Share:
    """What one client has at the moment. `tokens`: calls that it may make at once."""

    tokens: float
    at: float
    calls: int = 0
    streams: int = 0


_FORGET = 1024


@dataclass
class Bounds:
    limits: Limits
    calls: int = 0
    streams: int = 0
    shares: dict[str, Share] = field(default_factory=dict)

    def enter(self, key: str, stream: bool) -> None:
        """Refuses, or counts until leave()."""
        limits, share = self.limits, self._share(key)
        if share.tokens < 1:
            seconds = (1 - share.tokens) / limits.rate
            raise self._refusal("RATE", f"more than {limits.rate:g} calls a second", seconds)
        share.tokens -= 1
        if stream:
            if share.streams >= limits.streams_each or self.streams >= limits.streams:
                raise self._refusal("STREAMS", f"{share.streams} streams of this client, {self.streams} of all", 1.0)
            share.streams += 1
            self.streams += 1
        else:
            if share.calls >= limits.calls_each or self.calls >= limits.calls:
                raise self._refusal("CALLS", f"{share.calls} calls of this client are under way, {self.calls} of all", 0.1)
            share.calls += 1
            self.calls += 1

    def leave(self, key: str, stream: bool) -> None:
        share = self.shares[key]
        if stream:
            share.streams -= 1
            self.streams -= 1
        else:
            share.calls -= 1
            self.calls -= 1

    def size(self, size: int) -> None:
        if size > self.limits.message:
            raise Refusal(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the request has {size} bytes, more than {self.limits.message}",
                "WHERRY-SHIM-SIZE",
                remedy="give a bundle in the place of what it holds, or start the server with a larger --max-message",
            )

    def _share(self, key: str) -> Share:
        limits, now = self.limits, monotonic()
        share = self.shares.get(key)
        if share is None:
            if len(self.shares) >= _FORGET:
                self.shares = {key: share for key, share in self.shares.items() if share.calls or share.streams}
            share = self.shares[key] = Share(limits.burst, now)
        share.tokens, share.at = min(limits.burst, share.tokens + (now - share.at) * limits.rate), now
        return share

    def _refusal(self, name: str, text: str, retry: float) -> Refusal:
        reasons = {"RATE": "WHERRY-SHIM-RATE", "STREAMS": "WHERRY-SHIM-STREAMS", "CALLS": "WHERRY-SHIM-CALLS"}
        return Refusal(StatusCode.RESOURCE_EXHAUSTED, text, reasons[name], remedy="come back a little later", retry=retry)
