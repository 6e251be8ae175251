# SPDX-License-Identifier: Apache-2.0
"""The commands that show something and change nothing."""

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from wherry.errors import printable
from wherry_shim.client import Client
from wherry_shim.client.errors import PermissionDenied
from wherry_shim.client.types import Channel, Container, Event, Finding, Status
from wherry_shim.ctl.common import (
    OWN_ERROR,
    Settings,
    ago,
    as_json,
    columns,
    filled,
    filtered,
    how,
    many_ids,
    one_id,
    plain,
    settings,
    shortened,
    span,
)

COLOURS = {"running": "green", "unhealthy": "red", "restarting": "yellow", "paused": "yellow", "exited": "bright_black"}
BEGINNING = datetime.min.replace(tzinfo=UTC)
as_lines = click.option("--json", "json", is_flag=True, help="one JSON object a line")


# ---- ps, inspect, top


def said_status(one: Container, now: datetime) -> str:
    ended = f"exited ({how(one.exit)}) {ago(one.exit.exited_at, now)} ago" if one.exit else "stopped"
    words = {
        Status.RUNNING: f"running {ago(one.started_at, now)}",
        Status.PAUSED: f"paused {ago(one.started_at, now)}",
        Status.STOPPED: ended,
        Status.WAITING: f"restarting in {span(one.restart_at - now)}" if one.restart_at else "restarting",
    }
    return words.get(one.status, str(one.status)) + (f", {one.health}" if one.health and one.status is Status.RUNNING else "")


def colour(head: str, cell: str) -> str:
    chosen = next((name for word, name in COLOURS.items() if word in cell), None) if head == "STATUS" else None
    return click.style(cell, fg=chosen) if chosen else cell


HEADS = ("ID", "COMMAND", "CREATED", "STATUS", "PID", "RESTARTS", "POLICY", "BUNDLE", "LABELS")
SHORT = 30


def row(one: Container, now: datetime, whole: bool) -> tuple[str, ...]:
    most = 1 << 20 if whole else SHORT
    labels = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
    created, restarts = f"{ago(one.created_at, now)} ago" if one.created_at else "", str(max(0, one.run - 1))
    about = (created, said_status(one, now), str(one.pid or ""), restarts, one.restart.when.value, one.owner or one.bundle)
    return (one.id, shortened(shlex.join(one.args), most), *about, labels)


def fields(one: Container, now: datetime) -> dict[str, Any]:
    """What --format has: all of JSON, and the words of the table."""
    words = dict(zip(("id", "command", "age", "said", "pid", "restarted", "policy", "place", "label"), row(one, now, True), strict=True))
    return {**words, **plain(one), "name": one.id, "names": one.id, "state": one.status.value, "image": one.bundle, "status": words["said"]}


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="also what does not run")
@click.option("--filter", "-f", "filters", multiple=True, metavar="NAME=VALUE", help="label=KEY[=VALUE], status=, health=, exited=STATUS, id=BEGINNING")
@click.option("--foreign", is_flag=True, help="containerd's, too")
@click.option("--quiet", "-q", is_flag=True, help="ids only")
@click.option("--last", "-n", type=click.IntRange(1), metavar="COUNT", help="those that were created last, whatever their state")
@click.option("--no-trunc", is_flag=True, help="whole commands")
@click.option("--format", "shape", metavar="FORMAT", default="table", help="table, json, or words such as '{{.id}} {{.status}}'")
@as_lines
@settings
def ps(
    settings: Settings, everything: bool, filters: tuple[str, ...], foreign: bool, quiet: bool, last: int | None, no_trunc: bool, shape: str, json: bool
) -> None:
    """List containers: those that run, or all; the newest first."""
    with settings.client() as client:
        found = list(filtered(client, filters, foreign))
    if not (everything or last or any(word.startswith(("status=", "exited=")) for word in filters)):
        found = [one for one in found if one.status not in (Status.STOPPED, Status.CREATED)]
    found.sort(key=lambda one: one.created_at or BEGINNING, reverse=True)
    found, now = found[:last], datetime.now(UTC)
    if quiet or json or shape != "table":
        for one in found:
            click.echo(one.id if quiet else as_json(one, None) if json or shape == "json" else filled(shape, fields(one, now)))
        return
    columns(HEADS, [row(one, now, no_trunc) for one in found], colour)


