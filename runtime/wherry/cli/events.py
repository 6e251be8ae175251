# SPDX-License-Identifier: Apache-2.0
"""wherry events ID"""

import json
import sys

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.container.stats import events, stats
from wherry.errors import UsageError

FLAGS: dict[str, int | str] = {"interval": TEXT, "stats": BOOL}

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DEFAULT_INTERVAL_S = 5.0


def run(call: Call) -> int:
    (id,) = call.positional(1, 1)
    if call.flags.on("stats"):
        _print({"type": "stats", "id": id, "data": stats(call.root(), id)})
        return 0
    text = call.flags.text("interval")
    try:
        for event in events(call.root(), id, seconds_of(text) if text else DEFAULT_INTERVAL_S):
            _print(event)
    except (BrokenPipeError, KeyboardInterrupt):
        return 0
    return 0


def _print(event: "dict[str, object]") -> None:
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def seconds_of(text: str) -> float:
    """Of Go's durations: "5s", "1m30s", "250ms"."""
    rest, total = text, 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((unit for unit in sorted(_UNITS, key=len, reverse=True) if rest[digits:].startswith(unit)), None)
        if unit is None or not digits or rest[:digits].count(".") > 1 or not rest[:digits].strip("."):
            break
        total += float(rest[:digits]) * _UNITS[unit]
        rest = rest[digits + len(unit) :]
    if rest or total <= 0:
        raise UsageError(f'invalid value "{text}" for flag -interval: a duration such as 5s, more than 0')
    return total
