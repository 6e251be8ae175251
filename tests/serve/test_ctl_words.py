# SPDX-License-Identifier: Apache-2.0
"""What ctl reads and prints, without a server: options, keys, columns; and that what is resumed comes once, however it is cut. Nothing here needs root."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry_shim.client.session import CHUNK, Typed
from wherry_shim.client.streams import Place
from wherry_shim.client.types import Container, Event, Exit, Health, RestartPolicy, Status, When
from wherry_shim.ctl import common, live, look, session
from wherry_shim.ctl.bundles import Wanted, environment
from wherry_shim.ctl.talk import status_of
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# ---- what is cut anywhere


@settings(deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_keys_are_found_however_they_come(data: bytes, cuts: list[int]) -> None:
    data = data.replace(b"\x10", b"\x11")[:20] + b"\x10\x11" + data[20:] if len(data) % 2 else data
    whole = session.Keys(b"\x10\x11")
    passed, left = whole.feed(data)
    pieces, found, keys = b"", False, session.Keys(b"\x10\x11")
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        if not found:
            piece, found = keys.feed(data[begin:end])
            pieces += piece
    assert (pieces, found) == (passed, left)


@settings(deadline=None)
@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=8))
def test_output_comes_once(data: bytes, deaths: list[tuple[int, int]]) -> None:
    """A server that says more than it is asked for, from anywhere before what is known."""
    place, got = Place(0, 0), b""
    for begin, end in [*deaths, (0, len(data))]:
        known = len(got)
        begin = min(begin, known)
        output = place.accept(pb.Output(channel=pb.STDOUT, offset=begin, data=data[begin : max(begin, end)]))
        got += output.data if output else b""
    assert got == data


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300_000), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1 << 18)), max_size=6))
def test_typing_comes_once(data: bytes, deaths: list[tuple[int, int]]) -> None:
    """A server dies after so many chunks, of which it has written so much; the next one says how much that was."""
    typed, written = Typed(), bytearray()
    typed.acknowledged(1000, again=True)
    typed.add(memoryview(data))
    for chunks, more in deaths:
        sent = b"".join(typed.next() for _ in range(chunks))
        written += sent[:more]
        typed.acknowledged(1000 + len(written), again=True)
    while chunk := typed.next():
        assert len(chunk) <= CHUNK
        written += chunk
    assert written == data


# ---- words


@pytest.mark.parametrize(("words", "made"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-],q", b"\x1dq"), ("", b""), ("ctrl-@", b"\0")])
def test_detach_keys(words: str, made: bytes) -> None:
    assert session.keys(words) == made


@pytest.mark.parametrize("words", ["ctrl-", "ctrl-pp", "xy", "ctrl-é"])
def test_keys_that_are_none(words: str) -> None:
    with pytest.raises(click.BadParameter):
        session.keys(words)


def test_restart_policies() -> None:
    assert common.restart_policy(None, None) is None
    assert common.restart_policy("always", None) == RestartPolicy(When.ALWAYS)
    assert common.restart_policy("on-failure:5", timedelta(1)) == RestartPolicy(When.ON_FAILURE, 5, timedelta(1))
    for wrong in ("sometimes", "always:5", "on-failure:x", "", "on-failure:-1"):
        with pytest.raises(click.BadParameter):
            common.restart_policy(wrong, None)


@pytest.mark.parametrize(("word", "seconds"), [("10", 10), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), ("1h", 3600)])
def test_times(word: str, seconds: float) -> None:
    assert common.SPAN.convert(word, None, None).total_seconds() == seconds


def test_signals() -> None:
    assert [common.SIGNAL.convert(word, None, None) for word in ("TERM", "sigterm", "15", 15)] == [15] * 4


@pytest.mark.parametrize(
    ("pointer", "message", "status"),
    [
        ("/process/args/0", 'exec: "x": executable file not found in $PATH', 127),
        ("/process/args/0", 'exec: "/etc": is a directory: permission denied', 126),
        ("/process/args/0", "exec format error", 126),
        ("/mounts/3", "no such file or directory", 125),
        ("", "container x is not there: not found", 125),
    ],
)
def test_exit_statuses_of_refusals(pointer: str, message: str, status: int) -> None:
    from wherry_shim.client import Refused

    assert status_of(Refused(message, pointer=pointer)) == status


def test_a_configuration_with_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "process": {"args": ["sh"], "env": ["A=1", "B=2"]},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/a", "source": "data", "type": "bind"}, {"destination": "/proc", "source": "proc", "type": "proc"}],
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    monkeypatch.setenv("HERE", "there")
    plain = Wanted(str(tmp_path), None)
    assert plain.arguments() == {"bundle": str(tmp_path)}
    changed = json.loads(Wanted(str(tmp_path), None, ["ls"], environment(["A=3", "HERE", "MISSING"]), "/tmp", True).arguments()["config"])
    assert changed["process"] == {"args": ["ls"], "env": ["B=2", "A=3", "HERE=there"], "cwd": "/tmp", "terminal": True}
    assert changed["root"]["path"] == str(tmp_path / "rootfs")
    assert [mount["source"] for mount in changed["mounts"]] == [str(tmp_path / "data"), "proc"]
    for wrong in ("[]", "{", '{"mounts": 5}', '{"process": 5}'):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(click.ClickException):
            Wanted(str(tmp_path), None, ["ls"]).arguments()


# ---- what is printed


def container(**more: object) -> Container:
    fields: dict[str, object] = dict.fromkeys(Container.__dataclass_fields__)
    fields |= {"id": "a", "status": Status.RUNNING, "run": 1, "health": Health.NONE, "labels": {}, "restart": RestartPolicy(), "started_at": NOW}
    return Container(**(fields | more))  # type: ignore[arg-type]


def test_statuses() -> None:
    later = NOW + timedelta(minutes=5)
    exit = Exit(1, 137, 9, False, "signal", NOW, NOW)
    assert look.said_status(container(), later) == "running 5m"
    assert look.said_status(container(health=Health.UNHEALTHY), later) == "running 5m, unhealthy"
    assert look.said_status(container(status=Status.STOPPED, exit=exit), later) == "exited (137 KILL) 5m ago"
    assert look.said_status(container(status=Status.WAITING, restart_at=later + timedelta(seconds=3)), later) == "restarting in 3s"
    assert look.said_status(container(status=Status.CREATED), later) == "created"
    assert common.how(Exit(1, 137, 9, True, "oom", None, None)) == "137 out of memory"
    assert common.how(Exit(1, 255, 0, False, "lost", None, None)) == "255 lost"


def test_a_row_and_its_words() -> None:
    later = NOW + timedelta(minutes=5)
    one = container(args=("sh", "-c", "echo a long line of words"), run=3, created_at=NOW, pid=7, bundle="/srv/a", owner="", labels={"b": "2", "a": "1"})
    assert look.row(one, later, False) == ("a", "sh -c 'echo a long line of wo…", "5m ago", "running 5m", "7", "2", "always", "/srv/a", "a=1,b=2")
    assert look.row(one, later, True)[1] == "sh -c 'echo a long line of words'"
    data = look.fields(one, later)
    assert common.filled("{{.ID}}\\t{{ .Status }} {{.labels.a}} {{json .args}} {{.started_at}}", data) == (
        f"a\trunning 5m 1 [\"sh\", \"-c\", \"echo a long line of words\"] {NOW.isoformat()}"
    )
    assert common.filled("{{.exit.status}}|{{.names}}", data) == "|a", "what is not there yet is nothing"
    with pytest.raises(click.BadParameter, match=r"there is no \.nonsense"):
        common.filled("{{.nonsense}}", data)


def test_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    common.columns(("ID", "LABELS"), [("a", "x=\x1b[31m\r\n\u202e")])
    event = look.event_line(Event("1", NOW, "a\x1b[2J", "exit", 1, "", 0, None, Health.NONE, None))
    assert all(character.isprintable() or character == "\n" for character in capsys.readouterr().out + event)


def test_rounds_of_samples() -> None:
    def sample(id: str, seconds: float, cpu: int) -> live.Sample:
        numbers = dict.fromkeys(live.Sample.__dataclass_fields__, 0)
        return live.Sample(**(numbers | {"id": id, "time": NOW + timedelta(seconds=seconds), "cpu_usec": cpu}))  # type: ignore[arg-type]

    rows = live.Rows()
    assert [rows.add(sample("a", 0, 0)), rows.add(sample("b", 0, 0)), rows.add(sample("a", 2, 1_000_000))] == [False, False, True]
    assert [cells[1] for cells in rows.cells()] == ["50.0", "-"]
    rows.add(sample("a", 9, 1_000_000))
    rows.forget(5)
    assert [cells[0] for cells in rows.cells()] == ["a"]


def test_sizes() -> None:
    assert [common.size(count) for count in (0, 1023, 1024, 5 << 20, 3 << 40)] == ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 TiB"]
