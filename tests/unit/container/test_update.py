# SPDX-License-Identifier: Apache-2.0
"""update: what is refused before anything is written."""

from pathlib import Path
from typing import Any

import pytest

from wherry.container import hooks
from wherry.container.update import check_usage
from wherry.errors import HostError
from wherry.plan.execute import Cgroup

CONTAINER: Any = None
CHECKED = b'{"ociVersion": "1.2.0", "root": {"path": "r"}, "linux": {"resources": {"memory": {"checkBeforeUpdate": true}}}}'


@pytest.fixture
def cgroups(tmp_path: Path) -> list[Cgroup]:
    (tmp_path / "memory.current").write_text("5000\n")
    return [Cgroup(str(tmp_path), 1, True)]


@pytest.mark.parametrize("memory", [{"limit": 5000}, {"limit": 1}, {"limit": 9000, "swap": 4000}])
def test_a_limit_below_what_is_used(cgroups: list[Cgroup], memory: dict[str, Any]) -> None:
    with pytest.raises(HostError, match="<= usage 5000"):
        check_usage(CONTAINER, cgroups, {**memory, "checkBeforeUpdate": True})
    check_usage(CONTAINER, cgroups, {**memory, "checkBeforeUpdate": False})


@pytest.mark.parametrize("memory", [{}, {"limit": 5001}, {"limit": -1, "swap": -1}, {"reservation": 1}])
def test_what_is_let_through(cgroups: list[Cgroup], memory: dict[str, Any]) -> None:
    check_usage(CONTAINER, cgroups, {**memory, "checkBeforeUpdate": True})


def test_the_configuration_may_ask_for_it(cgroups: list[Cgroup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "config_copy", lambda container: CHECKED)
    with pytest.raises(HostError) as caught:
        check_usage(CONTAINER, cgroups, {"limit": 1})
    assert caught.value.pointer == "/memory/limit"
    check_usage(CONTAINER, cgroups, {"limit": 1, "checkBeforeUpdate": False})


def test_version_1_refuses_it_by_itself(cgroups: list[Cgroup], tmp_path: Path) -> None:
    check_usage(CONTAINER, [Cgroup(str(tmp_path), 1, False), *cgroups], {"limit": 1, "checkBeforeUpdate": True})
