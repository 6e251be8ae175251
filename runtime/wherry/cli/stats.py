# SPDX-License-Identifier: Apache-2.0
"""wherry stats [ID...]: what containers use, for a person as a table, for a program as JSON lines or for Prometheus."""

import json
import signal
import sys
import time
from collections.abc import Iterator

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.cli.events import seconds_of
from wherry.cli.screen import columns, is_terminal
from wherry.container.metrics import COLUMNS, Sample, follow, prometheus, require, row, samples
from wherry.errors import UsageError

FLAGS: dict[str, int | str] = {"follow": BOOL, "interval": TEXT, "format": TEXT, "f": "format"}

FORMATS = ("table", "json", "prometheus")
DEFAULT_INTERVAL_S, GLANCE_S = 1.0, 0.2


def run(call: Call) -> int:
    ids, root = call.words + call.rest, call.root()
    terminal = is_terminal(sys.stdout)
    kind = call.flags.text("format") or ("table" if terminal else "json")
    if kind not in FORMATS:
        raise UsageError(f'invalid value "{kind}" for flag -format: table, json or prometheus')
    text = call.flags.text("interval")
    interval = seconds_of(text) if text else DEFAULT_INTERVAL_S
    require(root, ids)
    try:
        if not call.flags.on("follow"):
            _once(root, ids, kind)
        elif kind == "table" and terminal:
            _live(follow(root, ids, interval))
        else:
            _again(follow(root, ids, interval), kind)
    except (BrokenPipeError, KeyboardInterrupt):
        return 0
    return 0


def _once(root: str, ids: list[str], kind: str) -> None:
    """A table is of two moments: what a container uses now is a difference."""
    before = samples(root, ids) if kind == "table" else []
    if before:
        time.sleep(GLANCE_S)
    _print(samples(root, ids), before, kind)


def _again(moments: Iterator[list[Sample]], kind: str) -> None:
    before: list[Sample] = []
    for found in moments:
        _print(found, before, kind)
        before = found


def _print(found: list[Sample], before: list[Sample], kind: str) -> None:
    if kind == "table":
        text = table(found, before)
    elif kind == "prometheus":
        text = prometheus(found)
    else:
        text = "".join(json.dumps(one.document(), separators=(",", ":")) + "\n" for one in found)
    sys.stdout.write(text)
    sys.stdout.flush()


def rows(found: list[Sample], before: list[Sample]) -> list[list[str]]:
    earlier = {one.id: one for one in before}
    return [row(one, earlier.get(one.id)) for one in found]


def table(found: list[Sample], before: list[Sample]) -> str:
    cells = [list(COLUMNS), *rows(found, before)]
    widths = [max(len(line[at]) for line in cells) + 2 for at in range(len(COLUMNS))]
    return "".join("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in cells)


def _live(moments: Iterator[list[Sample]]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the cursor comes back
    before: list[Sample] = []
    with Live(console=Console(width=columns(sys.stdout)), auto_refresh=False) as live:
        for found in moments:
            view = Table(box=None, padding=(0, 1), header_style="bold")
            for name in COLUMNS:
                view.add_column(name, justify="left" if name in ("ID", "STATUS") else "right", no_wrap=True)
            for cells in rows(found, before):
                view.add_row(*map(Text, cells))
            live.update(view, refresh=True)
            before = found
