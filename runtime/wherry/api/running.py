# SPDX-License-Identifier: Apache-2.0
"""What Container does with a container that runs: one more process in it, its limits, what it uses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.api.runner import Completed, Files
from wherry.container.execute import ExecOptions, execute
from wherry.errors import DeadlineError
from wherry.kernel import native


def exec_in(
    root: str,
    id: str,
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: int | tuple[int, int] | None = None,
    input: bytes = b"",
    capture: bool = True,
    timeout: float | None = None,
) -> Completed:
    """See Container.exec."""
    options = ExecOptions(root, id, list(args))
    options.env = [f"{name}={value}" for name, value in (env or {}).items()]
    options.cwd = cwd
    if user is not None:
        options.uid, options.gid = (user, None) if isinstance(user, int) else user
    with Files(input, capture) as files:
        options.stdio = files.stdio
        create = execute(options)
        pidfd = create.take_pidfd()
        create.close()
        try:
            if not native.pidfd_wait(pidfd, -1 if timeout is None else max(0, round(timeout * 1000))):
                native.pidfd_signal(pidfd, 9)
                native.pidfd_reap(pidfd)
                raise DeadlineError(f'"{args[0]}" did not end within {timeout} s', id=id, out=files.out(), err=files.err())
            return Completed(native.pidfd_reap(pidfd), files.out(), files.err())
        finally:
            os.close(pidfd)


def change_limits(root: str, id: str, resources: dict[str, Any]) -> list[str]:
    from wherry.container.update import update

    return update(root, id, resources)
