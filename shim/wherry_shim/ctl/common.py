# SPDX-License-Identifier: Apache-2.0
"""What the commands share: settings and clients, ids that are completed, words of options, JSON and columns."""

import dataclasses
import json
import re
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from wherry.errors import printable as printable
from wherry_shim.client import Client, Unavailable, address, aio
from wherry_shim.client.types import TLS, Container, Exit, Probe, RestartPolicy, Status, When

OWN_ERROR, NOT_EXECUTABLE, NO_PROGRAM = 125, 126, 127
F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Settings:
    """The options in front of the command; makes the client when one is wanted."""

    address: str | None
    ca: str | None
    certificate: str | None
    key: str | None
    name: str
    timeout: float
    patience: float
    debug: bool

    def client_address(self) -> str:
        return self.address or address.default()

    def tls(self) -> TLS | None:
        if not (self.ca and self.certificate and self.key):
            return None
        return TLS(self.ca, self.certificate, self.key, self.name)

    def client(self, patience: float | None = None) -> Client:
        self._look()
        return Client(self.client_address(), tls=self.tls(), timeout=self.timeout, patience=self.patience if patience is None else patience)

    def aio(self) -> aio.Client:
        """A process's streams are worth more patience than a question."""
        self._look()
        return aio.Client(self.client_address(), tls=self.tls(), timeout=self.timeout, patience=max(self.patience, 60.0))

    def _look(self) -> None:
        """A socket that was never there is told of at once; one whose server has died will have another."""
        target, local = address.target(self.client_address())
        if not local:
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(self.timeout)
            try:
                probe.connect(target.removeprefix("unix:"))
            except ConnectionRefusedError:
                return
            except OSError as error:
                raise Unavailable(f"{self.client_address()}: {(error.strerror or str(error)).lower()}") from error


settings = click.make_pass_decorator(Settings)


# ---- ids


class ContainerId(click.ParamType[str]):
    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Ids of the server that are not in the line yet; none where it does not answer at once."""
        try:
            words, made = self.chosen(ctx)
            with made as client:
                there = set(words.get("ids") or ())
                return [CompletionItem(one.id, help=one.status) for one in client.list() if one.id.startswith(incomplete) and one.id not in there]
        except Exception:  # whatever is wrong: nothing may be written into the line that is typed
            return []


    def chosen(self, ctx: click.Context) -> tuple[dict[str, Any], Client]:
        """The words of the line so far, and a client that is in a hurry."""
        top = ctx.find_root()
        words: dict[str, Any] = {}
        while ctx is not top:
            words = {**ctx.params, **words}
            assert ctx.parent is not None
            ctx = ctx.parent
        settings = Settings(words.get("address"), words.get("tls_ca"), words.get("tls_cert"), words.get("tls_key"), "", 1.0, 0.2, False)
        return words, settings.client()


class ExecId(ContainerId):
    """Of the container that stands in the line already, or of all."""

    name = "exec id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            words, made = self.chosen(ctx)
            with made as client:
                named = {words.get("id"), *(words.get("ids") or ())} - {None}
                execs = [(run, one.id) for one in client.list() if not named or one.id in named for run in one.execs]
                return [CompletionItem(run.exec_id, help=f"{id}: {' '.join(run.args)[:60]}") for run, id in execs if run.exec_id.startswith(incomplete)]
        except Exception:
            return []


ID, EXEC_ID = ContainerId(), ExecId()
one_id = click.argument("id", type=ID)
many_ids = click.argument("ids", type=ID, nargs=-1, required=True)


def each(ids: Sequence[str], ask: Callable[[str], object]) -> None:
    """As many as possible; the last refusal is the command's."""
    last: Exception | None = None
    for id in ids:
        try:
            ask(id)
            click.echo(id)
        except Exception as error:
            if last is not None:
                click.echo(f"ctl: {printable(str(last))}", err=True)
            last = error
    if last is not None:
        raise last


# ---- words of options


def pairs(words: Iterable[str], option: str = "--label") -> dict[str, str]:
    made = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name:
            raise click.BadParameter(f"{word!r} has no name: KEY=VALUE", param_hint=option)
        made[name] = value
    return made


class Signal(click.ParamType[int]):
    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if str(value).isdecimal():
            return int(value)
        try:
            return signal.Signals["SIG" + str(value).upper().removeprefix("SIG")].value
        except KeyError:
            self.fail(f"{value!r} is no signal: TERM, SIGTERM or 15", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [one.name.removeprefix("SIG") for one in signal.Signals]
        return [CompletionItem(name) for name in names if name.startswith(incomplete.upper().removeprefix("SIG"))]


class Span(click.ParamType[timedelta]):
    """Seconds, or 500ms, 10s, 2m, 1h."""

    name = "time"
    UNITS: Mapping[str, float] = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(value))
        if not found:
            self.fail(f"{value!r} is no time: 10, 500ms, 2m", param, ctx)
        return timedelta(seconds=float(found[1]) * self.UNITS[found[2]])


SIGNAL, SPAN = Signal(), Span()


