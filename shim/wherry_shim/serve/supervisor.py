# SPDX-License-Identifier: Apache-2.0
"""The containers of a server: what is asked of them, step by step, each written down before it begins. What comes of it is heard (hearing.py),
and what happened while no server was there is made up for at the start (recovery.py).

    creating -> created -> running <-> paused         the phases of a run (records.py)
                               |
                             ended -> waiting -> restarting -> running ...       as restart.py decides
                                   -> stopped

Everything here is of asyncio's thread. `turn` of a container is held by what takes several steps: one at a time.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpc import StatusCode

from wherry.container.lifecycle import check_id
from wherry.oci.config import load
from wherry_shim.errors import NOT_FOUND, ShimError
from wherry_shim.serve import probes, records, refusals
from wherry_shim.serve.engine import Engine
from wherry_shim.serve.event_log import EventLog
from wherry_shim.serve.execs import Execs
from wherry_shim.serve.hearing import Hearing
from wherry_shim.serve.inotify import Watcher
from wherry_shim.serve.kept import SECONDS, Kept
from wherry_shim.serve.managed import SERVER, Managed, ManagedExec
from wherry_shim.serve.records import Asked, Exit, Policy, Probe, Run
from wherry_shim.serve.streams import Trimmer

if TYPE_CHECKING:
    from wherry_shim.serve.log import Log

T = TypeVar("T")
Message = dict[str, Any]

_SIGKILL, _SIGTERM = 9, 15
_HOUSEKEEPING_S = 1.0
_REMEMBERED = 1024
_END_S, _LOOK_S = 20.0, 2.0
_GRACE_S = 10.0
_UNSTARTED_S = 600.0
"""Then one that goes by itself goes without having been started: who made it is gone."""
_AGAIN_S = (1.0, 60.0)


@dataclass(frozen=True)
class Counts:
    containers: dict[str, int]
    execs: int
    restarts: int
    events: int
    subscribers: int
    log_bytes: int


@dataclass
class New:
    """What Create asks for. `config` or `bundle`."""

    id: str
    bundle: str = ""
    config: bytes = b""
    mounts: list[Message] = field(default_factory=list)
    stdin: bool = False
    policy: Policy = field(default_factory=Policy)
    probe: Probe = field(default_factory=Probe)
    labels: dict[str, str] = field(default_factory=dict)
    log_bytes: int = 0
    start: bool = False
    auto_remove: bool = False


class Supervisor:
    def __init__(self, engine: Engine, data: str, log: Log, keep: float = SECONDS) -> None:
        """keep: seconds for which the output of what has gone by itself stays."""
        self.engine, self.data, self.log = engine, Path(data), log
        self.directory = self.data / "containers"
        self.events = EventLog(self.data / "events", log, *bounds(os.environ.get("WHERRY_SERVE_EVENTS", "")))
        self.table: dict[str, Managed] = {}
        self.removed: OrderedDict[str, tuple[int, Exit | None]] = OrderedDict()
        """Who came too late for the end finds it here: sequence of the removal, the last exit."""
        self.kept = Kept(keep)
        self.restarts = 0
        self.boot = records.boot_id()
        self.watcher = Watcher()
        self.trimmer = Trimmer(log)
        self.execs = Execs(self)
        self.hearing = Hearing(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        engine.listen(self.hearing.heard)

    # ---- begin and end

    async def start(self) -> None:
        from wherry_shim.serve.recovery import recover

        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.events.open()
        self.watcher.open()
        await recover(self)
        self.spawn(self._keep_house())

    async def stop(self) -> None:
        """Nothing that runs is touched; what is under way is cut short, and gone on with by the next server."""
        for one in self.table.values():
            one.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.events.close()
        self.watcher.close()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Beside everything else, to its end: it does not end with who asked for it."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log("debug", f"{type(error).__name__}: {error}")

    async def through(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs to its end, even where the caller is gone before."""
        return await asyncio.shield(self.spawn(coroutine))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            try:
                self._keep_house_once()
            except OSError as error:
                self.log("warning", f"housekeeping: {error}")

    def _keep_house_once(self) -> None:
        for one in list(self.table.values()):
            if one.dirty:
                one.save()
            if one.dirty_asked:
                one.note_asked()
            if one.owner == SERVER and not one.gone:
                self.trimmer.trim(one)
                self.execs.forget_old(one)
                self._forget_unstarted(one)
        self.kept.expire(self.events.full)

    def _forget_unstarted(self, one: Managed) -> None:
        asked = one.asked
        unstarted = asked.auto_remove and asked.desired == records.CREATED and not asked.step and one.phase in (records.CREATED, records.STOPPED)
        if unstarted and time.time_ns() - asked.created > _UNSTARTED_S * 1e9:
            self.log("warning", "it was not started, and goes", id=one.id)
            self.spawn(self.auto_remove(one))

    def counts(self) -> Counts:
        names = {"creating": 0, "created": 0, "running": 0, "paused": 0, "stopped": 0, "waiting": 0}
        known = {records.ENDED: "stopped", records.RESTARTING: "waiting"}
        names |= Counter(known.get(one.phase, one.phase) for one in self.table.values())
        execs = sum(not run.ended for one in self.table.values() for run in one.execs.values())
        return Counts(names, execs, self.restarts, self.events.newest, len(self.events.subscriptions), self.events.size)

    # ---- who is there

    def get(self, id: str) -> Managed:
        one = self.table.get(id)
        if one is None:
            raise refusals.not_found(id)
        return one

    def ours(self, id: str) -> Managed:
        """To be changed: not what a client of the Task service has made."""
        one = self.get(id)
        if one.owner != SERVER:
            raise refusals.foreign(id)
        return one

    def readable(self, id: str) -> Managed:
        """To be read: also what has gone by itself a while ago."""
        return self.table.get(id) or self.kept.table.get(id) or self.get(id)

    def tell(self, one: Managed, type: str, at: int = 0, **fields: Any) -> None:
        """Event, then record, then who waits."""
        self.tell_all(one, [{"type": type, **fields}], at)

    def tell_all(self, one: Managed, events: list[Message], at: int = 0, run: ManagedExec | None = None) -> None:
        """run: an exec, whose record is written before the container's, which says that the events are in both."""
        common: Message = {"id": one.id, "time": at or time.time_ns(), "run": one.run.run}
        if one.turn.cause:
            common["trace"] = one.turn.cause
        one.run.sequence = self.events.append(*({**common, **event} for event in events))
        if run is not None:
            run.save()
        one.save()
        one.change()
        if run is not None:
            run.change()

    # ---- create

    async def create(self, new: New) -> Managed:
        check_id(new.id)
        if self.events.full and not self.events.retry():
            raise refusals.disk_full(str(self.data))
        if new.id in self.table:
            raise refusals.exists(new.id)
        asked = Asked(new.id, new.bundle, new.mounts, new.stdin, False, new.policy, new.probe, new.labels)
        asked.log_bytes, asked.auto_remove = new.log_bytes or asked.log_bytes, new.auto_remove
        asked.created, asked.since, asked.step = time.time_ns(), self.events.newest, records.CREATE
        one = self.table[new.id] = Managed(asked, Run(boot=self.boot), self.directory / new.id)
        self.removed.pop(new.id, None)
        self.kept.drop(new.id)
        return await self.through(self._create(one, new))

    async def _create(self, one: Managed, new: New) -> Managed:
        async with one.turn:
            try:
                self._prepare(one, new.config)
                await self._call_create(one)
                one.asked.step = ""
                one.save_asked()
            except Exception as error:  # a server that ends leaves it to the next one
                await self.undo_create(one)
                if isinstance(error, OSError):
                    raise refusals.of_os_error(error, str(self.data)) from error
                raise
        if new.start:
            await self.start_container(one)
        return one

    def _prepare(self, one: Managed, config: bytes) -> None:
        one.place.remove()
        one.place.directory.mkdir(mode=0o700)
        one.save_asked()
        if config:
            bundle = one.place.directory / "bundle"
            (bundle / "rootfs").mkdir(mode=0o711, parents=True)
            (bundle / "config.json").write_bytes(config)
            one.asked.bundle = str(bundle)
        document: Any = load(config, "config") if config else self._document(one)
        process = document.get("process") if isinstance(document, dict) else None
        one.asked.terminal = bool(isinstance(process, dict) and process.get("terminal"))
        one.asked.args = words_of(process.get("args") if isinstance(process, dict) else None)
        one.save_asked()
        one.save()
        one.place.make(one.asked.terminal)

    def _document(self, one: Managed) -> Any:
        try:
            return one.config()
        except OSError as error:
            raise refusals.no_bundle(one.asked.bundle, error) from error

    def _ask(self, one: Managed, **changes: Any) -> None:
        """Refused as a whole where it cannot be written down."""
        before, one.asked = one.asked, replace(one.asked, **changes)
        try:
            one.save_asked()
        except OSError as error:
            one.asked = before
            raise refusals.of_os_error(error, str(self.data)) from error

    async def _call_create(self, one: Managed) -> None:
        asked = one.asked
        if asked.stdin or asked.terminal:
            one.place.make_input()
        names = one.place.names(asked.terminal, asked.stdin)
        await self.engine.call("Create", {"id": one.id, "bundle": asked.bundle, "rootfs": asked.mounts, **names})

    async def undo_create(self, one: Managed) -> None:
        """Of what nobody was told of nothing more is told."""
        if one.phase != records.CREATING:
            await self.finish_delete(one)
            return
        one.cancel()
        one.gone = True
        await self.remove_from_host(one)
        await asyncio.to_thread(one.place.remove)
        self.table.pop(one.id, None)
        one.change()

    # ---- start, stop, kill

    async def start_container(self, one: Managed, run: int = 0) -> None:
        await self.through(self._start(one, run))

    async def _start(self, one: Managed, run: int) -> None:
        """run: where it has begun already, who asks has not had the answer."""
        async with one.turn:
            if one.gone:  # a Delete was first
                raise refusals.not_found(one.id)
            if run and (run < one.run.run or (run == one.run.run and one.phase != records.CREATED)):
                return
            while one.phase == records.ENDED:  # a terminal is being drained
                await one.changed()
            if one.phase not in (records.CREATED, records.STOPPED, records.WAITING):
                raise refusals.wrong_phase("start", one.id, one.phase)
            if one.asked.desired != records.RUNNING:
                self._ask(one, desired=records.RUNNING)
            if one.phase == records.CREATED:
                await self.call_start(one)
                return
            self.cancel_timer(one)
            one.run.restarts = 0
            await self.run_again(one)

    async def call_start(self, one: Managed) -> None:
        one.run.step, one.asked_at = "start", time.time_ns()
        one.save()
        try:
            await self.engine.call("Start", {"id": one.id})
        finally:
            one.run.step = ""
            one.save()

    async def stop_container(self, one: Managed, grace: float = _GRACE_S, signal: int = _SIGTERM) -> None:
        await self.through(self._stop(one, grace, signal))
        while not one.stopped and not one.gone:
            await one.changed()

    async def _stop(self, one: Managed, grace: float, signal: int) -> None:
        if one.asked.desired != records.STOPPED and not one.stopped:
            one.asked.desired = records.STOPPED
            one.note_asked()
        async with one.turn:
            if one.phase == records.WAITING:
                self.cancel_timer(one)
                self.hearing.settle(one)
            elif one.phase == records.CREATED or one.running:
                one.run.intent = one.run.intent or "stopped"
                one.run.kill_at = time.time_ns() + int(grace * 1e9)
                one.save()
                await self._ask_to_end(one, signal if one.running and grace > 0 else _SIGKILL)

    async def _ask_to_end(self, one: Managed, signal: int, everyone: bool = False) -> None:
        if one.run.kill_at:
            self.arm_killer(one)
        try:
            if one.paused and signal != _SIGKILL:
                await self.engine.call("Resume", {"id": one.id})
            await self.engine.call("Kill", {"id": one.id, "signal": signal, "all": everyone})
        except ShimError as error:
            if error.code != NOT_FOUND:
                raise

    def arm_killer(self, one: Managed) -> None:
        """At kill_at, which a new server finds in the record."""
        if one.killer is not None:
            one.killer.cancel()
        seconds = max(0.0, one.run.kill_at / 1e9 - time.time())
        run = one.run.run
        one.killer = asyncio.get_running_loop().call_later(seconds, lambda: self.spawn(self._kill_now(one, run)))

    async def _kill_now(self, one: Managed, run: int) -> None:
        if not one.ended and one.run.run == run:
            await self.engine.call("Kill", {"id": one.id, "signal": _SIGKILL})

    async def pause(self, one: Managed) -> None:
        await self.through(self.engine.call("Pause", {"id": one.id}))

    async def resume(self, one: Managed) -> None:
        await self.through(self.engine.call("Resume", {"id": one.id}))

    # ---- another run

    async def run_again(self, one: Managed) -> None:
        """With its turn. The steps are in the record, so that another server goes on with them: see recovery."""
        run = one.run
        run.phase, run.step = records.RESTARTING, "remove"
        one.save()
        one.change()
        await self.remove_from_host(one)
        run.run, run.step, run.pid, run.started, run.restart_at = run.run + 1, "create", 0, 0, 0
        run.intent, run.kill_at, run.oom, run.boot = "", 0, False, self.boot
        run.health, run.failures = "", 0
        one.save()
        await self.create_again(one)

    async def create_again(self, one: Managed) -> None:
        try:
            await self._call_create(one)
            if one.asked.desired == records.RUNNING:
                await self.call_start(one)
            else:  # a Stop has come meanwhile
                one.run.intent = "stopped"
                await self._ask_to_end(one, _SIGKILL)
        except (ShimError, OSError) as error:
            self.log("warning", f"run {one.run.run} cannot be started: {error}", id=one.id)
            if not one.running and one.phase != records.STOPPED:
                one.run.step = ""
                self.hearing.end_without_process(one)

    def arm_restart(self, one: Managed) -> None:
        self.cancel_timer(one)
        seconds = max(0.0, one.run.restart_at / 1e9 - time.time())
        one.timer = asyncio.get_running_loop().call_later(seconds, lambda: self.spawn(self._restart(one)))

    def cancel_timer(self, one: Managed) -> None:
        if one.timer is not None:
            one.timer.cancel()
        one.timer = None

    async def _restart(self, one: Managed) -> None:
        async with one.turn:
            if one.phase == records.WAITING and one.asked.desired == records.RUNNING:
                self.restarts += 1
                await self.run_again(one)

    # ---- delete

    async def delete(self, one: Managed, force: bool = False) -> Exit | None:
        return await self.through(self._delete(one, force))

    async def auto_remove(self, one: Managed) -> None:
        """Until it is done: nobody else asks for it."""
        pause = _AGAIN_S[0]
        while not one.gone:
            try:
                await self.through(self._delete(one, True, keeps=self.kept.seconds > 0))
            except (ShimError, OSError, refusals.Refusal) as error:
                if one.gone:
                    return
                self.log("warning", f"it cannot be taken away yet: {error}", id=one.id)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _AGAIN_S[1])

    async def _delete(self, one: Managed, force: bool, keeps: bool = False) -> Exit | None:
        async with one.turn:
            if one.gone:
                raise refusals.not_found(one.id)
            if one.running and not force:
                raise refusals.still_running(one.id)
            if one.asked.step != records.DELETE or one.asked.keeps != keeps:
                one.asked.step, one.asked.desired, one.asked.keeps = records.DELETE, records.STOPPED, keeps
                one.note_asked()
            return await self.finish_delete(one)

    async def finish_delete(self, one: Managed) -> Exit | None:
        """With its turn; may be done by another server than the one that began."""
        self.cancel_timer(one)
        if one.running:
            await self.end_now(one)
        await self.remove_from_host(one)
        while one.phase == records.ENDED:  # a terminal is being drained
            await one.changed()
        if one.phase == records.WAITING:
            self.hearing.settle(one)
        exit = one.run.exit
        one.cancel()
        one.gone = True  # no record knows of the event: a server that is killed before the files are gone finds it in the log
        self.tell(one, "deleted", exit=records.to_dict(exit) if exit else None)
        self.table.pop(one.id, None)
        self.remember(one.id, one.run.sequence, exit)
        await self.put_away(one)
        for changes in (one, *one.execs.values()):
            changes.change()
        return exit

    async def put_away(self, one: Managed) -> None:
        """Its files. From the beginning another container may have its id."""
        if one.asked.keeps:
            self.kept.add(one)
        else:
            await asyncio.to_thread(one.place.put_aside(one.run.sequence).remove)

    def remember(self, id: str, sequence: int, exit: Exit | None) -> None:
        self.removed[id] = (sequence, exit)
        if len(self.removed) > _REMEMBERED:
            self.removed.popitem(last=False)

    async def end_now(self, one: Managed) -> None:
        """First it alone, whose namespace ends with it; then everybody in its cgroup."""
        one.run.intent = one.run.intent or "stopped"
        pid = one.run.pid
        for everyone in (False, True):
            await self._ask_to_end(one, _SIGKILL, everyone)
            limit = time.monotonic() + _END_S / 2
            while one.running and time.monotonic() < limit:
                try:
                    await asyncio.wait_for(one.changed(), _LOOK_S)
                except TimeoutError:
                    await self.hearing.look_again(one)
            if not one.running:
                return
            self.log("warning", f"process {pid} was killed and has not ended: {_state(pid)}", id=one.id)
        raise refusals.does_not_end(one.id)

    async def remove_from_host(self, one: Managed) -> None:
        """That nothing is there is no error: after a reboot, or where another server was at it."""
        try:
            await self.engine.call("Delete", {"id": one.id})
        except ShimError as error:
            if error.code != NOT_FOUND:
                raise

    # ---- update, health

    async def update(self, one: Managed, resources: bytes, policy: Policy | None, probe: Probe | None, labels: dict[str, str]) -> None:
        async with one.turn:
            if one.gone:
                raise refusals.not_found(one.id)
            if resources:
                await self.engine.call("Update", {"id": one.id, "resources": {"value": resources}})
            kept = {name: value for name, value in (one.asked.labels | labels).items() if labels.get(name, value)}
            self._ask(one, policy=policy or one.asked.policy, probe=probe or one.asked.probe, labels=kept)
            if probe is not None:
                one.run.health, one.run.failures = "", 0
                self.hearing.begin_probe(one)
            self.tell(one, "updated")

    def healthy(self, one: Managed, health: probes.Health) -> None:
        """After each probe."""
        changed = health.state != one.run.health
        if not changed and health.failures == one.run.failures:
            return
        one.run.health, one.run.failures = health.state, health.failures
        if not changed:
            one.save()
            return
        self.tell(one, "health", health=health.state)
        if health.state == probes.UNHEALTHY and one.asked.probe.restart and one.running:
            one.run.intent = one.run.intent or "unhealthy"
            one.save()
            self.spawn(self._ask_to_end(one, _SIGKILL))

    # ---- waiting

    async def wait(self, id: str, condition: str, run: int = 0) -> tuple[Exit | None, Managed | None]:
        """condition: exit, stopped, removed or healthy."""
        one = self.table.get(id)
        if one is None:
            if id not in self.removed or condition == "healthy":
                raise refusals.not_found(id)
            kept = self.kept.table.get(id)
            return (kept.exit_of(run) if kept and run and condition == "exit" else None) or self.removed[id][1], None
        wanted = run or one.run.run
        while True:
            if one.gone:
                if condition == "healthy":
                    raise refusals.not_found(id)
                return one.exit_of(wanted) if condition == "exit" else one.run.exit, None
            if (met := self._met(one, condition, wanted)) is not None:
                return met, one
            await one.changed()

    def _met(self, one: Managed, condition: str, run: int) -> Exit | None:
        if condition == "exit":
            return one.exit_of(run) or (one.run.exit if run < one.run.run else None)
        if condition == "stopped":
            return one.run.exit if one.stopped else None
        if condition == "healthy":
            if one.run.health == probes.HEALTHY and one.running:
                return Exit()
            if one.stopped:
                raise refusals.wrong_phase("wait for the health of", one.id, one.phase)
            if not one.asked.probe.args:
                raise refusals.refuse(StatusCode.FAILED_PRECONDITION, f"container {one.id} has no probe", "give it one (Update)")
        return None


def words_of(args: Any) -> list[str]:
    """For people: not more than they read."""
    words = [str(word)[:256] for word in args[:64]] if isinstance(args, list) else []
    return words[: next((index for index in range(len(words)) if sum(map(len, words[: index + 1])) > 2048), len(words))]


def _state(pid: int) -> str:
    """As ps shows it, and where it waits."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return f"{letter} {Path(f'/proc/{pid}/wchan').read_text()}"
    except (OSError, IndexError):
        return "gone"


def bounds(text: str) -> list[int]:
    """Of the event log: bytes of it, and of a segment; how many events a subscriber may be behind, and for how many seconds."""
    return [int(word) for word in text.split(",") if word.isdecimal()]