@click.command()
@many_ids
@click.option("--plan", "with_plan", is_flag=True, help="also what its create does, step by step")
@click.option("--no-config", is_flag=True, help="without its configuration")
@click.option("--format", "shape", metavar="FORMAT", default="json", help="json, or words such as '{{.exit.status}}'")
@settings
def inspect(settings: Settings, ids: tuple[str, ...], with_plan: bool, no_config: bool, shape: str) -> None:
    """Show all about containers, as a JSON array: state, ends, probes, policies, configuration."""
    with settings.client() as client:
        found = [about(client, id, with_plan, not no_config) for id in ids]
    if shape == "json":
        click.echo(as_json(found))
        return
    for one in found:
        click.echo(filled(shape, one))


def about(client: Client, id: str, with_plan: bool, with_config: bool) -> dict[str, Any]:
    import json

    one = client.get(id)
    made: dict[str, Any] = plain(one)
    if with_config:
        try:
            made["config"] = json.loads(client.config(id) or b"null")
        except (ValueError, PermissionDenied):  # it needs the role run: environments have secrets
            made["config"] = None
    if with_plan:
        made["plan"] = plain(client.plan(bundle=one.bundle)) if one.bundle else None
    return made


@click.command()
@one_id
@as_lines
@settings
def top(settings: Settings, id: str, json: bool) -> None:
    """List a container's processes: pid on the server's host, exec id, and the command where that host is this one."""
    with settings.client() as client:
        found = client.processes(id)
    here = settings.client_address().startswith(("unix:", "/"))
    rows = [{"pid": one.pid, "exec_id": one.exec_id, "command": command_of(one.pid) if here else ""} for one in found]
    if json:
        for row in rows:
            click.echo(as_json(row, None))
        return
    columns(("PID", "EXEC", "COMMAND"), [(str(row["pid"]), str(row["exec_id"]), str(row["command"])) for row in rows])


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


# ---- logs, events


@click.command()
@one_id
@click.option("--follow", "-f", is_flag=True, help="until it has stopped for good")
@click.option("--tail", "-n", type=click.IntRange(0), metavar="LINES", help="the last ones only")
@click.option("--stdout", "only_stdout", is_flag=True, help="that alone")
@click.option("--stderr", "only_stderr", is_flag=True, help="that alone")
@settings
def logs(settings: Settings, id: str, follow: bool, tail: int | None, only_stdout: bool, only_stderr: bool) -> None:
    """Show what a container has written, in all its runs."""
    both = only_stdout == only_stderr
    with settings.client() as client:
        for output in client.logs(id, follow=follow, tail=tail, stdout=both or only_stdout, stderr=both or only_stderr):
            stream = sys.stdout.buffer if output.channel is Channel.STDOUT else sys.stderr.buffer
            stream.write(output.data)
            stream.flush()


@click.command()
@click.option("--since", metavar="CURSOR", default="", help="what happened behind it; 'oldest': all that is kept")
@click.option("--no-follow", is_flag=True, help="end with the newest")
@click.option("--filter", "-f", "filters", multiple=True, metavar="NAME=VALUE", help="id=, type=")
@as_lines
@settings
def events(settings: Settings, since: str, no_follow: bool, filters: tuple[str, ...], json: bool) -> None:
    """Show what happens; --json has the cursors."""
    chosen: dict[str, list[str]] = {"id": [], "type": []}
    for word in filters:
        name, _, value = word.partition("=")
        if name not in chosen:
            raise click.BadParameter(f"{name!r} is none of id, type", param_hint="--filter")
        chosen[name].append(value)
    cursor = "" if since == "oldest" else since
    everything = since == "oldest" or (no_follow and not since)
    with settings.client() as client:
        for event in client.subscribe(cursor, from_oldest=everything, ids=chosen["id"], types=chosen["type"], follow=not no_follow):
            click.echo(as_json(event, None) if json else event_line(event))
            sys.stdout.flush()


def event_line(event: Event) -> str:
    moment = event.time.astimezone().isoformat(timespec="milliseconds") if event.time else ""
    facts = [f"run={event.run}"] if event.run else []
    facts += [f"exec={event.exec_id}"] if event.exec_id else []
    facts += [f"pid={event.pid}"] if event.pid else []
    facts += [f"exit={how(event.exit).replace(' ', ',')}"] if event.exit else []
    facts += [f"health={event.health}"] if event.health else []
    facts += [f"at={event.restart_at.astimezone().isoformat(timespec='milliseconds')}"] if event.restart_at else []
    return printable(f"{moment} {event.id} {event.type} {' '.join(facts)}".rstrip())


