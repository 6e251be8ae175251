# SPDX-License-Identifier: Apache-2.0
"""The commands that change a container, and `wait`."""

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from wherry_shim.client import Client
from wherry_shim.client.convert import Document
from wherry_shim.client.types import Probe, Status
from wherry_shim.ctl.bundles import Wanted, environment
from wherry_shim.ctl.common import EXEC_ID, SIGNAL, SPAN, Settings, each, filtered, many_ids, one_id, policies, policy_arguments, settings


def fresh_id() -> str:
    return secrets.token_hex(6)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("bundle", required=False, type=click.Path())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", help="its id; default: one is made up")
@click.option("--config", type=click.Path(), help="a config.json in the place of a bundle: its root.path is absolute")
@click.option("--env", "-e", multiple=True, metavar="NAME[=VALUE]")
@click.option("--workdir", "-w", metavar="DIR")
@click.option("-i", "stdin", is_flag=True, help="with a stdin, for attach")
@click.option("-t", "terminal", is_flag=True, help="with a terminal")
@click.option("--rm", "auto_remove", is_flag=True, help="deleted once it has stopped for good")
@click.option("--start", is_flag=True, help="and started")
@policies
@settings
def create(
    settings: Settings,
    /,
    bundle: str | None,
    args: tuple[str, ...],
    name: str | None,
    config: str | None,
    env: tuple[str, ...],
    workdir: str | None,
    **options: Any,
) -> None:
    """Make a container of BUNDLE (with ARGS in the place of its program's), and print its id."""
    if config and bundle:
        args, bundle = (bundle, *args), None
    wanted = Wanted(bundle, config, args, environment(env), workdir, options.pop("terminal"))
    with settings.client() as client:
        click.echo(client.create(name or fresh_id(), **wanted.arguments(), **policy_arguments(options), **options).id)


@click.command()
@many_ids
@settings
def start(settings: Settings, ids: tuple[str, ...]) -> None:
    """Start what was created, or what has stopped."""
    with settings.client() as client:
        each(ids, client.start)


@click.command()
@many_ids
@click.option("--time", "-t", "grace", type=SPAN, metavar="TIME", help="until it is killed [10s]")
@click.option("--signal", "-s", "number", type=SIGNAL, default=0, help="what asks it to end [TERM]")
@settings
def stop(settings: Settings, ids: tuple[str, ...], grace: timedelta | None, number: int) -> None:
    """Ask containers to end, and kill those that have not after a while. No restart policy brings them back."""
    with settings.client() as client:
        each(ids, lambda id: client.stop(id, grace=grace, signal=number))


@click.command()
@many_ids
@click.option("--time", "-t", "grace", type=SPAN, metavar="TIME", help="until it is killed [10s]")
@settings
def restart(settings: Settings, ids: tuple[str, ...], grace: timedelta | None) -> None:
    """Stop containers, and start them anew."""

    def ask(client: Client, id: str) -> None:
        if client.get(id).auto_remove:
            raise ValueError(f"{id} goes as soon as it stops (--rm): it cannot be started anew")
        client.stop(id, grace=grace)
        client.start(id)

    with settings.client() as client:
        each(ids, lambda id: ask(client, id))


@click.command()
@click.option("--filter", "-f", "filters", multiple=True, metavar="NAME=VALUE", help="as those of ps; health=, id= and label=")
@settings
def prune(settings: Settings, filters: tuple[str, ...]) -> None:
    """Take away all containers that have stopped for good."""
    with settings.client() as client:
        gone = [one.id for one in filtered(client, filters) if one.status is Status.STOPPED and not one.owner]
        each(gone, client.delete)


@click.command()
@many_ids
@click.option("--signal", "-s", "number", type=SIGNAL, default="KILL", show_default=True)
@click.option("--all", is_flag=True, help="to all its processes")
@click.option("--exec", "exec_id", default="", type=EXEC_ID, metavar="ID", help="to an exec")
@settings
def kill(settings: Settings, ids: tuple[str, ...], number: int, all: bool, exec_id: str) -> None:
    """Send a signal; the restart policy applies to what comes of it."""
    with settings.client() as client:
        each(ids, lambda id: client.kill(id, number, all=all, exec_id=exec_id))


@click.command()
@many_ids
@click.option("--force", "-f", is_flag=True, help="also one that runs: it is killed")
@settings
def rm(settings: Settings, ids: tuple[str, ...], force: bool) -> None:
    """Take containers away, with their output and the records of their execs."""
    with settings.client() as client:
        each(ids, lambda id: client.delete(id, force=force))


@click.command()
@many_ids
@settings
def pause(settings: Settings, ids: tuple[str, ...]) -> None:
    """Freeze containers."""
    with settings.client() as client:
        each(ids, client.pause)


@click.command()
@many_ids
@settings
def unpause(settings: Settings, ids: tuple[str, ...]) -> None:
    """Let containers go on."""
    with settings.client() as client:
        each(ids, client.resume)


resume = unpause


@click.command()
@one_id
@click.option("--resources", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="JSON: linux.resources of the specification")
@click.option("--memory", metavar="SIZE", help="64M, 1G; -1: no limit")
@click.option("--pids", type=int, metavar="COUNT")
@click.option("--cpus", type=float, metavar="COUNT", help="so much of a CPU's time: 0.5, 2")
@click.option("--no-probe", is_flag=True, help="no probe any more")
@policies
@settings
def update(
    settings: Settings, /, id: str, resources: str | None, memory: str | None, pids: int | None, cpus: float | None, no_probe: bool, **options: Any
) -> None:
    """Change limits, restart policy, probe or labels (KEY= takes a label away)."""
    changes = policy_arguments(options)
    if no_probe:
        changes["probe"] = Probe(())
    document: Document = Path(resources).read_bytes() if resources else limits(memory, pids, cpus)
    with settings.client() as client:
        click.echo(client.update(id, resources=document or None, **changes).id)


def limits(memory: str | None, pids: int | None, cpus: float | None) -> dict[str, object]:
    from wherry.api.config import size

    made: dict[str, object] = {}
    if memory is not None:
        made["memory"] = {"limit": -1 if memory == "-1" else size(memory)}
    if pids is not None:
        made["pids"] = {"limit": pids}
    if cpus is not None:
        made["cpu"] = {"quota": int(cpus * 100_000), "period": 100_000}
    return made


@click.command()
@many_ids
@click.option("--until", type=click.Choice(("exit", "stopped", "removed", "healthy")), default="stopped", show_default=True)
@click.option("--timeout", type=SPAN, metavar="TIME")
@settings
def wait(settings: Settings, ids: tuple[str, ...], until: str, timeout: timedelta | None) -> None:
    """Wait for containers' ends (exit: of this run, stopped: the one that no restart follows), and print the exit statuses."""
    seconds = None if timeout is None else timeout.total_seconds()
    with settings.client() as client:
        for id in ids:
            if until == "healthy":
                click.echo(client.wait_healthy(id, timeout=seconds).health)
            elif until == "removed":
                ended = client.wait_removed(id, timeout=seconds)
                click.echo("" if ended is None else ended.status)
            else:
                click.echo(client.wait(id, stopped=until == "stopped", timeout=seconds).status)
