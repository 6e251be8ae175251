# SPDX-License-Identifier: Apache-2.0
"""What the service says becomes the state of a container: the phase first, then event and record, then who waits. One short step each, without an
await: a server that is
killed can have left one of them half done, which the next one sees in the event log (recovery.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wherry.errors import WherryError
from wherry_shim.clean import read_record
from wherry_shim.errors import NOT_FOUND, ShimError
from wherry_shim.serve import probes, records
from wherry_shim.serve.engine import SNAPSHOT
from wherry_shim.serve.managed import SERVER, TASK, Managed
from wherry_shim.serve.records import Asked, Exit, Run
from wherry_shim.serve.restart import decide

if TYPE_CHECKING:
    from wherry_shim.serve.supervisor import Supervisor

Message = dict[str, Any]

EXITS_KEPT = 8
LOST = 255
_SIGKILL = 9
_STOPPED = 3
"""Of containerd.v1.types.Status."""


class Hearing:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._early: list[tuple[str, Message]] | None = []
        """Before the recovery is over nothing new is heard."""
        self._topics: dict[str, Callable[[Managed, Message], None]] = {
            "/tasks/create": self._created,
            "/tasks/start": self._started,
            "/tasks/exit": self._exited,
            "/tasks/oom": self._oom,
            "/tasks/paused": lambda one, event: self._frozen(one, records.PAUSED),
            "/tasks/resumed": lambda one, event: self._frozen(one, records.RUNNING),
            "/tasks/delete": self._deleted,
            "/tasks/exec-started": self._exec_started,
        }

    def begin(self) -> None:
        early, self._early = self._early or [], None
        for topic, event in early:
            self.heard(topic, event)

    def heard(self, topic: str, event: Message) -> None:
        if topic == SNAPSHOT:
            self._early = [] if self._early is not None else None  # what was said so far is in what the service tells of its containers
            return
        if self._early is not None:
            self._early.append((topic, event))
            return
        one = self._supervisor.table.get(event["container_id"])
        if one is None and topic == "/tasks/create":
            one = self._of_task(event)
        act = self._topics.get(topic)
        if one is not None and act is not None and not one.gone:
            act(one, event)

    def heard_now(self, topic: str, id: str, pid: int) -> None:
        """What nobody has said at its time."""
        self._topics[topic](self._supervisor.table[id], {"container_id": id, "id": id, "pid": pid})

    def _of_task(self, event: Message) -> Managed:
        """A client of containerd.task.v3.Task has made it."""
        supervisor, id = self._supervisor, event["container_id"]
        asked = Asked(id, event.get("bundle") or "", terminal=bool(event["io"]["terminal"]), created=time.time_ns())
        one = supervisor.table[id] = Managed(asked, Run(boot=supervisor.boot), supervisor.directory / id, TASK)
        return one

    # ---- the first process

    def _created(self, one: Managed, event: Message) -> None:
        one.run.pid, one.run.phase = event["pid"], records.CREATED
        if one.run.run == 1 or one.owner != SERVER:
            self._supervisor.tell(one, "created", pid=one.run.pid)
        else:  # of a restart nobody is told but of the start
            one.save()

    def _started(self, one: Managed, event: Message) -> None:
        self.started(one, event["pid"], one.asked_at or time.time_ns())

    def started(self, one: Managed, pid: int, at: int) -> None:
        run = one.run
        run.pid, run.started, run.phase, run.step = pid, at, records.RUNNING, ""
        run.health, run.failures = probes.STARTING if one.asked.probe.args else "", 0
        self._supervisor.tell(one, "started", at, pid=pid)
        one.begun = replace(run)
        self.begin_probe(one)

    def begin_probe(self, one: Managed) -> None:
        one.end_probe()
        if one.running and one.asked.probe.args:
            one.run.health = one.run.health or probes.STARTING
            one.probe = self._supervisor.spawn(probes.watch(self._supervisor, one))

    def _frozen(self, one: Managed, phase: str) -> None:
        if one.running:
            one.run.phase = phase
            self._supervisor.tell(one, "paused" if phase == records.PAUSED else "resumed")

    def _oom(self, one: Managed, event: Message) -> None:
        if not one.run.oom:
            one.run.oom = True
            self._supervisor.tell(one, "oom")

    def _exited(self, one: Managed, event: Message) -> None:
        if event["id"] != one.id:
            self._supervisor.execs.ended(one, event["id"], self.exit_of(one, event["id"], event["exit_status"], nanoseconds(event["exited_at"])))
        elif not (one.phase in (records.ENDED, records.WAITING, records.STOPPED) or one.run.step == "remove"):  # else it was told at the recovery
            self.ended(one, self.exit_of(one, "", event["exit_status"], nanoseconds(event["exited_at"])))

    async def look_again(self, one: Managed) -> None:
        """Whether it has ended without a word: what waits for the word alone would wait for ever."""
        try:
            state = await self._supervisor.engine.call("State", {"id": one.id})
        except ShimError as error:
            if error.code != NOT_FOUND:
                return
            state = {"status": _STOPPED, "exit_status": LOST, "exited_at": {"seconds": 0, "nanos": 0}}
        if state["status"] == _STOPPED and one.running:
            self._supervisor.log("warning", "it has ended, and nobody has said so", id=one.id)
            self.ended(one, self.exit_of(one, "", state["exit_status"], nanoseconds(state["exited_at"]) or time.time_ns()))

    def exit_of(self, one: Managed, exec_id: str, status: int, at: int) -> Exit:
        """As the monitor has written it down; where it could not, as the service says."""
        record = self._record(one.id, f"exit-{exec_id}" if exec_id else "exit")
        signal = int(record.get("signal") or 0) if record else status - 128 if 128 < status <= 128 + 64 else 0
        exit = Exit(one.run.run, status, signal, exited=at, started=one.run.started)
        if exec_id:
            exit.reason = "signal" if signal else "exited" if record or status != LOST else "lost"
            return exit
        exit.oom = one.run.oom or bool(record.get("oom"))
        exit.reason = one.run.intent or self._reason(exit, bool(record))
        return exit

    @staticmethod
    def _reason(exit: Exit, seen: bool) -> str:
        if exit.signal == _SIGKILL and exit.oom:
            return "oom"
        if exit.signal:
            return "signal"
        return "lost" if exit.status == LOST and not seen else "exited"

    def _record(self, id: str, name: str) -> Message:
        from wherry.container.lifecycle import opened

        try:
            with opened(self._supervisor.engine.directory(""), id) as container:
                return read_record(container.directory, name)
        except (WherryError, OSError, ValueError):
            return {}

    def ended(self, one: Managed, exit: Exit) -> None:
        one.end_probe()
        if one.killer is not None:
            one.killer.cancel()
            one.killer = None
        if exit.oom and not one.run.oom:
            self._oom(one, {})
        run = one.run
        run.phase, run.pid, run.kill_at, run.step = records.ENDED, 0, 0, ""
        run.exits = [exit, *run.exits][:EXITS_KEPT]
        one.note_sizes()
        self._supervisor.tell(one, "exit", exit.exited, exit=records.to_dict(exit))
        if one.asked.terminal and one.owner == SERVER:
            self._supervisor.spawn(self._settle_when_drained(one))
        else:
            self.settle(one)

    def end_without_process(self, one: Managed) -> None:
        """A run that could not even begin."""
        self.ended(one, Exit(one.run.run, 127, 0, exited=time.time_ns(), started=0, reason=one.run.intent or "exited"))

    async def _settle_when_drained(self, one: Managed) -> None:
        """The last words of a terminal belong to this run: they are there before the next one begins."""
        try:
            await self._supervisor.engine.drained(one.id)
        except ShimError:  # it is gone with its container
            pass
        finally:
            one.note_sizes()
            if one.phase == records.ENDED:
                self.settle(one)

    def settle(self, one: Managed) -> None:
        """What is to come of a container that has ended."""
        supervisor, run, exit = self._supervisor, one.run, one.run.exit or Exit()
        decision = decide(one.asked.policy, one.asked.desired, exit, run.restarts)
        run.restarts = decision.restarts
        if decision.again and one.asked.step != records.DELETE:
            run.phase, run.restart_at = records.WAITING, decision.at
            supervisor.tell(one, "restarting", restart_at=decision.at, restarts=decision.restarts, exit=records.to_dict(exit))
            supervisor.arm_restart(one)
            return
        run.phase, run.restart_at = records.STOPPED, 0
        supervisor.tell(one, "stopped", exit=records.to_dict(exit))
        if one.asked.auto_remove and one.asked.step != records.DELETE and one.asked.desired != records.CREATED:
            supervisor.spawn(supervisor.auto_remove(one))

    def _deleted(self, one: Managed, event: Message) -> None:
        """By us as a part of something; else by a client of the Task service."""
        if one.owner != SERVER:
            one.gone = True
            self._supervisor.tell(one, "deleted")
            self._supervisor.table.pop(one.id, None)
            self._supervisor.remember(one.id, one.run.sequence, one.run.exit)

    # ---- execs

    def _exec_started(self, one: Managed, event: Message) -> None:
        self._supervisor.execs.started(one, event["exec_id"], event["pid"])


def nanoseconds(at: Message) -> int:
    return int(at["seconds"]) * 1_000_000_000 + int(at["nanos"])
