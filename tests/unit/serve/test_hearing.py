# SPDX-License-Identifier: Apache-2.0
"""What is heard around a recovery: nothing is lost, and nothing is taken for new that was made up for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wherry_shim.serve import records
from wherry_shim.serve.engine import SNAPSHOT
from wherry_shim.serve.hearing import Hearing
from wherry_shim.serve.managed import Managed
from wherry_shim.serve.records import Asked, Run

EXIT: dict[str, Any] = {"container_id": "a", "id": "a", "pid": 7, "exit_status": 3, "exited_at": {"seconds": 1, "nanos": 0}}


def heard(place: Path, phase: str) -> tuple[Hearing, Managed, list[str]]:
    told: list[str] = []
    one = Managed(Asked("a"), Run(phase=phase), place)
    supervisor = SimpleNamespace(table={"a": one}, tell=lambda one, type, *rest, **more: told.append(type), engine=SimpleNamespace(directory=lambda id: str(place)))
    return Hearing(supervisor), one, told  # type: ignore[arg-type]


def test_an_end_between_the_snapshot_and_its_reader(tmp_path: Path) -> None:
    """The answer is on its way over to the other thread, and an end right behind it: both are there before anybody looks at the answer."""
    hearing, one, told = heard(tmp_path, records.RUNNING)
    hearing.heard("/tasks/exit", {**EXIT, "exit_status": 1})  # before it: the answer knows of it
    hearing.heard(SNAPSHOT, {})
    hearing.heard("/tasks/exit", EXIT)
    hearing.begin()
    assert told == ["exit", "stopped"] and one.run.exit is not None and one.run.exit.status == 3


def test_an_end_that_was_told_already(tmp_path: Path) -> None:
    """Published late, when the recovery had seen it in the container's state."""
    for phase in (records.STOPPED, records.WAITING, records.ENDED):
        hearing, _, told = heard(tmp_path, phase)
        hearing.begin()
        hearing.heard("/tasks/exit", EXIT)
        assert not told
