# SPDX-License-Identifier: Apache-2.0
"""Ids, signals, paths: what the verbs take apart before they do anything."""

import pytest

from wherry.container import options
from wherry.container.lifecycle import check_id, signal_number
from wherry.errors import UsageError


@pytest.mark.parametrize("id", ["a", "A-b_c+d.e", "0", "..a", ".a", "x" * 255])
def test_ids(id: str) -> None:
    check_id(id)


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "a b", "@plans", "ä", "a\n", "x" * 256])
def test_bad_ids(id: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_id(id)
    assert caught.value.code == "WHERRY-USAGE-ID"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("winch", 28),
        ("0", 0),
        ("64", 64),
        ("RTMIN", 34),
        ("RTMIN+3", 37),
        ("SIGRTMAX-1", 63),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "65", "-1", "NOSUCH", "DFL", "SIG_IGN", "BLOCK", "0x9", "KILL+1", "RTMAX+1", "TERM-", "SIG", "RTMIN+", "²"]
)
def test_bad_signals(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        signal_number(text)
    assert caught.value.code == "WHERRY-USAGE-SIGNAL"


@pytest.mark.parametrize(
    ("path", "whole"), [("/a/b", "/a/b"), ("/a//b/./c/../d/", "/a/b/d"), ("/", "/"), ("/..", "/"), ("x", "/work dir/x"), (".", "/work dir"), ("../y", "/y")]
)  # fmt: skip
def test_absolute(path: str, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.posix, "getcwd", lambda: "/work dir")
    assert options.absolute(path) == whole


@pytest.mark.parametrize(
    ("uid", "environment", "mapped", "root"),
    [
        (0, {}, False, "/run/wherry"),
        (0, {b"XDG_RUNTIME_DIR": b"/x"}, False, "/run/wherry"),
        (0, {b"XDG_RUNTIME_DIR": b"/x", b"USER": b"root"}, True, "/run/wherry"),
        (0, {b"XDG_RUNTIME_DIR": b"/x", b"USER": b"me"}, True, "/x/wherry"),
        (1000, {b"XDG_RUNTIME_DIR": b"/x", b"USER": b"root"}, False, "/x/wherry"),
        (1000, {}, False, "/run/wherry"),
    ],
)
def test_default_root(uid: int, environment: dict[bytes, bytes], mapped: bool, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.posix, "geteuid", lambda: uid)
    monkeypatch.setattr(options.posix, "environ", environment)
    monkeypatch.setattr(options, "in_user_namespace", lambda: mapped)
    assert options.default_root() == root
