# SPDX-License-Identifier: Apache-2.0
"""wherry list"""

import json
import pwd
from typing import Any

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.container.gc import container_ids, is_directory
from wherry.container.lifecycle import state
from wherry.errors import UsageError, WherryError

FLAGS: dict[str, int | str] = {"format": TEXT, "f": "format", "quiet": BOOL, "q": "quiet"}

COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")
_LEAST, _GAP = 12, 3


def run(call: Call) -> int:
    call.positional(0, 0)
    kind = call.flags.text("format") or "table"
    if kind not in ("table", "json"):
        raise UsageError(f'invalid value "{kind}" for flag -format: table or json')
    root = call.root()
    if call.globals.text("root") and not is_directory(root):
        raise UsageError(f"--root {root}: no such directory")
    if call.flags.on("quiet"):
        for id in container_ids(root):
            print(id)
        return 0
    entries = list(_entries(call, root))
    print(json.dumps(entries or None, separators=(",", ":")) if kind == "json" else table(entries))
    return 0


def _entries(call: Call, root: str) -> "list[dict[str, Any]]":
    """Every container whose record can be read; the others are told of as warnings."""
    entries = []
    for id in container_ids(root):
        try:
            entry = json.loads(state(root, id))
        except (WherryError, OSError) as error:
            call.warn([f"{id}: {error}"])
            continue
        entry["owner"] = _owner(f"{root}/{id}")
        entries.append(entry)
    return entries


def _owner(path: str) -> str:
    import os

    try:
        uid = os.stat(path).st_uid
        return pwd.getpwuid(uid).pw_name
    except FileNotFoundError:
        return ""
    except KeyError:
        return f"#{uid}"


def table(entries: "list[dict[str, Any]]") -> str:
    """Columns as runc lines them up, for scripts that cut by position."""
    rows = [[name.upper() for name in COLUMNS], *([str(entry.get(name, "")) for name in COLUMNS] for entry in entries)]
    widths = [max(_LEAST, *(len(row[at]) + _GAP for row in rows)) for at in range(len(COLUMNS))]
    widths[-1] = 0
    return "\n".join("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
