# SPDX-License-Identifier: Apache-2.0
"""--debug: what --trace draws, in words: each phase and each step of the plan that ran, one line each, in the order in which they began.

Lines begin with who did it: caller, launcher, init. A few lines hold words that runc writes at the same place, for those who search
logs for them: `nsexec container setup` (the launcher begins), `child process in init()` (the container's first process does), `closing the
pipe to signal completion`, `setns_init: about to exec`, `seccomp filter flags: N`, `exeseal`, `nsexec: affinity: MASK`. docs/command-line.md
lists them. Nothing of the environment or of annotations is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wherry.cli.log import tell
from wherry.plan.describe import Plan, Step

if TYPE_CHECKING:
    from wherry.cli import Call
    from wherry.container.trace import Stamps, Timeline

Line = tuple[int, str, dict[str, str]]
_LONGEST = 300
_PRIVATE = ("CLAIM", "PROGRAM", "HOOK", "PUBLISH", "LISTENER")
"""Steps whose text holds environments, or documents with annotations."""


def lines(call: Call) -> Callable[[Timeline, Stamps], None] | None:
    """Who is told when it is over; None without --debug."""
    return (lambda timeline, stamps: _tell(call, timeline, stamps)) if call.globals.on("debug") else None


def _tell(call: Call, timeline: Timeline, stamps: Stamps) -> None:
    found: list[Line] = [(begin, _phase(name), {}) for name, begin, _ in timeline.spans]
    if timeline.plan is not None:
        found += _of_plan(Plan(timeline.plan), stamps, timeline.pid, call.name())
    for when, text, fields in sorted(found, key=lambda line: line[0]):
        tell(call, "debug", text, fields, when / 1e9)


def _phase(name: str) -> str:
    return f"nsexec: {name}" if name.startswith("affinity:") else f"caller: {name}"


def _of_plan(plan: Plan, stamps: Stamps, pid: int, name: str) -> Iterator[Line]:
    executing = "exec" in plan.flags
    seen: set[str] = set()
    for step, (begin, end) in zip(plan.steps, stamps, strict=False):
        if not begin:
            continue
        for text in _before(step, name, executing, pid, step.executor not in seen):
            yield begin, text, {}
        seen.add(step.executor)
        text = step.text.partition("; ")[0].partition(" with ")[0] if step.name in _PRIVATE else step.text
        fields = {"step": f"{step.number}/{len(plan.steps)}"}
        if step.place:
            fields["pointer"] = step.place
        if end:
            fields["us"] = str(max(end - begin, 0) // 1000)
        yield begin, f"{step.executor}: {text[:_LONGEST]}", fields


def _before(step: Step, name: str, executing: bool, pid: int, first: bool) -> Iterator[str]:
    """Where a process or a stage begins."""
    if step.name == "LAUNCH":
        yield f"{name} exeseal: using /proc/self/exe clone, sealed: nothing in the container can reach the program's file"
    if first and step.executor == "launcher":
        yield "launcher: nsexec container setup: joins namespaces, clones init"
    if first and step.executor == "init":
        yield f"init: child process in init(){f', pid {pid}' if pid else ''}"
    if step.name == "SECCOMP":
        yield f"seccomp filter flags: {step.fields['flags']}"
    if step.name == "WAIT_START":
        yield "init: closing the pipe to signal completion"
    if step.name == "EXECUTE":
        yield "setns_init: about to exec" if executing else "init: about to exec"
