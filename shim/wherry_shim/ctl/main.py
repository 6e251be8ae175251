# SPDX-License-Identifier: Apache-2.0
"""`wherry-shim ctl`: the commands by name, where the server is, and how errors are told. A command is imported when it is called.

    common      settings, ids, words for options, JSON and columns
    lifecycle   create, start, stop, restart, kill, pause, unpause, update, rm, prune, wait
    talk        run, exec, attach; session: the terminal, keys and signals between a person and a process
    look        ps, inspect, top, logs, events, info, version, audit, validate, plan, completion; live: stats
"""

import os
import sys
import traceback
from importlib import import_module

import click

from wherry_shim.client.errors import Refused, Unavailable
from wherry_shim.ctl.common import OWN_ERROR, Settings, printable

COMMANDS = {
    "ps": ("look", "List containers."),
    "create": ("lifecycle", "Make a container of a bundle; `start` lets it run."),
    "run": ("talk", "Create and start a container, and stay with it."),
    "start": ("lifecycle", "Start what was created."),
    "stop": ("lifecycle", "Ask a container to end; kill it after a while."),
    "restart": ("lifecycle", "Stop a container and start it anew."),
    "kill": ("lifecycle", "Send a signal."),
    "rm": ("lifecycle", "Take a container away, with its output."),
    "prune": ("lifecycle", "Take away all that have stopped."),
    "exec": ("talk", "Execute a program in a container."),
    "attach": ("talk", "Stream with a container's first process."),
    "logs": ("look", "Show what a container has written."),
    "events": ("look", "Show what happens."),
    "stats": ("live", "Show what containers use."),
    "inspect": ("look", "Show all about containers, as JSON."),
    "wait": ("lifecycle", "Wait for an end, and print its exit status."),
    "top": ("look", "List a container's processes."),
    "pause": ("lifecycle", "Freeze a container."),
    "unpause": ("lifecycle", "Let it go on."),
    "resume": ("lifecycle", "The same as unpause."),
    "update": ("lifecycle", "Change limits, restart policy, probe or labels."),
    "validate": ("look", "Check a configuration; nothing is made."),
    "plan": ("look", "Show what a create would do, step by step."),
    "version": ("look", "Show the versions of client and server."),
    "info": ("look", "Show the server, and what it has."),
    "audit": ("look", "Show who did what."),
    "completion": ("look", "Print a script that completes commands and ids."),
}


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"wherry_shim.ctl.{COMMANDS[cmd_name][0]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in COMMANDS])

    def invoke(self, ctx: click.Context) -> object:
        """Exit codes as engines have them: 125 for what is ours, the program's own otherwise."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.show()
            ctx.exit(OWN_ERROR)
        except Refused as refusal:
            tell(ctx, refusal)
            ctx.exit(getattr(refusal, "exit_code", OWN_ERROR))
        except BrokenPipeError:  # `ctl logs web | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the end goes nowhere
            ctx.exit(141)
        except KeyboardInterrupt:
            ctx.exit(130)
        except (OSError, ValueError) as error:
            click.echo(f"ctl: {printable(str(error))}", err=True)
            if ctx.obj.debug:
                traceback.print_exc()
            ctx.exit(OWN_ERROR)


def tell(ctx: click.Context, refusal: Refused) -> None:
    """Where, what, which code, and what to do about it."""
    settings: Settings = ctx.obj
    place = f"{refusal.pointer}: " if refusal.pointer and refusal.pointer not in refusal.message else ""
    codes = " ".join(word for word in (refusal.code, refusal.reason) if word)
    click.echo(f"ctl {ctx.invoked_subcommand}: {printable(place + refusal.message)} [{codes}]", err=True)
    remedy = refusal.remedy
    if isinstance(refusal, Unavailable) and not remedy:
        remedy = f"is a server there? wherry-shim serve listens at {settings.client_address()}, or say --address"
    if remedy and remedy not in refusal.message:
        click.echo(f"  remedy: {printable(remedy)}", err=True)
    if settings.debug:
        click.echo(f"  field: {refusal.field}  resource: {refusal.resource}  oldest: {refusal.oldest}  repeated: {refusal.repeated}", err=True)
        traceback.print_exception(refusal)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--address", "-a", envvar="WHERRY_SHIM_ADDRESS", metavar="ADDRESS", help="unix:///PATH or tcp://HOST:PORT [$WHERRY_SHIM_ADDRESS, or the default]")
@click.option("--tls-ca", envvar="WHERRY_SHIM_CA", metavar="FILE", help="who signs the server's certificate, for tcp://")
@click.option("--tls-cert", envvar="WHERRY_SHIM_CERT", metavar="FILE", help="the client's certificate")
@click.option("--tls-key", envvar="WHERRY_SHIM_KEY", metavar="FILE", help="its key")
@click.option("--tls-name", metavar="NAME", default="", help="the name in the server's certificate, where it is not the host's")
@click.option("--timeout", type=float, default=30.0, show_default=True, metavar="SECONDS", help="for an answer")
@click.option("--patience", type=float, default=10.0, show_default=True, metavar="SECONDS", help="for a server that is away")
@click.option("--debug", is_flag=True, help="all that is known about an error")
@click.pass_context
def command(
    ctx: click.Context,
    address: str | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_name: str,
    timeout: float,
    patience: float,
    debug: bool,
) -> None:
    """Talk to a server of wherry-shim: what a person does with containers."""
    ctx.obj = Settings(address, tls_ca, tls_cert, tls_key, tls_name, timeout, patience, debug)
