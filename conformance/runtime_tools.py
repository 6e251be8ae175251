# SPDX-License-Identifier: Apache-2.0
"""opencontainers/runtime-tools, validation/: programs that print TAP, each one a score of its own, as their README counts.

The checkout must be ready: the programs and `runtimetest` built by its own Makefile (`make runtimetest validation-executables`).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import tap
import terminal

CGROUPS = ("cgrouptest", "testdir")  # that it leaves
SECONDS = 120


def lacking(checkout: Path) -> list[str]:
    if not (checkout / "validation").is_dir():
        return [f"{checkout} is no checkout of opencontainers/runtime-tools"]
    if not (checkout / "runtimetest").exists() or not groups(checkout):
        return [f"the suite's programs (make -C {checkout} runtimetest validation-executables)"]
    return []


def groups(checkout: Path) -> list[str]:
    return sorted(path.stem for path in (checkout / "validation").glob("*/*.t"))


def run(checkout: Path, runtime: Path, place: Path, group: str, only: str | None, log: Path) -> Iterator[tap.Case]:
    """One program is one case: failed where a line says so, died where it ended early or badly, no verdict where it said nothing."""
    temporary = place / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "RUNTIME": str(runtime), "TMPDIR": str(temporary), "TERM": "xterm"}
    outcome = terminal.run([str(checkout / "validation" / group / f"{group}.t")], environment, checkout, SECONDS)
    log.write_text(outcome.text)
    shutil.rmtree(temporary, ignore_errors=True)
    planned, lines = tap.parse(outcome.text)
    notes = [f"{line.name}" for line in lines if line.verdict == "failed"]
    yield tap.Case(group, verdict(outcome, planned, lines), notes or outcome.text.splitlines()[-3:])


def verdict(outcome: terminal.Outcome, planned: int, lines: list[tap.Case]) -> str:
    if any(line.verdict == "failed" for line in lines):
        return "failed"
    if outcome.status or (planned and len(lines) < planned):
        return "died"
    if not lines or all(line.verdict == "skipped" for line in lines):
        return "skipped"
    return "passed"


def version(checkout: Path) -> str:
    done = subprocess.run(["git", "-C", checkout, "describe", "--always", "--tags"], capture_output=True, text=True)
    return re.sub(r"\s+", "", done.stdout) or "version " + (checkout / "VERSION").read_text().strip()
