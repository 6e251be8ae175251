# SPDX-License-Identifier: Apache-2.0
"""The contract of the command line, verb by verb and flag by flag, from the tables that the verbs themselves read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from wherry.cli import GLOBAL_FLAGS, VERBS, main
from wherry.cli.arguments import BOOL, MANY, NUMBER, read
from wherry.cli.help import SUMMARY
from wherry.errors import UsageError


def table(verb: str) -> Any:
    return __import__(f"wherry.cli.{verb}", fromlist=("FLAGS",))


def kind(flags: dict[str, int | str], name: str) -> tuple[str, int]:
    """The name that a short one stands for, and its kind."""
    found = flags[name]
    return (found, int(flags[found])) if isinstance(found, str) else (name, found)


def bounds(verb: str) -> tuple[int, int | None]:
    """How many positional arguments, by what the help says."""
    words = SUMMARY[verb][0].split()
    least = sum(1 for word in words if not word.startswith("[") and not word.endswith("]"))
    return (1 if verb == "exec" else least), None if "..." in SUMMARY[verb][0] or verb == "ps" else len(words)


FLAGS = [(verb, name) for verb in VERBS for name in table(verb).FLAGS] + [("", name) for name in GLOBAL_FLAGS]
WITH_VALUE = [(verb, name) for verb, name in FLAGS if kind(table(verb).FLAGS if verb else GLOBAL_FLAGS, name)[1] != BOOL]
SWITCHES = [pair for pair in FLAGS if pair not in WITH_VALUE]


def flags_of(verb: str) -> dict[str, int | str]:
    found: dict[str, int | str] = table(verb).FLAGS if verb else GLOBAL_FLAGS
    return found


@pytest.mark.parametrize(("verb", "name"), WITH_VALUE)
def test_every_spelling_of_a_value(verb: str, name: str) -> None:
    flags = flags_of(verb)
    full, what = kind(flags, name)
    text = "7"
    expected = {NUMBER: 7, MANY: ["7"]}.get(what, "7")
    for argv in ([f"--{name}", text], [f"-{name}", text], [f"--{name}={text}"], [f"-{name}={text}"]):
        values, words, _ = read(flags, [*argv, "ID"])
        assert {NUMBER: values.number, MANY: values.many}.get(what, values.text)(full) == expected, argv
        assert words == ["ID"]


@pytest.mark.parametrize(("verb", "name"), SWITCHES)
def test_every_spelling_of_a_switch(verb: str, name: str) -> None:
    flags = flags_of(verb)
    full, _ = kind(flags, name)
    for word, on in ((f"--{name}", True), (f"-{name}", True), (f"--{name}=true", True), (f"-{name}=false", False), (f"--{name}=0", False)):
        values, words, _ = read(flags, [word, "ID"])
        assert values.on(full) is on and values.given(full), word
        assert words == ["ID"]
    with pytest.raises(UsageError, match=f'invalid boolean value "maybe" for -{name}'):
        read(flags, [f"--{name}=maybe"])


@pytest.mark.parametrize(("verb", "name"), WITH_VALUE)
def test_a_value_that_is_missing(verb: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for argv in ([verb, f"--{name}"], [verb, f"-{name}"]) if verb else ([f"--{name}"], [f"-{name}"]):
        assert main(argv) != 0
        out, err = capfd.readouterr()
        assert out == "" and f"flag needs an argument: -{name}" in err and err.count("\n") == 1


@pytest.mark.parametrize(("verb", "name"), [pair for pair in FLAGS if pair[0]])
def test_flags_stand_after_the_positional_arguments_too(verb: str, name: str) -> None:
    """But where what follows the ID belongs to another program."""
    module = table(verb)
    full, what = kind(module.FLAGS, name)
    argv = ["ID", f"--{name}"] + ([] if what == BOOL else ["7"])
    values, words, _ = read(module.FLAGS, argv, getattr(module, "FLAGS_FIRST", False))
    if getattr(module, "FLAGS_FIRST", False):
        assert words == argv and not values.given(full)
    else:
        assert words == ["ID"] and values.given(full)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_wherever_it_stands(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    texts = set()
    behind = [] if getattr(table(verb), "FLAGS_FIRST", False) else [[verb, "ID", "-h"], [verb, "ID", "--help"]]
    for argv in ([verb, "-h"], [verb, "--help"], [verb, "-help"], ["help", verb], ["-h", verb], *behind):
        assert main(argv) == 0, argv
        out, err = capfd.readouterr()
        assert err == ""
        texts.add(out)
    assert len(texts) == 1
    (text,) = texts
    assert all(f"--{name}" in text for name, what in table(verb).FLAGS.items() if isinstance(what, int))


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_flag(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    for word in ("--no-such-flag", "-no-such-flag", "--no-such-flag=1"):
        assert main([verb, word]) != 0
        out, err = capfd.readouterr()
        assert out == ""
        assert re.search(rf"flag provided but not defined: -no-such-flag \(see wherry {verb} --help\)$", err.strip())


@pytest.mark.parametrize("verb", VERBS)
def test_too_many_arguments_and_too_few(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    least, most = bounds(verb)
    exact = f"exactly {least}"
    if most is not None:
        assert main([verb, *["x"] * (most + 1)]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        wanted = exact if least == most else f"a maximum of {most}"
        assert f'"{verb}" requires {wanted} argument(s), not {most + 1} (see wherry {verb} --help)' in err
    if least:
        assert main([verb]) == 1, "exec, too: nothing was tried"
        out, err = capfd.readouterr()
        if verb == "run":
            assert "wherry run needs a name, and a bundle" in out
            return
        wanted = exact if least == most else f"a minimum of {least}"
        assert f'"{verb}" requires {wanted} argument(s), not 0 (see wherry {verb} --help)' in err


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["create", "--bundel", "B", "x"], "did you mean --bundle?"),
        (["list", "--root", "/x"], "it stands before the verb: wherry --root ... list"),
        (["--nope", "list"], "see wherry --help"),
        (["delete", "--forse", "x"], "did you mean --force?"),
    ],
)
def test_what_helps_with_an_unknown_flag(argv: list[str], remedy: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) != 0
    assert f"({remedy})" in capfd.readouterr().err
