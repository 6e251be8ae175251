# SPDX-License-Identifier: Apache-2.0
"""What Container does with a container that runs: one more process in it, its limits, what it uses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from wherry.api.runner import Completed, Files
from wherry.container.execute import ExecOptions, execute
from wherry.errors import DeadlineError
from wherry.kernel import native


class Running:
    """One more process in a container, until its end is known. Whoever lets go of it earlier kills it."""

    def __init__(self, id: str, name: str, files: Files, pid: int, pidfd: int) -> None:
        self.id, self.name, self.pid, self.pidfd = id, name, pid, pidfd
        self._files, self._reaped = files, False

    @classmethod
    def begin(
        cls,
        root: str,
        id: str,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: int | tuple[int, int] | None = None,
        input: bytes = b"",
        capture: bool = True,
        adopts: bool = False,
    ) -> Running:
        """See Container.exec. adopts: the process gets what its descendants leave, and all of them are killed with it."""
        options = ExecOptions(root, id, list(args))
        options.adopts = adopts
        options.env = [f"{name}={value}" for name, value in (env or {}).items()]
        options.cwd = cwd
        if user is not None:
            options.uid, options.gid = (user, None) if isinstance(user, int) else user
        files = Files(input, capture)
        try:
            options.stdio = files.stdio
            create = execute(options)
            running = cls(id, args[0], files, create.pid, create.take_pidfd())
            create.close()
            return running
        except BaseException:
            files.__exit__()
            raise

    def completed(self) -> Completed:
        """When the pidfd is readable."""
        code = native.pidfd_reap(self.pidfd)
        self._reaped = True
        return Completed(code, self._files.out(), self._files.err())

    def given_up(self, timeout: float | None) -> DeadlineError:
        """Kills it, and what it has started."""
        self._kill()
        message = f'"{self.name}" did not end within {timeout} s'
        return DeadlineError(message, id=self.id, out=self._files.out(), err=self._files.err())

    def _kill(self) -> None:
        if not self._reaped:
            with suppress(OSError):  # whoever cannot be found: the process itself is killed in any case
                native.kill_tree(self.pid, self.pidfd)
            native.pidfd_reap(self.pidfd)
            self._reaped = True

    def close(self) -> None:
        if self.pidfd >= 0:
            self._kill()
            os.close(self.pidfd)
            self.pidfd = -1
            self._files.__exit__()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exec_in(root: str, id: str, args: Sequence[str], *, timeout: float | None = None, **choices: Any) -> Completed:
    """See Container.exec."""
    with Running.begin(root, id, args, adopts=timeout is not None, **choices) as running:
        if not native.pidfd_wait(running.pidfd, -1 if timeout is None else max(0, round(timeout * 1000))):
            raise running.given_up(timeout)
        return running.completed()


def change_limits(root: str, id: str, resources: dict[str, Any]) -> list[str]:
    from wherry.container.update import update

    return update(root, id, resources)
