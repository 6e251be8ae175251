# SPDX-License-Identifier: Apache-2.0
"""The commands that stay with a process: run, exec, attach. Their exit status is the process's."""

import asyncio
import contextlib
import os
import re
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import click

from wherry_shim.client import aio
from wherry_shim.client.errors import Refused
from wherry_shim.client.types import Exec, Exit, Status
from wherry_shim.ctl.bundles import Wanted, environment
from wherry_shim.ctl.common import EXEC_ID, NO_PROGRAM, NOT_EXECUTABLE, SPAN, Settings, how, one_id, policies, policy_arguments
from wherry_shim.ctl.lifecycle import fresh_id
from wherry_shim.ctl.session import Conversation, keys, refuse_without_terminal, terminal_size

DETACH = "ctrl-p,ctrl-q"
detach_keys = click.option("--detach-keys", default=DETACH, metavar="KEYS", show_default=True, help="leave it running")
no_forward = click.option("--no-sig-proxy", is_flag=True, help="signals are for ctl, not for the process")
REMOVAL = 20.0
PASSED_ON: Any = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def end(ctx: click.Context, work: Coroutine[Any, Any, int]) -> None:
    """Runs it; ends as the process has."""
    try:
        ended = asyncio.run(work)
    except Refused as refusal:
        refusal.exit_code = status_of(refusal)  # type: ignore[attr-defined]
        raise
    ctx.exit(ended)


async def held(talk: Conversation) -> tuple[Exit | None, int]:
    """How it has ended, and with what ctl ends."""
    ended = await talk.talk()
    if ended is not None:
        return ended, ended.status & 255
    return None, 128 + talk.ended_by if talk.ended_by else 0


def status_of(refusal: Refused) -> int:
    """126 and 127 where it is the program that is wrong, 125 otherwise."""
    text = f"{refusal.pointer} {refusal.message}"
    if refusal.pointer != "/process/args/0" and "exec" not in text:
        return 125
    if re.search(r"not found|no such file", text, re.IGNORECASE):
        return NO_PROGRAM
    return NOT_EXECUTABLE if re.search(r"permission denied|exec format|is a directory", text, re.IGNORECASE) else 125


# ---- run


@click.command(context_settings=PASSED_ON)
@click.argument("bundle", required=False, type=click.Path())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", help="its id; default: one is made up")
@click.option("--config", type=click.Path(), help="a config.json in the place of a bundle: its root.path is absolute")
@click.option("--env", "-e", multiple=True, metavar="NAME[=VALUE]")
@click.option("--workdir", "-w", metavar="DIR")
@click.option("-i", "stdin", is_flag=True, help="the standard input is the program's")
@click.option("-t", "terminal", is_flag=True, help="a terminal")
@click.option("-d", "detach", is_flag=True, help="leave it running, and print its id")
@click.option("--rm", "remove", is_flag=True, help="the server deletes it when it has stopped for good")
@detach_keys
@no_forward
@policies
@click.pass_context
def run(
    ctx: click.Context,
    /,
    bundle: str | None,
    args: tuple[str, ...],
    config: str | None,
    env: tuple[str, ...],
    workdir: str | None,
    detach: bool,
    **options: Any,
) -> None:
    """Create a container of BUNDLE (with ARGS in the place of its program's), start it and stay with it."""
    settings = ctx.find_object(Settings)
    assert settings is not None
    if config and bundle:
        args, bundle = (bundle, *args), None
    wanted = Wanted(bundle, config, args, environment(env), workdir, options["terminal"])
    id = options.pop("name") or fresh_id()
    made = {**wanted.arguments(), **policy_arguments(options), "stdin": options["stdin"], "auto_remove": options["remove"]}
    if detach:
        end(ctx, _run_detached(settings, id, made))
    refuse_without_terminal(options["stdin"], options["terminal"])
    end(ctx, _run_attached(settings, id, made, options))


async def _run_detached(settings: Settings, id: str, made: dict[str, Any]) -> int:
    async with settings.aio() as client:
        container = await client.create(id, **made, start=True)
    click.echo(container.id)
    return 0


async def _run_attached(settings: Settings, id: str, made: dict[str, Any], options: dict[str, Any]) -> int:
    """To the end that no restart follows. `--rm` is the server's part: it keeps what is still to be read, and is there when this command is not."""
    async with settings.aio() as client:
        await client.create(id, **made)
        try:
            session = client.attach(id, offsets=(0, 0), follow=True)
            session.size = terminal_size() if options["terminal"] else None
            await session.open()
            await client.start(id)
        except BaseException:
            with contextlib.suppress(Refused):
                await client.delete(id, force=True)
            raise
        talk = Conversation(session, options["stdin"], options["terminal"], keys(options["detach_keys"]), not options["no_sig_proxy"])
        ended, status = await held(talk)
        if ended is not None and options["remove"]:
            with contextlib.suppress(Refused):  # whoever comes next finds the id free; that it takes long is the server's affair
                await client.wait_removed(id, timeout=REMOVAL)
        return status


