# SPDX-License-Identifier: Apache-2.0
"""What a server does before it answers anybody: what another one has left is brought together, in this order.

    1. records            what the last server knew
    2. the event log      what it had said already, a step ahead of its record at most
    3. the service        what is there: monitors and what they hold, records of ends

What nobody has said is said now, once, the ends in the order of their times. Steps that were under way are finished, or undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.container import lifecycle
from wherry.errors import NotFoundError
from wherry_shim import clean, rootfs
from wherry_shim.errors import ShimError
from wherry_shim.serve import probes, records
from wherry_shim.serve.engine import Found, FoundProcess
from wherry_shim.serve.hearing import EXITS_KEPT, LOST
from wherry_shim.serve.managed import TASK, Managed, ManagedExec
from wherry_shim.serve.records import Asked, ExecRecord, Exit, Run

if TYPE_CHECKING:
    from wherry_shim.serve.supervisor import Supervisor

Event = dict[str, Any]
End = tuple[int, Callable[[], None]]

_CREATED, _RUNNING, _STOPPED, _PAUSED = "created", "running", "stopped", "paused"  # of the service


async def recover(supervisor: Supervisor) -> None:
    _read_records(supervisor)
    _read_events(supervisor)
    found = {one.id: one for one in await supervisor.engine.containers()}
    ends: list[End] = []
    for one in list(supervisor.table.values()):
        ends += _compare(supervisor, one, found.pop(one.id, None))
    for left in found.values():
        _not_ours(supervisor, left)
    for _, tell in sorted(ends, key=lambda end: end[0]):
        tell()
    supervisor.hearing.begin()
    await asyncio.gather(*(_go_on(supervisor, one) for one in list(supervisor.table.values())))


# ---- records, events


def _read_records(supervisor: Supervisor) -> None:
    for directory in sorted(supervisor.directory.iterdir()):
        asked = records.read(directory / "container.json", Asked)
        if asked is None or asked.id != directory.name:
            Managed(Asked(directory.name), Run(), directory).place.remove()
            continue
        one = Managed(asked, records.read(directory / "run.json", Run) or Run(sequence=asked.since), directory)
        supervisor.table[one.id] = one
        if asked.step == records.REMOVED:
            one.gone = True
        execs = directory / "execs"
        for place in sorted(execs.iterdir()) if execs.is_dir() else ():
            record = records.read(place / "exec.json", ExecRecord)
            run = ManagedExec(record or ExecRecord(place.name), place)
            if record is None:
                run.place.remove()
            else:
                one.execs[run.id] = run
                run.drained = True
    for one in sorted((one for one in supervisor.table.values() if one.gone), key=lambda one: one.asked.removed):
        del supervisor.table[one.id]
        supervisor.kept.add(one)


def _read_events(supervisor: Supervisor) -> None:
    for event in supervisor.events.recent():
        one = supervisor.table.get(event["id"])
        if one is not None and event["sequence"] > max(one.run.sequence, one.asked.since):
            apply(one, event)
        elif event["type"] == "deleted" and one is None:
            exit = records.from_dict(Exit, event["exit"]) if event.get("exit") else None
            supervisor.remember(event["id"], event["sequence"], exit)


def apply(one: Managed, event: Event) -> None:
    """What this event has said: the record was not written any more."""
    run, type = one.run, event["type"]
    run.sequence = event["sequence"]
    if event.get("exec_id"):
        _apply_exec(one, event)
        return
    if event["run"] > run.run:
        run.run, run.intent, run.oom, run.kill_at = event["run"], "", False, 0
    phases = {"created": records.CREATED, "started": records.RUNNING, "resumed": records.RUNNING, "paused": records.PAUSED, "exit": records.ENDED}
    phases |= {"restarting": records.WAITING, "stopped": records.STOPPED}
    run.phase = phases.get(type, run.phase)
    if type in ("created", "started"):
        run.pid = event["pid"]
    if type == "started":
        run.started, run.step = event["time"], ""
    elif type == "exit":
        run.exits = [records.from_dict(Exit, event["exit"]), *run.exits][:EXITS_KEPT]
        run.pid, run.step = 0, ""
    elif type == "restarting":
        run.restart_at, run.restarts = event["restart_at"], event["restarts"]
    elif type == "oom":
        run.oom = True
    elif type == "health":
        run.health = event["health"]
    elif type == "deleted":
        one.gone = True


def _apply_exec(one: Managed, event: Event) -> None:
    run = one.execs.get(event["exec_id"])
    if run is None:
        return
    if event["type"] == "exec-started":
        run.record.phase, run.record.pid, run.record.started = records.RUNNING, event["pid"], event["time"]
    elif event["type"] == "exec-exit":
        run.record.phase, run.record.exit = records.ENDED, records.from_dict(Exit, event["exit"])


# ---- what is there


def _compare(supervisor: Supervisor, one: Managed, found: Found | None) -> list[End]:
    """What is to be told of it, with the times."""
    run = one.run
    one.gone |= _undone(one)  # nobody is told of the end of what there is of it
    if one.gone:
        return []
    one.asked.step = "" if one.asked.step == records.CREATE else one.asked.step
    run.boot = supervisor.boot  # after a reboot there is none of them: all that ran is lost
    ends = _compare_execs(supervisor, one, found)
    last = max((at for at, _ in ends), default=0)
    if run.step == "remove" or run.phase in (records.ENDED, records.WAITING, records.STOPPED):
        return ends
    if _cut_short(run, found):
        run.phase, run.pid = records.RESTARTING, 0
        return ends
    if found is None:
        return [*ends, *_lost(supervisor, one, last)]
    if run.phase in (records.CREATING, records.RESTARTING) and found.init.status == _CREATED:
        run.pid = found.init.pid
        if run.run == 1:
            supervisor.hearing.heard_now("/tasks/create", one.id, found.init.pid)
        return ends
    return [*ends, *_compare_init(supervisor, one, found.init, last)]


def _undone(one: Managed) -> bool:
    """A create that nobody was told of: its client asks again."""
    return one.asked.step == records.CREATE and one.phase == records.CREATING


def _cut_short(run: Run, found: Found | None) -> bool:
    """A restart before its start: what is there of it has never run, and it is made once more."""
    return run.run > 1 and run.step == "create" and (found is None or found.init.status == _STOPPED)


def _lost(supervisor: Supervisor, one: Managed, last: int) -> list[End]:
    """It ran, and nobody was there to see its end; or it never came to be."""
    at, hearing = max(time.time_ns(), last), supervisor.hearing
    exit = Exit(one.run.run, LOST, 0, one.run.oom, one.run.started, at, "lost")
    begun: list[End] = [(at, lambda: hearing.started(one, 0, at))] if one.run.step == "start" else []
    return [*begun, (at, lambda: hearing.ended(one, exit))]


def _compare_init(supervisor: Supervisor, one: Managed, init: FoundProcess, last: int) -> list[End]:
    run, hearing = one.run, supervisor.hearing
    ends: list[End] = []
    asked_to_start = run.step == "start"
    if run.phase in (records.CREATED, records.RESTARTING) and (init.status in (_RUNNING, _PAUSED) or (init.status == _STOPPED and asked_to_start)):
        at = time.time_ns() if init.status != _STOPPED else init.exited_at
        ends.append((at, lambda: hearing.started(one, init.pid, at)))
    if init.status == _STOPPED:
        at = max(init.exited_at or time.time_ns(), last)
        ends.append((at, lambda: hearing.ended(one, hearing.exit_of(one, "", init.exit_status, at))))
    elif (init.status == _PAUSED) != one.paused and one.running:
        topic = "/tasks/paused" if init.status == _PAUSED else "/tasks/resumed"
        ends.append((time.time_ns(), lambda: hearing.heard_now(topic, one.id, init.pid)))
    return ends


def _compare_execs(supervisor: Supervisor, one: Managed, found: Found | None) -> list[End]:
    there = {process.exec_id: process for process in found.execs} if found else {}
    ends: list[End] = []
    for run in list(one.execs.values()):
        process = there.pop(run.id, None)
        run.drained = run.ended
        if run.ended:
            continue
        if process is None and run.record.phase == records.CREATED:  # never begun, and nobody was told
            one.execs.pop(run.id)
            run.place.remove()
        else:
            ends += _compare_exec(supervisor, one, run, process)
    for exec_id in there:  # probes, and what had ended and was told of
        supervisor.spawn(_drop(supervisor, one.id, exec_id))
    return ends


def _compare_exec(supervisor: Supervisor, one: Managed, run: ManagedExec, process: FoundProcess | None) -> list[End]:
    ends: list[End] = []
    execs = supervisor.execs
    if process is not None and run.record.phase == records.CREATED:
        pid, begun = process.pid, process.exited_at or time.time_ns()
        ends.append((begun, lambda: execs.started(one, run.id, pid, begun)))
    if process is None or process.status == _STOPPED:
        status, at = (process.exit_status, process.exited_at or time.time_ns()) if process else (LOST, time.time_ns())
        ends.append((at, lambda: execs.ended(one, run.id, supervisor.hearing.exit_of(one, run.id, status, at))))
    return ends


async def _drop(supervisor: Supervisor, id: str, exec_id: str) -> None:
    try:
        await supervisor.engine.kill_tree(id, exec_id)
        await asyncio.wait_for(supervisor.engine.call("Wait", {"id": id, "exec_id": exec_id}), 10)
        await supervisor.engine.call("Delete", {"id": id, "exec_id": exec_id})
    except (ShimError, TimeoutError) as error:
        supervisor.log("debug", f"{id}: exec {exec_id}: {error}")


def _not_ours(supervisor: Supervisor, found: Found) -> None:
    """Of a client of the Task service."""
    phases = {_CREATED: records.CREATED, _RUNNING: records.RUNNING, _PAUSED: records.PAUSED}
    run = Run(boot=supervisor.boot, pid=found.init.pid, phase=phases.get(found.init.status, records.STOPPED))
    if found.init.status == _STOPPED:
        run.pid = 0
        run.exits = [Exit(1, found.init.exit_status, exited=found.init.exited_at, reason="exited")]
    asked = Asked(found.id, found.bundle, terminal=found.init.terminal)
    supervisor.table[found.id] = Managed(asked, run, supervisor.directory / found.id, TASK)


# ---- what was under way


async def _go_on(supervisor: Supervisor, one: Managed) -> None:
    try:
        await _finish(supervisor, one)
    except Exception as error:
        supervisor.log("error", f"{type(error).__name__}: {error}", id=one.id)


async def _finish(supervisor: Supervisor, one: Managed) -> None:
    run = one.run
    if one.owner == TASK:
        return
    if _undone(one):
        async with one.turn:
            await asyncio.to_thread(_clear, supervisor, one)
            await supervisor.undo_create(one)
    elif one.gone:
        await _sweep(supervisor, one)
    elif one.asked.step == records.DELETE:
        async with one.turn:
            await supervisor.finish_delete(one)
    elif run.step == "remove":
        supervisor.spawn(_again(supervisor, one))
    elif run.phase == records.RESTARTING or (run.phase == records.CREATED and run.step and run.run > 1):
        supervisor.spawn(_start_again(supervisor, one))
    else:
        _arm(supervisor, one)


async def _sweep(supervisor: Supervisor, one: Managed) -> None:
    """It was told that it is deleted; what was left of its files goes."""
    supervisor.table.pop(one.id, None)
    supervisor.remember(one.id, one.run.sequence, one.run.exit)
    await supervisor.put_away(one)


async def _again(supervisor: Supervisor, one: Managed) -> None:
    async with one.turn:
        await supervisor.run_again(one)


async def _start_again(supervisor: Supervisor, one: Managed) -> None:
    """The new run was being made: what is there of it waits for its start, or nothing is there."""
    async with one.turn:
        if not one.run.pid:
            await supervisor.remove_from_host(one)
            await asyncio.to_thread(_clear, supervisor, one)
            await supervisor.create_again(one)
        elif one.asked.desired == records.RUNNING:
            one.run.phase = records.CREATED
            await supervisor.call_start(one)
        else:
            await supervisor.end_now(one)


def _clear(supervisor: Supervisor, one: Managed) -> None:
    """A monitor may still be undoing what the last server had begun: until it has gone the bundle is not free."""
    root = supervisor.engine.directory("")
    bundle = one.asked.bundle
    if not bundle or clean.marker_of(bundle).get("root") != root:
        return
    clean.end_monitor(bundle, one.id)
    try:
        lifecycle.delete(root, one.id, force=True)
    except NotFoundError:
        pass
    if one.asked.mounts:
        rootfs.unmount_all(f"{bundle}/rootfs")
    Path(bundle, clean.MARKER).unlink(missing_ok=True)


def _arm(supervisor: Supervisor, one: Managed) -> None:
    """Timers and probes; and what had ended without a decision."""
    if one.phase == records.ENDED:
        supervisor.hearing.settle(one)
    elif one.phase == records.WAITING:
        supervisor.arm_restart(one)
    elif one.phase == records.STOPPED and one.asked.auto_remove and one.asked.desired != records.CREATED:
        supervisor.spawn(supervisor.auto_remove(one))
    elif one.phase in (records.CREATED, records.RUNNING, records.PAUSED):
        if one.asked.desired == records.STOPPED and one.run.kill_at:
            supervisor.arm_killer(one)
        elif one.run.intent == probes.UNHEALTHY or (one.asked.desired == records.STOPPED):
            one.run.kill_at = time.time_ns()
            supervisor.arm_killer(one)
        supervisor.hearing.begin_probe(one)
    for run in one.execs.values():
        supervisor.execs.arm(one, run)
