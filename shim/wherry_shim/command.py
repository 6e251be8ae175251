# SPDX-License-Identifier: Apache-2.0
"""`wherry-shim`: the gRPC server (serve) and its client for people (ctl). A command is imported when it is called: ctl needs no server, --help neither."""

from importlib import import_module

import click

COMMANDS = {
    "serve": ("wherry_shim.serve.main", "Supervise containers for orchestrators, over gRPC."),
    "ctl": ("wherry_shim.ctl.main", "Talk to a server: ps, run, logs, exec, events, stats, stop, rm."),
}


class Commands(click.Group):
    """COMMANDS by name; each module has a click command `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wherry", message="wherry-shim %(version)s")
def main() -> None:
    """Containers that outlive who supervises them."""