# ---- validate, plan


chosen_config = click.option("--config", type=click.Path(exists=True, dir_okay=False), help="a config.json in the place of a bundle")


def source(bundle: str | None, config: str | None) -> dict[str, Any]:
    if bool(bundle) == bool(config):
        raise click.UsageError("a bundle, or --config FILE: one of both")
    return {"bundle": os.path.abspath(bundle)} if bundle else {"config": Path(config or "").read_bytes()}


def show(findings: Sequence[Finding]) -> None:
    for one in findings:
        remedy = f" ({one.remedy})" if one.remedy and one.remedy not in one.message else ""
        click.echo(printable(f"{'warning' if one.warning else 'error'}: {one.pointer}: {one.message}{remedy} [{one.code}]"))


@click.command()
@click.argument("bundle", required=False)
@chosen_config
@as_lines
@click.pass_context
def validate(ctx: click.Context, bundle: str | None, config: str | None, json: bool) -> None:
    """Check a configuration against the specification and the server's host."""
    with ctx.obj.client() as client:
        findings: Sequence[Finding] = client.validate(**source(bundle, config))
    if json:
        for one in findings:
            click.echo(as_json(one, None))
    else:
        show(findings)
    ctx.exit(1 if any(not one.warning for one in findings) else 0)


@click.command()
@click.argument("bundle", required=False)
@chosen_config
@as_lines
@settings
def plan(settings: Settings, bundle: str | None, config: str | None, json: bool) -> None:
    """Show what a create would do, step by step; nothing is done."""
    with settings.client() as client:
        found = client.plan(**source(bundle, config))
    if json:
        click.echo(as_json(found, None))
        return
    show(found.warnings)
    for number, step in enumerate(found.steps, 1):
        place = f"  <- {step.pointer}" if step.pointer else ""
        click.echo(printable(f"{number:3} {step.executor:8} {step.text}{place}"))


# ---- the server


@click.command()
@as_lines
@settings
def version(settings: Settings, json: bool) -> None:
    """Show the versions of client and server, and the role that the server gives to you."""
    from importlib.metadata import version as installed

    with settings.client() as client:
        server = client.version()
    if json:
        click.echo(as_json({"client": installed("wherry"), "server": server}, None))
        return
    click.echo(f"client         {installed('wherry')}\nserver         {server.version} ({server.build_id})\nspecification  {server.specification}")
    click.echo(f"interface      {server.api}\nserver's pid   {server.server_pid}, for {ago(server.started_at)}\nyour role      {server.role}")


@click.command()
@settings
def info(settings: Settings) -> None:
    """Show the server and what it has, as JSON."""
    import json

    with settings.client() as client:
        counts: dict[str, int] = {}
        for one in client.list():
            counts[one.status] = counts.get(one.status, 0) + 1
        click.echo(as_json({"address": client.address, "server": client.version(), "containers": counts, "features": json.loads(client.features())}))


@click.command()
@click.option("--count", "-n", type=click.IntRange(1), default=50, show_default=True)
@as_lines
@settings
def audit(settings: Settings, count: int, json: bool) -> None:
    """Show who did what, the newest last. For administrators."""
    with settings.client() as client:
        found = client.audit(count)
    if json:
        for one in found:
            click.echo(as_json(one, None))
        return
    rows = []
    for one in found:
        moment = one.time.astimezone().isoformat(timespec="milliseconds") if one.time else ""
        rows.append((moment, one.caller, one.role, one.method, one.id, one.status, f"{one.duration.total_seconds() * 1000:.1f} ms"))
    columns(("TIME", "CALLER", "ROLE", "METHOD", "ID", "STATUS", "TOOK"), rows)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands, options and ids: eval "$(wherry-shim ctl completion bash)"."""
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    made = get_completion_class(shell)
    if made is None:
        ctx.exit(OWN_ERROR)
    click.echo(made(root.command, {}, "wherry-shim", "_WHERRY_SHIM_COMPLETE").source())
