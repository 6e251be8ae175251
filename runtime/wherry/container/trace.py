# SPDX-License-Identifier: Apache-2.0
"""--trace FILE: when each phase and each step of a plan ran, as a Chrome trace (chrome://tracing, ui.perfetto.dev), in a file that ends in
.otlp.json for OpenTelemetry (wherry.container.otlp); and the same for --debug, which has it in words (wherry.cli.debug).

Python's phases are noted here. The steps are stamped by whoever runs them (csrc/core/execute.c, csrc/host/serve.c), in memory that the
three executors share: a memfd that the launcher inherits, maps and closes, whose mapping ends when the user's program is executed. All stamps are of
CLOCK_REALTIME, since a time namespace moves every other clock. Loaded with --trace or --debug only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from mmap import mmap
from struct import iter_unpack
from typing import TYPE_CHECKING, Any

from wherry.container.create import listen_environment
from wherry.errors import UsageError
from wherry.kernel.native import Failure, constants
from wherry.plan.describe import EXECUTORS, Plan
from wherry.plan.encode import HEADER

if TYPE_CHECKING:
    from wherry.container.options import Traced

ROWS = {"python": 1, **{name: 1 + number for number, name in EXECUTORS.items()}}
"""The rows of the picture, by name: what Chrome's format calls a process."""

OTLP = ".otlp.json"
_MFD_NOEXEC_SEAL = 8


Stamps = list[tuple[int, int]]


@contextmanager
def record(options: Traced, path: str | None, preserved: int, told: Callable[[Timeline, Stamps], None] | None = None) -> Iterator[None]:
    """What happens inside is written to `path`, a failure too, and `told`. Refuses the file before anything else is done."""
    timeline = options.timeline = Timeline(path, preserved, told)
    try:
        yield
    except BaseException as error:
        timeline.write(error)
        raise
    timeline.write()


class Timeline:
    """What is known so far. `spans`: (name, begin, end) of Python's phases, in nanoseconds; the last one is open."""

    def __init__(self, path: str | None, preserved: int = 0, told: Callable[[Timeline, Stamps], None] | None = None) -> None:
        self.path, self.told = path, told
        self.spans: list[tuple[str, int, int]] = []
        self.plan: bytes | None = None
        self.pid = 0  # of init, once there is one
        self._done = False
        self._phase: tuple[str, int] | None = None
        self._shared: mmap | None = None
        self._memfd = -1
        _check_preserved(preserved + (int(os.environ["LISTEN_FDS"]) if listen_environment() else 0))
        self._file = -1
        if path is None:
            return
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
        except OSError as error:
            raise UsageError(f"--trace {path}: {(error.strerror or '').lower()}", code="WHERRY-USAGE-FILE") from error

    def phase(self, name: str) -> None:
        """Begins one, which ends that before it."""
        now = time.time_ns()
        if self._phase:
            self.spans.append((*self._phase, now))
        self._phase = (name, now)

    def memory(self, plan: bytes) -> tuple[int, mmap]:
        """For the stamps of this plan; what was there of an attempt before it is forgotten."""
        self.plan = plan
        if self._memfd >= 0:
            os.close(self._memfd)
        self._memfd = _memfd()
        size = max(HEADER.unpack_from(plan)[6], 1) * 16
        os.ftruncate(self._memfd, size)
        self._shared = mmap(self._memfd, size)
        return self._memfd, self._shared

    def write(self, error: BaseException | None = None) -> None:
        """Once. What is done is done: where the file cannot take it, that is said and nothing more."""
        if self._done:
            return
        self._done = True
        if self._phase:
            self.spans.append((*self._phase, time.time_ns()))
        stamps = list(iter_unpack("<QQ", self._shared[:])) if self._shared else []
        if self._memfd >= 0:
            os.close(self._memfd)
        if self.told is not None:
            self.told(self, stamps)
        if self._file < 0:
            return
        data = json.dumps(self._document(stamps, error), indent=1).encode()
        try:
            with open(self._file, "wb") as file:
                file.write(data)
        except OSError as failed:
            print(f"--trace {self.path}: {(failed.strerror or '').lower()}", file=sys.stderr)


    def _document(self, stamps: Stamps, error: BaseException | None) -> dict[str, Any]:
        if not (self.path or "").endswith(OTLP):
            return document(self.spans, self.plan, stamps, error)
        from wherry.container.otlp import request

        names = {number: name for name, number in ROWS.items()}
        return request(_events(self.spans, self.plan, stamps, error), names, None if error is None else str(error), os.environ)


