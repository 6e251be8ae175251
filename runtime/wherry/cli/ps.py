# SPDX-License-Identifier: Apache-2.0
"""wherry ps ID [PS OPTIONS]"""

import json
import subprocess

from wherry.cli import Call
from wherry.cli.arguments import TEXT
from wherry.cli.help import wrong_number
from wherry.container.pause import processes
from wherry.errors import HostError, UsageError

FLAGS: dict[str, int | str] = {"format": TEXT, "f": "format"}
FLAGS_FIRST = True
"""What stands behind the ID is for ps(1)."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(call: Call) -> int:
    words = call.words + call.rest
    if not words:
        raise wrong_number("ps", 0, 1)
    kind = call.flags.text("format") or "table"
    if kind not in ("table", "json"):
        raise UsageError(f'invalid value "{kind}" for flag -format: table or json')
    pids = processes(call.root(), words[0])
    if kind == "json":
        print(json.dumps(pids or None))
        return 0
    options = words[2:] if words[1:2] == ["--"] else words[1:]
    print("\n".join(rows_of(_listing(options or ["-ef"]), pids)))
    return 0


def rows_of(listing: list[str], pids: list[int]) -> list[str]:
    """The head line of a ps listing, and its lines that are about one of these pids."""
    columns = listing[0].split() if listing else []
    if "PID" not in columns:
        raise HostError('the output of ps has no column "PID"', code="WHERRY-HOST-PROGRAM", remedy="choose ps options that print it")
    at, wanted = columns.index("PID"), {str(pid) for pid in pids}
    return [listing[0], *(line for line in listing[1:] if line.split()[at : at + 1] and line.split()[at] in wanted)]


def _listing(options: list[str]) -> list[str]:
    """What ps(1) prints. Engines call with an empty environment: it is looked up in the usual places."""
    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, errors="replace", env={"PATH": _PATH}, check=False)
    except FileNotFoundError:
        raise HostError("ps is not installed", code="WHERRY-HOST-PROGRAM", remedy="install procps, or take --format json") from None
    if done.returncode:
        raise UsageError(f"ps {' '.join(options)}: {done.stderr.strip() or f'exit status {done.returncode}'}".splitlines()[0])
    return done.stdout.splitlines()
