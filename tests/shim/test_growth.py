# SPDX-License-Identifier: Apache-2.0
"""Execs under containerd, one after the other: the server's and the monitor's descriptors stay the same, and so does their memory.

WHERRY_EXECS=1000 in the environment for a long run, which prints what it measured.
"""

import os
import re
import time
from pathlib import Path

import pytest

from .daemon import Daemon, wait_until

pytestmark = pytest.mark.requires("root")
EXECS = int(os.environ.get("WHERRY_EXECS", "60"))
WARM = 20
"""Until then plans, caches and what Python puts on first use may still come."""
ALLOWED = {"server": 96, "monitor": 8}
"""KiB from the first measurement to the last: a growth by 1 KiB for each exec is seen in a long run, an allocator that takes a page more is none."""


def memory(pid: int) -> int:
    """KiB, whether a zygote shares them or has gone meanwhile."""
    return int(re.search(r"^Anonymous: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])


def monitor_of(name: str) -> int:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"wherry-monitor" and name.encode() in words:
            return int(pid)
    raise AssertionError("no monitor")


def test_execs(daemon: Daemon, name: str) -> None:
    daemon.detached(name, "sleep", "10000")
    pids = {"server": daemon.shim(name), "monitor": monitor_of(name)}
    samples: list[dict[str, tuple[int, int]]] = []

    def descriptors(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    def execute(count: int) -> None:
        for _ in range(count):
            execute.number += 1
            # each is one of its own, as users' are; every third is a probe's, the same again
            words = ["true"] if execute.number % 3 == 0 else ["sh", "-c", f"exit {execute.number % 5}"]
            done = daemon.ctr("task", "exec", "--exec-id", f"e{execute.number}", name, *words, check=False)
            assert done.returncode == (0 if execute.number % 3 == 0 else execute.number % 5), done.stderr

    execute.number = 0
    execute(WARM)
    time.sleep(0.5)  # ctr's last connection, and the monitor's last helper, are about to end
    first = {who: descriptors(pid) for who, pid in pids.items()}
    for _ in range(4):
        samples.append({who: (descriptors(pid), memory(pid)) for who, pid in pids.items()})
        execute((EXECS - WARM) // 4)
    for who, pid in pids.items():
        wait_until(lambda pid=pid, who=who: descriptors(pid) == first[who], f"{first[who]} descriptors of the {who}: {descriptors(pid)}", 5)
    samples.append({who: (descriptors(pid), memory(pid)) for who, pid in pids.items()})
    print(*samples, sep="\n")
    for who, pid in pids.items():
        assert samples[-1][who][1] - samples[0][who][1] <= ALLOWED[who], samples
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
    assert sorted(path.name for path in Path(f"/run/containerd/wherry/default/{name}").iterdir() if path.name.startswith("exit")) == []
