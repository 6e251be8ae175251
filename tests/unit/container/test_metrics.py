# SPDX-License-Identifier: Apache-2.0
"""What stats makes of samples: sizes, rows, Prometheus text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from wherry.cli.stats import table
from wherry.container.metrics import COLUMNS, Sample, duration, prometheus, row, size
from wherry.container.stats import stats_of

M = 1 << 20


def sample(id: str = "web", cpu: int = 2_500_000_000, at: float = 10.0, **memory: Any) -> Sample:
    data: dict[str, Any] = stats_of([])  # of no cgroup at all: every key, with nothing in it
    data["cpu"]["usage"] = {"total": cpu, "user": cpu, "kernel": 0}
    data["memory"]["usage"] |= {"usage": 16 * M, "limit": 64 * M, "max": 20 * M, **memory}
    data["pids"] = {"current": 3, "limit": 50}
    data["blkio"] = {
        "ioServiceBytesRecursive": [
            {"major": 8, "minor": 0, "op": "Read", "value": 4096}, {"major": 8, "minor": 16, "op": "Read", "value": 4096},
            {"major": 8, "minor": 0, "op": "Write", "value": 3 * M}, {"major": 8, "minor": 0, "op": "Total", "value": 9},
        ]
    }  # fmt: skip
    return Sample(id, "running", data, 2, at)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (1536 * 1024, "1.5M"), (200 * M, "200M"), (1 << 60, "1024P")])
def test_sizes(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0.00s"), (9.999, "10.00s"), (12.34, "12.3s"), (187, "3m07s"), (18120, "5h02m")])
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text


def test_a_row() -> None:
    now, before = sample(), sample(cpu=1_500_000_000, at=8.0)
    assert row(now, before) == ["web", "running", "50.0", "2.50s", "16.0M", "64.0M", "25.0", "3/50", "8.0K", "3.0M", "2"]
    assert row(now, None)[2] == ""
    assert len(row(now, None)) == len(COLUMNS)


@pytest.mark.parametrize("limit", [(1 << 64) - 1, 9223372036854771712, 0])
def test_no_limit(limit: int) -> None:
    assert row(sample(limit=limit), None)[5:7] == ["none", ""]
    assert "memory_limit_bytes" not in prometheus([sample(limit=limit)])


def test_the_table_lines_up() -> None:
    lines = table([sample(), sample("a-long-name")], []).splitlines()
    assert len({line.index("running") for line in lines[1:]} | {lines[0].index("STATUS")}) == 1
    assert lines[2].startswith("a-long-name  running")


def test_prometheus() -> None:
    one, two = sample(), sample("b")
    one.data["memory"]["psi"] = {"some": {"avg10": 0.0, "total": 1_500_000}}
    text = prometheus([one, two])
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['wherry_cpu_usage_seconds_total{id="web"}'] == "2.5"
    assert values['wherry_memory_usage_bytes{id="b"}'] == str(16 * M)
    assert values['wherry_io_bytes_total{id="web",device="8:0",operation="write"}'] == str(3 * M)
    assert values['wherry_pressure_seconds_total{id="web",resource="memory",kind="some"}'] == "1.5"
    assert values['wherry_oom_kills_total{id="web"}'] == "2"
    names = re.findall(r"# TYPE (\S+) (counter|gauge)", text)
    assert len(names) == len({name for name, _ in names}), "each metric once, with all containers below it"
    assert all((kind == "counter") == name.endswith("_total") for name, kind in names)
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) wherry_\w+ .+|wherry_\w+\{(\w+="[^"]*",?)+\} [0-9.e+-]+', line)


def test_prometheus_of_nothing() -> None:
    assert prometheus([]) == ""
