# SPDX-License-Identifier: Apache-2.0
"""The event loop of a server: one thread, one epoll, timers, and coroutines (`async def`) without asyncio, which would cost 10 MB.

    task = loop.start(service.wait({"id": "a"}))     runs it up to its first wait
    task.then(lambda task: ...)                      called once, when it has ended (at once where it has)
    task.result()                                    its value, or raises what it raised

A coroutine waits for a Later: `value = await later`. What blocks (a file system, a hook) goes to a thread of its own: `await
loop.in_thread(function)`. All but soon() and in_thread()'s function belong to the loop's thread.
"""

import posix
import select
from _thread import start_new_thread
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any

EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLHUP, EPOLLERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLPRI, select.EPOLLHUP, select.EPOLLERR

NEVER = float("inf")
_BUSY_ROUNDS = 8


class Cancelled(Exception):
    """Nobody waits for this any more."""


class Later:
    """A value that is there later, or an error in its place."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: "Any" = None
        self._error: "BaseException | None" = None
        self._callbacks: "list[Callable[[Any], None]] | None" = None

    def set(self, value: "Any" = None) -> None:
        """The first end is the one that counts."""
        self._end(value, None)

    def fail(self, error: BaseException) -> None:
        self._end(None, error)

    def _end(self, value: "Any", error: "BaseException | None") -> None:
        if self.done:
            return
        self.done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            for callback in callbacks:
                callback(self)

    def then(self, callback: "Callable[[Any], None]") -> None:
        if self.done:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def forget(self, callback: "Callable[[Any], None]") -> None:
        if self._callbacks is not None and callback in self._callbacks:
            self._callbacks.remove(callback)

    def result(self) -> "Any":
        if self._error is not None:
            raise self._error
        return self._value

    def __await__(self) -> "Generator[Later, None, Any]":
        if not self.done:
            yield self
        return self.result()


class Task(Later):
    """A coroutine that runs. cancel() raises Cancelled where it waits."""

    __slots__ = ("_coroutine", "_waits")

    def __init__(self, coroutine: "Coroutine[Later, None, Any]") -> None:
        Later.__init__(self)
        self._coroutine = coroutine
        self._waits: "Later | None" = None
        self._step(None)

    def _step(self, error: "BaseException | None") -> None:
        try:
            later = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as end:
            self.set(end.value)
        except Exception as failure:
            self.fail(failure)
        else:
            self._waits = later
            later.then(self._continue)

    def _continue(self, later: Later) -> None:
        if self._waits is later:  # else it was cancelled meanwhile
            self._waits = None
            self._step(None)

    def cancel(self) -> None:
        waits, self._waits = self._waits, None
        if not self.done and waits is not None:
            waits.forget(self._continue)
            self._step(Cancelled())


class Timer:
    __slots__ = ("_loop", "at", "callback")

    def __init__(self, loop: "Loop", at: float, callback: "Callable[[], None]") -> None:
        self._loop, self.at, self.callback = loop, at, callback

    def cancel(self) -> None:
        self._loop.forget(self)


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: "dict[int, Callable[[int], None]]" = {}
        self._timers: "list[Timer]" = []
        self._due = NEVER
        self._soon: "list[Callable[[], None]]" = []
        self._behind: "list[Callable[[], None]]" = []
        self._afterwards: "list[Callable[[], None]]" = []
        self._busy = 0
        self._wake = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        self._running = False
        self.threads = 0
        self.active = monotonic()
        """When something was ready last."""
        self.on_error: "Callable[[BaseException], None]" = _raise
        """Gets what a callback raises; the loop goes on."""
        self._epoll.register(self._wake, EPOLLIN)

    # ---- descriptors

    def watch(self, fd: int, callback: "Callable[[int], None]", events: int = EPOLLIN) -> None:
        """Calls back with the events whenever there are some (level-triggered), until unwatch()."""
        self._epoll.register(fd, events)
        self._watched[fd] = callback

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Before the descriptor is closed; what is not watched is no error."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watches(self, fd: int) -> bool:
        return fd in self._watched

    def watched(self) -> "set[int]":
        return set(self._watched)

    def readable(self, fd: int, seconds: float) -> Later:
        """Once: has its value, the events, when there are some; 0 where there were none in this time."""
        later = Later()

        def ready(events: int) -> None:
            self.unwatch(fd)
            timer.cancel()
            later.set(events)

        timer = self.timer(seconds, lambda: ready(0))
        self.watch(fd, ready)
        return later

    # ---- time

    def timer(self, seconds: float, callback: "Callable[[], None]") -> Timer:
        timer = Timer(self, monotonic() + seconds, callback)
        self._timers.append(timer)
        if timer.at < self._due:
            self._due = timer.at
        return timer

    def forget(self, timer: Timer) -> None:
        """One that has run already is no error."""
        if timer in self._timers:
            self._timers.remove(timer)
            if timer.at == self._due:
                self._look_for_due()

    def sleep(self, seconds: float) -> Later:
        later = Later()
        self.timer(seconds, later.set)
        return later

    def timers(self) -> "set[Timer]":
        """Those that are set."""
        return set(self._timers)

    def _look_for_due(self) -> None:
        self._due = min([timer.at for timer in self._timers], default=NEVER)

    def _run_timers(self, now: float) -> None:
        for timer in [timer for timer in self._timers if timer.at <= now]:
            if timer in self._timers:  # one before it may have cancelled it
                self._timers.remove(timer)
                self._guarded(timer.callback)
        self._look_for_due()

    # ---- coroutines and threads

    def start(self, coroutine: "Coroutine[Later, None, Any]") -> Task:
        return Task(coroutine)

    def soon(self, callback: "Callable[[], None]") -> None:
        """From any thread: calls it in the loop's."""
        self._soon.append(callback)
        posix.eventfd_write(self._wake, 1)

    @property
    def pending(self) -> bool:
        """Somebody has called soon(), behind() or afterwards()."""
        return bool(self._soon or self._behind or self._afterwards)

    def behind(self, callback: "Callable[[], None]") -> None:
        """Calls it, once, when the descriptor's callback that runs now has returned: what the one that it answers need not wait for."""
        self._behind.append(callback)

    def afterwards(self, callback: "Callable[[], None]") -> None:
        """Calls it, once, when no descriptor is ready any more: what nobody waits for. After a few busy rounds all the same."""
        self._afterwards.append(callback)

    def in_thread(self, function: "Callable[[], Any]") -> Later:
        """Runs what blocks beside the loop; the value is what it returns."""
        later = Later()

        def run() -> None:
            try:
                value = function()
            except BaseException as error:
                failure = error
                self.soon(lambda: finish(lambda: later.fail(failure)))
            else:
                self.soon(lambda: finish(lambda: later.set(value)))

        def finish(end: "Callable[[], None]") -> None:
            self.threads -= 1
            end()

        self.threads += 1
        start_new_thread(run, ())
        return later

    # ---- running

    def run(self, until: "Later | None" = None) -> None:
        """To stop(), or to the end of `until`."""
        self._running = True
        if until is not None:
            until.then(lambda _: self.stop())
        while self._running:
            self.step()

    def step(self, most: float = -1) -> None:
        """Waits once (at most so many seconds; -1 = until something happens) and serves what is ready."""
        wait: float = -1
        if self._timers:
            now = monotonic()
            if self._due <= now:
                self._run_timers(now)
                now = monotonic()
            wait = max(0.0, self._due - now) if self._timers else -1
        if self._behind:  # of a timer, or of a call that is no descriptor's
            self._run_behind()
        if not self._running and most < 0:
            return
        if most >= 0:
            wait = most if wait < 0 else min(wait, most)
        ready = self._epoll.poll(0 if self._afterwards else wait)
        if ready:
            self.active = monotonic()
        for fd, events in ready:
            if fd == self._wake:
                self._woken()
                continue
            callback = self._watched.get(fd)
            if callback is not None:
                try:
                    callback(events)
                except Exception as error:
                    self.on_error(error)
                if self._behind:
                    self._run_behind()
        if self._afterwards:
            self._run_afterwards(bool(ready))

    def _run_behind(self) -> None:
        callbacks, self._behind = self._behind, []
        for callback in callbacks:
            self._guarded(callback)

    def _run_afterwards(self, busy: bool) -> None:
        self._busy = self._busy + 1 if busy else 0
        if busy and self._busy < _BUSY_ROUNDS:
            return
        self._busy = 0
        posix.sched_yield()  # who has been answered was woken on our processor, as one that is to be free soon
        callbacks, self._afterwards = self._afterwards, []
        for callback in callbacks:
            self._guarded(callback)

    def stop(self) -> None:
        """run() returns after this round. Only from the loop's thread; elsewhere soon(loop.stop)."""
        self._running = False

    def _woken(self) -> None:
        posix.eventfd_read(self._wake)
        callbacks = self._soon[:]
        del self._soon[: len(callbacks)]  # never a new list: another thread may be about to append to this one
        for callback in callbacks:
            self._guarded(callback)

    def _guarded(self, callback: "Callable[[], None]") -> None:
        try:
            callback()
        except Exception as error:
            self.on_error(error)

    def close(self) -> None:
        self._epoll.close()
        posix.close(self._wake)


def _raise(error: BaseException) -> None:
    raise error
