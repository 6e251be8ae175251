# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole, as far as it goes without a container: errors, logs, help, exit codes."""

import json
import re
from pathlib import Path

import pytest

from wherry.cli import GLOBAL_FLAGS, VERBS, main
from wherry.cli.help import FLAG_TEXT, SUMMARY
from wherry.cli.list import table


def verb_flags(verb: str) -> dict[str, int | str]:
    return __import__(f"wherry.cli.{verb}", fromlist=("FLAGS",)).FLAGS  # type: ignore[no-any-return]


def test_an_error_is_one_line_on_stderr_and_one_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.json"
    assert main(["--root", str(tmp_path / "root"), "--log", str(log), "--log-format", "json", "state", "nobody"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "container does not exist" in err
    (line,) = log.read_text().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["msg"] + "\n", entry["code"]) == ("error", err, "WHERRY-STATE-NOT-FOUND")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"])


def test_a_log_in_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    main(["--root", str(tmp_path / "root"), f"--log={log}", "kill", "nobody", "KILL"])
    before, line = log.read_text().splitlines()
    assert before == "before"
    assert re.fullmatch(r'time="[^"]+" level=error msg="kill: container does not exist: \\"nobody\\"" code=WHERRY-STATE-NOT-FOUND', line)


def test_the_log_holds_any_bytes_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    main(["--log", str(log), "--log-format", "json", "state", 'a"\n\x01\u2603\udcff'])
    (line,) = log.read_bytes().splitlines()
    assert "\u2603" in json.loads(line)["msg"]


def test_stderr_as_log_is_not_told_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["--root", str(tmp_path), "--log", "/proc/self/fd/2", "state", "nobody"])
    assert capfd.readouterr().err.count("does not exist") == 1


def test_a_log_that_cannot_be_written_hides_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path), "--log", str(tmp_path / "no/log"), "state", "nobody"]) == 1
    assert "container does not exist" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["create", "--bundle"], "flag needs an argument"),
        (["--root"], "flag needs an argument"),
        (["create"], '"create" requires exactly 1 argument(s), not 0'),
        (["state", "a", "b"], '"state" requires exactly 1 argument(s), not 2'),
        (["create", "--nope", "x"], "flag provided but not defined: -nope"),
        (["craete", "x"], 'unknown command "craete" (did you mean "create"?)'),
        (["--log-format", "xml", "state", "x"], 'invalid value "xml"'),
        (["state", "a/b"], "invalid container ID format"),
        (["state", ".."], "invalid container ID format"),
        (["state", ""], "invalid container ID format"),
        (["run", "--memory", "64M", "x"], "flag -memory needs --rootfs"),
        (["kill", "x", "NOSUCH"], 'unknown signal "NOSUCH"'),
    ],
)
def test_usage_errors(argv: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 1
    out, err = capfd.readouterr()
    assert text in err
    assert out == ""


def test_wherry_alone_teaches(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capfd.readouterr().out
    assert "wherry run --rootfs DIR -- sh" in out
    assert all(f"\n   {verb} " in out for verb in VERBS)


def test_run_alone_teaches(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 1
    assert "wherry spec" in capfd.readouterr().out


@pytest.mark.parametrize("argv", [[verb, "--help"] for verb in VERBS] + [["help", verb] for verb in VERBS] + [["--help"], ["-h"]])
def test_help(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith("NAME:\n   wherry ") and "\nUSAGE:\n   wherry " in out


def test_every_verb_and_flag_has_help() -> None:
    assert set(SUMMARY) == set(VERBS)
    known = {name for verb in VERBS for name, kind in verb_flags(verb).items() if isinstance(kind, int)}
    known |= {name for name, kind in GLOBAL_FLAGS.items() if isinstance(kind, int)}
    assert set(FLAG_TEXT) == known


def test_aliases_mean_flags_that_exist() -> None:
    for verb in VERBS:
        flags = verb_flags(verb)
        assert all(kind in flags for kind in flags.values() if isinstance(kind, str)), verb


def test_version_as_engines_read_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert re.match(r"wherry version \S+$", lines[0])
    assert [line for line in lines if re.match(r"commit: \S+$", line)]
    assert "spec: 1.3.0" in lines


def test_list_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path)
    assert main(["--root", root, "list"]) == 0
    assert capfd.readouterr().out == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
    assert main(["--root", root, "list", "--format", "json"]) == 0
    assert capfd.readouterr().out == "null\n"


def test_list_of_a_root_that_is_named_and_missing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path / "none"), "list"]) == 1
    assert "none: no such directory" in capfd.readouterr().err


def test_table_lines_up_as_runc_does() -> None:
    entry = {
        "id": "a-long-container-name",
        "pid": 0,
        "status": "stopped",
        "bundle": "/b",
        "created": "2026-01-01T00:00:00Z",
        "owner": "root",
    }
    header, row = table([entry]).splitlines()
    assert header == "ID                      PID         STATUS      BUNDLE      CREATED                OWNER"
    assert row == "a-long-container-name   0           stopped     /b          2026-01-01T00:00:00Z   root"
