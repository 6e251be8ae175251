# SPDX-License-Identifier: Apache-2.0
"""How the kernel is to run the process: each property of the scheduler, of the I/O priority and of the memory policy, in the plan's words."""

from __future__ import annotations

from typing import Any

import pytest
from support import plan, small, steps, texts

from wherry.plan.scheduling import MODE


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"policy": "SCHED_BATCH", "nice": -7}, {"policy": 3, "nice": -7, "priority": 0, "flags": 0}),
        ({"policy": "SCHED_FIFO", "priority": 42}, {"policy": 1, "nice": 0, "priority": 42, "flags": 0}),
        (
            {"policy": "SCHED_RR", "priority": 9, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_RESET_ON_FORK"]},
            {"policy": 2, "priority": 9, "flags": 0x11},
        ),
        (
            {"policy": "SCHED_DEADLINE", "runtime": 10, "deadline": 20, "period": 30},
            {"policy": 6, "runtime": 10, "deadline": 20, "period": 30},
        ),
    ],
)
def test_scheduler(given: dict[str, Any], wanted: dict[str, int]) -> None:
    (step,) = steps(plan(small(process__scheduler=given)), "SCHEDULER")
    assert {name: step.fields[name] for name in wanted} == wanted
    assert step.place == "/process/scheduler"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"class": "IOPRIO_CLASS_RT", "priority": 3}, "set io priority IOPRIO_CLASS_RT level 3"),
        ({"class": "IOPRIO_CLASS_BE"}, "set io priority IOPRIO_CLASS_BE level 0"),
        ({"class": "IOPRIO_CLASS_IDLE", "priority": 5}, "set io priority IOPRIO_CLASS_IDLE level 0"),
    ],
)
def test_io_priority(given: dict[str, Any], text: str) -> None:
    assert texts(plan(small(process__ioPriority=given)), "IO_PRIORITY") == [text]


# MPOL_F_NUMA_BALANCING goes with MPOL_BIND alone
@pytest.mark.parametrize(
    ("mode", "flag"),
    [
        *((mode, flag) for mode in MODE if mode not in ("MPOL_DEFAULT", "MPOL_LOCAL") for flag in (None, "MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES")),
        ("MPOL_BIND", "MPOL_F_NUMA_BALANCING"),
    ],
)
def test_memory_policy_in_words(mode: str, flag: str | None) -> None:
    given = {"mode": mode, "nodes": "1,3-4", **({"flags": [flag]} if flag else {})}
    assert texts(plan(small(linux__memoryPolicy=given)), "MEMORY_POLICY") == [f"memory policy {mode} nodes 1,3,4" + (f" [{flag}]" if flag else "")]
