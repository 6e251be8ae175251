# SPDX-License-Identifier: Apache-2.0
"""wherry gc: finishes or undoes what crashes left behind."""

import json

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.container.gc import collect
from wherry.errors import UsageError

FLAGS: dict[str, int | str] = {"dry-run": BOOL, "n": "dry-run", "format": TEXT, "f": "format"}


def run(call: Call) -> int:
    call.positional(0, 0)
    kind = call.flags.text("format") or "text"
    if kind not in ("text", "json"):
        raise UsageError(f'invalid value "{kind}" for flag -format: text or json')
    findings = collect(call.root(), call.flags.on("dry-run"))
    if kind == "json":
        print(json.dumps([finding.document() for finding in findings]))
    for finding in findings if kind == "text" else ():
        print(f"{finding.id}: {finding.what}: {finding.done or 'left as it is'}")
        for entry in finding.journal:
            print(f"    {entry}")
    return 0 if all(finding.done == "removed" or call.flags.on("dry-run") for finding in findings) else 1
