# SPDX-License-Identifier: Apache-2.0
"""wherry's own cases: tests/integration, run on any runtime. A case that is about wherry alone, or goes beyond what runc does, is marked
`ours` and skipped there; every other one must pass on runc too before it counts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tap

TREE = Path(__file__).resolve().parents[1]
CGROUPS: tuple[str, ...] = ()
WORDS = ("passed", "failed", "skipped")


def lacking(checkout: Path) -> list[str]:
    try:
        import pytest  # noqa: F401
    except ImportError:
        return ["pytest (run this with the Python of `make setup`: .venv/bin/python)"]
    return []


def groups(checkout: Path) -> list[str]:
    return sorted(path.stem for path in (TREE / "tests/integration").glob("test_*.py"))


def run(checkout: Path, runtime: Path, place: Path, group: str, only: str | None, log: Path) -> Iterator[tap.Case]:
    report = place / "own.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--report-json={report}", "--front=on", *(["-k", only] if only else [])]
    peer = runtime != Path(sys.executable).parent / "wherry"
    file = TREE / "tests/integration" / f"{group}.py"
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, *(["--runtime", str(runtime)] if peer else []), str(file)],
            cwd=TREE, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    if not report.exists():
        yield tap.Case(group, "died", [f"pytest ended with status {done.returncode}"])
        return
    for name, verdict in json.loads(report.read_text()).items():
        yield tap.Case(re.sub(r"^.*?::", "", name), next((word for word in WORDS if str(verdict).startswith(word)), "died"))


def version(checkout: Path) -> str:
    done = subprocess.run(["git", "-C", TREE, "describe", "--always", "--tags"], capture_output=True, text=True)
    return done.stdout.strip()
