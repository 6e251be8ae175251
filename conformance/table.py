# SPDX-License-Identifier: Apache-2.0
"""Scores as tables: what each runtime came to, and each case that did not pass on the one that is judged, with its peers beside it."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tap import Case

Verdicts = dict[str, dict[str, list[Case]]]  # {runtime: {group: cases}}
ORDER = ("passed", "failed", "skipped", "died")


def tally(cases: Iterable[Case]) -> str:
    counts = Counter(case.verdict for case in cases)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict]) or "nothing"


def totals(verdicts: Verdicts) -> list[list[str]]:
    rows = [["", *ORDER, "of"]]
    for runtime, groups in verdicts.items():
        counts = Counter(case.verdict for cases in groups.values() for case in cases)
        rows.append([runtime, *(str(counts[verdict]) for verdict in ORDER), str(sum(counts.values()))])
    return rows


def differences(verdicts: Verdicts) -> list[list[str]]:
    """Each case that did not pass on the judged runtime, or not on a peer while it does there: a row."""
    runtimes = list(verdicts)
    judged = verdicts[runtimes[0]]
    rows = [["group", "case", *runtimes]]
    for group, cases in judged.items():
        others = [{case.name: case.verdict for case in verdicts[name].get(group, [])} for name in runtimes[1:]]
        for case in cases:
            row = [case.verdict, *(other.get(case.name, "-") for other in others)]
            if set(row) != {"passed"}:
                rows.append([group, case.name, *row])
    return rows


def text(verdicts: Verdicts) -> str:
    return "\n\n".join(columns(rows) for rows in (differences(verdicts), totals(verdicts)))


def columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(suite: str, version: str, verdicts: Verdicts) -> str:
    """The totals, and each row of the differences with its reason."""
    heading, *rows = differences(verdicts)
    judged = next(iter(verdicts.values()))
    told = [[*heading, "why"], *([*row, reason(suite, row, judged[row[0]])] for row in rows)]
    return "\n\n".join([f"## {suite}, {version}", grid(totals(verdicts)), grid(told)]) + "\n"


def reason(suite: str, row: list[str], cases: list[Case]) -> str:
    """What reasons.toml says of it; of what was skipped, the suite itself."""
    case = next(case for case in cases if case.name == row[1])
    if case.verdict == "skipped" and case.notes and suite == "runc-bats":
        return case.notes[0]
    if case.verdict == "passed":
        return ""
    known = tomllib.loads((Path(__file__).parent / "reasons.toml").read_text()).get(suite, {})
    for place, why in known.items():
        group, _, title = place.partition(": ")
        if re.fullmatch(group, row[0]) and re.search(title, row[1]):
            return str(why)
    return "?"


def grid(rows: list[list[str]]) -> str:
    cells = [[word.replace("|", "\\|") for word in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
