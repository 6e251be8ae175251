# SPDX-License-Identifier: Apache-2.0
"""One program in a container of its own, from start to end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from wherry.api.bundle import Bundle
from wherry.api.config import Config
from wherry.api.container import Container
from wherry.errors import DeadlineError, UsageError


class Completed:
    """What a program left: its exit status and its output (b"" where it was not captured)."""

    __slots__ = ("code", "err", "out")

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"Completed(code={self.code}, out={self.out!r}, err={self.err!r})"


def run(
    bundle: Bundle | Config | str | os.PathLike[str],
    args: Sequence[str] | None = None,
    *,
    id: str | None = None,
    root: str | os.PathLike[str] | None = None,
    input: bytes = b"",
    capture: bool = True,
    timeout: float | None = None,
    **choices: Any,
) -> Completed:
    """Runs a bundle, or a Config; or, given `args`, a command in a root filesystem, with a safe default around it (Bundle.sandbox, whose
    choices may be given). Nothing is left. At the timeout the container is killed and DeadlineError raised, with `out` and `err`.

    Output is captured in memory files, not in pipes: no thread has to read while the program runs, and none can be forgotten.
    """
    if isinstance(bundle, str | os.PathLike) and args is not None:
        bundle = Bundle.sandbox(bundle, args, **choices)
    elif args is not None or choices:
        raise UsageError("args and choices are for a root filesystem: a bundle or Config has its own")
    files = [_memory_file("stdin", input), *((_memory_file("stdout"), _memory_file("stderr")) if capture else ())]
    try:
        stdio = (files[0], files[1], files[2]) if capture else (files[0], -1, -1)
        with Container.create(bundle, id or f"run-{os.urandom(6).hex()}", root, stdio=stdio) as container:
            container.start()
            try:
                code = container.wait(timeout)
            except DeadlineError as error:
                container.kill("KILL")
                container.wait()
                error.facts.update(out=_content(files[1]) if capture else b"", err=_content(files[2]) if capture else b"")
                raise
        assert code is not None, "init is our child"
        return Completed(code, _content(files[1]) if capture else b"", _content(files[2]) if capture else b"")
    finally:
        for file in files:
            os.close(file)


def _memory_file(name: str, content: bytes = b"") -> int:
    file = os.memfd_create(name, os.MFD_CLOEXEC)
    os.fchmod(file, 0o777)  # the program may open /dev/stdout again, as another user
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _content(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", closefd=False) as reader:
        return reader.read()
