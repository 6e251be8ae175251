# SPDX-License-Identifier: Apache-2.0
"""`wherry-shim serve`: its options."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from wherry_shim.serve.settings import Settings, SettingsError, Tls, default_places

ROOT, DATA = default_places()
UNITS = ("wherry-shim.service", "wherry-shim.socket")


def _mode(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        mode = int(value, 8)
    except ValueError:
        raise click.BadParameter("an octal number, such as 0660") from None
    if mode & ~0o666 or mode & 0o600 != 0o600:
        raise click.BadParameter("0600, 0660 or 0666")
    return mode


def _group(context: click.Context, parameter: click.Parameter, value: str | None) -> int:
    import grp

    if value is None:
        return -1
    try:
        return int(value) if value.isdecimal() else grp.getgrnam(value).gr_gid
    except KeyError:
        raise click.BadParameter(f"there is no group {value}") from None


def _print_units(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value:
        return
    from importlib.resources import files

    program = os.path.abspath(sys.argv[0])
    for name in UNITS:
        text = (files("wherry_shim.serve") / "units" / name).read_text()
        click.echo(f"# /etc/systemd/system/{name}\n{text.replace('@PROGRAM@', program)}")
    context.exit()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", multiple=True, metavar="ADDRESS", help=f"unix:///PATH or tcp://HOST:PORT; may be given again [unix://{ROOT}/shim.sock]")
@click.option("--root", default=ROOT, metavar="DIR", show_default=True, help="containers and sockets: what a reboot ends")
@click.option("--data", default=DATA, metavar="DIR", show_default=True, help="what containers are to be, their output, events, the audit log")
@click.option("--tls-cert", default="", metavar="FILE", help="the server's certificate, for tcp://")
@click.option("--tls-key", default="", metavar="FILE", help="its key")
@click.option("--tls-client-ca", default="", metavar="FILE", help="who signs the certificates of clients")
@click.option("--allow", multiple=True, metavar="WHO=ROLE", help="a uid or a name in a certificate, and read, run or admin; root is admin")
@click.option("--socket-mode", default="0600", metavar="MODE", callback=_mode, show_default=True, help="of unix sockets")
@click.option("--socket-group", metavar="GROUP", callback=_group, help="of unix sockets")
@click.option("--metrics", default="", metavar="ADDRESS", help="unix:///PATH or 127.0.0.1:PORT, for Prometheus")
@click.option("--metrics-public", is_flag=True, help="metrics for other hosts, too; nobody is asked who they are")
@click.option("--max-message", type=click.IntRange(64 << 10, 64 << 20), default=4 << 20, metavar="BYTES", show_default=True)
@click.option("--max-connections", type=click.IntRange(1), default=256, show_default=True, help="of one client at a time; of all four times as many")
@click.option("--max-calls", type=click.IntRange(1), default=128, show_default=True, help="of one client at a time; of all four times as many")
@click.option("--max-streams", type=click.IntRange(1), default=4096, show_default=True, help="of one client at a time; of all twice as many")
@click.option("--max-rate", type=click.FloatRange(1), default=1000, show_default=True, help="calls of one client a second; twice as many at once")
@click.option("--max-seconds", type=click.FloatRange(0.01), default=300, show_default=True, help="of a call whose client gives no deadline")
@click.option("--keepalive", type=click.FloatRange(1), default=30, metavar="SECONDS", show_default=True, help="of silence: then a client is asked for a sign")
@click.option("--max-age", type=click.FloatRange(0), default=0, metavar="SECONDS", show_default=True, help="of a connection; 0: for ever")
@click.option("--keep-removed", type=click.FloatRange(0), default=600, metavar="SECONDS", show_default=True, help="output of what goes by itself (--rm)")
@click.option("--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True)
@click.option("--check", is_flag=True, help="say whether a server could be started so, and end")
@click.option("--print-units", is_flag=True, is_eager=True, expose_value=False, callback=_print_units, help="units for systemd, and end")
def command(check: bool, **options: Any) -> None:
    """Supervise containers for orchestrators, over gRPC.

    The containers outlive the server: it may be killed, replaced (SIGHUP, after an upgrade) and started again at any time.
    """
    settings = _settings(options)
    try:
        settings.check()
        from wherry_shim.serve import server

        if check:
            click.echo("ok")
            return
        raise SystemExit(server.serve(settings))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _settings(options: dict[str, Any]) -> Settings:
    from wherry_shim.serve.bounds import Limits

    limits = Limits(
        message=options["max_message"],
        connections=4 * options["max_connections"],
        connections_each=options["max_connections"],
        calls=4 * options["max_calls"],
        calls_each=options["max_calls"],
        streams=2 * options["max_streams"],
        streams_each=options["max_streams"],
        rate=options["max_rate"],
        burst=2 * options["max_rate"],
        seconds=options["max_seconds"],
    )
    root = options["root"].rstrip("/")
    return Settings(
        listen=options["listen"] or (f"unix://{root}/shim.sock",),
        root=root,
        data=options["data"].rstrip("/"),
        tls=Tls(options["tls_cert"], options["tls_key"], options["tls_client_ca"]),
        allow=options["allow"],
        socket_mode=options["socket_mode"],
        socket_group=options["socket_group"],
        metrics=options["metrics"],
        metrics_public=options["metrics_public"],
        limits=limits,
        log_level=options["log_level"],
        keep_removed=options["keep_removed"],
        keepalive=options["keepalive"],
        max_age=options["max_age"],
    )
