# SPDX-License-Identifier: Apache-2.0
"""A container, by its id and the state root that it is kept below."""

from __future__ import annotations

import builtins
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wherry.api.bundle import Bundle
from wherry.api.config import Config
from wherry.api.ended import Ended
from wherry.api.events import Event, Source
from wherry.container import lifecycle
from wherry.container.create import check_terminal, launch, prepare
from wherry.container.gc import container_ids
from wherry.container.options import CreateOptions, absolute, default_root
from wherry.errors import DeadlineError, StateError
from wherry.kernel import native

if TYPE_CHECKING:
    from wherry.api.runner import Completed


class Caution(str):
    """What a container does otherwise than its configuration says, as the command line logs it: "/process/capabilities: unknown: ..."."""

    @property
    def pointer(self) -> str:
        """The place in the configuration, "" where it is about none."""
        return self.partition(":")[0] if self.startswith("/") else ""


class Container:
    """One that exists. Container.create makes one, Container.open finds one; as a context manager it is deleted at the end.

    Safe in threaded programs: several threads may wait for one container, start it, kill it and delete it; each gets the same exit status,
    and a container that is deleted under somebody's hands is an error of wherry.errors, never a stranger's descriptor or pid.
    """

    def __init__(self, id: str, root: str | os.PathLike[str] | None = None) -> None:
        self._become(id, state_root(root), -1)
        lifecycle.state(self.root, id)

    def _become(self, id: str, root: str, pidfd: int, pid: int = 0) -> None:
        self.id, self.root = id, root
        self.warnings: tuple[Caution, ...] = ()
        """What its create left out or did otherwise than the configuration says; none for one that was opened."""
        self._begun = pidfd < 0  # somebody else's counts as started once it has ended
        self._lock = threading.Lock()  # guards the three below
        self._pidfd = pidfd  # of init, where it is our child: then its exit status can be had
        self._child = pid
        self._ended: Ended | None = None

    @classmethod
    def open(cls, id: str, root: str | os.PathLike[str] | None = None) -> Container:
        """The container `id`, whoever made it. NotFoundError where there is none."""
        return cls(id, root)

    @classmethod
    def list(cls, root: str | os.PathLike[str] | None = None) -> builtins.list[Container]:
        """All below a state root whose records can be read, by id."""
        found = []
        for id in container_ids(state_root(root)):
            try:
                found.append(cls(id, root))
            except StateError:  # being made or deleted this moment, or damaged: `wherry gc` looks after those
                continue
        return found

    @classmethod
    def create(
        cls,
        bundle: Bundle | Config | str | os.PathLike[str],
        id: str,
        root: str | os.PathLike[str] | None = None,
        *,
        stdio: tuple[int, int, int] = (-1, -1, -1),
        console_socket: str | None = None,
        preserve_fds: int = 0,
        new_keyring: bool = True,
    ) -> Container:
        """Makes a container that waits for start. stdio: descriptors for the program, -1 = ours; they stay the caller's to close.
        new_keyring: a session keyring of its own; each counts against its user's /proc/sys/kernel/keys/maxkeys for a while after its end.
        What the configuration asks for and cannot be done is an error; what the specification lets a runtime leave out is in `warnings`."""
        bundle = Bundle.of(bundle)
        options = CreateOptions(state_root(root), id, bundle.path)
        options.config, options.stdio = bundle.data, stdio
        options.console_socket, options.preserve_fds = console_socket, preserve_fds
        options.no_new_keyring, options.heeds = not new_keyring, True
        prepared = prepare(options)
        check_terminal(options, prepared)
        create = launch(options, prepared)
        try:
            container = cls.__new__(cls)
            container._become(id, options.root, create.take_pidfd(), create.pid)
            container.warnings = tuple(map(Caution, prepared.warnings))
            return container
        finally:
            create.close()

    def state(self) -> dict[str, Any]:
        """The state document, as it is now."""
        document: dict[str, Any] = json.loads(lifecycle.state(self.root, self.id))
        return document

    @property
    def status(self) -> str:
        """created, running, paused or stopped."""
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        return int(self.state()["pid"])

    def start(self) -> None:
        """Lets it execute its program; returns once it does."""
        self._begun = True
        try:
            lifecycle.start(self.root, self.id)
        except BaseException:
            self._begun = False
            raise

    def kill(self, signal: int | str = "TERM", everyone: bool = False) -> None:
        """Sends a signal to the first process, or to `everyone` in it. StateError where it has ended."""
        number = lifecycle.signal_number(signal) if isinstance(signal, str) else int(signal)
        lifecycle.kill(self.root, self.id, number, everyone)

    def exec(self, args: Sequence[str], **choices: Any) -> Completed:
        """Runs one more process in it and waits for its end. Choices: env, cwd, user (a number, or one and its group), input, capture, timeout
        (then it is killed with all that it has started, and DeadlineError raised)."""
        from wherry.api.running import exec_in

        return exec_in(self.root, self.id, args, **choices)

    def pause(self) -> None:
        from wherry.container.pause import pause

        pause(self.root, self.id)

    def resume(self) -> None:
        from wherry.container.pause import resume

        resume(self.root, self.id)

    def processes(self) -> builtins.list[int]:
        """Host pids of all that runs in it."""
        from wherry.container.pause import processes

        return processes(self.root, self.id)

    def update(self, resources: dict[str, Any]) -> builtins.list[str]:
        """Other limits, as linux.resources has them; what is not given stays. Returns warnings."""
        from wherry.api.running import change_limits

        return change_limits(self.root, self.id, resources)

    def stats(self) -> dict[str, Any]:
        """What it uses, as `wherry events --stats` prints it below `data`."""
        from wherry.container.stats import stats

        return stats(self.root, self.id)

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the end of the program: its exit status, 128 + signal where one ended it; None for a container that another
        process has made, whose status only its parent gets. DeadlineError at the timeout."""
        try:
            pidfd = self.pidfd()
        except ProcessLookupError:
            return self._code()
        try:
            if not _wait(pidfd, timeout):
                raise DeadlineError(f'container "{self.id}" did not end within {timeout} s', id=self.id)
        finally:
            os.close(pidfd)
        return self._code()

    def _code(self) -> int | None:
        ended = self.ended()
        return None if ended is None else ended.code

    def ended(self) -> Ended | None:
        """How the program ended and what it used; None while it runs, and for a container that another process has made."""
        with self._lock:
            if self._ended is None and self._pidfd >= 0 and native.pidfd_wait(self._pidfd, 0):
                self._ended = Ended.reap(self._child)
            return self._ended

    def pidfd(self) -> int:
        """A new pidfd of the first process, readable when it has ended; the caller's to close. ProcessLookupError when it is gone."""
        with self._lock:
            if self._pidfd >= 0:
                return os.dup(self._pidfd)
        if self._ended is not None:
            raise ProcessLookupError(3, "the container has been deleted", self.id)
        with lifecycle.opened(self.root, self.id) as record:
            return record.pidfd()

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """What happens to it, from `created` to `exited`, as it happens; an iterator begun late tells at once what has been.
        DeadlineError where nothing happens for `timeout` seconds."""
        with self.source() as source:
            while not source.finished:
                ready = source.next()
                if not ready and not source.wait(timeout):
                    raise DeadlineError(f'nothing happened to container "{self.id}" within {timeout} s', id=self.id)
                yield from ready

    def source(self) -> Source:
        """events() as a descriptor to wait for and a call that never waits, for event loops; to be closed."""
        return Source(self.root, self.id, self.pidfd, self._code, lambda: self._begun)

    def delete(self, force: bool = False) -> builtins.list[str]:
        """Removes it, with `force` even while it runs; returns warnings (of poststop hooks)."""
        warnings = lifecycle.delete(self.root, self.id, force)
        with self._lock:
            if self._pidfd >= 0:
                native.pidfd_wait(self._pidfd, -1)
                self._ended = self._ended or Ended.reap(self._child)
        self.close()
        return warnings

    def close(self) -> None:
        """Lets go of it without deleting it. From here on nobody gets its exit status."""
        with self._lock:
            pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def __del__(self) -> None:
        if hasattr(self, "_pidfd"):
            self.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.delete(force=True)

    def __repr__(self) -> str:
        return f"<wherry.Container {self.id!r} in {self.root}>"


def state_root(root: str | os.PathLike[str] | None) -> str:
    """`root`, or where the command line keeps containers too."""
    return absolute(os.fspath(root)) if root is not None else default_root()


def _wait(pidfd: int, timeout: float | None) -> bool:
    """For the end of a process; a signal, whose handler has run by then, does not end the wait."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = -1 if deadline is None else max(0, math.ceil((deadline - time.monotonic()) * 1000))
        if native.pidfd_wait(pidfd, left):
            return True
        if left == 0:
            return False
