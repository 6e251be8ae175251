# SPDX-License-Identifier: Apache-2.0
"""wherry doctor: tries what containers need of this host, says what is missing, and what mends it."""

import json
import sys

from wherry.api.doctor import MISSING, OK, PARTLY, Report, examine
from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.cli.screen import columns, is_terminal
from wherry.errors import UsageError

FLAGS: dict[str, int | str] = {"json": BOOL, "format": TEXT, "f": "format"}

_MARKS = {OK: "ok", PARTLY: "partly", MISSING: "missing"}
_COLOURS = {OK: "green", PARTLY: "yellow", MISSING: "red"}


def run(call: Call) -> int:
    call.positional(0, 0)
    kind = "json" if call.flags.on("json") else call.flags.text("format") or "table"
    if kind not in ("table", "json"):
        raise UsageError(f'invalid value "{kind}" for flag -format: table or json')
    report = examine(call.root())
    if kind == "json":
        print(json.dumps(report.document(), indent=2))
    elif is_terminal(sys.stdout):
        _paint(report)
    else:
        print(plain(report), end="")
    return 0 if report.usable else 1


def plain(report: Report) -> str:
    """Every finding, and below those that are not ok what follows from them and what mends them."""
    lines = [head(report)]
    group = ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            lines += ["", f"{group}:"]
        lines.append(f"  {_MARKS[finding.status]:8} {finding.name:24} {finding.detail}".rstrip())
        if finding.status != OK:
            lines += [f"{'':11}{finding.effect}", f"{'':11}mend: {finding.remedy}"]
    return "\n".join([*lines, "", verdict(report)]) + "\n"


def head(report: Report) -> str:
    host = report.document()["host"]
    return f"Linux {host['kernel']} ({host['machine']}), cgroups: {host['cgroups']}, as {report.who()}"


def verdict(report: Report) -> str:
    count = report.document()["count"]
    rest = f"{count[OK]} ok, {count[PARTLY]} partly, {count[MISSING]} missing"
    return f"containers can run here: {rest}" if report.usable else f"no container can run here: {rest}"


def _paint(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=columns(sys.stdout), highlight=False)
    console.print(head(report), markup=False)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("", "", "FOUND", "WHAT FOLLOWS, AND WHAT MENDS IT"):
        table.add_column(name, overflow="fold")
    group = ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            table.add_row("", f"[bold]{group}[/bold]", "", "")
        mend = f"{escape(finding.effect)}\n[cyan]{escape(finding.remedy)}[/cyan]" if finding.status != OK else ""
        colour = _COLOURS[finding.status]
        table.add_row(f"[{colour}]{_MARKS[finding.status]}[/{colour}]", escape(finding.name), escape(finding.detail), mend)
    console.print(table)
    console.print(verdict(report), style="bold green" if report.usable else "bold red", markup=False)
