# SPDX-License-Identifier: Apache-2.0
"""One program in a container of its own, from start to end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.api.bundle import Bundle
from wherry.api.config import Config
from wherry.api.container import Caution, Container
from wherry.errors import DeadlineError, UsageError


class Completed:
    """What a program left: its exit status, its output (b"" where it was not captured), and the warnings of its container."""

    __slots__ = ("code", "err", "out", "warnings")

    def __init__(self, code: int, out: bytes, err: bytes, warnings: tuple[Caution, ...] = ()) -> None:
        self.code, self.out, self.err, self.warnings = code, out, err, warnings

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
    with Files(input, capture) as files:
        bundle = configured(bundle, args, choices)
        with Container.create(bundle, id or f"run-{os.urandom(6).hex()}", root, stdio=files.stdio) as container:
            container.start()
            try:
                code = container.wait(timeout)
            except DeadlineError as error:
                container.kill("KILL")
                container.wait()
                error.facts.update(out=files.out(), err=files.err())
                raise
        return Completed(-1 if code is None else code, files.out(), files.err(), container.warnings)


def configured(bundle: Bundle | Config | str | os.PathLike[str], args: Sequence[str] | None, choices: Mapping[str, Any]) -> Bundle:
    """The bundle to run: a bundle or Config as it is, or a command in a root filesystem."""
    if isinstance(bundle, str | os.PathLike) and args is not None:
        return Bundle.sandbox(bundle, args, **(choices if os.geteuid() == 0 else _of_an_ordinary_user(choices)))
    if args is not None or choices:
        raise UsageError("args and choices are for a root filesystem: a bundle or Config has its own")
    return Bundle.of(bundle)


def _of_an_ordinary_user(choices: Mapping[str, Any]) -> dict[str, Any]:
    """As `wherry run --rootfs`: our own id is the program's, in a user namespace. Limits are those that were asked for: they need a cgroup of our own."""
    ids = ((os.geteuid(), choices.get("uid", 0)), (os.getegid(), choices.get("gid", 0)))
    mappings = tuple([{"containerID": inside, "hostID": outside, "size": 1}] for outside, inside in ids)
    return {"mappings": mappings, "limits": not choices.keys().isdisjoint(("memory", "processors", "processes")), **choices}


class Files:
    """What a program reads and writes where it is captured: memory files. Closed at the end of the `with`."""

    __slots__ = ("_capture", "_files", "stdio")

    def __init__(self, input: bytes, capture: bool) -> None:
        self._capture = capture
        self._files = [memory_file("stdin", input)]
        try:
            for name in ("stdout", "stderr") if capture else ():
                self._files.append(memory_file(name))
        except BaseException:
            self.__exit__()
            raise
        self.stdio = (self._files[0], self._files[1], self._files[2]) if capture else (self._files[0], -1, -1)

    def out(self) -> bytes:
        return _content(self._files[1]) if self._capture else b""

    def err(self) -> bytes:
        return _content(self._files[2]) if self._capture else b""

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file)


def memory_file(name: str, content: bytes = b"") -> int:
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
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
