# SPDX-License-Identifier: Apache-2.0
"""The command line as a process, through the front and through `python -m wherry`: the same bytes and exit codes for every verb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.cli import VERBS

pytestmark = [pytest.mark.ours, pytest.mark.one_way, pytest.mark.usefixtures("front")]


def both(command: str, root: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Of the front, and of the interpreter; with the empty environment that engines give."""
    found = []
    for start in ([command], [sys.executable, "-m", "wherry"]):
        done = subprocess.run(
            [*start, "--root", str(root), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, env={"PYTHONDONTWRITEBYTECODE": "1"}
        )
        found.append((done.returncode, done.stdout, done.stderr))
    return found


def same(command: str, root: Path, *arguments: str) -> tuple[int, str, str]:
    front, python = both(command, root, *arguments)
    assert front == python, arguments
    return front


@pytest.mark.parametrize("verb", VERBS)
def test_help_unknown_flags_and_missing_values(verb: str, command: str, place: Path) -> None:
    code, out, err = same(command, place, verb, "-h")
    assert (code, err) == (0, "") and out.startswith(f"NAME:\n   wherry {verb} - " if verb != "help" else "NAME:\n   wherry - ")
    assert same(command, place, "help", verb) == (code, out, err)
    code, out, err = same(command, place, verb, "--no-such-flag=x")
    assert code != 0 and out == "" and "flag provided but not defined: -no-such-flag" in err
    flags = __import__(f"wherry.cli.{verb}", fromlist=("FLAGS",)).FLAGS
    name = next((name for name, kind in flags.items() if kind not in (1, "") and not isinstance(kind, str)), None)
    if name:
        code, out, err = same(command, place, verb, f"-{name}")
        assert code != 0 and out == "" and f"flag needs an argument: -{name}" in err


@pytest.mark.parametrize("verb", ["start", "state", "kill", "delete", "pause", "resume", "update", "ps", "events"])
def test_an_unknown_container_after_and_before_flags(verb: str, command: str, place: Path) -> None:
    code, out, err = same(command, place, verb, "nobody")
    assert (code, out) == (1, "") and "container does not exist" in err
    assert same(command, place, verb, "--", "nobody") == (code, out, err)


@pytest.mark.parametrize("words", [["delete", "-f", "x"], ["delete", "-force", "x"], ["delete", "x", "--force=true"], ["delete", "--force", "--", "x"], ["-debug", "delete", "x", "-f"]])
def test_force_in_every_spelling(words: list[str], command: str, place: Path) -> None:
    assert same(command, place, *words) == (0, "", "")


@pytest.mark.parametrize("words", [["create", "b"], ["create", "x", "--bundle=b"], ["create", "-bundle", "b", "x"], ["create", "x", "-b", "b", "-no-pivot"], ["run", "-d", "x", "-b=b"]])
def test_a_bundle_that_is_not_there_in_every_spelling(words: list[str], command: str, place: Path) -> None:
    code, out, err = same(command, place, *words)
    assert (code, out) == (1, "") and "config.json: no such file or directory" in err


def test_no_arguments_at_all(command: str, place: Path) -> None:
    code, out, err = same(command, place)
    assert (code, err) == (0, "") and "wherry run --rootfs DIR -- sh" in out
    assert os.listdir(place) == []
