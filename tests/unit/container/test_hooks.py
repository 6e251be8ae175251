# SPDX-License-Identifier: Apache-2.0
"""Hooks that no plan executes get what the configuration says."""

from typing import Any

import pytest

from wherry.container import hooks


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
@pytest.mark.parametrize(
    ("hook", "given"),
    [
        ({"path": "/h"}, ("/h", ["/h"], [], b"state", 0)),
        ({"path": "/h", "args": ["zero", ""], "env": ["A=b", "C="], "timeout": 7}, ("/h", ["zero", ""], ["A=b", "C="], b"state", 7)),
    ],
)
def test_what_a_hook_outside_the_plan_gets(kind: str, hook: Any, given: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(hooks.native, "run_hook", lambda *arguments: calls.append(arguments))
    hooks.run_hook(hook, kind, 0, b"state")
    assert calls == [given]
