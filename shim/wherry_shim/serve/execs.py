# SPDX-License-Identifier: Apache-2.0
"""Processes that are executed in containers: begun, timed, kept with their output and end until somebody has taken both."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from wherry.container.lifecycle import check_id
from wherry.errors import WherryError
from wherry_shim.errors import ShimError
from wherry_shim.serve import records, refusals
from wherry_shim.serve.managed import SERVER, ExecAsked, Managed, ManagedExec
from wherry_shim.serve.probes import PREFIX
from wherry_shim.serve.records import ExecRecord, Exit

if TYPE_CHECKING:
    from wherry_shim.serve.supervisor import Supervisor

MOST = 512
"""Of one container, those that are kept included."""
KEPT = 64
KEPT_S = 3600
_LONGEST_ID = 100


class Execs:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def get(self, one: Managed, exec_id: str) -> ManagedExec:
        found = one.execs.get(exec_id)
        if found is None:
            raise refusals.no_exec(one.id, exec_id)
        return found

    # ---- begin

    async def start(self, one: Managed, asked: ExecAsked) -> ManagedExec:
        return await self._supervisor.through(self._start(one, asked))

    async def _start(self, one: Managed, asked: ExecAsked) -> ManagedExec:
        id = asked.id or f"x{secrets.token_hex(6)}"
        self._check(one, id)
        kill_at = time.time_ns() + int(asked.timeout * 1e9) if asked.timeout > 0 else 0
        record = ExecRecord(id, asked.args, asked.terminal, asked.stdin, run=one.run.run, kill_at=kill_at)
        run = one.execs[id] = ManagedExec(record, one.place.directory / "execs" / id)
        try:
            run.place.make(asked.terminal)
            if asked.stdin or asked.terminal:
                run.place.make_input()
            run.save()
            await self._call(one, run, asked)
        except (ShimError, OSError, WherryError) as error:
            one.execs.pop(id, None)
            run.place.remove()
            run.change()
            if isinstance(error, OSError):
                raise refusals.of_os_error(error, str(self._supervisor.data)) from error
            if not one.running:  # it has ended meanwhile, and its monitor with it
                raise refusals.wrong_phase("exec in", one.id, one.phase) from error
            raise
        self.arm(one, run)
        return run

    def _check(self, one: Managed, id: str) -> None:
        check_id(id)
        if len(id) > _LONGEST_ID or id.startswith(PREFIX):
            raise refusals.bad("exec_id", f"has more than {_LONGEST_ID} letters, or begins with {PREFIX}", "choose another one")
        if id in one.execs:
            raise refusals.exec_exists(id)
        if not one.running or one.paused:
            raise refusals.wrong_phase("exec in", one.id, one.phase)
        self.forget_old(one)
        if len(one.execs) >= MOST:
            raise refusals.too_many_execs(one.id, MOST)

    async def _call(self, one: Managed, run: ManagedExec, asked: ExecAsked) -> None:
        engine, target = self._supervisor.engine, {"id": one.id, "exec_id": run.id}
        names = run.place.names(asked.terminal, asked.stdin)
        await engine.call("Exec", {**target, **names, "spec": {"value": asked.process}, "adopts": asked.timeout > 0})
        try:
            await engine.call("Start", target)
        except ShimError:
            await self._delete(one.id, run.id)
            raise

    def arm(self, one: Managed, run: ManagedExec) -> None:
        """At kill_at everything that it has started ends with it."""
        if run.record.kill_at and not run.ended:
            seconds = max(0.0, run.record.kill_at / 1e9 - time.time())
            run.timer = asyncio.get_running_loop().call_later(seconds, lambda: self._supervisor.spawn(self._late(one, run)))

    async def _late(self, one: Managed, run: ManagedExec) -> None:
        if not run.ended:
            await self._supervisor.engine.kill_tree(one.id, run.id)

    # ---- heard

    def started(self, one: Managed, exec_id: str, pid: int, at: int = 0) -> None:
        run = one.execs.get(exec_id)
        if run is None:
            return
        run.record.pid, run.record.started, run.record.phase = pid, at or time.time_ns(), records.RUNNING
        added: dict[str, Any] = {"type": "exec-added", "exec_id": run.id}
        self._supervisor.tell_all(one, [added, {**added, "type": "exec-started", "pid": pid}], at, run)

    def ended(self, one: Managed, exec_id: str, exit: Exit) -> None:
        run = one.execs.get(exec_id)
        if run is None or run.ended:
            return
        record = run.record
        exit.started, exit.run = record.started, record.run
        record.phase, record.exit, record.pid = records.ENDED, exit, 0
        if run.timer is not None:
            run.timer.cancel()
        event = {"type": "exec-exit", "exec_id": run.id, "exit": records.to_dict(exit)}
        self._supervisor.tell_all(one, [event], exit.exited, run)
        self._supervisor.spawn(self._release(one, run))

    async def _release(self, one: Managed, run: ManagedExec) -> None:
        """Its output is whole, and the service and the monitor need not remember it."""
        try:
            if run.record.terminal:
                await self._supervisor.engine.drained(one.id, run.id)
        except ShimError:
            pass
        run.drained = True
        run.change()
        await self._delete(one.id, run.id)

    async def _delete(self, id: str, exec_id: str) -> None:
        try:
            await self._supervisor.engine.call("Delete", {"id": id, "exec_id": exec_id})
        except ShimError:
            pass

    # ---- end

    async def kill(self, one: Managed, exec_id: str, signal: int) -> None:
        run = self.get(one, exec_id)
        if run.ended:
            raise refusals.wrong_phase("kill an exec in", one.id, records.STOPPED)
        await self._supervisor.engine.call("Kill", {"id": one.id, "exec_id": exec_id, "signal": signal})

    async def delete(self, one: Managed, exec_id: str) -> Exit | None:
        """Kills it where it runs."""
        run = self.get(one, exec_id)
        while not run.ended and run.id in one.execs:
            await self._supervisor.engine.kill_tree(one.id, exec_id)
            deadline = time.monotonic() + 5
            while not run.ended and run.id in one.execs:
                try:
                    await asyncio.wait_for(run.changed(), deadline - time.monotonic())
                except TimeoutError:
                    raise refusals.does_not_end(f"{one.id}, exec {exec_id},") from None
        await self.let_go(one, run)
        return run.record.exit

    async def let_go(self, one: Managed, run: ManagedExec) -> None:
        """Record and output. One that runs goes with its container."""
        if run.timer is not None:
            run.timer.cancel()
        if run.ended and one.execs.pop(run.id, None) is not None:
            await asyncio.to_thread(run.place.remove)
        run.change()

    def forget_old(self, one: Managed) -> None:
        """Of those that have ended, and that nobody reads: too many, too old."""
        if one.owner != SERVER:
            return
        kept = [run for run in one.execs.values() if run.ended and not run.streams and run.record.exit]
        kept.sort(key=lambda run: run.record.exit.exited if run.record.exit else 0)
        now = time.time_ns()
        for index, run in enumerate(kept):
            if len(kept) - index > KEPT or (run.record.exit and now - run.record.exit.exited > KEPT_S * 1_000_000_000):
                one.execs.pop(run.id, None)
                run.place.remove()
                run.change()
