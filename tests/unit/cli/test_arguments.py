# SPDX-License-Identifier: Apache-2.0
"""Go's flag syntax, as engines write it."""

import pytest

from wherry.cli.arguments import BOOL, MANY, NUMBER, TEXT, read
from wherry.errors import UsageError

FLAGS = {"bundle": TEXT, "b": "bundle", "no-pivot": BOOL, "preserve-fds": NUMBER, "env": MANY, "e": "env"}


@pytest.mark.parametrize("argv", [["--bundle", "B"], ["-bundle", "B"], ["--bundle=B"], ["-bundle=B"], ["-b", "B"], ["--b=B"]])
def test_spellings_of_a_value(argv: list[str]) -> None:
    values, words, _ = read(FLAGS, [*argv, "ID"])
    assert values.text("bundle") == "B"
    assert words == ["ID"]


@pytest.mark.parametrize(
    ("word", "on"), [("--no-pivot", True), ("-no-pivot", True), ("--no-pivot=true", True), ("--no-pivot=1", True), ("--no-pivot=false", False), ("-no-pivot=F", False)]
)  # fmt: skip
def test_spellings_of_a_switch(word: str, on: bool) -> None:
    values, words, _ = read(FLAGS, [word, "ID"])
    assert values.on("no-pivot") is on
    assert values.given("no-pivot")
    assert words == ["ID"]


def test_a_switch_takes_no_word() -> None:
    _, words, _ = read(FLAGS, ["--no-pivot", "false"])
    assert words == ["false"]


def test_flags_after_positional_arguments() -> None:
    values, words, _ = read(FLAGS, ["ID", "--bundle", "B", "more", "--no-pivot"])
    assert (values.text("bundle"), values.on("no-pivot"), words) == ("B", True, ["ID", "more"])


def test_nothing_is_a_flag_after_two_dashes() -> None:
    values, words, rest = read(FLAGS, ["ID", "--", "--bundle", "B"])
    assert (values.text("bundle"), words, rest) == (None, ["ID"], ["--bundle", "B"])


def test_one_dash_is_a_word() -> None:
    assert read(FLAGS, ["-"])[1] == ["-"]


def test_a_value_may_look_like_a_flag_or_be_empty() -> None:
    assert read(FLAGS, ["--bundle", "--no-pivot"])[0].text("bundle") == "--no-pivot"
    assert read(FLAGS, ["--bundle="])[0].text("bundle") == ""
    assert read(FLAGS, ["--bundle=a=b"])[0].text("bundle") == "a=b"


def test_the_last_of_two_values_counts_and_lists_grow() -> None:
    values, _, _ = read(FLAGS, ["-b", "1", "-b", "2", "-e", "A=1", "--env=B=2"])
    assert values.text("bundle") == "2"
    assert values.many("env") == ["A=1", "B=2"]


def test_what_was_not_given() -> None:
    values, _, _ = read(FLAGS, [])
    assert (values.text("bundle"), values.on("no-pivot"), values.number("preserve-fds"), values.many("env")) == (None, False, 0, [])
    assert not values.given("bundle")


@pytest.mark.parametrize("argv", [["--bundle"], ["-b"], ["ID", "--preserve-fds"]])
def test_a_missing_value_is_told_in_the_words_that_podman_probes_for(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="flag needs an argument: -"):
        read(FLAGS, argv)


@pytest.mark.parametrize("word", ["--bund", "--nope", "-x", "--no-pivo=true"])
def test_no_abbreviations_and_no_unknown_flags(word: str) -> None:
    with pytest.raises(UsageError, match="flag provided but not defined"):
        read(FLAGS, [word, "B"])


@pytest.mark.parametrize("argv", [["--no-pivot=maybe"], ["--preserve-fds", "x"], ["--preserve-fds=1.5"]])
def test_bad_values(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="invalid"):
        read(FLAGS, argv)


@pytest.mark.parametrize("word", ["-h", "--help", "-help", "--h"])
def test_help_is_known_everywhere(word: str) -> None:
    assert read(FLAGS, ["ID", word])[0].on("help")


def test_global_flags_end_at_the_verb() -> None:
    values, words, _ = read({"root": TEXT}, ["--root", "R", "create", "--root", "other"], globals_only=True)
    assert values.text("root") == "R"
    assert words == ["create", "--root", "other"]


def test_bytes_that_are_no_text_survive() -> None:
    assert read(FLAGS, ["--bundle", "/a\udcff"])[0].text("bundle") == "/a\udcff"
