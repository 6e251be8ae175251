# SPDX-License-Identifier: Apache-2.0
"""Health probes: what each result makes of a container (pure), and the task that executes them, one after the other, as long as a run lasts."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry_shim.errors import ShimError
from wherry_shim.serve.records import Probe

if TYPE_CHECKING:
    from wherry_shim.serve.managed import Managed
    from wherry_shim.serve.supervisor import Supervisor

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
PREFIX = "wherry.probe."
"""Of the exec ids of probes: they have no events, and stand in no list."""

_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Health:
    state: str = STARTING
    failures: int = 0


def judge(probe: Probe, before: Health, ok: bool, seconds: float) -> Health:
    """seconds: since the start of the run."""
    if ok:
        return Health(HEALTHY, 0)
    if before.state != HEALTHY and seconds < probe.start_period:
        return before
    failures = before.failures + 1
    return Health(UNHEALTHY if failures >= max(probe.retries, 1) else before.state, failures)


async def watch(supervisor: Supervisor, one: Managed) -> None:
    """To the end of the run. What the last server knew is gone on with."""
    number = 0
    while True:
        await asyncio.sleep(max(one.asked.probe.interval, 0.05))
        if one.paused:
            continue
        number += 1
        try:
            ok = await _execute(supervisor, one, f"{PREFIX}{one.run.run}.{number}.{time.time_ns() // 1000:x}")
        except ShimError as error:  # it cannot be executed: the program's file is not there, or no memory
            supervisor.log("debug", f"{one.id}: probe: {error}")
            ok = False
        if not one.running:
            return
        seconds = (time.time_ns() - one.run.started) / _SECOND
        supervisor.healthy(one, judge(one.asked.probe, Health(one.run.health, one.run.failures), ok, seconds))


async def _execute(supervisor: Supervisor, one: Managed, exec_id: str) -> bool:
    """Whether it has ended with 0 in its time."""
    engine, target = supervisor.engine, {"id": one.id, "exec_id": exec_id}
    await engine.call("Exec", {**target, "spec": {"value": one.process(one.asked.probe.args)}})
    try:
        await engine.call("Start", target)
        end = await asyncio.wait_for(engine.call("Wait", target), one.asked.probe.timeout)
        return bool(end["exit_status"] == 0)
    except TimeoutError:
        return False
    finally:
        await asyncio.shield(supervisor.spawn(_take_away(supervisor, one.id, exec_id)))


async def _take_away(supervisor: Supervisor, id: str, exec_id: str) -> None:
    target = {"id": id, "exec_id": exec_id}
    for _ in range(3):
        try:
            state = await supervisor.engine.call("State", target)
            if state["status"] == 2:
                await supervisor.engine.kill_tree(id, exec_id)
                await asyncio.wait_for(supervisor.engine.call("Wait", target), 10)
            await supervisor.engine.call("Delete", target)
            return
        except (ShimError, TimeoutError):  # the container went meanwhile, or it ended between two calls
            await asyncio.sleep(0.01)
