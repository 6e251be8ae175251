# SPDX-License-Identifier: Apache-2.0
"""The task service in a thread of its own, with its own loop, and asyncio's way to it.

    engine = Engine("/run/wherry-shim", log)
    engine.listen(heard)                       heard(topic, event), in asyncio's thread
    await engine.start()
    answer = await engine.call("Create", {"id": "a", "bundle": "/srv/a"})

Answers and events come over in the order in which the service gave them: who has the answer to a Start has heard of the start. Nothing else crosses
the border between
the threads than Loop.soon() there and call_soon_threadsafe() back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wherry_shim.containerd import unpack
from wherry_shim.errors import UNAVAILABLE, ShimError
from wherry_shim.loop import Later, Loop, Task
from wherry_shim.parent import Ourselves
from wherry_shim.service import Service, Setting

if TYPE_CHECKING:
    from wherry_shim.serve.log import Log
    from wherry_shim.state import Container, Process

Message = dict[str, Any]
NAMESPACE = "default"
SNAPSHOT = "snapshot"
"""Heard between what containers() knows of already and what comes after it."""


@dataclass(frozen=True)
class FoundProcess:
    exec_id: str
    pid: int
    status: str
    exit_status: int
    exited_at: int
    terminal: bool


@dataclass(frozen=True)
class Found:
    """A container as the service knows it."""

    id: str
    bundle: str
    init: FoundProcess
    execs: list[FoundProcess] = field(default_factory=list)
    orphaned: bool = False


class Engine:
    def __init__(self, root: str, log: Log, files: tuple[int, int] | None = None) -> None:
        """files: the limit of descriptors that containers begin with, where this process has raised its own."""
        self.root, self.log, self._files = root, log, files
        self._listeners: list[Callable[[str, Message], None]] = []
        self._pending: set[asyncio.Future[Any]] = set()
        self._thread: threading.Thread | None = None
        self._loop: Loop | None = None
        self._service: Service | None = None
        self._aio: asyncio.AbstractEventLoop | None = None

    def listen(self, callback: Callable[[str, Message], None]) -> None:
        self._listeners.append(callback)

    def directory(self, id: str) -> str:
        """The runtime's and the monitor's, of a container, or of all."""
        return f"{self.root}/{NAMESPACE}/{id}" if id else f"{self.root}/{NAMESPACE}"

    # ---- begin and end

    async def start(self) -> None:
        """With the containers that another server has left."""
        self._aio = asyncio.get_running_loop()
        loop = self._loop = Loop()
        ourselves = Ourselves(loop)
        ourselves.files = self._files
        service = self._service = Service(loop, Setting(NAMESPACE, self.root), self._emit, unpack, ourselves)
        service.log = lambda level, text: self._cross(lambda: self.log(level, text))
        service.on_shutdown = lambda: None  # asked by a client of the Task service: what it may end is not this server
        self._thread = threading.Thread(target=loop.run, name="engine", daemon=True)
        self._thread.start()
        await self._ask(lambda: loop.start(service.adopt()))

    async def stop(self) -> None:
        """What runs is left to its monitors."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = None
        loop.soon(loop.stop)
        await asyncio.to_thread(thread.join)
        for future in list(self._pending):
            if not future.done():
                future.set_exception(ShimError(UNAVAILABLE, "the server ends"))
        loop.close()

    # ---- calls

    async def call(self, method: str, request: Message) -> Message:
        """ShimError where it is refused. A Wait ends when nobody awaits it any more; everything else runs to its end."""
        started: list[Task] = []

        def begin() -> Task:
            started.append(self._running().call(method, request))
            return started[0]

        try:
            answer: Message = await self._ask(begin)
            return answer
        except asyncio.CancelledError:
            if method == "Wait" and self._loop is not None:
                self._loop.soon(lambda: started[0].cancel() if started else None)
            raise

    async def ping(self) -> None:
        """The thread answers."""
        await self._ask(_done)

    def sweep(self) -> None:
        """Monitors that the program before this one has started, before a reload, are our children all the same."""
        if self._loop is not None:
            self._loop.soon(lambda: self._running().sweep())

    async def drained(self, id: str, exec_id: str = "") -> None:
        """A terminal's last words are in the file (or somebody holds it open: a bounded time)."""
        await self._ask(lambda: self._running().loop.start(self._running().drained(id, exec_id)))

    async def kill_tree(self, id: str, exec_id: str) -> None:
        """An exec and all that it has started. That it is gone is no error."""
        await self._ask(lambda: self._running().loop.start(self._running().kill_tree(id, exec_id)))

    async def containers(self) -> list[Found]:
        def look() -> Later:
            self._emit(SNAPSHOT, {})
            later = Later()
            later.set([_found(container) for container in self._running().containers()])
            return later

        found: list[Found] = await self._ask(look)
        return found

    def _running(self) -> Service:
        if self._service is None:
            raise ShimError(UNAVAILABLE, "the server ends")
        return self._service

    async def _ask(self, begin: Callable[[], Later]) -> Any:
        loop, aio = self._loop, self._aio
        if loop is None or aio is None:
            raise ShimError(UNAVAILABLE, "the server ends")
        future: asyncio.Future[Any] = aio.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def run() -> None:
            try:
                begin().then(lambda later: self._cross(lambda: _settle(future, later)))
            except Exception as error:
                failure = error
                self._cross(lambda: _fail(future, failure))

        loop.soon(run)
        return await future

    # ---- from the loop's thread

    def _emit(self, topic: str, event: Message) -> None:
        self._cross(lambda: self._heard(topic, event))

    def _cross(self, callback: Callable[[], object]) -> None:
        """asyncio calls in the order in which it was asked to."""
        if self._aio is not None and not self._aio.is_closed():
            self._aio.call_soon_threadsafe(callback)

    def _heard(self, topic: str, event: Message) -> None:
        for listener in self._listeners:
            try:
                listener(topic, event)
            except Exception as error:
                self.log("error", f"{topic}: {type(error).__name__}: {error}")


def _done() -> Later:
    later = Later()
    later.set()
    return later


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _settle(future: asyncio.Future[Any], later: Later) -> None:
    try:
        value = later.result()
    except Exception as error:
        _fail(future, error)
    else:
        if not future.done():
            future.set_result(value)


def _process(process: Process) -> FoundProcess:
    at = process.exited_at
    nanoseconds = at["seconds"] * 1_000_000_000 + at["nanos"] if at["seconds"] > 0 else 0
    return FoundProcess(process.exec_id, process.pid, process.status, process.exit_status, nanoseconds, process.names.terminal)


def _found(container: Container) -> Found:
    execs = [_process(process) for process in container.execs.values()]
    return Found(container.id, container.bundle, _process(container.init), execs, container.orphaned)
