# SPDX-License-Identifier: Apache-2.0
"""W3C trace context: a client's traceparent goes on in our log, audit, events and answers, with a span of our own. No tracing library is needed for that."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

KEY = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_current: ContextVar[str] = ContextVar("traceparent", default="")
_given: ContextVar[bool] = ContextVar("traceparent-given", default=False)


def current() -> str:
    """The traceparent of the call that is under way, "" outside of one."""
    return _current.get()


def given() -> str:
    """The same, where the client has begun the trace; else ""."""
    return _current.get() if _given.get() else ""


def enter(given: str) -> str:
    """From now on in this task. What is not well-formed is as if nothing had been given: then the trace begins here, and is not sampled."""
    found = _FORM.fullmatch(given)
    span = secrets.token_hex(8)
    good = found is not None and found[1] != "ff" and not (found[1] == "00" and found[5]) and int(found[2], 16) and int(found[3], 16)
    here = f"00-{found[2]}-{span}-{found[4]}" if found is not None and good else f"00-{secrets.token_hex(16)}-{span}-00"
    _current.set(here)
    _given.set(bool(good))
    return here
