# SPDX-License-Identifier: Apache-2.0
"""Logs, Attach and Exec: what a client sees of output files and fifos. A stream that breaks goes on where it was: it holds nothing that is not on disk."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from wherry.errors import WherryError
from wherry.oci.config import load
from wherry_shim.errors import ShimError
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.serve import messages, records, refusals
from wherry_shim.serve.managed import SERVER, Changes, ExecAsked, Managed, ManagedExec, Place, size_of
from wherry_shim.serve.records import Exit
from wherry_shim.serve.streams import Follower, Input, NextRun, input_count, oldest, tail

if TYPE_CHECKING:
    from wherry_shim.serve.supervisor import Supervisor

_SIDE = 65535
_WAITING = 4


@dataclass
class Target:
    """A process, as its streams see it. over: it has ended, and its output is whole; then the sizes that belong to it, where they are known."""

    id: str
    exec_id: str
    place: Place
    terminal: bool
    stdin: bool
    changes: Changes
    over: Callable[[], bool]
    sizes: Callable[[], tuple[int, int] | None]
    news: Callable[[], Any] = lambda: None
    """After a change: an item for the client, where there is something new to tell."""
    next_run: NextRun | None = None
    """What stdin is for, when this run's is gone."""

    @property
    def request(self) -> dict[str, str]:
        return {"id": self.id, "exec_id": self.exec_id}

    def channels(self) -> list[tuple[int, str]]:
        return [(pb.STDOUT, self.place.stdout)] if self.terminal else [(pb.STDOUT, self.place.stdout), (pb.STDERR, self.place.stderr)]


