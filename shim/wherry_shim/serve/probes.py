# SPDX-License-Identifier: Apache-2.0
"""Health probes: what each result makes of a container (pure), and the task that executes them, one after the other, as long as a run lasts."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import WherryError
from wherry_shim.errors import ShimError
from wherry_shim.serve.records import Probe, Probed

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
        number, began = number + 1, time.time_ns()
        try:
            status, error = await _execute(supervisor, one, f"{PREFIX}{one.run.run}.{number}.{time.time_ns() // 1000:x}"), ""
        except TimeoutError:
            status, error = 0, f"it took longer than {one.asked.probe.timeout:g} s, and was killed"
        except (ShimError, WherryError, OSError) as failure:  # its program's file is not there, the bundle has gone, no memory
            supervisor.log("debug", f"{one.id}: probe: {failure}")
            status, error = 0, str(failure)[:1000]
        ended = time.time_ns()
        one.run.probed = Probed(began, (ended - began) / _SECOND, status, error)
        if not one.running:
            return
        seconds = (time.time_ns() - one.run.started) / _SECOND
        supervisor.healthy(one, judge(one.asked.probe, Health(one.run.health, one.run.failures), not status and not error, seconds))


async def _execute(supervisor: Supervisor, one: Managed, exec_id: str) -> int:
    """Its exit status. Where it takes too long, it is killed with all that it has started."""
    engine, target = supervisor.engine, {"id": one.id, "exec_id": exec_id}
    await engine.call("Exec", {**target, "spec": {"value": one.process(one.asked.probe.args)}, "adopts": True})
    try:
        await engine.call("Start", target)
        end = await asyncio.wait_for(engine.call("Wait", target), one.asked.probe.timeout)
        return int(end["exit_status"])
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