def _check_preserved(count: int) -> None:
    """What we open takes the lowest free number, and must not be taken for a descriptor that the container is to get."""
    for number in range(3, 3 + count):
        try:
            os.fstat(number)
        except OSError as error:
            raise UsageError(f"descriptor {number} is to be preserved, but it is not open", code="WHERRY-USAGE") from error


def _memfd() -> int:
    try:
        return os.memfd_create("wherry-trace", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:  # before 6.3
        return os.memfd_create("wherry-trace", os.MFD_CLOEXEC)


# ---- the document


def document(
    phases: list[tuple[str, int, int]], plan: bytes | None, stamps: list[tuple[int, int]], error: BaseException | None = None
) -> dict[str, Any]:
    """`stamps`: (begin, end) of each step of the plan; a begin of 0 = it did not run, an end of 0 = it did not come back."""
    events = _events(phases, plan, stamps, error)
    began = min((event["ts"] for event in events), default=0)
    for event in events:
        event["ts"], event["dur"] = (event["ts"] - began) / 1000, event["dur"] / 1000
    other = {"began": datetime.fromtimestamp(began / 1e9, UTC).isoformat()}
    if error is not None:
        other["error"] = str(error)
    return {"traceEvents": [*_rows(), *events], "displayTimeUnit": "ms", "otherData": other}


def _events(phases: list[tuple[str, int, int]], plan: bytes | None, stamps: Stamps, error: BaseException | None) -> list[dict[str, Any]]:
    """`ts` (since the clock's beginning) and `dur` in nanoseconds."""
    events = [_event("python", name, begin, end, {}) for name, begin, end in phases]
    if plan is not None:
        events += _steps(plan, stamps, max((end for _, _, end in phases), default=0), error)
    return events


def _rows() -> Iterator[dict[str, Any]]:
    for name, number in ROWS.items():
        yield {"ph": "M", "name": "process_name", "pid": number, "tid": number, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": number, "tid": number, "args": {"sort_index": number}}


def _event(row: str, name: str, begin: int, end: int, args: dict[str, Any]) -> dict[str, Any]:
    """The clock may have been set back meanwhile."""
    return {"ph": "X", "name": name, "pid": ROWS[row], "tid": ROWS[row], "ts": begin, "dur": max(end - begin, 0), "args": args}


def _steps(plan: bytes, stamps: list[tuple[int, int]], now: int, error: BaseException | None) -> Iterator[dict[str, Any]]:
    failure = _failure(error)
    for step, (begin, end) in zip(Plan(plan).steps, stamps, strict=False):
        # init waits for a start that this command does not wait for
        if not begin or (step.name == "WAIT_START" and not end):
            continue
        args: dict[str, Any] = {"step": step.number, "pointer": step.place}
        if failure is not None and step.number == failure.step + 1:
            args["error"] = os.strerror(failure.error).lower() if failure.error < constants.WHERRY_REFUSED_FIRST else "refused"
        # an EXECUTE that goes well has no end of its own: it is over when the runtime knows of it
        yield _event(step.executor, step.text, begin, end or now, args)


def _failure(error: BaseException | None) -> Failure | None:
    while error is not None and not isinstance(error, Failure):
        error = error.__cause__
    return error
