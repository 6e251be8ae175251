# SPDX-License-Identifier: Apache-2.0
"""Whether a container that has ended is started again, and when: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

from wherry_shim.serve.records import ALWAYS, NO, RUNNING, Exit, Policy

_SECOND = 1_000_000_000
_MOST_DOUBLINGS = 62


@dataclass(frozen=True)
class Decision:
    """`at`: nanoseconds since 1970. restarts: in a row, this one included."""

    again: bool
    at: int = 0
    restarts: int = 0


def decide(policy: Policy, desired: str, end: Exit, restarts: int) -> Decision:
    """restarts: in a row before the run that has ended."""
    if desired != RUNNING or end.reason == "stopped" or policy.when == NO:
        return Decision(False, restarts=restarts)
    if policy.when != ALWAYS and not failed(end):
        return Decision(False, restarts=restarts)
    if end.started and end.exited - end.started >= policy.reset_after * _SECOND:
        restarts = 0
    if policy.limit and restarts >= policy.limit:
        return Decision(False, restarts=restarts)
    return Decision(True, end.exited + int(delay(policy, restarts) * _SECOND), restarts + 1)


def failed(end: Exit) -> bool:
    return end.status != 0 or end.reason in ("oom", "unhealthy", "lost")


def delay(policy: Policy, restarts: int) -> float:
    """Before the restart that follows so many others."""
    return min(policy.backoff * float(1 << min(restarts, _MOST_DOUBLINGS)), policy.backoff_limit)