# ---- exec


@click.command(context_settings=PASSED_ON)
@one_id
@click.argument("args", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-i", "stdin", is_flag=True, help="the standard input is the program's")
@click.option("-t", "terminal", is_flag=True, help="a terminal")
@click.option("-d", "detach", is_flag=True, help="leave it running, and print its exec id")
@click.option("--env", "-e", multiple=True, metavar="NAME[=VALUE]")
@click.option("--workdir", "--cwd", "-w", default="", metavar="DIR")
@click.option("--user", "-u", default="", metavar="UID[:GID]")
@click.option("--timeout", type=SPAN, metavar="TIME", help="then it is killed")
@click.option("--exec-id", default="", metavar="ID", help="default: one is made up")
@detach_keys
@no_forward
@click.pass_context
def exec(ctx: click.Context, /, id: str, args: tuple[str, ...], stdin: bool, terminal: bool, detach: bool, env: tuple[str, ...], **options: Any) -> None:
    """Execute a program in a container, as its own user and with its environment where nothing else is said."""
    settings = ctx.find_object(Settings)
    assert settings is not None
    if not detach:
        refuse_without_terminal(stdin, terminal)
    words = environment(env)
    if terminal and "TERM" in os.environ and not any(word.startswith("TERM=") for word in words):
        words.append(f"TERM={os.environ['TERM']}")
    timeout: timedelta | None = options["timeout"]
    what = Exec(args, words, options["workdir"], options["user"], terminal, stdin, terminal_size() if terminal else None, timeout, None, options["exec_id"])
    if detach:
        end(ctx, _exec_detached(settings, id, what))
    end(ctx, _exec(settings, id, what, keys(options["detach_keys"]), not options["no_sig_proxy"]))


async def _exec_detached(settings: Settings, id: str, what: Exec) -> int:
    async with settings.aio() as client:
        click.echo(await client.exec_detached(id, what))
    return 0


async def _exec(settings: Settings, id: str, what: Exec, detach: bytes, forward: bool) -> int:
    async with settings.aio() as client:
        return (await held(Conversation(client.exec(id, what), what.stdin, what.terminal, detach, forward)))[1]


# ---- attach


@click.command()
@one_id
@click.option("--no-stdin", is_flag=True, help="look only")
@click.option("--exec", "exec_id", default="", type=EXEC_ID, metavar="ID", help="to an exec that was detached: all its output")
@click.option("--follow", "-f", is_flag=True, help="also with the runs that follow, until it has stopped for good")
@detach_keys
@no_forward
@click.pass_context
def attach(ctx: click.Context, id: str, no_stdin: bool, exec_id: str, follow: bool, detach_keys: str, no_sig_proxy: bool) -> None:
    """Stream with a container's first process, from now on: to the end of this run, or of the last one."""
    settings = ctx.find_object(Settings)
    assert settings is not None
    if follow and exec_id:
        raise click.UsageError("an exec has no runs that follow: --follow or --exec")
    end(ctx, _attach(settings, id, exec_id, no_stdin, follow, keys(detach_keys), not no_sig_proxy))


async def _attach(settings: Settings, id: str, exec_id: str, no_stdin: bool, follow: bool, detach: bytes, forward: bool) -> int:
    async with settings.aio() as client:
        container = await client.get(id)
        if exec_id:
            found = next((one for one in container.execs if one.exec_id == exec_id), None)
            terminal, stdin = bool(found and found.terminal), not no_stdin
            session: Any = client.exec_resume(id, exec_id)
        else:
            terminal, stdin, session = container.terminal, container.stdin or container.terminal, client.attach(id, follow=follow)
        if not exec_id and container.status is Status.STOPPED and container.exit is not None:
            return container.exit.status & 255
        ended, status = await held(Conversation(session, stdin and not no_stdin, terminal, detach, forward))
        if ended is not None and not exec_id and not follow:
            await _say_what_follows(client, id, ended)
        return status


async def _say_what_follows(client: aio.Client, id: str, ended: Exit) -> None:
    """Where the end of the stream is not the end of the container."""
    with contextlib.suppress(Refused):  # it has gone
        there = await client.get(id)
        if there.status is Status.WAITING or there.run > ended.run:
            click.echo(f"ctl attach: run {ended.run} has ended ({how(ended)}), and {there.id} begins anew: attach again, or --follow", err=True)
