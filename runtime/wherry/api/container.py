# SPDX-License-Identifier: Apache-2.0
"""A container, by its id and the state root that it is kept below."""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any

from wherry.api.bundle import Bundle
from wherry.container import lifecycle
from wherry.container.create import check_terminal, launch, prepare
from wherry.container.options import CreateOptions, absolute, default_root
from wherry.errors import DeadlineError
from wherry.kernel import native


class Container:
    """One that exists. Container.create makes one, Container(id) finds one; as a context manager it is deleted at the end."""

    def __init__(self, id: str, root: str | os.PathLike[str] | None = None) -> None:
        self.id = id
        self.root = absolute(os.fspath(root)) if root is not None else default_root()
        self._pidfd = -1  # of init, where it is our child: then its exit status can be had
        self._code: int | None = None
        lifecycle.state(self.root, id)

    @classmethod
    def create(
        cls,
        bundle: Bundle,
        id: str,
        root: str | os.PathLike[str] | None = None,
        *,
        stdio: tuple[int, int, int] = (-1, -1, -1),
        console_socket: str | None = None,
        preserve_fds: int = 0,
    ) -> Container:
        """Makes a container that waits for start. stdio: descriptors for the program, -1 = ours."""
        options = CreateOptions(absolute(os.fspath(root)) if root is not None else default_root(), id, bundle.path)
        options.config, options.stdio = bundle.data, stdio
        options.console_socket, options.preserve_fds = console_socket, preserve_fds
        prepared = prepare(options)
        check_terminal(options, prepared)
        create = launch(options, prepared)
        try:
            container = cls.__new__(cls)
            container.id, container.root, container._code = id, options.root, None
            container._pidfd = create.take_pidfd()
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
        lifecycle.start(self.root, self.id)

    def kill(self, signal: int | str = "TERM", everyone: bool = False) -> None:
        number = lifecycle.signal_number(signal) if isinstance(signal, str) else int(signal)
        lifecycle.kill(self.root, self.id, number, everyone)

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the end of the program: its exit status, 128 + signal where one ended it; None for a container that another
        process has made, whose status only its parent gets. DeadlineError at the timeout."""
        if self._code is not None:
            return self._code
        milliseconds = -1 if timeout is None else max(0, round(timeout * 1000))
        pidfd = self._pidfd
        if pidfd < 0:
            try:
                with lifecycle.opened(self.root, self.id) as record:
                    pidfd = record.pidfd()
            except ProcessLookupError:
                return None
        try:
            if not native.pidfd_wait(pidfd, milliseconds):
                raise DeadlineError(f'container "{self.id}" did not end within {timeout} s', id=self.id)
            if pidfd == self._pidfd:
                self._code = native.pidfd_reap(pidfd)
        finally:
            if pidfd != self._pidfd:
                os.close(pidfd)
        return self._code

    def delete(self, force: bool = False) -> list[str]:
        """Removes it; returns warnings (of poststop hooks)."""
        warnings = lifecycle.delete(self.root, self.id, force)
        if self._pidfd >= 0:
            if self._code is None:
                self._code = native.pidfd_reap(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return warnings

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.delete(force=True)

    def __repr__(self) -> str:
        return f"<wherry.Container {self.id!r} in {self.root}>"