class Session:
    """Some outputs at once, woken by each change of the process."""

    def __init__(self, supervisor: Supervisor, target: Target) -> None:
        self._supervisor, self._target = supervisor, target
        self._queue: asyncio.Queue[Any] = asyncio.Queue(_WAITING)
        self._followers: list[Follower] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, starts: list[tuple[int, str, int]], requests: AsyncIterator[Any] | None = None, follow: bool = True) -> AsyncIterator[Any]:
        """Messages: ("output", channel, offset, data), ("stdin", offset). starts: channel, file, offset."""
        outputs = [asyncio.ensure_future(self._follow(index, start, follow)) for index, start in enumerate(starts)]
        self._tasks = [asyncio.ensure_future(self._wake()), asyncio.ensure_future(self._finish(outputs)), *outputs]
        if requests is not None:
            self._tasks.append(asyncio.ensure_future(self._listen(requests)))
        try:
            while (item := await self._queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
            if requests is not None and follow:
                self.input = self._tasks[-1]
        finally:
            kept = getattr(self, "input", None)
            for task in self._tasks:
                if task is not kept:
                    task.cancel()
            await asyncio.gather(*(task for task in self._tasks if task is not kept), return_exceptions=True)

    async def input_ended(self) -> None:
        """The client has closed its side."""
        try:
            await self.input
        finally:
            self.input.cancel()

    async def _follow(self, index: int, start: tuple[int, str, int], follow: bool) -> None:
        channel, path, offset = start
        follower = Follower(self._supervisor.watcher, path, offset, lambda: self._ended(index), follow)
        self._followers.append(follower)
        async for at, data in follower.chunks():
            await self._queue.put(("output", channel, at, data))

    def _ended(self, index: int) -> tuple[bool, int | None]:
        if not self._target.over():
            return False, None
        sizes = self._target.sizes()
        return True, sizes[index] if sizes else None

    async def _finish(self, outputs: list[asyncio.Task[None]]) -> None:
        results = await asyncio.gather(*outputs, return_exceptions=True)
        await self._queue.put(next((result for result in results if isinstance(result, Exception)), None))

    async def _wake(self) -> None:
        while True:
            await self._target.changes.changed()
            for follower in self._followers:
                follower.wakened.set()
            if (item := self._target.news()) is not None:
                await self._queue.put(item)

    # ---- from the client

    async def _listen(self, requests: AsyncIterator[Any]) -> None:
        stdin: Input | None = None
        try:
            if self._target.stdin:
                stdin = Input(self._target.place.stdin, self._target.next_run)
            async for request in requests:
                await self._take(request, request.WhichOneof("message"), stdin)
        except (WherryError, ShimError, OSError, refusals.Refusal) as error:
            await self._queue.put(refusals.of_os_error(error, "stdin") if isinstance(error, OSError) else error)
        finally:
            if stdin is not None:
                stdin.close()

    async def _take(self, request: Any, kind: str | None, stdin: Input | None) -> None:
        engine, target = self._supervisor.engine, self._target
        if kind == "stdin" and stdin is None:
            raise refusals.refuse(StatusCode.FAILED_PRECONDITION, "the process has no stdin", "set `stdin` when it is made", resource=target.id)
        try:
            if kind == "stdin" and stdin is not None:
                await stdin.write(request.stdin)
                await self._queue.put(("stdin", stdin.count))
            elif kind == "close_stdin" and request.close_stdin:
                if stdin is not None:
                    stdin.end()
                await engine.call("CloseIO", {**target.request, "stdin": True})
            elif kind == "resize":
                await engine.call("ResizePty", {**target.request, "width": request.resize.width, "height": request.resize.height})
            elif kind == "signal":
                await engine.call("Kill", {**target.request, "signal": _signal(request.signal)})
        except ShimError as error:  # it may have ended before this came
            self._supervisor.log("debug", f"{target.id}: {kind}: {error}")


class ProcessStreams:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def _with_files(self, id: str) -> Managed:
        one = self._supervisor.readable(id)
        if one.owner != SERVER:
            text = f"what container {id} writes goes where its client has said"
            raise refusals.refuse(StatusCode.FAILED_PRECONDITION, text, "look there", resource=id)
        return one

    # ---- Logs

    async def logs(self, request: Any) -> AsyncIterator[Any]:
        one = self._with_files(request.id)
        target = self._container(one, lambda: one.stopped or one.gone)
        target.sizes = lambda: None
        unwanted = {pb.STDOUT} if request.no_stdout else set()
        unwanted |= {pb.STDERR} if request.no_stderr else set()
        starts = [(channel, path, _begin(request, channel, path)) for channel, path in target.channels() if channel not in unwanted]
        for channel, _, offset in starts:
            yield pb.Output(channel=channel, offset=offset)  # type: ignore[arg-type]
        session = Session(self._supervisor, target).run(starts, follow=request.follow)
        try:
            async for _, number, at, data in session:
                yield pb.Output(channel=number, offset=at, data=data)
        finally:
            await session.aclose()  # type: ignore[attr-defined]

    def _container(self, one: Managed, over: Callable[[], bool]) -> Target:
        return Target(one.id, "", one.place, one.asked.terminal, one.asked.stdin or one.asked.terminal, one, over, lambda: None)

    # ---- Attach

    async def attach(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        first = await _first(requests, ("open",))
        one = self._with_files(first.open.id)
        run = first.open.run if 0 < first.open.run < one.run.run else one.run.run
        target = self._following(one) if first.open.follow else self._of_run(one, run)
        starts = [(channel, path, _attach_at(first.open, channel, path)) for channel, path in target.channels()]
        yield _started(target, one.run.pid if run == one.run.run else 0, starts, run)
        session = Session(self._supervisor, target)
        async for message in _relayed(session.run(starts, requests)):
            yield message
        session.input.cancel()
        yield pb.ProcessOutput(exit=messages.exit_message((None if first.open.follow else one.exit_of(run)) or one.run.exit or Exit(run)))

    def _of_run(self, one: Managed, run: int) -> Target:
        target = self._container(one, lambda: _run_is_over(one, run))
        target.sizes = lambda: one.sizes_of(run)
        return target

    def _following(self, one: Managed) -> Target:
        """Over all runs that are still to come: each is told when it begins."""
        target = self._container(one, lambda: one.stopped or one.gone)
        told = one.run.run

        def news() -> Any:
            nonlocal told
            if one.run.run <= told or not one.running:
                return None
            told = one.run.run
            return ("started", told, one.run.pid)

        async def ready(over: int) -> int:
            while one.run.run <= over or not (one.running or one.phase == records.CREATED):
                if one.stopped or one.gone:
                    return 0
                await one.changed()
            return one.run.run

        target.news, target.next_run = news, NextRun(ready, lambda: one.run.run)
        return target

    # ---- Exec

    async def exec(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        first = await _first(requests, ("start", "resume"))
        if first.WhichOneof("message") == "start":
            one = self._supervisor.ours(first.start.id)
            run = await self._supervisor.execs.start(one, exec_of(one, first.start))
            offsets, detach = (0, 0), first.start.detach
        else:
            one = self._with_files(first.resume.id)
            run = self._supervisor.execs.get(one, first.resume.exec_id)
            offsets, detach = (first.resume.stdout_offset, first.resume.stderr_offset), False
        target = self._exec(one, run)
        starts = [(channel, path, offset) for (channel, path), offset in zip(target.channels(), offsets, strict=False)]
        yield _started(target, run.record.pid, starts, run.record.run)
        if detach:
            return
        async for message in self._exec_session(one, run, target, starts, requests):
            yield message

    def _exec(self, one: Managed, run: ManagedExec) -> Target:
        def over() -> bool:
            return (run.ended and run.drained) or one.gone or one.execs.get(run.id) is not run

        return Target(one.id, run.id, run.place, run.record.terminal, run.record.stdin or run.record.terminal, run, over, lambda: None)

    async def _exec_session(
        self, one: Managed, run: ManagedExec, target: Target, starts: list[tuple[int, str, int]], requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        run.streams += 1
        session = Session(self._supervisor, target)
        try:
            async for message in _relayed(session.run(starts, requests)):
                yield message
            yield pb.ProcessOutput(exit=messages.exit_message(run.record.exit or Exit(run.record.run, 255, reason="lost")))
            await session.input_ended()
            await self._supervisor.execs.let_go(one, run)
        finally:
            run.streams -= 1


async def _relayed(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        async for item in items:
            if item[0] == "stdin":
                yield pb.ProcessOutput(stdin_offset=item[1])
            elif item[0] == "started":
                yield pb.ProcessOutput(started=pb.ProcessOutput.Started(run=item[1], pid=item[2]))
            else:
                yield pb.ProcessOutput(output=pb.Output(channel=item[1], offset=item[2], data=item[3]))
    finally:
        await items.aclose()  # type: ignore[attr-defined]


def _started(target: Target, pid: int, starts: list[tuple[int, str, int]], run: int = 0) -> Any:
    offsets = {channel: offset for channel, _, offset in starts}
    count = input_count(target.place.stdin) if target.stdin else 0
    started = pb.ProcessOutput.Started(exec_id=target.exec_id, pid=pid, stdin_offset=count, run=run)
    started.stdout_offset, started.stderr_offset = offsets.get(pb.STDOUT, 0), offsets.get(pb.STDERR, 0)
    return pb.ProcessOutput(started=started)


def _run_is_over(one: Managed, run: int) -> bool:
    return one.gone or one.run.run > run or one.phase in (records.WAITING, records.RESTARTING, records.STOPPED)


def _begin(request: Any, channel: int, path: str) -> int:
    name = "stdout_offset" if channel == pb.STDOUT else "stderr_offset"
    if request.HasField(name):
        return int(getattr(request, name))
    if request.HasField("tail"):
        return tail(path, int(request.tail))
    return oldest(path)


def _attach_at(request: Any, channel: int, path: str) -> int:
    name = "stdout_offset" if channel == pb.STDOUT else "stderr_offset"
    return int(getattr(request, name)) if request.HasField(name) else size_of(path)


async def _first(requests: AsyncIterator[Any], kinds: tuple[str, ...]) -> Any:
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") not in kinds:
        raise refusals.bad("message", f"the first one has to be {' or '.join(kinds)}")
    return first


def _signal(number: int) -> int:
    if not 0 < number <= 64:
        raise refusals.bad("signal", f"there is no signal {number}", "1 to 64")
    return number


def _process_of(one: Managed, start: Any) -> bytes:
    try:
        return one.process(start.args, start.env, start.cwd, start.user, start.terminal)
    except OSError as error:  # its bundle has gone, which a container that runs does not notice
        raise refusals.no_bundle(one.asked.bundle, error) from error


def exec_of(one: Managed, start: Any) -> ExecAsked:
    """`process` as it is given, or the container's own with other arguments."""
    if bool(start.process) == bool(start.args):
        raise refusals.bad("args", "exactly one of args and process is needed")
    timeout = messages.seconds_of(start, "timeout", 0.0)
    if start.process:
        document: Any = load(start.process, "process")
        if not isinstance(document, dict):
            raise refusals.bad("process", "is no object")
    else:
        if start.user and not re.fullmatch("[0-9]{1,10}(:[0-9]{1,10})?", start.user):
            raise refusals.bad("user", f"{start.user[:100]!r} is not uid or uid:gid", "numbers, as the specification has them")
        document = json.loads(_process_of(one, start))
    terminal = bool(document.get("terminal"))
    if terminal and start.HasField("size"):
        document["consoleSize"] = {"width": min(start.size.width, _SIDE), "height": min(start.size.height, _SIDE)}
    args = document.get("args")
    words = [str(word)[:4096] for word in args[:64]] if isinstance(args, list) else []
    return ExecAsked(start.exec_id, json.dumps(document).encode(), terminal, start.stdin, words, timeout)