def restart_policy(word: str | None, backoff: timedelta | None) -> RestartPolicy | None:
    """no, always, on-failure, on-failure:5"""
    if word is None:
        return None
    name, _, limit = word.partition(":")
    if name not in tuple(When) or (limit and not (limit.isdecimal() and name == When.ON_FAILURE)):
        raise click.BadParameter(f"{word!r} is none of no, always, on-failure, on-failure:COUNT", param_hint="--restart")
    return RestartPolicy(When(name), int(limit or 0), backoff)


def policies(function: F) -> F:
    """The options of create, run and update about what happens later."""
    for option in (
        click.option("--restart", metavar="POLICY", help="no, always, on-failure[:COUNT]"),
        click.option("--restart-backoff", type=SPAN, metavar="TIME", help="before the first restart, doubled with each"),
        click.option("--probe", metavar="COMMAND", help="executed in the container: its exit status 0 is health"),
        click.option("--probe-interval", type=SPAN, metavar="TIME"),
        click.option("--probe-timeout", type=SPAN, metavar="TIME"),
        click.option("--probe-start", type=SPAN, metavar="TIME", help="failures in it do not count"),
        click.option("--probe-retries", type=int, default=0, metavar="COUNT"),
        click.option("--probe-restart", is_flag=True, help="what is unhealthy is killed, and restarted by its policy"),
        click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE"),
    ):
        function = option(function)
    return function


POLICY_NAMES = ("restart", "restart_backoff", "probe", "probe_interval", "probe_timeout", "probe_start", "probe_retries", "probe_restart", "labels")


def policy_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Takes those options away, and makes what the client wants."""
    one = {name: options.pop(name) for name in POLICY_NAMES}
    probe = None
    if one["probe"] is not None:
        args = tuple(shlex.split(one["probe"]))
        probe = Probe(args, one["probe_interval"], one["probe_timeout"], one["probe_start"], one["probe_retries"], one["probe_restart"])
    return {"restart": restart_policy(one["restart"], one["restart_backoff"]), "probe": probe, "labels": pairs(one["labels"])}


def filtered(client: Client, words: Sequence[str], foreign: bool = False) -> Sequence[Container]:
    """label=KEY[=VALUE], status=, health=, exited=STATUS, id=BEGINNING; several of a name: any of them, of labels all."""
    labels: dict[str, str] = {}
    others: dict[str, set[str]] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name == "label":
            labels.update(pairs([value], "--filter"))
        else:
            others.setdefault(name, set()).add(value)
    if unknown := others.keys() - {"status", "health", "exited", "id"}:
        raise click.BadParameter(f"{min(unknown)!r} is none of label, status, health, exited, id", param_hint="--filter")
    found = client.list(labels=labels, foreign=foreign)
    found = [one for one in found if one.status in others.get("status", {one.status}) and one.health in others.get("health", {one.health})]
    if ended := others.get("exited"):
        found = [one for one in found if one.status is Status.STOPPED and one.exit and str(one.exit.status) in ended]
    return [one for one in found if one.id.startswith(tuple(others.get("id", {""})))]


# ---- what is printed


def plain(value: Any) -> Any:
    """Dataclasses to what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


def as_json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(plain(value), indent=indent, ensure_ascii=False)


FIELD = re.compile(r"\{\{\s*(json\s+)?\.([\w.]*)\s*\}\}")


def filled(template: str, data: Any) -> str:
    """{{.exit.status}}, {{json .labels}}: as engines write it, whatever the case of a name. \\t and \\n are what they say."""

    def value(found: re.Match[str]) -> str:
        at = plain(data)
        for name in filter(None, found[2].split(".")):
            names = {key.lower().replace("_", ""): key for key in at} if isinstance(at, dict) else {}
            key = names.get(name.lower().replace("_", ""))
            if key is None:
                raise click.BadParameter(f"there is no .{found[2]}: --format json shows what there is", param_hint="--format")
            at = at[key]
            if at is None:
                break
        return json.dumps(at, ensure_ascii=False) if found[1] or isinstance(at, dict | list) else "" if at is None else printable(str(at))

    return FIELD.sub(value, template.replace("\\t", "\t").replace("\\n", "\n"))


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]], style: Callable[[str, str], str] | None = None) -> None:
    """Left-aligned, two spaces between; nothing is cut, so that a pipe gets everything. `style`: of a cell, by its head, on a terminal."""
    table = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[number]) for row in table) for number in range(len(heads))]
    colours = style is not None and sys.stdout.isatty()
    for line, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colours and line and style:
            cells = [style(head, cell) for head, cell in zip(heads, cells, strict=True)]
        click.echo("  ".join(cells).rstrip())


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    return "" if moment is None else span((now or datetime.now(UTC)) - moment)


def span(value: timedelta) -> str:
    seconds = max(0, int(value.total_seconds()))
    for size, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{name}"
    return f"{seconds}s"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def how(exit: Exit) -> str:
    """"1", "137 KILL", "137 out of memory"."""
    if exit.oom or exit.reason == "oom":
        return f"{exit.status} out of memory"
    if exit.signal:
        try:
            return f"{exit.status} {signal.Signals(exit.signal).name.removeprefix('SIG')}"
        except ValueError:
            return f"{exit.status} signal {exit.signal}"
    return f"{exit.status} {exit.reason}" if exit.reason not in ("", "exited") else str(exit.status)
