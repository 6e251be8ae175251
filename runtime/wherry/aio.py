# SPDX-License-Identifier: Apache-2.0
"""The library for asyncio: run, Container and Sandbox, whose waiting costs no thread.

    from wherry import aio
    results = await asyncio.gather(*(aio.Sandbox("/srv/rootfs").run(["job", name]) for name in names))

Waits are readers in the event loop (a pidfd, pipes, an epoll). What works on the host for a millisecond (create, start, delete) is done in
the loop's executor. A task that is cancelled leaves nothing behind: its container is killed and deleted first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from wherry.api.bundle import Bundle
from wherry.api.config import Config
from wherry.api.container import Caution
from wherry.api.container import Container as Blocking
from wherry.api.ended import Ended
from wherry.api.events import Event
from wherry.api.runner import Completed, Files, configured
from wherry.api.running import Running
from wherry.api.sandbox import Sandbox as BlockingSandbox
from wherry.api.session import Output, Result, Session
from wherry.errors import DeadlineError

__all__ = ["Container", "Sandbox", "Stream", "run"]

T = TypeVar("T")
Path = str | os.PathLike[str]


async def run(
    bundle: Bundle | Config | Path,
    args: Sequence[str] | None = None,
    *,
    id: str | None = None,
    root: Path | None = None,
    input: bytes = b"",
    capture: bool = True,
    timeout: float | None = None,
    **choices: Any,
) -> Completed:
    """wherry.run: one program in a container of its own, from start to end."""
    with Files(input, capture) as files:
        found = configured(bundle, args, choices)
        async with await Container.create(found, id or f"run-{os.urandom(6).hex()}", root, stdio=files.stdio) as container:
            await container.start()
            try:
                code = await container.wait(timeout)
            except DeadlineError as error:
                await container.kill("KILL")
                await container.wait()
                error.facts.update(out=files.out(), err=files.err())
                raise
        return Completed(-1 if code is None else code, files.out(), files.err(), container.warnings)


class Container:
    """wherry.Container for an event loop. `blocking` is that, for what needs no waiting: state, status, pid, ended."""

    def __init__(self, blocking: Blocking) -> None:
        self.blocking = blocking
        self.id, self.root = blocking.id, blocking.root

    @property
    def warnings(self) -> tuple[Caution, ...]:
        """What its create left out or did otherwise than the configuration says."""
        return self.blocking.warnings

    @classmethod
    async def create(cls, bundle: Bundle | Config | Path, id: str, root: Path | None = None, **choices: Any) -> Container:
        """Makes a container that waits for start; the choices are those of wherry.Container.create."""
        return cls(await _whole(lambda: Blocking.create(bundle, id, root, **choices), lambda made: made.delete(force=True)))

    @classmethod
    async def open(cls, id: str, root: Path | None = None) -> Container:
        """The container `id`, whoever made it. NotFoundError where there is none."""
        return cls(await asyncio.to_thread(Blocking.open, id, root))

    @classmethod
    async def list(cls, root: Path | None = None) -> Sequence[Container]:
        """All below a state root whose records can be read, by id."""
        return [cls(found) for found in await asyncio.to_thread(Blocking.list, root)]

    def state(self) -> dict[str, Any]:
        """The state document, as it is now."""
        return self.blocking.state()

    @property
    def status(self) -> str:
        """created, running, paused or stopped."""
        return self.blocking.status

    def ended(self) -> Ended | None:
        """How the program ended and what it used; None while it runs, and for a container that another process has made."""
        return self.blocking.ended()

    async def start(self) -> None:
        """Lets it execute its program; returns once it does."""
        await _whole(self.blocking.start)

    async def kill(self, signal: int | str = "TERM", everyone: bool = False) -> None:
        """Sends a signal to the first process, or to `everyone` in it. StateError where it has ended."""
        await _whole(lambda: self.blocking.kill(signal, everyone))

    async def exec(self, args: Sequence[str], *, timeout: float | None = None, **choices: Any) -> Completed:
        """As wherry.Container.exec. A task that is cancelled kills the process."""
        running = await _whole(lambda: Running.begin(self.root, self.id, args, adopts=timeout is not None, **choices), Running.close)
        try:
            await asyncio.wait_for(_readable(running.pidfd), timeout)
            return running.completed()
        except TimeoutError:
            raise running.given_up(timeout) from None
        finally:
            running.close()

    async def pause(self) -> None:
        """Freezes all that runs in it; returns once it stands still."""
        await _whole(self.blocking.pause)

    async def resume(self) -> None:
        """Lets it go on."""
        await _whole(self.blocking.resume)

    async def processes(self) -> Sequence[int]:
        """Host pids of all that runs in it."""
        return await asyncio.to_thread(self.blocking.processes)

    async def update(self, resources: dict[str, Any]) -> Sequence[str]:
        """Other limits, as linux.resources has them; what is not given stays. Returns warnings."""
        return await _whole(lambda: self.blocking.update(resources))

    async def stats(self) -> dict[str, Any]:
        """What it uses, as `wherry events --stats` prints it below `data`."""
        return await asyncio.to_thread(self.blocking.stats)

    def pidfd(self) -> int:
        """A new pidfd of the first process; the caller's to close."""
        return self.blocking.pidfd()

    @property
    def pid(self) -> int:
        """Of the first process, on the host."""
        return self.blocking.pid

    def close(self) -> None:
        """Lets go of it without deleting it."""
        self.blocking.close()

    async def wait(self, timeout: float | None = None) -> int | None:
        """As wherry.Container.wait; any number of tasks may wait."""
        try:
            pidfd = self.blocking.pidfd()
        except ProcessLookupError:
            return self.blocking.wait(0)
        try:
            await asyncio.wait_for(_readable(pidfd), timeout)
        except TimeoutError:
            raise DeadlineError(f'container "{self.id}" did not end within {timeout} s', id=self.id) from None
        finally:
            os.close(pidfd)
        return self.blocking.wait(0)

    async def events(self, timeout: float | None = None) -> AsyncIterator[Event]:
        """What happens to it, from `created` to `exited`, as it happens. DeadlineError where nothing does for `timeout` seconds."""
        with self.blocking.source() as source:
            while not source.finished:
                ready = source.next()
                for event in ready:
                    yield event
                if ready or source.finished:
                    continue
                try:
                    await asyncio.wait_for(_readable(source.fileno()), timeout)
                except TimeoutError:
                    raise DeadlineError(f'nothing happened to container "{self.id}" within {timeout} s', id=self.id) from None

    async def delete(self, force: bool = False) -> Sequence[str]:
        """Removes it, with `force` even while it runs; returns warnings (of poststop hooks)."""
        return await _whole(lambda: self.blocking.delete(force))

    async def __aenter__(self) -> Container:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.delete(force=True)


