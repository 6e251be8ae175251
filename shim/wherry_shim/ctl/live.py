# SPDX-License-Identifier: Apache-2.0
"""`stats`: what containers use, in a table that is drawn anew with each round of samples."""

from datetime import timedelta

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from wherry_shim.client.types import Sample
from wherry_shim.ctl.common import ID, SPAN, Settings, as_json, columns, settings, size

HEADS = ("ID", "CPU %", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN", "OOM", "PRESSURE cpu/mem/io")


class Rows:
    """The newest sample of each container, and the one before it, of which the CPU's share is made."""

    def __init__(self) -> None:
        self.newest: dict[str, Sample] = {}
        self.before: dict[str, Sample] = {}
        self.round = 0

    def add(self, sample: Sample) -> bool:
        """Whether a new round has begun with it."""
        again = sample.id in self.newest and sample.time != self.newest[sample.id].time
        if again:
            self.before[sample.id] = self.newest[sample.id]
        self.newest[sample.id] = sample
        return again

    def forget(self, alive: float) -> None:
        """What has had no sample for so many seconds behind the newest."""
        times = [one.time for one in self.newest.values() if one.time]
        for id, one in list(self.newest.items()):
            if one.time and (max(times) - one.time).total_seconds() > alive:
                self.newest.pop(id)
                self.before.pop(id, None)

    def cpu(self, sample: Sample) -> str:
        before = self.before.get(sample.id)
        if before is None or before.time is None or sample.time is None:
            return "-"
        seconds = (sample.time - before.time).total_seconds()
        return f"{(sample.cpu_usec - before.cpu_usec) / seconds / 1e4:.1f}" if seconds > 0 else "-"

    def cells(self) -> list[tuple[str, ...]]:
        return [
            (
                one.id,
                self.cpu(one),
                size(one.memory_bytes),
                size(one.memory_limit_bytes) if one.memory_limit_bytes else "-",
                f"{one.pids}/{one.pids_limit}" if one.pids_limit else str(one.pids),
                size(one.read_bytes),
                size(one.written_bytes),
                str(one.oom_kills),
                f"{one.cpu_pressure:.1f}/{one.memory_pressure:.1f}/{one.io_pressure:.1f}",
            )
            for one in sorted(self.newest.values(), key=lambda one: one.id)
        ]

    def table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for head in HEADS:
            table.add_column(head, justify="left" if head == "ID" else "right", no_wrap=True)
        for cells in self.cells():
            table.add_row(*cells)
        return table


@click.command()
@click.argument("ids", type=ID, nargs=-1)
@click.option("--interval", type=SPAN, default="1s", show_default=True, metavar="TIME")
@click.option("--once", is_flag=True, help="one sample of each")
@click.option("--json", "json", is_flag=True, help="one JSON object a line")
@settings
def stats(settings: Settings, ids: tuple[str, ...], interval: timedelta, once: bool, json: bool) -> None:
    """Show what containers use: all that run, or the named ones."""
    rows, console = Rows(), Console()
    with settings.client() as client, client.stats(ids, interval=interval, once=once) as samples:
        if json or once or not console.is_terminal:
            for sample in samples:
                if json:
                    click.echo(as_json(sample, None))
                elif rows.add(sample) and not once:
                    columns(HEADS, rows.cells())
            if once and not json:
                columns(HEADS, rows.cells())
            return
        with Live(rows.table(), console=console, auto_refresh=False, screen=False) as live:
            for sample in samples:
                if rows.add(sample) or len(rows.newest) > len(rows.before):
                    rows.forget(3 * interval.total_seconds() + 1)
                    live.update(rows.table(), refresh=True)
