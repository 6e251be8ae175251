# SPDX-License-Identifier: Apache-2.0
"""Reads TAP, the text that the suites print: `ok 1 name`, `not ok 2 name`, `ok 3 name # skip reason`, and notes after `#`."""

import re
from dataclasses import dataclass, field

VERDICT = re.compile(r"^(not )?ok\b *(\d+)?(?: *-)? *(.*?)(?: # skip\S*(?: *(.*))?)?$", re.IGNORECASE)
PLAN = re.compile(r"^1\.\.(\d+)")


@dataclass
class Case:
    name: str
    verdict: str  # "passed", "failed", "skipped", "died": no verdict came
    notes: list[str] = field(default_factory=list)  # why: the reason of a skip, what a failed case printed


def parse(text: str) -> tuple[int, list[Case]]:
    """How many cases were announced, and those that came to a verdict."""
    planned, cases = 0, []
    for line in text.splitlines():
        if found := PLAN.match(line):
            planned = max(planned, int(found[1]))
        elif found := VERDICT.match(line):
            failed, _, name, reason = found.groups()
            verdict = "failed" if failed else "skipped" if " # skip" in line.lower() else "passed"
            cases.append(Case(name, verdict, [reason] if reason else []))
        elif line.startswith("#") and cases and cases[-1].verdict == "failed":
            cases[-1].notes.append(line[1:].strip())
    return planned, cases