class Sandbox:
    """wherry.Sandbox for an event loop; made with the same choices, or around one: Sandbox.of(blocking)."""

    def __init__(self, rootfs: Path, **choices: Any) -> None:
        self.blocking = BlockingSandbox(rootfs, **choices)

    @classmethod
    def of(cls, blocking: BlockingSandbox) -> Sandbox:
        """The same walls, for an event loop."""
        sandbox = cls.__new__(cls)
        sandbox.blocking = blocking
        return sandbox

    @property
    def layers(self) -> Mapping[str, str]:
        """Which walls stand."""
        return self.blocking.layers

    async def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: Output | None = None,
    ) -> Result:
        """As wherry.Sandbox.run. on_output is called in the event loop. A task that is cancelled kills its program."""
        async with self.stream(args, input=input, env=env, timeout=timeout) as stream:
            async for name, data in stream:
                stream.session.keep(name, data)
                if on_output is not None:
                    on_output(name, data)
            return await stream.result()

    def stream(
        self, args: Sequence[str], *, input: bytes | None = None, env: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Stream:
        """For an `async with`, which starts the program: an asynchronous iterator of ("stdout" | "stderr", bytes)."""
        chosen = self.blocking.timeout if timeout is None else timeout
        return Stream(lambda: self.blocking.begin(args, input=input, env=env), chosen)


class Stream:
    """A program that runs from the beginning of its `async with` to the end at most."""

    session: Session

    def __init__(self, begin: Callable[[], Session], timeout: float | None) -> None:
        self._begin, self._timeout = begin, timeout
        self._result: Result | None = None

    async def __aenter__(self) -> Stream:
        self.session = await _whole(self._begin, Session.close)
        self._chunks = _read(self.session, self._timeout)
        return self

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        return await anext(self._chunks)

    def kill(self) -> None:
        """Ends the program; the iterator then comes to its end."""
        self.session.kill()

    async def result(self) -> Result:
        """The result, without the output that went to the iterator. Waits for the end."""
        async for _ in self._chunks:
            pass
        if self._result is None:
            self._result = await _whole(self.session.finish)
        return self._result

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._chunks.aclose()
        finally:
            await _whole(self.session.close)


async def _read(session: Session, timeout: float | None) -> AsyncGenerator[tuple[str, bytes], None]:
    """Output until every process of the sandbox has ended."""
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = False
    while not ended:
        ready = await _any_readable((*session.readers, session.pidfd), None if deadline is None else deadline - time.monotonic())
        ended = session.pidfd in ready
        if ended:
            session.stopped()
        elif deadline is not None and time.monotonic() >= deadline:
            deadline = None
            session.kill(timed_out=True)
        for descriptor in list(session.readers) if ended else [one for one in ready if one in session.readers]:
            while chunk := session.read(descriptor):
                yield chunk
                if not ended:
                    break


async def _readable(descriptor: int) -> None:
    await _any_readable((descriptor,), None)


async def _any_readable(descriptors: Iterable[int], timeout: float | None) -> set[int]:
    """Those that can be read, as soon as one can; none at the timeout. The loop has no reader of ours afterwards."""
    loop = asyncio.get_running_loop()
    ready: set[int] = set()
    woken = loop.create_future()

    def found(descriptor: int) -> None:
        ready.add(descriptor)
        if not woken.done():
            woken.set_result(None)

    watched = [os.dup(descriptor) for descriptor in descriptors]  # two tasks may wait for one: a loop has one reader a descriptor
    try:
        for watch, descriptor in zip(watched, descriptors, strict=True):
            loop.add_reader(watch, found, descriptor)
        await asyncio.wait((woken,), timeout=None if timeout is None else max(0.0, timeout))
    finally:
        for watch in watched:
            loop.remove_reader(watch)
            os.close(watch)
    return ready


async def _whole(call: Callable[[], T], undo: Callable[[T], Any] | None = None) -> T:
    """In the executor, to its end even where the task is cancelled meanwhile: then what it made is undone before the cancellation goes on.
    Its future is no task: asyncio.run cancels all of those when one has failed, and then would not know of what a thread is making."""
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(None, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _settled(work)
        if undo is not None and work.exception() is None:
            await _settled(loop.run_in_executor(None, undo, work.result()))
        raise


async def _settled(work: asyncio.Future[Any]) -> None:
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError:  # it is on its way already
            continue
